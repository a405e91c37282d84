"""Average precision of real-valued descriptors ranked by cosine: what their codes lose against them."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from index.conventions import Denominator
from index.evaluation import EXPECTED, harmonic_numbers
from index.hamming import CELLS
from index.rankings import Counts, Floats, Groups, Labels, by_label, check_choice, check_k

Cut = tuple[int | None, Denominator]  # (k, denominator), as in `average_precision`
Vectors = NDArray[np.floating[Any]]  # (n, d)
Float32s = NDArray[np.float32]


def average_precision_of_vectors(
    query_vectors: Vectors,
    query_labels: Labels,
    database_vectors: Vectors,
    database_labels: Labels,
    *,
    cuts: Sequence[Cut] = ((None, "min"),),
) -> Floats:
    """Average precision of each query at each (k, denominator) of `cuts`: (cuts, q).

    `average_precision` for descriptors (q, d) and (n, d) ranked by cosine, in 32 bits; a vector of
    zeros has cosine 0 with all. Equal cosines are ties and count with their exact expectation, but
    equal vectors may differ in the last bit of theirs. Sorting is most of the work and is done once,
    whatever the number of cuts.
    """
    database, queries = _unit("database_vectors", database_vectors), _unit("query_vectors", query_vectors)
    if queries.shape[1] != database.shape[1]:
        raise ValueError(f"query_vectors have {queries.shape[1]} dimensions; wanted {database.shape[1]}")
    size = len(database)
    order, bounds = by_label(query_labels, len(queries), database_labels, size)
    for _, denominator in cuts:
        check_choice("denominator", denominator, get_args(Denominator))
    ks = [check_k(k, size) for k, _ in cuts]
    database = database[order]
    harmonic = harmonic_numbers(size)
    result = np.empty((len(cuts), len(queries)))
    step = max(1, 4 * CELLS // max(size, 1))  # a matrix product wants more rows than a cache holds
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        # negated, so that the best come first in ascending order
        rows = zip(-queries[block] @ database.T, bounds[block], strict=True)
        for query, (row, stretch) in enumerate(rows, start):
            items, relevant, before, relevant_before = _relevant_groups(row, stretch)
            for cut, k in enumerate(ks):
                taken = np.clip(k - before, 0, items)
                groups = Groups(items, relevant, before, relevant_before, taken)
                result[cut, query] = EXPECTED[cuts[cut][1]](groups, harmonic, k)[0]
    return result


def _relevant_groups(row: Float32s, stretch: slice) -> tuple[Counts, Counts, Counts, Counts]:
    """Items, relevant, items before and relevant before of each group with a relevant item, all (1, g).

    `row` (n,), smallest first in the ranking, is sorted in place.
    """
    relevant = np.sort(row[stretch])
    row.sort()
    first = np.concatenate([[True], relevant[1:] != relevant[:-1]])[: len(relevant)]
    relevant_before = np.flatnonzero(first)
    values = relevant[relevant_before]
    before = row.searchsorted(values)
    items = row.searchsorted(values, "right") - before
    counts = np.diff(relevant_before, append=len(relevant))
    return items[None], counts[None], before[None], relevant_before[None]


def _unit(name: str, vectors: Vectors) -> Float32s:
    """The vectors (n, d) at length 1, zeros left alone. ValueError unless they are finite floats."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise ValueError(f"{name} have type {vectors.dtype} and shape {vectors.shape}; wanted floats (n, d)")
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))[:, None]
    if not np.isfinite(lengths).all():
        raise ValueError(f"{name} hold values that are not finite")
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
