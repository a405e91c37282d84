"""What changes the catalogue: one transaction that writes."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, update

from index.codes import Codes
from index.items import SPLITS, UNLABELLED, CodeTable, Embedding, Identity, NewItem
from index.labels import normal_form
from index.names import from_stored, stored
from index.sources import Source
from index.tables import checksums, history
from index.tables.columns import fit
from index.tables.digest import digest
from index.tables.history import What
from index.tables.learned import forget_learned, in_groups, keep, keep_sources, set_sources
from index.tables.pictures import keep_pictures
from index.tables.rows import BATCH, as_table, code_table, held_out, value
from index.tables.schema import (
    CHECKSUMS,
    CLASSES,
    CODES,
    DOUBTS,
    EMBEDDINGS,
    HISTORY,
    ITEMS,
    META,
    PICTURES,
    PREDICTIONS,
    REMOVED,
    SCHEMA,
    SOURCES,
    THUMBNAILS,
    TRASH,
    metadata,
)

OF_ITEM = [
    table.c.item_id
    for table in (CODES, THUMBNAILS, EMBEDDINGS, PICTURES, SOURCES, PREDICTIONS, DOUBTS, TRASH, HISTORY)
]

CODED = [CODES.c.code, TRASH.c.code]


def create(connection: Connection, encoder_id: str, bits: int, classes: Sequence[str]) -> None:
    """All tables, with nothing in them but what the catalogue is."""
    metadata.create_all(connection)
    fit(connection, CODED, bits)
    meta = {"schema": SCHEMA, "encoder_id": encoder_id, "bits": bits, "revision": 0, "digest": 0, "built": 0}
    connection.execute(insert(META), [{"key": key, "value": str(value)} for key, value in meta.items()])
    if classes:
        connection.execute(insert(CLASSES), [{"id": i, "name": name} for i, name in enumerate(classes)])
    checksums.seal_notes(connection)


def write_notes(connection: Connection, notes: Mapping[str, str | None]) -> None:
    """Set what `meta` has under these keys; None: nothing any more."""
    connection.execute(delete(META).where(META.c.key.in_(notes)))
    if new := [{"key": key, "value": stored(text)} for key, text in notes.items() if text is not None]:
        connection.execute(insert(META), new)


@dataclass
class Change:
    """A transaction that makes one revision of the catalogue, all of it or nothing.

    The digest is carried on with all labels and codes that change.
    """

    connection: Connection
    revision: int  # which it makes
    bits: int  # of a code
    classes: dict[str, int]  # the indices of the labels' names, to which new ones are added
    batch: str | None = None  # the name by which it can be undone; None: it cannot
    _begun: bool = field(default=False, init=False)

    def remember(self, what: What, ids: Sequence[int]) -> None:
        """Of at most BATCH items, so that it can be undone; before anything but `added` happens to them."""
        if self.batch is None or not ids:
            return
        if not self._begun:
            history.begin(self.connection, self.revision, self.batch)
            self._begun = True
        history.remember(self.connection, self.revision, what, ids)

    def add(self, items: Iterable[NewItem]) -> list[int]:
        """As `Catalogue.add`: the items are drawn some at a time."""
        rows, ids = iter(items), list[int]()
        while batch := list(islice(rows, BATCH)):
            ids += self._insert(batch)
        return ids

    def _insert(self, batch: Sequence[NewItem]) -> list[int]:
        now = int(time.time())
        rows = [self._row(item) | {"revision": self.revision} for item in batch]
        for row in rows:
            row["added"] = now if row["added"] is None else row["added"]
        statement = insert(ITEMS).returning(ITEMS.c.id, sort_by_parameter_order=True)
        ids = list(self.connection.scalars(statement, rows))
        thumbnails = [{"item_id": id_, "image": item.thumbnail} for id_, item in zip(ids, batch, strict=True)]
        self.connection.execute(insert(THUMBNAILS), thumbnails)
        whole = [[id_, *_without_id(ITEMS, row)] for id_, row in zip(ids, rows, strict=True)]
        images = {id_: item.thumbnail for id_, item in zip(ids, batch, strict=True)}
        checksums.write(self.connection, whole, images)
        keep(self.connection, zip(ids, (item.embedding for item in batch), strict=True))
        keep_pictures(self.connection, zip(ids, (item.picture for item in batch), strict=True))
        told = {id_: (item.source, item.held_out) for id_, item in zip(ids, batch, strict=True)}
        keep_sources(self.connection, told)
        self.remember("added", ids)
        coded = [
            (id_, UNLABELLED if row["label"] is None else row["label"], item.code.tobytes())
            for id_, item, row in zip(ids, batch, rows, strict=True)
            if item.code is not None
        ]
        if coded:
            self.connection.execute(insert(CODES), [{"item_id": id_, "code": code} for id_, _, code in coded])
            self.carry_on(digest(as_table(coded, self.bits)))
        return ids

    def _row(self, item: NewItem) -> dict[str, Any]:
        if item.split not in SPLITS:
            raise ValueError(f"{item.path}: split is {item.split!r}; wanted one of {', '.join(SPLITS)}")
        if (item.split == "database") != (item.code is not None):
            raise ValueError(f"{item.path}: database items, and only they, have a code here")
        if item.code is not None and (item.code.dtype != np.uint8 or item.code.size * 8 != self.bits):
            raise ValueError(f"{item.path}: {item.code.size * 8}-bit code; wanted {self.bits} bits")
        return {
            "path": stored(item.path),
            "label": self.label_index(item.path, item.label),
            "split": item.split,
            "width": item.width,
            "height": item.height,
            "sha256": item.file.sha256 if item.file else None,
            "folder": item.file.folder if item.file else None,
            "file_bytes": item.file.size if item.file else None,
            "file_time": item.file.modified if item.file else None,
            "metadata": in_json(item.metadata) if item.metadata else None,
            "added": item.added,
        }

    def label_index(self, what: str, label: int | str) -> int | None:
        """The index of a label, None for none. A name that is none, not even by its normal form, is added to
        the table and to `classes`."""
        if isinstance(label, str):
            if label in self.classes:
                return self.classes[label]
            form = normal_form(label)
            if form not in self._forms:
                self.connection.execute(insert(CLASSES), {"id": len(self.classes), "name": label})
                self._forms[form] = self.classes[label] = len(self.classes)
            return self._forms[form]
        if label == UNLABELLED:
            return None
        if not 0 <= label < len(self.classes):
            raise ValueError(f"{what}: label is {label}; wanted {UNLABELLED} or 0 to {len(self.classes) - 1}")
        return int(label)

    @cached_property
    def _forms(self) -> dict[str, int]:
        """The index of the first label of each normal form."""
        return {normal_form(name): index for name, index in reversed(self.classes.items())}

    def update(
        self, item_id: int, label: int | str | None, values: dict[str, Any], source: Source = "given"
    ) -> None:
        """As `Catalogue.change`; `values` are of other columns."""
        named = {} if label is None else {"label": self.label_index(f"item {item_id}", label)}
        self._update({item_id: values | named}, {item_id: source})

    def label_all(self, labels: Mapping[int, tuple[str | None, Source]]) -> None:
        """As `Catalogue.label_all`."""
        rows = iter(labels.items())
        while batch := dict(islice(rows, BATCH)):
            names = {id_: UNLABELLED if name is None else name for id_, (name, _) in batch.items()}
            values = {id_: {"label": self.label_index(f"item {id_}", name)} for id_, name in names.items()}
            self._update(values, {id_: source for id_, (_, source) in batch.items()})

    def _update(self, values: Mapping[int, Mapping[str, Any]], sources: Mapping[int, Source]) -> None:
        """Write values of the same columns of some items, and how those came to their label that have another
        one now: who says the same again leaves it as it was, as what is asked with is not learned from. But
        what was accepted in a group was looked at then."""
        these = ITEMS.c.id.in_(values)
        before = code_table(self.connection, self.bits, these)
        if unknown := values.keys() - before.ids.tolist():
            raise KeyError(min(unknown))
        relabelled = dict[int, tuple[Source, bool]]()
        grouped = in_groups(self.connection, values)
        for id_, label in zip(before.ids.tolist(), before.labels.tolist(), strict=True):
            new = values[id_].get("label", label)
            other = (UNLABELLED if new is None else new) != label
            if other or ("label" in values[id_] and id_ in grouped):
                relabelled[id_] = ("given" if new is None else sources[id_], False)
        self.remember("changed", list(values))
        set_sources(self.connection, relabelled)
        self.write(values, before)

    def write(self, values: Mapping[int, Mapping[str, Any]], before: CodeTable) -> None:
        """Values of the same columns of the items that `before` has as they are."""
        statement = update(ITEMS).where(ITEMS.c.id == bindparam("this")).values(revision=self.revision)
        self.connection.execute(statement, [{"this": id_, **row} for id_, row in values.items()])
        checksums.rewrite(self.connection, values)
        now = code_table(self.connection, self.bits, ITEMS.c.id.in_(values))
        self.carry_on(digest(now) - digest(before))

    def remove(self, ids: Sequence[int], thrown_until: int | None = None) -> list[int]:
        """As `Catalogue.remove`."""
        gone, where = list[int](), ITEMS.c.split != "query"
        if thrown_until is not None:
            where = ITEMS.c.id.in_(select(TRASH.c.item_id).where(TRASH.c.since <= thrown_until))
        for start in range(0, len(ids), BATCH):
            these = ITEMS.c.id.in_(ids[start : start + BATCH])
            here = list(self.connection.scalars(select(ITEMS.c.id).where(these, where)))
            if not here:
                continue
            self.carry_on(-digest(code_table(self.connection, self.bits, ITEMS.c.id.in_(here))))
            for of_item in (*OF_ITEM, CHECKSUMS.c.id):
                self.connection.execute(delete(of_item.table).where(of_item.in_(here)))
            known = select(ITEMS.c.id, ITEMS.c.path, ITEMS.c.folder, ITEMS.c.sha256)
            rows = [
                {"item_id": id_, "revision": self.revision, "path": path, "folder": folder, "sha256": sha256}
                for id_, path, folder, sha256 in self.connection.execute(known.where(ITEMS.c.id.in_(here)))
            ]
            self.connection.execute(delete(ITEMS).where(ITEMS.c.id.in_(here)))
            self._bury(rows)
            gone += here
        return gone

    def bury(self, identities: Iterable[Identity]) -> None:
        """As `Catalogue.bury`."""
        lowest = self.connection.scalar(select(func.min(REMOVED.c.item_id))) or 0
        noted = select(REMOVED.c.sha256, REMOVED.c.path, REMOVED.c.folder)
        known = {
            Identity(sha256, from_stored(path or "", folder), folder)
            for sha256, path, folder in self.connection.execute(noted)
        }
        new = [each for each in dict.fromkeys(identities) if each not in known]
        rows = [
            {
                **asdict(each),
                **{"item_id": min(lowest, 0) - at, "revision": self.revision, "path": stored(each.path)},
            }
            for at, each in enumerate(new, 1)
        ]
        for start in range(0, len(rows), BATCH):
            self._bury(rows[start : start + BATCH])

    def _bury(self, rows: Sequence[dict[str, Any]]) -> None:
        self.connection.execute(insert(REMOVED), rows)
        whole = [[row["item_id"], *_without_id(REMOVED, row)] for row in rows]
        checksums.write(self.connection, whole, {})

    def recode(
        self,
        encoder_id: str,
        bits: int,
        encoded: Iterable[tuple[int, Codes, Embedding | None]],
        same_embeddings: bool,
    ) -> dict[int, Codes]:
        """As `Catalogue.recode`."""
        forget_learned(self.connection, embeddings=not same_embeddings)
        queries, changed = dict.fromkeys(held_out(self.connection)), 0
        count = len(code_table(self.connection, self.bits).ids)
        fit(self.connection, CODED, bits)
        for id_, code, embedding in encoded:
            if embedding is not None and not same_embeddings:
                keep(self.connection, [(id_, embedding)])
            if id_ in queries:
                queries[id_] = code
                continue
            statement = update(CODES).where(CODES.c.item_id == id_).values(code=code.tobytes())
            if self.connection.execute(statement).rowcount != 1:
                raise KeyError(id_)
            changed += 1
        if changed < count or any(code is None for code in queries.values()):
            raise ValueError(f"{changed} codes for {count} images, or a held-out query without one")
        for key, text in (
            ("encoder_id", encoder_id),
            ("bits", str(bits)),
            ("digest", str(digest(code_table(self.connection, bits)))),
        ):
            self.connection.execute(update(META).where(META.c.key == key).values(value=text))
        return {id_: code for id_, code in queries.items() if code is not None}

    def carry_on(self, difference: int) -> None:
        """Have the digest follow a change."""
        total = (int(value(self.connection, "digest")) + difference) % 2**64
        self.connection.execute(update(META).where(META.c.key == "digest").values(value=str(total)))


def _without_id(table: Table, row: Mapping[str, Any]) -> list[Any]:
    """The values of a row of this table in the order of its columns."""
    return [row[column.name] for column in table.columns if not column.primary_key]


def in_json(metadata: Mapping[str, Any]) -> str:
    """ValueError for what JSON does not have, such as NaN."""
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False, sort_keys=True)
