"""How good a ranking is: average precision, precision at k, precision/recall.

Codes collide, so most of a ranking is ties. With `ties="expected"` every figure is its exact
expectation over random orders inside each group of equal distance; `"order"` takes the order of the
database. Relevant = same label. Unlabelled items have no place here: leave them out.

Arguments shared by all functions: query_codes (q, bits/8) and database_codes (n, bits/8), uint8, are
ranked by Hamming distance; query_labels (q,) and database_labels (n,), integers from 0.
`average_precision_of_vectors` ranks real-valued descriptors, to see what their codes lose.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, check_codes
from index.conventions import Denominator, Ties
from index.hamming import CELLS, all_distances

Labels = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Cut = tuple[int | None, Denominator]  # (k, denominator), as in `average_precision`
Vectors = NDArray[np.floating[Any]]  # (n, d)
Float32s = NDArray[np.float32]


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


def average_precision(
    query_codes: Codes,
    query_labels: Labels,
    database_codes: Codes,
    database_labels: Labels,
    *,
    k: int | None = None,
    ties: Ties = "expected",
    denominator: Denominator = "min",
) -> Floats:
    """Average precision of each query (q,), NaN where no item of the database is relevant.

    AP = Σ precision at each relevant item in the top k, divided by min(R, k), R = relevant items in
    the database ("min"), or by the relevant items found in the top k ("retrieved"; 0 where none
    is). k = None, or larger than the database, ranks all of it. ValueError for arguments that are
    off.
    """
    rankings = _Rankings(query_codes, query_labels, database_codes, database_labels)
    k = rankings.cut(k)
    _check_choice("ties", ties, get_args(Ties))
    _check_choice("denominator", denominator, get_args(Denominator))
    parts = [np.empty(0)]
    if ties == "order":
        parts += [_ordered(ranks, k, denominator) for ranks in rankings.relevant_ranks()]
    else:
        harmonic = _harmonic(rankings.size)
        expected = _EXPECTED[denominator]
        parts += [expected(groups, harmonic, k) for groups in rankings.groups(k)]
    return np.concatenate(parts)


def mean_average_precision(
    query_codes: Codes,
    query_labels: Labels,
    database_codes: Codes,
    database_labels: Labels,
    *,
    k: int | None = None,
    ties: Ties = "expected",
    denominator: Denominator = "min",
) -> float:
    """Mean of `average_precision` over the queries that have a relevant item. ValueError if none."""
    values = average_precision(
        query_codes,
        query_labels,
        database_codes,
        database_labels,
        k=k,
        ties=ties,
        denominator=denominator,
    )
    counted = values[~np.isnan(values)]
    if not len(counted):
        raise ValueError(f"none of {len(values)} queries has a relevant item in the database")
    return float(counted.mean())


def average_precision_at_random(
    query_labels: Labels,
    database_labels: Labels,
    *,
    k: int | None = None,
    denominator: Denominator = "min",
) -> Floats:
    """Expected average precision of each query (q,) where the database is ranked at random.

    One group of ties: what `average_precision` makes of codes that are all equal.
    """
    labels, rows = np.unique(query_labels, return_inverse=True)
    equal = [np.zeros((len(each), 1), np.uint8) for each in (labels, database_labels)]
    values = average_precision(equal[0], labels, equal[1], database_labels, k=k, denominator=denominator)
    return values[rows]


def precision_at_k(
    query_codes: Codes,
    query_labels: Labels,
    database_codes: Codes,
    database_labels: Labels,
    *,
    k: int,
    ties: Ties = "expected",
) -> Floats:
    """Share of relevant items among the top k of each query (q,). A smaller database is all of k."""
    rankings = _Rankings(query_codes, query_labels, database_codes, database_labels)
    k = rankings.cut(k)
    _check_choice("ties", ties, get_args(Ties))
    parts = [np.empty(0)]
    if ties == "order":
        found = rankings.relevant_ranks()
        parts += [np.array([np.count_nonzero(ranks <= k) / max(k, 1)]) for ranks in found]
    else:
        parts += [groups.relevant_taken().sum(axis=1) / max(k, 1) for groups in rankings.groups(k)]
    return np.concatenate(parts)


def precision_recall_curve(
    query_codes: Codes,
    query_labels: Labels,
    database_codes: Codes,
    database_labels: Labels,
) -> PrecisionRecall:
    """Precision and recall of everything within each Hamming radius, 0 to bits.

    Means over the queries that have a relevant item; ValueError if there is none. A query that
    finds nothing within a radius counts there with precision 0, as in hash look-up.
    """
    rankings = _Rankings(query_codes, query_labels, database_codes, database_labels)
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


def pairs_by_distance(
    query_codes: Codes,
    query_labels: Labels,
    database_codes: Codes,
    database_labels: Labels,
) -> Pairs:
    """How many pairs of a query and an item lie at each Hamming distance."""
    rankings = _Rankings(query_codes, query_labels, database_codes, database_labels)
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


def nearest_classes(
    query_codes: Codes,
    query_labels: Labels,
    database_codes: Codes,
    database_labels: Labels,
) -> dict[tuple[int, int], float]:
    """How many queries of a class have their nearest item in a class, by both; what is none is not there, as
    tens of thousands of classes have more pairs than fit into memory.

    Where several items are nearest, each counts for an equal share of the query: the expectation over their
    random orders. ValueError for an empty database.
    """
    rankings = _Rankings(query_codes, query_labels, database_codes, database_labels)
    if not rankings.size:
        raise ValueError("there are no items to rank")
    counts, labels = defaultdict[tuple[int, int], float](float), rankings.labels
    rows = (row for distances, _ in rankings.distances() for row in distances)
    for label, row in zip(query_labels, rows, strict=True):
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


def precision_within_radius(
    query_codes: Codes,
    query_labels: Labels,
    database_codes: Codes,
    database_labels: Labels,
    *,
    radius: int = 2,
) -> float:
    """Precision of everything at Hamming distance <= radius: one value of `precision_recall_curve`."""
    if radius < 0:
        raise ValueError(f"radius is {radius}; wanted at least 0")
    curve = precision_recall_curve(query_codes, query_labels, database_codes, database_labels)
    return float(curve.precision[min(radius, len(curve.precision) - 1)])


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
    order, bounds = _stretches(query_labels, len(queries), database_labels, size)
    for _, denominator in cuts:
        _check_choice("denominator", denominator, get_args(Denominator))
    ks = [_check_k(k, size) for k, _ in cuts]
    database = database[order]
    harmonic = _harmonic(size)
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
                groups = _Groups(items, relevant, before, relevant_before, taken)
                result[cut, query] = _EXPECTED[cuts[cut][1]](groups, harmonic, k)[0]
    return result


@dataclass(frozen=True)
class _Groups:
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


class _Rankings:
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
        self._order, self._bounds = _stretches(query_labels, len(query_codes), labels, self.size)
        self._codes = codes[self._order]
        self.labels = np.asarray(labels)[self._order]  # of each column

    def cut(self, k: int | None) -> int:
        return _check_k(k, self.size)

    def groups(self, k: int) -> Iterator[_Groups]:
        for distances, stretches in self.distances():
            rows = zip(distances, stretches, strict=True)
            items, relevant = np.moveaxis(
                # row by row: bincount widens its input, and one row stays in the cache
                np.array([(self._counts(row), self._counts(row[stretch])) for row, stretch in rows]),
                1,
                0,
            )
            before = items.cumsum(axis=1) - items
            yield _Groups(
                items,
                relevant,
                before,
                relevant.cumsum(axis=1) - relevant,
                np.clip(k - before, 0, items),
            )

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

    def _counts(self, distances: NDArray[np.int32]) -> Counts:
        """Items at each distance (bits + 1,)."""
        return np.bincount(distances, minlength=self.bits + 1)

    def distances(self) -> Iterator[tuple[NDArray[np.int32], list[slice]]]:
        """Blocks of distances (rows, n), with the stretch of relevant columns of each row."""
        step = max(1, CELLS // max(self.size, 1))
        for start in range(0, len(self._queries), step):
            rows = slice(start, start + step)
            yield all_distances(self._queries[rows], self._codes), self._bounds[rows]


def _stretches(query_labels: Labels, q: int, labels: Labels, n: int) -> tuple[Counts, list[slice]]:
    """The order (n,) that sorts the database by label, and the stretch of it relevant to each query."""
    labels = _check_labels("database_labels", labels, n)
    wanted = _check_labels("query_labels", query_labels, q)
    order = np.argsort(labels, kind="stable")
    labels = labels[order]
    bounds = zip(labels.searchsorted(wanted, "left"), labels.searchsorted(wanted, "right"), strict=True)
    return order, [slice(first, end) for first, end in bounds]


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


def _harmonic(n: int) -> NDArray[np.longdouble]:
    """H_0 … H_n. Extended precision, because differences of neighbours are what is used."""
    steps = np.arange(n + 1, dtype=np.longdouble)
    steps[1:] = 1 / steps[1:]
    return steps.cumsum()


def _gain(
    relevant: Counts,
    items: Counts | np.int64,
    relevant_before: Counts | np.int64,
    s1: Floats | np.float64,
    s2: Floats | np.float64,
) -> Floats:
    """Expected sum of the precisions at a group's relevant items, over its first m places.

    Σ_{i=1..m} (r/n)(Rel + 1 + (i−1)(r−1)/(n−1)) / (N+i) = (r/n)((Rel+1)·s1 + (r−1)/(n−1)·s2)
    with s1 = Σ 1/(N+i) and s2 = Σ (i−1)/(N+i): McSherry and Najork, "Computing information
    retrieval performance measures efficiently in the presence of tied scores", ECIR 2008.
    """
    share = relevant / np.maximum(items, 1)
    return share * ((relevant_before + 1) * s1 + (relevant - 1) / np.maximum(items - 1, 1) * s2)


def _sums(groups: _Groups, harmonic: NDArray[np.longdouble]) -> tuple[Floats, Floats]:
    """s1 = H_{N+m} − H_N and s2 = Σ (1 − (N+1)/(N+i)) = m − (N+1)·s1 of every group."""
    s1 = harmonic[groups.before + groups.taken] - harmonic[groups.before]
    s2 = groups.taken - (groups.before + 1) * s1
    return s1.astype(np.float64), s2.astype(np.float64)


def _expected(groups: _Groups, harmonic: NDArray[np.longdouble], k: int) -> Floats:
    """Expected AP over min(R, k), (queries,)."""
    s1, s2 = _sums(groups, harmonic)
    gain = _gain(groups.relevant, groups.items, groups.relevant_before, s1, s2)
    total = groups.relevant.sum(axis=1)
    return np.where(total > 0, gain.sum(axis=1) / np.maximum(np.minimum(total, k), 1), np.nan)


def _expected_of_retrieved(groups: _Groups, harmonic: NDArray[np.longdouble], k: int) -> Floats:
    """Expected AP over the relevant items found in the top k, (queries,).

    Their number X is random inside the group that the cut falls in, where m of n items are looked
    at: it is hypergeometric. Given X = x those m places are a group of their own, of m items with
    x relevant.
    """
    s1, s2 = _sums(groups, harmonic)
    gain = _gain(groups.relevant, groups.items, groups.relevant_before, s1, s2)
    found = np.where(groups.taken > 0, groups.relevant, 0).sum(axis=1)
    result = gain.sum(axis=1) / np.maximum(found, 1)
    for cut in np.argwhere((groups.taken > 0) & (groups.taken < groups.items)):
        row, group = cut
        n, r, m = groups.items[row, group], groups.relevant[row, group], groups.taken[row, group]
        before = groups.relevant_before[row, group]
        x, probability = _hypergeometric(n, r, m)
        inside = _gain(x, m, before, s1[row, group], s2[row, group])
        total = gain[row, :group].sum() + inside
        result[row] = (probability * total / np.maximum(before + x, 1)).sum()
    return np.where(groups.relevant.sum(axis=1) > 0, result, np.nan)


_EXPECTED = {"min": _expected, "retrieved": _expected_of_retrieved}


def _hypergeometric(n: int, r: int, m: int) -> tuple[Counts, Floats]:
    """Possible numbers x of relevant items among m of n items with r relevant, and P(x).

    From the ratios P(x+1)/P(x) = (r−x)(m−x) / ((x+1)(n−r−m+x+1)), which no factorial overflows.
    """
    x = np.arange(max(0, m - (n - r)), min(r, m) + 1)
    low = x[:-1]
    steps = np.log((r - low) * (m - low)) - np.log((low + 1) * (n - r - m + low + 1))
    logs = np.concatenate([[0.0], steps.cumsum()])
    weights = np.exp(logs - logs.max())
    return x, weights / weights.sum()


def _ordered(ranks: Counts, k: int, denominator: Denominator) -> Floats:
    """AP (1,) of one ranking from the ranks of its relevant items, ascending from 1."""
    top = ranks[ranks <= k]
    precisions = np.arange(1, len(top) + 1) / top
    divisor = min(len(ranks), k) if denominator == "min" else max(len(top), 1)
    return np.array([precisions.sum() / divisor if len(ranks) else np.nan])


def _unit(name: str, vectors: Vectors) -> Float32s:
    """The vectors (n, d) at length 1, zeros left alone. ValueError unless they are finite floats."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise ValueError(f"{name} have type {vectors.dtype} and shape {vectors.shape}; wanted floats (n, d)")
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))[:, None]
    if not np.isfinite(lengths).all():
        raise ValueError(f"{name} hold values that are not finite")
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _check_k(k: int | None, size: int) -> int:
    if k is not None and k < 1:
        raise ValueError(f"k is {k}; wanted at least 1, or None for the whole database")
    return size if k is None else min(k, size)


def _check_labels(name: str, labels: Labels, n: int) -> Counts:
    labels = np.asarray(labels)
    if labels.shape != (n,) or (n and labels.dtype.kind not in "iu"):
        raise ValueError(f"{name} have type {labels.dtype} and shape {labels.shape}; wanted integers ({n},)")
    if n and labels.min() < 0:
        raise ValueError(f"{name} hold {labels.min()}; leave unlabelled items out")
    return labels.astype(np.int64)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; wanted one of {', '.join(allowed)}")
