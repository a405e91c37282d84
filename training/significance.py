"""How sure a figure is: over seeds a deviation and Welch's t-test, over queries a bootstrap interval."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = Sequence[float] | NDArray[np.floating[Any]]

CELLS = 2**20  # values drawn at a time: 8 MB


def mean_and_deviation(values: Values) -> tuple[float, float]:
    """Mean and sample standard deviation, √(Σ(x − mean)² / (n − 1)); NaN for one value, which has none."""
    values = _check(values)
    if not len(values):
        raise ValueError("no values to average")
    return float(values.mean()), math.sqrt(_variance(values))


def welch(a: Values, b: Values) -> float:
    """Two-sided p-value of Welch's t-test that two samples have one mean: variances need not be equal.

    t = (mean a − mean b) / √(s²_a/n_a + s²_b/n_b), its degrees of freedom by Welch and Satterthwaite.
    NaN where there is no test: fewer than two values, a value that is NaN, no variance in either sample.
    """
    a, b = _check(a), _check(b)
    variances = _variance(a), _variance(b)
    if not sum(variances) > 0:  # NaN is not either
        return math.nan
    # From the moments: ttest_ind warns of lost precision where one sample is constant.
    test = stats.ttest_ind_from_stats(
        *(a.mean(), math.sqrt(variances[0]), len(a)),
        *(b.mean(), math.sqrt(variances[1]), len(b)),
        equal_var=False,
    )
    return float(test.pvalue)


def bootstrap_interval(
    values: Values, confidence: float = 0.95, *, seed: int, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap of the mean: between which values it lies if the queries were drawn again.

    values (n,), such as the average precision of each query; NaN, a query without a relevant item, is
    left out. (NaN, NaN) for fewer than two values. The interval says nothing of another training run.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; wanted more than 0 and less than 1")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; wanted at least 1")
    values = _check(values)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return math.nan, math.nan
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, CELLS // len(values))
    for start in range(0, resamples, step):
        shape = (min(step, resamples - start), len(values))
        # 32-bit positions are drawn in half the time of 64-bit ones
        means[start : start + step] = values[random.integers(len(values), size=shape, dtype=np.int32)].mean(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _variance(values: NDArray[np.float64]) -> float:
    """Σ(x − mean)² / (n − 1); NaN for fewer than two values.

    Exactly 0 for equal values, whose mean need not be one of them: that of three times 0.1 is not 0.1.
    """
    if len(values) < 2:
        return math.nan
    return 0.0 if (values == values[0]).all() else float(values.var(ddof=1))


def _check(values: Values) -> NDArray[np.float64]:
    checked = np.asarray(values, dtype=np.float64)
    if checked.ndim != 1:
        raise ValueError(f"values have shape {checked.shape}; wanted (n,)")
    return checked
