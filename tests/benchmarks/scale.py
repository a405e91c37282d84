"""What millions of codes take: bytes, building, one search, 64 together, recall; of all codes and by cells.

Not among the benchmarks of `python -m tests.benchmarks`: `make bench-scale CODES=ARTIFACT`. Each row is
measured in a process of its own and written when it is done; one that is there is not measured again. Codes
are uniform, or those of the artifact with bits flipped: of each code a share of its own, up to NOISE.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import NamedTuple, Protocol

import faiss
import numpy as np

from index import engines
from index.artifact import CATALOGUE
from index.catalogue import Catalogue
from index.codes import Codes
from index.hamming import FaissEngine
from index.items import Changes, CodeTable
from index.ivf import IvfEngine
from index.order import Distances, Ids
from index.postgres import PostgresRanker
from index.remote import PATIENCE, RemoteEngine
from tests import milvus, postgresql
from tests.benchmarks.harness import RESULTS, Spread, machine, memory

BITS = 256
NOISE = 0.1
TOGETHER = 64
K = 10
PART = 2**16  # codes that are made at a time
MILLIONS = (1, 10, 50)
LET_GO = 10.0  # seconds until Milvus looks no more at what it has closed as it was before
LEFT_FREE = 2**30  # bytes: a machine that swaps measures its disk


class Ranking(Protocol):
    """What is measured of an engine."""

    def apply(self, changes: Changes) -> None: ...

    def search(self, codes: Codes, k: int) -> tuple[Distances, Ids]: ...


class Bare:
    """FAISS alone, which knows no ids, no labels and no changes."""

    def __init__(self, bits: int) -> None:
        self._flat = faiss.IndexBinaryFlat(bits)

    def apply(self, changes: Changes) -> None:
        self._flat.add(changes.table.codes)

    def search(self, codes: Codes, k: int) -> tuple[Distances, Ids]:
        distances, ids = self._flat.search(codes, k)
        return distances, ids


class Usearch:
    """A graph of near codes (HNSW), as usearch makes it by default: fast, and inexact."""

    def __init__(self, bits: int) -> None:
        from usearch.index import Index

        self._index = Index(ndim=bits, metric="hamming", dtype="b1")

    def apply(self, changes: Changes) -> None:
        self._index.add(changes.table.ids.astype(np.uint64), changes.table.codes)

    def search(self, codes: Codes, k: int) -> tuple[Distances, Ids]:
        found = self._index.search(codes, k)
        shape = (len(codes), k)
        return found.distances.reshape(shape).astype(np.int32), found.keys.reshape(shape).astype(np.int64)


class OnServer(RemoteEngine):
    """Ranked by a server on this machine, which ends with it."""

    _ending: ExitStack

    def bytes(self) -> int:
        """What the codes take there."""
        raise NotImplementedError

    def close(self) -> None:
        super().close()
        self._ending.close()


class Postgres(OnServer):
    """A PostgreSQL on this machine, as Debian sets it up."""

    def __init__(self, bits: int) -> None:
        self._ending = ExitStack()
        self._url = self._ending.enter_context(postgresql.server()).new_schema()
        super().__init__(PostgresRanker(self._url, bits=bits, encoder_id="00ff"))

    def bytes(self) -> int:
        """On the disk."""
        ((size,),) = postgresql.execute(self._url, "SELECT pg_total_relation_size('ranked')::BIGINT")
        return int(size)


class Milvus(OnServer):
    """A Milvus on this machine, exact."""

    def __init__(self, bits: int) -> None:
        from index.milvus import MilvusRanker

        self._ending = ExitStack()
        server = self._ending.enter_context(milvus.server())
        self._place = server.new_collection()
        super().__init__(MilvusRanker(self._place, bits=bits, encoder_id="00ff"))
        self._process = server.pid
        self._before = memory(self._process).all

    def apply(self, changes: Changes) -> None:
        """Some at a time, as the service does it, for the server to keep up."""
        table, last = changes.table, -1
        for revision, at in enumerate(range(0, len(table.ids), engines.TOGETHER)):
            some = slice(at, at + engines.TOGETHER)
            part = CodeTable(table.ids[some], table.labels[some], table.codes[some])
            self._ranker.write(Changes(revision, part, changes.removed, ()), last, patience=PATIENCE)
            last = revision
        super().__init__(self._ranker)
        super().apply(replace(changes, revision=last))

    def settle(self) -> None:
        """Close and index what it has, as it does by itself within minutes: all is looked at without an index
        until then."""
        from pymilvus import MilvusClient

        from index.milvus import CODE
        from index.milvus_server import Address

        name = Address.of(self._place).collection
        connection = MilvusClient(self._place.removeprefix("milvus+").rpartition("/")[0])._get_connection()
        connection.flush([name], timeout=600)
        while True:  # nobody tells when it is
            progress = connection.get_index_build_progress(name, CODE, timeout=10)
            closed = connection.get_query_segment_info(name, timeout=10)
            if progress["indexed_rows"] == progress["total_rows"] <= sum(each.num_rows for each in closed):
                break
            time.sleep(1)
        time.sleep(LET_GO)

    def bytes(self) -> int:
        """In memory."""
        return memory(self._process).all - self._before


class Kind(NamedTuple):
    """What is known of an engine before it is measured."""

    make: Callable[[int], Ranking]
    most: int  # bytes a code, while it is built
    largest: int = 10**9  # codes that it is measured with


ENGINES: dict[str, Kind] = {
    "faiss": Kind(Bare, 80),
    "flat": Kind(FaissEngine, 100),
    "ivf": Kind(lambda bits: IvfEngine(bits, least=0), 250),
    "usearch": Kind(Usearch, 500, 10**6),
    "postgres": Kind(Postgres, 200, 10**6),
    "milvus": Kind(Milvus, 500, 10**7),
}


@dataclass(frozen=True)
class Measured:
    """A row."""

    engine: str
    codes: str
    items: int
    bytes_a_code: float
    build_seconds: float
    build_processor_seconds: float
    search_ms: Spread
    search_p99_ms: float
    search_processor_ms: float
    together_a_second: float
    together_processor_ms: float  # of each search
    recall_at_10: float
    cells: str  # searched / all
    load: float
    machine: dict[str, object]
    faiss: str


def measured(name: str, kind: str, count: int, artifact: Path | None, rounds: int) -> Measured:
    """One engine with so many codes of a kind."""
    rng = np.random.default_rng(0)
    some = None if artifact is None else codes_of(artifact)
    codes, queries = (made(kind, number, rng, some) for number in (count, TOGETHER + rounds))
    before = memory(os.getpid()).all
    engine = ENGINES[name].make(BITS)
    begin, used = time.perf_counter(), time.process_time()
    with closing(engine) if isinstance(engine, OnServer) else nullcontext():
        ids = np.arange(1, count + 1)
        engine.apply(Changes(0, CodeTable(ids, ids % 10, codes), ids[:0], ()))
        if isinstance(engine, IvfEngine | Milvus):
            engine.settle()
        build = time.perf_counter() - begin, time.process_time() - used
        del ids
        gc.collect()
        own = memory(os.getpid()).all - before
        held = engine.bytes() if isinstance(engine, OnServer) else own
        found = recall_at_10(engine, codes, queries[-TOGETHER:])
        del codes
        alone = [timed(engine, queries[row : row + 1]) for row in range(rounds)]
        together = [timed(engine, queries[-TOGETHER:]) for _ in range(max(3, rounds // 10))]
    milliseconds = [1e3 * seconds for seconds, _ in alone]
    recall = engine.recall if isinstance(engine, IvfEngine) else None
    return Measured(
        name,
        kind,
        count,
        bytes_a_code=held / count,
        build_seconds=build[0],
        build_processor_seconds=build[1],
        search_ms=Spread.of(milliseconds),
        search_p99_ms=float(np.percentile(milliseconds, 99)),
        search_processor_ms=1e3 * float(np.median([used for _, used in alone])),
        together_a_second=TOGETHER / float(np.median([seconds for seconds, _ in together])),
        together_processor_ms=1e3 * float(np.median([used for _, used in together])) / TOGETHER,
        recall_at_10=recall.at_10 if recall else found,
        cells=f"{recall.searched}/{recall.cells}" if recall else "",
        load=os.getloadavg()[0],
        machine=machine(),
        faiss=faiss.__version__,
    )


def recall_at_10(engine: Ranking, codes: Codes, queries: Codes) -> float:
    """The share of the ten nearest that are found, or others as near; IvfEngine measures its own."""
    if not isinstance(engine, Usearch):
        return 1.0
    exact = Bare(BITS)
    exact.apply(Changes(0, CodeTable(np.empty(0, np.int64), np.empty(0, np.int64), codes), np.empty(0), ()))
    farthest = exact.search(queries, K)[0][:, -1:]
    return float((engine.search(queries, K)[0] <= farthest).mean())


def timed(engine: Ranking, queries: Codes) -> tuple[float, float]:
    """Seconds, elapsed and of processors, of a search."""
    begin, used = time.perf_counter(), time.process_time()
    engine.search(queries, K)
    return time.perf_counter() - begin, time.process_time() - used


def codes_of(artifact: Path) -> Codes:
    """The codes of an artifact, of BITS bits."""
    with Catalogue.open(artifact / CATALOGUE) as catalogue:
        codes = catalogue.codes().codes
    if 8 * codes.shape[1] != BITS or not len(codes):
        raise SystemExit(f"{artifact}: has no codes of {BITS} bits; name another artifact")
    return codes


def made(kind: str, count: int, rng: np.random.Generator, some: Codes | None) -> Codes:
    """So many codes (count, BITS/8)."""
    codes = np.empty((count, BITS // 8), np.uint8)
    for start in range(0, count, PART):
        part = codes[start : start + PART]
        if kind == "uniform":
            part[:] = rng.integers(0, 256, part.shape, np.uint8)
            continue
        assert some is not None
        shares = NOISE * rng.random((len(part), 1), np.float32)
        flipped = np.packbits(rng.random((len(part), BITS), np.float32) < shares, axis=1)
        part[:] = some[rng.integers(0, len(some), len(part))] ^ flipped
    return codes


def rows(path: Path) -> Iterator[dict[str, object]]:
    """What was measured already."""
    with suppress(FileNotFoundError):
        yield from map(json.loads, path.read_text().splitlines())


def free_bytes() -> int:
    """Of memory, as Linux tells it."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def missing(
    path: Path, engines: Sequence[str], kinds: Sequence[str], items: Sequence[int]
) -> Iterator[list[str]]:
    """Engine, codes and items of the rows that are not there yet."""
    done = {(row["engine"], row["codes"], row["items"]) for row in rows(path)}
    for count, kind, name in product(items, kinds, engines):
        if (name, kind, count) not in done and count <= ENGINES[name].largest:
            yield [name, kind, str(count)]


