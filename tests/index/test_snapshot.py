"""Snapshots against the catalogue that they are of, after random changes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Catalogue
from index.hamming import FaissEngine
from index.items import UNLABELLED
from index.snapshot import Snapshot
from tests.index.catalogues import CLASSES, new_item, new_query


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    path = tmp_path / "catalogue.sqlite"
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as made:
        made.add([new_query(50), *(new_item(number) for number in range(20)), new_query(51)])
        yield made


def agrees(snapshot: Snapshot, engine: FaissEngine, catalogue: Catalogue) -> None:
    table = catalogue.codes()
    assert snapshot.ids.tolist() == table.ids.tolist()
    assert snapshot.labels.tolist() == table.labels.tolist()
    assert snapshot.revision == engine.revision == catalogue.revision
    assert len(engine) == len(table.ids)
    for label in np.unique(table.labels):  # each code lies at its id, which has its label
        some = table.rows(table.labels == label)
        near = engine.range_search(some.codes, 0, labels=[label])
        assert all(item in ids for item, (_, ids) in zip(some.ids.tolist(), near, strict=True))
        assert set(np.concatenate([ids for _, ids in near]).tolist()) == set(some.ids.tolist())


def test_it_is_the_database_split(catalogue: Catalogue) -> None:
    snapshot, engine = Snapshot.of(catalogue.changes(-1)), FaissEngine(32)
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
    snapshot, engine = Snapshot.of(catalogue.changes(-1)), FaissEngine(32)
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
