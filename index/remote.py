"""An engine whose codes another program keeps, on this machine or on others."""

import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, check_codes
from index.engine import (
    Counts,
    EngineError,
    check_bits,
    check_count,
    check_radii,
    check_radius,
    check_revision,
)
from index.items import Changes
from index.order import Distances, Ids, by_id, check_ids
from index.snapshot import Part, Snapshot

T = TypeVar("T")
PATIENCE = 60.0  # seconds that the first changes, which may be all that there is, wait for others who write
SHORT = 1.0  # and later ones, for which searches wait
TRIES = 3  # searches that a change of this process may come between, before changes wait for one


class Emptied(EngineError):
    """The ranker lacks what it had: somebody fills it again, from the first change on."""


class Ranker(Protocol):
    """The other program: it keeps codes with their ids and labels, ranks them, and remembers how far it got.

    Many threads may use one at a time, and many processes the same codes. What does not answer raises
    EngineAway, what it refuses EngineError.
    """

    @property
    def name(self) -> str:
        """By which messages name the place."""

    @property
    def bits(self) -> int:
        """Of each code."""

    @property
    def exact(self) -> bool:
        """As of `Engine`."""

    def revision(self) -> int:
        """Until which the catalogue's changes are there, whoever wrote them; -1: none are."""

    def write(self, changes: Changes, since: int, *, patience: float) -> None:
        """Bring it from revision `since`, after which the changes are, to `changes.revision`, which is noted
        last: what broke off is written again. Each search that begins afterwards, of whatever process, finds
        what was written and nothing that was removed. What is older than what is there does nothing.
        Emptied where it is at an earlier revision than `since`. `patience`: seconds that it may wait for
        others who write."""

    def clear(self) -> None:
        """Let nothing be there, as before the first change."""

    def nearest(self, codes: Codes, k: int, labels: Collection[int] | None) -> tuple[Distances, Ids]:
        """As `Engine.search`, of all that is there."""

    def within(
        self, codes: Codes, radius: int, labels: Collection[int] | None
    ) -> list[tuple[Distances, Ids]]:
        """As `Engine.range_search`."""

    def count(self, codes: Codes, radii: Distances, labels: Collection[int] | None) -> Counts:
        """As `Engine.count`."""

    def close(self) -> None:
        """Let go of it."""


