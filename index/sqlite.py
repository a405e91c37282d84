"""How the catalogue's database is opened and what its errors are in words: what knows that it is SQLite."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from index.space import WAY_OUT, no_space

PATIENCE = 30  # seconds that one who wants to write waits for others
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


# What reading a damaged database raises, of itself and of what its rows are taken for.
DAMAGE = (
    *(SQLAlchemyError, sqlite3.Error),
    *(AttributeError, KeyError, MemoryError, OverflowError, TypeError, ValueError),
)


class CatalogueError(ValueError):
    """The catalogue cannot be used; names the file and the fault."""


class CatalogueUnavailable(CatalogueError):
    """It cannot be used here or now, though nothing says that it is damaged; the message says what to do."""


class CatalogueBusy(CatalogueUnavailable):
    """Others use the catalogue at this moment; the same may succeed later."""


class Superseded(CatalogueError):
    """Another artifact took the place of this one: what were changed here, nobody would see again."""


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


@contextmanager
def undecoded(connection: Connection) -> Iterator[None]:
    """Text that is no UTF-8, as damage leaves it, is read with lone surrogates in it, and not refused."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    before = driver.text_factory
    driver.text_factory = lambda text: text.decode(errors="surrogateescape")
    try:
        yield
    finally:
        driver.text_factory = before


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """The database's own errors, with the file they are about."""
    try:
        yield
    except DBAPIError as error:
        raise _explained(path, error.orig) from error
    except sqlite3.Error as error:  # of the driver, called past SQLAlchemy
        raise _explained(path, error) from error
    except PoolTimeout as error:
        raise CatalogueBusy(f"{path}: too many read it at a time; try again") from error


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
