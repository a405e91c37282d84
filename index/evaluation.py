"""How good a ranking is: average precision and precision at k.

Codes collide, so most of a ranking is ties. With `ties="expected"` every figure is its exact
expectation over random orders inside each group of equal distance; `"order"` takes the order of the
database. Relevant = same label. Unlabelled items have no place here: leave them out.

`arrays`, shared by all functions, are query_codes (q, bits/8), query_labels (q,), database_codes
(n, bits/8) and database_labels (n,): codes are uint8, ranked by Hamming distance; labels are integers from 0.
"""

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes
from index.conventions import Denominator, Ties
from index.rankings import Arrays, Counts, Floats, Groups, Labels, Rankings, check_choice, check_k


def average_precision(
    *arrays: *Arrays, k: int | None = None, ties: Ties = "expected", denominator: Denominator = "min"
) -> Floats:
    """Average precision of each query (q,), NaN where no item of the database is relevant.

    AP = Σ precision at each relevant item in the top k, divided by min(R, k), R = relevant items in
    the database ("min"), or by the relevant items found in the top k ("retrieved"; 0 where none
    is). k = None, or larger than the database, ranks all of it. ValueError for arguments that are
    off.
    """
    rankings = Rankings(*arrays)
    k = check_k(k, rankings.size)
    check_choice("ties", ties, get_args(Ties))
    check_choice("denominator", denominator, get_args(Denominator))
    parts = [np.empty(0)]
    if ties == "order":
        parts += [_ordered(ranks, k, denominator) for ranks in rankings.relevant_ranks()]
    else:
        harmonic = harmonic_numbers(rankings.size)
        expected = EXPECTED[denominator]
        parts += [expected(groups, harmonic, k) for groups in rankings.groups(k)]
    return np.concatenate(parts)


def headline(*arrays: *Arrays) -> dict[str, float]:
    """The figures that a manifest states of held-out queries; none where no query has a relevant item."""
    _, asked, _, ranked = arrays
    if not np.isin(asked, ranked).any():
        return {}
    return {
        "map": mean_average_precision(*arrays),
        "map_at_100": mean_average_precision(*arrays, k=100),
        "map_at_100_retrieved": mean_average_precision(*arrays, k=100, denominator="retrieved"),
    }


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
    arrays = query_codes, query_labels, database_codes, database_labels
    values = average_precision(*arrays, k=k, ties=ties, denominator=denominator)
    counted = values[~np.isnan(values)]
    if not len(counted):
        raise ValueError(f"none of {len(values)} queries has a relevant item in the database")
    return float(counted.mean())


def average_precision_at_random(
    query_labels: Labels, database_labels: Labels, *, k: int | None = None, denominator: Denominator = "min"
) -> Floats:
    """Expected average precision of each query (q,) where the database is ranked at random.

    One group of ties: what `average_precision` makes of codes that are all equal.
    """
    labels, rows = np.unique(query_labels, return_inverse=True)
    equal = [np.zeros((len(each), 1), np.uint8) for each in (labels, database_labels)]
    values = average_precision(equal[0], labels, equal[1], database_labels, k=k, denominator=denominator)
    return values[rows]


def precision_at_k(*arrays: *Arrays, k: int, ties: Ties = "expected") -> Floats:
    """Share of relevant items among the top k of each query (q,). A smaller database is all of k."""
    rankings = Rankings(*arrays)
    k = check_k(k, rankings.size)
    check_choice("ties", ties, get_args(Ties))
    parts = [np.empty(0)]
    if ties == "order":
        found = rankings.relevant_ranks()
        parts += [np.array([np.count_nonzero(ranks <= k) / max(k, 1)]) for ranks in found]
    else:
        parts += [groups.relevant_taken().sum(axis=1) / max(k, 1) for groups in rankings.groups(k)]
    return np.concatenate(parts)


def harmonic_numbers(n: int) -> NDArray[np.longdouble]:
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


def _sums(groups: Groups, harmonic: NDArray[np.longdouble]) -> tuple[Floats, Floats]:
    """s1 = H_{N+m} − H_N and s2 = Σ (1 − (N+1)/(N+i)) = m − (N+1)·s1 of every group."""
    s1 = harmonic[groups.before + groups.taken] - harmonic[groups.before]
    s2 = groups.taken - (groups.before + 1) * s1
    return s1.astype(np.float64), s2.astype(np.float64)


def _expected(groups: Groups, harmonic: NDArray[np.longdouble], k: int) -> Floats:
    """Expected AP over min(R, k), (queries,)."""
    s1, s2 = _sums(groups, harmonic)
    gain = _gain(groups.relevant, groups.items, groups.relevant_before, s1, s2)
    total = groups.relevant.sum(axis=1)
    return np.where(total > 0, gain.sum(axis=1) / np.maximum(np.minimum(total, k), 1), np.nan)


def _expected_of_retrieved(groups: Groups, harmonic: NDArray[np.longdouble], k: int) -> Floats:
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


# Each takes (groups, harmonic_numbers(database), k).
EXPECTED = {"min": _expected, "retrieved": _expected_of_retrieved}


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
