"""FAISS's distances; what its engine does is held by the contract in test_engine.py."""

import numpy as np
import pytest

from index.codes import hamming
from index.hamming import LARGEST, FaissEngine, all_distances
from tests.index.test_engine import changes


@pytest.mark.parametrize("width", [1, 5, 8, 32])
def test_all_distances_are_those_that_numpy_counts(width: int) -> None:
    rng = np.random.default_rng(width)
    queries, database = (rng.integers(0, 256, (n, width), np.uint8) for n in (7, 40))
    found = all_distances(queries, database)
    assert found.dtype == np.int32
    assert np.array_equal(found, hamming(queries, database))


def test_without_queries_or_database_there_are_no_distances() -> None:
    codes = np.zeros((3, 4), np.uint8)
    assert all_distances(codes[:0], codes).shape == (0, 3)
    assert all_distances(codes, codes[:0]).shape == (3, 0)


def engine_with(ids: list[int]) -> FaissEngine:
    engine = FaissEngine(8)
    for revision, item in enumerate(ids):
        engine.apply(changes(revision, [item], np.array([[item % 256]], np.uint8)))
    return engine


@pytest.mark.parametrize(
    "count", [1, 2, 1000, *(pytest.param(count, marks=pytest.mark.long) for count in (1023, 1024))]
)
def test_items_added_one_by_one_lie_in_few_segments(count: int) -> None:
    engine = engine_with(list(range(count)))
    assert len(engine._state.segments) == count.bit_count()  # as a binary counter has ones
    assert len(engine) == count


def test_no_segment_is_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LARGEST * 32 < 2**24  # bytes that a removal copies at most
    monkeypatch.setattr("index.hamming.LARGEST", 100)
    engine = FaissEngine(8)
    for revision, (start, count) in enumerate(((0, 250), (250, 60), (310, 1), (311, 99))):
        engine.apply(changes(revision, range(start, start + count)))
    assert max(map(len, engine._state.segments)) <= 100
    assert engine.search(np.zeros((1, 1), np.uint8), 500)[1][0].tolist() == list(range(410))


def test_a_change_leaves_the_segments_that_it_does_not_concern() -> None:
    engine = engine_with(list(range(7)))  # segments of 4, 2 and 1
    before = engine._state.segments
    engine.apply(changes(7, [5], np.array([[5]], np.uint8), [1]))
    relabelled = engine._state.segments
    assert relabelled[0] is before[0] and relabelled[2] is before[2]
    assert relabelled[1].flat is before[1].flat, "another label moves no code"
    assert before[1].labels.tolist() == [-1, -1]  # who searches them sees them as they were
    assert relabelled[1].labels.tolist() == [-1, 1]
    engine.apply(changes(8, removed=[0]))
    assert engine._state.segments[1:] == relabelled[1:]
    assert before[0].ids.tolist() == [0, 1, 2, 3]
