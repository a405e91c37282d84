"""The contract of every engine. Eight-bit codes of few values make most of each ranking ties."""

import threading
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
import pytest

from index import hamming
from index.engine import Behind, Engine
from index.hamming import FaissEngine
from index.items import UNLABELLED, Changes, CodeTable
from index.ivf import IvfEngine
from tests import milvus
from tests.index.settled import SettledEngine
from tests.reference import ranking
from tests.remote_engine import RemoteEngine

Make = Callable[[int], Engine]


class Held(NamedTuple):
    """An item that an engine should have."""

    label: int
    code: bytes


def all_cells(bits: int) -> IvfEngine:
    """One that searches all cells, once there are some, and then misses nothing."""
    return SettledEngine(bits, wanted=1, least=20)


@pytest.fixture(
    params=[
        *(FaissEngine, all_cells, RemoteEngine),
        pytest.param("postgresql_engines", marks=pytest.mark.process),
        pytest.param("in_milvus", marks=milvus.CLUSTER),
    ]
)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """What makes an engine of each kind; of those that need a server, the name of its fixture."""
    monkeypatch.setattr("index.snapshot.LARGEST", 20)
    monkeypatch.setattr("index.ivf.WORTH", 1)
    monkeypatch.setattr("index.hamming.SHARED", 300)
    monkeypatch.setattr("index.hamming.CORES", 2)
    return request.getfixturevalue(request.param) if isinstance(request.param, str) else request.param


