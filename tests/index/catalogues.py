"""Small catalogues for tests: where they lie, their items, and what happens to their tables."""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.items import UNLABELLED, NewItem
from tests import postgresql

CLASSES = ["cat", "dog"]
Place = Path | str  # a file, or a URL: what `Catalogue.open` takes

# For a test of what there is in a file alone: the others run on both kinds of places.
in_a_file = pytest.mark.parametrize("places", ["sqlite"], indirect=True)
on_a_server = pytest.mark.parametrize(
    "places", [pytest.param("postgresql", marks=pytest.mark.process)], indirect=True
)


def new_item(number: int, **changes: object) -> NewItem:
    """Every seventh unlabelled, the others cat and dog in turn; distinct codes and thumbnails."""
    code = np.frombuffer(number.to_bytes(4, "big"), dtype=np.uint8)
    label = UNLABELLED if number % 7 == 0 else number % 2
    item = NewItem(f"a/{number}.png", label, "database", number + 1, 20, b"thumb %d" % number, code)
    return replace(item, **changes)


def new_query(number: int, **changes: object) -> NewItem:
    return new_item(number, split="query", code=None, **changes)


def change(path: Place, statement: str) -> None:
    """Past the catalogue."""
    if isinstance(path, str):
        postgresql.execute(path, statement)
    else:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement)


def ask(path: Place, query: str) -> list[tuple[Any, ...]]:
    """What the tables answer, past the catalogue."""
    if isinstance(path, str):
        return postgresql.execute(path, query)
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a read-only mount answers; permission bits do not stop a root user."""
    monkeypatch.setattr("index.sqlite.os.access", lambda path, mode: mode != os.W_OK)
