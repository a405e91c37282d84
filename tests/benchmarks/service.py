"""`POST /search` against its parts: how much of the machine's speed reaches a client."""

import asyncio
import itertools
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np
import torch
from fastapi import FastAPI, Request
from PIL import Image

from index import artifact
from index.catalogue import Catalogue
from index.hamming import FaissEngine
from index.items import UNLABELLED, Changes, CodeTable, NewItem
from service.core.searcher import FEW_PIXELS
from service.core.sharing import CORES
from tests.benchmarks.harness import Report, Row, Spread, at_most, interleaved, main
from tests.samples import serve
from training.nets.encoder import Encoder
from training.nets.images import open_image

CLIENTS = 32
CLASSES = tuple(f"class {number}" for number in range(10))
PICTURES = 64


@dataclass(frozen=True)
class Bench:
    """A service over `items` codes, and the same parts in this process."""

    backbone: str
    folder: Path
    encoder: Encoder
    engine: FaissEngine
    pictures: list[bytes]

    def parts(self, picture: bytes) -> None:
        """What a search cannot do without, on as many cores as the service gives it."""
        pixels = self.encoder.prepare(open_image(picture))
        torch.set_num_threads(1 if pixels[0].numel() <= FEW_PIXELS else CORES)
        self.engine.search(self.encoder.encode(pixels[None]), 10)


def measure(tiny: bool) -> Report:
    """One client and 32, conv6 and vgg11, over 60,000 codes."""
    items, seconds, rounds = (200, 0.2, 1) if tiny else (60_000, 4.0, 5)
    slow = {"conv6": 1, "vgg11": 3}  # fewer answers a second need longer rounds
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for backbone in ["conv6"] if tiny else ["conv6", "vgg11"]:
            bench = prepare(backbone, Path(folder), items)
            with serve(bench.folder) as address:
                rows += one_client(bench, address, 20 if tiny else 300 if backbone == "conv6" else 100)
                rows += many_clients(bench, address, slow[backbone] * seconds, rounds)
            if backbone == "conv6":
                rows.append(start(bench, rounds))
    return Report(
        benchmark="service",
        sizes={"items": items, "bits": 256, "k": 10, "clients": CLIENTS, "seconds a round": seconds},
        tiny=tiny,
        rows=rows,
    )


def manifest(encoder: Encoder, identity: str, backbone: str) -> artifact.Manifest:
    """Of an artifact that nobody has trained or measured."""
    return artifact.Manifest(
        format=artifact.FORMAT,
        created="",
        encoder_id=identity,
        bits=encoder.bits,
        classes=CLASSES,
        config={"backbone": backbone},
        preprocessing=encoder.preprocessing(),
        versions={},
        data={},
        metrics={},
    )


