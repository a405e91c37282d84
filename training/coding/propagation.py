"""What neighbours say of each other: features made smooth, and labels propagated, over a graph of images.

Both solve (I − αW) F = (1 − α) Y for a symmetric graph W with eigenvalues in −1 … 1: Y are the features, or
the given labels one-hot. Source: Zhou et al., "Learning with local and global consistency", NIPS 2003.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from index.items import UNLABELLED

# Solved together: of that width products with a sparse matrix are fastest, and memory is bounded.
COLUMNS = 64
TOLERANCE = 1e-4


def smoothed(
    graph: sp.csr_matrix, values: NDArray[np.float32], alpha: float, tolerance: float = TOLERANCE
) -> NDArray[np.float32]:
    """F (n, d) of (I − αW) F = (1 − α) Y for Y = `values` (n, d), to `tolerance` of Y's length.

    A point without neighbours keeps (1 − α) of its own value: its direction stays.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha}: use a number between 0 and 1")
    out = np.empty_like(values, dtype=np.float32)
    parts = [slice(start, start + COLUMNS) for start in range(0, values.shape[1], COLUMNS)]

    def solve(part: slice) -> None:
        right = (1 - alpha) * np.ascontiguousarray(values[:, part], dtype=np.float32)
        out[:, part] = _chebyshev(graph, right, alpha, tolerance)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(solve, parts))
    return out


def _chebyshev(
    graph: sp.csr_matrix, right: NDArray[np.float32], alpha: float, tolerance: float
) -> NDArray[np.float32]:
    """Chebyshev's iteration for I − αW, whose eigenvalues lie in 1 − α … 1 + α: as fast as conjugate
    gradients at their worst, without their products of vectors, and the number of steps is known before.

    Source: Saad, "Iterative methods for sparse linear systems", 2003, algorithm 12.1.
    """
    rate = alpha / (1 + math.sqrt(1 - alpha**2))  # by which the error falls in each step
    steps = math.ceil(math.log(tolerance / 2) / math.log(rate))
    solution, residual, step, rho = np.zeros_like(right), right.copy(), right.copy(), alpha
    for _ in range(steps):
        solution += step
        residual -= step - alpha * (graph @ step)
        following = 1 / (2 / alpha - rho)
        step = following * rho * step + (2 * following / alpha) * residual
        rho = following
    return solution


def propagated(
    graph: sp.csr_matrix, labels: NDArray[np.int64], classes: int, alpha: float
) -> NDArray[np.float32]:
    """Posteriors (n, classes) of all images from the given `labels` (n,), UNLABELLED where there is none.

    Each class sends out the same in all, however many labels it has. Where nothing arrives the posterior is
    that of knowing nothing: 1 / classes.
    """
    given = np.flatnonzero(labels != UNLABELLED)
    counts = np.bincount(labels[given], minlength=classes)
    sources = np.zeros((len(labels), classes), np.float32)
    sources[given, labels[given]] = 1 / counts[labels[given]]
    arrived = np.maximum(smoothed(graph, sources, alpha), 0)
    # What the iteration leaves of nothing is no news.
    arrived[arrived < TOLERANCE * (1 - alpha) / max(counts.max(initial=1), 1) / len(labels)] = 0
    total = arrived.sum(1, keepdims=True)
    reached = total > 0
    return np.where(reached, arrived / np.where(reached, total, 1), np.float32(1 / max(classes, 1)))
