"""Which items are listed and in which order, as queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select

from index.items import UNLABELLED
from index.names import spellings, stored
from index.sorting import Sort
from index.tables.doubts import OF_LABEL
from index.tables.folders import lies_below
from index.tables.schema import CLASSES, DOUBTS, ITEMS, PREDICTIONS

# By what it is sorted; of names and labels capitals count as small letters.
VALUES: dict[str, ColumnElement[Any]] = {
    "time": ITEMS.c.added,
    "name": func.lower(ITEMS.c.path),
    "label": func.lower(CLASSES.c.name),
    "confidence": PREDICTIONS.c.confidence,
    "doubt": DOUBTS.c.doubt,
}
FALLING = ("confidence", "doubt")  # the most come first
SMALL = str.maketrans(ascii_uppercase, ascii_lowercase)
OF_ITEM = and_(PREDICTIONS.c.item_id == ITEMS.c.id, ITEMS.c.label.is_(None))  # a prediction that counts


@dataclass(frozen=True)
class Listing:
    """The items to which all of this applies, in an order; None is all. Indices are those of classes."""

    split: str = "database"
    labels: Sequence[int] | None = None  # may hold UNLABELLED
    folder: str | None = None
    under: str | None = None  # in this folder or below, by its path in the tree of folders
    sha256: bytes | None = None  # as in File
    name: str | None = None  # a part of the path, in capitals or not
    predicted: Sequence[int] | None = None
    min_confidence: float | None = None  # of the prediction
    sort: Sort = "id"  # equal ones by id, those without the value last
    descending: bool = False  # the other way round than usual: the surest and the most doubtful come first


EVERYTHING = Listing()


def conditions(which: Listing) -> list[ColumnElement[bool]]:
    """What must be true of items, and of PREDICTIONS, joined by OF_ITEM."""
    found = [ITEMS.c.split == which.split]
    if which.labels is not None:
        found.append(func.coalesce(ITEMS.c.label, UNLABELLED).in_(which.labels))
    if which.folder is not None:
        found.append(ITEMS.c.folder.in_(spellings(which.folder)))
    if which.under is not None:
        found.append(lies_below(which.under))
    if which.sha256 is not None:
        found.append(ITEMS.c.sha256 == which.sha256)
    if which.name is not None:
        path = func.lower(ITEMS.c.path)
        found.append(or_(*(path.contains(each, autoescape=True) for each in _written(which.name))))
    if which.predicted is not None:
        found.append(PREDICTIONS.c.label.in_(which.predicted))
    if which.min_confidence is not None:
        found.append(PREDICTIONS.c.confidence >= which.min_confidence)
    return found


def part(connection: Connection, which: Listing, *, offset: int, count: int) -> tuple[list[int], int]:
    """The ids of at most `count` items after the first `offset`, in their order, and how many there are."""
    total = connection.scalar(_selected(which, func.count())) or 0
    here = min(count, total - offset)
    if here <= 0:
        return [], total
    behind = total - offset - here
    from_the_end = behind < offset  # what is skipped must be sorted too
    query = _selected(which, ITEMS.c.id).order_by(*_order(which, backwards=from_the_end))
    ids = list(connection.scalars(query.limit(here).offset(min(offset, behind))))
    return (ids[::-1] if from_the_end else ids), total


def predicted(connection: Connection, min_confidence: float) -> dict[str, int]:
    """How many items of the database split without a label have each predicted one, at least so surely; the
    most first, then by name."""
    number = func.count()
    query = (
        _selected(Listing(min_confidence=min_confidence), CLASSES.c.name, number)
        .join(CLASSES, CLASSES.c.id == PREDICTIONS.c.label)
        .group_by(CLASSES.c.name)
        .order_by(number.desc(), CLASSES.c.name)
    )
    return {name: count for name, count in connection.execute(query)}


def _selected(which: Listing, *columns: Any) -> Select[Any]:
    """Something of these items, through no more tables than it needs: what is skipped goes through all."""
    query = select(*columns).select_from(ITEMS).where(*conditions(which))
    if which.sort == "label":
        query = query.outerjoin(CLASSES, CLASSES.c.id == ITEMS.c.label)
    if which.sort == "confidence" or (which.predicted, which.min_confidence) != (None, None):
        query = query.outerjoin(PREDICTIONS, OF_ITEM)
    if which.sort == "doubt":
        query = query.outerjoin(DOUBTS, OF_LABEL)
    return query


def _order(which: Listing, *, backwards: bool) -> list[ColumnElement[Any]]:
    by_id = ITEMS.c.id.desc() if backwards != (which.sort == "id" and which.descending) else ITEMS.c.id.asc()
    if which.sort == "id":
        return [by_id]
    value = VALUES[which.sort]
    falling = (which.sort in FALLING) != which.descending
    ordered = value.desc() if falling != backwards else value.asc()
    return [ordered.nulls_first() if backwards else ordered.nulls_last(), by_id]


def _written(name: str) -> set[str]:
    """The ways to write a part of a name, as lower() leaves them, which knows ASCII alone in SQLite."""
    cases = {name.lower()} if name.isascii() else {name, name.lower(), name.upper(), name.title()}
    return {stored(spelling).translate(SMALL) for each in cases for spelling in spellings(each)}
