"""The engine that changes while it is searched: exhaustive, exact, in segments that never change."""

from typing import Self

import numpy as np

from index.codes import Codes
from index.engine import Counts, Distances, Ids, by_id, check_ids, in_order, places_of
from index.hamming import FlatEngine

LARGEST = 2**18  # codes in a segment, 8 MB of 256 bits: what a removal copies


class SegmentedEngine:
    """Segments, each a FlatEngine that is never changed but replaced.

    An addition merges with the segments before it that are no larger, so that their number grows with the
    logarithm of the items (and, since LARGEST bounds them, slowly with the items themselves); a removal
    replaces the segments it concerns. `copy` therefore costs nothing: who searches keeps the engine as it
    was while its copy changes, and nobody waits. One engine must not be changed and searched at a time.

    Growing by segments of doubling size: the logarithmic method of Bentley and Saxe, J. Algorithms 1980.
    """

    exact = True

    def __init__(self, bits: int) -> None:
        self.bits = FlatEngine(bits).bits  # which checks them
        self._segments: tuple[FlatEngine, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    def copy(self) -> Self:
        """An engine with the same items, which later changes of either do not touch."""
        other = type(self)(self.bits)
        other._segments = self._segments
        return other

    def items(self) -> tuple[Ids, Codes]:
        """Ids (n,), ascending, and codes (n, bits/8)."""
        parts = [segment.items() for segment in self._segments]
        parts.append((np.empty(0, np.int64), np.empty((0, self.bits // 8), np.uint8)))
        ids, codes = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.argsort(ids, kind="stable")
        return ids[order], codes[order]

    def add(self, ids: Ids, codes: Codes) -> None:
        ids, codes = by_id(ids, codes, bits=self.bits)
        for segment in self._segments:
            segment.refuse_stored(ids)
        for start in range(0, len(ids), LARGEST):
            self._append(ids[start : start + LARGEST], codes[start : start + LARGEST])

    def _append(self, ids: Ids, codes: Codes) -> None:
        kept = list(self._segments)
        while kept and len(kept[-1]) <= len(ids) <= LARGEST - len(kept[-1]):
            more_ids, more_codes = kept.pop().items()
            ids, codes = np.concatenate([more_ids, ids]), np.concatenate([more_codes, codes])
        self._segments = (*kept, self._segment(ids, codes))

    def _segment(self, ids: Ids, codes: Codes) -> FlatEngine:
        segment = FlatEngine(self.bits)
        segment.add(ids, codes)
        return segment

    def remove(self, ids: Ids) -> int:
        leaving, before = check_ids(ids), len(self)
        segments = (self._without(segment, leaving) for segment in self._segments)
        self._segments = tuple(segment for segment in segments if len(segment))
        return before - len(self)

    def _without(self, segment: FlatEngine, leaving: Ids) -> FlatEngine:
        ids, codes = segment.items()
        places = places_of(leaving, ids)
        return (
            self._segment(np.delete(ids, places), np.delete(codes, places, axis=0))
            if len(places)
            else segment
        )

    def search(self, codes: Codes, k: int, *, allowed: Ids | None = None) -> tuple[Distances, Ids]:
        if len(self._segments) == 1:
            return self._segments[0].search(codes, k, allowed=allowed)
        empty = FlatEngine(self.bits).search(codes, k)  # checks what it is given
        found = [segment.search(codes, k, allowed=allowed) for segment in self._segments]
        distances, ids = (np.concatenate(each, axis=1) for each in zip(empty, *found, strict=True))
        nearest = np.lexsort((ids, distances), axis=1)[:, :k]
        return np.take_along_axis(distances, nearest, 1), np.take_along_axis(ids, nearest, 1)

    def range_search(
        self, codes: Codes, radius: int, *, allowed: Ids | None = None
    ) -> list[tuple[Distances, Ids]]:
        empty = FlatEngine(self.bits).range_search(codes, radius)
        found = [segment.range_search(codes, radius, allowed=allowed) for segment in self._segments]
        return [
            in_order(*(np.concatenate(each) for each in zip(*answers, strict=True)))
            for answers in zip(empty, *found, strict=True)
        ]

    def count(self, codes: Codes, radii: Distances, *, allowed: Ids | None = None) -> Counts:
        counts = FlatEngine(self.bits).count(codes, radii)
        for segment in self._segments:
            counts += segment.count(codes, radii, allowed=allowed)
        return counts
