"""What keeps a catalogue, a file of SQLite or a schema of PostgreSQL, and what can be wrong with it."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

PATIENCE = 30  # seconds that one who wants to write waits for others

# What reading a damaged database raises, of itself and of what its rows are taken for.
DAMAGE = (
    *(SQLAlchemyError, sqlite3.Error),
    *(AttributeError, KeyError, MemoryError, OverflowError, TypeError, ValueError),
)


class CatalogueError(ValueError):
    """The catalogue cannot be used; names the file or the schema, and the fault."""


class CatalogueUnavailable(CatalogueError):
    """It cannot be used here or now, though nothing says that it is damaged; the message says what to do."""


class CatalogueBusy(CatalogueUnavailable):
    """Others use the catalogue at this moment; the same may succeed later."""


class CatalogueAway(CatalogueUnavailable):
    """The server that keeps the catalogue does not answer; the same may succeed later."""


class Superseded(CatalogueError):
    """Another artifact took the place of this one: what were changed here, nobody would see again."""


class Followed(Superseded, CatalogueBusy):
    """So it is, and services on its catalogue come to serve that one by themselves."""


class Database(Protocol):
    """Where the tables lie, and all that depends on what keeps them."""

    @property
    def path(self) -> Path | str:
        """By which messages name it: the file, or the URL without its password."""

    @property
    def engine(self) -> Engine:
        """Its connections, each of which sees one state from its first statement on."""

    @property
    def writable(self) -> bool:
        """Whether it can be changed; else it is read as it is."""

    def naming(self) -> AbstractContextManager[None]:
        """The database's own errors as CatalogueError, with what they are about."""

    def prepare(self, connection: Connection) -> None:
        """Let the tables of a new catalogue have a place. CatalogueError where one is there."""

    @property
    def several(self) -> bool:
        """Whether one transaction may change several catalogues that are kept there."""

    def lock(self, connection: Connection) -> None:
        """Before a transaction reads what it writes: nobody else changes anything until its end."""

    def inside(self, connection: Connection) -> AbstractContextManager[None]:
        """Within, a transaction that changes another catalogue changes this one, where `several` says that it
        may; nobody else does until its end."""

    def complete(self, connection: Connection) -> None:
        """Make what no change of the schema tells of, where it is missing."""

    def in_its_words(self, statement: str) -> str:
        """A statement that makes tables, in whose types are named as SQLite names them."""

    def stand_in(self, statements: Iterable[str]) -> None:
        """Have each connection make tables of its own, where there are none and nothing can be written."""

    def undecoded(self, connection: Connection) -> AbstractContextManager[None]:
        """Text that is no UTF-8, as damage leaves it, is read with lone surrogates in it, and not refused."""

    def damage(self, connection: Connection, tables: Iterable[str] | None = None) -> Iterator[str]:
        """What is wrong with how rows are kept, of all of it or, in less time, of some tables."""

    def dangling(self, connection: Connection) -> Iterator[str]:
        """Rows that name others which there are not."""

    def last_id(self, connection: Connection) -> int:
        """The highest id that an item was given; 0: none was."""

    def give_above(self, connection: Connection, last: int) -> None:
        """Let the next item have a higher id than this."""

    def size(self) -> int:
        """Bytes on the disk."""