def markdown(path: Path) -> str:
    """The rows as a table."""
    lines = [
        "| codes | items | engine | bytes a code | build, s | p50, ms | p99, ms | processor, ms | "
        "64 together, a second | processor, ms each | recall@10 | cells | load |",
        "|---|--:|---|" + "--:|" * 10,
    ]
    for row in rows(path):
        each = Measured(**row)  # type: ignore[arg-type]
        search = Spread(**each.search_ms)  # type: ignore[arg-type]
        lines.append(
            f"| {each.codes} | {each.items:,} | {each.engine} | {each.bytes_a_code:.0f} | "
            f"{each.build_seconds:.1f} | {search.median:.2f} | {each.search_p99_ms:.2f} | "
            f"{each.search_processor_ms:.2f} | {each.together_a_second:.0f} | "
            f"{each.together_processor_ms:.2f} | {each.recall_at_10:.3f} | {each.cells} | {each.load:.1f} |"
        )
    return "\n".join(lines)


def there() -> list[str]:
    """The engines that can be measured here: usearch, PostgreSQL and Milvus may be missing."""
    missing = {"usearch"} if find_spec("usearch") is None else set()
    if postgresql.programs() is None:
        missing.add("postgres")
    if milvus.programs() is None:
        missing.add("milvus")
    return [name for name in ENGINES if name not in missing]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, help="whose codes are drawn; without it, none")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=there())
    parser.add_argument("--items", nargs="+", type=int, default=[10**6 * each for each in MILLIONS])
    parser.add_argument("--rounds", type=int, default=100, help="searches that are timed alone")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.jsonl", help="the file of rows")
    parser.add_argument("--one", nargs=3, metavar=("ENGINE", "CODES", "ITEMS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, kind, count = options.one
        row = measured(name, kind, int(count), options.artifact, options.rounds)
        with options.out.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        return
    kinds = ["uniform"] if options.artifact is None else ["drawn", "uniform"]
    for one in missing(options.out, options.engines, kinds, options.items):
        if ENGINES[one[0]].most * int(one[2]) + LEFT_FREE > free_bytes():
            print(f"{' '.join(one)}: left out, as memory is not enough", file=sys.stderr)
            continue
        given = [] if options.artifact is None else ["--artifact", str(options.artifact)]
        more = [*given, "--rounds", str(options.rounds), "--out", str(options.out)]
        subprocess.run([sys.executable, "-m", "tests.benchmarks.scale", *more, "--one", *one], check=True)
    print(markdown(options.out))


if __name__ == "__main__":
    main()
