"""A day in minutes: searches, additions and deletions at 60 % of what the service can take.

Not among the benchmarks of `python -m tests.benchmarks`: it takes a quarter of an hour. `python -m
tests.benchmarks.load` ends with 1 where a good request failed or memory left its band.
"""

import asyncio
import itertools
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np

from service.core.library import Library, Upload
from service.core.searcher import Searcher
from tests.benchmarks.harness import Memory, Report, Row, Spread, command_line, memory, tell
from tests.benchmarks.heartbeat import heartbeat
from tests.benchmarks.service import CLIENTS, Bench, picture, prepare
from tests.samples import command, environment, free_port, wait_until_ready

MIX = {"search": 90, "add": 8, "delete": 2}  # in a hundred requests
SHARE = 0.6  # of the saturation
SEEDS = itertools.count(1)  # no two traffics send the same images
ADDED_AT_ONCE = 64  # images of one request
PATIENCE = 60.0  # seconds; what is not answered then has failed
EACH = 30.0  # seconds between lines that say how it goes
SETTLING = 60.0  # seconds until memory has its level
LEVEL = 15  # samples, one a second, whose median that is
BAND = 0.1  # of the level, that memory may leave it by
IN_MEMORY = 8 + 8 + 8 + 32  # bytes of an image: its id twice, its label, its code
FAILED, GROWN = "failed good requests", "memory off its level, the most as figure"
DECIDING = (FAILED, GROWN)


def measure(tiny: bool, *, minutes: float = 15.0, items: int = 60_000) -> Report:
    """Saturation, then so many minutes below it; and how long a search waits while images come."""
    burst, coming, band = 20.0, 5000, BAND
    if tiny:
        items, burst, minutes, coming, band = 200, 0.3, 0.03, 128, 1.0  # it is still warming up
    with TemporaryDirectory() as folder:
        bench = prepare("conv6", Path(folder), items)
        rows = waiting(bench, coming)
        steady, more = mixed(bench, burst, 60 * minutes, band)
    return Report(
        benchmark="load",
        sizes={
            "items": items,
            "mix": MIX,
            "minutes": minutes,
            "share of saturation": SHARE,
            "coming": coming,
            "answers": {f"{kind} {status}": n for (kind, status), n in sorted(steady.answers.items())},
        },
        tiny=tiny,
        rows=rows + more,
    )


# --- over HTTP -------------------------------------------------------------------------------------


class Traffic:
    """Who sends requests of the mix and keeps what came of them."""

    def __init__(self, address: str, pictures: list[bytes]) -> None:
        self.url, self.pictures = urlsplit(address), pictures
        self.random = random.Random(0)
        self.added: list[int] = []  # ids that may be deleted
        self.new = itertools.count(next(SEEDS) * 10**6)
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.answers: Counter[tuple[str, str]] = Counter()  # by kind and status, or the reason for none
        self.slowest = 0.0  # seconds of an answer, since someone last looked

    def next(self) -> tuple[str, bytes]:
        """A request's kind and its bytes."""
        (kind,) = self.random.choices([*MIX], [*MIX.values()])
        if kind == "delete" and self.added:
            address, body = f"DELETE /images/{self.added.pop()}", b""
        elif kind == "add":
            address, body = "POST /images?label=class+1", picture(32, next(self.new), "PNG")
        else:
            kind, address, body = "search", "POST /search", self.random.choice(self.pictures)
        head = f"{address} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        return kind, head.encode() + body

    async def send(self, arrivals: AsyncIterator[float]) -> None:
        """One connection, and another where it is dropped: a request whenever one is due; its time counts
        from when it was due."""
        connection: Connection | None = None
        async for due in arrivals:
            kind, request = self.next()
            try:
                async with asyncio.timeout(PATIENCE):
                    if connection and connection.left():
                        connection = connection.close()
                    connection = connection or await Connection.open(self.url.hostname, self.url.port)
                    status, body = await connection.ask(request)
            except (OSError, EOFError) as error:  # TimeoutError too
                self.answers[kind, type(error).__name__] += 1
                connection = connection and connection.close()
                continue
            taken = time.perf_counter() - due
            self.seconds[kind].append(taken)
            self.slowest = max(self.slowest, taken)
            self.answers[kind, str(status)] += 1
            if kind == "add" and status == 201:
                self.added.append(json.loads(body)["images"][0]["image"]["id"])
        if connection:
            connection.close()

    def sent(self) -> int:
        """Requests until now."""
        return sum(self.answers.values())

    def failed(self) -> int:
        """Good requests that were not answered well."""
        return sum(
            count for (_, answer), count in self.answers.items() if answer not in ("200", "201", "204")
        )

    def net(self) -> int:
        """Images that came less those that went."""
        return self.answers["add", "201"] - self.answers["delete", "204"]


