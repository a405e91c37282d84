"""How sure a figure is over seeds: a deviation and Welch's t-test. Over queries: index/bootstrap.py."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Values = Sequence[float] | NDArray[np.floating[Any]]


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
    test = scipy.stats.ttest_ind_from_stats(
        *(a.mean(), math.sqrt(variances[0]), len(a)),
        *(b.mean(), math.sqrt(variances[1]), len(b)),
        equal_var=False,
    )
    return float(test.pvalue)


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
