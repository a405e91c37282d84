import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from index import evaluation
from index.codes import hamming
from index.evaluation import (
    average_precision,
    average_precision_at_random,
    average_precision_of_vectors,
    mean_average_precision,
    nearest_classes,
    never_rising,
    pairs_by_distance,
    precision_at_k,
    precision_by_distance,
    precision_recall_curve,
    precision_within_radius,
)
from tests import reference

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


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(("ties", "denominator"), EVERY_RULE)
def test_average_precision_is_the_mean_over_all_orders(seed: int, ties: str, denominator: str) -> None:
    arguments = small_case(seed)
    n = len(arguments[2])
    for k in (*range(1, n + 2), None):
        expected = brute(
            arguments,
            lambda row, flags, k=k: reference.average_precision(
                row, flags, k or len(row), ties=ties, denominator=denominator
            ),
        )
        got = average_precision(*arguments, k=k, ties=ties, denominator=denominator)
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("ties", ["expected", "order"])
def test_precision_is_the_mean_over_all_orders(seed: int, ties: str) -> None:
    arguments = small_case(seed)
    for k in range(1, len(arguments[2]) + 2):
        expected = brute(arguments, lambda row, flags, k=k: reference.precision(row, flags, k, ties=ties))
        np.testing.assert_allclose(precision_at_k(*arguments, k=k, ties=ties), expected, rtol=1e-12)


@pytest.mark.parametrize("denominator", ["min", "retrieved"])
@pytest.mark.parametrize("k", [1, 10, 77, None])
def test_many_random_orders_average_to_the_expectation(denominator: str, k: int | None) -> None:
    query_codes, query_labels, codes, labels = arguments = large_case(1, queries=5, bits=8)
    rng = np.random.default_rng(0)
    total, squares, n = np.zeros(5), np.zeros(5), 2000
    for _ in range(n):
        order = rng.permutation(len(codes))
        values = average_precision(
            query_codes, query_labels, codes[order], labels[order], k=k, ties="order", denominator=denominator
        )
        total, squares = total + values, squares + values**2
    error = np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0) / n)
    got = average_precision(*arguments, k=k, denominator=denominator)
    assert np.all(np.abs(got - total / n) <= 5 * error + 1e-12)


@pytest.mark.parametrize("denominator", ["min", "retrieved"])
@pytest.mark.parametrize("k", [1, 40, 300, None])
def test_the_order_of_the_database_does_not_matter(denominator: str, k: int | None) -> None:
    query_codes, query_labels, codes, labels = arguments = large_case(2)
    order = np.argsort(labels, kind="stable")
    moved = (query_codes, query_labels, codes[order], labels[order])
    rule = {"k": k, "denominator": denominator}
    assert np.array_equal(average_precision(*moved, **rule), average_precision(*arguments, **rule))
    sorted_by_class = average_precision(*moved, ties="order", **rule)
    assert not np.allclose(sorted_by_class, average_precision(*arguments, ties="order", **rule))


def collapsed(n: int, relevant: int) -> Arguments:
    """One code for all: the ranking is one group of ties."""
    labels = (np.arange(n) >= relevant).astype(np.int64)
    return np.zeros((1, 32), np.uint8), np.array([0]), np.zeros((n, 32), np.uint8), labels


def first_places(k: int, x: int) -> Fraction:
    """Σ_{i=1..k} (x/k)(1 + (i−1)(x−1)/(k−1)) / i, term by term."""
    slope = Fraction(x - 1, max(k - 1, 1))
    return sum((Fraction(x, k) * (1 + (i - 1) * slope) / i for i in range(1, k + 1)), Fraction(0))


@pytest.mark.parametrize(("n", "relevant"), [(1, 1), (2, 1), (90, 9), (1000, 500)])
def test_collapsed_codes_give_the_analytic_value(n: int, relevant: int) -> None:
    expected = float(first_places(n, relevant) / relevant)
    for denominator in ("min", "retrieved"):
        got = mean_average_precision(*collapsed(n, relevant), denominator=denominator)
        assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 30, 119, 120])