@dataclass(frozen=True)
class Connection:
    """A kept-alive one."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, host: str | None, port: int | None) -> "Connection":
        """OSError where nobody listens."""
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. OSError or EOFError where there is none."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.I)
        return int(head.split(b" ", 2)[1]), await self.reader.readexactly(int(length[1]) if length else 0)

    def left(self) -> bool:
        """Whether the server has closed it, as it does with one that was idle for some seconds."""
        return self.reader.at_eof()

    def close(self) -> None:
        """At once."""
        self.writer.close()


@dataclass(frozen=True)
class Sample:
    """How it was at one moment."""

    seconds: float  # since the start
    memory: Memory
    net: int  # images that had come less those that had gone


def mixed(bench: Bench, burst: float, seconds: float, band: float) -> tuple[Traffic, list[Row]]:
    """The mix against a service in a process of its own."""
    port = free_port()
    process = subprocess.Popen(command(port), env=environment(bench.folder))
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, process)
        flood = Traffic(address, bench.pictures)
        asyncio.run(run(flood, lambda: at_once(burst)))
        saturation = flood.sent() / burst
        steady, samples = Traffic(address, bench.pictures), list[Sample]()
        with heartbeat() as late, watched(process.pid, steady, samples, seconds):
            clock = due_times(SHARE * saturation, seconds)
            asyncio.run(run(steady, lambda: when_due(clock)))
    finally:
        process.terminate()
        process.wait()
    failed = flood.failed() + steady.failed()
    rows = [
        Row("saturation with the mix", Spread.of([saturation]), "1/s", saturation, "", None),
        Row(FAILED, Spread.of([failed]), "", failed, "0", not failed),
        *memory_rows(samples, min(SETTLING, seconds / 2), band),
        stood_still("with the mix", late),
    ]
    for kind, taken in steady.seconds.items():
        tail = 1e3 * float(np.percentile(taken, 99))
        rows.append(
            Row(f"{kind}, p99 as figure", Spread.of([1e3 * each for each in taken]), "ms", tail, "", None)
        )
    return steady, rows


def stood_still(when: str, late: Sequence[float]) -> Row:
    """What the heartbeat noticed meanwhile."""
    return Row(
        f"the machine stood still {when}, the longest as figure", Spread.of(late), "ms", max(late), "", None
    )


def memory_rows(samples: Sequence[Sample], settling: float, band: float) -> list[Row]:
    """Memory against its level once it has settled, and what of its growth the images that came explain."""
    later = [sample for sample in samples if sample.seconds >= settling] or list(samples[-1:])
    if not later:  # the service had ended before
        return [Row(GROWN, Spread.of([0.0]), "MiB", 1.0, f"≤ {band:g}", False)]
    mebibytes = [sample.memory.all / 2**20 for sample in later]
    level = float(np.median(mebibytes[:LEVEL]))
    off = max(abs(each / level - 1) for each in mebibytes)
    anonymous = [sample.memory.anonymous / 2**20 for sample in later]
    grown = float(np.median(anonymous[-LEVEL:]) - np.median(anonymous[:LEVEL]))
    came = later[-1].net - later[0].net
    return [
        Row(GROWN, Spread.of(mebibytes), "MiB", off, f"≤ {band:g}", off <= band),
        Row(
            f"anonymous memory, its growth in MiB as figure; the {came:,} images that came take "
            f"{IN_MEMORY * came / 2**20:.2g}",
            Spread.of(anonymous),
            "MiB",
            grown,
            "",
            None,
        ),
    ]


async def run(traffic: Traffic, arrivals: Callable[[], AsyncIterator[float]]) -> None:
    await asyncio.gather(*(traffic.send(arrivals()) for _ in range(CLIENTS)))


async def at_once(seconds: float) -> AsyncIterator[float]:
    """Always due, for so long."""
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        yield now


def due_times(rate: float, seconds: float) -> Iterator[float]:
    """Moments at random, `rate` a second (a Poisson process), for all connections together."""
    chance, due = random.Random(1), time.perf_counter() + 0.5
    end = due + seconds
    while due < end:
        yield due
        due += chance.expovariate(rate)


async def when_due(clock: Iterator[float]) -> AsyncIterator[float]:
    """The next of these moments, once it has come."""
    for due in clock:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        yield due


@contextmanager
def watched(process: int, traffic: Traffic, samples: list[Sample], seconds: float) -> Iterator[None]:
    """Take a sample each second, and say each half minute how it goes."""
    begin, done = time.perf_counter(), threading.Event()

    def watch() -> None:
        telling = EACH
        while True:
            with suppress(ProcessLookupError):  # its end shows in the requests
                held = memory(process)
                samples.append(Sample(time.perf_counter() - begin, held, traffic.net()))
            if (now := time.perf_counter() - begin) >= telling:
                telling += EACH
                print(
                    f"{now:.0f} of {seconds:.0f} s: {traffic.sent():,} requests, "
                    f"{traffic.failed():,} failed, the slowest since {traffic.slowest:.2f} s, "
                    f"{_mebibytes(samples[-1:])} MiB",
                    file=sys.stderr,
                    flush=True,
                )
                traffic.slowest = 0.0
            if done.wait(1):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _mebibytes(samples: Sequence[Sample]) -> str:
    return ", ".join(f"{sample.memory.all / 2**20:.0f}" for sample in samples) or "no"


# --- in this process -------------------------------------------------------------------------------


def waiting(bench: Bench, coming: int) -> list[Row]:
    """How long a thread that does nothing else takes to get hold of the index while images are added."""
    with closing(Searcher.open(bench.folder, max_pixels=10**6)) as searcher:
        library = Library(searcher, max_bytes=10**6, max_pixels=10**6, keep=False)
        uploads = [Upload(f"{seed}.png", picture(32, 10**7 + seed, "PNG")) for seed in range(coming)]
        done, milliseconds = threading.Event(), list[float]()

        def looking() -> None:
            while not done.is_set():
                begin = time.perf_counter()
                searcher.snapshot()
                milliseconds.append(1e3 * (time.perf_counter() - begin))
                time.sleep(0.001)

        thread = threading.Thread(target=looking)
        with heartbeat() as late:
            thread.start()
            try:
                for start in range(0, coming, ADDED_AT_ONCE):
                    library.add(uploads[start : start + ADDED_AT_ONCE])
            finally:
                done.set()
                thread.join()
    longest = max(milliseconds)
    return [
        Row(
            f"wait for the index while {coming:,} images come, the longest as figure",
            Spread.of(milliseconds),
            "ms",
            longest,
            "≤ 50 ms",
            longest <= 50,
        ),
        stood_still("meanwhile", late),
    ]


def passed(report: Report) -> bool:
    """Whether no good request failed and memory kept within its band."""
    return all(row.met for row in report.rows if row.what in DECIDING)


if __name__ == "__main__":
    parser = command_line()
    parser.add_argument("--minutes", type=float, default=15.0, help="of the mix")
    parser.add_argument("--items", type=int, default=60_000, help="images there at the start")
    options = parser.parse_args()
    report = measure(options.tiny, minutes=options.minutes, items=options.items)
    tell(report, options.out)
    sys.exit(not passed(report))
