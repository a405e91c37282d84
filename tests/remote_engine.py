"""An engine on another machine, as far as a socket and a thread of its own can play one.

It has no FAISS and no memory of this process: it hears of changes some time after they were sent, filters by
label itself, and answers once it is at the revision that was asked for.
"""

import threading
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import numpy as np

from index.codes import Codes, check_codes, hamming
from index.engine import Behind, Counts
from index.items import Changes
from index.order import Distances, Ids, by_id, check_ids
from index.snapshot import Part, Snapshot


@dataclass
class Server:
    """The other machine."""

    connection: Connection
    items: dict[int, tuple[int, bytes]] = field(default_factory=dict)  # labels and codes by id
    revision: int = -1
    sent: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def serve(self) -> None:
        """Answer until the other side hangs up."""
        threading.Thread(target=self.follow, daemon=True).start()
        with self.connection:
            while True:
                try:
                    what, *values = self.connection.recv()
                except EOFError:
                    return self.sent.put(None)
                if what == "apply":
                    self.sent.put(values)  # what is sent arrives later
                self.connection.send(None if what == "apply" else self.ranked(*values))

    def follow(self) -> None:
        """Apply what is sent, in its order."""
        while (change := self.sent.get()) is not None:
            revision, removed, rows = change
            with self.changed:
                if revision > self.revision:
                    for id_ in removed:
                        self.items.pop(id_, None)
                    self.items |= {id_: (label, code) for id_, label, code in rows}
                    self.revision = revision
                    self.changed.notify_all()

    def ranked(self, codes: Codes, labels: list[int] | None, at_least: int) -> list[list[tuple[int, int]]]:
        """For each code all (distance, id), sorted."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.revision >= at_least, timeout=60)
            held = [
                (id_, code) for id_, (label, code) in self.items.items() if labels is None or label in labels
            ]
        ids, stored = [id_ for id_, _ in held], b"".join(code for _, code in held)
        database = np.frombuffer(stored, np.uint8).reshape(-1, codes.shape[1])
        return [sorted(zip(row, ids, strict=True)) for row in hamming(codes, database).tolist()]


class RemoteEngine:
    """What talks to it: an `index.engine.Engine`."""

    exact = True

    def __init__(self, bits: int) -> None:
        if bits < 8 or bits % 8:
            raise ValueError(f"bits is {bits}; wanted a positive multiple of 8")
        self.bits, self.snapshot = bits, Snapshot.empty(Part)
        self._connection, theirs = Pipe()
        self._asking = threading.Lock()
        threading.Thread(target=Server(theirs).serve, daemon=True).start()

    def __len__(self) -> int:
        return len(self._ranked(np.zeros((1, self.bits // 8), np.uint8), None, self.revision)[0])

    @property
    def revision(self) -> int:
        return self.snapshot.revision

    def apply(self, changes: Changes) -> None:
        table, removed = by_id(changes.table, bits=self.bits), check_ids(changes.removed)
        rows = zip(table.ids.tolist(), table.labels.tolist(), map(bytes, table.codes), strict=True)
        self._ask("apply", changes.revision, removed.tolist(), list(rows))
        if changes.revision > self.revision:
            self.snapshot = self.snapshot.after(replace(changes, table=table, removed=removed))

    def search(
        self, codes: Codes, k: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> tuple[Distances, Ids]:
        if k < 1:
            raise ValueError(f"k is {k}; wanted at least 1")
        ranked = [rows[:k] for rows in self._ranked(codes, labels, at_least)]
        width = max(map(len, ranked), default=0)
        found = np.array(ranked, np.int64).reshape(len(codes), width, 2)
        return found[..., 0].astype(np.int32), found[..., 1]

    def range_search(
        self, codes: Codes, radius: int, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> list[tuple[Distances, Ids]]:
        if radius < 0:
            raise ValueError(f"radius is {radius}; wanted at least 0")
        within = (
            np.array([row for row in rows if row[0] <= radius], np.int64).reshape(-1, 2)
            for rows in self._ranked(codes, labels, at_least)
        )
        return [(rows[:, 0].astype(np.int32), rows[:, 1]) for rows in within]

    def count(
        self, codes: Codes, radii: Distances, *, labels: Collection[int] | None = None, at_least: int = 0
    ) -> Counts:
        if np.shape(radii) != (len(codes),):
            raise ValueError(f"radii have shape {np.shape(radii)}; wanted one for each of {len(codes)} codes")
        ranked = self._ranked(codes, labels, at_least)
        near = (sum(row[0] <= radius for row in rows) for rows, radius in zip(ranked, radii, strict=True))
        return np.array(list(near), np.int64)

    def close(self) -> None:
        self._connection.close()

    def _ranked(
        self, codes: Codes, labels: Collection[int] | None, at_least: int
    ) -> list[list[tuple[int, int]]]:
        if self.revision < at_least:
            raise Behind(f"the engine is at revision {self.revision}, {at_least} was asked for")
        wanted = None if labels is None else list(labels)
        answer: list[list[tuple[int, int]]] = self._ask(
            "rank", check_codes(codes, bits=self.bits), wanted, at_least
        )
        return answer

    def _ask(self, *request: Any) -> Any:
        with self._asking:
            self._connection.send(request)
            return self._connection.recv()
