"""FAISS in this process: exhaustive, exact, and searched while it changes."""

import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, check_codes
from index.engine import Behind, Counts, Distances, Ids, by_id, check_ids, in_order, places_of
from index.items import Changes, CodeTable

CELLS = 2**20  # distances held at a time: 4 MB, about what a cache holds, however many codes there are
LARGEST = 2**18  # codes in a segment, 8 MB of 256 bits: what a removal copies


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

    Its items lie in segments, each of which is never changed but replaced, and all of them together are
    replaced at once: whoever searches sees one revision, and nobody waits. An addition merges with the
    segments before it that are no larger, so that their number grows with the logarithm of the items (and,
    since LARGEST bounds them, slowly with the items themselves).

    Growing by segments of doubling size: the logarithmic method of Bentley and Saxe, J. Algorithms 1980.
    """

    exact = True

    def __init__(self, bits: int) -> None:
        if bits < 8 or bits % 8:
            raise ValueError(f"bits is {bits}; wanted a positive multiple of 8")
        self.bits = bits
        self._state = State(-1, ())
        self._applying = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._state.segments))

    @property
    def revision(self) -> int:
        return self._state.revision

    def apply(self, changes: Changes) -> None:
        table, removed = in_id_order(changes.table, bits=self.bits), check_ids(changes.removed)
        with self._applying:
            if changes.revision > self.revision:
                segments = _changed(self._state.segments, removed, table)
                self._state = State(changes.revision, segments)

    def search(
        self, codes: Codes, k: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> tuple[Distances, Ids]:
        codes = check_codes(codes, bits=self.bits)
        if k < 1:
            raise ValueError(f"k is {k}; wanted at least 1")
        found = [segment.search(codes, k, labels) for segment in self._segments(at_least)]
        if len(found) == 1:
            return found[0]
        none = np.empty((len(codes), 0), np.int32), np.empty((len(codes), 0), np.int64)
        distances, ids = (np.concatenate(each, axis=1) for each in zip(none, *found, strict=True))
        nearest = np.lexsort((ids, distances), axis=1)[:, :k]
        return np.take_along_axis(distances, nearest, 1), np.take_along_axis(ids, nearest, 1)

    def range_search(
        self, codes: Codes, radius: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> list[tuple[Distances, Ids]]:
        codes = check_codes(codes, bits=self.bits)
        if radius < 0:
            raise ValueError(f"radius is {radius}; wanted at least 0")
        found = [segment.range_search(codes, radius, labels) for segment in self._segments(at_least)]
        none = [(np.empty(0, np.int32), np.empty(0, np.int64)) for _ in codes]
        return [
            in_order(*(np.concatenate(each) for each in zip(*answers, strict=True)))
            for answers in zip(none, *found, strict=True)
        ]

    def count(
        self, codes: Codes, radii: Distances, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> Counts:
        codes = check_codes(codes, bits=self.bits)
        if np.shape(radii) != (len(codes),):
            raise ValueError(f"radii have shape {np.shape(radii)}; wanted one for each of {len(codes)} codes")
        counts = np.zeros(len(codes), np.int64)
        for segment in self._segments(at_least):
            counts += segment.count(codes, radii, labels)
        return counts

    def _segments(self, at_least: int) -> "tuple[Segment, ...]":
        state = self._state
        if state.revision < at_least:
            raise Behind(f"the engine is at revision {state.revision}, {at_least} was asked for")
        return state.segments


@dataclass(frozen=True)
class Segment:
    """Items that never change.

    FAISS numbers codes by position and keeps the lowest positions among ties. Positions are in the order of
    ids, which makes its tie rule ours.
    """

    ids: Ids  # (n,) ascending
    labels: NDArray[np.int64]  # (n,)
    flat: faiss.IndexBinaryFlat  # n codes

    @classmethod
    def of(cls, items: CodeTable) -> Self:
        """Items by ascending id."""
        flat = faiss.IndexBinaryFlat(8 * items.codes.shape[1])
        flat.add(items.codes)
        return cls(items.ids, items.labels, flat)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def items(self) -> CodeTable:
        """What it was made of. The codes are FAISS's own memory, not a copy."""
        codes = faiss.rev_swig_ptr(self.flat.xb.data(), len(self) * self.flat.code_size)  # type: ignore[attr-defined]
        return CodeTable(self.ids, self.labels, codes.reshape(len(self), -1))

    def without(self, ids: Ids) -> Self:
        """The segment without these items; itself if it has none of them."""
        leaving = places_of(ids, self.ids)
        if not len(leaving):
            return self
        staying = np.ones(len(self), np.bool_)
        staying[leaving] = False
        return self.of(self.items.rows(staying))

    def relabelled(self, items: CodeTable) -> tuple[Self, NDArray[np.bool_]]:
        """The segment with the labels of those `items` (m,) that it has with the same codes; which those are
        (m,)."""
        same = np.zeros(len(items.ids), np.bool_)
        places = places_of(items.ids, self.ids)
        rows = np.searchsorted(items.ids, self.ids[places])
        alike = (self.items.codes[places] == items.codes[rows]).all(axis=1)
        same[rows[alike]] = True
        if not same.any():
            return self, same
        labels = self.labels.copy()
        labels[places[alike]] = items.labels[same]
        return replace(self, labels=labels), same

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
        stored = self.items.codes
        if labels is not None:
            stored = stored[self._with(labels)]
        counts = np.zeros(len(codes), np.int64)
        step = max(1, CELLS // max(len(codes), 1))
        for start in range(0, len(stored), step):
            distances = all_distances(codes, stored[start : start + step])
            # Row by row: numpy counts what is true in a row many times as fast as along an axis.
            for query, row in enumerate(distances):
                counts[query] += np.count_nonzero(row <= radii[query])
        return counts

    def _with(self, labels: Collection[int]) -> NDArray[np.bool_]:
        return np.isin(self.labels, list(labels))

    def _selection(self, labels: Collection[int] | None) -> tuple[int, faiss.SearchParameters | None]:
        """How many items to rank, and how FAISS is told which."""
        if labels is None:
            return len(self), None
        mask = self._with(labels)
        # FAISS takes one bit an item here and keeps the array alive; its type stubs say otherwise
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))  # type: ignore[call-arg, arg-type]
        return int(mask.sum()), faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]


