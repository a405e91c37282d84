"""The tables, and how those of older and newer versions are met."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from index.catalogue import Catalogue
from index.database import CatalogueError
from index.items import File, Item
from index.tables.schema import SCHEMA
from tests.index.catalogues import CLASSES, Place, in_a_file, new_item, read_only


def test_the_tables_are_those_of_postgresql_too(path: Place) -> None:
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateTable

    from index.tables import schema

    tables = schema.metadata.sorted_tables
    written = "".join(str(CreateTable(table).compile(dialect=postgresql.dialect())) for table in tables)
    assert "id BIGSERIAL NOT NULL" in written
    assert "code BIT VARYING NOT NULL" in written


@in_a_file
@pytest.mark.parametrize(
    ("index", "query", "found"),
    [
        pytest.param(
            "items_of_folder",
            "SELECT * FROM items WHERE split = ? AND id > 3 AND folder = '/photos' ORDER BY id LIMIT 9",
            "SEARCH items USING INDEX items_of_folder (folder=? AND rowid>?)",
            id="a page of a folder",
        ),
        pytest.param(
            "items_by_name",
            "SELECT id FROM items WHERE split = ? ORDER BY lower(path), id LIMIT 9 OFFSET 9",
            "SCAN items USING INDEX items_by_name",
            id="a part in the order of names",
        ),
        pytest.param(
            "items_by_name",
            "SELECT id FROM items WHERE split = ? ORDER BY lower(path) DESC, id DESC LIMIT 9 OFFSET 9",
            "SCAN items USING INDEX items_by_name",
            id="the other way round",
        ),
        pytest.param(
            "items_by_name",
            "SELECT id FROM items WHERE split = ? ORDER BY id LIMIT 9 OFFSET 9",
            "SCAN items",
            id="and the order of ids stays as quick",
        ),
    ],
)
def test_an_index_is_made_where_it_is_missing_so_that_nothing_is_sorted(
    filled: Path, index: str, query: str, found: str
) -> None:
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute(f"DROP INDEX {index}")
    with Catalogue.open(filled) as catalogue:
        catalogue.add([new_item(50, file=File(b"\x01" * 32, "/photos"))])
    with closing(sqlite3.connect(filled)) as connection:
        plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", ("database",))]
    assert plan == [found]


VERSION_1 = """
CREATE TABLE meta (key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (key));
CREATE TABLE classes (id INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (name));
CREATE TABLE items (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL, label INTEGER, split TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, FOREIGN KEY(label) REFERENCES classes (id));
CREATE TABLE codes (
    item_id INTEGER NOT NULL, code BLOB NOT NULL, PRIMARY KEY (item_id),
    FOREIGN KEY(item_id) REFERENCES items (id));
CREATE TABLE thumbnails (
    item_id INTEGER NOT NULL, image BLOB NOT NULL, PRIMARY KEY (item_id),
    FOREIGN KEY(item_id) REFERENCES items (id));
INSERT INTO classes VALUES (0, 'cat'), (1, 'dog');
INSERT INTO items VALUES (1, 'a/1.png', 1, 'database', 2, 20), (2, 'a/2.png', NULL, 'query', 3, 20);
INSERT INTO codes VALUES (1, x'00000001');
INSERT INTO thumbnails VALUES (1, x'6f6e65'), (2, x'74776f');
INSERT INTO meta VALUES
    ('schema', '1'), ('encoder_id', '00ff'), ('bits', '32'), ('revision', '5'),
    ('digest', '17259700546428719791');
"""


@pytest.fixture
def old(path: Path) -> Path:
    """A catalogue as version 1 wrote it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode=WAL;" + VERSION_1)
    return path


def structure(path: Path) -> dict[str, object]:
    with closing(sqlite3.connect(path)) as connection:
        made = connection.execute(
            "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        ).fetchall()
        about = {"table": ("table_xinfo", "foreign_key_list"), "index": ("index_xinfo",)}
        return {
            f"{name} {what}": sorted(
                tuple(row[1:] if what != "foreign_key_list" else row[2:])
                for row in connection.execute(f"PRAGMA {what}({name})")
            )
            for kind, name in made
            for what in about[kind]
        }


@in_a_file
def test_a_catalogue_of_version_1_becomes_one_of_this_version(old: Path, tmp_path: Path) -> None:
    with Catalogue.open(old) as catalogue:
        assert catalogue.get(1) == Item(1, "a/1.png", "dog", "database", 2, 20, source="given")
        assert catalogue.thumbnail(2) == b"two"
        assert catalogue.revision == 5
        catalogue.add([new_item(3)])
        catalogue.remove([1])
    with Catalogue.open(old) as catalogue:
        assert catalogue.changes(5).removed.tolist() == [1]
        assert catalogue.noted("built") == "5"
    Catalogue.create(tmp_path / "new.sqlite", encoder_id="00ff", bits=32, classes=CLASSES).close()
    assert structure(old) == structure(tmp_path / "new.sqlite")


def as_version_2(path: Path) -> None:
    """Turn one of this version into what version 2 wrote."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for column in ("path", "folder", "sha256"):
            connection.execute(f"ALTER TABLE removed DROP COLUMN {column}")
        connection.execute("DELETE FROM meta WHERE key = 'built'")
        connection.execute("UPDATE meta SET value = '2' WHERE key = 'schema'")


@in_a_file
def test_version_2_is_upgraded_with_what_people_did_told_from_what_was_built(filled: Path) -> None:
    with Catalogue.open(filled) as catalogue:
        catalogue.remove([2])
        catalogue.change(3, label="new")
        (sent,) = catalogue.add([new_item(40, file=File(b"4" * 32, folder=""))])
    as_version_2(filled)
    with Catalogue.open(filled) as catalogue:
        since = int(catalogue.noted("built") or 0)
        assert [item.id for item in catalogue.changed(since, count=100)] == [3, sent]


@in_a_file
def test_in_version_2_without_queries_the_earliest_revision_was_the_build(path: Path) -> None:
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add([new_item(number) for number in range(3)])
        catalogue.change(1, metadata={"seen": True})
    as_version_2(path)
    with Catalogue.open(path) as catalogue:
        since = int(catalogue.noted("built") or 0)
        assert [item.id for item in catalogue.changed(since, count=100)] == [1]


@in_a_file
def test_version_2_where_nobody_did_anything(filled: Path) -> None:
    as_version_2(filled)
    with Catalogue.open(filled) as catalogue:
        assert catalogue.noted("built") == str(catalogue.revision)
        assert catalogue.changed(catalogue.revision, count=100) == []


@in_a_file
def test_of_two_that_upgrade_at_a_time_both_succeed(old: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(Catalogue.open, [old] * 4))
    for catalogue in opened:
        assert catalogue.get(1).label == "dog"
        catalogue.close()


@in_a_file
def test_an_upgrade_that_fails_leaves_the_old_version(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from index.tables import schema

    before = structure(old)
    monkeypatch.setitem(schema.UPGRADES, 2, (*schema.UPGRADES[2][:4], "ALTER TABLE nothing ADD COLUMN x"))
    with pytest.raises(CatalogueError, match="nothing"):
        Catalogue.open(old)
    assert structure(old) == before


@in_a_file
def test_an_old_catalogue_that_cannot_be_upgraded(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(monkeypatch)
    with pytest.raises(
        CatalogueError, match=f"schema 1 and cannot be upgraded to {SCHEMA} here; open it once"
    ):
        Catalogue.open(old)
