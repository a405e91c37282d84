"""What a ranking engine must do."""

from collections.abc import Collection
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes
from index.items import Changes
from index.order import Distances, Ids
from index.snapshot import Part, Snapshot

Counts = NDArray[np.int64]


class Behind(LookupError):
    """The engine has not been brought to the revision that was asked for."""


class EngineError(ValueError):
    """The engine cannot be used; names the place, and the fault."""


class EngineAway(EngineError):
    """The program that ranks does not answer; the same may succeed later."""


class Engine(Protocol):
    """Ranks codes by Hamming distance, in this process or elsewhere. Many threads may use one at a time.

    It follows a catalogue, which stays the one source of truth: `apply` brings it from one revision to the
    next. Results are sorted by (distance, id), whatever the order of insertion, and ties at the cut go to the
    lowest ids. `labels` ranks only the items with one of these class indices (UNLABELLED is one too).
    `at_least` asks for this revision or a later one, and one answer is that of a single revision: what was
    removed until then is never found. Raises Behind where nobody has applied it.
    """

    bits: int

    @property
    def exact(self) -> bool:
        """Whether no nearer item is missed."""

    def __len__(self) -> int:
        """How many items there are."""

    @property
    def revision(self) -> int:
        """Until which its items follow the catalogue; negative: nothing was applied."""

    @property
    def snapshot(self) -> Snapshot[Part]:
        """The ids and labels of its items at `revision`. An engine that keeps them elsewhere keeps them here
        too, 12 bytes an item: each answer names labels."""

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

    def close(self) -> None:
        """Let go of what it uses of others."""


def check_bits(bits: int) -> None:
    """ValueError unless so many bits are whole bytes."""
    if bits < 8 or bits % 8:
        raise ValueError(f"bits is {bits}; wanted a positive multiple of 8")


def check_count(k: int) -> None:
    """ValueError where nothing is asked for."""
    if k < 1:
        raise ValueError(f"k is {k}; wanted at least 1")


def check_radius(radius: int) -> None:
    """ValueError for what is no distance."""
    if radius < 0:
        raise ValueError(f"radius is {radius}; wanted at least 0")


def check_radii(radii: Distances, codes: Codes) -> None:
    """ValueError unless there is one for each of the codes."""
    if np.shape(radii) != (len(codes),):
        raise ValueError(f"radii have shape {np.shape(radii)}; wanted one for each of {len(codes)} codes")


def check_revision(revision: int, at_least: int) -> None:
    """Raises Behind."""
    if revision < at_least:
        raise Behind(f"the engine is at revision {revision}, {at_least} was asked for")
