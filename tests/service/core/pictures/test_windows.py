"""Parts of pictures: against a search of every place with np.corrcoef, and on crops and borders."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.core.pictures.windows import AROUND, GRID, SHARES, SURE, distances_of_parts, hashes_of_wholes
from tests.samples import without_a_quarter
from tests.service.core.pictures.patches import cropped, picture
from training.nets.pdq import BITS, SAME, pdq

FAR = 80  # bits: no part of a picture is so near to another picture by chance


OTHERS = [picture(seed) for seed in range(1, 20)]
WHOLE = picture(0)


@pytest.mark.parametrize("share", [0.9, 0.866, 0.75, 0.707, 0.6])
@pytest.mark.parametrize("place", [(0, 0), (1, 1), (0.5, 0.5), (0.3, 0.8)])
def test_a_crop_finds_its_picture_and_the_other_way_round(share: float, place: tuple[float, float]) -> None:
    part = cropped(WHOLE, *place, share)
    distances = distances_of_parts(part, [*OTHERS, WHOLE])
    assert distances[-1] < FAR <= distances[:-1].min()
    distances = distances_of_parts(WHOLE, [*OTHERS, part])
    assert distances[-1] < FAR <= distances[:-1].min()


@pytest.mark.parametrize("side", range(4))
def test_a_side_cut_off_finds_its_picture(side: int) -> None:
    distances = distances_of_parts(without_a_quarter(WHOLE, side), [WHOLE, *OTHERS])
    assert distances[0] < FAR <= distances[1:].min()


@pytest.mark.parametrize("box", [(0, 0, 0.75, 1), (0, 0.3, 1, 1), (0.13, 0.13, 1, 1), (0.1, 0, 0.9, 0.8)])
def test_a_whole_has_nearly_one_of_the_hashes_that_it_may_have(
    box: tuple[float, float, float, float],
) -> None:
    """It is nearer than any other; and what is asked with is the part within grey, as numpy pads it."""
    sides = WHOLE.size * 2
    left, top, right, bottom = (round(share * side) for share, side in zip(box, sides, strict=True))
    part = WHOLE.crop((left, top, right, bottom))
    hashes = hashes_of_wholes(part)
    apart = [np.bitwise_count(hashes ^ _hash(each)).sum(axis=1).min() for each in [WHOLE, *OTHERS]]
    assert apart[0] < min(apart[1:]) - 8
    grey = np.asarray(part, np.float32)
    margins = ((top, WHOLE.height - bottom), (left, WHOLE.width - right))
    padded = pdq(np.pad(grey, margins, constant_values=grey.mean())).upright
    assert np.bitwise_count(hashes ^ padded).sum(axis=1).min() <= 64


def _hash(image: Image.Image) -> NDArray[np.uint8]:
    return pdq(np.asarray(image, np.float32)).upright


@pytest.mark.parametrize("colour", [0, 128, 255])
@pytest.mark.parametrize("border", [13, (16, 0), (0, 12)])
def test_a_border_hides_no_picture(colour: int, border: int | tuple[int, int]) -> None:
    distances = distances_of_parts(ImageOps.expand(WHOLE, border, colour), [WHOLE, *OTHERS])
    assert distances[0] < FAR <= distances[1:].min()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_nothing_is_a_part_of_one_grey_or_has_it_as_a_part(grey: int) -> None:
    plain = Image.new("L", (128, 96), grey)
    assert distances_of_parts(plain, OTHERS).tolist() == [BITS] * len(OTHERS)
    assert distances_of_parts(WHOLE, [plain]).tolist() == [BITS]


def test_no_pictures() -> None:
    assert distances_of_parts(WHOLE, []).shape == (0,)


@pytest.mark.parametrize("size", [(1, 1), (3, 128), (128, 1), (5, 7)])
def test_pictures_of_any_shape_can_be_compared(size: tuple[int, int]) -> None:
    small = picture(2, *size)
    assert distances_of_parts(small, [WHOLE, small, *OTHERS]).shape == (2 + len(OTHERS),)
    assert distances_of_parts(WHOLE, [small]).shape == (1,)


def test_only_those_that_fit_best_are_hashed() -> None:
    parts = [cropped(WHOLE, 0.4, 0.4, 0.8)] * (SURE + 4)
    assert np.count_nonzero(distances_of_parts(WHOLE, parts) < BITS) == SURE


# --- the slow way ----------------------------------------------------------------------------------


def on_grid(whole: Image.Image, height: int = GRID, width: int = GRID) -> NDArray[np.float64]:
    grid = np.asarray(whole.resize((GRID, GRID), Image.Resampling.BILINEAR), np.float64)
    fine = grid.repeat(height, axis=0).repeat(width, axis=1)  # each pixel cut into as many as there shall be
    return fine.reshape(height, GRID, width, GRID).mean(axis=(1, 3))


def best_place(part: Image.Image, whole: Image.Image) -> tuple[float, tuple[int, int, int, int]]:
    """The best correlation of a part, and left, top, width and height of where it fits."""
    high, wide = part.height / whole.height, part.width / whole.width
    best, grid = (-1.0, (0, 0, GRID, GRID)), on_grid(whole)
    for share in SHARES:
        height, width = (round(GRID * share * ratio / max(high, wide)) for ratio in (high, wide))
        if min(height, width) < GRID // 4 or (height, width) == (GRID, GRID):
            continue
        small = on_grid(part, height, width).ravel()
        for top in range(GRID + 1 - height):
            for left in range(GRID + 1 - width):
                score = np.corrcoef(small, grid[top : top + height, left : left + width].ravel())[0, 1]
                best = max(best, (float(score), (left, top, width, height)))
    return best


def slow(query: Image.Image, other: Image.Image) -> int:
    inside, outside = best_place(query, other), best_place(other, query)
    part, whole, place = (query, other, inside[1]) if inside[0] >= outside[0] else (other, query, outside[1])
    left, top, width, height = place
    hashed, least = bits_of(part.resize((64, 64), Image.Resampling.BILINEAR)), BITS
    for down in AROUND:
        for along in AROUND:
            for larger in AROUND:
                x, y = left + along, top + down
                edges = (x, y, min(x + width + larger * width / height, GRID), min(y + height + larger, GRID))
                scales = (whole.width / GRID, whole.height / GRID) * 2
                box = tuple(max(edge, 0) * scale for edge, scale in zip(edges, scales, strict=True))
                there = whole.resize((64, 64), Image.Resampling.BILINEAR, box=box)
                least = min(least, int((bits_of(there) != hashed).sum()))
    return least


def bits_of(small: Image.Image) -> NDArray[np.uint8]:
    return np.unpackbits(pdq(np.asarray(small, np.float32)).upright)


@pytest.mark.parametrize("size", [(128, 96), (96, 128), (128, 40)])
def test_the_same_as_looking_everywhere(size: tuple[int, int]) -> None:
    query = cropped(WHOLE, 0.2, 0.7, 0.8)
    pictures = [WHOLE, picture(30, *size), cropped(query, 0.5, 0.5, 0.7)]
    found = distances_of_parts(query, pictures).tolist()
    assert found == [slow(query, each) for each in pictures]
    assert found[0] <= SAME + 20 and found[2] <= SAME + 20