def random_codes(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    return rng.choice(np.array([0, 1, 3, 129], dtype=np.uint8), (n, width))


def changes(
    revision: int,
    ids: Collection[int] = (),
    codes: np.ndarray | None = None,
    labels: Collection[int] | None = None,
    removed: Collection[int] = (),
) -> Changes:
    """Items with these codes (n, width), eight bits of zero if not given, and ids that are gone."""
    codes = np.zeros((len(ids), 1), np.uint8) if codes is None else codes
    given = np.array([UNLABELLED] * len(ids) if labels is None else list(labels), np.int64)
    return Changes(revision, CodeTable(np.array(ids), given, codes), np.array(removed, np.int64), ())


def filled(make: Make, rng: np.random.Generator, width: int) -> tuple[Engine, dict[int, Held]]:
    """An engine after items came in random order, were removed, and were given other labels and codes; and
    what it should hold."""
    engine, held = make(8 * width), dict[int, Held]()
    ids = rng.choice(1000, 120, replace=False)
    for revision, part in enumerate(np.split(ids, [50, 51, 90])):
        old = rng.choice(sorted(held), len(held) // 4, replace=False) if held else np.empty(0, np.int64)
        gone, other = np.split(old, [len(old) // 2])
        both = rng.permutation(np.concatenate([part, other]))
        codes, labels = random_codes(rng, len(both), width), rng.integers(-1, 3, len(both))
        for row, item in enumerate(both.tolist()):
            if item in held and rng.integers(2):  # another label only
                codes[row] = np.frombuffer(held[item].code, np.uint8)
            held[item] = Held(int(labels[row]), codes[row].tobytes())
        for item in gone.tolist():
            del held[item]
        engine.apply(changes(revision, both, codes, labels.tolist(), gone))
        assert engine.revision == revision
    return engine, held


def expected(
    query: np.ndarray, held: Mapping[int, Held], labels: Collection[int] | None
) -> list[tuple[int, int]]:
    """All (distance, id) of those with one of the labels, sorted."""
    allowed = {item for item, (label, _) in held.items() if labels is None or label in labels}
    return ranking(query.tobytes(), {item: code for item, (_, code) in held.items()}, allowed)


FILTERS: list[list[int] | None] = [None, [0], [2, UNLABELLED], [1, 7], [7], []]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [1, 5, 32])
def test_search_equals_sorting_by_distance_and_id(make: Make, seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    engine, held = filled(make, rng, width)
    assert len(engine) == len(held)
    queries = random_codes(rng, 10, width)
    for labels in FILTERS:
        for k in (1, 2, 7, len(held), len(held) + 5):
            distances, ids = engine.search(queries, k, labels=labels, at_least=3)
            assert distances.dtype == np.int32
            assert ids.dtype == np.int64
            for row, query in enumerate(queries):
                got = list(zip(distances[row].tolist(), ids[row].tolist(), strict=True))
                assert got == expected(query, held, labels)[:k]


@pytest.mark.parametrize("seed", range(6))
def test_range_search_finds_all_within_the_radius(make: Make, seed: int) -> None:
    rng = np.random.default_rng(seed)
    engine, held = filled(make, rng, 1)
    queries = random_codes(rng, 10, 1)
    for labels in FILTERS:
        for radius in (0, 1, 2, 8, 300):
            answers = engine.range_search(queries, radius, labels=labels, at_least=3)
            for query, (distances, ids) in zip(queries, answers, strict=True):
                assert distances.dtype == np.int32
                assert ids.dtype == np.int64
                got = list(zip(distances.tolist(), ids.tolist(), strict=True))
                assert got == [pair for pair in expected(query, held, labels) if pair[0] <= radius]


@pytest.mark.parametrize("seed", range(6))
def test_count_says_how_many_lie_within_each_radius(
    make: Make, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hamming, "CELLS", 7 * 10)  # seven items at a time
    rng = np.random.default_rng(seed)
    engine, held = filled(make, rng, 5)
    queries, radii = random_codes(rng, 10, 5), rng.integers(-1, 20, 10)
    for labels in FILTERS:
        counts = [
            sum(distance <= radius for distance, _ in expected(query, held, labels))
            for query, radius in zip(queries, radii, strict=True)
        ]
        assert engine.count(queries, radii, labels=labels, at_least=3).tolist() == counts
    assert engine.count(queries[:0], radii[:0]).tolist() == []
    empty = make(8)
    empty.apply(changes(0))
    assert empty.count(queries[:2, :1], radii[:2]).tolist() == [0, 0]
    with pytest.raises(ValueError, match="one for each of 10 codes"):
        engine.count(queries, radii[:9])


def test_the_order_of_insertion_does_not_matter(make: Make) -> None:
    engine = make(8)
    for revision, item in enumerate((30, 10, 50, 20, 40)):
        engine.apply(changes(revision, [item]))
    assert engine.search(np.zeros((1, 1), np.uint8), 3, at_least=4)[1].tolist() == [[10, 20, 30]]


def test_an_empty_engine_answers_with_nothing(make: Make) -> None:
    engine, query = make(16), np.zeros((2, 2), dtype=np.uint8)
    assert engine.revision < 0
    engine.apply(changes(0, codes=query[:0]))
    assert len(engine) == 0
    assert [part.shape for part in engine.search(query, 3)] == [(2, 0), (2, 0)]
    assert [len(ids) for _, ids in engine.range_search(query, 16)] == [0, 0]
    engine.apply(changes(1, codes=query[:0], removed=[1]))
    assert len(engine) == 0


def test_no_queries_and_no_item_with_the_label(make: Make) -> None:
    engine, code = make(8), np.zeros((1, 1), dtype=np.uint8)
    engine.apply(changes(0, [4], labels=[2]))
    assert len(engine.search(code[:0], 3)[1]) == 0
    assert engine.range_search(code[:0], 3) == []
    assert engine.search(code, 3, labels=[])[1].shape == (1, 0)
    assert engine.search(code, 3, labels=[1])[1].shape == (1, 0)
    assert len(engine.range_search(code, 8, labels=[1])[0][1]) == 0


def test_an_item_takes_the_place_of_the_one_with_its_id(make: Make) -> None:
    engine, codes = make(8), np.array([[0], [0], [255]], np.uint8)
    engine.apply(changes(0, [1, 2, 3], codes, [0, 1, 2]))
    engine.apply(changes(1, [2], codes[:1], [2]))  # another label
    assert engine.search(codes[:1], 9, labels=[2], at_least=1)[1].tolist() == [[2, 3]]
    engine.apply(changes(2, [1], codes[2:], [0]))  # another code
    distances, ids = engine.search(codes[:1], 9, at_least=2)
    assert (distances.tolist(), ids.tolist()) == ([[0, 8, 8]], [[2, 1, 3]])
    assert len(engine) == 3


def test_changes_may_be_applied_again_and_older_ones_do_nothing(make: Make) -> None:
    engine, code = make(8), np.zeros((1, 1), np.uint8)
    engine.apply(changes(3, [1, 2]))
    engine.apply(changes(5, [2, 3], removed=[1, 77]))
    engine.apply(changes(5, [2, 3], removed=[1, 77]))
    engine.apply(changes(4, [1, 9]))
    assert engine.revision == 5
    assert engine.search(code, 9, at_least=5)[1].tolist() == [[2, 3]]


def test_what_was_removed_at_a_revision_is_never_found_from_then_on(make: Make) -> None:
    """Also by those who ask while it is being removed."""
    engine, code = make(8), np.zeros((1, 1), np.uint8)
    engine.apply(changes(0, range(100)))
    found = list[tuple[int, list[int]]]()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            at_least = engine.revision
            found.append((at_least, engine.search(code, 200, at_least=at_least)[1][0].tolist()))

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    for revision in range(1, 60):
        engine.apply(changes(revision, removed=[revision]))
    done.set()
    for thread in asking:
        thread.join()
    for at_least, ids in found:
        first = next((item for item in range(1, 60) if item in ids), 60)
        assert first > at_least
        assert ids == [0, *range(first, 100)], "an answer is that of one revision"
    assert engine.search(code, 200, at_least=59)[1][0].tolist() == [0, *range(60, 100)]


def test_a_revision_that_nobody_applied_is_not_answered(make: Make) -> None:
    engine, code = make(8), np.zeros((1, 1), np.uint8)
    engine.apply(changes(4, [1]))
    for call in (
        lambda: engine.search(code, 1, at_least=5),
        lambda: engine.range_search(code, 1, at_least=5),
        lambda: engine.count(code, np.array([3]), at_least=5),
    ):
        with pytest.raises(Behind, match="at revision 4, 5 was asked for"):
            call()


def test_an_id_comes_once(make: Make) -> None:
    engine = make(8)
    engine.apply(changes(0, [1]))
    with pytest.raises(ValueError, match="id 5 is given twice"):
        engine.apply(changes(1, [5, 7, 5]))
    assert engine.search(np.zeros((1, 1), dtype=np.uint8), 9)[1].tolist() == [[1]]


@pytest.mark.parametrize(("shape", "kind"), [((1, 2), "uint8"), ((1, 1), "int64"), ((1,), "uint8")])
def test_codes_of_another_shape_are_refused(make: Make, shape: tuple[int, ...], kind: str) -> None:
    engine, codes = make(8), np.zeros(shape, dtype=kind)
    engine.apply(changes(0))
    for call in (
        lambda: engine.apply(changes(1, [1], codes)),
        lambda: engine.search(codes, 1),
        lambda: engine.range_search(codes, 1),
    ):
        with pytest.raises(ValueError, match="wanted"):
            call()
    assert (engine.revision, len(engine)) == (0, 0)


def test_arguments_out_of_range_are_refused(make: Make) -> None:
    engine, code = make(8), np.zeros((1, 1), dtype=np.uint8)
    engine.apply(changes(0))
    with pytest.raises(ValueError, match="k is 0"):
        engine.search(code, 0)
    with pytest.raises(ValueError, match="radius is -1"):
        engine.range_search(code, -1)
    with pytest.raises(ValueError, match="2 ids for 1 codes"):
        engine.apply(changes(1, [1, 2], code))
    with pytest.raises(ValueError, match="ids have type float64"):
        engine.apply(changes(1, [1.5], code))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="bits is 12"):
        make(12)


def test_what_the_caller_does_to_its_arrays_later_changes_nothing(make: Make) -> None:
    engine, given = make(8), changes(0, [1, 2], np.array([[0], [255]], np.uint8), [0, 1])
    engine.apply(given)
    given.table.ids[:], given.table.codes[:], given.table.labels[:] = 9, 7, 5
    distances, found = engine.search(np.zeros((1, 1), dtype=np.uint8), 2, labels=[0, 1])
    assert (distances.tolist(), found.tolist()) == ([[0, 8]], [[1, 2]])
