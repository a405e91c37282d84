"""A catalogue as those see it who only read."""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, and_, func, or_, select

from index.codes import Codes
from index.items import Changes, CodeTable, Embedding, Identity, Item
from index.names import from_stored, normal, spellings, stored
from index.sources import Source
from index.tables import listing, rows
from index.tables.connections import Connections
from index.tables.doubts import OF_LABEL
from index.tables.listing import EVERYTHING, OF_ITEM, Listing
from index.tables.schema import (
    CLASSES,
    CODES,
    DOUBTS,
    EMBEDDINGS,
    ITEMS,
    META,
    PREDICTIONS,
    REMOVED,
    SOURCES,
    THUMBNAILS,
    TRASH,
)

TOGETHER = 4096  # items, with all that is known of them, read at a time

PREDICTED = CLASSES.alias("predicted")
RIVAL = CLASSES.alias("rival")
KNOWN = (
    select(
        ITEMS,
        CLASSES.c.name.label("label_name"),
        SOURCES.c.source,
        SOURCES.c.held_out,
        PREDICTED.c.name.label("predicted"),
        PREDICTIONS.c.confidence,
        RIVAL.c.name.label("rival"),
        DOUBTS.c.doubt,
        TRASH.c.since.label("trashed"),
    )
    .outerjoin(CLASSES, CLASSES.c.id == ITEMS.c.label)
    .outerjoin(SOURCES, SOURCES.c.item_id == ITEMS.c.id)
    .outerjoin(PREDICTIONS, OF_ITEM)
    .outerjoin(PREDICTED, PREDICTED.c.id == PREDICTIONS.c.label)
    .outerjoin(DOUBTS, OF_LABEL)
    .outerjoin(RIVAL, RIVAL.c.id == DOUBTS.c.rival)
    .outerjoin(TRASH, TRASH.c.item_id == ITEMS.c.id)
)
# All that can be found, with its code, and the same with what lies in the trash.
FOUND = KNOWN.add_columns(CODES.c.code).join(CODES, CODES.c.item_id == ITEMS.c.id).order_by(ITEMS.c.id)
WITH_TRASH = (
    KNOWN.add_columns(func.coalesce(CODES.c.code, TRASH.c.code).label("code"))
    .outerjoin(CODES, CODES.c.item_id == ITEMS.c.id)
    .where(ITEMS.c.split.in_(("database", "trash")))
    .order_by(ITEMS.c.id)
)


