import numpy as np
import pytest

from index.codes import hamming
from index.distances import (
    nearest_classes,
    never_rising,
    pairs_by_distance,
    precision_by_distance,
    precision_recall_curve,
)
from tests.index.labelled_codes import large_case


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


def test_precision_within_a_radius_counts_an_empty_find_as_nothing() -> None:
    codes, labels = np.array([[0], [1], [3], [7], [255]], np.uint8), np.array([0, 1, 0, 0, 1])
    queries, wanted = np.array([[0], [0b11111000], [0b11111000]], np.uint8), np.array([0, 1, 9])
    # the first finds 0 and 3, not 1, of three; the second nothing within 2; the third has no relevant item
    precision = precision_recall_curve(queries, wanted, codes, labels).precision
    assert precision[2] == pytest.approx((2 / 3 + 0) / 2)
    assert precision[0] == pytest.approx(1 / 2)
    assert precision[3] == pytest.approx((3 / 4 + 1) / 2)
    assert precision[8] == pytest.approx((3 / 5 + 2 / 5) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_counted_by_distance(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query_codes, query_labels, codes, labels = arguments = large_case(seed, bits=16)
    same, other = [0] * 17, [0] * 17
    for wanted, row in zip(query_labels, hamming(query_codes, codes).tolist(), strict=True):
        for label, distance in zip(labels, row, strict=True):
            (same if label == wanted else other)[distance] += 1
    monkeypatch.setattr("index.rankings.CELLS", 700)
    pairs = pairs_by_distance(*arguments)
    assert pairs.same_class.tolist() == same
    assert pairs.other_class.tolist() == other


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


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_class_is_expected_over_ties(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query_codes, query_labels, codes, labels = arguments = large_case(seed, bits=8)
    expected = np.zeros((7, 7))
    for wanted, row in zip(query_labels, hamming(query_codes, codes).tolist(), strict=True):
        nearest = [label for label, distance in zip(labels, row, strict=True) if distance == min(row)]
        for label in nearest:
            expected[wanted, label] += 1 / len(nearest)
    monkeypatch.setattr("index.rankings.CELLS", 700)
    found = nearest_classes(*arguments)
    assert found.keys() == set(zip(*(at.tolist() for at in np.nonzero(expected)), strict=True))
    assert all(count == pytest.approx(expected[pair]) for pair, count in found.items())


def test_nothing_is_nearest_in_an_empty_database() -> None:
    codes, labels = np.zeros((2, 1), np.uint8), np.zeros(2, int)
    with pytest.raises(ValueError, match="no items"):
        nearest_classes(codes, labels, codes[:0], labels[:0])
