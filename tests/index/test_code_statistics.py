"""Statistics of codes against plain ones."""

import math
from collections import Counter

import numpy as np
import pytest

from index import code_statistics
from index.code_statistics import bit_statistics, same_code
from index.codes import Codes, pack


def correlated(n: int, seed: int = 0) -> Codes:
    """24 bits: some follow each other, one that is dead, one that is another's inverse."""
    random = np.random.default_rng(seed)
    bits = random.random((n, 24)) < random.random(24)
    bits[:, 4:12] ^= bits[:, :1]
    bits[:, 20] = True
    bits[:, 21] = ~bits[:, 3]
    return pack(bits)


def pearson(x: list[int], y: list[int]) -> float:
    n, mean_x, mean_y = len(x), math.fsum(x) / len(x), math.fsum(y) / len(y)
    both = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / n
    of_x, of_y = (math.fsum((a - m) ** 2 for a in z) / n for z, m in ((x, mean_x), (y, mean_y)))
    return both / math.sqrt(of_x * of_y) if of_x * of_y else math.nan


@pytest.mark.parametrize("block", [7, 2**15])
def test_statistics_are_those_of_a_plain_count(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_statistics, "BLOCK", block)
    codes = correlated(50)
    columns = np.unpackbits(codes, axis=1).T.tolist()
    found = bit_statistics(codes)
    for bit, column in enumerate(columns):
        share = sum(column) / 50
        assert found.balance[bit] == share
        terms = [p * math.log2(p) for p in (share, 1 - share) if p]
        assert found.entropy[bit] == pytest.approx(-sum(terms), abs=1e-12)
    expected = np.array([[pearson(x, y) for y in columns] for x in columns])
    assert found.correlation == pytest.approx(expected, abs=1e-12, nan_ok=True)
    dead = [bit for bit, column in enumerate(columns) if len(set(column)) == 1]
    assert found.dead.tolist() == dead
    assert 20 in dead

    living = [bit for bit in range(24) if bit not in dead]
    pairs = [(x, y, expected[x, y]) for x in living for y in living if x < y]
    assert found.mean_absolute_correlation == pytest.approx(np.mean([abs(r) for _, _, r in pairs]))
    eigenvalues = np.linalg.eigvalsh(expected[np.ix_(living, living)])
    assert found.effective == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    top = found.most_correlated(5)
    assert top[0] == (3, 21, pytest.approx(-1.0))
    assert [abs(r) for _, _, r in top] == pytest.approx(sorted((abs(r) for *_, r in pairs), reverse=True)[:5])
    assert len(found.most_correlated(10**6)) == len(pairs)


def test_effective_bits_lie_between_one_and_all() -> None:
    everything = np.arange(256, dtype=np.uint8)[:, None]
    assert bit_statistics(everything).effective == pytest.approx(8)
    assert bit_statistics(np.array([[0], [255]], np.uint8)).effective == pytest.approx(1)


def test_codes_that_never_change_are_dead_and_not_an_error() -> None:
    found = bit_statistics(np.full((3, 2), 0xF0, np.uint8))
    assert len(found.dead) == 16
    assert found.entropy.tolist() == [0.0] * 16
    assert (found.effective, found.mean_absolute_correlation, found.most_correlated(9)) == (0.0, 0.0, [])
    with pytest.raises(ValueError, match="no codes"):
        bit_statistics(np.empty((0, 2), np.uint8))


@pytest.mark.parametrize("width", [1, 8, 9])
def test_equal_codes_come_together(width: int) -> None:
    codes = np.random.default_rng(width).integers(0, 2, (60, width), dtype=np.uint8)
    order, starts = same_code(codes)
    assert sorted(order.tolist()) == list(range(60))
    groups = np.split(order, starts[1:])
    for group in groups:
        assert len({codes[place].tobytes() for place in group}) == 1
        assert group.tolist() == sorted(group.tolist())
    sizes = Counter(code.tobytes() for code in codes).values()
    assert sorted(map(len, groups)) == sorted(sizes)


def test_no_codes_are_in_order() -> None:
    order, starts = same_code(np.empty((0, 32), np.uint8))
    assert len(order) == len(starts) == 0
