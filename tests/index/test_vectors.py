import numpy as np
import pytest

from index.evaluation import average_precision
from index.vectors import average_precision_of_vectors
from tests import reference
from tests.index.labelled_codes import Arguments, large_case


def every_cut(n: int) -> list[tuple[int | None, str]]:
    return [(k, by) for k in (*range(1, n + 2), None) for by in ("min", "retrieved")]


def tied_vectors(seed: int) -> Arguments:
    """Up to eight vectors of four signs, so that cosines are exact and mostly ties; some are zero."""
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 9)

    def draw(count: int) -> np.ndarray:
        return (rng.choice([-1, 1], (count, 4)) * (rng.random((count, 1)) < 0.9)).astype(np.float32)

    return draw(5), rng.integers(0, 3, 5), draw(n), rng.integers(0, 3, n)


def real_vectors(queries: int = 20, n: int = 300, d: int = 16) -> Arguments:
    rng = np.random.default_rng(6)
    centres, labels, wanted = rng.standard_normal((5, d)), rng.integers(0, 5, n), rng.integers(0, 6, queries)
    centres = np.concatenate([centres, np.zeros((1, d))])  # class 5 is not in the database

    def noisy(of: np.ndarray) -> np.ndarray:
        return np.tanh(centres[of] + rng.standard_normal((len(of), d))).astype(np.float32)

    return noisy(wanted), wanted, noisy(labels), labels


def brute_vectors(arguments: Arguments, cuts: list[tuple[int | None, str]], ties: str) -> list[list[float]]:
    queries, query_labels, vectors, labels = arguments
    expected = []
    for k, denominator in cuts:
        expected.append([])
        for query, label in zip(queries.tolist(), query_labels, strict=True):
            distances = [-reference.cosine(query, vector) for vector in vectors.tolist()]
            flags, top = (labels == label).tolist(), k or len(vectors)
            expected[-1].append(
                reference.average_precision(distances, flags, top, ties=ties, denominator=denominator)
            )
    return expected


@pytest.mark.parametrize("seed", range(25))
def test_vectors_with_ties_give_the_mean_over_all_orders(seed: int) -> None:
    arguments = tied_vectors(seed)
    cuts = every_cut(len(arguments[2]))
    got = average_precision_of_vectors(*arguments, cuts=cuts)
    np.testing.assert_allclose(got, brute_vectors(arguments, cuts, "expected"), rtol=1e-12)


def test_vectors_are_ranked_by_cosine() -> None:
    arguments = real_vectors()
    cuts = [(None, "min"), (60, "min"), (60, "retrieved"), (10, "retrieved"), (1000, "retrieved")]
    got = average_precision_of_vectors(*arguments, cuts=cuts)
    expected = brute_vectors(arguments, cuts, "order")
    assert np.isnan(expected).any() and not np.isnan(expected).all()
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    queries, query_labels, vectors, labels = arguments
    lengths = np.random.default_rng(0).uniform(1e-30, 1e30, (len(vectors), 1))
    stretched = average_precision_of_vectors(queries * 7, query_labels, vectors * lengths, labels, cuts=cuts)
    np.testing.assert_allclose(stretched, got, rtol=1e-12)
    np.testing.assert_array_equal(average_precision_of_vectors(*arguments), got[:1])


def test_signs_rank_as_their_codes_do() -> None:
    """The cosine of two vectors of b signs is 1 − 2·distance/b."""
    query_codes, query_labels, codes, labels = arguments = large_case(7, bits=16)  # 1/√16 is exact
    query_signs, signs = (2.0 * np.unpackbits(each, axis=1) - 1 for each in (query_codes, codes))
    cuts = [(k, by) for k in (1, 40, None) for by in ("min", "retrieved")]
    got = average_precision_of_vectors(query_signs, query_labels, signs, labels, cuts=cuts)
    expected = [average_precision(*arguments, k=k, denominator=by) for k, by in cuts]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_vectors_in_blocks_equal_vectors_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = tied_vectors(1)
    at_once = average_precision_of_vectors(*arguments, cuts=every_cut(4))
    monkeypatch.setattr("index.vectors.CELLS", len(arguments[2]))  # 5 queries: 4 and 1
    np.testing.assert_array_equal(average_precision_of_vectors(*arguments, cuts=every_cut(4)), at_once)


def test_vectors_that_do_not_fit_are_refused() -> None:
    queries, query_labels, vectors, labels = real_vectors()
    broken = vectors.copy()
    broken[3, 3] = np.nan
    off = {
        "query_vectors have 15 dimensions; wanted 16": (queries[:, 1:], query_labels, vectors, labels),
        "query_labels have": (queries, query_labels[1:], vectors, labels),
        "database_labels hold -1; leave unlabelled": (queries, query_labels, vectors, labels - 1),
        "database_vectors have type bool .*wanted floats": (queries, query_labels, broken > 0, labels),
        r"query_vectors have type float32 and shape \(16,\)": (queries[0], query_labels, vectors, labels),
        "database_vectors hold values that are not finite": (queries, query_labels, broken, labels),
    }
    for fault, arguments in off.items():
        with pytest.raises(ValueError, match=fault):
            average_precision_of_vectors(*arguments)
    for cut, fault in (((0, "min"), "k is 0; wanted at least 1"), ((5, "max"), "denominator is 'max'")):
        with pytest.raises(ValueError, match=fault):
            average_precision_of_vectors(*real_vectors(), cuts=[cut])


def test_no_vectors_give_no_precision() -> None:
    queries, query_labels, vectors, labels = real_vectors()
    cuts = [(None, "min"), (3, "retrieved")]
    got = average_precision_of_vectors(queries, query_labels, vectors[:0], labels[:0], cuts=cuts)
    assert got.shape == (2, len(queries)) and np.isnan(got).all()
    got = average_precision_of_vectors(queries[:0], query_labels[:0], vectors, labels, cuts=cuts)
    assert got.shape == (2, 0)
