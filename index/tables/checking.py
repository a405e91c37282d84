"""Whether a catalogue is whole and of this version."""

from collections.abc import Iterator

from sqlalchemy import Connection, func, inspect, select, update

from index.database import DAMAGE, Database
from index.items import SPLITS, Changes
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


def bring_up_to_date(connections: Connections) -> None:
    """Make it a catalogue of this version. CatalogueError for one of a version to come."""
    database = connections.database
    with connections.reading() as connection:
        found = value(connection, "schema")
    if found == str(SCHEMA):
        return
    if found in READABLE and not database.writable:
        missing = (each for version, each in STAND_INS.items() if version > int(found))
        database.stand_in([statement for statements in missing for statement in statements])
        return
    with connections.reading() as connection:
        if not found.isdecimal() or not 0 < int(found) < SCHEMA:
            raise Unavailable(f"has schema {found}, this version reads up to {SCHEMA}; use a newer version")
        if not database.writable:
            raise Unavailable(
                f"has schema {found} and cannot be upgraded to {SCHEMA} here; open it once where its "
                "folder can be written to"
            )
        # The write lock first: of two processes the second finds it done.
        database.lock(connection)
        connection.execute(update(META).where(META.c.key == "schema").values(value=META.c.value))
        if (found := value(connection, "schema")) != str(SCHEMA):
            known = int(found) >= WITH_CHECKSUMS
            with database.undecoded(connection):
                whole = known and checksums.notes_are_whole(connection)
                upgrade(connection, int(found), database.in_its_words)
                if not known:
                    checksums.write_all(connection)
                elif whole:  # else the damage stays for all to see
                    checksums.seal_notes(connection)
        connection.commit()


def verified(connection: Connection, database: Database, bits: int) -> Changes:
    """All that the database split holds. Unusable where it is damaged."""
    looked_at = [table.name for table in (META, CLASSES, ITEMS, CODES, REMOVED)]  # thumbnails: gigabytes
    for found in database.damage(connection, looked_at):
        raise Unusable(_damage(found))
    held = changes(connection, code_table(connection, bits), [])
    if str(digest(held.table)) != value(connection, "digest"):
        raise Unusable("labels or codes do not match their digest")
    return held


def faults(connection: Connection, database: Database, *, thumbnails: bool = True) -> Iterator[str]:
    """What `verified` does not look for, once each: it reads everything, gigabytes of thumbnails too."""
    told = set[str]()
    with database.undecoded(connection):
        kept = (map(_damage, database.damage(connection)), database.dangling(connection))
        looked_at = (_contents(connection), _thumbnails(connection)) if thumbnails else ()
        for check in (*kept, _ids(connection, database), _rows(connection), *looked_at):
            for what in _as_far_as_it_is_read(check):
                if what not in told:
                    told.add(what)
                    yield what


def _as_far_as_it_is_read(found: Iterator[str]) -> Iterator[str]:
    """What damage keeps from being read is a fault too."""
    try:
        yield from found
    except DAMAGE as error:
        yield _damage(getattr(error, "orig", error))


def _contents(connection: Connection) -> Iterator[str]:
    for what, query in FAULTS.items():
        yield from (f"image {id_} {what}" for id_ in connection.scalars(query))


def _ids(connection: Connection, database: Database) -> Iterator[str]:
    """An id must never be given twice: the database notes the last one."""
    last = database.last_id(connection)
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
