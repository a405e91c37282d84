"""A text that several processes keep together, and a place that one of them has at a time.

Beside a catalogue that is a file it is a file; beside one in PostgreSQL it lies in the catalogue's schema, in
a table of its own, which no copy of the catalogue takes along.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from index.artifact import sync
from index.database import CatalogueBusy
from index.locking import locked
from index.postgres_catalogue import PostgreSQL

CONNECTIONS = 4
WAIT = 5  # seconds for others who write, which takes them milliseconds
TABLE = "CREATE TABLE {table} (id INTEGER PRIMARY KEY CHECK (id = 1), text TEXT NOT NULL)"
WRITE = "INSERT INTO {table} VALUES (1, %(text)s) ON CONFLICT (id) DO UPDATE SET text = excluded.text"
WRITING, WORKING = "hebbsearch jobs written", "hebbsearch jobs"  # what one does at a time


@dataclass
class Draft:
    """What is written, and what shall be; None: nothing was yet."""

    text: str | None


class Ledger(Protocol):
    """Raises OSError and CatalogueError, where it cannot be read or written. For many threads."""

    def read(self) -> str | None:
        """What is written; None: nothing was yet."""

    def writing(self) -> AbstractContextManager[Draft]:
        """Nobody else writes within; at the end what the draft says then is written, and on the disk.
        CatalogueBusy where others write for WAIT seconds: one of them may be frozen."""

    def hold(self) -> bool:
        """Whether this process has the place, until it lets it go. It is free again when the process ends,
        whatever ends it."""

    def hold_on(self) -> None:
        """Have the place again where it was lost on the way, unless another process has it by now. Nothing
        where it was let go."""

    def let_go(self) -> None:
        """Another process may have the place."""

    def close(self) -> None:
        """Let go of all."""


class LedgerFile:
    """A file, for processes that share its folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place: ExitStack | None = None
        self._turn = threading.Lock()

    def read(self) -> str | None:
        """As Ledger."""
        try:
            return self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    @contextmanager
    def writing(self) -> Iterator[Draft]:
        """As Ledger."""
        with self._alone():
            draft = Draft(before := self.read())
            yield draft
            if draft.text is not None and draft.text != before:
                file = self._path.with_suffix(".draft")
                file.write_text(draft.text, encoding="utf-8")
                sync(file)
                file.replace(self._path)
                sync(self._path.parent)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock, held = self._path.with_suffix(".lock"), ExitStack()
        deadline = time.monotonic() + WAIT
        while True:
            try:
                held.enter_context(locked(lock))
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    text = f"another service, perhaps of an earlier version, holds it for {WAIT} seconds"
                    raise CatalogueBusy(f"{lock}: {text}; end that one, or try again") from None
                time.sleep(0.02)
        with held:
            yield

    def hold(self) -> bool:
        """As Ledger."""
        with self._turn:
            if self._place is None:
                place = ExitStack()
                try:
                    place.enter_context(locked(self._path.with_suffix(".place")))
                except BlockingIOError:
                    return False
                self._place = place
            return True

    def hold_on(self) -> None:
        """As Ledger: nobody takes a lock of the kernel away."""

    def let_go(self) -> None:
        """As Ledger."""
        with self._turn:
            if self._place is not None:
                self._place.close()
            self._place = None

    def close(self) -> None:
        """As Ledger."""
        self.let_go()


class LedgerTable:
    """A row beside a catalogue in PostgreSQL, for all who reach that."""

    def __init__(self, url: str) -> None:
        self._database = PostgreSQL.new(url, most=CONNECTIONS)
        self._table = f"{self._database.schema}.jobs"
        self._turn = threading.Lock()
        self._wanted = False  # the place, since it was had
        self._place: Connection | None = None  # its server frees the place when it ends

    def read(self) -> str | None:
        """As Ledger. None, too, for a user who may only read what was there when that was granted."""
        with self._database.naming(), self._database.engine.connect() as connection:
            return self._read(connection)

    @contextmanager
    def writing(self) -> Iterator[Draft]:
        """As Ledger."""
        with self._database.naming(), self._database.engine.connect() as connection:
            # What is written by the one before is seen as soon as the lock is had.
            connection.execution_options(isolation_level="READ COMMITTED")
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {WAIT * 1000}")
            self._database.wait_for(connection, WRITING)
            draft = Draft(before := self._read(connection))
            yield draft
            if draft.text is not None and draft.text != before:
                if not self._is_there(connection):
                    connection.exec_driver_sql(TABLE.format(table=self._table))
                connection.exec_driver_sql(WRITE.format(table=self._table), {"text": draft.text})
            connection.commit()

    def hold(self) -> bool:
        """As Ledger."""
        with self._turn, self._database.naming():
            self._wanted = self._is_held() or self._taken()
            return self._wanted

    def hold_on(self) -> None:
        """As Ledger."""
        with self._turn, self._database.naming():
            if self._wanted and not self._is_held():
                self._taken()
            if not self._wanted:  # since a moment
                self._end_place()

    def let_go(self) -> None:
        """As Ledger."""
        self._wanted = False
        if self._turn.acquire(timeout=WAIT):  # else whoever waits for a server that does not answer ends it
            try:
                self._end_place()
            finally:
                self._turn.release()

    def close(self) -> None:
        """As Ledger."""
        self.let_go()
        self._database.close()

    def _is_held(self) -> bool:
        if self._place is None:
            return False
        try:
            self._place.exec_driver_sql("SELECT 1")
            return True
        except DBAPIError:  # the server has ended, and with it what it had given
            self._end_place()
            return False

    def _taken(self) -> bool:
        place = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            if self._database.try_to(place, WORKING):
                self._place = place
        finally:
            if self._place is not place:
                place.close()
        return self._place is place

    def _end_place(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.invalidate()  # the connection ends, and is not used for anything else
            with suppress(DBAPIError):
                place.close()

    def _is_there(self, connection: Connection) -> bool:
        there = connection.exec_driver_sql("SELECT to_regclass(%(name)s) IS NOT NULL", {"name": self._table})
        return bool(there.scalar_one())

    def _read(self, connection: Connection) -> str | None:
        if not self._is_there(connection):
            return None
        may = "SELECT has_table_privilege(%(name)s, 'SELECT')"
        if not connection.exec_driver_sql(may, {"name": self._table}).scalar_one():
            return None
        text: str | None = connection.exec_driver_sql(f"SELECT text FROM {self._table}").scalar_one_or_none()
        return text


def ledger_of(artifact: Path, url: str | None) -> Ledger:
    """Of the artifact in this folder, with its catalogue at `url` if there is one. CatalogueError."""
    return LedgerFile(artifact.parent / f".{artifact.name}.jobs.json") if url is None else LedgerTable(url)
