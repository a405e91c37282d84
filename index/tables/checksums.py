"""Checksums of what nothing else tells damage of: what is known of each image, thumbnails, notes.

CRC-32 (`zlib.crc32`), which tells damage, not forgery. Each row of `items` and `removed` has one, and each
thumbnail, in a table of their own; all notes together have one, which is a note too. Labels and codes have a
digest, which is looked at whenever a catalogue is opened.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    bindparam,
    delete,
    insert,
    select,
    type_coerce,
    update,
)
from sqlalchemy.types import NullType

from index.tables.rows import BATCH, noted
from index.tables.schema import (
    CHECKSUMS,
    EMBEDDINGS,
    HISTORY,
    ITEMS,
    META,
    PICTURES,
    REMOVED,
    SOURCES,
    THUMBNAILS,
    TRASH,
)

NOTES = "checksum"  # the note that has that of the others

OWN = {  # tables each of whose rows ends with its own checksum, and what a row is
    table.name: (table, what)
    for table, what in (
        (EMBEDDINGS, "the embedding of image {}"),
        (PICTURES, "the hash of the pixels of image {}"),
        (SOURCES, "the source of the label of {}"),
        (TRASH, "what the trash knows of image {}"),
        (HISTORY, "row {} of what was changed"),
    )
}

Value = int | float | str | bytes | None
Stored = Sequence[Value]  # a row: its id, and the other columns in their order


def of_row(row: Stored) -> int:
    """32 bits of all values, and of which type each is."""
    parts = [_as_bytes(value) for value in row]
    return crc32(b"".join(b"%d:" % len(part) + part for part in parts))


def _as_bytes(value: Value) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, str):
        return b"s" + value.encode(errors="surrogateescape")
    return b"n" + repr(int(value) if value is True or value is False else value).encode()  # as in SQLite


def of_notes(connection: Connection) -> str:
    """That of all notes but itself."""
    notes = connection.execute(_as_stored(META).where(META.c.key != NOTES).order_by(META.c.key))
    return str(of_row([value for row in notes for value in row]))


def notes_are_whole(connection: Connection) -> bool:
    """Whether they match their checksum."""
    return noted(connection, NOTES) == of_notes(connection)


def seal_notes(connection: Connection) -> None:
    """Let the notes' checksum follow a change of them."""
    connection.execute(delete(META).where(META.c.key == NOTES))
    connection.execute(insert(META), {"key": NOTES, "value": of_notes(connection)})


def write(connection: Connection, rows: Sequence[Stored], thumbnails: Mapping[Value, bytes]) -> None:
    """Those of rows of `items`, whose thumbnails are given by their ids, or of `removed`, which have none."""
    made = [
        {
            "id": row[0],
            "row": of_row(row),
            "thumbnail": of_row([row[0], thumbnails[row[0]]]) if row[0] in thumbnails else None,
        }
        for row in rows
    ]
    if made:
        connection.execute(insert(CHECKSUMS), made)


def rewrite(connection: Connection, ids: Iterable[int]) -> None:
    """Those of rows of `items` which changed, at most BATCH."""
    rows = connection.execute(_as_stored(ITEMS).where(ITEMS.c.id.in_(ids)))
    made = [{"this": row[0], "row": of_row(tuple(row))} for row in rows]
    if made:
        connection.execute(update(CHECKSUMS).where(CHECKSUMS.c.id == bindparam("this")), made)


def write_all(connection: Connection) -> None:
    """All anew, of what is there: an older version had none, or other columns."""
    connection.execute(delete(CHECKSUMS))
    for rows in _batches(connection, ITEMS):
        shown = THUMBNAILS.c.item_id.in_([row[0] for row in rows])
        images = connection.execute(_as_stored(THUMBNAILS).where(shown))
        write(connection, rows, {id_: image for id_, image in images})
    for rows in _batches(connection, REMOVED):
        write(connection, rows, {})
    seal_notes(connection)


def faults(connection: Connection) -> Iterator[str]:
    """What does not match its checksum, of all but thumbnails."""
    if not notes_are_whole(connection):
        yield "what it notes of itself does not match its checksum"
    yield from _differing(connection, ITEMS, CHECKSUMS.c.row, "what is known of image {}")
    yield from _differing(
        connection, REMOVED, CHECKSUMS.c.row, "what is known of image {}, which was removed,"
    )


def thumbnail_faults(connection: Connection) -> Iterator[str]:
    """Which thumbnails do not match their checksums: it reads them all."""
    yield from _differing(connection, THUMBNAILS, CHECKSUMS.c.thumbnail, "the thumbnail of image {}")


def own_faults(connection: Connection, names: Iterable[str]) -> Iterator[str]:
    """What does not match the checksum in its own row, of the tables with these names among OWN."""
    for table, what in (OWN[name] for name in names):
        for rows in _batches(connection, table):
            for *row, checksum in rows:
                if of_row(row) != checksum:
                    yield f"{what.format(row[0])} does not match its checksum"


def _differing(
    connection: Connection, table: Table, checksum: ColumnElement[int | None], what: str
) -> Iterator[str]:
    for rows in _batches(connection, table):
        ids = [row[0] for row in rows]
        query = select(CHECKSUMS.c.id, type_coerce(checksum, NullType())).where(CHECKSUMS.c.id.in_(ids))
        wanted = {id_: value for id_, value in connection.execute(query)}
        for row in rows:
            if of_row(row) != wanted.get(row[0]):
                yield f"{what.format(row[0])} does not match its checksum"


def _as_stored(table: Table) -> Select[Any]:
    """All columns, with the values that are there: damage may have changed their types."""
    columns = (type_coerce(column, NullType()) for column in table.columns)
    return select(*columns)  # type: ignore[return-value]  # which is typed for a fixed number


def _batches(connection: Connection, table: Table) -> Iterator[Sequence[Stored]]:
    """All rows by their id, some at a time, so that others can be written meanwhile."""
    (key,) = table.primary_key
    query, after = _as_stored(table).order_by(key).limit(BATCH), -(2**63)
    while rows := [tuple(row) for row in connection.execute(query.where(key > after))]:
        yield rows
        last = max(row[0] for row in rows)
        if last <= after:  # the ids of a damaged table may go down
            return
        after = last
