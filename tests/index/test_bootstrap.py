"""The bootstrap, against scipy and against what it says of itself."""

import math

import numpy as np
import pytest
import scipy

from index import bootstrap
from index.bootstrap import bootstrap_interval


def skewed(n: int, seed: int = 0) -> np.ndarray:
    """Like average precisions: in 0 … 1, most of them small."""
    return np.random.default_rng(seed).beta(0.6, 2.0, n)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_bootstrap_is_scipys_but_for_chance(confidence: float) -> None:
    values = skewed(400)
    got = bootstrap_interval(values, confidence, seed=1, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=20_000,
        method="percentile",
        batch=1000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    np.testing.assert_allclose(got, theirs, atol=0.06 * scipy.stats.sem(values))


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
    wide = 1.959964 * scipy.stats.sem(values)
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
    monkeypatch.setattr(bootstrap, "CELLS", 50 * 7)
    low, high = bootstrap_interval(values, seed=3, resamples=1001)
    assert values.mean() - 3 * scipy.stats.sem(values) < low < values.mean() < high
    assert high < values.mean() + 3 * scipy.stats.sem(values)


def test_bootstrap_of_too_little_is_nan_and_of_nonsense_refused() -> None:
    for values in ([], [0.5], [math.nan, 0.5, math.nan]):
        assert all(map(math.isnan, bootstrap_interval(values, seed=0)))
    assert bootstrap_interval([0.5, 0.5], seed=0) == (0.5, 0.5)
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="wanted more than 0 and less than 1"):
            bootstrap_interval([0.4, 0.5], confidence, seed=0)
    with pytest.raises(ValueError, match="resamples is 0"):
        bootstrap_interval([0.4, 0.5], seed=0, resamples=0)
