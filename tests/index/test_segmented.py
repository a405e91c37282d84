"""What the segmented engine has beside the contract in test_engine: copies, and few segments."""

import numpy as np
import pytest

from index.segmented import LARGEST, SegmentedEngine


def engine_with(ids: list[int]) -> SegmentedEngine:
    engine = SegmentedEngine(8)
    for item in ids:
        engine.add(np.array([item]), np.array([[item % 256]], np.uint8))
    return engine


def test_a_copy_stays_as_it_was() -> None:
    engine = engine_with(list(range(20)))
    before = engine.copy()
    engine.remove(np.arange(5, 15))
    engine.add(np.array([99]), np.array([[99]], np.uint8))
    assert before.items()[0].tolist() == list(range(20))
    changed = before.copy()
    changed.remove(np.array([0]))
    assert engine.items()[0].tolist() == [*range(5), *range(15, 20), 99]
    query = np.array([[0]], np.uint8)
    assert [each.search(query, 1)[1].tolist() for each in (before, engine, changed)] == [[[0]], [[0]], [[1]]]


@pytest.mark.parametrize("count", [1, 2, 1000, 1023, 1024])
def test_items_added_one_by_one_lie_in_few_segments(count: int) -> None:
    engine = engine_with(list(range(count)))
    assert len(engine._segments) == count.bit_count()  # as a binary counter has ones
    assert len(engine) == count


def test_no_segment_is_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.segmented.LARGEST", 100)
    engine = SegmentedEngine(8)
    for start, count in ((0, 250), (250, 60), (310, 1), (311, 99)):
        engine.add(np.arange(start, start + count), np.zeros((count, 1), np.uint8))
    assert max(map(len, engine._segments)) <= 100
    assert engine.items()[0].tolist() == list(range(410))
    assert LARGEST * 32 < 2**24  # bytes that a removal copies at most


def test_an_id_in_another_segment_is_refused() -> None:
    engine = engine_with([1, 2, 3])
    with pytest.raises(ValueError, match="id 2 is already stored"):
        engine.add(np.array([7, 2]), np.zeros((2, 1), np.uint8))
    assert len(engine) == 3
