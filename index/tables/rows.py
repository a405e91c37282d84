"""What is read of the tables through one connection: what both who reads and who changes ask for."""

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Column, ColumnElement, Connection, Select, Table, and_, bindparam, func, select

from index.items import UNLABELLED, Changes, CodeTable, Embedding
from index.names import from_stored
from index.tables.schema import CLASSES, CODES, EMBEDDINGS, ITEMS, META, REMOVED, SOURCES

BATCH = 1000  # rows per statement: one bound value each must stay below every database's limit
READ = 512  # rows turned into arrays at a time: bounds what exists as Python objects
# Each search asks for it: made anew it takes twice as long.
PATHS = select(ITEMS.c.id, ITEMS.c.path, ITEMS.c.folder).where(
    ITEMS.c.id.in_(bindparam("ids", expanding=True))
)


class Unusable(ValueError):
    """Why the tables cannot be used; says what is wrong, but not in which file."""


class Unavailable(Unusable):
    """They cannot be used here or by this version, and are not damaged; says what to do."""


def value(connection: Connection, key: str) -> str:
    """What `meta` must have under a key. NoResultFound where it does not."""
    return _text(key, connection.scalars(select(META.c.value).where(META.c.key == key)).one())


def noted(connection: Connection, key: str) -> str | None:
    """What `meta` has under a key, if anything."""
    found = connection.scalar(select(META.c.value).where(META.c.key == key))
    return None if found is None else from_stored(_text(key, found))


def _text(key: str, found: object) -> str:
    if not isinstance(found, str):  # damage can change the type
        raise Unusable(f"is damaged (its note {key!r} is no text)")
    return found


def class_indices(connection: Connection) -> dict[str, int]:
    """The index of each class, in order."""
    query = select(CLASSES.c.name, CLASSES.c.id).order_by(CLASSES.c.id)
    return {name: index for name, index in connection.execute(query)}


def code_table(
    connection: Connection, bits: int, *which: ColumnElement[bool], code: Column[Any] = CODES.c.code
) -> CodeTable:
    """Ids, labels and codes, which that column holds, of the items that have one and to which all of `which`
    apply, by id. Only items of the database split have a code in the table of these."""
    item_id = code.table.c.item_id
    query = select(item_id, func.coalesce(ITEMS.c.label, UNLABELLED), code).join(ITEMS).where(*which)
    if not which:  # else SQLite would walk all codes in order instead of looking for the items
        query = query.order_by(item_id)
    parts = [as_table(part, bits) for part in driver_rows(connection, query, many=not which)]
    table = CodeTable.joined([*parts, as_table([], bits)])
    return table.rows(np.argsort(table.ids)) if which else table


def driver_rows(
    connection: Connection, query: Select[Any], *, many: bool = True
) -> Generator[Sequence[tuple[Any, ...]], None, None]:
    """The driver's own tuples, few enough that Python does not look for garbage among what is read:
    SQLAlchemy's rows of a million items take three times as long. Of `many` a server hands over some at a
    time, for which it is asked again and again: its driver would keep them all."""
    streamed = many and connection.dialect.supports_server_side_cursors
    with connection.execute(query, execution_options={"stream_results": streamed}) as result:
        if streamed:  # SQLAlchemy has taken the first one by then
            first = [tuple(row) for row in result.fetchmany(1)]
            if not first:
                return
            yield first
        yield from iter(lambda: result.cursor.fetchmany(READ), [])


def paths(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[str, str | None]]:
    """Path and folder of those of the items that are there."""
    found: dict[int, tuple[str, str | None]] = {}
    for start in range(0, len(ids), BATCH):
        with connection.execute(PATHS, {"ids": ids[start : start + BATCH]}) as result:
            some = result.cursor.fetchall()  # the driver's own tuples
        found |= {id_: (from_stored(path, folder), folder) for id_, path, folder in some}
    return found


