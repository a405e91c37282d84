"""Samples of more than 8 bits, scaled to 8 from what is white in them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of a camera or scanner; files of 16 bits hold all of them, few say which.
DEPTHS = (8, 10, 12, 14, 16)
AT_ONCE = 1 << 20  # numbers, for the sake of memory


def scaled(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Whole numbers of so many bits, (H, …); what is beyond is white, below 0 black."""
    white, shift = (1 << min(bits, 16)) - 1, max(bits - 16, 0)  # the upper 16 bits tell more than can be seen
    shown = np.empty(values.shape, np.uint8)
    step = max(1, AT_ONCE // max(values[:1].size, 1))
    for start in range(0, len(values), step):
        part = (values[start : start + step] >> shift).clip(0, white).astype(np.uint32)
        shown[start : start + step] = (part * 255 + white // 2) // white
    return shown


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
