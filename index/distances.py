"""What a Hamming distance says: precision and recall within a radius, pairs by distance, nearest classes.

`arrays` are those of index/evaluation.py: query_codes (q, bits/8), query_labels (q,), database_codes
(n, bits/8) and database_labels (n,); codes are uint8, labels integers from 0.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from index.rankings import Arrays, Counts, Floats, Rankings


@dataclass(frozen=True)
class PrecisionRecall:
    """Means over the queries, at every Hamming radius."""

    radius: Counts  # (bits + 1,) 0 … bits, inclusive
    precision: Floats  # (bits + 1,)
    recall: Floats  # (bits + 1,)


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query and an item, counted by their Hamming distance, 0 … bits."""

    same_class: Counts  # (bits + 1,)
    other_class: Counts  # (bits + 1,)


def precision_recall_curve(*arrays: *Arrays) -> PrecisionRecall:
    """Precision and recall of everything within each Hamming radius, 0 to bits.

    Means over the queries that have a relevant item; ValueError if there is none. A query that
    finds nothing within a radius counts there with precision 0, as in hash look-up.
    """
    rankings = Rankings(*arrays)
    precision = recall = np.zeros(rankings.bits + 1)
    queries = 0
    for groups in rankings.groups(rankings.size):
        items, relevant = groups.items.cumsum(axis=1), groups.relevant.cumsum(axis=1)
        some = relevant[:, -1] > 0
        items, relevant = items[some], relevant[some]
        precision = precision + (relevant / np.maximum(items, 1)).sum(axis=0)
        recall = recall + (relevant / relevant[:, -1:]).sum(axis=0)
        queries += len(items)
    if not queries:
        raise ValueError("no query has a relevant item in the database")
    return PrecisionRecall(np.arange(rankings.bits + 1), precision / queries, recall / queries)


def pairs_by_distance(*arrays: *Arrays) -> Pairs:
    """How many pairs of a query and an item lie at each Hamming distance."""
    rankings = Rankings(*arrays)
    items = relevant = np.zeros(rankings.bits + 1, np.int64)
    for groups in rankings.groups(rankings.size):
        items, relevant = items + groups.items.sum(axis=0), relevant + groups.relevant.sum(axis=0)
    return Pairs(relevant, items - relevant)


def precision_by_distance(pairs: Pairs) -> Floats:
    """What share of the items at each Hamming distance is relevant (bits + 1,): what a distance is worth.

    The nearest curve to the shares, by squares weighted with the pairs, that never rises: nearer is not
    worse. A distance at which no pair lies has the value of the next larger one with pairs, or of the
    largest. ValueError if there are no pairs.
    """
    items = pairs.same_class + pairs.other_class
    there = np.flatnonzero(items)
    if not len(there):
        raise ValueError("there are no queries, or no items to rank")
    shares = never_rising(pairs.same_class[there] / items[there], items[there])
    return shares[np.minimum(np.searchsorted(there, np.arange(len(items))), len(there) - 1)]


def nearest_classes(*arrays: *Arrays) -> dict[tuple[int, int], float]:
    """How many queries of a class have their nearest item in a class, by both; what is none is not there, as
    tens of thousands of classes have more pairs than fit into memory.

    Where several items are nearest, each counts for an equal share of the query: the expectation over their
    random orders. ValueError for an empty database.
    """
    rankings = Rankings(*arrays)
    if not rankings.size:
        raise ValueError("there are no items to rank")
    counts, labels = defaultdict[tuple[int, int], float](float), rankings.labels
    rows = (row for distances, _ in rankings.distances() for row in distances)
    for label, row in zip(arrays[1], rows, strict=True):
        nearest, times = np.unique(labels[row == row.min()], return_counts=True)
        for other, share in zip(nearest.tolist(), (times / times.sum()).tolist(), strict=True):
            counts[int(label), other] += share
    return dict(counts)


def never_rising(values: Floats, weights: Counts) -> Floats:
    """The non-increasing sequence (n,) nearest to `values` (n,), by squares with these weights, all above 0.

    Neighbours that rise are pooled to their mean until none do: Ayer, Brunk, Ewing, Reid and Silverman,
    Annals of Mathematical Statistics 1955.
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, length = value, float(weight), 1
        while pools and pools[-1][0] < mean:
            before, more, count = pools.pop()
            mean = (before * more + mean * total) / (more + total)
            total, length = more + total, count + length
        pools.append((mean, total, length))
    return np.repeat([mean for mean, _, _ in pools], [length for _, _, length in pools])
