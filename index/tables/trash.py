"""The trash: what was deleted and can come back. Its items keep all that is known of them, and can neither be
found nor counted."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from index.codes import Codes
from index.items import UNLABELLED, Embedding, Item
from index.sources import Source
from index.tables import checksums
from index.tables.changing import Change, in_json
from index.tables.connections import Connections
from index.tables.digest import digest
from index.tables.history import Batch, before
from index.tables.learned import embed, in_groups, set_sources
from index.tables.reading import KNOWN, item_of
from index.tables.rows import BATCH, code_table
from index.tables.schema import CODES, ITEMS, TRASH

# What an item gets that comes back: its code (bits/8,) and its embedding (E,), where these were made anew.
Made = Mapping[int, tuple[Codes, Embedding | None]]


class Trash:
    """The trash of an open catalogue, to be looked into."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def count(self) -> int:
        """How many items lie in it."""
        with self._connections.reading() as connection:
            return connection.scalar(select(func.count()).select_from(TRASH)) or 0

    def page(self, *, offset: int = 0, count: int) -> list[Item]:
        """At most `count`, what was deleted last first."""
        query = KNOWN.where(ITEMS.c.split == "trash").order_by(TRASH.c.since.desc(), ITEMS.c.id)
        with self._connections.reading() as connection:
            return [item_of(row) for row in connection.execute(query.offset(offset).limit(count))]

    def since(self, revision: int) -> list[Item]:
        """What was put into it after that revision and lies there."""
        query = KNOWN.where(ITEMS.c.split == "trash", ITEMS.c.revision > revision).order_by(ITEMS.c.id)
        with self._connections.reading() as connection:
            return [item_of(row) for row in connection.execute(query)]

    def ids(self, until: int | None = None) -> list[int]:
        """All that lies there, or what lies there since that time, in seconds since 1970, or longer."""
        query = select(TRASH.c.item_id).order_by(TRASH.c.item_id)
        if until is not None:
            query = query.where(TRASH.c.since <= until)
        with self._connections.reading() as connection:
            return list(connection.scalars(query))

    def codes(self, ids: Sequence[int]) -> dict[int, bytes | None]:
        """The codes of those of the items that lie there; None where another encoder came since."""
        found: dict[int, bytes | None] = {}
        with self._connections.reading() as connection:
            for start in range(0, len(ids), BATCH):
                some = TRASH.c.item_id.in_(ids[start : start + BATCH])
                rows = connection.execute(select(TRASH.c.item_id, TRASH.c.code).where(some))
                found |= {id_: code for id_, code in rows}
        return found

    def uncoded(self, ids: Sequence[int]) -> list[int]:
        """Those of the items that lie there without a code."""
        return [id_ for id_, code in self.codes(ids).items() if code is None]


def throw(change: Change, ids: Sequence[int], since: int) -> list[int]:
    """Put the items of the database split among `ids` into the trash; which they were."""
    thrown = list[int]()
    for start in range(0, len(ids), BATCH):
        some = code_table(change.connection, change.bits, ITEMS.c.id.in_(ids[start : start + BATCH]))
        here = some.ids.tolist()
        change.remember("trashed", here)
        change.carry_on(-digest(some))
        change.connection.execute(delete(CODES).where(CODES.c.item_id.in_(here)))
        put(
            change.connection,
            {id_: code.tobytes() for id_, code in zip(here, some.codes, strict=True)},
            since,
        )
        _move(change, here, "trash")
        thrown += here
    return thrown


def put(connection: Connection, codes: Mapping[int, bytes | None], since: int) -> None:
    """Have the trash know these items."""
    rows = [{"item_id": id_, "code": code, "since": since} for id_, code in codes.items()]
    if rows:
        made = [{**row, "checksum": checksums.of_row([*row.values()])} for row in rows]
        connection.execute(insert(TRASH), made)


def take_out(change: Change, ids: Sequence[int], made: Made) -> list[int]:
    """Let the items among `ids` that lie in the trash be found again; which they were. One whose code is not
    kept stays there unless it is `made`."""
    taken = list[int]()
    for start in range(0, len(ids), BATCH):
        some = TRASH.c.item_id.in_(ids[start : start + BATCH])
        kept = change.connection.execute(select(TRASH.c.item_id, TRASH.c.code).where(some)).all()
        codes = {id_: made[id_][0].tobytes() if id_ in made else code for id_, code in kept}
        codes = {id_: code for id_, code in codes.items() if code is not None}
        here = list(codes)
        change.remember("restored", here)
        change.connection.execute(delete(TRASH).where(TRASH.c.item_id.in_(here)))
        if here:
            rows = [{"item_id": id_, "code": code} for id_, code in codes.items()]
            change.connection.execute(insert(CODES), rows)
        embeddings = ((id_, made[id_][1]) for id_ in here if id_ in made)
        embed(change.connection, ((id_, each) for id_, each in embeddings if each is not None))
        _move(change, here, "database")
        change.carry_on(digest(code_table(change.connection, change.bits, ITEMS.c.id.in_(here))))
        taken += here
    return taken


def rewrite(change: Change, item_id: int, item: Item) -> None:
    """As `Catalogue.rewrite_thrown`."""
    code = change.connection.scalar(select(TRASH.c.code).where(TRASH.c.item_id == item_id))
    if change.connection.execute(delete(TRASH).where(TRASH.c.item_id == item_id)).rowcount != 1:
        raise KeyError(item_id)
    put(change.connection, {item_id: code}, item.trashed or 0)
    label = UNLABELLED if item.label is None else item.label
    values = {
        "label": change.label_index(f"item {item_id}", label),
        "metadata": in_json(item.metadata) if item.metadata else None,
        "revision": change.revision,
    }
    change.connection.execute(update(ITEMS).where(ITEMS.c.id == item_id).values(**values))
    set_sources(change.connection, {item_id: (item.source or "given", item.held_out)})
    checksums.rewrite(change.connection, [item_id])


def _move(change: Change, ids: Sequence[int], split: str) -> None:
    statement = update(ITEMS).where(ITEMS.c.id.in_(ids))
    change.connection.execute(statement.values(split=split, revision=change.revision))
    checksums.rewrite(change.connection, ids)


def undo(change: Change, batch: Batch, since: int, made: Made) -> list[int]:
    """Let those items of a batch that nobody has changed since be as they were before; which these are. What
    came goes into the trash; what went there comes back, as by `take_out`."""
    undone = list[int]()
    for what, rows in before(change.connection, batch, change.batch):
        ids = [row.item_id for row in rows]
        if what == "trashed":
            undone += take_out(change, ids, made)
        elif what == "changed":
            change.remember("changed", ids)
            table = code_table(change.connection, change.bits, ITEMS.c.id.in_(ids))
            now = dict(zip(table.ids.tolist(), table.labels.tolist(), strict=True))
            looked_at = in_groups(change.connection, ids)  # or no more
            looked_at |= {row.item_id for row in rows if row.source == "group"}
            other = [row for row in rows if _index(row.label) != now[row.item_id] or row.item_id in looked_at]
            set_sources(change.connection, {row.item_id: _source(row) for row in other})
            change.write({row.item_id: {"label": row.label, "metadata": row.metadata} for row in rows}, table)
            undone += ids
        else:
            undone += throw(change, ids, since)
    return sorted(set(undone))


def _index(label: int | None) -> int:
    return UNLABELLED if label is None else label


def _source(row: Row[Any]) -> tuple[Source, bool]:
    """How an item came to its label, and whether it was held out, as HISTORY has it."""
    source: Source = row.source or "given"
    return source, bool(row.held_out)
