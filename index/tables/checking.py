"""Whether a catalogue is whole and of this version. Knows that the database is SQLite."""

from collections.abc import Iterator

from sqlalchemy import Connection, func, select, update

from index.items import Changes
from index.tables.connections import Connections
from index.tables.digest import digest
from index.tables.rows import Unavailable, Unusable, changes, code_table, value
from index.tables.schema import CLASSES, CODES, ITEMS, META, REMOVED, SCHEMA, THUMBNAILS, upgrade

_coded = select(CODES.c.item_id).where(CODES.c.item_id == ITEMS.c.id).exists()
_shown = select(THUMBNAILS.c.item_id).where(THUMBNAILS.c.item_id == ITEMS.c.id).exists()
FAULTS = {
    "has no code": select(ITEMS.c.id).where(ITEMS.c.split == "database", ~_coded),
    "is held out and has a code": select(ITEMS.c.id).where(ITEMS.c.split == "query", _coded),
    "has a split that there is not": select(ITEMS.c.id).where(ITEMS.c.split.not_in(("database", "query"))),
    "has no thumbnail": select(ITEMS.c.id).where(~_shown),
    "has a thumbnail that is no WebP": select(THUMBNAILS.c.item_id).where(
        func.substr(THUMBNAILS.c.image, 9, 4) != b"WEBP"
    ),
}


def bring_up_to_date(connections: Connections, *, writable: bool) -> None:
    """Make it a catalogue of this version. CatalogueError for one of a version to come."""
    with connections.reading() as connection:
        found = value(connection, "schema")
    if found == str(SCHEMA):
        return
    with connections.reading() as connection:
        if not found.isdecimal() or not 0 < int(found) < SCHEMA:
            raise Unavailable(f"has schema {found}, this version reads up to {SCHEMA}; use a newer version")
        if not writable:
            raise Unavailable(
                f"has schema {found} and cannot be upgraded to {SCHEMA} here; open it once where its "
                "folder can be written to"
            )
        # Writing first takes the write lock: of two processes the second finds it done.
        connection.execute(update(META).where(META.c.key == "schema").values(value=META.c.value))
        upgrade(connection, int(value(connection, "schema")))
        connection.commit()


def verified(connection: Connection, bits: int) -> Changes:
    """All that the database split holds. Unusable where it is damaged."""
    for table in (META, CLASSES, ITEMS, CODES, REMOVED):  # thumbnails: gigabytes to read
        found = connection.exec_driver_sql(f"PRAGMA quick_check({table.name})").scalar()
        if found != "ok":
            raise Unusable(_damage(found))
    held = changes(connection, code_table(connection, bits), [])
    if str(digest(held.table)) != value(connection, "digest"):
        raise Unusable("labels or codes do not match their digest")
    return held


def faults(connection: Connection) -> Iterator[str]:
    """What `verified` does not look for: it reads everything, gigabytes of thumbnails too."""
    for (found,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if found != "ok":
            yield _damage(found)
    for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} names no row of {parent}"
    for what, query in FAULTS.items():
        yield from (f"image {id_} {what}" for id_ in connection.scalars(query))


def _damage(found: object) -> str:
    return f"is damaged ({' '.join(str(found).split())})"
