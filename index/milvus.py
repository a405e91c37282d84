"""A ranker that is a collection of Milvus, an engine for billions of vectors on many machines.

Milvus has no transactions and no order among items at one distance, and what it was told is not at once what
it finds. What is promised all the same rests on three things:

- How far the collection follows the catalogue is noted in it: in a partition of its own, in which each row
  stands for a revision that was begun or done. So there is one note for all processes.
- Each search names a time that the server must have reached (consistency `Session`): that of the last row
  that this process stored. `write` ends with such a row, its note, and so it begins, which is all where
  another process has written the same before: times are given by one clock, so each search that begins
  afterwards sees what was stored and removed before it. The first one waits for the server's next tick, which
  comes each 200 ms; those that follow wait for nothing. Without the note a removal would not count: Milvus
  2.3 tells no time of removals. (`Strong` waits for a tick at each search; `Bounded` finds what was removed
  seconds ago.)
- It is asked for more than is wanted until ties are settled (see `index.halving`).
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np

from index.codes import Codes
from index.engine import Counts, EngineAway, EngineError, check_bits
from index.halving import Found, Span, count, nearest, within
from index.items import Changes, CodeTable
from index.milvus_server import ANSWER, CELLS, FLAT, Address, Server
from index.order import Distances, Ids
from index.remote import PATIENCE, Emptied

METRIC = "HAMMING"
ITEMS, NOTES = "items", "notes"  # partitions
ID, LABEL, CODE = "id", "label", "code"  # fields
FOLLOWS = "codes of hebbsearch, encoder "  # what a collection of ours is described by
MOST = 16_384  # items that Milvus names at a time (its limit of topk)
QUERIES = 16  # codes in one question: a second or two for a million items that are not indexed yet
STORED = 2**16  # bytes of codes that are stored at a time: pymilvus copies all of them again for each row
REMOVED = 10_000  # ids that are removed at a time
CODES = 64  # that are counted at a time
CATCH_UP = 600  # seconds until it has taken in what it was told, where millions came: 30 were too few
LOAD = 60  # seconds in which a collection is loaded


class MilvusRanker:
    """See `index.remote.Ranker`. The URL is milvus+http://host:19530/name, also milvus+https, with user and
    password, or a token, before the host. `?index=BIN_IVF_FLAT&nlist=1024&nprobe=32` looks into cells and is
    not exact.

    The collection is made where there is none. EngineError where it is of other codes or another encoder.
    """

    def __init__(self, url: str, *, bits: int, encoder_id: str) -> None:
        check_bits(bits)
        self._address = Address.of(url)
        self.bits = bits
        self._server = Server(self._address)
        self._writing = threading.Lock()
        # Whether something of this process may have come late, over what another one wrote since.
        self._late = False
        self._description = FOLLOWS + encoder_id
        try:
            self._open(self._description)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        return self._address.shown

    @property
    def exact(self) -> bool:
        return self._address.index == FLAT

    def revision(self) -> int:
        """As `Ranker`; searches that follow see all that was there."""
        with self._writing:
            self._note(_begun(-1))
            return self._noted().done

    def write(self, changes: Changes, since: int, *, patience: float) -> None:
        """As `Ranker`: nobody waits for another process, and with `patience` the server is given time to take
        in very many codes. Others may write the same, or go on meanwhile: one that ends up behind them writes
        what follows too, so that what it overwrote is as it was."""
        timeout = CATCH_UP if patience >= PATIENCE else ANSWER
        with self._writing:
            self._note(_begun(changes.revision))
            done = self._noted(timeout).done
            if changes.revision <= done and not self._late:
                return
            if done < since:
                raise Emptied(f"{self.name}: is at revision {done:,} again, and is filled anew")
            self._late = True
            gone = np.setdiff1d(changes.removed, changes.table.ids).tolist()
            for start in range(0, len(gone), REMOVED):
                self._remove(gone[start : start + REMOVED])
            self._store(changes.table)
            self._note(_done(changes.revision))
            noted = self._noted(timeout)
            self._late = max(noted.begun, noted.done) > changes.revision
            old = [row for row in noted.rows if row > _begun(changes.revision)]
            if old:
                self._remove(old)

    def nearest(self, codes: Codes, k: int, labels: Collection[int] | None) -> tuple[Distances, Ids]:
        """As `Ranker`."""
        found = [] if _nothing(labels) else nearest(self._asking(labels), codes, k, MOST)
        # Of one length, but where another process changed something in between.
        width = min((len(ids) for _, ids in found), default=0)
        distances, ids = np.empty((len(codes), width), np.int32), np.empty((len(codes), width), np.int64)
        for row, each in enumerate(found):
            distances[row], ids[row] = (part[:width] for part in each)
        return distances, ids

    def within(self, codes: Codes, radius: int, labels: Collection[int] | None) -> list[Found]:
        """As `Ranker`."""
        if _nothing(labels):
            return [(np.empty(0, np.int32), np.empty(0, np.int64)) for _ in codes]
        return within(self._asking(labels), codes, radius, MOST)

    def count(self, codes: Codes, radii: Distances, labels: Collection[int] | None) -> Counts:
        """As `Ranker`."""
        counts = np.zeros(len(codes), np.int64)
        for start in range(0, 0 if _nothing(labels) else len(codes), CODES):
            part = slice(start, start + CODES)
            counts[part] = count(self._asking(labels), codes[part], radii[part], MOST)
        return counts

    def clear(self) -> None:
        """As `Ranker`."""
        with self._writing:
            self.drop()
            self._open(self._description)

    def close(self) -> None:
        """As `Ranker`."""
        self._server.close()

    def drop(self) -> None:
        """Remove the collection with all that is in it, for all processes."""
        self._ask(lambda client: client.drop_collection(self._address.collection, timeout=ANSWER))

    # --- the collection ---

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        return self._server.ask(question)

    def _open(self, description: str) -> None:
        """It exists, is what is wanted, and is loaded. What broke off when it was made is completed."""
        name = self._address.collection
        if not self._exists():
            try:
                self._make(description)
            except EngineAway:
                raise
            except EngineError:  # another process made it first, of whatever kind
                if not self._exists():
                    raise
        found = self._ask(lambda client: client.describe_collection(name, timeout=ANSWER))
        self._check(found, description)
        for partition in (ITEMS, NOTES):
            self._complete(partition)
        self._index()
        self._ask(lambda client: client.load_collection(name, timeout=LOAD))

    def _exists(self) -> bool:
        name = self._address.collection
        return bool(self._ask(lambda client: client.has_collection(name, timeout=ANSWER)))

    def _make(self, description: str) -> None:
        def make(client: Any) -> None:
            from pymilvus import DataType

            schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
            schema.add_field(ID, DataType.INT64, is_primary=True)
            schema.add_field(LABEL, DataType.INT64)
            schema.add_field(CODE, DataType.BINARY_VECTOR, dim=self.bits)
            client.create_collection(self._address.collection, schema=schema, timeout=ANSWER)

        self._ask(make)

    def _complete(self, partition: str) -> None:
        name = self._address.collection
        if not self._ask(lambda client: client.has_partition(name, partition, timeout=ANSWER)):
            self._ask(lambda client: client.create_partition(name, partition, timeout=ANSWER))

    def _check(self, found: dict[str, Any], description: str) -> None:
        """Raises EngineError unless it is a collection of these codes."""
        fields = {each["name"]: (each["type"].name, each["params"].get("dim")) for each in found["fields"]}
        kinds = {name: kind for name, (kind, _) in fields.items()}
        theirs = str(found["description"])
        if kinds != {ID: "INT64", LABEL: "INT64", CODE: "BINARY_VECTOR"} or not theirs.startswith(FOLLOWS):
            raise EngineError(f"{self.name}: is no collection of hebbsearch; name another one")
        bits = int(fields[CODE][1])
        if bits != self.bits:
            raise EngineError(
                f"{self.name}: has codes of {bits} bits, and the catalogue of {self.bits}; "
                "name another collection"
            )
        if theirs != description:
            raise EngineError(
                f"{self.name}: is of encoder {theirs.removeprefix(FOLLOWS)}, and the catalogue of "
                f"{description.removeprefix(FOLLOWS)}; name another collection"
            )

    def _index(self) -> None:
        """The index is there. EngineError where it is another one."""
        name, address = self._address.collection, self._address
        there = self._ask(lambda client: client.list_indexes(name, field_name=CODE, timeout=ANSWER))
        if not there:

            def make(client: Any) -> None:
                wanted = client.prepare_index_params()
                params = {"nlist": address.nlist} if address.index == CELLS else {}
                wanted.add_index(
                    CODE, index_type=address.index, index_name=CODE, metric_type=METRIC, params=params
                )
                client.create_index(name, wanted, timeout=ANSWER)

            self._ask(make)
        called = there[0] if there else CODE
        found = self._ask(lambda client: client.describe_index(name, called, timeout=ANSWER)) or {}
        kind, metric = found.get("index_type"), found.get("metric_type")
        if (kind, metric) != (address.index, METRIC):
            raise EngineError(
                f"{self.name}: its index is {kind} by {metric}, wanted {address.index} by {METRIC}; "
                "say so in the URL, as in ?index=BIN_IVF_FLAT, or name another collection"
            )

    # --- what is in it ---

    def _store(self, table: CodeTable) -> None:
        step = max(1, STORED // table.codes.shape[1])
        for start in range(0, len(table.ids), step):
            part = slice(start, start + step)
            self._upsert(ITEMS, zip(table.ids[part], table.labels[part], table.codes[part], strict=True))

    def _upsert(self, partition: str, rows: Iterable[tuple[Any, Any, Any]]) -> None:
        data = [{ID: int(id_), LABEL: int(label), CODE: bytes(code)} for id_, label, code in rows]
        self._ask(
            lambda client: client.upsert(
                self._address.collection, data, partition_name=partition, timeout=ANSWER
            )
        )

    def _remove(self, ids: Collection[int]) -> None:
        """Of items or notes: no two have the same."""
        self._ask(
            lambda client: client.delete(
                self._address.collection, filter=f"{ID} in {list(ids)}", timeout=ANSWER
            )
        )

    def _note(self, row: int) -> None:
        self._upsert(NOTES, [(row, 0, bytes(self.bits // 8))])

    def _noted(self, timeout: int = ANSWER) -> "Noted":
        """All notes until the last one of this process, and maybe some of others."""
        found = self._ask(
            lambda client: client.query(
                self._address.collection,
                filter=f"{ID} < 0",
                output_fields=[ID],
                partition_names=[NOTES],
                consistency_level="Session",
                timeout=timeout,
            )
        )
        return Noted(int(each[ID]) for each in found)

    def _asking(self, labels: Collection[int] | None) -> "Asking":
        return Asking(self._server, labels)


def _begun(revision: int) -> int:
    """The id of the note that it was begun: items have none below 0."""
    return -3 - 2 * revision


def _done(revision: int) -> int:
    """That it was done."""
    return -4 - 2 * revision


class Noted:
    """What the rows among the notes say: which revisions were begun and done, the last of each; -1: none."""

    def __init__(self, rows: Iterable[int]) -> None:
        self.rows = sorted(rows)
        self.begun = max(((-3 - row) // 2 for row in self.rows if row % 2), default=-1)
        self.done = max(((-4 - row) // 2 for row in self.rows if not row % 2), default=-1)


class Asking:
    """As `index.halving.Ask`, of the items with one of the labels."""

    def __init__(self, server: Server, labels: Collection[int] | None) -> None:
        self._server = server
        self._wanted = [] if labels is None else [f"{LABEL} in {sorted(map(int, set(labels)))}"]

    def __call__(self, codes: Codes, limit: int, span: Span) -> list[Found]:
        address, found = self._server.address, list[Found]()
        for start in range(0, len(codes), QUERIES):
            part = codes[start : start + QUERIES]
            if address.index == FLAT:
                found += self._found(part, limit, span, {})
                continue
            some = list(self._found(part, limit, span, {"nprobe": address.nprobe}))
            short = [row for row, (_, ids) in enumerate(some) if len(ids) < limit]
            if short:  # the cells had too few; that there are no more only all of them can tell
                more = self._found(part[short], limit, span, {"nprobe": address.nlist})
                for row, each in zip(short, more, strict=True):
                    some[row] = each
            found += some
        return found

    def _found(self, codes: Codes, limit: int, span: Span, params: dict[str, int]) -> Iterator[Found]:
        bounds = [(">=", span.low), ("<", span.high)]
        wanted = [*self._wanted, *(f"{ID} {sign} {end}" for sign, end in bounds if end is not None)]
        answer = self._server.ask(
            lambda client: client.search(
                self._server.address.collection,
                data=[bytes(code) for code in codes],
                filter=" and ".join(wanted),
                limit=limit,
                search_params={"metric_type": METRIC, "params": params},
                partition_names=[ITEMS],
                anns_field=CODE,
                consistency_level="Session",
                timeout=ANSWER,
            )
        )
        for hits in answer:
            distances = np.fromiter((hit["distance"] for hit in hits), np.float64, len(hits))
            yield distances.astype(np.int32), np.fromiter((hit[ID] for hit in hits), np.int64, len(hits))


def _nothing(labels: Collection[int] | None) -> bool:
    return labels is not None and not labels
