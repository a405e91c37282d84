"""The catalogue: items, labels, codes and thumbnails, the one source of truth.

SQLite through SQLAlchemy Core; the tables are in index/schema.py. Only index/sqlite.py and the checks
(`_verified`, `faults`) know that it is SQLite, so that the same tables can move to PostgreSQL.
"""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Row,
    Text,
    and_,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex

from index.codes import Codes
from index.digest import digest
from index.items import UNLABELLED, Changes, CodeTable, Identity, Item, NewItem
from index.schema import SCHEMA, items_of_folder, metadata, upgrade
from index.schema import classes as _classes
from index.schema import codes as _codes
from index.schema import items as _items
from index.schema import meta as _meta
from index.schema import removed as _removed
from index.schema import thumbnails as _thumbnails
from index.sqlite import NEW, PATIENCE, WRITABLE, CatalogueBusy, CatalogueError, engine_of, naming, open_mode

BATCH = 1000  # rows per statement: one bound value each must stay below every database's limit
REVISION = "SELECT value FROM meta WHERE key = 'revision'"
TOGETHER = 4096  # items, with all that is known of them, read at a time
READ = 512  # rows turned into arrays at a time: bounds what exists as Python objects

_coded = select(_codes.c.item_id).where(_codes.c.item_id == _items.c.id).exists()
_shown = select(_thumbnails.c.item_id).where(_thumbnails.c.item_id == _items.c.id).exists()
FAULTS = {
    "has no code": select(_items.c.id).where(_items.c.split == "database", ~_coded),
    "is held out and has a code": select(_items.c.id).where(_items.c.split == "query", _coded),
    "has a split that there is not": select(_items.c.id).where(_items.c.split.not_in(("database", "query"))),
    "has no thumbnail": select(_items.c.id).where(~_shown),
    "has a thumbnail that is no WebP": select(_thumbnails.c.item_id).where(
        func.substr(_thumbnails.c.image, 9, 4) != b"WEBP"
    ),
}
ITEMS = select(_items, _classes.c.name.label("label_name")).outerjoin(_classes)


