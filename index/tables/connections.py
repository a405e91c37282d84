"""Connections to the catalogue's database: many that read, one at a time that writes."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, Integer, Text, cast, event, update

from index.items import SUCCESSOR
from index.sqlite import (
    PATIENCE,
    CatalogueBusy,
    CatalogueError,
    CatalogueUnavailable,
    Superseded,
    naming,
)
from index.tables.checksums import seal_notes
from index.tables.rows import Unavailable, Unusable, noted, value
from index.tables.schema import META

REVISION = "SELECT value FROM meta WHERE key = 'revision'"


class Connections:
    """To one file, from many threads. All errors name it: CatalogueError."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self.returns_from: str | None = None  # the successor that may take its place, as it is to come back
        self._engine = engine
        # Who waits to write holds no connection: otherwise they would take all that readers need.
        self._turn = threading.Lock()

    def stand_in(self, statements: Iterable[str]) -> None:
        """Have each connection make tables of its own, where the file has none and cannot be written to."""

        def make(connection: sqlite3.Connection, _: object) -> None:
            for statement in statements:
                connection.execute(statement)

        self._engine.dispose()  # those that are there have none
        event.listen(self._engine, "connect", make)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the catalogue throughout."""
        with self._naming(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def noting(self) -> Iterator[Connection]:
        """One transaction, which leaves the revision as it is."""
        with self._naming(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[tuple[Connection, int]]:
        """One transaction, alone, and its revision: growing that takes the write lock before anything is
        read. Superseded where another artifact took this one's place before."""
        grown = cast(cast(META.c.value, Integer) + 1, Text)
        if not self._turn.acquire(timeout=PATIENCE):
            raise CatalogueBusy(
                f"{self.path}: others have been changing it for {PATIENCE} seconds; try again"
            )
        try:
            with self.noting() as connection:
                connection.execute(update(META).where(META.c.key == "revision").values(value=grown))
                self.refuse_superseded(connection)
                yield connection, int(value(connection, "revision"))
                seal_notes(connection)
        finally:
            self._turn.release()

    def refuse_superseded(self, connection: Connection) -> None:
        """Superseded where another artifact took this one's place, unless this is to come back from it."""
        successor = noted(connection, SUCCESSOR)
        if successor not in (None, self.returns_from):
            raise Superseded(
                f"{self.path}: {successor} took the place of this artifact; restart this service, which "
                "then serves that one"
            )

    def revision(self) -> int:
        """Of this moment."""
        # Read for every batch of searches: SQLAlchemy's own way takes ten times as long as the driver's.
        with (
            naming(self.path),
            closing(self._engine.raw_connection()) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(REVISION)
            ((revision,),) = cursor.fetchall()
            return int(revision)

    def close(self) -> None:
        """Fold the write-ahead log into the file, which then stands alone."""
        self._engine.dispose()  # SQLite folds it in when the last connection closes

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            with naming(self.path):
                yield
        except Unusable as error:
            kind = CatalogueUnavailable if isinstance(error, Unavailable) else CatalogueError
            raise kind(f"{self.path}: {error}") from error
