"""Groups of near codes against components found one step at a time."""

from collections.abc import Iterator

import numpy as np
import pytest

from index import near_pairs
from index.codes import Codes, hamming
from index.duplicates import groups_within
from index.near_pairs import TooManyPairs, Ways
from tests.index.test_near_pairs import four_ways


def one_by_one(codes: Codes, radius: int, ways: Ways = lambda codes: codes) -> Iterator[list[int]]:
    """Components by walking from each code to those near it."""
    near = (hamming(ways(codes), codes) <= radius).reshape(len(codes), -1, len(codes)).any(axis=1)
    left = set(range(len(codes)))
    while left:
        group, ahead = set[int](), [min(left)]
        while ahead:
            place = ahead.pop()
            if place not in group:
                group.add(place)
                ahead += np.flatnonzero(near[place]).tolist()
        left -= group
        if len(group) > 1:
            yield sorted(group)


@pytest.mark.parametrize("cells", [1, 200, 2**20])
@pytest.mark.parametrize("radius", range(7))
@pytest.mark.parametrize("width", [2, 32])
def test_groups_are_the_connected_components(
    width: int, radius: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_pairs, "CELLS", cells)
    random = np.random.default_rng(width)
    centres = random.integers(0, 256, (12, width), dtype=np.uint8)
    flips = np.packbits(random.random((150, 8 * width)) < 0.4 * random.random((150, 1)) / width, axis=1)
    codes = centres[random.integers(0, 12, 150)] ^ flips
    expected = sorted(one_by_one(codes, radius), key=lambda group: (-len(group), group[0]))
    assert [group.tolist() for group in groups_within(codes, radius, most=10**6)] == expected
    assert expected


def test_a_chain_is_one_group() -> None:
    """Its ends lie far apart: single linkage."""
    steps = np.tril(np.ones((256, 256), np.bool_))
    codes = np.packbits(steps, axis=1)
    shuffled = codes[np.random.default_rng(0).permutation(256)]
    (group,) = groups_within(shuffled, 1, most=10**6)
    assert group.tolist() == list(range(256))
    assert groups_within(shuffled, 0, most=0) == []


def test_too_many_pairs_are_refused_before_any_is_compared() -> None:
    codes = np.arange(200, dtype=np.uint8)[:, None]
    with pytest.raises(TooManyPairs, match="19,900 pairs of codes"):
        groups_within(codes, 8, most=19_899)
    assert len(groups_within(codes, 8, most=19_900)) == 1
    assert groups_within(codes, 0, most=0) == []


def test_nothing_and_nonsense() -> None:
    for radius in (0, 4):
        assert groups_within(np.empty((0, 32), np.uint8), radius, most=9) == []
        assert groups_within(np.empty((0, 32), np.uint8), radius, most=9, ways=four_ways) == []
    assert groups_within(np.zeros((1, 32), np.uint8), 4, most=9) == []
    with pytest.raises(ValueError, match="radius is -1"):
        groups_within(np.zeros((1, 32), np.uint8), -1, most=9)


@pytest.mark.parametrize("radius", [0, 1, 7, 31])
def test_groups_in_any_way(radius: int) -> None:
    """Also where one of a group has to be turned to be near the next."""
    random = np.random.default_rng(radius)
    centres = random.integers(0, 256, (12, 32), dtype=np.uint8)
    off = np.packbits(random.random((90, 256)) < radius / 512, axis=1)
    codes = four_ways(centres[random.integers(0, 12, 90)] ^ off)
    turned = codes[np.arange(90) * 4 + random.integers(0, 4, 90)]
    expected = sorted(one_by_one(turned, radius, four_ways), key=lambda group: (-len(group), group[0]))
    found = groups_within(turned, radius, most=10**6, ways=four_ways)
    assert [group.tolist() for group in found] == expected
    assert expected[0] not in list(one_by_one(turned, radius))
