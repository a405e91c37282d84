"""Ranking by Hamming distance: FAISS behind a small interface."""

import faiss
import numpy as np

from index.codes import Codes, check_codes
from index.engine import Counts, Distances, Ids, by_id, check_ids, in_order, places_of

CELLS = 2**20  # distances held at a time: 4 MB, about what a cache holds, however many codes there are


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


class FlatEngine:
    """Exhaustive search, exact.

    FAISS numbers codes by position and keeps the lowest positions among ties. Positions are
    therefore kept in the order of ids, which makes its tie rule ours.
    """

    exact = True

    def __init__(self, bits: int) -> None:
        if bits < 8 or bits % 8:
            raise ValueError(f"bits is {bits}; wanted a positive multiple of 8")
        self.bits = bits
        self._flat = faiss.IndexBinaryFlat(bits)
        self._ids: Ids = np.empty(0, dtype=np.int64)  # ascending; _ids[p] is the id at position p

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Ids, codes: Codes) -> None:
        ids, codes = by_id(ids, codes, bits=self.bits)
        self.refuse_stored(ids)
        if len(self._ids) and len(ids) and ids[0] < self._ids[-1]:
            stored = self._flat.reconstruct_n(0, len(self))
            codes = np.insert(stored, np.searchsorted(self._ids, ids), codes, axis=0)
            self._flat = faiss.IndexBinaryFlat(self.bits)
        self._flat.add(codes)
        self._ids = np.sort(np.concatenate([self._ids, ids]), kind="stable")

    def refuse_stored(self, ids: Ids) -> None:
        """ValueError if one of these ids is stored."""
        stored = places_of(ids, self._ids)
        if len(stored):
            raise ValueError(f"id {self._ids[stored[0]]} is already stored")

    def items(self) -> tuple[Ids, Codes]:
        """Ids (n,), ascending, and codes (n, bits/8): the engine's own memory, valid until it changes."""
        return self._ids, self._stored()

    def remove(self, ids: Ids) -> int:
        leaving = np.isin(self._ids, check_ids(ids))
        self._flat.remove_ids(np.flatnonzero(leaving))
        self._ids = self._ids[~leaving]
        return int(leaving.sum())

    def search(self, codes: Codes, k: int, *, allowed: Ids | None = None) -> tuple[Distances, Ids]:
        codes = check_codes(codes, bits=self.bits)
        if k < 1:
            raise ValueError(f"k is {k}; wanted at least 1")
        count, parameters = self._selection(allowed)
        k = min(k, count)
        if k == 0 or len(codes) == 0:
            return np.empty((len(codes), k), np.int32), np.empty((len(codes), k), np.int64)
        distances, positions = self._flat.search(codes, k, params=parameters)
        return distances, self._ids[positions]

    def range_search(
        self, codes: Codes, radius: int, *, allowed: Ids | None = None
    ) -> list[tuple[Distances, Ids]]:
        codes = check_codes(codes, bits=self.bits)
        if radius < 0:
            raise ValueError(f"radius is {radius}; wanted at least 0")
        count, parameters = self._selection(allowed)
        if count == 0 or len(codes) == 0:
            return [(np.empty(0, np.int32), np.empty(0, np.int64)) for _ in codes]
        limits, distances, positions = self._flat.range_search(
            codes,
            min(radius, self.bits) + 1,  # FAISS compares with <
            params=parameters,
        )
        return [
            in_order(distances[start:end].astype(np.int32), self._ids[positions[start:end]])
            for start, end in zip(limits[:-1].astype(int), limits[1:].astype(int), strict=True)
        ]

    def count(self, codes: Codes, radii: Distances, *, allowed: Ids | None = None) -> Counts:
        codes = check_codes(codes, bits=self.bits)
        if np.shape(radii) != (len(codes),):
            raise ValueError(f"radii have shape {np.shape(radii)}; wanted one for each of {len(codes)} codes")
        stored = self._stored()
        if allowed is not None:
            stored = stored[np.isin(self._ids, check_ids(allowed))]
        counts = np.zeros(len(codes), np.int64)
        step = max(1, CELLS // max(len(codes), 1))
        for start in range(0, len(stored), step):
            distances = all_distances(codes, stored[start : start + step])
            # Row by row: numpy counts what is true in a row many times as fast as along an axis.
            for query, row in enumerate(distances):
                counts[query] += np.count_nonzero(row <= radii[query])
        return counts

    def _stored(self) -> Codes:
        """All codes (n, bits/8): FAISS's own memory, not a copy; valid until the next change."""
        if not len(self):
            return np.empty((0, self.bits // 8), np.uint8)
        flat = faiss.rev_swig_ptr(self._flat.xb.data(), len(self) * self.bits // 8)  # type: ignore[attr-defined]
        return flat.reshape(len(self), -1)

    def _selection(self, allowed: Ids | None) -> tuple[int, faiss.SearchParameters | None]:
        """How many items to rank, and how FAISS is told which."""
        if allowed is None:
            return len(self), None
        mask = np.isin(self._ids, check_ids(allowed))
        # FAISS takes one bit an item here and keeps the array alive; its type stubs say otherwise
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))  # type: ignore[call-arg, arg-type]
        return int(mask.sum()), faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
