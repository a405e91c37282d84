"""Whether a stated confidence can be trusted, and what makes it so: one temperature for all.

Source: Guo et al., "On calibration of modern neural networks", arXiv 1706.04599.
"""

import numpy as np
from numpy.typing import NDArray

Posteriors = NDArray[np.floating]  # (n, classes), rows sum to 1

BINS = 15
TEMPERATURES = np.geomspace(0.05, 20, 121)  # 5 % apart: finer than what labels tell
TINY = 1e-12


def calibration_error(confidences: NDArray[np.floating], correct: NDArray[np.bool_]) -> float:
    """The expected calibration error of confidences (n,) in 0 … 1: how far, in BINS of equal width and
    weighted by how many lie there, the mean confidence is from the share that is correct. 0 for none."""
    if not len(confidences):
        return 0.0
    bins = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, confidences - correct.astype(np.float64), BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def tempered(posteriors: Posteriors, temperature: float) -> NDArray[np.float64]:
    """Posteriors to the power 1 / T, normalised: above 1 less sure, below 1 surer."""
    logits = np.log(np.maximum(posteriors, TINY).astype(np.float64)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def best_temperature(posteriors: Posteriors, labels: NDArray[np.int64]) -> float:
    """The T that gives the labels (n,) the highest likelihood; 1 where there is none to tell by."""
    if not len(labels):
        return 1.0
    each = np.arange(len(labels))
    losses = [-np.log(np.maximum(tempered(posteriors, T)[each, labels], TINY)).mean() for T in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])
