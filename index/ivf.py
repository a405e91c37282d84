"""An engine for indexes that are too large to be searched as a whole: fast, and inexact."""

import ctypes
import logging
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from index.cells import NEIGHBOURS, Cells, centres_of
from index.codes import Codes
from index.engine import Counts
from index.hamming import FaissEngine
from index.items import Changes
from index.order import Distances, Ids
from index.snapshot import Part, Snapshot

LEAST = 2**20  # items up to which all are searched: one core compares so many in 6 ms
ASKED = 200  # stored codes by which recall is measured
WORTH = 0.1  # of the cells: where more are to be searched, to search all codes at once is faster
ANEW = 0.1  # of the items: after so many changes it is measured again

log = logging.getLogger("hebbsearch")


class Recall(NamedTuple):
    """How inexact answers are."""

    cells: int
    searched: int  # of them, for each query
    at_10: float  # share of the ten nearest items that are found, or others as near
    queries: int  # stored codes that it was measured with, each without itself


class IvfEngine:
    """FaissEngine up to `least` items, and beyond, once they were made in the background, `Cells`, so many of
    which are searched as the `wanted` recall takes (see `Engine`). Where that is more than is worth it, as of
    codes that are unlike each other, it stays FaissEngine.

    What is added is found at once, and what was removed never.
    """

    def __init__(self, bits: int, *, wanted: float = 0.95, least: int = LEAST) -> None:
        self.bits = bits
        self.recall: Recall | None = None  # None: answers are exact, or nothing has been measured yet
        self._wanted, self._least = wanted, least
        self._now = FaissEngine(bits)
        self._since: list[Changes] | None = None  # what new cells lack; None: none are being made
        self._changed = 0  # items since recall was measured
        self._applying = threading.Lock()
        self._tending = threading.Thread()

    def __len__(self) -> int:
        return len(self._now)

    @property
    def exact(self) -> bool:
        return self._now.exact

    @property
    def revision(self) -> int:
        return self._now.revision

    @property
    def snapshot(self) -> Snapshot[Part]:
        return self._now.snapshot

    def apply(self, changes: Changes) -> None:
        with self._applying:
            self._now.apply(changes)
            self._changed += len(changes.table.ids) + len(changes.removed)
            if self._since is not None:
                self._since.append(changes)
            elif len(self) > self._least and self._changed > ANEW * len(self):
                self._since, self._changed = [], 0
                self._tending = threading.Thread(target=self._tend, name="cells", daemon=True)
                self._tending.start()

    def search(
        self, codes: Codes, k: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> tuple[Distances, Ids]:
        return self._now.search(codes, k, labels=labels, at_least=at_least)

    def range_search(
        self, codes: Codes, radius: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> list[tuple[Distances, Ids]]:
        return self._now.range_search(codes, radius, labels=labels, at_least=at_least)

    def count(
        self, codes: Codes, radii: Distances, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> Counts:
        return self._now.count(codes, radii, labels=labels, at_least=at_least)

    def everything(self) -> Changes:
        """As FaissEngine's."""
        return self._now.everything()

    def close(self) -> None:
        """It uses nothing of others."""

    def settle(self) -> None:
        """Wait until nothing is done in the background any more."""
        if self._tending.ident is not None:
            self._tending.join()

    def _tend(self) -> None:
        """Make cells where there are none or too few, see how many are to be searched, and measure."""
        try:
            before = self._now
            number = cells_for(len(before))
            cells = before if isinstance(before, Cells) and before.number >= number else made(before, number)
            searched = enough(cells, self._wanted)
            if cells is not before and searched > WORTH * number:
                log.info("all of the index is searched: %s of %s cells would have to be", searched, number)
                with self._applying:
                    self._since = None
                return
            cells.searched = searched
            with self._applying:
                for changes in (self._since or []) if cells is not before else []:
                    cells.apply(changes)
                self._now, self._since = cells, None
            self.recall = measured(cells)
            log.info("a search goes through some cells of the index: %s", self.recall)
            del before, cells
            give_back()
        except Exception:
            log.exception("the index could not be divided into cells; all of it is searched")
            with self._applying:
                self._since = None


def give_back() -> None:
    """To the system what was freed, where that has glibc: it would keep three times what is held."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def cells_for(items: int) -> int:
    """A power of two near the square root of the items: cells are then about as many as items in each."""
    return int(2 ** min(16, np.log2(items) // 2))


def made(engine: FaissEngine, number: int) -> Cells:
    """So many cells of what the engine holds."""
    everything = engine.everything()
    cells = Cells(engine.bits, centres_of(everything.table.codes, number))
    cells.apply(everything)
    return cells


def enough(cells: Cells, recall: float) -> int:
    """How many cells are to be searched for this recall, and half of what it lacks to one: what is measured
    later is asked with other codes. For one, all."""
    if recall >= 1:
        return cells.number
    ranks = np.sort(cells.ranks_of_neighbours(np.random.default_rng(0), ASKED))
    share = (1 + recall) / 2
    return min(cells.number, 1 + int(ranks[int(np.ceil(share * len(ranks))) - 1]))


def measured(cells: Cells) -> Recall:
    """By stored codes."""
    codes, own = cells.drawn(np.random.default_rng(1), ASKED)
    found, exact = (search(codes, NEIGHBOURS + 1) for search in (cells.search, cells.exactly))
    shares = list[float]()
    for row, id_ in enumerate(own):
        (near, others), (nearest, all_) = ((some[0][row], some[1][row]) for some in (found, exact))
        farthest = nearest[all_ != id_][:NEIGHBOURS][-1]
        shares.append(np.count_nonzero(near[others != id_][:NEIGHBOURS] <= farthest) / NEIGHBOURS)
    return Recall(cells.number, cells.searched, float(np.mean(shares)), ASKED)
