"""Many that read, one that writes; who may not write; and one that is killed."""

import os
import re
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from index.catalogue import Catalogue
from index.database import CatalogueBusy, CatalogueError
from tests.index.catalogues import Place, change, in_a_file, new_item, read_only


@in_a_file
def test_closed_it_is_one_file(filled: Path) -> None:
    assert os.listdir(filled.parent) == [filled.name]
    with Catalogue.open(filled) as catalogue:
        catalogue.add([new_item(40)])
        assert catalogue.get(1)
    assert os.listdir(filled.parent) == [filled.name]


def test_threads_read_while_another_writes(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue, ThreadPoolExecutor(8) as threads:

        def read(number: int) -> int:
            item = catalogue.get(1 + number % 20)
            assert catalogue.thumbnail(item.id) == b"thumb %d" % (item.id - 1)
            return len(catalogue.codes().ids)

        sizes = [threads.submit(read, number) for number in range(60)]
        for number in range(30, 40):
            catalogue.add([new_item(number)])
        assert {size.result() for size in sizes} <= set(range(20, 31))
        assert len(catalogue.codes().ids) == 30


def test_two_writers_lose_nothing(filled: Place) -> None:
    with Catalogue.open(filled) as one, Catalogue.open(filled) as other, ThreadPoolExecutor(2) as threads:
        before = one.revision

        def write(catalogue: Catalogue, first: int) -> None:
            for number in range(first, first + 10):
                catalogue.add([new_item(number)])

        for done in [threads.submit(write, one, 100), threads.submit(write, other, 200)]:
            done.result()
        assert one.revision == other.revision == before + 20
        assert one.counts() == other.counts()
    with Catalogue.open(filled) as catalogue:  # the digest took both in
        assert catalogue.counts()["database"] == 40


@in_a_file
def test_who_waits_to_write_keeps_nobody_from_reading(filled: Path) -> None:
    writers = 40  # more than there are connections
    begun = threading.Barrier(writers + 1)
    with Catalogue.open(filled) as catalogue, ThreadPoolExecutor(writers) as threads:

        def write() -> None:
            begun.wait()
            catalogue.change(1, label=0)

        with closing(sqlite3.connect(filled, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = [threads.submit(write) for _ in range(writers)]
            begun.wait()
            for item_id in range(1, 20):
                catalogue.get(item_id)
            assert not any(each.done() for each in waiting)  # nobody had to give up first
            other.execute("ROLLBACK")
        for each in waiting:
            each.result()


@in_a_file
def test_who_waits_too_long_to_write_is_told(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("index.tables.connections", "index.sqlite"):
        monkeypatch.setattr(f"{module}.PATIENCE", 0.2)
    with (
        Catalogue.open(filled) as catalogue,
        ThreadPoolExecutor(8) as threads,
        closing(sqlite3.connect(filled, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        waiting = [threads.submit(catalogue.change, 1, label=0) for _ in range(8)]
        faults = [each.exception() for each in waiting]
        assert all(isinstance(fault, CatalogueBusy) for fault in faults)
        told = {str(fault) for fault in faults}
        assert all("locked" in fault or "try again" in fault for fault in told)
        assert any("locked" in fault for fault in told)
        other.execute("ROLLBACK")
        catalogue.change(1, label=0)


@pytest.mark.process
def test_a_killed_writer_leaves_what_it_committed(filled: Place) -> None:
    script = """
import os, sys
from index.catalogue import Catalogue
from tests.index.catalogues import new_item
catalogue = Catalogue.open(sys.argv[1])
catalogue.add([new_item(60)])
def then_die():
    yield new_item(61)
    os.kill(os.getpid(), 9)
catalogue.add(then_die())
"""
    died = subprocess.run([sys.executable, "-c", script, str(filled)], check=False, capture_output=True)
    assert died.returncode == -9, died.stderr
    with Catalogue.open(filled) as catalogue:
        assert catalogue.counts()["database"] == 21
    if isinstance(filled, Path):
        assert os.listdir(filled.parent) == [filled.name]


@in_a_file
def test_a_read_only_folder_is_read(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(monkeypatch)
    with Catalogue.open(filled) as catalogue:
        assert catalogue.counts()["database"] == 20
        assert catalogue.thumbnail(1) == b"thumb 0"
        assert os.listdir(filled.parent) == [filled.name]
        with pytest.raises(CatalogueError, match="readonly"):
            catalogue.add([new_item(70)])


@in_a_file
def test_a_read_only_open_log_is_refused(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.with_name(filled.name + "-wal").write_bytes(b"left behind")
    read_only(monkeypatch)
    with pytest.raises(CatalogueError, match="was not closed"):
        Catalogue.open(filled)


def test_a_revision_that_cannot_be_read_is_a_catalogue_error(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        change(filled, "DROP TABLE meta")
        with pytest.raises(CatalogueError, match=rf"{re.escape(str(filled))}.*meta"):
            _ = catalogue.revision
