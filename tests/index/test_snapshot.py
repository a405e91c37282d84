"""Snapshots against the catalogue that they are of, after random changes."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Catalogue
from index.hamming import FaissEngine
from index.items import UNLABELLED, Changes, CodeTable
from index.snapshot import LARGEST, Part, Snapshot
from tests.index.catalogues import CLASSES, new_item, new_query


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    path = tmp_path / "catalogue.sqlite"
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as made:
        made.add([new_query(50), *(new_item(number) for number in range(20)), new_query(51)])
        yield made


def agrees(snapshot: Snapshot[Part], engine: FaissEngine, catalogue: Catalogue) -> None:
    table = catalogue.codes()
    assert snapshot.ids.tolist() == table.ids.tolist()
    assert snapshot.labels.tolist() == table.labels.tolist()
    assert snapshot.revision == engine.revision == catalogue.revision
    assert engine.snapshot.ids.tolist() == table.ids.tolist()
    assert engine.snapshot.labels.tolist() == table.labels.tolist()
    assert len(engine) == len(table.ids)
    for label in np.unique(table.labels):  # each code lies at its id, which has its label
        some = table.rows(table.labels == label)
        near = engine.range_search(some.codes, 0, labels=[label])
        assert all(item in ids for item, (_, ids) in zip(some.ids.tolist(), near, strict=True))
        assert set(np.concatenate([ids for _, ids in near]).tolist()) == set(some.ids.tolist())


def test_it_is_the_database_split(catalogue: Catalogue) -> None:
    snapshot, engine = Snapshot.empty(Part).after(catalogue.changes(-1)), FaissEngine(32)
    engine.apply(catalogue.changes(-1))
    agrees(snapshot, engine, catalogue)
    assert snapshot.classes == ("cat", "dog")
    assert snapshot.labels_of(np.array([2, 3, 9])).tolist() == [UNLABELLED, 1, UNLABELLED]
    assert snapshot.has(3) and snapshot.has(3, [0, 1]) and not snapshot.has(3, [0])
    assert snapshot.has(2, [UNLABELLED]) and not snapshot.has(2, [0, 1])
    assert not snapshot.has(1) and not snapshot.has(99) and not snapshot.has(None)  # 1 is held out


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3))])
def test_it_and_an_engine_follow_random_changes(catalogue: Catalogue, seed: int) -> None:
    rng = np.random.default_rng(seed)
    snapshot, engine = Snapshot.empty(Part).after(catalogue.changes(-1)), FaissEngine(32)
    engine.apply(catalogue.changes(-1))
    for _ in range(80):
        ids = catalogue.codes().ids
        match rng.integers(4):
            case 0:
                catalogue.add([new_item(int(number)) for number in rng.integers(100, 200, 3)])
            case 1 if len(ids):
                catalogue.change(int(rng.choice(ids)), label=int(rng.integers(-1, len(catalogue.classes))))
            case 2 if len(ids):
                catalogue.remove(rng.choice(ids, 2).tolist())
            case 3 if len(ids):
                catalogue.change(int(ids[0]), label=f"new {rng.integers(5)}")
        if rng.integers(5) == 0:
            before, earlier = snapshot.ids.tolist(), snapshot
            changes = catalogue.changes(snapshot.revision)
            engine.apply(changes)
            snapshot = snapshot.after(changes)
            agrees(snapshot, engine, catalogue)
            assert snapshot.classes == catalogue.classes
            assert earlier.ids.tolist() == before


def of(revision: int, ids: Iterable[int], removed: Iterable[int] = ()) -> Changes:
    some = np.array([*ids], np.int64)
    table = CodeTable(some, some % 5, np.zeros((len(some), 1), np.uint8))
    return Changes(revision, table, np.array([*removed], np.int64), ())


def sizes(snapshot: Snapshot[Part]) -> list[int]:
    return [len(part) for part in snapshot.parts]


@pytest.mark.parametrize("count", [1, 2, 1000, 1023, 1024])
def test_items_added_one_by_one_lie_in_few_parts(count: int) -> None:
    snapshot = Snapshot.empty(Part)
    for item in range(count):
        snapshot = snapshot.after(of(item, [item]))
    assert len(snapshot.parts) == count.bit_count()  # as a binary counter has ones
    assert snapshot.ids.tolist() == list(range(count))


def test_no_part_is_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LARGEST * 32 < 2**23  # bytes that a removal copies at most
    monkeypatch.setattr("index.snapshot.LARGEST", 100)
    snapshot = Snapshot.empty(Part)
    for revision, (start, count) in enumerate(((0, 500), (500, 120), (620, 2), (622, 198))):
        snapshot = snapshot.after(of(revision, range(start, start + 2 * count, 2)))
    assert max(sizes(snapshot)) <= 100
    before, missing = set(snapshot.ids.tolist()), set(range(1200)) - set(snapshot.ids.tolist())
    snapshot = snapshot.after(of(9, sorted(missing), [0, 2, 4]))  # among those that are there
    assert max(sizes(snapshot)) <= 100
    assert snapshot.ids.tolist() == sorted((before | missing) - {0, 2, 4})
    assert snapshot.labels_of(snapshot.ids).tolist() == [id_ % 5 for id_ in snapshot.ids.tolist()]


def test_a_change_copies_only_the_parts_that_it_concerns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.snapshot.LARGEST", 10)
    before = Snapshot.empty(Part).after(of(0, range(0, 200, 2)))
    assert sizes(before) == [10] * 10
    after = before.after(of(1, [61], [100, 777]))
    old = {id(part) for part in before.parts}
    assert [id(part) in old for part in after.parts] == [*[True] * 3, *[False] * 2, True, False, *[True] * 4]
    assert sizes(after) == [*[10] * 3, 5, 6, 10, 9, *[10] * 4]
    assert before.has(100) and not after.has(100) and after.has(61)
    assert before.after(of(1, [], [1, 3, 999])).parts == before.parts
    for _ in range(2):  # what is behind all others, which a change need not copy either
        after = after.after(of(2, range(300, 310)))
    assert sizes(after) == [*[10] * 3, 5, 6, 10, 9, *[10] * 5]
