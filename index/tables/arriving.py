"""Images that come, some of which were there before."""

from collections.abc import Mapping, Sequence
from typing import Literal

from sqlalchemy import select

from index.items import UNLABELLED, NewItem
from index.tables.changing import Change
from index.tables.rows import ids_by_hash
from index.tables.schema import ITEMS
from index.tables.trash import take_out

Arrival = Literal["added", "exists", "restored"]


def add_unknown(
    change: Change, items: Sequence[NewItem], labels: Mapping[int, str]
) -> list[tuple[int, Arrival]]:
    """As `Catalogue.add_unknown`."""
    hashes = [item.file.sha256 for item in items if item.file]
    there = ids_by_hash(change.connection, hashes)
    thrown = {
        sha256: id_
        for sha256, id_ in ids_by_hash(change.connection, hashes, split="trash").items()
        if sha256 not in there
    }
    keys = [item.file.sha256 if item.file else number for number, item in enumerate(items)]
    first: dict[bytes | int, NewItem] = {}  # of each file
    for key, item in zip(keys, items, strict=True):
        first.setdefault(key, item)
    made = {
        id_: (item.code, item.embedding)
        for sha256, id_ in thrown.items()
        if (item := first[sha256]).code is not None
    }
    take_out(change, list(thrown.values()), made)
    known = dict[bytes | int, int]([*there.items(), *thrown.items()])
    unknown = {key: item for key, item in first.items() if key not in known}
    ids = known | dict(zip(unknown, change.add(unknown.values()), strict=True))
    for key, item in zip(keys, items, strict=True):
        if key in known:
            _label_unlabelled(change, ids[key], item.label)
    for id_, label in labels.items():
        _label_unlabelled(change, id_, label)
    answers, told = list[tuple[int, Arrival]](), set[bytes | int]()
    for key in keys:
        new: Arrival = "added" if key in unknown else "restored" if key in thrown else "exists"
        answers.append((ids[key], "exists" if key in told else new))
        told.add(key)
    return answers


def _label_unlabelled(change: Change, item_id: int, label: int | str) -> None:
    """Give an item of the database split a label if it is there and has none."""
    lacking = select(ITEMS.c.id).where(
        ITEMS.c.id == item_id, ITEMS.c.split == "database", ITEMS.c.label.is_(None)
    )
    if label != UNLABELLED and change.connection.scalar(lacking) is not None:
        change.update(item_id, label, {})
