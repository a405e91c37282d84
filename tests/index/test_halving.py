"""Rankings from a program that breaks ties as it likes and names few items at a time, against a sort."""

import numpy as np
import pytest

from index.codes import Codes, hamming
from index.halving import Found, Span, count, nearest, within


class Program:
    """It names at most `most` items, and those at one distance in an order of its own."""

    def __init__(self, rng: np.random.Generator, items: int, width: int, most: int) -> None:
        self.rng, self.most = rng, most
        self.ids = np.sort(rng.choice(10 * items + 1, items, replace=False)).astype(np.int64)
        self.codes = rng.choice(np.array([0, 1, 3, 129], np.uint8), (items, width))
        self.named: list[int] = []

    def __call__(self, codes: Codes, limit: int, span: Span) -> list[Found]:
        assert 1 <= limit <= self.most
        inside = np.ones(len(self.ids), bool)
        if span.low is not None:
            inside &= self.ids >= span.low
        if span.high is not None:
            inside &= self.ids < span.high
        ids, found = self.ids[inside], []
        for distances in hamming(codes, self.codes[inside]):
            order = np.lexsort((self.rng.random(len(ids)), distances))[:limit]
            found.append((distances[order], ids[order]))
            self.named.append(len(order))
        return found

    def ranking(self, code: Codes) -> list[tuple[int, int]]:
        """All (distance, id), sorted."""
        return sorted(zip(hamming(code[None], self.codes)[0].tolist(), self.ids.tolist(), strict=True))


def pairs(found: Found) -> list[tuple[int, int]]:
    assert (found[0].dtype, found[1].dtype) == (np.int32, np.int64)
    return list(zip(found[0].tolist(), found[1].tolist(), strict=True))


@pytest.mark.parametrize("most", [2, 3, 10, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_all_three_agree_with_a_sort(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    items, width = int(rng.integers(0, 300)), int(rng.choice([1, 5]))
    program = Program(rng, items, width, most)
    codes = rng.choice(np.array([0, 1, 3, 129], np.uint8), (4, width))
    rankings = [program.ranking(code) for code in codes]
    for k in (1, 2, 7, 50, items + 3):
        assert [pairs(each) for each in nearest(program, codes, k, most)] == [all_[:k] for all_ in rankings]
    for radius in (0, 1, 3, 60):
        wanted = [[each for each in all_ if each[0] <= radius] for all_ in rankings]
        assert [pairs(each) for each in within(program, codes, radius, most)] == wanted
    radii = rng.integers(-1, 12, len(codes)).astype(np.int32)
    near = [sum(each <= radius for each, _ in all_) for all_, radius in zip(rankings, radii, strict=True)]
    assert count(program, codes, radii, most).tolist() == near
    assert nearest(program, codes[:0], 3, most) == within(program, codes[:0], 3, most) == []
    assert count(program, codes[:0], radii[:0], most).tolist() == []


def test_of_many_at_one_distance_those_with_low_ids_are_found_without_the_others() -> None:
    program = Program(np.random.default_rng(0), 4000, 1, 100)
    program.codes[:] = 7
    ((_, ids),) = nearest(program, np.zeros((1, 1), np.uint8), 10, 100)
    assert ids.tolist() == program.ids[:10].tolist()
    assert sum(program.named) < 1500, "each answer about halves what is left"
