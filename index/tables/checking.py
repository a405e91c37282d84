"""Whether a catalogue is whole and of this version. Knows that the database is SQLite."""

from collections.abc import Iterator

from sqlalchemy import Connection, func, inspect, select, update

from index.items import SPLITS, Changes
from index.sqlite import DAMAGE, undecoded
from index.tables import checksums
from index.tables.connections import Connections
from index.tables.digest import digest
from index.tables.rows import Unavailable, Unusable, changes, code_table, value
from index.tables.schema import (
    CHECKSUMS,
    CLASSES,
    CODES,
    ITEMS,
    META,
    READABLE,
    REMOVED,
    SCHEMA,
    STAND_INS,
    THUMBNAILS,
    TRASH,
    upgrade,
)

_coded = select(CODES.c.item_id).where(CODES.c.item_id == ITEMS.c.id).exists()
_thrown = select(TRASH.c.item_id).where(TRASH.c.item_id == ITEMS.c.id).exists()
_shown = select(THUMBNAILS.c.item_id).where(THUMBNAILS.c.item_id == ITEMS.c.id).exists()
FAULTS = {
    "has no code": select(ITEMS.c.id).where(ITEMS.c.split == "database", ~_coded),
    "is held out and has a code": select(ITEMS.c.id).where(ITEMS.c.split == "query", _coded),
    "is in the trash and can be found": select(ITEMS.c.id).where(ITEMS.c.split == "trash", _coded),
    "is in the trash, which does not know it": select(ITEMS.c.id).where(ITEMS.c.split == "trash", ~_thrown),
    "is not in the trash, which knows it": select(ITEMS.c.id).where(ITEMS.c.split != "trash", _thrown),
    "has a split that there is not": select(ITEMS.c.id).where(ITEMS.c.split.not_in(SPLITS)),
    "has no thumbnail": select(ITEMS.c.id).where(~_shown),
    "has a thumbnail that is no WebP": select(THUMBNAILS.c.item_id).where(
        func.substr(THUMBNAILS.c.image, 9, 4) != b"WEBP"
    ),
}


WITH_CHECKSUMS = 4  # the schema from which on each row has one


def bring_up_to_date(connections: Connections, *, writable: bool) -> None:
    """Make it a catalogue of this version. CatalogueError for one of a version to come."""
    with connections.reading() as connection:
        found = value(connection, "schema")
    if found == str(SCHEMA):
        return
    if found in READABLE and not writable:
        missing = (each for version, each in STAND_INS.items() if version > int(found))
        connections.stand_in([statement for statements in missing for statement in statements])
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
        if (found := value(connection, "schema")) != str(SCHEMA):
            known = int(found) >= WITH_CHECKSUMS
            with undecoded(connection):
                whole = known and checksums.notes_are_whole(connection)
                upgrade(connection, int(found))
                if not known:
                    checksums.write_all(connection)
                elif whole:  # else the damage stays for all to see
                    checksums.seal_notes(connection)
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


def faults(connection: Connection, *, thumbnails: bool = True) -> Iterator[str]:
    """What `verified` does not look for, once each: it reads everything, gigabytes of thumbnails too."""
    told = set[str]()
    with undecoded(connection):
        looked_at = (_contents, _thumbnails) if thumbnails else ()
        for check in (_structure, _references, _ids, _rows, *looked_at):
            for what in _as_far_as_it_is_read(check(connection)):
                if what not in told:
                    told.add(what)
                    yield what


def _as_far_as_it_is_read(found: Iterator[str]) -> Iterator[str]:
    """What damage keeps from being read is a fault too."""
    try:
        yield from found
    except DAMAGE as error:
        yield _damage(getattr(error, "orig", error))


def _structure(connection: Connection) -> Iterator[str]:
    for (found,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if found != "ok":
            yield _damage(found)


def _references(connection: Connection) -> Iterator[str]:
    for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} names no row of {parent}"


def _contents(connection: Connection) -> Iterator[str]:
    for what, query in FAULTS.items():
        yield from (f"image {id_} {what}" for id_ in connection.scalars(query))


def _ids(connection: Connection) -> Iterator[str]:
    """An id must never be given twice: SQLite notes the last one."""
    given = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'items'"
    last = connection.exec_driver_sql(given).scalar_one()
    used = [connection.scalar(select(func.max(column))) or 0 for column in (ITEMS.c.id, REMOVED.c.item_id)]
    if last < max(used):
        yield f"would give the ids after {last} again, and {max(used)} was given"


def _rows(connection: Connection) -> Iterator[str]:
    tables = inspect(connection)
    if tables.has_table(CHECKSUMS.name):  # else an earlier version wrote it, and it stays so
        yield from checksums.faults(connection)
    yield from checksums.own_faults(connection, [name for name in checksums.OWN if tables.has_table(name)])


def _thumbnails(connection: Connection) -> Iterator[str]:
    if inspect(connection).has_table(CHECKSUMS.name):
        yield from checksums.thumbnail_faults(connection)


def _damage(found: object) -> str:
    return f"is damaged ({' '.join(str(found).split())})"
