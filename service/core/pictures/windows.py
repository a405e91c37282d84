"""Which pictures are a part of another one: cropped, or with a border around them.

Of which pictures one may be a part is guessed first: it is laid into larger ones that are grey around it, and
their hashes are near that of the right one, wherever what is missing has no say.

The hash of a picture changes with each quarter that is cut off. So the part that fits best is looked for
first, by normalised cross-correlation on 32 × 32 pixels (Lewis, "Fast normalized cross-correlation", 1995),
and then the hashes are compared: of the one picture, and of that part of the other.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

from training.nets.pdq import BITS, SIDE, hashes_of

GRID = 32  # pixels on which parts are looked for
SHARES = (1.0, 0.92, 0.84, 0.77, 0.7, 0.64, 0.58, 0.52)  # of the largest part that fits
SURE = 16  # pictures whose parts fit best: their hashes are compared
KEPT = (0.65, 0.75, 0.85)  # of a side, where only that one was cut
KEPT_OF_BOTH = (0.71, 0.79, 0.87)  # of each side: half of the area to three quarters
AROUND = (-0.5, 0.0, 0.5)  # pixels of the grid by which a part is moved and made larger, for the hash to fit
FLAT = 1.0  # product of both spreads of grey below which there is nothing to correlate

Floats = NDArray[np.float32]


class Fit(NamedTuple):
    """A part of a picture."""

    score: float  # correlation, at most 1
    top: int  # in pixels of the grid
    left: int
    height: int
    width: int


NONE = Fit(-1.0, 0, 0, GRID, GRID)


def hashes_of_wholes(part: Image.Image) -> NDArray[np.uint8]:
    """Hashes (n, 32) that pictures may have of which this grey one is a part: at an edge or in the middle."""
    wholes = list[Floats]()
    for height, width in _kept():
        small = np.asarray(part.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        for top in _starts(height):
            for left in _starts(width):
                whole = np.full((SIDE, SIDE), small.mean(), np.float32)
                whole[top : top + height, left : left + width] = small
                wholes.append(whole)
    return hashes_of(np.stack(wholes))


def _kept() -> list[tuple[int, int]]:
    """Height and width, in pixels of a picture that is hashed, of what may be left of one."""
    shares = [*((1, share) for share in KEPT), *((share, 1) for share in KEPT)]
    shares += [(share, share) for share in KEPT_OF_BOTH]
    return [(round(SIDE * high), round(SIDE * wide)) for high, wide in shares]


def _starts(length: int) -> list[int]:
    """Where something of this length may begin."""
    return sorted({0, (SIDE - length) // 2, SIDE - length})


def distances_of_parts(query: Image.Image, pictures: Sequence[Image.Image]) -> NDArray[np.int32]:
    """How far the hash of a grey picture lies from that of a part of each picture (n,), or the hash of a
    part of it from that of the picture, whichever is nearer; BITS where no part fits."""
    distances = np.full(len(pictures), BITS, np.int32)
    if not pictures:
        return distances
    grids = np.stack([_grid(picture) for picture in pictures])
    ratios = [_ratios(query, picture) for picture in pictures]
    within = _fits(_grid(query), grids, ratios, inside=True)
    around = _fits(_grid(query), grids, [(1 / high, 1 / wide) for high, wide in ratios], inside=False)
    best = sorted(range(len(pictures)), key=lambda at: -max(within[at].score, around[at].score))[:SURE]
    for at in best:
        if max(within[at].score, around[at].score) <= 0:
            break
        if within[at].score >= around[at].score:
            distances[at] = _distance(query, pictures[at], within[at])
        else:
            distances[at] = _distance(pictures[at], query, around[at])
    return distances


def _grid(picture: Image.Image) -> Floats:
    return np.asarray(picture.resize((GRID, GRID), Image.Resampling.BILINEAR), np.float32)


def _ratios(part: Image.Image, whole: Image.Image) -> tuple[float, float]:
    """Height and width of the one in those of the other."""
    return part.height / whole.height, part.width / whole.width


def _sizes(ratios: tuple[float, float]) -> set[tuple[int, int]]:
    """Height and width, in pixels of the grid, of parts of the shape of a picture with these ratios."""
    largest = 1 / max(ratios)
    sizes = {
        (round(GRID * share * largest * ratios[0]), round(GRID * share * largest * ratios[1]))
        for share in SHARES
    }
    return {size for size in sizes if min(size) >= GRID // 4 and size != (GRID, GRID)}


def _fits(query: Floats, grids: Floats, ratios: Sequence[tuple[float, float]], *, inside: bool) -> list[Fit]:
    """Where the query fits best into each grid (n, 32, 32), or, not `inside`, each grid into the query."""
    alike = defaultdict[tuple[int, int], list[int]](list)
    for at, each in enumerate(ratios):
        for size in _sizes(each):
            alike[size].append(at)
    best = [NONE] * len(grids)
    spectra = fft.rfft2(grids if inside else query[None])
    sums = _Sums(grids if inside else query[None])
    for (height, width), places in alike.items():
        parts = _shrunk(query[None] if inside else grids[places], height, width)
        which = places if inside else [0]
        scores = _correlations(parts, spectra[which], sums, which)
        flat = scores.reshape(len(places), -1)
        tops, lefts = np.unravel_index(flat.argmax(axis=1), scores.shape[1:])
        for at, score, top, left in zip(places, flat.max(axis=1), tops, lefts, strict=True):
            if score > best[at].score:
                best[at] = Fit(float(score), int(top), int(left), height, width)
    return best


class _Sums:
    """Of all grey, and of its squares, above and left of each pixel of grids (n, 32, 32)."""

    def __init__(self, grids: Floats) -> None:
        self._of = [_integral(grids), _integral(grids.astype(np.float64) ** 2)]

    def spread(self, which: Sequence[int], height: int, width: int) -> Floats:
        """The root of the summed squared differences from its mean of each part of this size."""
        total, squares = (
            whole[:, height:, width:] - whole[:, :-height, width:] - whole[:, height:, :-width]
            + whole[:, :-height, :-width]
            for whole in (each[list(which)] for each in self._of)
        )  # fmt: skip
        return np.sqrt(np.maximum(squares - total**2 / (height * width), 0)).astype(np.float32)


def _integral(grids: NDArray[np.floating]) -> NDArray[np.float64]:
    sums = grids.cumsum(axis=1, dtype=np.float64).cumsum(axis=2)
    return np.pad(sums, ((0, 0), (1, 0), (1, 0)))


def _correlations(parts: Floats, spectra: NDArray[np.complex64], sums: _Sums, which: Sequence[int]) -> Floats:
    """Of parts (1 or n, h, w) at each place in grids (n or 1): (n, 33 - h, 33 - w)."""
    _, height, width = parts.shape
    centred = parts - parts.mean(axis=(1, 2), keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=(1, 2)))[:, None, None]
    products = fft.irfft2(spectra * np.conj(fft.rfft2(centred, (GRID, GRID))), (GRID, GRID))
    products = products[:, : GRID + 1 - height, : GRID + 1 - width]
    both = norms * sums.spread(which, height, width)
    scores: Floats = np.where(both > FLAT, products / np.maximum(both, FLAT), -1)
    return scores


def _shrunk(grids: Floats, height: int, width: int) -> Floats:
    return (_weights(height) @ grids @ _weights(width).T).astype(np.float32, copy=False)


@cache
def _weights(count: int) -> Floats:
    """(count, 32): the share of each pixel of the grid in each of fewer pixels."""
    edges = np.linspace(0, GRID, count + 1)
    pixels = np.arange(GRID)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: Floats = (np.maximum(inside, 0) * count / GRID).astype(np.float32)
    return shares


def _distance(part: Image.Image, whole: Image.Image, fit: Fit) -> int:
    """Of the hash of a picture from that of the best of the parts near the one that fits."""
    boxes = [
        (fit.left + left, fit.top + top, fit.width + larger * fit.width / fit.height, fit.height + larger)
        for top in AROUND for left in AROUND for larger in AROUND
    ]  # fmt: skip
    parts = [part.resize((SIDE, SIDE), Image.Resampling.BILINEAR)]
    for left, top, width, height in boxes:
        wide, high = whole.width / GRID, whole.height / GRID
        right, bottom = min(left + width, GRID), min(top + height, GRID)
        box = (max(left, 0) * wide, max(top, 0) * high, right * wide, bottom * high)
        parts.append(whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
    hashes = hashes_of(np.stack([np.asarray(each, np.float32) for each in parts]))
    return int(np.bitwise_count(hashes[1:] ^ hashes[0]).sum(axis=1).min())
