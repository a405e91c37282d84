"""What a ranking engine must do, and the checks and orders that all engines share."""

from collections.abc import Collection
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, check_codes
from index.items import Changes

Distances = NDArray[np.int32]
Ids = NDArray[np.int64]
Counts = NDArray[np.int64]


class Behind(LookupError):
    """The engine has not been brought to the revision that was asked for."""


class Engine(Protocol):
    """Ranks codes by Hamming distance, in this process or elsewhere. Many threads may use one at a time.

    It follows a catalogue, which stays the one source of truth: `apply` brings it from one revision to the
    next. Results are sorted by (distance, id), whatever the order of insertion, and ties at the cut go to the
    lowest ids. `labels` ranks only the items with one of these class indices (UNLABELLED is one too).
    `at_least` asks for this revision or a later one, and one answer is that of a single revision: what was
    removed until then is never found. Raises Behind where nobody has applied it.
    """

    bits: int
    exact: bool  # whether no nearer item is ever missed

    def __len__(self) -> int:
        """How many items there are."""

    @property
    def revision(self) -> int:
        """Until which its items follow the catalogue; negative: nothing was applied."""

    def apply(self, changes: Changes) -> None:
        """Be as the catalogue at `changes.revision`: forget what was removed, and store each item of the
        table, in place of what has its id. Changes may be applied again, and older ones do nothing.
        ValueError, and no change, for codes of another length and for an id twice."""

    def search(
        self, codes: Codes, k: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> tuple[Distances, Ids]:
        """The k' = min(k, items to rank) nearest of each code (q, bits/8): distances, ids, both (q, k')."""

    def range_search(
        self, codes: Codes, radius: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> list[tuple[Distances, Ids]]:
        """All items at distance <= radius, one (distances, ids) for each code."""

    def count(
        self, codes: Codes, radii: Distances, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> Counts:
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