class State(NamedTuple):
    """All that an engine holds at one revision."""

    revision: int
    segments: tuple[Segment, ...]


def in_id_order(items: CodeTable, *, bits: int) -> CodeTable:
    """A copy of the items by ascending id. ValueError for what does not fit together, and for an id twice."""
    ids, codes = by_id(items.ids, items.codes, bits=bits)
    return CodeTable(ids, items.labels[np.argsort(items.ids, kind="stable")], codes)


def _changed(segments: tuple[Segment, ...], removed: Ids, items: CodeTable) -> tuple[Segment, ...]:
    """The segments without what was removed, with `items` in place of those of the same ids."""
    kept, new = list[Segment](), np.ones(len(items.ids), np.bool_)
    for segment in segments:
        segment, same = segment.relabelled(items)
        segment = segment.without(np.concatenate([removed, items.ids[~same]]))
        new &= ~same
        if len(segment):
            kept.append(segment)
    coming = items.rows(new)
    for start in range(0, len(coming.ids), LARGEST):
        kept = _appended(kept, coming.rows(slice(start, start + LARGEST)))
    return tuple(kept)


def _appended(segments: list[Segment], items: CodeTable) -> list[Segment]:
    """The segments with another one, merged with those before it that are no larger."""
    kept = segments.copy()
    while kept and len(kept[-1]) <= len(items.ids) <= LARGEST - len(kept[-1]):
        both = CodeTable.joined([kept.pop().items, items])
        items = both.rows(np.argsort(both.ids, kind="stable"))
    return [*kept, Segment.of(items)]
