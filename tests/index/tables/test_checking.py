"""Catalogues that are damaged, or none."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Catalogue
from index.database import CatalogueError
from index.tables.schema import SCHEMA
from tests.index.catalogues import Place, ask, change, in_a_file, new_item


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE items SET label = 1 - label WHERE id = 5", "digest"),
        ("UPDATE items SET label = NULL WHERE id = 5", "digest"),
        ("UPDATE codes SET code = x'00000099' WHERE item_id = 5", "digest"),
        ("UPDATE codes SET item_id = 21 WHERE item_id = 5", "digest"),
        ("DELETE FROM codes WHERE item_id = 5", "digest"),
        (
            "UPDATE meta SET value = '9' WHERE key = 'schema'",
            f"schema 9, this version reads up to {SCHEMA}; use a newer version",
        ),
        ("UPDATE meta SET value = 'many' WHERE key = 'bits'", "damaged"),
        ("DELETE FROM meta WHERE key = 'encoder_id'", "damaged"),
        ("DELETE FROM meta WHERE key = 'digest'", "damaged"),
        ("DROP TABLE codes", "no such table|does not exist"),
    ],
)
def test_a_changed_catalogue_is_refused(filled: Place, statement: str, fault: str) -> None:
    change(filled, statement)
    with pytest.raises(CatalogueError, match=fault) as refused:
        Catalogue.open(filled)
    assert str(filled) in str(refused.value)


@in_a_file
@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE codes SET code = x'0099' WHERE item_id = 5", "has not 32 bits"),
        ("UPDATE codes SET code = 7 WHERE item_id = 5", "damaged"),
        ("DELETE FROM items WHERE id = 5", "digest"),
    ],
)
def test_what_a_server_would_not_take_is_refused(filled: Path, statement: str, fault: str) -> None:
    change(filled, statement)
    with pytest.raises(CatalogueError, match=fault):
        Catalogue.open(filled)


def test_two_codes_that_change_places_are_noticed(filled: Place) -> None:
    query = "SELECT code FROM codes WHERE item_id IN (2, 4) ORDER BY item_id"
    before = ask(filled, query)
    for item_id, other in ((2, 3), (4, 1)):
        change(
            filled,
            f"UPDATE codes SET code = x'{new_item(other).code.tobytes().hex()}' WHERE item_id = {item_id}",
        )
    assert ask(filled, query) == before[::-1]
    with pytest.raises(CatalogueError, match="digest"):
        Catalogue.open(filled)


@in_a_file
@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_another_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CatalogueError, match="with space"):
        Catalogue.open(path)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


@in_a_file
@pytest.mark.parametrize("table", ["meta", "classes", "items", "items_revision", "codes", "removed"])
@pytest.mark.parametrize("seed", range(3))
def test_damaged_pages_end_in_a_catalogue_error(filled: Path, table: str, seed: int) -> None:
    with closing(sqlite3.connect(filled)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content, rng = bytearray(filled.read_bytes()), np.random.default_rng(seed)
    start = (page - 1) * size
    # Where there is something: most of a page is empty here, which may hold anything.
    for position in {0, *rng.integers(0, 8, 3).tolist(), *rng.integers(0, size, 20).tolist()}:
        content[start + position] ^= 255
    filled.write_bytes(content)
    with pytest.raises(CatalogueError, match="with space"):
        Catalogue.open(filled)


@in_a_file
def test_half_a_file_is_refused(filled: Path) -> None:
    content = filled.read_bytes()
    filled.write_bytes(content[: len(content) // 2])
    with pytest.raises(CatalogueError):
        Catalogue.open(filled)
