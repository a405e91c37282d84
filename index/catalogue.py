"""The catalogue: items, labels, codes and thumbnails, the one source of truth.

SQLite through SQLAlchemy Core. Only `_open_mode`, `_engine`, `_connect`, `_naming` and the check on opening
know that it is SQLite, so that the same tables can move to PostgreSQL.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    QueuePool,
    Table,
    Text,
    cast,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from index.codes import Codes

UNLABELLED = -1

SCHEMA = 1
BATCH = 1000  # rows per statement: one bound value each must stay below every database's limit
REVISION = "SELECT value FROM meta WHERE key = 'revision'"
READ = 65536  # rows turned into arrays at a time: bounds what exists as Python objects

_metadata = MetaData()
_meta = Table(
    "meta",
    _metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
_classes = Table(
    "classes",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
)
_items = Table(
    "items",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("path", Text, nullable=False),
    Column("label", ForeignKey("classes.id")),
    Column("split", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    sqlite_autoincrement=True,  # an id is never given twice, not even after a deletion
)
_codes = Table(
    "codes",
    _metadata,
    Column("item_id", ForeignKey("items.id"), primary_key=True),
    Column("code", LargeBinary, nullable=False),
)
_thumbnails = Table(
    "thumbnails",
    _metadata,
    Column("item_id", ForeignKey("items.id"), primary_key=True),
    Column("image", LargeBinary, nullable=False),
)


@dataclass(frozen=True)
class NewItem:
    path: str  # relative to the indexed folder
    label: int  # class index or UNLABELLED
    split: Literal["database", "query"]
    width: int
    height: int
    thumbnail: bytes
    code: Codes | None  # None for queries: theirs lie beside the catalogue


@dataclass(frozen=True)
class Item:
    id: int
    path: str
    label: str | None  # class name
    split: str
    width: int
    height: int


@dataclass(frozen=True)
class CodeTable:
    ids: NDArray[np.int64]  # (n,) ascending
    labels: NDArray[np.int64]  # (n,) class index or UNLABELLED
    codes: Codes  # (n, bits/8)


class CatalogueError(ValueError):
    """The catalogue cannot be used; names the file and the fault."""


class Catalogue:
    """An open catalogue. Safe to read from many threads; close it to leave one file behind."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self._engine = engine
        with self._reading() as connection:
            meta = {key: value for key, value in connection.execute(select(_meta.c.key, _meta.c.value))}
            names = connection.scalars(select(_classes.c.name).order_by(_classes.c.id))
            self.classes: tuple[str, ...] = tuple(names)
        if meta.get("schema") != str(SCHEMA):
            raise CatalogueError(f"{path}: has schema {meta.get('schema')}, this version reads {SCHEMA}")
        self.encoder_id: str = meta["encoder_id"]
        self.bits: int = int(meta["bits"])

    @classmethod
    def create(cls, path: Path | str, *, encoder_id: str, bits: int, classes: Sequence[str]) -> Self:
        """A new, empty catalogue. CatalogueError if the file exists or cannot be made."""
        path = Path(path)
        if path.exists():
            raise CatalogueError(f"{path}: exists already")
        if bits < 8 or bits % 8:
            raise ValueError(f"bits is {bits}; wanted a positive multiple of 8")
        if len(set(classes)) < len(classes):
            raise ValueError(f"classes are {list(classes)}; wanted each name once")
        meta = {"schema": SCHEMA, "encoder_id": encoder_id, "bits": bits, "revision": 0, "digest": 0}
        engine = _engine(path, "mode=rwc")
        with _naming(path), engine.begin() as connection:
            _metadata.create_all(connection)
            connection.execute(insert(_meta), [{"key": k, "value": str(v)} for k, v in meta.items()])
            if classes:
                named = [{"id": i, "name": name} for i, name in enumerate(classes)]
                connection.execute(insert(_classes), named)
        return cls(path, engine)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """An existing catalogue, verified: schema, structure, digest of labels and codes.

        Where its folder cannot be written to, it is read as it is and cannot be changed.
        CatalogueError says what is wrong.
        """
        path = Path(path)
        if not path.is_file():
            raise CatalogueError(f"{path}: no such catalogue")
        engine = _engine(path, _open_mode(path))
        try:
            catalogue = cls(path, engine)
            catalogue._verify()
        except CatalogueError:
            engine.dispose()
            raise
        except (KeyError, TypeError, ValueError, OverflowError, SQLAlchemyError) as error:
            engine.dispose()
            raise CatalogueError(f"{path}: is damaged ({error})") from error
        return catalogue

    @property
    def revision(self) -> int:
        """Grows with every change, whoever makes it."""
        # Read for every batch of searches: SQLAlchemy's own way takes ten times as long as the driver's.
        with (
            _naming(self.path),
            closing(self._engine.raw_connection()) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(REVISION)
            ((revision,),) = cursor.fetchall()
            return int(revision)

    def add(self, items: Iterable[NewItem]) -> list[int]:
        """Store all items or none; their ids, ascending in the order given.

        Other writers wait while items are drawn; readers do not. ValueError for a label, code or
        split that does not fit this catalogue.
        """
        rows, ids, digest = iter(items), list[int](), 0
        with self._writing() as connection:
            while batch := list(islice(rows, BATCH)):
                new = self._insert(connection, batch)
                digest += self._digest_of(new, batch)
                ids += new
            total = (int(_value(connection, "digest")) + digest) % 2**64
            connection.execute(update(_meta).where(_meta.c.key == "digest").values(value=str(total)))
        return ids

    def get(self, item_id: int) -> Item:
        """One item. KeyError when unknown."""
        return self.get_many([item_id])[0]

    def get_many(self, ids: Iterable[int]) -> list[Item]:
        """The items in the order asked. KeyError when one is unknown."""
        wanted = [_check_id(item_id) for item_id in ids]
        query = select(
            _items.c.id,
            _items.c.path,
            _classes.c.name,
            _items.c.split,
            _items.c.width,
            _items.c.height,
        ).outerjoin(_classes)
        found: dict[int, Item] = {}
        with self._reading() as connection:
            for start in range(0, len(wanted), BATCH):
                some = query.where(_items.c.id.in_(wanted[start : start + BATCH]))
                found |= {row.id: Item(*row) for row in connection.execute(some)}
        return [found[item_id] for item_id in wanted]

    def thumbnail(self, item_id: int) -> bytes:
        """The stored WebP bytes. KeyError when the item is unknown."""
        query = select(_thumbnails.c.image).where(_thumbnails.c.item_id == _check_id(item_id))
        with self._reading() as connection:
            image: bytes | None = connection.scalar(query)
        if image is None:
            raise KeyError(item_id)
        return image

    def codes(self) -> CodeTable:
        """Ids, labels and codes of the database split."""
        with self._reading() as connection:
            return self._codes(connection)

    def counts(self) -> dict[str, int]:
        """How many items: database = labelled + unlabelled, and queries."""
        labelled = _items.c.label.is_not(None)
        query = select(_items.c.split, labelled, func.count()).group_by(_items.c.split, labelled)
        with self._reading() as connection:
            number = {(split, bool(known)): n for split, known, n in connection.execute(query)}
        with_label, without = (number.get(("database", known), 0) for known in (True, False))
        return {
            "database": with_label + without,
            "labelled": with_label,
            "unlabelled": without,
            "queries": number.get(("query", True), 0) + number.get(("query", False), 0),
        }

    def close(self) -> None:
        """Fold the write-ahead log into the file, which then stands alone."""
        self._engine.dispose()  # SQLite folds it in when the last connection closes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _insert(self, connection: Connection, batch: Sequence[NewItem]) -> list[int]:
        rows = [self._row(item) for item in batch]
        statement = insert(_items).returning(_items.c.id, sort_by_parameter_order=True)
        ids = list(connection.scalars(statement, rows))
        thumbnails = [{"item_id": id_, "image": item.thumbnail} for id_, item in zip(ids, batch, strict=True)]
        connection.execute(insert(_thumbnails), thumbnails)
        codes = [
            {"item_id": id_, "code": item.code.tobytes()}
            for id_, item in zip(ids, batch, strict=True)
            if item.code is not None
        ]
        if codes:
            connection.execute(insert(_codes), codes)
        return ids

    def _row(self, item: NewItem) -> dict[str, str | int | None]:
        if item.split not in ("database", "query"):
            raise ValueError(f"{item.path}: split is {item.split!r}; wanted database or query")
        if (item.split == "database") != (item.code is not None):
            raise ValueError(f"{item.path}: database items, and only they, have a code here")
        if item.code is not None and (item.code.dtype != np.uint8 or item.code.size * 8 != self.bits):
            raise ValueError(f"{item.path}: {item.code.size * 8}-bit code; wanted {self.bits} bits")
        if item.label != UNLABELLED and not 0 <= item.label < len(self.classes):
            raise ValueError(
                f"{item.path}: label is {item.label}; wanted {UNLABELLED} or 0 to {len(self.classes) - 1}"
            )
        return {
            "path": item.path,
            "label": None if item.label == UNLABELLED else int(item.label),
            "split": item.split,
            "width": item.width,
            "height": item.height,
        }

    def _digest_of(self, ids: Sequence[int], batch: Sequence[NewItem]) -> int:
        coded = [
            (id_, item.label, item.code.tobytes())
            for id_, item in zip(ids, batch, strict=True)
            if item.code is not None
        ]
        return _digest(self._table(coded))

    def _codes(self, connection: Connection) -> CodeTable:
        query = (
            select(_codes.c.item_id, func.coalesce(_items.c.label, UNLABELLED), _codes.c.code)
            .join(_items)
            .order_by(_codes.c.item_id)
        )
        result = connection.execution_options(yield_per=READ).execute(query)
        parts = [self._table(part) for part in result.partitions()]
        parts.append(self._table([]))
        return CodeTable(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.codes for part in parts]),
        )

    def _table(self, rows: Sequence[tuple[int, int, bytes]]) -> CodeTable:
        ids, labels, codes = zip(*rows, strict=True) if rows else ((), (), ())
        width = self.bits // 8
        data = b"".join(codes)
        if len(data) != len(rows) * width:
            raise CatalogueError(f"{self.path}: holds a code that has not {self.bits} bits")
        return CodeTable(
            np.array(ids, dtype=np.int64),
            np.array(labels, dtype=np.int64),
            np.frombuffer(data, dtype=np.uint8).reshape(-1, width),
        )

    def _verify(self) -> None:
        with self._reading() as connection:
            for table in (_meta, _classes, _items, _codes):  # thumbnails: gigabytes to read
                found = connection.exec_driver_sql(f"PRAGMA quick_check({table.name})").scalar()
                if found != "ok":
                    raise CatalogueError(f"{self.path}: is damaged ({' '.join(str(found).split())})")
            int(_value(connection, "revision"))
            if str(_digest(self._codes(connection))) != _value(connection, "digest"):
                raise CatalogueError(f"{self.path}: labels or codes do not match their digest")

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the catalogue throughout."""
        with _naming(self.path), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction, alone: growing the revision takes the write lock before anything is read."""
        grown = cast(cast(_meta.c.value, Integer) + 1, Text)
        with _naming(self.path), self._engine.begin() as connection:
            connection.execute(update(_meta).where(_meta.c.key == "revision").values(value=grown))
            yield connection


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """The database's own errors, with the file they are about."""
    try:
        yield
    except DBAPIError as error:
        raise CatalogueError(f"{path}: {error.orig}") from error
    except sqlite3.Error as error:  # of the driver, called past SQLAlchemy
        raise CatalogueError(f"{path}: {error}") from error


