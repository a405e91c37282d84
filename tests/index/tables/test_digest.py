"""The digest against the same sum in Python's own integers, and carried on."""

import numpy as np
import pytest

from index.items import UNLABELLED, CodeTable
from index.tables.digest import digest

WORD = 2**64


def table(count, width, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(10 * count, count, replace=False)) + 1
    codes = rng.integers(0, 256, (count, width), dtype=np.uint8)
    return CodeTable(ids, rng.integers(UNLABELLED, 3, count), codes)


def split_mix(value):
    value = (value + 0x9E3779B97F4A7C15) % WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB % WORD
    return value ^ value >> 31


def slow(rows):
    total = 0
    for id_, label, code in zip(rows.ids.tolist(), rows.labels.tolist(), rows.codes, strict=True):
        hashed = split_mix(split_mix(id_) ^ label % WORD)
        for at in range(0, len(code), 8):
            hashed = split_mix(hashed ^ int.from_bytes(code[at : at + 8].tobytes(), "little"))
        total += hashed
    return total % WORD


@pytest.mark.parametrize("width", [1, 8, 12, 32])
def test_is_the_sum_of_the_rows_hashes(width):
    rows = table(50, width)
    assert digest(rows) == slow(rows)


def test_has_no_order_and_is_carried_on_by_addition():
    rows = table(40, 32)
    order = np.random.default_rng(1).permutation(40)
    parts = [CodeTable(rows.ids[at], rows.labels[at], rows.codes[at]) for at in np.array_split(order, 3)]
    assert sum(map(digest, parts)) % WORD == digest(rows)
    assert digest(CodeTable(rows.ids[:0], rows.labels[:0], rows.codes[:0])) == 0


@pytest.mark.parametrize("column", ["ids", "labels", "codes"])
def test_tells_one_changed_value(column):
    rows = table(20, 32)
    before = digest(rows)
    getattr(rows, column).flat[7] ^= 1
    assert digest(rows) != before
