"""What is found where only some cells are searched; where all are, test_engine.py has the contract."""

import numpy as np
import pytest

from index.codes import hamming
from index.hamming import FaissEngine
from index.items import Changes, CodeTable
from index.ivf import IvfEngine, cells_for
from index.order import in_order
from tests.index.settled import SettledEngine

WIDTH = 8
Held = tuple[IvfEngine, np.ndarray, np.ndarray]


def clusters(rng: np.random.Generator, count: int) -> np.ndarray:
    """Codes near 16 others."""
    centres = np.random.default_rng(0).integers(0, 256, (16, WIDTH), np.uint8)
    flipped = np.packbits(rng.random((count, 8 * WIDTH)) < 0.08, axis=1)
    return centres[rng.integers(0, 16, count)] ^ flipped


def changes(revision: int, ids: np.ndarray, codes: np.ndarray, removed: object = ()) -> Changes:
    return Changes(revision, CodeTable(ids, ids % 3, codes), np.array(removed, np.int64), ())


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.ivf.WORTH", 0.5)  # few items have few cells


@pytest.fixture
def held() -> Held:
    """An engine of cells, and the ids and codes that it has."""
    rng = np.random.default_rng(1)
    ids, codes = np.arange(1, 2001), clusters(rng, 2000)
    engine = SettledEngine(8 * WIDTH, wanted=0.9, least=500)
    engine.apply(changes(0, ids, codes))
    return engine, ids, codes


def test_few_items_are_searched_exactly_and_many_by_cells() -> None:
    rng = np.random.default_rng(1)
    engine, codes = SettledEngine(8 * WIDTH, least=500), clusters(rng, 600)
    engine.apply(changes(0, np.arange(500), codes[:500]))
    assert (engine.exact, engine.recall) == (True, None)
    engine.apply(changes(1, np.arange(500, 600), codes[500:]))
    assert not engine.exact and engine.recall is not None
    assert engine.recall.cells == cells_for(600) == 16
    assert cells_for(10**7) == 2048


def test_it_finds_what_was_wanted_in_some_of_the_cells(held: Held) -> None:
    engine, ids, codes = held
    queries = clusters(np.random.default_rng(2), 300)
    distances, found = engine.search(queries, 10)
    exact = np.sort(hamming(queries, codes), axis=1)[:, :10]
    recall = (distances <= exact[:, -1:]).mean()
    assert engine.recall is not None and engine.recall.searched < engine.recall.cells
    assert recall > 0.85 and engine.recall.at_10 > 0.85
    for query, near, those in zip(queries, distances, found, strict=True):  # what it says of them is true
        assert near.tolist() == hamming(query[None], codes[those - ids[0]])[0].tolist()
        assert [each.tolist() for each in in_order(near, those)] == [near.tolist(), those.tolist()]


def test_what_comes_is_found_at_once_and_what_went_never(held: Held) -> None:
    engine, ids, codes = held
    new = np.random.default_rng(3).integers(0, 256, (50, WIDTH), np.uint8)
    engine.apply(changes(1, np.arange(3001, 3051), new, ids[:100]))
    assert engine.search(new, 1)[1][:, 0].tolist() == list(range(3001, 3051))
    assert not np.isin(engine.search(codes[:100], 50)[1], ids[:100]).any()
    engine.apply(changes(2, np.array([3001]), codes[:1]))  # into another cell
    assert engine.search(codes[:1], 1)[1].tolist() == [[3001]]
    assert engine.search(new[:1], 1)[1][0, 0] != 3001
    assert len(engine) == 1950 and engine.snapshot.has(3001) and not engine.snapshot.has(1)


def test_labels_that_are_rare_are_looked_for_everywhere(held: Held) -> None:
    engine, ids, codes = held
    table = CodeTable(ids[:15], np.full(15, 7), codes[:15])
    engine.apply(Changes(1, table, np.empty(0, np.int64), ()))
    flat = FaissEngine(8 * WIDTH)
    flat.apply(changes(0, ids[:15], codes[:15]))
    queries = clusters(np.random.default_rng(4), 20)
    found = engine.search(queries, 20, labels=[7])
    assert [each.tolist() for each in found] == [each.tolist() for each in flat.search(queries, 20)]


def test_all_within_a_radius_are_found_and_counted(held: Held) -> None:
    engine, ids, codes = held
    queries = clusters(np.random.default_rng(5), 20)
    near = hamming(queries, codes) <= 12
    within = [np.sort(ids).tolist() for _, ids in engine.range_search(queries, 12)]
    assert within == [ids[row].tolist() for row in near]
    assert engine.count(queries, np.full(20, 12)).tolist() == near.sum(axis=1).tolist()


def test_cells_are_made_anew_when_there_are_many_more_items(held: Held) -> None:
    engine, _, _ = held
    codes = clusters(np.random.default_rng(6), 8000)
    assert engine.recall is not None and engine.recall.cells == 32
    engine.apply(changes(1, np.arange(4000, 12_000), codes))
    assert engine.recall.cells == 64
    assert engine.search(codes, 1)[0].max() == 0
    assert len(engine) == 10_000 and engine.snapshot.ids.tolist() == [*range(1, 2001), *range(4000, 12_000)]


def test_changes_that_come_while_cells_are_made_are_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    codes, engine = clusters(rng, 1000), IvfEngine(8 * WIDTH, wanted=0.9, least=500)
    late = rng.integers(0, 256, (1, WIDTH), np.uint8)

    def meanwhile(*_: object) -> int:
        engine.apply(changes(1, np.array([5000]), late, [1, 2, 3]))
        assert engine.exact
        return 3

    monkeypatch.setattr("index.ivf.enough", meanwhile)
    engine.apply(changes(0, np.arange(1, 1001), codes))
    engine.settle()
    assert not engine.exact and engine.revision == 1 and len(engine) == 998
    assert engine.search(late, 1)[1].tolist() == [[5000]]
    assert not np.isin(engine.search(codes[:3], 20)[1], [1, 2, 3]).any()


def test_where_most_cells_would_have_to_be_searched_all_is() -> None:
    unlike = np.random.default_rng(9).integers(0, 256, (2000, WIDTH), np.uint8)
    engine = SettledEngine(8 * WIDTH, least=500)
    engine.apply(changes(0, np.arange(2000), unlike))
    assert (engine.exact, engine.recall) == (True, None)
    engine.apply(changes(1, np.arange(3000, 3300), unlike[:300]))  # and may be tried again
    assert engine.exact and len(engine) == 2300


def test_where_no_cells_can_be_made_all_is_searched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("index.ivf.made", failing)
    engine = SettledEngine(8 * WIDTH, least=500)
    engine.apply(changes(0, np.arange(600), clusters(np.random.default_rng(8), 600)))
    assert engine.exact and len(engine) == 600
    assert "all of it is searched" in caplog.text
