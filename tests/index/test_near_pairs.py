"""Pairs of near codes against all distances."""

import numpy as np
import pytest
from numpy.typing import NDArray

from index import near_pairs as module
from index.codes import Codes, hamming
from index.near_pairs import TooManyPairs, Ways, all_ways, near_pairs


def four_ways(codes: Codes) -> Codes:
    """As they are, negated, with the bytes in the opposite order, and both."""
    return np.stack([codes, ~codes, codes[:, ::-1], ~codes[:, ::-1]], axis=1).reshape(-1, codes.shape[1])


def clustered(random: np.random.Generator, count: int, width: int, ways: Ways) -> Codes:
    """Different codes around few centres, one in two in another way, and up to a quarter of the bits off."""
    bits = 8 * width
    centres = random.integers(0, 256, (max(1, count // 8), width), dtype=np.uint8)
    off = random.random((count, bits)) < random.random((count, 1)) / 4
    codes = centres[random.integers(0, len(centres), count)] ^ np.packbits(off, axis=1)
    asked = all_ways(codes, ways)
    turned = np.where(random.random(count) < 0.5, random.integers(0, len(asked), count), 0)
    return np.unique(asked[turned, np.arange(count)], axis=0)


def slow(codes: Codes, radius: int, ways: Ways | None) -> set[tuple[int, int]]:
    least = hamming(codes, codes)
    for way in () if ways is None else ways(codes).reshape(len(codes), -1, codes.shape[1]).swapaxes(0, 1):
        least = np.minimum(least, hamming(way, codes))
    rows, columns = np.nonzero(np.triu(least <= radius, 1))
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


def fast(codes: Codes, radius: int, ways: Ways | None) -> set[tuple[int, int]]:
    pairs = set()
    for rows, others in near_pairs(codes, radius, most=10**9, ways=ways):
        pairs |= {(min(pair), max(pair)) for pair in zip(rows.tolist(), others.tolist(), strict=True)}
    return pairs


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Even of few codes not all are compared; the radii for which that was so."""
    by_parts, used = module._by_parts, list[int]()

    def noted(codes: Codes, asked: Codes, radius: int):  # type: ignore[no-untyped-def]
        used.append(radius)
        return by_parts(codes, asked, radius)

    monkeypatch.setattr(module, "FEW", -1)
    monkeypatch.setattr(module, "_looked_at", lambda *_: -1)
    monkeypatch.setattr(module, "_by_parts", noted)
    return used


@pytest.mark.parametrize("ways", [None, four_ways])
@pytest.mark.parametrize(("width", "looked_at"), [(8, 1), (8, 30), (16, 2**18), (32, 2**18)])
def test_by_parts_the_same_pairs_as_by_all(
    tables: list[int], width: int, ways: Ways | None, looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for the largest radius of which one bit of a part may differ, and for the next, where two may."""
    monkeypatch.setattr(module, "LOOKED_AT", looked_at)
    parts = width // 2
    for seed, radius in enumerate((0, parts - 1, parts, 2 * parts - 1, 2 * parts)):
        codes = clustered(np.random.default_rng([width, seed]), 70, width, four_ways)
        expected = slow(codes, radius, ways)
        assert fast(codes, radius, ways) == expected
        assert (radius in tables) == (radius < 2 * parts)
    assert expected


@pytest.mark.parametrize("radius", range(1, 32))
def test_whichever_bits_differ_a_pair_is_found(tables: list[int], radius: int) -> None:
    """As many of 256 as may, spread evenly, at random, or side by side from anywhere: that is where a bound
    of parts would be crossed first. One more is too many."""
    random = np.random.default_rng(radius)
    codes = list[NDArray[np.uint8]]()
    for start in range(256):
        even = (start + np.arange(radius) * 256 // radius) % 256
        for places in (even, random.permutation(256)[:radius], (start + np.arange(radius)) % 256):
            off = np.zeros((3, 256), np.bool_)
            off[1:, places] = True
            off[2, np.flatnonzero(~off[2])[0]] = True
            codes.append(random.integers(0, 256, 32, dtype=np.uint8) ^ np.packbits(off, axis=1))
    expected = {(3 * place, 3 * place + 1) for place in range(len(codes))}
    expected |= {(3 * place + 1, 3 * place + 2) for place in range(len(codes))}
    assert fast(np.concatenate(codes), radius, None) == expected
    assert tables == [radius]


def test_it_looks_at_as_many_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """And at fewer where they are not like each other."""
    seen = list[int]()
    alike = module._Table.alike

    def counted(table, values, words, bound):  # type: ignore[no-untyped-def]
        found = list(alike(table, values, words, 64))
        seen.append(sum(len(rows) for rows, _ in found))
        return iter(found)

    monkeypatch.setattr(module._Table, "alike", counted)
    codes = clustered(np.random.default_rng(3), 300, 32, four_ways)
    asked = all_ways(codes, four_ways)
    for radius in (9, 16, 31):
        seen.clear()
        list(module._by_parts(codes, asked, radius))
        assert sum(seen) == module._looked_at(codes, asked, radius)
    scattered = np.unique(np.random.default_rng(4).integers(0, 256, (3000, 32), dtype=np.uint8), axis=0)
    assert module._looked_at(scattered, scattered[None], 31) < 3000**2 // 100


def test_the_way_that_compares_fewer_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all codes have the same parts, tables tell nothing."""
    monkeypatch.setattr(module, "FEW", 0)
    random = np.random.default_rng(0)
    scattered = random.integers(0, 256, (400, 32), dtype=np.uint8)
    crowded = np.zeros((400, 32), np.uint8)
    crowded[:, :2] = np.arange(400, dtype=np.uint16)[:, None].view(np.uint8)
    with pytest.raises(TooManyPairs) as few:
        near_pairs(scattered, 31, most=0)
    with pytest.raises(TooManyPairs, match=r"79,800 pairs of codes would have to be compared, at most 0 are"):
        near_pairs(crowded, 31, most=0)
    assert int(str(few.value).split()[0].replace(",", "")) < 10_000
    assert len(fast(crowded, 31, None)) == 79_800


def test_nothing_has_no_pairs() -> None:
    for count in (0, 1):
        codes = np.zeros((count, 32), np.uint8)
        assert fast(codes, 31, None) == fast(codes, 31, four_ways) == set()
