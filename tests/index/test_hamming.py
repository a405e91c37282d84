"""FAISS's distances; what its engine does is held by the contract in test_engine.py."""

import itertools

import numpy as np
import pytest

from index.codes import hamming
from index.hamming import FaissEngine, all_distances, having, shares
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


@pytest.mark.parametrize("count", [1, 2, 7, 10, 1000])
@pytest.mark.parametrize("cores", [1, 2, 5])
def test_cores_have_shares_of_all_segments_in_order(count: int, cores: int) -> None:
    segments = engine_with(list(range(count))).snapshot.parts
    divided = shares(segments, cores)
    assert [*itertools.chain(*divided)] == [*segments]
    assert 1 <= len(divided) <= cores and all(divided)


def test_shares_of_equal_segments_are_equal() -> None:
    segments = engine_with([1]).snapshot.parts * 12
    assert [len(share) for share in shares(segments, 4)] == [3, 3, 3, 3]


def test_labels_are_found_however_many_are_wanted() -> None:
    labels = np.array([-1, 0, 3, 3, 40, 7], np.int32)
    for wanted in ([], [3], [-1, 40, 99], [*range(-1, 20)]):
        assert having(labels, wanted).tolist() == [label in wanted for label in labels.tolist()]


def test_a_change_leaves_the_segments_that_it_does_not_concern() -> None:
    engine = engine_with(list(range(7)))  # segments of 4, 2 and 1
    before = engine.snapshot.parts
    engine.apply(changes(7, [5], np.array([[5]], np.uint8), [1]))
    relabelled = engine.snapshot.parts
    assert relabelled[0] is before[0] and relabelled[2] is before[2]
    assert relabelled[1].flat is before[1].flat, "another label moves no code"
    assert before[1].labels.tolist() == [-1, -1]  # who searches them sees them as they were
    assert relabelled[1].labels.tolist() == [-1, 1]
    engine.apply(changes(8, removed=[0]))
    assert engine.snapshot.parts[1:] == relabelled[1:]
    assert before[0].ids.tolist() == [0, 1, 2, 3]
