"""The hashes of pixels in the catalogue: they come with images, later, and go with them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine

from index.catalogue import Catalogue
from index.database import CatalogueError
from index.items import UNLABELLED, File, Picture
from index.tables.checksums import seal_notes
from index.tables.rows import BATCH
from tests.index.catalogues import CLASSES, Place, change, in_a_file, new_item, new_query, read_only


def picture(number: int, *, quality: int = 80) -> Picture:
    return Picture(np.random.default_rng(number).bytes(32), quality)


@pytest.fixture
def hashed(path: Place) -> Iterator[Catalogue]:
    """Twenty items and three held-out queries, each with a hash but for items 5 and 6."""
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add(new_item(n, picture=None if n in (5, 6) else picture(n)) for n in range(1, 21))
        catalogue.add(new_query(n, picture=picture(n)) for n in range(21, 24))
        yield catalogue


def faults(catalogue: Catalogue) -> list[str]:
    return list(catalogue.faults(thumbnails=False))


def test_hashes_come_back_as_they_were_kept(hashed: Catalogue) -> None:
    small = Picture(bytes(range(32)), 0, "thumbnail")
    assert hashed.pictures.of([1, 5, 22, 99]) == {1: picture(1), 22: picture(22)}
    assert hashed.pictures.missing().tolist() == [5, 6]
    hashed.pictures.keep({5: small})
    assert hashed.pictures.of([5]) == {5: small}
    assert hashed.pictures.missing().tolist() == [6]
    assert hashed.pictures.held_out() == {n: picture(n) for n in range(21, 24)}
    assert hashed.pictures.qualities() == {n: 0 if n == 5 else 80 for n in range(1, 24) if n != 6}


def test_a_hash_takes_the_place_of_one(hashed: Catalogue) -> None:
    revision = hashed.revision
    hashed.pictures.keep({1: picture(100), 5: picture(5), 99: picture(99)})
    assert hashed.pictures.of([1, 5, 99]) == {1: picture(100), 5: picture(5)}
    assert hashed.revision == revision  # nobody who follows it has to look again
    assert faults(hashed) == []


def test_many_are_kept_at_a_time(path: Place) -> None:
    count = BATCH * 3 + 1
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add(new_item(n) for n in range(1, count + 1))
        catalogue.pictures.keep({n: picture(n) for n in range(1, count + 1)})
        assert catalogue.pictures.missing().tolist() == []
        assert len(catalogue.pictures.qualities()) == count


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_hash_of_another_length_is_refused(hashed: Catalogue, length: int) -> None:
    wrong, before = Picture(bytes(length), 80), hashed.counts()
    words = f"image {{}}: its hash has {8 * length} bits; wanted 256"
    with pytest.raises(ValueError, match=words.format(5)):
        hashed.pictures.keep({1: picture(9), 5: wrong})
    with pytest.raises(ValueError, match=words.format(24)):
        hashed.add([new_item(24, picture=wrong)])
    assert hashed.pictures.of([1, 5]) == {1: picture(1)}
    assert hashed.counts() == before


def test_which_are_missing_and_how_many_came_without_one(hashed: Catalogue) -> None:
    revision = hashed.revision
    (sent,) = hashed.add([new_item(30)])
    (asked,) = hashed.add([new_query(31)])
    assert hashed.pictures.missing().tolist() == [5, 6, sent, asked]
    assert hashed.pictures.changes(-1)[1] == 3
    assert hashed.pictures.changes(revision)[1] == 1
    hashed.change(6, label="new")
    assert hashed.pictures.changes(revision)[1] == 2
    hashed.throw([5])
    assert hashed.pictures.changes(-1)[1] == 2
    assert 5 in hashed.pictures.missing()


def test_changes_tell_what_came_and_what_went(hashed: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.tables.rows.READ", 7)
    all_, unhashed = hashed.pictures.changes(-1)
    assert unhashed == 2
    there = [n for n in range(1, 21) if n not in (5, 6)]
    assert all_.table.ids.tolist() == there
    assert all_.table.codes.tobytes() == b"".join(picture(n).hash for n in there)
    assert all_.table.labels.tolist() == [UNLABELLED if n % 7 == 0 else n % 2 for n in there]
    assert (all_.revision, all_.classes) == (hashed.revision, hashed.classes)

    (sent,) = hashed.add([new_item(30, picture=picture(30))])
    hashed.change(3, label="new")
    hashed.throw([4])
    hashed.remove([9])
    since, unhashed = hashed.pictures.changes(all_.revision)
    assert unhashed == 0
    assert since.table.ids.tolist() == [3, sent]
    assert since.table.labels.tolist() == [2, 0]
    assert since.removed.tolist() == [4, 9]
    revision = hashed.revision
    hashed.take_out([4])
    assert hashed.pictures.changes(revision)[0].table.codes.tobytes() == picture(4).hash


def test_a_hash_stays_in_the_trash_and_goes_for_good_with_its_image(hashed: Catalogue) -> None:
    hashed.throw([1, 2])
    assert hashed.pictures.of([1, 2]) == {1: picture(1), 2: picture(2)}
    hashed.remove([1])
    assert hashed.pictures.of([1, 2]) == {2: picture(2)}
    assert faults(hashed) == []


def test_another_encoder_leaves_the_hashes(hashed: Catalogue) -> None:
    """They say nothing of what it sees."""
    ids = [*hashed.codes().ids.tolist(), *hashed.held_out()]
    before = hashed.pictures.of(ids)
    hashed.recode("beef", 16, ((id_, np.full(2, id_, np.uint8), None) for id_ in ids))
    assert hashed.pictures.of(ids) == before
    assert hashed.pictures.missing().tolist() == [5, 6]


def test_an_image_that_was_there_before_keeps_its_hash(hashed: Catalogue) -> None:
    sent = new_item(30, file=File(b"3" * 32, ""), picture=picture(30))
    ((id_, _),) = hashed.add_unknown([sent])
    hashed.throw([id_])
    assert hashed.add_unknown([sent]) == [(id_, "restored")]
    assert hashed.pictures.of([id_]) == {id_: picture(30)}


def test_thumbnails_of_those_that_are_there(hashed: Catalogue) -> None:
    assert hashed.pictures.thumbnails([3, 22, 99]) == {3: b"thumb 3", 22: b"thumb 22"}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE pictures SET hash = (SELECT image FROM thumbnails WHERE item_id = 4) WHERE item_id = 4",
        "UPDATE pictures SET quality = 81 WHERE item_id = 4",
        "UPDATE pictures SET source = 'thumbnail' WHERE item_id = 4",
        "UPDATE pictures SET checksum = 7 WHERE item_id = 4",
        "UPDATE pictures SET hash = 'text' WHERE item_id = 4",
    ],
)
def test_damage_is_found(hashed: Catalogue, statement: str) -> None:
    assert faults(hashed) == []
    change(hashed.path, statement)
    assert faults(hashed) == ["the hash of the pixels of image 4 does not match its checksum"]


@in_a_file
def test_a_hash_of_no_image_is_a_fault(hashed: Catalogue) -> None:
    change(hashed.path, "UPDATE pictures SET item_id = 77 WHERE item_id = 4")
    assert "names no row of items" in " ".join(faults(hashed))


@in_a_file
@pytest.mark.parametrize("hash_", ["'text'", "7", "x'000102'"])
def test_what_is_no_hash_is_named_when_it_is_read(hashed: Catalogue, hash_: str) -> None:
    change(hashed.path, f"UPDATE pictures SET hash = {hash_} WHERE item_id = 4")
    with pytest.raises(CatalogueError, match=hashed.path.name.replace("?", r"\?")):
        hashed.pictures.changes(-1)


def as_version_6(path: Path) -> None:
    """Turn one of this version into what version 6 wrote."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE pictures")
        database.execute("UPDATE meta SET value = '6' WHERE key = 'schema'")
        database.execute("PRAGMA journal_mode=DELETE")
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(path))
    with closing(engine.connect()) as connection, connection.begin():
        seal_notes(connection)
    engine.dispose()


@in_a_file
def test_an_index_of_the_version_before_gets_its_hashes_later(hashed: Catalogue) -> None:
    items = hashed.page(count=100)
    hashed.close()
    as_version_6(hashed.path)
    with Catalogue.open(hashed.path) as upgraded:
        assert upgraded.page(count=100) == items
        assert upgraded.pictures.missing().tolist() == list(range(1, 24))
        upgraded.pictures.keep({n: picture(n) for n in range(1, 24)})
        assert upgraded.pictures.missing().tolist() == []
        upgraded.throw([2])
        upgraded.remove([2])
        assert faults(upgraded) == []


@in_a_file
def test_one_that_cannot_be_upgraded_has_none(hashed: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    items = hashed.page(count=100)
    hashed.close()
    as_version_6(hashed.path)
    read_only(monkeypatch)
    with Catalogue.open(hashed.path) as opened:
        assert opened.page(count=100) == items
        assert opened.pictures.missing().tolist() == list(range(1, 24))
        assert opened.pictures.of([1, 2]) == opened.pictures.qualities() == opened.pictures.held_out() == {}
        assert opened.pictures.changes(-1)[0].table.codes.shape == (0, 32)
        assert faults(opened) == []
