"""Rankings by Hamming distance of labelled queries and database: what all measures of them are made of.

The database is sorted by label, so that a query's relevant items lie side by side. Distances are worked
out in blocks, so that memory does not grow with the number of queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, check_codes
from index.hamming import CELLS, all_distances

Labels = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
# Query codes (q, bits/8), query labels (q,), database codes (n, bits/8) and database labels (n,).
Arrays = tuple[Codes, Labels, Codes, Labels]


@dataclass(frozen=True)
class Groups:
    """Rankings of some queries as groups of equal distance; arrays (queries, groups).

    Groups without a relevant item may be missing: they add nothing.
    """

    items: Counts  # n of each group
    relevant: Counts  # r
    before: Counts  # N, items at smaller distances
    relevant_before: Counts  # Rel
    taken: Counts  # m, how many of the group lie in the top k: all, some (the cut group) or none

    def relevant_taken(self) -> Floats:
        """Expected relevant items of each group in the top k."""
        return self.relevant * self.taken / np.maximum(self.items, 1)


class Rankings:
    """The rankings of all queries, worked out a bounded number of distances at a time.

    The database lies sorted by label here, so that a query's relevant items are one stretch of it and
    no label is ever compared with another.
    """

    def __init__(self, query_codes: Codes, query_labels: Labels, codes: Codes, labels: Labels):
        codes = check_codes(codes)
        self.size = len(codes)
        self.bits = 8 * codes.shape[1]
        if self.bits >= 2**14:
            raise ValueError(f"codes have {self.bits} bits; wanted fewer than {2**14}")
        self._queries = check_codes(query_codes, bits=self.bits)
        # _order: the position in the database of each column
        self._order, self._bounds = by_label(query_labels, len(query_codes), labels, self.size)
        self._codes = codes[self._order]
        self.labels = np.asarray(labels)[self._order]  # of each column

    def groups(self, k: int) -> Iterator[Groups]:
        """The groups of equal distance of some queries at a time, at all distances 0 to bits."""
        for distances, stretches in self.distances():
            rows = zip(distances, stretches, strict=True)
            # row by row: bincount widens its input, and one row stays in the cache
            counts = np.array([(self._counts(row), self._counts(row[stretch])) for row, stretch in rows])
            items, relevant = counts[:, 0], counts[:, 1]
            before, relevant_before = items.cumsum(axis=1) - items, relevant.cumsum(axis=1) - relevant
            yield Groups(items, relevant, before, relevant_before, np.clip(k - before, 0, items))

    def relevant_ranks(self) -> Iterator[Counts]:
        """For each query the ranks, from 1, of its relevant items, ties in database order."""
        largest = (self.bits + 1) * 2 * self.size
        key = np.min_scalar_type(-largest).type
        # distance, then position, then relevance in one number: sorting that is several times faster
        # than finding the order of the distances
        places = 2 * self._order.astype(key) + key(1)
        for distances, stretches in self.distances():
            for row, stretch in zip(distances, stretches, strict=True):
                ranked = row * key(2 * self.size) + places
                ranked[stretch] -= key(1)
                ranked.sort()
                yield np.flatnonzero(ranked & 1 == 0) + 1

    def distances(self) -> Iterator[tuple[NDArray[np.int32], list[slice]]]:
        """Blocks of distances (rows, n), with the stretch of relevant columns of each row."""
        step = max(1, CELLS // max(self.size, 1))
        for start in range(0, len(self._queries), step):
            rows = slice(start, start + step)
            yield all_distances(self._queries[rows], self._codes), self._bounds[rows]

    def _counts(self, distances: NDArray[np.int32]) -> Counts:
        """Items at each distance (bits + 1,)."""
        return np.bincount(distances, minlength=self.bits + 1)


def by_label(query_labels: Labels, q: int, labels: Labels, n: int) -> tuple[Counts, list[slice]]:
    """The order (n,) that sorts the database by label, and the stretch of it relevant to each query."""
    labels = check_labels("database_labels", labels, n)
    wanted = check_labels("query_labels", query_labels, q)
    order = np.argsort(labels, kind="stable")
    labels = labels[order]
    bounds = zip(labels.searchsorted(wanted, "left"), labels.searchsorted(wanted, "right"), strict=True)
    return order, [slice(first, end) for first, end in bounds]


def check_k(k: int | None, size: int) -> int:
    """How many items the top k are where there are `size`. ValueError for k < 1."""
    if k is not None and k < 1:
        raise ValueError(f"k is {k}; wanted at least 1, or None for the whole database")
    return size if k is None else min(k, size)


def check_labels(name: str, labels: Labels, n: int) -> Counts:
    """The labels (n,) in 64 bits. ValueError unless they are n integers from 0."""
    labels = np.asarray(labels)
    if labels.shape != (n,) or (n and labels.dtype.kind not in "iu"):
        raise ValueError(f"{name} have type {labels.dtype} and shape {labels.shape}; wanted integers ({n},)")
    if n and labels.min() < 0:
        raise ValueError(f"{name} hold {labels.min()}; leave unlabelled items out")
    return labels.astype(np.int64)


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; wanted one of {', '.join(allowed)}")
