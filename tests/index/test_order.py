"""Ids and orders; what engines make of them is held by the contract in test_engine.py."""

import numpy as np
import pytest

from index.items import CodeTable
from index.order import are_in, by_id, check_ids, in_order, places_of


def table(ids: list[int], codes: list[list[int]]) -> CodeTable:
    return CodeTable(np.array(ids), np.array(ids) % 7, np.array(codes, np.uint8))


def test_items_come_by_id_with_their_labels_and_codes() -> None:
    found = by_id(table([30, 10, 20], [[7], [5], [6]]), bits=8)
    assert (found.ids.tolist(), found.labels.tolist()) == ([10, 20, 30], [3, 6, 2])
    assert found.codes.tolist() == [[5], [6], [7]]
    with pytest.raises(ValueError, match="id 10 is given twice"):
        by_id(table([10, 30, 10], [[7], [5], [6]]), bits=8)
    with pytest.raises(ValueError, match="2 ids for 1 codes"):
        by_id(table([10, 30], [[7]]), bits=8)


def test_ids_are_a_copy_in_64_bits() -> None:
    given = np.array([3, 1], np.int32)
    ids = check_ids(given)
    given[:] = 9
    assert (ids.dtype, ids.tolist()) == (np.int64, [3, 1])
    assert check_ids([]).dtype == np.int64  # an empty list has no type of integers
    for bad in (np.array([[1]]), np.array([1.0]), np.array(["1"])):
        with pytest.raises(ValueError, match="ids have type"):
            check_ids(bad)


def test_places_are_of_what_is_there() -> None:
    ids = np.array([2, 4, 8])
    assert places_of(np.array([8, 1, 4, 9, 5]), ids).tolist() == [2, 1]
    assert are_in(np.array([8, 1, 4, 9, 5]), ids).tolist() == [True, False, True, False, False]
    assert places_of(np.array([1]), ids[:0]).tolist() == []


def test_order_is_by_distance_then_id() -> None:
    distances, ids = in_order(np.array([1, 0, 1, 0], np.int32), np.array([4, 9, 3, 7]))
    assert (distances.tolist(), ids.tolist()) == ([0, 0, 1, 1], [7, 9, 3, 4])
