"""Features -> short unit vectors: the principal components, whitened by as much as helps."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from training.nets.head import Embedding

LEAST = 1e-4  # of the largest deviation


class Components(NamedTuple):
    """Principal components of features (n, F), the largest first."""

    mean: NDArray[np.float32]  # (F,)
    directions: NDArray[np.float32]  # (E, F), orthonormal
    deviations: NDArray[np.float32]  # (E,) of the features along them


def components(features: NDArray[np.float32], size: int, seed: int) -> Components:
    """At most `size` of them, fewer where there are not as many images or features."""
    size = min(size, features.shape[1], len(features) - 1)
    solver = "covariance_eigh" if features.shape[1] <= 4096 else "randomized"
    found = PCA(size, svd_solver=solver, iterated_power=3, random_state=seed).fit(features)
    return Components(found.mean_, found.components_, np.sqrt(found.explained_variance_))


def embedding(found: Components, power: float) -> Embedding:
    """Components divided by their deviations to the `power`: 0 leaves them, 1 whitens them."""
    # What hardly varies is rounding: divided by next to nothing it would be all that counts.
    varies = found.deviations > LEAST * found.deviations[0]
    scale = np.where(varies, np.where(varies, found.deviations, 1) ** -power, 0)
    weight = found.directions * scale[:, None]
    made = Embedding(len(found.mean), len(weight))
    with torch.no_grad():
        made.project.weight.copy_(torch.from_numpy(weight))
        made.project.bias.copy_(torch.from_numpy(-weight @ found.mean))
    return made
