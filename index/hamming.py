"""FAISS in this process: exhaustive, exact, and searched while it changes."""

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Self, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, check_codes
from index.engine import Counts, check_bits, check_count, check_radii, check_radius, check_revision
from index.items import Changes, CodeTable
from index.order import Distances, Ids, are_in, by_id, check_ids, in_order
from index.snapshot import Part, Snapshot

T = TypeVar("T")

CELLS = 2**20  # distances held at a time: 4 MB, about what a cache holds, however many codes there are
CORES: int = faiss.omp_get_max_threads()
FEW = 8  # labels that are looked for one by one: numpy's way to look for many takes 20 times as long
SHARED = 2**17  # distances that one core has made before another one is awake


def all_distances(queries: Codes, database: Codes) -> Distances:
    """Distances (q, n) between contiguous codes: numpy's XOR and table take ten times as long as FAISS."""
    distances = np.empty((len(queries), len(database)), dtype=np.int32)
    faiss.hammings(  # type: ignore[attr-defined]  # missing in its type stubs
        faiss.swig_ptr(queries),
        faiss.swig_ptr(database),
        *distances.shape,
        queries.shape[1],
        faiss.swig_ptr(distances),
    )
    return distances


class FaissEngine:
    """The engine that needs no other program (see `Engine`).

    Its items lie in segments, the parts of a snapshot, which is replaced at once: whoever searches sees one
    revision, and nobody waits.
    """

    exact = True

    def __init__(self, bits: int) -> None:
        check_bits(bits)
        self.bits = bits
        self._snapshot = Snapshot.empty(Segment)
        self._applying = threading.Lock()

    def __len__(self) -> int:
        return len(self.snapshot)

    @property
    def revision(self) -> int:
        return self.snapshot.revision

    @property
    def snapshot(self) -> Snapshot[Part]:
        return self._snapshot

    def apply(self, changes: Changes) -> None:
        table, removed = by_id(changes.table, bits=self.bits), check_ids(changes.removed)
        with self._applying:
            if changes.revision > self.revision:
                self._snapshot = self._snapshot.after(replace(changes, table=table, removed=removed))

    def search(
        self, codes: Codes, k: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> tuple[Distances, Ids]:
        codes = check_codes(codes, bits=self.bits)
        check_count(k)

        def work(segments: Sequence[Segment]) -> tuple[Distances, Ids]:
            return nearest([segment.search(codes, k, labels) for segment in segments], len(codes), k)

        return nearest(self._shared(work, len(codes), at_least), len(codes), k)

    def range_search(
        self, codes: Codes, radius: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> list[tuple[Distances, Ids]]:
        codes = check_codes(codes, bits=self.bits)
        check_radius(radius)

        def work(segments: Sequence[Segment]) -> list[list[tuple[Distances, Ids]]]:
            return [segment.range_search(codes, radius, labels) for segment in segments]

        found = [each for share in self._shared(work, len(codes), at_least) for each in share]
        none = [(np.empty(0, np.int32), np.empty(0, np.int64)) for _ in codes]
        return [
            in_order(*(np.concatenate(each) for each in zip(*answers, strict=True)))
            for answers in zip(none, *found, strict=True)
        ]

    def count(
        self, codes: Codes, radii: Distances, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> Counts:
        codes = check_codes(codes, bits=self.bits)
        check_radii(radii, codes)

        def work(segments: Sequence[Segment]) -> Counts:
            counts = (segment.count(codes, radii, labels) for segment in segments)
            return sum(counts, np.zeros(len(codes), np.int64))

        return sum(self._shared(work, len(codes), at_least), np.zeros(len(codes), np.int64))

    def close(self) -> None:
        """It uses nothing of others."""

    def _shared(self, work: "Callable[[Sequence[Segment]], T]", queries: int, at_least: int) -> list[T]:
        """What `work` makes of the segments of this revision or a later one, in order: of all of them, or of
        each core's share. Where segments are too few for that, FAISS divides the queries."""
        segments = self._segments(at_least)
        much = queries * sum(map(len, segments)) > SHARED
        if much and len(segments) >= 2 * CORES > 2:
            return list(_threads().map(work, shares(segments, CORES)))
        faiss.omp_set_num_threads(CORES if much else 1)  # of this thread
        return [work(segments)]

    def _segments(self, at_least: int) -> "Sequence[Segment]":
        """All items. Raises Behind."""
        snapshot = self._snapshot
        check_revision(snapshot.revision, at_least)
        return snapshot.parts

    def everything(self) -> Changes:
        """All that there is, as changes since ever: a copy."""
        snapshot = self._snapshot
        return of_segments(snapshot.parts, snapshot, self.bits)


@dataclass(frozen=True)
class Segment(Part):
    """A part with its codes.

    FAISS numbers codes by position and keeps the lowest positions among ties. Positions are in the order of
    ids, which makes its tie rule ours.
    """

    flat: faiss.IndexBinaryFlat  # n codes

    @classmethod
    def kept(cls, items: CodeTable) -> CodeTable:
        return items

    @classmethod
    def of(cls, items: CodeTable) -> Self:
        flat = faiss.IndexBinaryFlat(8 * items.codes.shape[1])
        flat.add(items.codes)
        return cls(items.ids.copy(), items.labels.astype(np.int32), flat)

    @property
    def items(self) -> CodeTable:
        return CodeTable(self.ids, self.labels.astype(np.int64), self.codes)

    @property
    def codes(self) -> Codes:
        """FAISS's own memory, not a copy."""
        if not len(self):  # where there is no memory, FAISS says that it holds numbers of 32 bits
            return np.empty((0, self.flat.code_size), np.uint8)
        codes = faiss.rev_swig_ptr(self.flat.xb.data(), len(self) * self.flat.code_size)  # type: ignore[attr-defined]
        return codes.reshape(len(self), self.flat.code_size)

    def same(self, items: CodeTable) -> NDArray[np.bool_]:
        here = are_in(items.ids, self.ids)
        places = np.searchsorted(self.ids, items.ids[here])
        here[here] = (self.codes[places] == items.codes[here]).all(axis=1)
        return here

    def search(self, codes: Codes, k: int, labels: Collection[int] | None) -> tuple[Distances, Ids]:
        """As `Engine.search`."""
        count, parameters = self._selection(labels)
        k = min(k, count)
        if k == 0 or len(codes) == 0:
            return np.empty((len(codes), k), np.int32), np.empty((len(codes), k), np.int64)
        distances, positions = self.flat.search(codes, k, params=parameters)
        return distances, self.ids[positions]

    def range_search(
        self, codes: Codes, radius: int, labels: Collection[int] | None
    ) -> list[tuple[Distances, Ids]]:
        """As `Engine.range_search`, in no order."""
        count, parameters = self._selection(labels)
        if count == 0 or len(codes) == 0:
            return [(np.empty(0, np.int32), np.empty(0, np.int64)) for _ in codes]
        below = min(radius, self.flat.d) + 1  # FAISS compares with <
        limits, distances, positions = self.flat.range_search(codes, below, params=parameters)
        return [
            (distances[start:end].astype(np.int32), self.ids[positions[start:end]])
            for start, end in zip(limits[:-1].astype(int), limits[1:].astype(int), strict=True)
        ]

    def count(self, codes: Codes, radii: Distances, labels: Collection[int] | None) -> Counts:
        """As `Engine.count`."""
        stored = self.codes
        if labels is not None:
            stored = stored[having(self.labels, labels)]
        counts = np.zeros(len(codes), np.int64)
        step = max(1, CELLS // max(len(codes), 1))
        for start in range(0, len(stored), step):
            distances = all_distances(codes, stored[start : start + step])
            # Row by row: numpy counts what is true in a row many times as fast as along an axis.
            for query, row in enumerate(distances):
                counts[query] += np.count_nonzero(row <= radii[query])
        return counts

    def _selection(self, labels: Collection[int] | None) -> tuple[int, faiss.SearchParameters | None]:
        """How many items to rank, and how FAISS is told which."""
        if labels is None:
            return len(self), None
        mask = having(self.labels, labels)
        # FAISS takes one bit an item here and keeps the array alive; its type stubs say otherwise
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))  # type: ignore[call-arg, arg-type]
        return int(mask.sum()), faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]


def of_segments(segments: Sequence[Segment], snapshot: Snapshot[Part], bits: int) -> Changes:
    """What segments hold at the revision of a snapshot, as changes since ever."""
    none = CodeTable(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, bits // 8), np.uint8))
    table = by_id(CodeTable.joined([none, *(segment.items for segment in segments)]), bits=bits)
    return Changes(snapshot.revision, table, np.empty(0, np.int64), snapshot.classes)


def having(labels: NDArray[np.int32], wanted: Collection[int]) -> NDArray[np.bool_]:
    """Which of the labels (n,) are wanted: (n,)."""
    if len(wanted) > FEW:
        return np.isin(labels, list(wanted))
    found = np.zeros(len(labels), np.bool_)
    for label in wanted:
        found |= labels == label
    return found


def nearest(found: Sequence[tuple[Distances, Ids]], queries: int, k: int) -> tuple[Distances, Ids]:
    """The k nearest of what was found in parts, each (queries, ≤ k) in order."""
    if len(found) == 1:
        return found[0]
    none = np.empty((queries, 0), np.int32), np.empty((queries, 0), np.int64)
    distances, ids = (np.concatenate(each, axis=1) for each in zip(none, *found, strict=True))
    first = np.lexsort((ids, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, first, 1), np.take_along_axis(ids, first, 1)


def shares(segments: Sequence[Segment], count: int) -> list[Sequence[Segment]]:
    """The segments one after the other in at most so many shares of about as many items."""
    ends = np.cumsum([len(segment) for segment in segments])
    middles = ends - [len(segment) / 2 for segment in segments]
    of = (middles * count / ends[-1]).astype(int)  # never `count`: no middle is at the end
    bounds = np.searchsorted(of, np.arange(count + 1)).tolist()
    return [segments[a:b] for a, b in pairwise(bounds) if a < b]


@cache
def _threads() -> ThreadPoolExecutor:
    """One thread a core, which FAISS does not divide again: OpenMP divides queries, and one cannot be."""
    return ThreadPoolExecutor(CORES, "rank", initializer=partial(faiss.omp_set_num_threads, 1))
