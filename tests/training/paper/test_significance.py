"""Deviations and Welch's test, against scipy and against their formulas."""

import math

import numpy as np
import pytest
import scipy

from training.paper.significance import mean_and_deviation, welch

OURS, PAPERS = [39.1, 40.2, 39.7, 41.0, 39.9], [36.5, 37.9, 36.1, 38.8]


def samples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 9, 2)
    return rng.normal(0, 1, sizes[0]), rng.normal(rng.normal(), rng.uniform(0.1, 4), sizes[1])


@pytest.mark.parametrize("seed", range(20))
def test_welch_is_scipys(seed: int) -> None:
    a, b = samples(seed)
    assert welch(a, b) == pytest.approx(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-10)
    assert welch(b, a) == pytest.approx(welch(a, b))


def t_density(t: float, freedom: float) -> float:
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    return math.exp(log - (freedom + 1) / 2 * math.log1p(t * t / freedom))


def test_welch_by_hand() -> None:
    squared = []
    for sample in (OURS, PAPERS):
        mean = sum(sample) / len(sample)
        squared.append(sum((x - mean) ** 2 for x in sample) / (len(sample) - 1) / len(sample))
    t = (sum(OURS) / 5 - sum(PAPERS) / 4) / math.sqrt(sum(squared))
    freedom = sum(squared) ** 2 / (squared[0] ** 2 / 4 + squared[1] ** 2 / 3)
    between, _ = scipy.integrate.quad(t_density, -t, t, args=(freedom,))
    assert welch(OURS, PAPERS) == pytest.approx(1 - between, abs=1e-9)
    assert welch(OURS, PAPERS) < 0.05


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0], OURS),
        (OURS, []),
        ([1.0], [2.0]),
        ([0.1, 0.1, 0.1], [0.2, 0.2, 0.2]),  # np.var of these is not 0
        ([0.1, 0.1, 0.1], [0.1, 0.1, 0.1]),
        ([1.0, math.nan, 2.0], OURS),
        ([1.0, 1.0], [math.nan, 1.0]),
    ],
)
def test_no_test_is_nan_and_no_warning(a: list[float], b: list[float]) -> None:
    assert math.isnan(welch(a, b))


def test_one_constant_sample_is_a_number() -> None:
    """The test of one sample's mean against a number: Welch's formula with one variance 0."""
    assert welch([12.0, 12.0, 12.0], OURS) == pytest.approx(scipy.stats.ttest_1samp(OURS, 12.0).pvalue)


def test_mean_and_deviation() -> None:
    mean, deviation = mean_and_deviation(OURS)
    assert (mean, deviation) == (pytest.approx(np.mean(OURS)), pytest.approx(scipy.stats.tstd(OURS)))
    assert mean_and_deviation([0.1, 0.1, 0.1])[1] == 0
    mean, deviation = mean_and_deviation([40.0])
    assert mean == 40 and math.isnan(deviation)
    with pytest.raises(ValueError, match="no values to average"):
        mean_and_deviation([])
    with pytest.raises(ValueError, match=r"shape \(1, 5\); wanted \(n,\)"):
        mean_and_deviation(np.array([OURS]))
