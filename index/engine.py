"""What a ranking engine must do, and the checks and orders that all engines share."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, check_codes

Distances = NDArray[np.int32]
Ids = NDArray[np.int64]
Counts = NDArray[np.int64]


class Engine(Protocol):
    """What ranks codes. Concurrent reads are safe; a change needs all others shut out.

    Results are sorted by (distance, id), whatever the order of insertion, and ties at the cut go
    to the lowest ids. `allowed` ranks among these ids only; ids that are not stored are ignored.
    """

    bits: int
    exact: bool

    def __len__(self) -> int: ...

    def add(self, ids: Ids, codes: Codes) -> None:
        """Store codes (n, bits/8) under ids (n,). ValueError, and no change, for an id twice."""

    def remove(self, ids: Ids) -> int:
        """Forget these ids; the number that were stored."""

    def search(self, codes: Codes, k: int, *, allowed: Ids | None = None) -> tuple[Distances, Ids]:
        """The k' = min(k, items to rank) nearest of each code: distances and ids, both (q, k')."""

    def range_search(
        self, codes: Codes, radius: int, *, allowed: Ids | None = None
    ) -> list[tuple[Distances, Ids]]:
        """All items at distance <= radius, one (distances, ids) for each code."""

    def count(self, codes: Codes, radii: Distances, *, allowed: Ids | None = None) -> Counts:
        """How many items lie at distance <= its radius (q,) of each code: (q,)."""


def check_ids(ids: Ids) -> Ids:
    """Ids (n,) as a copy in 64 bits. ValueError for what are none."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(f"ids have type {ids.dtype} and shape {ids.shape}; wanted integers (n,)")
    return ids.astype(np.int64)


def by_id(ids: Ids, codes: Codes, *, bits: int) -> tuple[Ids, Codes]:
    """Ids in order, with their codes. ValueError for what does not fit together, and for an id twice."""
    ids, codes = check_ids(ids), check_codes(codes, bits=bits)
    if len(ids) != len(codes):
        raise ValueError(f"{len(ids)} ids for {len(codes)} codes")
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise ValueError(f"id {twice[0]} is given twice")
    return ids, codes[order]


def places_of(wanted: Ids, ids: Ids) -> NDArray[np.intp]:
    """Where in `ids`, which are in order, those of `wanted` are that are there."""
    places = np.searchsorted(ids, wanted)
    inside = places < len(ids)
    places, wanted = places[inside], wanted[inside]
    there: NDArray[np.intp] = places[ids[places] == wanted]
    return there


def in_order(distances: Distances, ids: Ids) -> tuple[Distances, Ids]:
    """Both sorted by (distance, id)."""
    order = np.lexsort((ids, distances))
    return distances[order], ids[order]
