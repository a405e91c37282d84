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
from service.core.artifacts import hashing
from service.core.artifacts.hashing import upgrade


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
    assert upgrade(own.path) == (len(before), 0)
    assert pictures(own.path) == before
    assert upgrade(own.path) == (0, 0)
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
    assert upgrade(own.path) == (len(before) - 2, 2)
    made = pictures(own.path)
    assert {id_ for id_, each in made.items() if each.of == "thumbnail"} == {2, 3}
    assert {id_: each for id_, each in made.items() if id_ not in (2, 3)} == {
        id_: each for id_, each in before.items() if id_ not in (2, 3)
    }
    assert list(faults(own.path)) == []


def test_it_goes_on_where_it_was_interrupted(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pictures(own.path)
    forget(own.path)
    monkeypatch.setattr(hashing, "TOGETHER", 8)

    def interrupted(ids: Iterable[int], total: int) -> Iterator[int]:
        assert total == len(before)
        for place, id_ in enumerate(ids):
            if place == 20:
                raise KeyboardInterrupt
            yield id_

    with pytest.raises(KeyboardInterrupt):
        upgrade(own.path, progress=interrupted)
    assert len(pictures(own.path)) == 16
    assert upgrade(own.path) == (len(before) - 16, 0)
    assert pictures(own.path) == before