def prepare(backbone: str, folder: Path, items: int) -> Bench:
    """An artifact of untrained weights and random codes: the time of a search does not depend on them."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (items, 32), dtype=np.uint8)
    encoder = Encoder.initial(backbone)
    staging = folder / f"{backbone}.staging"
    staging.mkdir()
    encoder.save(staging / artifact.ENCODER)
    identity = artifact.encoder_id(staging / artifact.ENCODER)
    with Catalogue.create(
        staging / artifact.CATALOGUE, encoder_id=identity, bits=encoder.bits, classes=CLASSES
    ) as catalogue:
        ids = catalogue.add(
            NewItem(f"{number}.png", number % len(CLASSES), "database", 32, 32, b"", code)
            for number, code in enumerate(codes)
        )
    published = artifact.publish(staging, folder / backbone, manifest(encoder, identity, backbone))
    engine = FaissEngine(encoder.bits)
    nobody = np.full(len(ids), UNLABELLED)
    engine.apply(Changes(0, CodeTable(np.array(ids), nobody, codes), np.empty(0, np.int64), ()))
    size = encoder.description.image_size
    pictures = [picture(size, seed, "PNG" if size == 32 else "JPEG") for seed in range(PICTURES)]
    return Bench(backbone, published.path, encoder, engine, pictures)


def picture(size: int, seed: int, kind: str) -> bytes:
    """An image file as smooth as a photograph."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    file = BytesIO()
    coarse.resize((size, size), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


# --- one client ------------------------------------------------------------------------------------


def one_client(bench: Bench, address: str, rounds: int) -> list[Row]:
    """A search over HTTP and its parts in this process, in turns."""
    turn = itertools.count()
    url = urlsplit(address)
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        milliseconds = interleaved(
            {
                "http": lambda: search(connection, bench.pictures[next(turn) % PICTURES]),
                "parts": lambda: bench.parts(bench.pictures[next(turn) % PICTURES]),
            },
            rounds=rounds,
            warm_up=5,
        )
    http, parts = (np.median(milliseconds[name]) for name in ("http", "parts"))
    what = f"{bench.backbone}, one client"
    against = "decode, preprocess, forward, FAISS"
    spreads = Spread.of(milliseconds["http"]), Spread.of(milliseconds["parts"])
    if bench.backbone == "conv6":
        more = float(http - parts)
        p50 = Row(f"{what}, p50", spreads[0], "ms", more, "parts + ≤ 2 ms", more <= 2, against, spreads[1])
    else:
        ratio = float(http / parts)
        p50 = Row(f"{what}, p50", spreads[0], "ms", ratio, "≤ 1.3 ×", ratio <= 1.3, against, spreads[1])
    tail = float(np.percentile(milliseconds["http"], 99) / http)
    return [p50, Row(f"{what}, p99 over p50", spreads[0], "ms", tail, "≤ 3", tail <= 3)]


def search(connection: socket.socket, picture: bytes) -> None:
    """Send a picture over a kept-alive connection and read the whole answer."""
    connection.sendall(request(picture))
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, end, body = received.partition(b"\r\n\r\n")
    length, got = checked_length(head + end), len(body)
    while got < length:
        got += len(connection.recv(65536))


# --- many clients ----------------------------------------------------------------------------------


def many_clients(bench: Bench, address: str, seconds: float, rounds: int) -> list[Row]:
    """Answers a second, against an empty route's and against the encoder's, in turns on the same cores."""
    pixels = torch.stack([bench.encoder.prepare(open_image(file)) for file in bench.pictures[:CLIENTS]])
    rates: dict[str, list[float]] = {"ours": [], "empty": [], "encoder": []}
    tails = []
    with serve(None, "tests.benchmarks.service:empty_app") as empty:
        for number in range(rounds + 1):  # the first one warms up
            ours, our_rate = asyncio.run(load(address, bench.pictures, seconds))
            _, empty_rate = asyncio.run(load(empty, bench.pictures, seconds))
            torch.set_num_threads(CORES)
            encoded, begin = 0, time.perf_counter()
            while time.perf_counter() - begin < seconds:
                bench.encoder.encode(pixels)
                encoded += len(pixels)
            if number:
                rates["ours"].append(our_rate)
                rates["empty"].append(empty_rate)
                rates["encoder"].append(encoded / (time.perf_counter() - begin))
                tails.append(float(np.percentile(ours, 99)) * 1e3)
    bound = min(("empty", "encoder"), key=lambda name: np.median(rates[name]))
    against = {"empty": "an empty upload route", "encoder": "the encoder in batches of 32"}[bound]
    rate, its = Spread.of(rates["ours"]), Spread.of(rates[bound])
    what = f"{bench.backbone}, {CLIENTS} clients"
    share = rate.median / its.median
    limit = 3 * CLIENTS / rate.median * 1e3
    return [
        Row(f"{what}, rate", rate, "1/s", share, "≥ 0.7 of it", share >= 0.7, against, its),
        at_most(limit, f"{what}, p99", tails, "ms"),
    ]


async def load(address: str, pictures: list[bytes], seconds: float) -> tuple[list[float], float]:
    """32 clients, each of which asks again as soon as it is answered: seconds of every answer, answers a
    second until the last has come."""
    url, taken = urlsplit(address), list[float]()
    start = time.perf_counter()
    deadline = start + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        for turn in itertools.count(number):
            begin = time.perf_counter()
            if begin >= deadline:
                break
            writer.write(request(pictures[turn % PICTURES]))
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(checked_length(head))
            taken.append(time.perf_counter() - begin)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return taken, len(taken) / (time.perf_counter() - start)


def request(picture: bytes) -> bytes:
    """A search as it goes over the wire: a client library would cost as much as the service."""
    return b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
        len(picture),
        picture,
    )


def checked_length(head: bytes) -> int:
    """The length of the body that follows; the answer must be a good one."""
    assert head.startswith(b"HTTP/1.1 200"), head
    length = re.search(rb"content-length: *(\d+)", head, re.I)
    assert length is not None, head
    return int(length[1])


def empty_app() -> FastAPI:
    """A service that reads an upload and answers nothing."""
    app = FastAPI()

    @app.post("/search")
    async def search(request: Request) -> dict[str, str]:
        await request.body()
        return {}

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        return {}

    return app


# --- the start -------------------------------------------------------------------------------------


def start(bench: Bench, rounds: int) -> Row:
    """From the command to the first answer, less what Python needs to import the packages."""
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import service.app"], check=True)
        imports = time.perf_counter() - begin
        begin = time.perf_counter()
        with serve(bench.folder):
            taken.append(1e3 * (time.perf_counter() - begin - imports))
    return at_most(3000, f"start to ready, {len(bench.engine):,} items, after the imports", taken, "ms")


if __name__ == "__main__":
    main(measure)