def test_collapsed_codes_with_a_cut_condition_on_what_is_found(k: int) -> None:
    n, relevant = 120, 25
    chances = {
        x: Fraction(math.comb(relevant, x) * math.comb(n - relevant, k - x), math.comb(n, k))
        for x in range(max(0, k - (n - relevant)), min(relevant, k) + 1)
    }
    expected = sum((p * first_places(k, x) / x for x, p in chances.items() if x), Fraction(0))
    got = mean_average_precision(*collapsed(n, relevant), k=k, denominator="retrieved")
    assert got == pytest.approx(float(expected), rel=1e-11)


@pytest.mark.parametrize("denominator", ["min", "retrieved"])
@pytest.mark.parametrize("k", [None, 4])
def test_a_ranking_at_random_averages_codes_at_random(denominator: str, k: int | None) -> None:
    random = np.random.default_rng(3)
    queries, items = np.array([2, 0, 1, 0]), np.repeat([0, 1], [3, 9])
    found = average_precision_at_random(queries, items, k=k, denominator=denominator)
    drawn = [
        average_precision(
            random.integers(0, 256, (4, 32), np.uint8),
            queries,
            random.integers(0, 256, (12, 32), np.uint8),
            items,
            k=k,
            denominator=denominator,
        )
        for _ in range(2000)
    ]
    np.testing.assert_allclose(found, np.mean(drawn, axis=0), atol=0.03)
    assert math.isnan(found[0])


def test_a_late_group_keeps_its_precision() -> None:
    """One relevant item, alone behind 200,000 others: AP = 1/200,001."""
    codes = np.zeros((200_001, 1), np.uint8)
    codes[-1] = 255
    labels = np.arange(len(codes)) < len(codes) - 1
    got = average_precision(codes[:1], np.array([0]), codes, labels.astype(np.int64))
    np.testing.assert_allclose(got, [1 / 200_001], rtol=1e-10)


def test_a_perfect_ranking_is_one_whatever_the_rule() -> None:
    labels = np.repeat([0, 1], 5)
    codes = np.where(labels == 0, 0, 255).astype(np.uint8)[:, None]
    for ties, denominator in EVERY_RULE:
        for k in (1, 3, 5, 10):
            rule = {"k": k, "ties": ties, "denominator": denominator}
            assert mean_average_precision(codes, labels, codes, labels, **rule) == pytest.approx(1)


@pytest.mark.parametrize(("ties", "denominator"), EVERY_RULE)
def test_queries_without_a_relevant_item_are_left_out_of_the_mean(ties: str, denominator: str) -> None:
    query_codes, query_labels, codes, labels = large_case(3)
    query_labels = query_labels.copy()
    query_labels[::3] = 99
    rule = {"k": 50, "ties": ties, "denominator": denominator}
    values = average_precision(query_codes, query_labels, codes, labels, **rule)
    assert np.array_equal(np.isnan(values), query_labels == 99)
    mean = mean_average_precision(query_codes, query_labels, codes, labels, **rule)
    assert mean == pytest.approx(np.nanmean(values))
    kept = query_labels != 99
    assert mean == mean_average_precision(query_codes[kept], query_labels[kept], codes, labels, **rule)


def test_nothing_relevant_in_the_top_is_zero_not_missing() -> None:
    codes, labels = np.array([[0], [255]], np.uint8), np.array([0, 1])
    for ties, denominator in EVERY_RULE:
        got = average_precision(codes[:1], labels[1:], codes, labels, k=1, ties=ties, denominator=denominator)
        assert got.tolist() == [0.0]


