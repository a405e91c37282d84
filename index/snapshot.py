"""What can be found, and by which labels, as it was at one revision of the catalogue."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from index.items import Changes, CodeTable
from index.order import Ids, are_in, places_of

LARGEST = 2**17  # items in a part, of 256 bits 4 MB: what a removal copies
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Part:
    """Some of the items, by ascending id; replaced, never changed."""

    ids: Ids  # (n,)
    labels: Labels  # (n,) class index or UNLABELLED

    @classmethod
    def of(cls, items: CodeTable) -> Self:
        """A copy of items by ascending id."""
        return cls(items.ids.copy(), items.labels.astype(np.int32))

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def kept(cls, items: CodeTable) -> CodeTable:
        """The items with what a part keeps of them: their codes are elsewhere."""
        return replace(items, codes=items.codes[:, :0])

    @property
    def items(self) -> CodeTable:
        """What it was made of."""
        return CodeTable(self.ids, self.labels.astype(np.int64), np.empty((len(self), 0), np.uint8))

    def same(self, items: CodeTable) -> NDArray[np.bool_]:
        """Which of the items (m,) are here and differ at most in their labels: (m,)."""
        return are_in(items.ids, self.ids)

    def changed(self, removed: Ids, items: CodeTable) -> Self:
        """It when items went, and came or changed; itself where none did."""
        same = self.same(items)
        relabelled = self._relabelled(items.rows(same)) if same.any() else self
        coming = items.rows(~same)
        leaving = places_of(np.concatenate([removed, coming.ids]), self.ids)
        if not len(leaving) and not len(coming.ids):
            return relabelled
        staying = np.ones(len(self), np.bool_)
        staying[leaving] = False
        table = relabelled.items.rows(staying)
        if len(coming.ids):
            table = CodeTable.joined([table, coming])
            table = table.rows(np.argsort(table.ids, kind="stable"))
        return self.of(table)

    def pieces(self) -> list[Self]:
        """It in parts of equal size that are no larger than LARGEST, as few as may be; none where it is
        empty."""
        if 0 < len(self) <= LARGEST:
            return [self]
        bounds = np.linspace(0, len(self), -(-len(self) // LARGEST) + 1, dtype=int).tolist()
        return [self.of(self.items.rows(slice(*each))) for each in pairwise(bounds)]

    def _relabelled(self, items: CodeTable) -> Self:
        labels = self.labels.copy()
        labels[places_of(items.ids, self.ids)] = items.labels
        return replace(self, labels=labels)


P = TypeVar("P", bound=Part, covariant=True)


@dataclass(frozen=True)
class Snapshot(Generic[P]):
    """Replaced, never changed: who reads one sees the same all the while.

    Its parts have ids one after the other, and each change replaces those that it concerns: what it takes
    does not grow with the items. What comes behind all others merges with the parts before it that are no
    larger, so that their number grows with the logarithm of the items (and, since LARGEST bounds them, slowly
    with the items themselves): the logarithmic method of Bentley and Saxe, J. Algorithms 1980.
    """

    revision: int
    parts: tuple[P, ...]
    classes: tuple[str, ...]  # what the labels stand for
    kind: type[P]

    @classmethod
    def empty(cls, kind: type[P]) -> Self:
        """Of before any change, of parts of this kind."""
        return cls(-1, (), (), kind)

    def after(self, changes: Changes) -> Self:
        """The snapshot at `changes.revision`, of the changes since this one's, whose table is by id."""
        table = self.kind.kept(changes.table)
        removed = changes.removed[~are_in(changes.removed, table.ids)]
        behind = np.searchsorted(table.ids, self.parts[-1].ids[-1], side="right") if self.parts else 0
        parts = self._replaced(removed, table.rows(slice(behind)))
        for start in range(int(behind), len(table.ids), LARGEST):
            parts = self._appended(parts, table.rows(slice(start, start + LARGEST)))
        return replace(self, revision=changes.revision, parts=tuple(parts), classes=changes.classes)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def ids(self) -> Ids:
        """Of all items, ascending: a copy."""
        return np.concatenate([np.empty(0, np.int64), *(part.ids for part in self.parts)])

    @property
    def labels(self) -> Labels:
        """Class indices (n,) of all items: a copy."""
        return np.concatenate([np.empty(0, np.int32), *(part.labels for part in self.parts)])

    def labels_of(self, ids: Ids) -> Labels:
        """Class indices (n,) of stored ids (n,)."""
        labels, places = np.empty(len(ids), np.int32), self._parts_of(ids)
        for number in np.unique(places):
            part, here = self.parts[number], places == number
            labels[here] = part.labels[np.searchsorted(part.ids, ids[here])]
        return labels

    def items_of(self, ids: Ids) -> CodeTable:
        """What is kept of those of the ids that are there, in no order; there must be items."""
        places = self._parts_of(ids)
        found = [self.parts[0].items.rows(slice(0))]
        for number in np.unique(places).tolist():
            part = self.parts[number]
            found.append(part.items.rows(places_of(ids[places == number], part.ids)))
        return CodeTable.joined(found)

    def has(self, item_id: int | None, labels: Collection[int] | None = None) -> bool:
        """Whether the item is there and, where there are `labels`, has one of them."""
        if item_id is None or not self.parts:
            return False
        part = self.parts[self._parts_of(np.array([item_id]))[0]]
        place = places_of(np.array([item_id]), part.ids)
        return bool(len(place)) and (labels is None or int(part.labels[place[0]]) in labels)

    def has_all(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of the ids (n,), in whatever order, are there: (n,)."""
        there, places = np.zeros(len(ids), np.bool_), self._parts_of(ids)
        for number in np.unique(places).tolist() if self.parts else ():
            here = places == number
            there[here] = are_in(ids[here], self.parts[number].ids)
        return there

    @cached_property
    def _firsts(self) -> Ids:
        return np.array([part.ids[0] for part in self.parts], np.int64)

    def _parts_of(self, ids: Ids) -> NDArray[np.intp]:
        """In which parts these ids are, if they are anywhere; those below all are of the first."""
        return np.maximum(np.searchsorted(self._firsts, ids, side="right") - 1, 0)

    def _replaced(self, removed: Ids, items: CodeTable) -> list[P]:
        """The parts without what was removed, and with items that are not behind all others."""
        going, coming = self._parts_of(removed), self._parts_of(items.ids)
        concerned = set(np.concatenate([going, coming]).tolist())
        parts = list[P]()
        for number, part in enumerate(self.parts):
            if number in concerned:
                part = part.changed(removed[going == number], items.rows(coming == number))
            parts += part.pieces()
        return parts

    def _appended(self, parts: Iterable[P], items: CodeTable) -> list[P]:
        """The parts with items behind them as another one, merged with those before it that are no larger."""
        kept = list(parts)
        while kept and len(kept[-1]) <= len(items.ids) <= LARGEST - len(kept[-1]):
            items = CodeTable.joined([kept.pop().items, items])
        return [*kept, self.kind.of(items)]
