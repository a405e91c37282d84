"""Connections to the catalogue's database: many that read, one at a time that writes."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from sqlalchemy import BigInteger, Connection, Text, cast, or_, select, update

from index.database import (
    PATIENCE,
    CatalogueBusy,
    CatalogueError,
    CatalogueUnavailable,
    Database,
    Followed,
    Superseded,
)
from index.items import MOVED, SUCCESSOR
from index.names import from_stored
from index.tables.checksums import seal_notes
from index.tables.rows import Unavailable, Unusable, value
from index.tables.schema import META

# Asked with each change, so made once.
ELSEWHERE = select(META.c.key, META.c.value).where(or_(META.c.key == SUCCESSOR, META.c.key == MOVED))
REVISION = "SELECT value FROM meta WHERE key = 'revision'"


def moved_to(place: str) -> str:
    """What to do where a catalogue was moved to this place."""
    return f"its catalogue was moved to {place}; set HEBBSEARCH_CATALOGUE to this address"


class Connections:
    """To one catalogue, from many threads. All errors name it: CatalogueError."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.path = database.path
        self.returns_from: str | None = None  # the successor that may take its place, as it is to come back
        self._engine = database.engine
        # Who waits to write holds no connection: otherwise they would take all that readers need.
        self._turn = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the catalogue throughout."""
        with self._naming(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def preparing(self) -> Iterator[Connection]:
        """One transaction that makes the tables. CatalogueError where there are some."""
        with self._naming(), self._engine.begin() as connection:
            self.database.prepare(connection)
            yield connection

    @contextmanager
    def noting(self, within: Connection | None = None) -> Iterator[Connection]:
        """One transaction, which leaves the revision as it is: a new one, or `within` that of another
        catalogue of a database that lets one change `several`."""
        if within is not None:
            with self._naming(), self.database.inside(within):
                yield within
            return
        with self._naming(), self._engine.begin() as connection:
            self.database.lock(connection)
            yield connection

    @contextmanager
    def writing(self, within: Connection | None = None) -> Iterator[tuple[Connection, int]]:
        """One transaction, as `noting`, alone, and its revision: growing that takes the write lock before
        anything is read. Superseded where another artifact took this one's place before."""
        grown = cast(cast(META.c.value, BigInteger) + 1, Text)
        if not self._turn.acquire(timeout=PATIENCE):
            raise CatalogueBusy(
                f"{self.path}: others have been changing it for {PATIENCE} seconds; try again"
            )
        try:
            with self.noting(within) as connection:
                connection.execute(update(META).where(META.c.key == "revision").values(value=grown))
                self.refuse_superseded(connection)
                yield connection, int(value(connection, "revision"))
                seal_notes(connection)
        finally:
            self._turn.release()

    def refuse_superseded(self, connection: Connection) -> None:
        """Superseded where another artifact took this one's place, unless this is to come back from it, and
        where its catalogue lies elsewhere now."""
        found = {key: from_stored(text) for key, text in connection.execute(ELSEWHERE)}
        if place := found.get(MOVED):
            raise Superseded(f"{self.path}: {moved_to(place)}")
        successor = found.get(SUCCESSOR)
        if successor not in (None, self.returns_from):
            if isinstance(self.path, str):
                raise Followed(
                    f"{self.path}: {successor} took the place of this artifact and is served within seconds; "
                    f"try again (a command is to name {successor} and its schema)"
                )
            raise Superseded(
                f"{self.path}: {successor} took the place of this artifact; restart this service, which "
                "then serves that one (a command is to name it)"
            )

    def revision(self) -> int:
        """Of this moment."""
        # Read for every batch of searches: SQLAlchemy's own way takes ten times as long as the driver's.
        with (
            self.database.naming(),
            closing(self._engine.raw_connection()) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(REVISION)
            ((revision,),) = cursor.fetchall()
            return int(revision)

    def close(self) -> None:
        """Let go of the catalogue. SQLite folds its log into the file then, which stands alone."""
        self._engine.dispose()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            with self.database.naming():
                yield
        except Unusable as error:
            kind = CatalogueUnavailable if isinstance(error, Unavailable) else CatalogueError
            raise kind(f"{self.path}: {error}") from error