class Reader:
    """What can be asked of an open catalogue, from many threads."""

    def __init__(self, connections: Connections) -> None:
        self.path = connections.path
        self._connections = connections
        self._learning = threading.Lock()
        with connections.reading() as connection:
            meta = {key: value for key, value in connection.execute(select(META.c.key, META.c.value))}
            self.classes: tuple[str, ...] = tuple(rows.class_indices(connection))
        self.encoder_id: str = meta["encoder_id"]
        self.bits: int = int(meta["bits"])

    @property
    def revision(self) -> int:
        """Grows with every change, whoever makes it."""
        return self._connections.revision()

    def noted(self, key: str) -> str | None:
        """What `Catalogue.note` wrote."""
        with self._connections.reading() as connection:
            return rows.noted(connection, key)

    def changes(self, since: int, *, most: int | None = None) -> Changes:
        """What happened to the database split after revision `since`; of so many items at `most`, or of one
        revision, for who follows step by step. What changed again later is not among them."""
        with self._connections.reading() as connection:
            found = rows.changes_since(connection, self.bits, since, most)
        self._learn(found.classes)
        return found

    def codes(self) -> CodeTable:
        """Ids, labels and codes of the database split."""
        with self._connections.reading() as connection:
            return rows.code_table(connection, self.bits)

    def code(self, item_id: int) -> Codes:
        """The code (1, bits/8) of an item of the database split. KeyError when there is none."""
        with self._connections.reading() as connection:
            table = rows.code_table(connection, self.bits, ITEMS.c.id == rows.check_id(item_id))
        if not len(table.ids):
            raise KeyError(item_id)
        return table.codes

    def embeddings(self, split: str = "database") -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Ids (n,), ascending, and embeddings (n, E) of those of a split that have one; (0, 0) for none."""
        with self._connections.reading() as connection:
            return rows.embedding_table(connection, ITEMS.c.split == split)

    def embeddings_of(self, ids: Sequence[int]) -> dict[int, Embedding]:
        """The embeddings (E,) of those of at most BATCH items that have one."""
        with self._connections.reading() as connection:
            found, vectors = rows.embedding_table(connection, ITEMS.c.id.in_(ids))
        return dict(zip(found.tolist(), vectors, strict=True))

    def has_embeddings(self) -> bool:
        """Whether any item has one."""
        with self._connections.reading() as connection:
            return bool(connection.scalar(select(select(EMBEDDINGS.c.item_id).exists())))

    def without_embedding(self) -> NDArray[np.int64]:
        """The ids (n,) of the items of both splits that have none."""
        kept = select(EMBEDDINGS.c.item_id).where(EMBEDDINGS.c.item_id == ITEMS.c.id).exists()
        query = select(ITEMS.c.id).where(~kept, ITEMS.c.split != "trash")
        with self._connections.reading() as connection:
            return np.array(list(connection.scalars(query)), np.int64)

    def predictions(self) -> dict[int, float]:
        """The confidence of the predicted label of each image that has one."""
        with self._connections.reading() as connection:
            found = connection.execute(select(PREDICTIONS.c.item_id, PREDICTIONS.c.confidence))
            return {id_: confidence for id_, confidence in found}

    def sources(self) -> dict[int, tuple[Source, bool]]:
        """How items came to their labels, and whether they are held out, of those where that is not as usual:
        given, and learned from. Without what lies in the trash."""
        columns = (SOURCES.c.item_id, SOURCES.c.source, SOURCES.c.held_out)
        query = select(*columns).join(ITEMS).where(ITEMS.c.split != "trash")
        with self._connections.reading() as connection:
            return {id_: (source, bool(held)) for id_, source, held in connection.execute(query)}

    def held_out(self) -> dict[int, int]:
        """The label of each held-out query, a class index or UNLABELLED."""
        with self._connections.reading() as connection:
            return rows.held_out(connection)

    def counts(self) -> dict[str, int]:
        """How many items: database = labelled + unlabelled, queries, and trash."""
        labelled = ITEMS.c.label.is_not(None)
        query = select(ITEMS.c.split, labelled, func.count()).group_by(ITEMS.c.split, labelled)
        with self._connections.reading() as connection:
            number = Counter({(split, bool(known)): n for split, known, n in connection.execute(query)})
        with_label, without = number["database", True], number["database", False]
        return {
            "database": with_label + without,
            "labelled": with_label,
            "unlabelled": without,
            "queries": number["query", True] + number["query", False],
            "trash": number["trash", True] + number["trash", False],
        }

    def changed(self, since: int, *, after: int = 0, count: int) -> list[Item]:
        """At most `count` items of the database split with ids above `after`, ascending, that came or changed
        after revision `since`."""
        query = KNOWN.where(
            ITEMS.c.split == "database", ITEMS.c.revision > since, ITEMS.c.id > after
        ).order_by(ITEMS.c.id)
        with self._connections.reading() as connection:
            return [item_of(row) for row in connection.execute(query.limit(count))]

    def page(self, which: Listing = EVERYTHING, *, after: int = 0, count: int) -> list[Item]:
        """At most `count` of these items with ids above `after`, ascending."""
        query = KNOWN.where(*listing.conditions(which), ITEMS.c.id > after).order_by(ITEMS.c.id)
        with self._connections.reading() as connection:
            return [item_of(row) for row in connection.execute(query.limit(count))]

    def part(self, which: Listing, *, offset: int, count: int) -> tuple[list[Item], int]:
        """At most `count` of these items after the first `offset`, in their order, and how many there are."""
        with self._connections.reading() as connection:
            ids, total = listing.part(connection, which, offset=offset, count=count)
            found = _known(connection, ids)
        return [found[item_id] for item_id in ids], total

    def predicted(self, min_confidence: float) -> dict[str, int]:
        """As `listing.predicted`."""
        with self._connections.reading() as connection:
            return listing.predicted(connection, min_confidence)

    def get(self, item_id: int) -> Item:
        """One item. KeyError when unknown."""
        return self.get_many([item_id])[0]

    def get_many(self, ids: Iterable[int]) -> list[Item]:
        """The items in the order asked. KeyError when one is unknown."""
        wanted = [rows.check_id(item_id) for item_id in ids]
        found = self.there(wanted)
        return [found[item_id] for item_id in wanted]

    def there(self, ids: Sequence[int]) -> dict[int, Item]:
        """Those of the items that there are."""
        with self._connections.reading() as connection:
            return _known(connection, ids)

    def paths(self, ids: Iterable[int]) -> dict[int, tuple[str, str | None]]:
        """Path and folder, as an item has them, of those items that are there."""
        with self._connections.reading() as connection:
            return rows.paths(connection, list(ids))

    def stored(self, *, trashed: bool = False) -> Iterator[list[tuple[Item, bytes | None]]]:
        """The items of the database split by ascending id, some at a time, with their codes; all as they are
        at the first step. `trashed`: also what lies in the trash, without a code where another encoder came
        since."""
        with self._connections.reading() as connection:
            reading = connection.execution_options(yield_per=TOGETHER)
            for some in reading.execute(WITH_TRASH if trashed else FOUND).partitions():
                yield [(item_of(row), row.code) for row in some]

    def thumbnail(self, item_id: int, *, thrown: bool = True) -> bytes:
        """The stored WebP bytes. KeyError when the item is unknown, or, not `thrown`, lies in the trash."""
        query = select(THUMBNAILS.c.image).where(THUMBNAILS.c.item_id == rows.check_id(item_id))
        if not thrown:
            query = query.join(ITEMS).where(ITEMS.c.split != "trash")
        with self._connections.reading() as connection:
            image: bytes | None = connection.scalar(query)
        if image is None:
            raise KeyError(item_id)
        return image

    def thumbnail_bytes(self) -> int:
        """All thumbnails together, those of the queries too. Reads the whole table of them."""
        with self._connections.reading() as connection:
            return connection.scalar(select(func.sum(func.length(THUMBNAILS.c.image)))) or 0

    def file_bytes(self) -> int:
        """What it takes on the disk."""
        return self._connections.database.size()

    def with_hash(self, sha256: bytes) -> int | None:
        """The item of the database split whose file has this SHA-256, the lowest id of several."""
        with self._connections.reading() as connection:
            return rows.ids_by_hash(connection, [sha256]).get(sha256)

    def has_file(self, sha256: bytes) -> bool:
        """Whether an item of any split was made from the file with this SHA-256."""
        query = select(select(ITEMS.c.id).where(ITEMS.c.sha256 == sha256).exists())
        with self._connections.reading() as connection:
            return bool(connection.scalar(query))

    def hashes(self) -> set[bytes]:
        """The SHA-256 of every file that an item was made from."""
        query = select(ITEMS.c.sha256).where(ITEMS.c.sha256.is_not(None))
        with self._connections.reading() as connection:
            return set(connection.execution_options(yield_per=rows.READ).scalars(query))

    def copies_of_queries(self) -> NDArray[np.int64]:
        """The ids (n,) of copies, byte for byte, of what is held out; of nothing that is held out itself."""
        with self._connections.reading() as connection:
            return rows.copies_of_queries(connection)

    def gone(self, since: int) -> list[Identity]:
        """What was removed after revision `since` and has not come back to its path."""
        back = select(ITEMS.c.id).where(
            ITEMS.c.split == "database",
            ITEMS.c.path == REMOVED.c.path,
            ITEMS.c.sha256.is_not_distinct_from(REMOVED.c.sha256),
        )
        query = select(REMOVED.c.sha256, REMOVED.c.path, REMOVED.c.folder).where(
            REMOVED.c.revision > since, REMOVED.c.path.is_not(None), ~back.exists()
        )
        with self._connections.reading() as connection:
            return [
                Identity(sha256, from_stored(path, folder), folder)
                for sha256, path, folder in connection.execute(query.distinct())
            ]

    def known_as(self, identities: Sequence[Identity]) -> dict[Identity, list[Item]]:
        """The items of all splits that are known by each of these: those of the same bytes, else, where its
        own or theirs are not known, those at its path in the indexed folder."""
        found: dict[Identity, list[Item]] = {}
        with self._connections.reading() as connection:
            for start in range(0, len(identities), rows.BATCH // 2):
                some = identities[start : start + rows.BATCH // 2]
                hashes = {each.sha256 for each in some if each.sha256 is not None}
                paths = {
                    stored(path) for each in some if each.folder is None for path in spellings(each.path)
                }
                which = or_(
                    ITEMS.c.sha256.in_(hashes), and_(ITEMS.c.folder.is_(None), ITEMS.c.path.in_(paths))
                )
                by_bytes: defaultdict[bytes | None, list[Item]] = defaultdict(list)
                by_path: defaultdict[str, list[Item]] = defaultdict(list)
                for row in connection.execute(KNOWN.where(which).order_by(ITEMS.c.id)):
                    by_bytes[row.sha256].append(item_of(row))
                    if row.folder is None:
                        by_path[normal(item_of(row).path)].append(item_of(row))
                for each in some:
                    same = by_bytes[each.sha256] if each.sha256 else []
                    there = by_path[normal(each.path)] if each.folder is None else []
                    there = [item for item in there if item.path == each.path] or there
                    found[each] = same or [item for item in there if not (each.sha256 and item.sha256)]
        return found

    def _learn(self, classes: Iterable[str]) -> None:
        """Take in what another connection committed. Classes are only ever added."""
        names = tuple(classes)
        with self._learning:
            if len(names) > len(self.classes):
                self.classes = names


def _known(connection: Connection, ids: Sequence[int]) -> dict[int, Item]:
    """Those of the items that there are."""
    found: dict[int, Item] = {}
    for start in range(0, len(ids), rows.BATCH):
        some = KNOWN.where(ITEMS.c.id.in_(ids[start : start + rows.BATCH]))
        found |= {row.id: item_of(row) for row in connection.execute(some)}
    return found


def item_of(row: Row[Any]) -> Item:
    """What a row of KNOWN says."""
    return Item(
        id=row.id,
        path=from_stored(row.path, row.folder),
        label=row.label_name,
        split=row.split,
        width=row.width,
        height=row.height,
        added=row.added,
        sha256=None if row.sha256 is None else row.sha256.hex(),
        folder=row.folder,
        metadata={} if row.metadata is None else json.loads(row.metadata),
        source=None if row.label_name is None else row.source or "given",
        held_out=bool(row.held_out),
        predicted=row.predicted,
        confidence=row.confidence,
        rival=row.rival,
        doubt=row.doubt,
        trashed=row.trashed,
    )
