"""Snapshots against the catalogue that they are of, after random changes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Catalogue
from index.items import UNLABELLED
from index.snapshot import Snapshot
from tests.index.test_catalogue import CLASSES, new_item, new_query


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    path = tmp_path / "catalogue.sqlite"
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as made:
        made.add([new_query(50), *(new_item(number) for number in range(20)), new_query(51)])
        yield made


def agrees(snapshot: Snapshot, catalogue: Catalogue) -> None:
    table = catalogue.codes()
    ids, codes = snapshot.engine.items()
    assert snapshot.ids.tolist() == ids.tolist() == table.ids.tolist()
    assert snapshot.labels.tolist() == table.labels.tolist()
    assert codes.tolist() == table.codes.tolist()
    assert snapshot.revision == catalogue.revision


def test_it_is_the_database_split(catalogue: Catalogue) -> None:
    snapshot = Snapshot.of(catalogue.changes(-1))
    agrees(snapshot, catalogue)
    assert snapshot.classes == ("cat", "dog")
    assert snapshot.labels_of(np.array([2, 3, 9])).tolist() == [UNLABELLED, 1, UNLABELLED]
    both = snapshot.ids_of([UNLABELLED, 1])
    assert both is not None
    assert both.tolist() == [id_ for id_ in range(2, 22) if (id_ - 2) % 7 == 0 or id_ % 2 == 1]
    assert snapshot.ids_of([]) is None


@pytest.mark.parametrize("seed", range(4))
def test_it_follows_random_changes(catalogue: Catalogue, seed: int) -> None:
    rng = np.random.default_rng(seed)
    snapshot = Snapshot.of(catalogue.changes(-1))
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
            before, earlier = snapshot.engine.items(), snapshot
            snapshot = snapshot.after(catalogue.changes(snapshot.revision))
            agrees(snapshot, catalogue)
            assert snapshot.classes == catalogue.classes
            assert [each.tolist() for each in earlier.engine.items()] == [each.tolist() for each in before]
