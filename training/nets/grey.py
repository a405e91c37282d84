"""Samples of more than 8 bits, scaled to 8 from what is white in them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of a camera or scanner; files of 16 bits hold all of them, few say which.
DEPTHS = (8, 10, 12, 14, 16)


def scaled(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Whole numbers of so many bits, of any shape; what is beyond is white, below 0 black."""
    white = (1 << bits) - 1
    if bits > 16:  # the upper 16 bits tell more than can be seen
        values, white = values >> (bits - 16), 65535
    clipped = values.clip(0, white).astype(np.uint32)
    clipped *= 255
    clipped += white // 2
    clipped //= white
    return clipped.astype(np.uint8)


def fractions(values: NDArray[Any], white: float = 0) -> NDArray[np.uint8]:
    """Floating point 0 … 1, or up to what is stated to be white; any other range is stretched."""
    if white > 0:
        values = (values.astype(np.float32) / white).clip(0, 1)
    return _stretched(values, always=False)


def by_the_brightest(values: NDArray[Any]) -> NDArray[np.uint8]:
    """As all grey was read before files were asked for their depth: of the smallest of DEPTHS that holds the
    brightest pixel; what is beyond 16 bits is stretched."""
    if values.dtype.kind in "ui" and values.min() >= 0 and values.max() <= 65535:
        depth = next(bits for bits in DEPTHS if values.max() < 1 << bits)
        return (values >> (depth - 8)).astype(np.uint8)
    return _stretched(values, always=values.dtype.kind != "f")


def _stretched(values: NDArray[Any], *, always: bool) -> NDArray[np.uint8]:
    numbers = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    if always or numbers.min() < 0 or numbers.max() > 1:
        numbers -= numbers.min()
        numbers /= max(float(numbers.max()), 1e-30)  # a constant image is black
    numbers *= 255
    return numbers.round(out=numbers).astype(np.uint8)
