"""What can be found, and by which labels, as it was at one revision of the catalogue."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from index.engine import places_of
from index.items import Changes


@dataclass(frozen=True)
class Snapshot:
    """Replaced, never changed: who reads one sees the same all the while."""

    revision: int
    ids: NDArray[np.int64]  # (n,) ascending
    labels: NDArray[np.int64]  # (n,) class index or UNLABELLED
    classes: tuple[str, ...]  # what the labels stand for

    @classmethod
    def of(cls, contents: Changes) -> Self:
        """All that a catalogue holds, as `Catalogue.load` gives it."""
        empty = np.empty(0, np.int64)
        return cls(-1, empty, empty, ()).after(contents)

    def after(self, changes: Changes) -> Self:
        """The snapshot at `changes.revision`, of the changes since this one's."""
        table = changes.table
        gone = places_of(np.concatenate([changes.removed, table.ids]), self.ids)
        ids = np.concatenate([np.delete(self.ids, gone), table.ids])
        labels = np.concatenate([np.delete(self.labels, gone), table.labels])
        order = np.argsort(ids, kind="stable")
        return type(self)(changes.revision, ids[order], labels[order], changes.classes)

    def labels_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Class indices (n,) of stored ids (n,)."""
        return self.labels[np.searchsorted(self.ids, ids)]

    def has(self, item_id: int | None, labels: Collection[int] | None = None) -> bool:
        """Whether the item is there and, where there are `labels`, has one of them."""
        if item_id is None or not len(place := places_of(np.array([item_id]), self.ids)):
            return False
        return labels is None or int(self.labels[place[0]]) in labels
