"""Queries and databases of labelled codes for the tests of what is measured on them."""

from collections.abc import Callable

import numpy as np

from index.codes import hamming

Arguments = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
EVERY_RULE = [(ties, by) for ties in ("expected", "order") for by in ("min", "retrieved")]


def small_case(seed: int, queries: int = 4) -> Arguments:
    """Up to eight items on few distinct codes, so that nearly all of a ranking is ties."""
    rng = np.random.default_rng(seed)
    n, values = rng.integers(1, 9), np.array([0, 1, 7, 128], dtype=np.uint8)[: rng.integers(1, 5)]
    return (
        rng.choice(values, (queries, 1)),
        rng.integers(0, 3, queries),
        rng.choice(values, (n, 1)),
        rng.integers(0, 3, n),
    )


def large_case(seed: int, queries: int = 20, n: int = 300, bits: int = 24) -> Arguments:
    rng = np.random.default_rng(seed)
    centres, labels, wanted = rng.random((5, bits)) < 0.5, rng.integers(0, 5, n), rng.integers(0, 5, queries)

    def noisy(of: np.ndarray) -> np.ndarray:
        return np.packbits(centres[of] ^ (rng.random((len(of), bits)) < 0.25), axis=1)

    return noisy(wanted), wanted, noisy(labels), labels


def brute(arguments: Arguments, of: Callable[[list[int], list[bool]], float]) -> list[float]:
    query_codes, query_labels, codes, labels = arguments
    distances = hamming(query_codes, codes).tolist()
    return [of(row, (labels == label).tolist()) for row, label in zip(distances, query_labels, strict=True)]
