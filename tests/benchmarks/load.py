"""A day in minutes: searches, additions and deletions at 60 % of what the service can take.

Not among the benchmarks of `python -m tests.benchmarks`: it takes a quarter of an hour. `python -m
tests.benchmarks.load`.
"""

import asyncio
import itertools
import json
import random
import re
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np

from service.library import Library, Upload
from service.searcher import Searcher
from tests.benchmarks.harness import Report, Row, Spread, main
from tests.benchmarks.service import CLIENTS, Bench, picture, prepare
from tests.conftest import command, environment, free_port, wait_until_ready

MIX = {"search": 90, "add": 8, "delete": 2}  # in a hundred requests
SHARE = 0.6  # of the saturation
SEEDS = itertools.count(1)  # no two traffics send the same images
ADDED_AT_ONCE = 64  # images of one request


def measure(tiny: bool) -> Report:
    """Saturation, then a quarter of an hour below it; and how long a search waits while images come."""
    items, burst, minutes, coming = (200, 0.3, 0.03, 128) if tiny else (60_000, 20.0, 15.0, 5000)
    with TemporaryDirectory() as folder:
        bench = prepare("conv6", Path(folder), items)
        rows = [waiting(bench, coming)]
        rows += mixed(bench, burst, 60 * minutes)
    return Report(
        benchmark="load",
        sizes={
            "items": items,
            "mix": MIX,
            "minutes": minutes,
            "share of saturation": SHARE,
            "coming": coming,
        },
        tiny=tiny,
        rows=rows,
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
        self.statuses: Counter[tuple[str, int]] = Counter()

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
        """One connection: a request whenever one is due; its time counts from when it was due."""
        reader, writer = await asyncio.open_connection(self.url.hostname, self.url.port)
        async for due in arrivals:
            kind, request = self.next()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            length = re.search(rb"content-length: *(\d+)", head, re.I)
            body = await reader.readexactly(int(length[1])) if length else b""
            self.seconds[kind].append(time.perf_counter() - due)
            self.statuses[kind, status] += 1
            if kind == "add" and status == 201:
                self.added.append(json.loads(body)["images"][0]["image"]["id"])
        writer.close()
        await writer.wait_closed()

    def failed(self) -> int:
        """Good requests that were not answered well."""
        return sum(count for (_, status), count in self.statuses.items() if status >= 300)


def mixed(bench: Bench, burst: float, seconds: float) -> list[Row]:
    """The mix against a service in a process of its own."""
    port = free_port()
    process = subprocess.Popen(command(port), env=environment(bench.folder))
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, process)
        flood = Traffic(address, bench.pictures)
        asyncio.run(run(flood, lambda: at_once(burst)))
        saturation = sum(flood.statuses.values()) / burst
        steady, sizes = Traffic(address, bench.pictures), list[int]()
        watching = threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, sizes, watching))
        watcher.start()
        try:
            clock = due_times(SHARE * saturation, seconds)
            asyncio.run(run(steady, lambda: when_due(clock)))
        finally:
            watching.set()
            watcher.join()
    finally:
        process.terminate()
        process.wait()
    begin = sizes[min(60, len(sizes) - 1)]
    growth = sizes[-1] / begin
    rows = [
        Row("saturation with the mix", Spread.of([saturation]), "1/s", saturation, "", None),
        Row(
            "failed good requests",
            Spread.of([steady.failed()]),
            "",
            steady.failed(),
            "0",
            not steady.failed(),
        ),
        Row(
            "memory at the end over that after a minute",
            Spread.of([each / 2**20 for each in sizes]),
            "MiB",
            growth,
            "≤ 1.1",
            growth <= 1.1,
        ),
    ]
    for kind, taken in steady.seconds.items():
        tail = 1e3 * float(np.percentile(taken, 99))
        rows.append(
            Row(f"{kind}, p99 as figure", Spread.of([1e3 * each for each in taken]), "ms", tail, "", None)
        )
    return rows


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


def watch(process: int, sizes: list[int], stop: threading.Event) -> None:
    """Resident bytes of a process, each second."""
    while True:
        text = Path(f"/proc/{process}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found is not None
        sizes.append(1024 * int(found[1]))
        if stop.wait(1):
            return


# --- in this process -------------------------------------------------------------------------------


def waiting(bench: Bench, coming: int) -> Row:
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
        thread.start()
        try:
            for start in range(0, coming, ADDED_AT_ONCE):
                library.add(uploads[start : start + ADDED_AT_ONCE])
        finally:
            done.set()
            thread.join()
    longest = max(milliseconds)
    return Row(
        f"wait for the index while {coming:,} images come, the longest as figure",
        Spread.of(milliseconds),
        "ms",
        longest,
        "≤ 50 ms",
        longest <= 50,
    )


if __name__ == "__main__":
    main(measure)
