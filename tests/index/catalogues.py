"""Small catalogues for tests: their items, and what happens to their file."""

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.items import UNLABELLED, NewItem

CLASSES = ["cat", "dog"]


def new_item(number: int, **changes: object) -> NewItem:
    """Every seventh unlabelled, the others cat and dog in turn; distinct codes and thumbnails."""
    code = np.frombuffer(number.to_bytes(4, "big"), dtype=np.uint8)
    label = UNLABELLED if number % 7 == 0 else number % 2
    item = NewItem(f"a/{number}.png", label, "database", number + 1, 20, b"thumb %d" % number, code)
    return replace(item, **changes)


def new_query(number: int, **changes: object) -> NewItem:
    return new_item(number, split="query", code=None, **changes)


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a read-only mount answers; permission bits do not stop a root user."""
    monkeypatch.setattr("index.sqlite.os.access", lambda path, mode: mode != os.W_OK)
