"""A catalogue that is a schema of PostgreSQL: how it is reached, and its errors in words.

The driver, psycopg, is an extra: it is loaded when a catalogue is opened, and not before.
"""

import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self, TypeGuard

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from index.database import PATIENCE, CatalogueAway, CatalogueBusy, CatalogueError, CatalogueUnavailable
from index.space import WAY_OUT, no_space

DRIVER = "postgresql+psycopg"
SCHEMES = (f"{DRIVER}:", "postgresql:", "postgres:")
SHAPE = f"{DRIVER}://user@host/database?schema=name"
SECRET = ("password", "sslpassword", "passfile", "sslkey")  # what the driver takes in a URL's query too
NAME = re.compile("[a-z_][a-z0-9_]{0,62}")  # which needs no quotes
MOST, KEPT = 15, 5  # connections, and those of them that stay open
CONNECT = 5  # seconds in which a server answers, or is away
RETRY = 1.0  # seconds after which one that was away is looked for again
UNREACHABLE = "start it, or look at the network: once it answers, all goes on by itself"
# What a server says, by the beginning of its SQLSTATE (PostgreSQL 15, appendix A), and the way out.
AWAY = ("08", "57P")  # connections fail; it shuts down, starts, or ended one
BUSY = ("40", "53300", "55P03", "57014")  # others came first; too many connections; a lock; time is over
TOO_LONG = "54000"  # for an index, of all that could be too long
REFUSED = {
    "25006": "make it writable, or name the server that is: this one may only follow it",
    "28": "look at user and password of the URL, and at the server's pg_hba.conf",
    "3D000": "make the database first: createdb",
    "42501": "grant it to the user of the URL, or name another one",
}


class Closed(RuntimeError):
    """A server that was away a moment ago is not looked for again; the message is the driver's."""


