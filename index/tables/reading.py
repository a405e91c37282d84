"""What is read of the catalogue: functions of a connection, which sees one state of it."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, or_, select

from index.codes import Codes
from index.items import UNLABELLED, Changes, CodeTable, Identity, Item
from index.tables.schema import classes as _classes
from index.tables.schema import codes as _codes
from index.tables.schema import items as _items
from index.tables.schema import meta as _meta
from index.tables.schema import removed as _removed
from index.tables.schema import thumbnails as _thumbnails

BATCH = 1000  # rows per statement: one bound value each must stay below every database's limit
TOGETHER = 4096  # items, with all that is known of them, read at a time
READ = 512  # rows turned into arrays at a time: bounds what exists as Python objects

ITEMS = select(_items, _classes.c.name.label("label_name")).outerjoin(_classes)


class Unusable(ValueError):
    """Why the tables cannot be used; says what is wrong, but not in which file."""


# --- what the catalogue is -------------------------------------------------------------------------


def meta(connection: Connection) -> dict[str, str]:
    """All that is known of the catalogue itself."""
    return {key: value for key, value in connection.execute(select(_meta.c.key, _meta.c.value))}


def value(connection: Connection, key: str) -> str:
    """What `meta` must have under a key. NoResultFound where it does not."""
    found: str = connection.scalars(select(_meta.c.value).where(_meta.c.key == key)).one()
    return found


def noted(connection: Connection, key: str) -> str | None:
    """What `meta` has under a key, if anything."""
    found: str | None = connection.scalar(select(_meta.c.value).where(_meta.c.key == key))
    return found


def class_indices(connection: Connection) -> dict[str, int]:
    """The index of each class, in order."""
    query = select(_classes.c.name, _classes.c.id).order_by(_classes.c.id)
    return {name: index for name, index in connection.execute(query)}


# --- codes and labels ------------------------------------------------------------------------------


def contents(connection: Connection, bits: int) -> Changes:
    """The whole database split, as changes since ever."""
    return _changes(connection, code_table(connection, bits), np.empty(0, np.int64))


def changes(connection: Connection, bits: int, since: int) -> Changes:
    """What happened to the database split after revision `since`."""
    gone = (
        select(_removed.c.item_id)
        .where(_removed.c.revision > since, _removed.c.item_id > 0)
        .order_by(_removed.c.item_id)
    )
    removed = np.array(list(connection.scalars(gone)), np.int64)
    return _changes(connection, code_table(connection, bits, _items.c.revision > since), removed)


def _changes(connection: Connection, table: CodeTable, removed: NDArray[np.int64]) -> Changes:
    return Changes(int(value(connection, "revision")), table, removed, tuple(class_indices(connection)))


def code_table(connection: Connection, bits: int, *which: ColumnElement[bool]) -> CodeTable:
    """Ids, labels and codes of the items of the database split to which all of `which` apply, by id."""
    query = (
        select(_codes.c.item_id, func.coalesce(_items.c.label, UNLABELLED), _codes.c.code)
        .join(_items)
        .where(*which)
    )
    if not which:  # else SQLite would walk all codes in order instead of looking for the items
        query = query.order_by(_codes.c.item_id)
    with connection.execute(query) as result:
        # The driver's own tuples, few enough that Python does not look for garbage among what is read:
        # SQLAlchemy's rows of a million items take three times as long.
        parts = [as_table(part, bits) for part in iter(lambda: result.cursor.fetchmany(READ), [])]
    parts.append(as_table([], bits))
    ids = np.concatenate([part.ids for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    codes = np.concatenate([part.codes for part in parts])
    order = np.argsort(ids) if which else slice(None)
    return CodeTable(ids[order], labels[order], codes[order])


def as_table(rows: Sequence[tuple[int, int, bytes]], bits: int) -> CodeTable:
    """Rows (id, label, code) as arrays. Unusable for a code of other than `bits` bits."""
    ids, labels, codes = zip(*rows, strict=True) if rows else ((), (), ())
    data = b"".join(codes)
    if len(data) != len(rows) * (bits // 8):
        raise Unusable(f"holds a code that has not {bits} bits")
    return CodeTable(
        np.array(ids, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.frombuffer(data, dtype=np.uint8).reshape(-1, bits // 8),
    )


def code(connection: Connection, bits: int, item_id: int) -> Codes:
    """The code (1, bits/8) of an item of the database split. KeyError when there is none."""
    table = code_table(connection, bits, _items.c.id == check_id(item_id))
    if not len(table.ids):
        raise KeyError(item_id)
    return table.codes


def held_out(connection: Connection) -> dict[int, int]:
    """The label of each held-out query, a class index or UNLABELLED."""
    query = select(_items.c.id, func.coalesce(_items.c.label, UNLABELLED)).where(_items.c.split == "query")
    return {id_: label for id_, label in connection.execute(query)}


def counts(connection: Connection) -> dict[str, int]:
    """How many items: database = labelled + unlabelled, and queries."""
    labelled = _items.c.label.is_not(None)
    query = select(_items.c.split, labelled, func.count()).group_by(_items.c.split, labelled)
    number = {(split, bool(known)): n for split, known, n in connection.execute(query)}
    with_label, without = (number.get(("database", known), 0) for known in (True, False))
    return {
        "database": with_label + without,
        "labelled": with_label,
        "unlabelled": without,
        "queries": number.get(("query", True), 0) + number.get(("query", False), 0),
    }


# --- items -----------------------------------------------------------------------------------------


def items_by_id(connection: Connection, ids: Sequence[int]) -> list[Item]:
    """The items in the order asked. KeyError when one is unknown."""
    wanted = [check_id(item_id) for item_id in ids]
    found: dict[int, Item] = {}
    for start in range(0, len(wanted), BATCH):
        some = ITEMS.where(_items.c.id.in_(wanted[start : start + BATCH]))
        found |= {row.id: _item(row) for row in connection.execute(some)}
    return [found[item_id] for item_id in wanted]


def page(
    connection: Connection,
    after: int,
    count: int,
    labels: Sequence[int] | None,
    split: str,
    folder: str | None,
    sha256: bytes | None,
) -> list[Item]:
    """At most `count` items of a split with ids above `after`, ascending; None is no condition."""
    query = ITEMS.where(_items.c.split == split)
    if labels is not None:
        query = query.where(func.coalesce(_items.c.label, UNLABELLED).in_(labels))
    if folder is not None:
        query = query.where(_items.c.folder == folder)
    if sha256 is not None:
        query = query.where(_items.c.sha256 == sha256)
    return _first(connection, query, after, count)


def changed(connection: Connection, since: int, after: int, count: int) -> list[Item]:
    """`page` of the database split, of what came or changed after revision `since`."""
    query = ITEMS.where(_items.c.split == "database", _items.c.revision > since)
    return _first(connection, query, after, count)


def _first(connection: Connection, query: Select[Any], after: int, count: int) -> list[Item]:
    query = query.where(_items.c.id > after).order_by(_items.c.id).limit(count)
    return [_item(row) for row in connection.execute(query)]


def stored(connection: Connection) -> Iterator[list[tuple[Item, bytes]]]:
    """The items of the database split by ascending id, some at a time, with their codes."""
    query = ITEMS.add_columns(_codes.c.code).join(_codes, _codes.c.item_id == _items.c.id)
    reading = connection.execution_options(yield_per=TOGETHER)
    for rows in reading.execute(query.order_by(_items.c.id)).partitions():
        yield [(_item(row), row.code) for row in rows]


def thumbnail(connection: Connection, item_id: int) -> bytes:
    """The stored WebP bytes. KeyError when the item is unknown."""
    query = select(_thumbnails.c.image).where(_thumbnails.c.item_id == check_id(item_id))
    image: bytes | None = connection.scalar(query)
    if image is None:
        raise KeyError(item_id)
    return image


def thumbnail_bytes(connection: Connection) -> int:
    """All thumbnails together. Reads the whole table of them."""
    return connection.scalar(select(func.sum(func.length(_thumbnails.c.image)))) or 0


def check_id(item_id: int) -> int:
    """KeyError for what can be no id, before the database driver trips over it."""
    if not 0 < item_id < 2**63:
        raise KeyError(item_id)
    return int(item_id)


def _item(row: Row[Any]) -> Item:
    return Item(
        id=row.id,
        path=row.path,
        label=row.label_name,
        split=row.split,
        width=row.width,
        height=row.height,
        added=row.added,
        sha256=None if row.sha256 is None else row.sha256.hex(),
        folder=row.folder,
        metadata={} if row.metadata is None else json.loads(row.metadata),
    )


# --- files and identities --------------------------------------------------------------------------


def ids_by_hash(connection: Connection, hashes: Sequence[bytes]) -> dict[bytes, int]:
    """The item of the database split of each file that is there, the lowest id of several, by SHA-256."""
    found: dict[bytes, int] = {}
    for start in range(0, len(hashes), BATCH):
        query = (
            select(_items.c.sha256, func.min(_items.c.id))
            .where(_items.c.sha256.in_(hashes[start : start + BATCH]), _items.c.split == "database")
            .group_by(_items.c.sha256)
        )
        found |= {sha256: id_ for sha256, id_ in connection.execute(query)}
    return found


def hashes(connection: Connection) -> set[bytes]:
    """The SHA-256 of every file that was sent."""
    query = select(_items.c.sha256).where(_items.c.sha256.is_not(None), _items.c.folder.is_not(None))
    return set(connection.execution_options(yield_per=READ).scalars(query))


def copies_of_queries(connection: Connection) -> NDArray[np.int64]:
    """The ids (n,) of what was sent though it is a held-out query, byte for byte."""
    query = _items.alias()
    copies = (
        select(_items.c.id)
        .join(query, query.c.sha256 == _items.c.sha256)
        .where(query.c.split == "query", _items.c.split == "database", _items.c.folder.is_not(None))
        .distinct()
    )
    return np.array(list(connection.scalars(copies)), np.int64)


def gone(connection: Connection, since: int) -> list[Identity]:
    """What was removed after revision `since` and has not come back to its path."""
    back = select(_items.c.id).where(
        _items.c.split == "database",
        _items.c.path == _removed.c.path,
        or_(
            _items.c.sha256 == _removed.c.sha256,
            and_(_items.c.sha256.is_(None), _removed.c.sha256.is_(None)),
        ),
    )
    query = select(_removed.c.sha256, _removed.c.path, _removed.c.folder).where(
        _removed.c.revision > since, _removed.c.path.is_not(None), ~back.exists()
    )
    return [Identity(*row) for row in connection.execute(query.distinct())]


def known_as(connection: Connection, identities: Sequence[Identity]) -> dict[Identity, list[Item]]:
    """The items of both splits that are known by each of these: those of the same bytes, else, where its
    own or theirs are not known, those at its path in the indexed folder."""
    found: dict[Identity, list[Item]] = {}
    for start in range(0, len(identities), BATCH // 2):
        some = identities[start : start + BATCH // 2]
        wanted = {each.sha256 for each in some if each.sha256 is not None}
        paths = {each.path for each in some if each.folder is None}
        which = or_(_items.c.sha256.in_(wanted), and_(_items.c.folder.is_(None), _items.c.path.in_(paths)))
        by_bytes: defaultdict[bytes | None, list[Item]] = defaultdict(list)
        by_path: defaultdict[str, list[Item]] = defaultdict(list)
        for row in connection.execute(ITEMS.where(which).order_by(_items.c.id)):
            by_bytes[row.sha256].append(_item(row))
            if row.folder is None:
                by_path[row.path].append(_item(row))
        for each in some:
            same = by_bytes[each.sha256] if each.sha256 else []
            there = by_path[each.path] if each.folder is None else []
            found[each] = same or [item for item in there if not (each.sha256 and item.sha256)]
    return found
