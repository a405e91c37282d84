"""Deviations, Welch's test and the bootstrap, against scipy and against their formulas."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from training import significance
from training.significance import bootstrap_interval, mean_and_deviation, welch

OURS, PAPERS = [39.1, 40.2, 39.7, 41.0, 39.9], [36.5, 37.9, 36.1, 38.8]


def samples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 9, 2)
    return rng.normal(0, 1, sizes[0]), rng.normal(rng.normal(), rng.uniform(0.1, 4), sizes[1])


@pytest.mark.parametrize("seed", range(20))
def test_welch_is_scipys(seed: int) -> None:
    a, b = samples(seed)
    assert welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-10)
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
    between, _ = integrate.quad(t_density, -t, t, args=(freedom,))
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
    assert welch([12.0, 12.0, 12.0], OURS) == pytest.approx(stats.ttest_1samp(OURS, 12.0).pvalue)


def test_mean_and_deviation() -> None:
    mean, deviation = mean_and_deviation(OURS)
    assert (mean, deviation) == (pytest.approx(np.mean(OURS)), pytest.approx(stats.tstd(OURS)))
    assert mean_and_deviation([0.1, 0.1, 0.1])[1] == 0
    mean, deviation = mean_and_deviation([40.0])
    assert mean == 40 and math.isnan(deviation)
    with pytest.raises(ValueError, match="no values to average"):
        mean_and_deviation([])
    with pytest.raises(ValueError, match=r"shape \(1, 5\); wanted \(n,\)"):
        mean_and_deviation(np.array([OURS]))


def skewed(n: int, seed: int = 0) -> np.ndarray:
    """Like average precisions: in 0 … 1, most of them small."""
    return np.random.default_rng(seed).beta(0.6, 2.0, n)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_bootstrap_is_scipys_but_for_chance(confidence: float) -> None:
    values = skewed(400)
    got = bootstrap_interval(values, confidence, seed=1, resamples=20_000)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=20_000,
        method="percentile",
        batch=1000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    np.testing.assert_allclose(got, theirs, atol=0.06 * stats.sem(values))


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    truth, trials = 0.6 / 2.6, 400
    intervals = [
        bootstrap_interval(skewed(100, seed), 0.9, seed=seed, resamples=400) for seed in range(trials)
    ]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    # four standard errors of the share; of 100 skewed values a percentile interval covers a little less
    assert covered == pytest.approx(0.9, abs=0.06)


def test_bootstrap_of_many_values_is_the_normal_interval() -> None:
    values = skewed(10_000)
    wide = 1.959964 * stats.sem(values)
    low, high = bootstrap_interval(values, seed=0)
    assert low == pytest.approx(values.mean() - wide, abs=0.15 * wide)
    assert high == pytest.approx(values.mean() + wide, abs=0.15 * wide)


def test_bootstrap_repeats_itself_and_leaves_nan_out() -> None:
    values = skewed(50)
    interval = bootstrap_interval(values, seed=3, resamples=200)
    assert bootstrap_interval(values, seed=3, resamples=200) == interval
    assert bootstrap_interval(values, seed=4, resamples=200) != interval
    gaps = np.insert(values, [0, 10, 50], np.nan)
    assert bootstrap_interval(gaps, seed=3, resamples=200) == interval


def test_bootstrap_in_blocks_has_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    values = skewed(50)
    monkeypatch.setattr(significance, "CELLS", 50 * 7)
    low, high = bootstrap_interval(values, seed=3, resamples=1001)
    assert values.mean() - 3 * stats.sem(values) < low < values.mean() < high
    assert high < values.mean() + 3 * stats.sem(values)


def test_bootstrap_of_too_little_is_nan_and_of_nonsense_refused() -> None:
    for values in ([], [0.5], [math.nan, 0.5, math.nan]):
        assert all(map(math.isnan, bootstrap_interval(values, seed=0)))
    assert bootstrap_interval([0.5, 0.5], seed=0) == (0.5, 0.5)
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="wanted more than 0 and less than 1"):
            bootstrap_interval(OURS, confidence, seed=0)
    with pytest.raises(ValueError, match="resamples is 0"):
        bootstrap_interval(OURS, seed=0, resamples=0)