class PostgreSQL:
    """One schema, which is all that its connections see."""

    several = True

    def __init__(self, url: URL, schema: str, most: int = MOST) -> None:
        self.schema = schema
        self.path = _shown(url, schema)
        self.writable = True
        self.engine = _engine_of(url, schema, self.path, most)

    @classmethod
    def there(cls, url: str) -> Self:
        """The existing schema. CatalogueError."""
        database = cls.new(url)
        with database.naming(), database.engine.connect() as connection:
            there = database.exists(connection)
            if there:  # where it follows another server, or its user may only read, it stays as it is
                query = (
                    "SELECT current_setting('transaction_read_only'), has_table_privilege('meta', 'UPDATE')"
                )
                fixed, may = connection.exec_driver_sql(query).one()
                database.writable = fixed == "off" and may
        if not there:
            database.close()
            raise CatalogueError(f"{database.path}: no such catalogue; hebbsearch move brings one there")
        return database

    @classmethod
    def new(cls, url: str, most: int = MOST) -> Self:
        """A schema in which `prepare` finds none, by at most so many connections. CatalogueError."""
        return cls(*_parsed(url), most)

    def close(self) -> None:
        """End all connections: those that are used now once they are given back."""
        event.listen(self.engine, "checkin", _end)
        self.engine.dispose()

    def exists(self, connection: Connection) -> bool:
        """Whether a catalogue is there."""
        there: bool = connection.exec_driver_sql(
            f"SELECT to_regclass('{self.schema}.meta') IS NOT NULL"
        ).scalar_one()
        return there

    @contextmanager
    def naming(self) -> Iterator[None]:
        """As Database."""
        import psycopg

        try:
            yield
        except DBAPIError as error:
            raise self._explained(error.orig) from error
        except (psycopg.Error, Closed) as error:  # of the driver, called past SQLAlchemy
            raise self._explained(error) from error
        except PoolTimeout as error:
            raise CatalogueBusy(f"{self.path}: too many read it at a time; try again") from error

    def prepare(self, connection: Connection) -> None:
        """As Database: the schema, which may be there if it holds no catalogue."""
        # One at a time, also of those that make the same one.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": self.schema})
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise CatalogueError(
                f"{self.path}: the database is encoded in {encoding}; make one with "
                "createdb -E UTF8 -T template0"
            )
        if self.exists(connection):
            raise CatalogueError(f"{self.path}: exists already; name another schema")
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {self.schema}")

    def lock(self, connection: Connection) -> None:
        """As Database. Who only reads does not wait. As nobody else changes this catalogue, each statement
        may see what is there when it begins: of another catalogue too, which is entered later."""
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        self._lock(connection)

    @contextmanager
    def inside(self, connection: Connection) -> Iterator[None]:
        """As Database."""
        before = connection.exec_driver_sql("SHOW search_path").scalar_one()
        connection.exec_driver_sql(f"SET LOCAL search_path = {self.schema}")
        self._lock(connection)
        yield
        connection.exec_driver_sql(f"SET LOCAL search_path = {before}")

    def wait_for(self, connection: Connection, what: str) -> None:
        """Until nobody else does this in the schema, and then until the transaction ends."""
        asked = "SELECT pg_advisory_xact_lock(hashtext(%(what)s), hashtext(%(schema)s))"
        connection.exec_driver_sql(asked, {"what": what, "schema": self.schema})

    def try_to(self, connection: Connection, what: str) -> bool:
        """Whether nobody else does this in the schema; then nobody does until the connection ends."""
        asked = "SELECT pg_try_advisory_lock(hashtext(%(what)s), hashtext(%(schema)s))"
        free: bool = connection.exec_driver_sql(asked, {"what": what, "schema": self.schema}).scalar_one()
        return free

    def _lock(self, connection: Connection) -> None:
        connection.exec_driver_sql(
            f"SET LOCAL lock_timeout = {int(PATIENCE * 1000)}; LOCK TABLE meta IN EXCLUSIVE MODE"
        )

    def complete(self, connection: Connection) -> None:
        """The first version that made one here made all of it."""

    def in_its_words(self, statement: str) -> str:
        """As Database."""
        return statement.replace("BLOB", "BYTEA").replace("FLOAT", "DOUBLE PRECISION")

    def stand_in(self, statements: Iterable[str]) -> None:
        """As Database: CatalogueError, as a server that takes no changes takes no tables either."""
        raise CatalogueUnavailable(
            f"{self.path}: is of an earlier version and cannot be upgraded here; open it once with a user "
            "who may change it"
        )

    def undecoded(self, connection: Connection) -> AbstractContextManager[None]:
        """A database in UTF-8 holds no other text."""
        return nullcontext()

    def damage(self, connection: Connection, tables: Iterable[str] | None = None) -> Iterator[str]:
        """The server looks at its pages itself whenever it reads them, and pg_amcheck at all of them."""
        return iter(())

    def dangling(self, connection: Connection) -> Iterator[str]:
        """The server lets no row name one that there is not."""
        return iter(())

    def last_id(self, connection: Connection) -> int:
        """As Database."""
        given = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM items_id_seq"
        last: int = connection.exec_driver_sql(given).scalar_one()
        return last

    def give_above(self, connection: Connection, last: int) -> None:
        """As Database."""
        connection.execute(text("SELECT setval('items_id_seq', :next, false)"), {"next": last + 1})

    def has_schema(self) -> bool:
        """Whether the schema is there, with a catalogue or without. CatalogueError."""
        with self.naming(), self.engine.connect() as connection:
            query = f"SELECT to_regnamespace('{self.schema}') IS NOT NULL"
            there: bool = connection.exec_driver_sql(query).scalar_one()
            return there

    def size(self) -> int:
        """As Database: tables with all that belongs to them."""
        query = (
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::BIGINT FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = :name AND c.relkind = 'r'"
        )
        with self.naming(), self.engine.connect() as connection:
            found: int = connection.execute(text(query), {"name": self.schema}).scalar_one()
        return found

    def _explained(self, error: BaseException | None) -> CatalogueError:
        state = getattr(error, "sqlstate", None)
        said = " ".join(str(error).split())
        if state is None:  # of the driver itself: no server said anything
            if "NUL" in said:
                return CatalogueError(f"{self.path}: {said}; PostgreSQL keeps no text with this character")
            kind, way_out = _without_server(error, said)
            return kind(f"{self.path}: {said}; {way_out}")
        if no_space(error):
            return CatalogueUnavailable(f"{self.path}: {said}; {WAY_OUT}")
        if state == TOO_LONG:
            return CatalogueError(
                f"{self.path}: a path, folder or label has more than the 2,700 bytes that PostgreSQL keeps "
                "in order; give it a shorter name"
            )
        if state.startswith(BUSY):
            return CatalogueBusy(f"{self.path}: {said}; others use it, try again")
        if state.startswith(AWAY):
            return CatalogueAway(f"{self.path}: {said}; {UNREACHABLE}")
        for refused, way_out in REFUSED.items():
            if state.startswith(refused):
                return CatalogueUnavailable(f"{self.path}: {said}; {way_out}")
        return CatalogueError(f"{self.path}: {said}")


def _without_server(error: BaseException | None, said: str) -> tuple[type[CatalogueError], str]:
    """What a fault is about which no server told, and the way out."""
    import psycopg

    if "FATAL" in said:  # it did answer: the driver keeps its words, and not its code
        for told, state in (
            ("authentication", "28"),
            ("role", "28"),
            ("pg_hba", "28"),
            ("does not exist", "3D000"),
        ):
            if told in said:
                return CatalogueUnavailable, REFUSED[state]
        if "too many" in said or "remaining connection slots" in said:
            return CatalogueBusy, "others use it, try again"
    if isinstance(error, psycopg.OperationalError | Closed):
        return CatalogueAway, UNREACHABLE
    return CatalogueError, f"wanted such as {SHAPE}"


