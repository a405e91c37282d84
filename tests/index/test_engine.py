"""The contract of every engine. Eight-bit codes of few values make most of each ranking ties."""

from collections.abc import Callable

import numpy as np
import pytest

from index import hamming
from index.engine import Engine, by_id, check_ids, in_order, places_of
from index.hamming import FlatEngine
from index.segmented import SegmentedEngine
from tests.reference import ranking

Make = Callable[[int], Engine]


@pytest.fixture(params=[FlatEngine, SegmentedEngine])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr("index.segmented.LARGEST", 20)
    return request.param


def random_codes(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    return rng.choice(np.array([0, 1, 3, 129], dtype=np.uint8), (n, width))


def filled(make: Make, rng: np.random.Generator, width: int) -> tuple[Engine, dict[int, bytes]]:
    """An engine after additions in random order and removals, and what it should hold."""
    engine, held = make(8 * width), {}
    ids = rng.choice(1000, 120, replace=False)
    for part in np.split(ids, [50, 51, 90]):
        codes = random_codes(rng, len(part), width)
        engine.add(part, codes)
        held |= dict(zip(part.tolist(), (code.tobytes() for code in codes), strict=True))
        gone = rng.choice(part, len(part) // 5, replace=False)
        assert engine.remove(gone) == len(gone)
        for item in gone.tolist():
            del held[item]
    return engine, held


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [1, 5, 32])
def test_search_equals_sorting_by_distance_and_id(make: Make, seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    engine, held = filled(make, rng, width)
    assert len(engine) == len(held)
    queries = random_codes(rng, 40, width)
    some = rng.choice(1000, 500, replace=False)
    for allowed in (None, some, some[:3], np.array(list(held))):
        for k in (1, 2, 7, len(held), len(held) + 5):
            distances, ids = engine.search(queries, k, allowed=allowed)
            assert distances.dtype == np.int32
            assert ids.dtype == np.int64
            for row, query in enumerate(queries):
                expected = ranking(query.tobytes(), held, None if allowed is None else set(allowed.tolist()))
                got = list(zip(distances[row].tolist(), ids[row].tolist(), strict=True))
                assert got == expected[:k]


@pytest.mark.parametrize("seed", range(6))
def test_range_search_finds_all_within_the_radius(make: Make, seed: int) -> None:
    rng = np.random.default_rng(seed)
    engine, held = filled(make, rng, 1)
    queries = random_codes(rng, 10, 1)
    some = rng.choice(1000, 500, replace=False)
    for allowed in (None, some):
        for radius in (0, 1, 2, 8, 300):
            answers = engine.range_search(queries, radius, allowed=allowed)
            for query, (distances, ids) in zip(queries, answers, strict=True):
                assert distances.dtype == np.int32
                assert ids.dtype == np.int64
                expected = ranking(query.tobytes(), held, None if allowed is None else set(allowed.tolist()))
                got = list(zip(distances.tolist(), ids.tolist(), strict=True))
                assert got == [pair for pair in expected if pair[0] <= radius]


@pytest.mark.parametrize("seed", range(6))
def test_count_says_how_many_lie_within_each_radius(
    make: Make, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hamming, "CELLS", 7 * 10)  # seven items at a time
    rng = np.random.default_rng(seed)
    engine, held = filled(make, rng, 5)
    queries, radii = random_codes(rng, 10, 5), rng.integers(-1, 20, 10)
    for allowed in (None, rng.choice(1000, 500, replace=False), np.array([], np.int64)):
        some = None if allowed is None else set(allowed.tolist())
        expected = [
            sum(distance <= radius for distance, _ in ranking(query.tobytes(), held, some))
            for query, radius in zip(queries, radii, strict=True)
        ]
        assert engine.count(queries, radii, allowed=allowed).tolist() == expected
    assert engine.count(queries[:0], radii[:0]).tolist() == []
    assert make(8).count(queries[:2, :1], radii[:2]).tolist() == [0, 0]
    with pytest.raises(ValueError, match="one for each of 10 codes"):
        engine.count(queries, radii[:9])


def test_the_order_of_insertion_does_not_matter(make: Make) -> None:
    codes = np.zeros((5, 1), dtype=np.uint8)
    engine = make(8)
    for item in (30, 10, 50, 20, 40):
        engine.add(np.array([item]), codes[:1])
    assert engine.search(codes[:1], 3)[1].tolist() == [[10, 20, 30]]


def test_an_empty_engine_answers_with_nothing(make: Make) -> None:
    engine, query = make(16), np.zeros((2, 2), dtype=np.uint8)
    assert len(engine) == 0
    assert [part.shape for part in engine.search(query, 3)] == [(2, 0), (2, 0)]
    assert [len(ids) for _, ids in engine.range_search(query, 16)] == [0, 0]
    assert engine.remove(np.array([1])) == 0


def test_no_queries_and_nothing_allowed(make: Make) -> None:
    engine, code = make(8), np.zeros((1, 1), dtype=np.uint8)
    engine.add(np.array([4]), code)
    assert engine.search(code[:0], 3)[1].shape == (0, 1)
    assert engine.range_search(code[:0], 3) == []
    assert engine.search(code, 3, allowed=np.array([], dtype=np.int64))[1].shape == (1, 0)
    assert engine.search(code, 3, allowed=np.array([99]))[1].shape == (1, 0)
    assert len(engine.range_search(code, 8, allowed=np.array([99]))[0][1]) == 0


def test_removing_counts_what_was_there(make: Make) -> None:
    engine = make(8)
    engine.add(np.array([1, 2, 3]), np.zeros((3, 1), dtype=np.uint8))
    assert engine.remove(np.array([2, 2, 77])) == 1
    assert engine.search(np.zeros((1, 1), dtype=np.uint8), 9)[1].tolist() == [[1, 3]]
    engine.add(np.array([2]), np.zeros((1, 1), dtype=np.uint8))
    assert len(engine) == 3


@pytest.mark.parametrize("ids", [[5, 5], [1, 9], [9, 1]])
def test_an_id_is_stored_once(make: Make, ids: list[int]) -> None:
    engine = make(8)
    engine.add(np.array([1]), np.zeros((1, 1), dtype=np.uint8))
    with pytest.raises(ValueError, match=f"id {5 if 5 in ids else 1} "):
        engine.add(np.array(ids), np.zeros((2, 1), dtype=np.uint8))
    assert engine.search(np.zeros((1, 1), dtype=np.uint8), 9)[1].tolist() == [[1]]


@pytest.mark.parametrize(("shape", "kind"), [((1, 2), "uint8"), ((1, 1), "int64"), ((1,), "uint8")])
def test_codes_of_another_shape_are_refused(make: Make, shape: tuple[int, ...], kind: str) -> None:
    engine, codes = make(8), np.zeros(shape, dtype=kind)
    for call in (
        lambda: engine.add(np.array([1]), codes),
        lambda: engine.search(codes, 1),
        lambda: engine.range_search(codes, 1),
    ):
        with pytest.raises(ValueError, match="wanted"):
            call()


def test_arguments_out_of_range_are_refused(make: Make) -> None:
    engine, code = make(8), np.zeros((1, 1), dtype=np.uint8)
    with pytest.raises(ValueError, match="k is 0"):
        engine.search(code, 0)
    with pytest.raises(ValueError, match="radius is -1"):
        engine.range_search(code, -1)
    with pytest.raises(ValueError, match="2 ids for 1 codes"):
        engine.add(np.array([1, 2]), code)
    with pytest.raises(ValueError, match="ids have type float64"):
        engine.add(np.array([1.5]), code)
    with pytest.raises(ValueError, match="bits is 12"):
        make(12)


def test_what_the_caller_does_to_its_arrays_later_changes_nothing(make: Make) -> None:
    engine, ids, codes = make(8), np.array([1, 2]), np.array([[0], [255]], dtype=np.uint8)
    engine.add(ids, codes)
    ids[:], codes[:] = 9, 7
    distances, found = engine.search(np.zeros((1, 1), dtype=np.uint8), 2)
    assert (distances.tolist(), found.tolist()) == ([[0, 8]], [[1, 2]])


def test_items_are_those_added_and_not_removed(make: Make) -> None:
    engine, held = filled(make, np.random.default_rng(0), 5)
    ids, codes = engine.items()
    assert ids.tolist() == sorted(held)
    assert [code.tobytes() for code in codes] == [held[item] for item in sorted(held)]
    assert [part.shape for part in make(8).items()] == [(0,), (0, 1)]


# --- what all engines share --------------------------------------------------------------------------


def test_ids_come_in_order_with_their_codes() -> None:
    codes = np.array([[7], [5], [6]], np.uint8)
    ids, sorted_codes = by_id(np.array([30, 10, 20]), codes, bits=8)
    assert (ids.tolist(), sorted_codes.tolist()) == ([10, 20, 30], [[5], [6], [7]])
    with pytest.raises(ValueError, match="id 10 is given twice"):
        by_id(np.array([10, 30, 10]), codes, bits=8)


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
    assert places_of(np.array([1]), ids[:0]).tolist() == []


def test_order_is_by_distance_then_id() -> None:
    distances, ids = in_order(np.array([1, 0, 1, 0], np.int32), np.array([4, 9, 3, 7]))
    assert (distances.tolist(), ids.tolist()) == ([0, 0, 1, 1], [7, 9, 3, 4])
