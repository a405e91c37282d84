"""How sure a mean over queries is."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float] | NDArray[np.floating[Any]]

CELLS = 2**20  # values drawn at a time: 8 MB


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
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"values have shape {values.shape}; wanted (n,)")
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
