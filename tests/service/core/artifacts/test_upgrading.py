"""What an artifact of an earlier version lacks is made, of the files that are there, else of thumbnails."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from index.artifact import CATALOGUE, Artifact
from index.catalogue import Catalogue
from index.items import Picture
from index.verify import faults
from service.core.artifacts import upgrading
from service.core.artifacts.upgrading import upgrade


def pictures(path: Path) -> dict[int, Picture]:
    with Catalogue.open(path / CATALOGUE) as catalogue:
        ids = [item.id for item in catalogue.every_item()]
        return catalogue.pictures.of(ids)


def forget(path: Path, which: str = "1") -> None:
    with closing(sqlite3.connect(path / CATALOGUE)) as connection, connection:
        connection.execute(f"DELETE FROM pictures WHERE {which}")


def test_hashes_are_those_that_a_build_would_have_made(own: Artifact) -> None:
    before = pictures(own.path)
    forget(own.path)
    assert upgrade(own.path) == (len(before), 0, 0)
    assert pictures(own.path) == before
    assert upgrade(own.path) == (0, 0, 0)
    assert list(faults(own.path)) == []


def test_where_a_file_is_gone_or_another_the_thumbnail_is_hashed(own: Artifact) -> None:
    before = pictures(own.path)
    root = Path(own.manifest.data["root"])
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        gone = catalogue.get(2)
        text = catalogue.get(3)
    (root / gone.path).unlink()
    (root / text.path).write_text("no picture any more")
    forget(own.path)
    assert upgrade(own.path) == (len(before) - 2, 2, 0)
    made = pictures(own.path)
    assert {id_ for id_, each in made.items() if each.of == "thumbnail"} == {2, 3}
    assert {id_: each for id_, each in made.items() if id_ not in (2, 3)} == {
        id_: each for id_, each in before.items() if id_ not in (2, 3)
    }
    assert list(faults(own.path)) == []


def test_it_goes_on_where_it_was_interrupted(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pictures(own.path)
    forget(own.path)
    monkeypatch.setattr(upgrading, "TOGETHER", 8)

    def interrupted(ids: Iterable[int], total: int) -> Iterator[int]:
        assert total == len(before)
        for place, id_ in enumerate(ids):
            if place == 20:
                raise KeyboardInterrupt
            yield id_

    with pytest.raises(KeyboardInterrupt):
        upgrade(own.path, progress=interrupted)
    assert len(pictures(own.path)) == 16
    assert upgrade(own.path) == (len(before) - 16, 0, 0)
    assert pictures(own.path) == before


def test_labels_that_nobody_looked_at_are_looked_at_once(by_hand: Artifact) -> None:
    with by_hand.open_catalogue() as catalogue:
        circles = [item.id for item in catalogue.page(count=1000) if item.label == "circle"]
        catalogue.change(circles[3], label="square")
        assert not catalogue.doubts.known()
    made = upgrade(by_hand.path)
    assert upgrade(by_hand.path) == (0, 0, 0)
    with by_hand.open_catalogue() as catalogue:
        labelled = [item for item in catalogue.page(count=1000) if item.label is not None]
        assert made.labels == len(labelled)
        (wrong,) = [item for item in labelled if item.doubt is not None and item.doubt > 0]
        assert (wrong.id, wrong.label, wrong.rival) == (circles[3], "square", "circle")
