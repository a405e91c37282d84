"""FAISS's distances; what its engine does is held by the contract in test_engine.py."""

import numpy as np
import pytest

from index.codes import hamming
from index.hamming import all_distances


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
