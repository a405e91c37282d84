"""What was changed, so that it can be undone: how each item was before."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, insert, select

from index.tables.checksums import of_row
from index.tables.connections import Connections
from index.tables.rows import BATCH
from index.tables.schema import BATCHES, HISTORY, ITEMS, SOURCES

KEPT = 1000  # batches, the latest

# Of an item: it came, was given another label or metadata, was put into the trash, was taken out of it.
What = Literal["added", "changed", "trashed", "restored"]


@dataclass(frozen=True)
class Batch:
    """What one request did, or one call: undone together."""

    name: str
    revision: int
    time: int  # seconds since 1970
    counts: dict[What, int]  # items by what happened to them
    ids: tuple[int, ...]  # of them, ascending
    undoable: int  # items that nobody has changed since


class History:
    """The changes of an open catalogue that can be undone."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def latest(self, count: int) -> list[Batch]:
        """At most so many, the latest first."""
        some = select(HISTORY.c.id).where(HISTORY.c.revision == BATCHES.c.revision).exists()
        query = select(BATCHES).where(some).order_by(BATCHES.c.revision.desc()).limit(count)
        with self._connections.reading() as connection:
            return [_batch(connection, row) for row in connection.execute(query).all()]

    def named(self, name: str) -> Batch:
        """The batch of this name. KeyError for one that is not kept."""
        with self._connections.reading() as connection:
            row = connection.execute(select(BATCHES).where(BATCHES.c.name == name)).one_or_none()
            if row is None:
                raise KeyError(name)
            return _batch(connection, row)

    def undoable(self, batch: Batch, by: str | None = None) -> dict[int, What]:
        """What happened to its items, of those that would be as they were if it was undone `by` a batch of
        that name."""
        query = select(HISTORY.c.item_id, HISTORY.c.what).join(ITEMS)
        with self._connections.reading() as connection:
            rows = connection.execute(query.where(*_unchanged(connection, batch, by)))
            return {id_: what for id_, what in rows.all()}


def _batch(connection: Connection, row: Row[Any]) -> Batch:
    query = select(HISTORY.c.item_id, HISTORY.c.what, ITEMS.c.revision).join(ITEMS)
    found = connection.execute(query.where(HISTORY.c.revision == row.revision)).all()
    return Batch(
        name=row.name,
        revision=row.revision,
        time=row.time,
        counts=dict(Counter(what for _, what, _ in found)),
        ids=tuple(sorted(id_ for id_, _, _ in found)),
        undoable=sum(revision == row.revision for _, _, revision in found),
    )


def begin(connection: Connection, revision: int, name: str) -> None:
    """Let this revision be one that can be undone; the oldest of too many can be no more."""
    connection.execute(insert(BATCHES), {"revision": revision, "name": name, "time": int(time.time())})
    newest = select(BATCHES.c.revision).order_by(BATCHES.c.revision.desc())
    too_old = connection.scalar(newest.limit(1).offset(KEPT))
    if too_old is not None:
        for column in (HISTORY.c.revision, BATCHES.c.revision):
            connection.execute(delete(column.table).where(column <= too_old))


def remember(connection: Connection, revision: int, what: What, ids: Sequence[int]) -> None:
    """How at most BATCH items are now: before `what` happens to them, or after they came."""
    held = select(ITEMS.c.id, ITEMS.c.label, SOURCES.c.source, SOURCES.c.held_out, ITEMS.c.metadata)
    rows = connection.execute(held.outerjoin(SOURCES).where(ITEMS.c.id.in_(ids)).order_by(ITEMS.c.id)).all()
    last = connection.scalar(select(HISTORY.c.id).order_by(HISTORY.c.id.desc()).limit(1)) or 0
    made = [
        {"id": id_, "revision": revision, "item_id": row.id, "what": what, "label": row.label}
        | {"source": row.source, "held_out": row.held_out, "metadata": row.metadata}
        for id_, row in enumerate(rows, last + 1)
    ]
    for each in made:
        held_out = None if each["held_out"] is None else int(each["held_out"])
        each["checksum"] = of_row([*(each | {"held_out": held_out}).values()])
    if made:
        connection.execute(insert(HISTORY), made)


def piece_of(name: str) -> str | None:
    """The piece of work that a batch of this name belongs to, which all its batches' names begin with."""
    return name.rpartition(".")[0] or None


def _unchanged(connection: Connection, batch: Batch, by: str | None) -> list[ColumnElement[bool]]:
    """That a row of HISTORY is of a batch, and nobody has changed its item since: what the same piece of work
    changed does not count, nor what this undoing, of which `by` is a batch, did to that."""
    pieces = {piece for name in (batch.name, by or "") if (piece := piece_of(name))}
    later = select(BATCHES.c.revision, BATCHES.c.name).where(BATCHES.c.revision > batch.revision)
    own = [revision for revision, name in connection.execute(later) if piece_of(name) in pieces]
    here = [HISTORY.c.revision == batch.revision, ITEMS.c.revision.in_([batch.revision, *own])]
    if own:
        since = HISTORY.alias()
        others = since.c.revision > batch.revision, since.c.revision.not_in(own)
        here.append(~exists().where(since.c.item_id == HISTORY.c.item_id, *others))
    return here


def before(
    connection: Connection, batch: Batch, by: str | None = None
) -> Iterator[tuple[What, list[Row[Any]]]]:
    """How those of its items were that can be undone `by` a batch, at most BATCH of one kind at a time."""
    query = select(HISTORY).join(ITEMS).where(*_unchanged(connection, batch, by))
    rows = connection.execute(query.order_by(HISTORY.c.what, HISTORY.c.id)).all()
    for what, alike in groupby(rows, lambda row: row.what):
        some = list(alike)
        for at in range(0, len(some), BATCH):
            yield what, some[at : at + BATCH]