class RemoteEngine:
    """What asks it (see `Engine`).

    Ids and labels are kept here too. They decide: what a ranker still has though it was removed is not
    found, nor what another process has brought there since. So an answer is of one revision, unless another
    process changes the same codes meanwhile: of what that one changes it may know either state.

    While the ranker cannot be written to, it is `behind`, and what it has is searched.
    """

    def __init__(self, ranker: Ranker) -> None:
        check_bits(ranker.bits)
        self.bits = ranker.bits
        self.behind = 0  # changes that the ranker lacks
        self._ranker = ranker
        self._kept = ranker.revision()
        self._snapshot = Snapshot.empty(Part)
        self._applying = threading.Lock()

    def __len__(self) -> int:
        return len(self._snapshot)

    @property
    def exact(self) -> bool:
        return self._ranker.exact

    @property
    def revision(self) -> int:
        return min(self._kept, self._snapshot.revision)

    @property
    def snapshot(self) -> Snapshot[Part]:
        return self._snapshot

    def apply(self, changes: Changes) -> None:
        """As `Engine`. The first ones are all that there is: a ranker that has codes takes of it only what
        comes next, as changes since its own revision. EngineAway where it cannot take them."""
        changes = replace(
            changes, table=by_id(changes.table, bits=self.bits), removed=check_ids(changes.removed)
        )
        with self._applying:
            first = self._snapshot.revision < 0
            if changes.revision > self._snapshot.revision:
                self._snapshot = self._snapshot.after(changes)
            if changes.revision > self._kept and not (first and self._kept >= 0):
                self.behind = len(changes.table.ids) + len(changes.removed)
                self._write(changes, PATIENCE if first else SHORT)

    def search(
        self, codes: Codes, k: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> tuple[Distances, Ids]:
        codes = check_codes(codes, bits=self.bits)
        check_count(k)
        return self._at_once(at_least, lambda now: self._nearest(now, codes, k, labels))

    def range_search(
        self, codes: Codes, radius: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> list[tuple[Distances, Ids]]:
        codes = check_codes(codes, bits=self.bits)
        check_radius(radius)
        return self._at_once(at_least, lambda now: self._within(now, codes, radius, labels))

    def count(
        self, codes: Codes, radii: Distances, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> Counts:
        codes = check_codes(codes, bits=self.bits)
        check_radii(radii, codes)

        def count(now: Snapshot[Part]) -> Counts:
            if self._kept == now.revision:
                return self._ranker.count(codes, radii, labels)
            found = self._within(now, codes, max(0, int(radii.max(initial=0))), labels)
            near = (np.count_nonzero(each <= radius) for (each, _), radius in zip(found, radii, strict=True))
            return np.fromiter(near, np.int64, len(codes))

        return self._at_once(at_least, count)

    def check_follows(self, revision: int) -> None:
        """EngineError where the ranker cannot have followed a catalogue that is at this revision, or was
        later than its codes were asked for."""
        check_follows(self._ranker, self._kept, revision)

    def close(self) -> None:
        """Let go of the ranker."""
        self._ranker.close()

    def _write(self, changes: Changes, patience: float) -> None:
        try:
            self._ranker.write(changes, self._kept, patience=patience)
        except Emptied:
            self._kept = self._ranker.revision()
            raise
        self._kept, self.behind = changes.revision, 0

    def _at_once(self, at_least: int, ask: Callable[[Snapshot[Part]], T]) -> T:
        """What `ask` answers while this process changes nothing. Raises Behind."""
        for _ in range(TRIES):
            snapshot = self._snapshot
            check_revision(self.revision, at_least)
            answer = ask(snapshot)
            if self._snapshot is snapshot:
                return answer
        with self._applying:
            return ask(self._snapshot)

    def _nearest(
        self, now: Snapshot[Part], codes: Codes, k: int, labels: Collection[int] | None
    ) -> tuple[Distances, Ids]:
        asked = k
        while True:
            distances, ids = self._ranker.nearest(codes, asked, labels)
            good = _good(now, ids, labels)
            kept = int(good.sum(axis=1).min()) if len(ids) else 0
            if good.all():
                return distances[:, :k], ids[:, :k]
            if kept >= k or ids.shape[1] < asked:
                break
            asked *= 2
        first = np.argsort(~good, axis=1, kind="stable")[:, : min(k, kept)]
        return np.take_along_axis(distances, first, 1), np.take_along_axis(ids, first, 1)

    def _within(
        self, now: Snapshot[Part], codes: Codes, radius: int, labels: Collection[int] | None
    ) -> list[tuple[Distances, Ids]]:
        found = self._ranker.within(codes, radius, labels)
        rows = ((distances, ids, _good(now, ids, labels)) for distances, ids in found)
        return [(distances[good], ids[good]) for distances, ids, good in rows]


def check_follows(ranker: Ranker, kept: int, catalogue: int) -> None:
    """EngineError where one that is at revision `kept` cannot have followed a catalogue at that revision."""
    if kept > catalogue:
        raise EngineError(
            f"{ranker.name}: has revision {kept:,} of a catalogue that is at {catalogue:,}: it followed "
            "another one, or this one was brought back from a copy; hebbsearch sync --anew fills it again"
        )


def _good(now: Snapshot[Part], ids: Ids, labels: Collection[int] | None) -> NDArray[np.bool_]:
    """Which of the ids, of whatever shape, are there and have one of the labels."""
    flat = ids.ravel()
    good = now.has_all(flat)
    if labels is not None:
        good[good] = np.isin(now.labels_of(flat[good]), list(labels))
    return good.reshape(ids.shape)
