import math
from fractions import Fraction

import numpy as np
import pytest

from index.evaluation import (
    average_precision,
    average_precision_at_random,
    mean_average_precision,
    precision_at_k,
)
from tests import reference
from tests.index.labelled_codes import EVERY_RULE, Arguments, brute, large_case, small_case


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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.parametrize("ties", ["expected", "order"])
def test_an_empty_database_has_no_precision(ties: str) -> None:
    query_codes, query_labels, codes, labels = large_case(0)
    got = precision_at_k(query_codes, query_labels, codes[:0], labels[:0], k=5, ties=ties)
    assert got.tolist() == [0.0] * len(query_codes)