def test_work_in_blocks_equals_work_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = large_case(4)

    def everything() -> list[np.ndarray]:
        curve = precision_recall_curve(*arguments)
        rankings = [average_precision(*arguments, k=70, ties=t, denominator=d) for t, d in EVERY_RULE]
        return [*rankings, precision_at_k(*arguments, k=9), curve.precision, curve.recall]

    at_once = everything()
    monkeypatch.setattr(evaluation, "CELLS", 7 * len(arguments[2]))  # 20 queries: 7, 7 and 6
    for one, other in zip(at_once, everything(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_the_curve_counts_everything_within_each_radius() -> None:
    query_codes, query_labels, codes, labels = arguments = large_case(5)
    query_labels[0] = 99  # without a relevant item: no part of the means
    distances = hamming(query_codes, codes)[1:]
    relevant = query_labels[1:, None] == labels
    curve = precision_recall_curve(*arguments)
    assert curve.radius.tolist() == list(range(25))
    for radius, precision, recall in zip(curve.radius, curve.precision, curve.recall, strict=True):
        within = distances <= radius
        found = (within & relevant).sum(axis=1)
        shares = [hit / all_ if all_ else 0 for hit, all_ in zip(found, within.sum(axis=1), strict=True)]
        assert precision == pytest.approx(np.mean(shares))
        assert recall == pytest.approx(np.mean(found / relevant.sum(axis=1)))
    assert curve.recall[-1] == 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"k": 0}, "k is 0; wanted at least 1"),
        ({"ties": "random"}, "ties is 'random'; wanted one of expected, order"),
        ({"denominator": "max"}, "denominator is 'max'; wanted one of min, retrieved"),
    ],
)
def test_unknown_values_are_named_with_the_allowed_ones(change: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        mean_average_precision(*large_case(0), **change)


def test_arrays_that_do_not_fit_are_refused() -> None:
    query_codes, query_labels, codes, labels = large_case(0)
    off = {
        "24 bits; wanted 16|16 bits; wanted 24": (query_codes[:, :2], query_labels, codes, labels),
        "query_labels have": (query_codes, query_labels[1:], codes, labels),
        "database_labels have type float64": (query_codes, query_labels, codes, labels.astype(float)),
        "database_labels hold -1; leave unlabelled": (query_codes, query_labels, codes, labels - 1),
        "wanted uint8": (query_codes, query_labels, codes.astype(int), labels),
    }
    for fault, arguments in off.items():
        for measure in (mean_average_precision, precision_recall_curve):
            with pytest.raises(ValueError, match=fault):
                measure(*arguments)


def test_nothing_to_average_is_said() -> None:
    query_codes, query_labels, codes, labels = large_case(0)
    for arguments in (
        (query_codes, query_labels + 100, codes, labels),
        (query_codes[:0], query_labels[:0], codes, labels),
        (query_codes, query_labels, codes[:0], labels[:0]),
    ):
        assert np.isnan(average_precision(*arguments)).all()
        for measure in (mean_average_precision, precision_recall_curve):
            with pytest.raises(ValueError, match="relevant item in the database"):
                measure(*arguments)


@pytest.mark.parametrize("ties", ["expected", "order"])
def test_an_empty_database_has_no_precision(ties: str) -> None:
    query_codes, query_labels, codes, labels = large_case(0)
    got = precision_at_k(query_codes, query_labels, codes[:0], labels[:0], k=5, ties=ties)
    assert got.tolist() == [0.0] * len(query_codes)


def test_precision_within_a_radius_counts_an_empty_find_as_nothing() -> None:
    codes, labels = np.array([[0], [1], [3], [7], [255]], np.uint8), np.array([0, 1, 0, 0, 1])
    queries, wanted = np.array([[0], [0b11111000], [0b11111000]], np.uint8), np.array([0, 1, 9])
    # the first finds 0 and 3, not 1, of three; the second nothing within 2; the third has no relevant item
    assert precision_within_radius(queries, wanted, codes, labels) == pytest.approx((2 / 3 + 0) / 2)
    assert precision_within_radius(queries, wanted, codes, labels, radius=0) == pytest.approx(1 / 2)
    assert precision_within_radius(queries, wanted, codes, labels, radius=3) == pytest.approx((3 / 4 + 1) / 2)
    assert precision_within_radius(queries, wanted, codes, labels, radius=99) == pytest.approx(
        (3 / 5 + 2 / 5) / 2
    )
    with pytest.raises(ValueError, match="radius is -1; wanted at least 0"):
        precision_within_radius(queries, wanted, codes, labels, radius=-1)


# --- Real-valued descriptors -----------------------------------------------------------------------


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
    monkeypatch.setattr(evaluation, "CELLS", len(arguments[2]))  # 5 queries: 4 and 1
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


# --- what a distance is worth ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_precision_by_distance_is_the_isotonic_regression_of_the_shares(seed):
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(seed)
    queries, database = (rng.integers(0, 256, (n, 2), dtype=np.uint8) for n in (9, 40))
    wanted, labels = rng.integers(0, 3, 9), rng.integers(0, 3, 40)
    distances = np.unpackbits(queries[:, None] ^ database[None], axis=2).sum(2)
    pairs = distances.ravel(), (wanted[:, None] == labels[None]).ravel()
    fitted = IsotonicRegression(increasing=False).fit(*pairs)
    found = precision_by_distance(pairs_by_distance(queries, wanted, database, labels))
    there = np.unique(distances)
    assert found.shape == (17,)
    assert found[there] == pytest.approx(fitted.predict(there))
    for distance in set(range(17)) - set(there.tolist()):
        larger = there[there > distance]
        assert found[distance] == found[larger[0] if len(larger) else there[-1]]


def test_precision_by_distance_needs_pairs():
    codes, labels = np.zeros((2, 1), np.uint8), np.zeros(2, int)
    for queries, database in ((2, 0), (0, 2)):
        with pytest.raises(ValueError, match="no queries, or no items"):
            precision_by_distance(
                pairs_by_distance(codes[:queries], labels[:queries], codes[:database], labels[:database])
            )


def test_what_never_rises_stays():
    values = np.array([0.9, 0.9, 0.5, 0.0])
    assert never_rising(values, np.array([1, 5, 2, 9])).tolist() == values.tolist()
    assert never_rising(np.array([0.2, 0.8]), np.array([3, 1])) == pytest.approx([0.35, 0.35])
    assert never_rising(np.array([]), np.array([], int)).shape == (0,)


# --- pairs, and the nearest -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_counted_by_distance(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query_codes, query_labels, codes, labels = arguments = large_case(seed, bits=16)
    same, other = [0] * 17, [0] * 17
    for wanted, row in zip(query_labels, hamming(query_codes, codes).tolist(), strict=True):
        for label, distance in zip(labels, row, strict=True):
            (same if label == wanted else other)[distance] += 1
    monkeypatch.setattr("index.evaluation.CELLS", 700)
    pairs = pairs_by_distance(*arguments)
    assert pairs.same_class.tolist() == same
    assert pairs.other_class.tolist() == other


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_class_is_expected_over_ties(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query_codes, query_labels, codes, labels = arguments = large_case(seed, bits=8)
    expected = np.zeros((7, 7))
    for wanted, row in zip(query_labels, hamming(query_codes, codes).tolist(), strict=True):
        nearest = [label for label, distance in zip(labels, row, strict=True) if distance == min(row)]
        for label in nearest:
            expected[wanted, label] += 1 / len(nearest)
    monkeypatch.setattr("index.evaluation.CELLS", 700)
    found = nearest_classes(*arguments)
    assert found.keys() == set(zip(*(at.tolist() for at in np.nonzero(expected)), strict=True))
    assert all(count == pytest.approx(expected[pair]) for pair, count in found.items())


def test_nothing_is_nearest_in_an_empty_database() -> None:
    codes, labels = np.zeros((2, 1), np.uint8), np.zeros(2, int)
    with pytest.raises(ValueError, match="no items"):
        nearest_classes(codes, labels, codes[:0], labels[:0])