def as_table(rows: Sequence[tuple[int, int, bytes]], bits: int) -> CodeTable:
    """Rows (id, label, code) as arrays. Unusable for a code of other than `bits` bits."""
    ids, labels, codes = zip(*rows, strict=True) if rows else ((), (), ())
    try:
        data = b"".join(codes)
    except TypeError as error:  # one of them is a text, or a number
        raise Unusable(f"is damaged ({error})") from None
    if len(data) != len(rows) * (bits // 8):
        raise Unusable(f"holds a code that has not {bits} bits")
    return CodeTable(
        np.array(ids, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.frombuffer(data, dtype=np.uint8).reshape(-1, bits // 8),
    )


def as_bytes(vector: Embedding) -> bytes:
    """How an embedding (E,) is stored. ValueError for another type or shape."""
    if vector.dtype != np.float16 or vector.ndim != 1:
        raise ValueError(f"an embedding of type {vector.dtype} and shape {vector.shape}; wanted float16 (E,)")
    return vector.astype("<f2").tobytes()


def embedding_table(
    connection: Connection, *which: ColumnElement[bool]
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Ids (n,) and embeddings (n, E) of the items to which all of `which` apply, by id; (0, 0) where
    there are none. Unusable where one is damaged or of another length."""
    query = select(EMBEDDINGS.c.item_id, EMBEDDINGS.c.vector).join(ITEMS).where(*which)
    count = connection.scalar(select(func.count()).select_from(query.subquery())) or 0
    ids, vectors = np.empty(count, np.int64), np.empty((0, 0), np.float16)
    with closing(driver_rows(connection, query.order_by(EMBEDDINGS.c.item_id))) as parts:
        start = 0
        for part in parts:
            length = len(part[0][1]) if isinstance(part[0][1], bytes) else -1
            if not start:  # in place: of 100,000 images a second copy would be 100 MB
                vectors = np.empty((count, max(length, 0) // 2), np.float16)
            if not all(
                isinstance(vector, bytes) and len(vector) == 2 * vectors.shape[1] for _, vector in part
            ):
                raise Unusable("holds embeddings of different lengths, or what is none")
            values = np.frombuffer(b"".join(vector for _, vector in part), "<f2")
            stop = start + len(part)
            ids[start:stop] = [id_ for id_, _ in part]
            vectors[start:stop] = values.reshape(len(part), -1)
            start = stop
    return ids, vectors


def ids_by_hash(connection: Connection, hashes: Sequence[bytes], split: str = "database") -> dict[bytes, int]:
    """The item of a split of each file that is there, the lowest id of several, by SHA-256."""
    found: dict[bytes, int] = {}
    for start in range(0, len(hashes), BATCH):
        query = (
            select(ITEMS.c.sha256, func.min(ITEMS.c.id))
            .where(ITEMS.c.sha256.in_(hashes[start : start + BATCH]), ITEMS.c.split == split)
            .group_by(ITEMS.c.sha256)
        )
        found |= {sha256: id_ for sha256, id_ in connection.execute(query)}
    return found


def check_id(item_id: int) -> int:
    """KeyError for what can be no id, before the database driver trips over it."""
    if not 0 < item_id < 2**63:
        raise KeyError(item_id)
    return int(item_id)


def held_out(connection: Connection) -> dict[int, int]:
    """The label of each held-out query, a class index or UNLABELLED."""
    query = select(ITEMS.c.id, func.coalesce(ITEMS.c.label, UNLABELLED)).where(ITEMS.c.split == "query")
    return {id_: label for id_, label in connection.execute(query)}


def copies_of_queries(connection: Connection) -> NDArray[np.int64]:
    """The ids (n,) of copies, byte for byte, of what is held out; of nothing that is held out itself."""
    held = select(SOURCES.c.item_id).where(SOURCES.c.held_out)
    of_build = select(ITEMS.c.sha256).where(ITEMS.c.split == "query")
    since = select(ITEMS.c.sha256).where(ITEMS.c.id.in_(held), ITEMS.c.split == "database")
    # By their few hashes: to join all items with each other takes seconds for a million.
    asked = of_build.union(since).subquery()
    copies = select(ITEMS.c.id).where(
        ITEMS.c.sha256.in_(select(asked.c.sha256)), ITEMS.c.split == "database", ITEMS.c.id.not_in(held)
    )
    return np.array(list(connection.scalars(copies)), np.int64)


def gone(connection: Connection, since: int, until: int | None = None) -> list[int]:
    """The ids of what can be found no more after revision `since`, or was until another one, ascending."""
    removed = select(REMOVED.c.item_id).where(within(REMOVED, since, until), REMOVED.c.item_id > 0)
    thrown = select(ITEMS.c.id).where(within(ITEMS, since, until), ITEMS.c.split == "trash")
    return sorted(connection.scalars(removed.union_all(thrown)))


def within(table: Table, since: int, until: int | None = None) -> ColumnElement[bool]:
    """Rows of a revision after `since` and, if it is given, not after `until`."""
    after = table.c.revision > since
    return after if until is None else and_(after, table.c.revision <= until)


def reached(connection: Connection, since: int, most: int) -> int | None:
    """The first revision after `since` by which so many items came or changed; None: there are fewer."""
    query = select(ITEMS.c.revision).where(ITEMS.c.revision > since).order_by(ITEMS.c.revision)
    found: int | None = connection.scalar(query.offset(most - 1).limit(1))
    return found


def changes_since(connection: Connection, bits: int, since: int, most: int | None) -> Changes:
    """As `Reader.changes`."""
    until = None if most is None else reached(connection, since, most)
    every = since < 0 and until is None  # all have a revision
    table = code_table(connection, bits, *([] if every else [within(ITEMS, since, until)]))
    return changes(connection, table, gone(connection, since, until), until)


def changes(
    connection: Connection, table: CodeTable, removed: Sequence[int], until: int | None = None
) -> Changes:
    """At the catalogue's revision, or `until` another one: these items came or changed, and those with the
    ids `removed` are gone."""
    revision = int(value(connection, "revision")) if until is None else until
    return Changes(revision, table, np.array(removed, np.int64), tuple(class_indices(connection)))