def is_url(place: Path | str) -> TypeGuard[str]:
    """Whether this names a catalogue in PostgreSQL, and no file."""
    return isinstance(place, str) and place.startswith(SCHEMES)


def without_password(url: str) -> str:
    """As messages name it, and as it may be written down. CatalogueError for what is none."""
    return _shown(*_parsed(url))


def schema_of(url: str) -> str:
    """The schema that a URL names. CatalogueError for what is none."""
    return _parsed(url)[1]


def beside(url: str, schema: str) -> str:
    """Another schema of the same database, for whom the same URL opens it. CatalogueError."""
    parsed, _ = _parsed(url)
    named = parsed.set(query={**parsed.query, "schema": schema}).render_as_string(hide_password=False)
    _parsed(named)
    return named


def _shown(url: URL, schema: str) -> str:
    rest = {key: value for key, value in url.query.items() if key not in SECRET}
    return url._replace(password=None).set(query={**rest, "schema": schema}).render_as_string()


def _parsed(url: str) -> tuple[URL, str]:
    """What of it says where the server is, for the driver, and the schema. CatalogueError, which does not
    repeat a password."""
    try:
        parsed = make_url(url) if is_url(url) else None
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None:
        raise CatalogueError(f"the catalogue's address is no URL of PostgreSQL; wanted such as {SHAPE}")
    query = dict(parsed.query)
    schema = query.pop("schema", "")
    if not isinstance(schema, str) or not NAME.fullmatch(schema) or schema.startswith("pg_"):
        raise CatalogueError(
            f"{_shown(parsed, '')}: its schema is {schema!r}; wanted small letters, digits "
            f"and _, as in {SHAPE}"
        )
    return parsed.set(drivername=DRIVER, query=query), schema


def _end(connection: DBAPIConnection | None, _: ConnectionPoolEntry) -> None:
    if connection is not None:  # else it ended already
        connection.close()


def _engine_of(url: URL, schema: str, path: str, most: int) -> Engine:
    """Connections that see this schema alone, each one state of it from its first statement on."""
    keepalives = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
    session = f"-c search_path={schema} {keepalives}"  # who is gone shall hold no lock
    options = " ".join([*_as_texts(url.query.get("options", ())), session])
    settings = {
        "connect_timeout": str(CONNECT),
        "keepalives_idle": "30",
        "tcp_user_timeout": str(2 * CONNECT * 1000),
        "application_name": "hebbsearch",
    }
    settings = {key: value for key, value in settings.items() if key not in url.query}
    try:
        engine = create_engine(
            url.set(query={key: value for key, value in url.query.items() if key != "options"}),
            poolclass=QueuePool,
            pool_size=(kept := min(most, KEPT)),
            max_overflow=most - kept,
            pool_pre_ping=True,  # one that a server's end left over is not used
            isolation_level="REPEATABLE READ",
            use_native_hstore=False,  # else it asks each server for it
            connect_args={**settings, "options": options, "client_encoding": "UTF8"},
        )
    except ImportError as error:
        raise CatalogueUnavailable(
            f"{path}: needs the package psycopg ({error}); pip install 'hebbsearch[postgres]'"
        ) from None
    event.listen(engine, "do_connect", _Door())
    event.listen(engine, "connect", _read_bits)
    return engine


def _as_texts(values: str | tuple[str, ...]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else values


class _Door:
    """Where a server is away, each who looks for it may wait for CONNECT seconds: one does at a time, and no
    more often than each RETRY; the others are told so at once."""

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._fault: str | None = None
        self._until = 0.0

    def __call__(self, dialect: Any, _: object, positional: list[Any], named: dict[str, Any]) -> Any:
        if self._fault is None:
            return self._connect(dialect, positional, named)
        if time.monotonic() < self._until or not self._looking.acquire(blocking=False):
            raise Closed(self._fault)
        try:
            return self._connect(dialect, positional, named)
        finally:
            self._looking.release()

    def _connect(self, dialect: Any, positional: list[Any], named: dict[str, Any]) -> Any:
        try:
            made = dialect.connect(*positional, **named)
        except dialect.loaded_dbapi.OperationalError as error:
            self._fault, self._until = str(error), time.monotonic() + RETRY
            raise
        self._fault = None
        return made


def _read_bits(connection: Any, _: object) -> None:
    """Have the driver give bit strings as bytes, most significant bit first."""
    from psycopg.adapt import Loader

    class AsBytes(Loader):
        def load(self, data: Any) -> bytes:
            digits = bytes(data)
            return int(digits or b"0", 2).to_bytes(len(digits) // 8)

    for kind in ("bit", "varbit"):
        connection.adapters.register_loader(kind, AsBytes)
