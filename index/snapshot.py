"""The catalogue's database split in memory, as it was at one revision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from index.engine import places_of
from index.items import Changes
from index.segmented import SegmentedEngine


@dataclass(frozen=True)
class Snapshot:
    """Replaced, never changed: who reads one sees the same all the while."""

    revision: int
    ids: NDArray[np.int64]  # (n,) ascending
    labels: NDArray[np.int64]  # (n,) class index or UNLABELLED
    engine: SegmentedEngine
    classes: tuple[str, ...]  # what the labels stand for

    @classmethod
    def of(cls, contents: Changes) -> Self:
        """All that a catalogue holds, as `Catalogue.load` gives it."""
        empty, width = np.empty(0, np.int64), contents.table.codes.shape[1]
        return cls(-1, empty, empty, SegmentedEngine(8 * width), ()).after(contents)

    def after(self, changes: Changes) -> Self:
        """The snapshot at `changes.revision`, of the changes since this one's."""
        table = changes.table
        known = self.ids[places_of(table.ids, self.ids)]
        new = ~np.isin(table.ids, known, assume_unique=True)  # the others have another label only
        engine = self.engine.copy()
        engine.remove(changes.removed)
        engine.add(table.ids[new], table.codes[new])
        gone = places_of(np.concatenate([changes.removed, table.ids]), self.ids)
        ids = np.concatenate([np.delete(self.ids, gone), table.ids])
        labels = np.concatenate([np.delete(self.labels, gone), table.labels])
        order = np.argsort(ids, kind="stable")
        return type(self)(changes.revision, ids[order], labels[order], engine, changes.classes)

    def labels_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Class indices (n,) of stored ids (n,)."""
        return self.labels[np.searchsorted(self.ids, ids)]

    def ids_of(self, labels: Sequence[int]) -> NDArray[np.int64] | None:
        """Ids (n,) of the items with one of these class indices; None, and no limit, if there are none."""
        return self.ids[np.isin(self.labels, labels)] if labels else None
