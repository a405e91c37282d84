"""A catalogue that is a file of SQLite: how it is opened, and its errors in words."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.schema import CreateIndex

from index.database import PATIENCE, CatalogueBusy, CatalogueError, CatalogueUnavailable
from index.space import WAY_OUT, no_space
from index.tables.schema import QUICKER

WRITABLE = "mode=rw"
NEW = "mode=rwc"  # and writable
# What the operating system refuses, by SQLite's name for it (sqlite.org/rescode.html), and the way out.
REFUSED = {
    "SQLITE_CANTOPEN": "make the file and its folder readable",
    "SQLITE_PERM": "make the file and its folder readable",
    "SQLITE_READONLY": "make the file and its folder writable",
    "SQLITE_IOERR": "look whether its disk is well",
}
PAGE = 16384  # bytes: thumbnails have some 2 kB, of which pages of SQLite's usual 4 kB hold one or two


class SQLite:
    """One file, and while it is open its write-ahead log."""

    several = False

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        self.writable = mode in (WRITABLE, NEW)
        self.engine = engine_of(path, mode)

    @classmethod
    def there(cls, path: Path) -> Self:
        """The existing file. CatalogueError."""
        if not path.is_file():
            raise CatalogueError(f"{path}: no such catalogue")
        return cls(path, open_mode(path))

    @classmethod
    def new(cls, path: Path) -> Self:
        """A file that is not there yet. CatalogueError if it is."""
        if path.exists():
            raise CatalogueError(f"{path}: exists already")
        return cls(path, NEW)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """As Database."""
        try:
            yield
        except DBAPIError as error:
            raise _explained(self.path, error.orig) from error
        except sqlite3.Error as error:  # of the driver, called past SQLAlchemy
            raise _explained(self.path, error) from error
        except PoolTimeout as error:
            raise CatalogueBusy(f"{self.path}: too many read it at a time; try again") from error

    def prepare(self, connection: Connection) -> None:
        """A new file is a place."""

    def lock(self, connection: Connection) -> None:
        """The first statement that writes takes the lock."""

    def inside(self, connection: Connection) -> AbstractContextManager[None]:
        """Not among `several`: with a log of changes, each file's transaction ends on its own."""
        raise NotImplementedError

    def complete(self, connection: Connection) -> None:
        """As Database: one of an earlier version of the same schema does not have them."""
        for each in QUICKER:
            connection.execute(CreateIndex(each, if_not_exists=True))

    def in_its_words(self, statement: str) -> str:
        """They are its own."""
        return statement

    def stand_in(self, statements: Iterable[str]) -> None:
        """As Database."""

        def make(connection: sqlite3.Connection, _: object) -> None:
            for statement in statements:
                connection.execute(statement)

        self.engine.dispose()  # those that are there have none
        event.listen(self.engine, "connect", make)

    @contextmanager
    def undecoded(self, connection: Connection) -> Iterator[None]:
        """As Database."""
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        before = driver.text_factory
        driver.text_factory = lambda text: text.decode(errors="surrogateescape")
        try:
            yield
        finally:
            driver.text_factory = before

    def damage(self, connection: Connection, tables: Iterable[str] | None = None) -> Iterator[str]:
        """As Database: structure, and indexes where it is all of it."""
        checks = ["integrity_check"] if tables is None else [f"quick_check({table})" for table in tables]
        for check in checks:
            for (found,) in connection.exec_driver_sql(f"PRAGMA {check}"):
                if found != "ok":
                    yield found

    def dangling(self, connection: Connection) -> Iterator[str]:
        """As Database."""
        for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
            yield f"row {row} of {table} names no row of {parent}"

    def last_id(self, connection: Connection) -> int:
        """As Database."""
        given = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'items'"
        last: int = connection.exec_driver_sql(given).scalar_one()
        return last

    def give_above(self, connection: Connection, last: int) -> None:
        """As Database."""
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'items'")
        connection.exec_driver_sql("INSERT INTO sqlite_sequence VALUES ('items', ?)", (last,))

    def size(self) -> int:
        """As Database, with its write-ahead log."""
        names = (self.path.name + suffix for suffix in ("", "-wal", "-shm"))
        files = (self.path.with_name(name) for name in names)
        return sum(file.stat().st_size for file in files if file.exists())


def open_mode(path: Path) -> str:
    """Read and write, or, where nothing can be written, the file as it is (SQLite's immutable). That leaves
    out what its log holds, such as a crash leaves: CatalogueUnavailable where there is one."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return WRITABLE
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise CatalogueUnavailable(
            f"{path}: was not closed, and {log.name} holds changes that belong into it; make the file and "
            "its folder writable once and open it (hebbsearch verify does), then it may be read-only again"
        )
    return "mode=ro&immutable=1"


def engine_of(path: Path, mode: str) -> Engine:
    """Connections to the file, each in a transaction from its first statement; `mode` is one of NEW and what
    `open_mode` gives."""
    address = f"{path.resolve().as_uri()}?{mode}"
    new = mode == NEW
    engine = create_engine("sqlite://", creator=lambda: _connect(address, new), poolclass=QueuePool)
    # The driver would begin transactions late, and never for reading: begin them here instead.
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _connect(address: str, new: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    if new:  # the file remembers; one opened later is not touched before it is known to be ours
        connection.execute(f"PRAGMA page_size={PAGE}")
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def _explained(path: Path, error: BaseException | None) -> CatalogueError:
    if no_space(error):
        return CatalogueUnavailable(f"{path}: {error}; {WAY_OUT}")
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return CatalogueBusy(f"{path}: {error}")
    for refused, way_out in REFUSED.items():
        if name.startswith(refused):
            return CatalogueUnavailable(f"{path}: {error}; {way_out}")
    return CatalogueError(f"{path}: {error}")
