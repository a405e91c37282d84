"""Bits from real numbers without labels: the rotation whose signs lose least."""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray


def iterative_quantisation(
    values: NDArray[np.float32], bits: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """Directions (bits, F) and the mean (F,) of values (n, F), and the method's name: bits are the signs of
    directions · (value − mean).

    FAISS's ITQ (Gong & Lazebnik, 2011): PCA to `bits` dimensions, then the rotation whose signs lose least.
    With no more than `bits` images there is no PCA: a random rotation stands in for both.
    """
    length = values.shape[1]
    if len(values) > bits and length >= bits:
        itq = faiss.ITQTransform(length, bits, True)
        itq.itq.seed = seed
        itq.train(values)
        affine: Any = faiss.downcast_VectorTransform(itq.pca_then_itq)
        weight = faiss.vector_to_array(affine.A).reshape(bits, length)
        return weight, faiss.vector_to_array(itq.mean), "ITQ"
    rotation = _random_rotation(np.random.default_rng(seed), bits, length)
    return rotation, values.mean(0), f"random rotation (ITQ needs more than {bits} images and features)"


def _random_rotation(rng: np.random.Generator, bits: int, length: int) -> NDArray[np.float32]:
    """Random directions (bits, length), orthonormal in groups of at most `length`."""
    groups = [
        np.linalg.qr(rng.standard_normal((length, min(bits, length))))[0].T for _ in range(-(-bits // length))
    ]
    return np.concatenate(groups)[:bits].astype(np.float32)