class Catalogue:
    """An open catalogue. Safe to read from many threads; close it to leave one file behind."""

    def __init__(self, path: Path, engine: Engine, *, writable: bool = True) -> None:
        self.path = path
        self.writable = writable  # else it stays as it is
        self._engine = engine
        # Who waits to write holds no connection: otherwise they would take all that readers need.
        self._turn = threading.Lock()
        self._learning = threading.Lock()
        with self._reading() as connection:
            meta = {key: value for key, value in connection.execute(select(_meta.c.key, _meta.c.value))}
            self.classes: tuple[str, ...] = tuple(self._labels(connection))
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
        meta["built"] = 0
        engine = engine_of(path, NEW)
        with naming(path), engine.begin() as connection:
            metadata.create_all(connection)
            connection.execute(insert(_meta), [{"key": k, "value": str(v)} for k, v in meta.items()])
            if classes:
                named = [{"id": i, "name": name} for i, name in enumerate(classes)]
                connection.execute(insert(_classes), named)
        return cls(path, engine)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """An existing catalogue, verified: schema, structure, digest of labels and codes.

        One of an older version is upgraded. Where its folder cannot be written to, it is read as it is and
        cannot be changed. CatalogueError says what is wrong.
        """
        return cls.load(path)[0]

    @classmethod
    def load(cls, path: Path | str) -> tuple[Self, Changes]:
        """`open`, and the whole database split, which was read to verify it, as `changes` since ever."""
        path = Path(path)
        if not path.is_file():
            raise CatalogueError(f"{path}: no such catalogue")
        mode = open_mode(path)
        engine = engine_of(path, mode)
        try:
            _upgrade(path, engine, writable=mode == WRITABLE)
            catalogue = cls(path, engine, writable=mode == WRITABLE)
            contents = catalogue._verified()
            if catalogue.writable:  # one of an earlier version of the same schema does not have it
                with naming(path), engine.begin() as connection:
                    connection.execute(CreateIndex(items_of_folder, if_not_exists=True))
        except CatalogueError:
            engine.dispose()
            raise
        except (KeyError, TypeError, ValueError, OverflowError, SQLAlchemyError) as error:
            engine.dispose()
            raise CatalogueError(f"{path}: is damaged ({error})") from error
        return catalogue, contents

    @classmethod
    def read_note(cls, path: Path, key: str) -> str | None:
        """`noted` of a catalogue that is not open and is not verified. CatalogueError."""
        if not path.is_file():
            raise CatalogueError(f"{path}: no such catalogue")
        engine = engine_of(path, open_mode(path))
        try:
            with naming(path), engine.connect() as connection:
                value: str | None = connection.scalar(select(_meta.c.value).where(_meta.c.key == key))
                return value
        finally:
            engine.dispose()

    @property
    def revision(self) -> int:
        """Grows with every change, whoever makes it."""
        # Read for every batch of searches: SQLAlchemy's own way takes ten times as long as the driver's.
        with (
            naming(self.path),
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
        rows, ids = iter(items), list[int]()
        with self._writing() as (connection, revision):
            classes = self._labels(connection)
            while batch := list(islice(rows, BATCH)):
                ids += self._insert(connection, batch, revision, classes)
        self._learn(classes)
        return ids

    def add_unknown(self, items: Sequence[NewItem]) -> list[tuple[int, bool]]:
        """Store those of `items`, of the database split, whose file is not there yet, all or none.

        For each its id and whether it is new; one whose file is there already, with the same SHA-256, has
        the id that the file has, the lowest of several.
        """
        keys = [item.file.sha256 if item.file else number for number, item in enumerate(items)]
        with self._writing() as (connection, revision):
            known = self._with_hashes(connection, [item.file.sha256 for item in items if item.file])
            unknown: dict[bytes | int, NewItem] = {}  # each file once
            for key, item in zip(keys, items, strict=True):
                if key not in known:
                    unknown.setdefault(key, item)
            new, classes = list(unknown.values()), self._labels(connection)
            ids = [
                id_
                for start in range(0, len(new), BATCH)
                for id_ in self._insert(connection, new[start : start + BATCH], revision, classes)
            ]
        self._learn(classes)
        added = dict(zip(unknown, ids, strict=True))
        answers, told = list[tuple[int, bool]](), set[int]()
        for key in keys:
            id_ = added[key] if key in added else known[key]  # type: ignore[index]  # known: hashes only
            answers.append((id_, key in added and id_ not in told))
            told.add(id_)
        return answers

    def remove(self, ids: Iterable[int]) -> list[int]:
        """Forget the items of the database split among `ids`, with their thumbnails; which they were."""
        wanted = sorted({_check_id(item_id) for item_id in ids})
        gone = list[int]()
        with self._writing() as (connection, revision):
            for start in range(0, len(wanted), BATCH):
                some = self._rows(connection, _items.c.id.in_(wanted[start : start + BATCH]))
                here = some.ids.tolist()
                if not here:
                    continue
                self._count(connection, -digest(some))
                for table in (_codes, _thumbnails):
                    connection.execute(delete(table).where(table.c.item_id.in_(here)))
                known = select(_items.c.id, _items.c.path, _items.c.folder, _items.c.sha256)
                rows = [
                    {"item_id": id_, "revision": revision, "path": path, "folder": folder, "sha256": sha256}
                    for id_, path, folder, sha256 in connection.execute(known.where(_items.c.id.in_(here)))
                ]
                connection.execute(delete(_items).where(_items.c.id.in_(here)))
                connection.execute(insert(_removed), rows)
                gone += here
        return gone

    def change(
        self, item_id: int, *, label: int | str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Give an item of the database split another label, as in NewItem, or other metadata; None leaves as
        it is. KeyError when it is unknown, ValueError for a label that there is not."""
        values: dict[str, Any] = {} if metadata is None else {"metadata": _in_json(metadata)}
        this = _items.c.id == _check_id(item_id)
        with self._writing() as (connection, revision):
            before, classes = self._rows(connection, this), self._labels(connection)
            if not len(before.ids):
                raise KeyError(item_id)
            if label is not None:
                values["label"] = self._resolved(connection, classes, f"item {item_id}", label)
            connection.execute(update(_items).where(this).values(revision=revision, **values))
            self._count(connection, digest(self._rows(connection, this)) - digest(before))
        self._learn(classes)

    def recode(self, encoder_id: str, bits: int, codes: Iterable[tuple[int, Codes]]) -> dict[int, Codes]:
        """Be a catalogue of another encoder: `codes` has one (bits/8,) for each item and held-out query.

        Those of the queries are given back. All or nothing: ValueError where one is missing, KeyError for an
        id that there is not. Nobody may have it open.
        """
        held_out, changed = dict.fromkeys(self.held_out()), 0
        with self._writing() as (connection, _):
            old = self._rows(connection)
            for id_, code in codes:
                if id_ in held_out:
                    held_out[id_] = code
                    continue
                statement = update(_codes).where(_codes.c.item_id == id_).values(code=code.tobytes())
                if connection.execute(statement).rowcount != 1:
                    raise KeyError(id_)
                changed += 1
            if changed < len(old.ids) or any(code is None for code in held_out.values()):
                raise ValueError(
                    f"{changed} codes for {len(old.ids)} images, or a held-out query without one"
                )
            self.bits = bits
            for key, value in (
                ("encoder_id", encoder_id),
                ("bits", str(bits)),
                ("digest", str(digest(self._rows(connection)))),
            ):
                connection.execute(update(_meta).where(_meta.c.key == key).values(value=value))
        self.encoder_id = encoder_id
        return {id_: code for id_, code in held_out.items() if code is not None}

    def changes(self, since: int) -> Changes:
        """What happened to the database split after revision `since`."""
        with self._reading() as connection:
            gone = (
                select(_removed.c.item_id)
                .where(_removed.c.revision > since, _removed.c.item_id > 0)
                .order_by(_removed.c.item_id)
            )
            ids = np.array(list(connection.scalars(gone)), np.int64)
            changes = self._changes(connection, self._rows(connection, _items.c.revision > since), ids)
        self._learn(changes.classes)
        return changes

    def noted(self, key: str) -> str | None:
        """What `note` wrote."""
        with self._reading() as connection:
            value: str | None = connection.scalar(select(_meta.c.value).where(_meta.c.key == key))
            return value

    def note(self, key: str, value: str | None) -> None:
        """Write down something beside the items, on the disk when this returns; None: nothing any more."""
        with naming(self.path), self._engine.begin() as connection:
            connection.execute(delete(_meta).where(_meta.c.key == key))
            if value is not None:
                connection.execute(insert(_meta), {"key": key, "value": value})

    def changed(self, since: int, *, after: int = 0, count: int) -> list[Item]:
        """At most `count` items of the database split with ids above `after`, ascending, that came or changed
        after revision `since`."""
        query = ITEMS.where(
            _items.c.split == "database", _items.c.revision > since, _items.c.id > after
        ).order_by(_items.c.id)
        with self._reading() as connection:
            return [_item(row) for row in connection.execute(query.limit(count))]

    def gone(self, since: int) -> list[Identity]:
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
        with self._reading() as connection:
            return [Identity(*row) for row in connection.execute(query.distinct())]

    def bury(self, identities: Sequence[Identity]) -> None:
        """Take note that these were removed, though they were never here: `gone` names them too."""
        if not identities:
            return
        with self._writing() as (connection, revision):
            lowest = connection.scalar(select(func.min(_removed.c.item_id))) or 0
            noted = select(_removed.c.sha256, _removed.c.path, _removed.c.folder)
            known = {Identity(*row) for row in connection.execute(noted)}
            new = [each for each in dict.fromkeys(identities) if each not in known]
            rows = [
                {
                    "item_id": min(lowest, 0) - at,
                    "revision": revision,
                    "path": each.path,
                    "folder": each.folder,
                    "sha256": each.sha256,
                }
                for at, each in enumerate(new, 1)
            ]
            for start in range(0, len(rows), BATCH):
                connection.execute(insert(_removed), rows[start : start + BATCH])

    def known_as(self, identities: Sequence[Identity]) -> dict[Identity, list[Item]]:
        """The items of both splits that are known by each of these: those of the same bytes, else, where its
        own or theirs are not known, those at its path in the indexed folder."""
        found: dict[Identity, list[Item]] = {}
        with self._reading() as connection:
            for start in range(0, len(identities), BATCH // 2):
                some = identities[start : start + BATCH // 2]
                hashes = {each.sha256 for each in some if each.sha256 is not None}
                paths = {each.path for each in some if each.folder is None}
                which = or_(
                    _items.c.sha256.in_(hashes), and_(_items.c.folder.is_(None), _items.c.path.in_(paths))
                )
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

    def get(self, item_id: int) -> Item:
        """One item. KeyError when unknown."""
        return self.get_many([item_id])[0]

    def get_many(self, ids: Iterable[int]) -> list[Item]:
        """The items in the order asked. KeyError when one is unknown."""
        wanted = [_check_id(item_id) for item_id in ids]
        found: dict[int, Item] = {}
        with self._reading() as connection:
            for start in range(0, len(wanted), BATCH):
                some = ITEMS.where(_items.c.id.in_(wanted[start : start + BATCH]))
                found |= {row.id: _item(row) for row in connection.execute(some)}
        return [found[item_id] for item_id in wanted]

    def page(
        self,
        *,
        after: int = 0,
        count: int,
        labels: Sequence[int] | None = None,
        split: str = "database",
        folder: str | None = None,
        sha256: bytes | None = None,
    ) -> list[Item]:
        """At most `count` items of a split with ids above `after`, ascending; with one of `labels`, which may
        hold UNLABELLED, of one folder, and of one file, as in File."""
        query = ITEMS.where(_items.c.split == split, _items.c.id > after).order_by(_items.c.id).limit(count)
        if labels is not None:
            query = query.where(func.coalesce(_items.c.label, UNLABELLED).in_(labels))
        if folder is not None:
            query = query.where(_items.c.folder == folder)
        if sha256 is not None:
            query = query.where(_items.c.sha256 == sha256)
        with self._reading() as connection:
            return [_item(row) for row in connection.execute(query)]

    def with_hash(self, sha256: bytes) -> int | None:
        """The item of the database split whose file has this SHA-256, the lowest id of several."""
        with self._reading() as connection:
            return self._with_hashes(connection, [sha256]).get(sha256)

    def hashes(self) -> set[bytes]:
        """The SHA-256 of every file that was sent."""
        query = select(_items.c.sha256).where(_items.c.sha256.is_not(None), _items.c.folder.is_not(None))
        with self._reading() as connection:
            return set(connection.execution_options(yield_per=READ).scalars(query))

    def held_out(self) -> dict[int, int]:
        """The label of each held-out query, a class index or UNLABELLED."""
        query = select(_items.c.id, func.coalesce(_items.c.label, UNLABELLED)).where(
            _items.c.split == "query"
        )
        with self._reading() as connection:
            return {id_: label for id_, label in connection.execute(query)}

    def copies_of_queries(self) -> NDArray[np.int64]:
        """The ids (n,) of what was sent though it is a held-out query, byte for byte."""
        query = _items.alias()
        copies = (
            select(_items.c.id)
            .join(query, query.c.sha256 == _items.c.sha256)
            .where(query.c.split == "query", _items.c.split == "database", _items.c.folder.is_not(None))
            .distinct()
        )
        with self._reading() as connection:
            return np.array(list(connection.scalars(copies)), np.int64)

    def faults(self) -> Iterator[str]:
        """What `open` does not look for: it reads everything, gigabytes of thumbnails too."""
        with self._reading() as connection:
            for (found,) in connection.exec_driver_sql("PRAGMA integrity_check"):
                if found != "ok":
                    yield f"is damaged ({' '.join(str(found).split())})"
            for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
                yield f"row {row} of {table} names no row of {parent}"
            for what, query in FAULTS.items():
                yield from (f"image {id_} {what}" for id_ in connection.scalars(query))

    def code(self, item_id: int) -> Codes:
        """The code (1, bits/8) of an item of the database split. KeyError when there is none."""
        with self._reading() as connection:
            table = self._rows(connection, _items.c.id == _check_id(item_id))
        if not len(table.ids):
            raise KeyError(item_id)
        return table.codes

    def thumbnail(self, item_id: int) -> bytes:
        """The stored WebP bytes. KeyError when the item is unknown."""
        query = select(_thumbnails.c.image).where(_thumbnails.c.item_id == _check_id(item_id))
        with self._reading() as connection:
            image: bytes | None = connection.scalar(query)
        if image is None:
            raise KeyError(item_id)
        return image

    def file_bytes(self) -> int:
        """What it takes on the disk, with its write-ahead log."""
        names = (self.path.name + suffix for suffix in ("", "-wal", "-shm"))
        files = (self.path.with_name(name) for name in names)
        return sum(file.stat().st_size for file in files if file.exists())

    def thumbnail_bytes(self) -> int:
        """All thumbnails together, those of the queries too. Reads the whole table of them."""
        with self._reading() as connection:
            return connection.scalar(select(func.sum(func.length(_thumbnails.c.image)))) or 0

    def codes(self) -> CodeTable:
        """Ids, labels and codes of the database split."""
        with self._reading() as connection:
            return self._rows(connection)

    def stored(self) -> Iterator[list[tuple[Item, bytes]]]:
        """The items of the database split by ascending id, some at a time, with their codes; all as they are
        at the first step."""
        query = ITEMS.add_columns(_codes.c.code).join(_codes, _codes.c.item_id == _items.c.id)
        with self._reading() as connection:
            reading = connection.execution_options(yield_per=TOGETHER)
            for rows in reading.execute(query.order_by(_items.c.id)).partitions():
                yield [(_item(row), row.code) for row in rows]

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

    def _insert(
        self, connection: Connection, batch: Sequence[NewItem], revision: int, classes: dict[str, int]
    ) -> list[int]:
        now = int(time.time())
        rows = [self._row(connection, item, classes) | {"revision": revision} for item in batch]
        for row in rows:
            row["added"] = now if row["added"] is None else row["added"]
        statement = insert(_items).returning(_items.c.id, sort_by_parameter_order=True)
        ids = list(connection.scalars(statement, rows))
        thumbnails = [{"item_id": id_, "image": item.thumbnail} for id_, item in zip(ids, batch, strict=True)]
        connection.execute(insert(_thumbnails), thumbnails)
        coded = [
            (id_, UNLABELLED if row["label"] is None else row["label"], item.code.tobytes())
            for id_, item, row in zip(ids, batch, rows, strict=True)
            if item.code is not None
        ]
        if coded:
            connection.execute(insert(_codes), [{"item_id": id_, "code": code} for id_, _, code in coded])
            self._count(connection, digest(self._table(coded)))
        return ids

    def _count(self, connection: Connection, difference: int) -> None:
        """Carry the digest on."""
        total = (int(_value(connection, "digest")) + difference) % 2**64
        connection.execute(update(_meta).where(_meta.c.key == "digest").values(value=str(total)))

    def _with_hashes(self, connection: Connection, hashes: Sequence[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for start in range(0, len(hashes), BATCH):
            query = (
                select(_items.c.sha256, func.min(_items.c.id))
                .where(_items.c.sha256.in_(hashes[start : start + BATCH]), _items.c.split == "database")
                .group_by(_items.c.sha256)
            )
            found |= {sha256: id_ for sha256, id_ in connection.execute(query)}
        return found

    def _labels(self, connection: Connection) -> dict[str, int]:
        """The index of each class, in order."""
        query = select(_classes.c.name, _classes.c.id).order_by(_classes.c.id)
        return {name: index for name, index in connection.execute(query)}

    def _resolved(
        self, connection: Connection, classes: dict[str, int], what: str, label: int | str
    ) -> int | None:
        """The index of a label, None for none; a new name is added to the table and to `classes`."""
        if isinstance(label, str):
            if label not in classes:
                connection.execute(insert(_classes), {"id": len(classes), "name": label})
                classes[label] = len(classes)
            return classes[label]
        if label == UNLABELLED:
            return None
        if not 0 <= label < len(classes):
            raise ValueError(f"{what}: label is {label}; wanted {UNLABELLED} or 0 to {len(classes) - 1}")
        return int(label)

    def _learn(self, classes: Iterable[str]) -> None:
        """Take in what another connection committed. Classes are only ever added."""
        names = tuple(classes)
        with self._learning:
            if len(names) > len(self.classes):
                self.classes = names

    def _row(self, connection: Connection, item: NewItem, classes: dict[str, int]) -> dict[str, Any]:
        if item.split not in ("database", "query"):
            raise ValueError(f"{item.path}: split is {item.split!r}; wanted database or query")
        if (item.split == "database") != (item.code is not None):
            raise ValueError(f"{item.path}: database items, and only they, have a code here")
        if item.code is not None and (item.code.dtype != np.uint8 or item.code.size * 8 != self.bits):
            raise ValueError(f"{item.path}: {item.code.size * 8}-bit code; wanted {self.bits} bits")
        return {
            "path": item.path,
            "label": self._resolved(connection, classes, item.path, item.label),
            "split": item.split,
            "width": item.width,
            "height": item.height,
            "sha256": item.file.sha256 if item.file else None,
            "folder": item.file.folder if item.file else None,
            "file_bytes": item.file.size if item.file else None,
            "file_time": item.file.modified if item.file else None,
            "metadata": _in_json(item.metadata) if item.metadata else None,
            "added": item.added,
        }

    def _rows(self, connection: Connection, *which: ColumnElement[bool]) -> CodeTable:
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
            parts = [self._table(part) for part in iter(lambda: result.cursor.fetchmany(READ), [])]
        parts.append(self._table([]))
        ids = np.concatenate([part.ids for part in parts])
        labels = np.concatenate([part.labels for part in parts])
        codes = np.concatenate([part.codes for part in parts])
        order = np.argsort(ids) if which else slice(None)
        return CodeTable(ids[order], labels[order], codes[order])

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

    def _changes(self, connection: Connection, table: CodeTable, removed: NDArray[np.int64]) -> Changes:
        revision, classes = int(_value(connection, "revision")), tuple(self._labels(connection))
        return Changes(revision, table, removed, classes)

    def _verified(self) -> Changes:
        """All that the database split holds. CatalogueError where it is damaged."""
        with self._reading() as connection:
            for table in (_meta, _classes, _items, _codes, _removed):  # thumbnails: gigabytes to read
                found = connection.exec_driver_sql(f"PRAGMA quick_check({table.name})").scalar()
                if found != "ok":
                    raise CatalogueError(f"{self.path}: is damaged ({' '.join(str(found).split())})")
            contents = self._changes(connection, self._rows(connection), np.empty(0, np.int64))
            if str(digest(contents.table)) != _value(connection, "digest"):
                raise CatalogueError(f"{self.path}: labels or codes do not match their digest")
        return contents

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the catalogue throughout."""
        with naming(self.path), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[tuple[Connection, int]]:
        """One transaction, alone, and its revision: growing that takes the write lock before anything is
        read."""
        grown = cast(cast(_meta.c.value, Integer) + 1, Text)
        if not self._turn.acquire(timeout=PATIENCE):
            raise CatalogueBusy(
                f"{self.path}: others have been changing it for {PATIENCE} seconds; try again"
            )
        try:
            with naming(self.path), self._engine.begin() as connection:
                connection.execute(update(_meta).where(_meta.c.key == "revision").values(value=grown))
                yield connection, int(_value(connection, "revision"))
        finally:
            self._turn.release()


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


def _in_json(metadata: Mapping[str, Any]) -> str:
    """ValueError for what JSON does not have, such as NaN."""
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False, sort_keys=True)


def _upgrade(path: Path, engine: Engine, *, writable: bool) -> None:
    """Make it a catalogue of this version. CatalogueError for one of a version to come."""
    with naming(path), engine.connect() as connection:
        found = _value(connection, "schema")
    if found == str(SCHEMA):
        return
    with naming(path), engine.connect() as connection:
        if not found.isdecimal() or not 0 < int(found) < SCHEMA:
            raise CatalogueError(
                f"{path}: has schema {found}, this version reads up to {SCHEMA}; use a newer version"
            )
        if not writable:
            raise CatalogueError(
                f"{path}: has schema {found} and cannot be upgraded to {SCHEMA} here; open it once where its "
                "folder can be written to"
            )
        # Writing first takes the write lock: of two processes the second finds it done.
        connection.execute(update(_meta).where(_meta.c.key == "schema").values(value=_meta.c.value))
        upgrade(connection, int(_value(connection, "schema")))
        connection.commit()


def _value(connection: Connection, key: str) -> str:
    value: str = connection.scalars(select(_meta.c.value).where(_meta.c.key == key)).one()
    return value


def _check_id(item_id: int) -> int:
    """KeyError for what can be no id, before the database driver trips over it."""
    if not 0 < item_id < 2**63:
        raise KeyError(item_id)
    return int(item_id)