def _value(connection: Connection, key: str) -> str:
    value: str = connection.scalars(select(_meta.c.value).where(_meta.c.key == key)).one()
    return value


def _check_id(item_id: int) -> int:
    """KeyError for what can be no id, before the database driver trips over it."""
    if not 0 < item_id < 2**63:
        raise KeyError(item_id)
    return int(item_id)


def _digest(table: CodeTable) -> int:
    """Sum of 64-bit hashes of the rows (id, label, code), modulo 2^64.

    A sum has no order and can be carried on with each change. It tells damage, not forgery.
    Mixing: the finaliser of SplitMix64 (Steele, Lea, Flood 2014), chained over the words of a row.
    """
    words = np.zeros((len(table.codes), -(-table.codes.shape[1] // 8) * 8), dtype=np.uint8)
    words[:, : table.codes.shape[1]] = table.codes
    hashes = _mix(table.ids.astype(np.uint64))
    for column in (table.labels.astype(np.uint64), *words.view("<u8").T):
        hashes = _mix(hashes ^ column)
    return int(hashes.sum(dtype=np.uint64))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _open_mode(path: Path) -> str:
    """Read and write, or, where nothing can be written, the file as it is (SQLite's immutable)."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "mode=rw"
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise CatalogueError(f"{path}: was not closed; open it once where its folder can be written to")
    return "mode=ro&immutable=1"


def _engine(path: Path, mode: str) -> Engine:
    address = f"{path.resolve().as_uri()}?{mode}"
    new = mode == "mode=rwc"
    engine = create_engine("sqlite://", creator=lambda: _connect(address, new), poolclass=QueuePool)
    # The driver would begin transactions late, and never for reading: begin them here instead.
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _connect(address: str, new: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(address, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
    if new:  # the file remembers; one opened later is not touched before it is known to be ours
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection
