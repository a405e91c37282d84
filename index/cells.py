"""Codes by the nearest of some centres: who looks only into the cells near a query is fast, and inexact."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, check_codes
from index.engine import check_revision
from index.hamming import FaissEngine, Segment, of_segments
from index.items import Changes, CodeTable
from index.order import Distances, Ids, are_in, by_id, check_ids, in_order
from index.snapshot import Part, Snapshot

LEARNED = 32  # codes of each cell that its centre is learned from
ROUNDS = 6  # of k-means
NEIGHBOURS = 10  # of which recall speaks


class Cells(FaissEngine):
    """Items in cells, each of which is a segment; a change copies those that it concerns.

    A search goes through the `searched` cells whose centres are nearest to its query, and through all of them
    where too few items with its labels are there. `range_search` and `count` go through all: they are exact.
    """

    exact = False

    def __init__(self, bits: int, centres: Codes) -> None:
        super().__init__(bits)
        self.number = self.searched = len(centres)
        self._centres = faiss.IndexBinaryFlat(bits)
        self._centres.add(centres)
        empty = Segment.of(CodeTable(np.empty(0, np.int64), np.empty(0, np.int64), centres[:0]))
        self._state = State(Snapshot.empty(Placed), (empty,) * self.number)

    @property
    def snapshot(self) -> Snapshot[Part]:
        return self._state.snapshot

    def everything(self) -> Changes:
        state = self._state
        return of_segments(state.cells, state.snapshot, self.bits)

    def apply(self, changes: Changes) -> None:
        table, removed = by_id(changes.table, bits=self.bits), check_ids(changes.removed)
        with self._applying:
            snapshot, before = self._state
            if changes.revision <= snapshot.revision:
                return
            to = self._cells_near(table.codes, 1)[:, 0]
            placed = CodeTable(table.ids, table.labels, _as_codes(to))
            after = snapshot.after(replace(changes, table=placed, removed=removed))
            concerned = np.union1d(removed, table.ids)
            gone = snapshot.items_of(concerned) if snapshot.parts else placed.rows(slice(0))
            gone = gone.rows(~_as_before(gone, placed))
            cells, coming = list(before), grouped(to)
            leaving = grouped(_as_cells(gone.codes))
            for cell in coming.keys() | leaving.keys():
                ids, rows = gone.ids[leaving.get(cell, NONE)], coming.get(cell, NONE)
                cells[cell] = cells[cell].changed(ids, table.rows(rows))
            self._state = State(after, tuple(cells))

    def search(
        self, codes: Codes, k: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> tuple[Distances, Ids]:
        codes = check_codes(codes, bits=self.bits)
        snapshot, cells = self._state
        check_revision(snapshot.revision, at_least)
        if self.searched == self.number or k < 1 or not len(codes) or not len(snapshot):
            return super().search(codes, k, labels=labels, at_least=at_least)
        k = min(k, len(snapshot))
        near = self._cells_near(codes, self.searched)
        distances: Distances = np.full((*near.shape, k), self.bits + 1, np.int32)  # farther than any item
        ids: Ids = np.empty((*near.shape, k), np.int64)
        for cell, places in grouped(near.ravel()).items():
            rows, turns = np.divmod(places, self.searched)
            found = cells[cell].search(codes[rows], k, labels)
            width = found[0].shape[1]
            distances[rows, turns, :width], ids[rows, turns, :width] = found
        firsts = [_first(*each, k) for each in zip(distances, ids, strict=True)]
        if any(some[-1] > self.bits for some, _ in firsts):
            return super().search(codes, k, labels=labels, at_least=at_least)
        return np.stack([some for some, _ in firsts]), np.stack([some for _, some in firsts])

    def exactly(self, codes: Codes, k: int) -> tuple[Distances, Ids]:
        """The k nearest of each code: all cells are searched."""
        return super().search(codes, k)

    def ranks_of_neighbours(self, rng: np.random.Generator, count: int) -> NDArray[np.intp]:
        """How many cells are nearer to a stored code than that of one of its neighbours: (count · k,)."""
        codes, own = self.drawn(rng, count)
        order = np.argsort(self._cells_near(codes, self.number), axis=1)  # the rank of each cell
        ranks = list[int]()
        for row, ids in enumerate(self.exactly(codes, NEIGHBOURS + 1)[1]):
            kept = self._state.snapshot.items_of(ids[ids != own[row]][:NEIGHBOURS])
            ranks += order[row, _as_cells(kept.codes)].tolist()
        return np.array(ranks, np.intp)

    def drawn(self, rng: np.random.Generator, count: int) -> tuple[Codes, Ids]:
        """Stored codes (count, bits/8) at random, and their ids."""
        _, cells = self._state
        ends = np.cumsum([len(cell) for cell in cells])
        places = rng.integers(0, ends[-1], count)
        which = np.searchsorted(ends, places, side="right")
        rows = places - ends[which]  # from the end of its cell
        codes = np.stack([cells[cell].codes[row] for cell, row in zip(which, rows, strict=True)])
        return codes, np.array([cells[cell].ids[row] for cell, row in zip(which, rows, strict=True)])

    def _segments(self, at_least: int) -> tuple[Segment, ...]:
        snapshot, cells = self._state
        check_revision(snapshot.revision, at_least)
        return cells

    def _cells_near(self, codes: Codes, count: int) -> NDArray[np.int64]:
        """The numbers (n, count) of the cells nearest to codes (n, bits/8), the nearest first."""
        if not len(codes):
            return np.empty((0, count), np.int64)
        faiss.omp_set_num_threads(1)  # of this thread: what is so short is over before others are awake
        return self._centres.search(codes, count)[1]


class State(NamedTuple):
    """All items at one revision: by id, with the number of the cell in place of the code, and by cell."""

    snapshot: "Snapshot[Placed]"
    cells: tuple[Segment, ...]


@dataclass(frozen=True)
class Placed(Part):
    """A part that knows in which cells its items lie."""

    cells: NDArray[np.uint16]  # (n,)

    @classmethod
    def kept(cls, items: CodeTable) -> CodeTable:
        return items

    @classmethod
    def of(cls, items: CodeTable) -> Self:
        return cls(items.ids.copy(), items.labels.astype(np.int32), _as_cells(items.codes).copy())

    @property
    def items(self) -> CodeTable:
        return CodeTable(self.ids, self.labels.astype(np.int64), _as_codes(self.cells))

    def same(self, items: CodeTable) -> NDArray[np.bool_]:
        here = are_in(items.ids, self.ids)
        places = np.searchsorted(self.ids, items.ids[here])
        here[here] = self.cells[places] == _as_cells(items.codes)[here]
        return here


NONE = np.empty(0, np.intp)


def centres_of(codes: Codes, count: int) -> Codes:
    """So many centres (count, bits/8), learned from some of the codes by k-means."""
    rng, bits = np.random.default_rng(0), 8 * codes.shape[1]
    some = codes[np.sort(rng.choice(len(codes), min(len(codes), LEARNED * count), replace=False))]
    quantiser = faiss.IndexBinaryFlat(bits)
    faiss.omp_set_num_threads(1)  # of this thread: others answer meanwhile
    ivf = faiss.IndexBinaryIVF(quantiser, bits, count)
    ivf.cp.niter, ivf.cp.min_points_per_centroid = ROUNDS, 1
    ivf.train(some)
    centres: Codes = faiss.vector_to_array(quantiser.xb).reshape(count, -1)  # type: ignore[attr-defined]
    return centres


def grouped(numbers: NDArray[np.integer[Any]]) -> dict[int, NDArray[np.intp]]:
    """Where each number stands, ascending."""
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True)) if len(found) else {}


def _first(distances: Distances, ids: Ids, k: int) -> tuple[Distances, Ids]:
    """The first k by (distance, id) of what was found in some cells: (cells, k) both."""
    within = distances <= np.partition(distances, k - 1, axis=None)[k - 1]
    some = in_order(distances[within], ids[within])
    return some[0][:k], some[1][:k]


def _as_before(gone: CodeTable, placed: CodeTable) -> NDArray[np.bool_]:
    """Which of the items that are there stay in their cell."""
    stay = are_in(gone.ids, placed.ids)
    places = np.searchsorted(placed.ids, gone.ids[stay])
    stay[stay] = (gone.codes[stay] == placed.codes[places]).all(axis=1)
    return stay


def _as_codes(cells: NDArray[np.integer[Any]]) -> Codes:
    """Numbers (n,) as codes of two bytes (n, 2)."""
    return np.ascontiguousarray(cells, np.uint16).view(np.uint8).reshape(-1, 2)


def _as_cells(codes: Codes) -> NDArray[np.uint16]:
    """What `_as_codes` made codes of."""
    return np.ascontiguousarray(codes).view(np.uint16)[:, 0]
