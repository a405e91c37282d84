"""What so many images take: disk, memory, the start, and each kind of request.

Not among the benchmarks of `python -m tests.benchmarks`: a million images take minutes and, with the copy
that is made of them, gigabytes where temporary files lie. `python -m tests.benchmarks.sizing --items 100000`.
"""

import asyncio
import itertools
import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from index import artifact
from index.catalogue import Catalogue
from index.codes import Codes, to_hex
from index.items import File, NewItem
from index.tables.digest import digest
from tests.benchmarks.harness import Report, Row, Spread, command_line, memory, tell
from tests.benchmarks.load import Connection
from tests.benchmarks.service import CLASSES, manifest, picture
from tests.samples import command, environment, free_port
from training.nets.encoder import Encoder
from training.nets.images import thumbnail

SMALL = 32  # pixels of a side of the images that are added, as CIFAR has them
SIDE = (500, 375)  # of a photograph, whose thumbnail is measured alone
CLIENTS = 8
QUERIES = 1000  # held out
TOGETHER = 50_000  # images of a transaction, and those that are added as the service does
DIFFERENT = 200  # thumbnails, which are given again and again
PATIENCE = 600.0  # seconds until it must be ready
# The first images once more, `start` ids later.
AGAIN = (
    """INSERT INTO items (id, path, label, split, width, height, revision, added, sha256, folder, file_bytes)
    SELECT id + :start, printf('%08d.png', id + :start), label, split, width, height, revision, added,
    randomblob(32), folder, file_bytes FROM items WHERE id <= :more""",
    "INSERT INTO codes SELECT item_id + :start, randomblob(32) FROM codes WHERE item_id <= :more",
    "INSERT INTO thumbnails SELECT item_id + :start, image FROM thumbnails WHERE item_id <= :more",
)


def measure(tiny: bool, items: Sequence[int] = (100_000, 1_000_000)) -> Report:
    """Each number of images in a catalogue of its own, as the service would have it."""
    rounds, starts, queries = (8, 1, 8) if tiny else (100, 2, QUERIES)
    items = (300,) if tiny else items
    rows = [told(f"thumbnail of a photograph, {SIDE[0]} pixels wide", list(map(len, thumbnails(*SIDE))), "B")]
    rows += took("the imports of a start", [importing() for _ in range(starts)])
    for count in items:
        with TemporaryDirectory() as folder:
            rows += sized(Path(folder), count, queries, rounds, starts)
    return Report(
        benchmark="sizing",
        sizes={"items": list(items), "bits": 256, "side": SMALL, "queries": queries, "k": 10},
        tiny=tiny,
        rows=rows,
    )


def sized(folder: Path, count: int, queries: int, rounds: int, starts: int) -> list[Row]:
    """All that is measured of so many images."""
    what = f"{count:,} images"
    built = build(folder, count, queries)
    rows = [
        told(f"{what}: {part}, bytes an image", [size / (count + queries)], "B")
        for part, size in parts(built / artifact.CATALOGUE).items()
    ]
    earlier = list[Took]()
    for _ in range(starts - 1):
        with serving(built) as service:
            earlier.append(service.start)
    with serving(built) as service:
        rows += took(f"{what}: start to ready, imports included", [*earlier, service.start])
        rows += held(f"{what}: memory when ready", service.process.pid)
        rows += asyncio.run(asked(what, service, queries, rounds))
        rows += held(f"{what}: memory after all that", service.process.pid)
    kept = [file.stat() for file in (built / artifact.ORIGINALS).glob("??/*")]
    rows.append(told(f"{what}: a kept file, its blocks", [512 * each.st_blocks for each in kept], "B"))
    rows.append(told(f"{what}: a kept file, its bytes", [each.st_size for each in kept], "B"))
    return rows


def told(what: str, values: Sequence[float], unit: str) -> Row:
    """What was measured, the 99th percentile as figure, without a target; said at once: there may be more to
    come for minutes."""
    print(f"{what}: {np.median(values):.5g} {unit}", file=sys.stderr, flush=True)
    return Row(what, Spread.of(values), unit, float(np.percentile(values, 99)), "", None)


def took(what: str, starts: Sequence["Took"]) -> list[Row]:
    """Elapsed and processor time; the latter is what a machine with other work can tell."""
    return [
        told(what, [1e3 * each.seconds for each in starts], "ms"),
        told(f"{what}, processor time", [1e3 * each.processor for each in starts], "ms"),
    ]


def held(what: str, process: int) -> list[Row]:
    """Memory of the service and its decoders; files that it maps count in part where others map them too."""
    now = memory(process)
    return [
        told(f"{what} (PSS)", [now.all / 2**20], "MiB"),
        told(f"{what}, anonymous", [now.anonymous / 2**20], "MiB"),
    ]


# --- the artifact ----------------------------------------------------------------------------------


def build(folder: Path, count: int, queries: int) -> Path:
    """An artifact of random codes and untrained weights. The first images are added as the service adds
    them, the others are those again with other codes and hashes: a million would take long so."""
    random = np.random.default_rng(0)
    small = thumbnails(SMALL, SMALL)
    encoder = Encoder.initial("conv6")
    staging = folder / "staging"
    staging.mkdir()
    encoder.save(staging / artifact.ENCODER)
    identity = artifact.encoder_id(staging / artifact.ENCODER)

    def item(number: int, code: Codes | None) -> NewItem:
        return NewItem(
            f"{number:08}.png",
            number % len(CLASSES),
            "query" if code is None else "database",
            SMALL,
            SMALL,
            small[number % len(small)],
            code,
            File(random.bytes(32), folder="", size=SMALL**2),
        )

    path = staging / artifact.CATALOGUE
    with Catalogue.create(path, encoder_id=identity, bits=encoder.bits, classes=CLASSES) as catalogue:
        first = random.integers(0, 256, (min(TOGETHER, count), 32), dtype=np.uint8)
        catalogue.add(item(number, code) for number, code in enumerate(first))
        with closing(sqlite3.connect(path)) as connection:
            for start in range(len(first), count, len(first)):
                more = min(len(first), count - start)
                for statement in AGAIN:
                    connection.execute(statement, {"start": start, "more": more})
                connection.commit()
        catalogue.note("digest", str(digest(catalogue.codes())))
        ids = catalogue.add(item(number, None) for number in range(queries))
    labels = np.arange(queries) % len(CLASSES)
    asked = random.integers(0, 256, (queries, 32), dtype=np.uint8)
    artifact.save_queries(
        staging / artifact.QUERIES, artifact.Queries(asked, labels.astype(np.int64), np.array(ids, np.int64))
    )
    return artifact.publish(staging, folder / "artifact", manifest(encoder, identity, "conv6")).path


def thumbnails(width: int, height: int) -> list[bytes]:
    """Of parts of the two photographs in scikit-learn, scaled to this size, as the service stores them."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    made = list[bytes]()
    for number in range(DIFFERENT):
        image = images[number % len(images)]
        wide = int(random.integers(100, image.width))
        high = min(wide * height // width, image.height)
        left, top = random.integers(0, (image.width - wide + 1, image.height - high + 1)).tolist()
        part = image.crop((left, top, left + wide, top + high))
        made.append(thumbnail(part.resize((width, height))))
    return made


def parts(catalogue: Path) -> dict[str, float]:
    """Bytes on the disk by what they are for; only the sum where SQLite cannot tell (no dbstat)."""
    sizes = {"catalogue": float(catalogue.stat().st_size)}
    with closing(sqlite3.connect(catalogue)) as connection, suppress(sqlite3.OperationalError):
        for name, size in connection.execute("SELECT name, SUM(pgsize) FROM dbstat GROUP BY name"):
            part = name if name in ("codes", "thumbnails", "items") else "indexes and the rest"
            sizes[f"of it {part}"] = sizes.get(f"of it {part}", 0.0) + size
    return sizes


# --- the service -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Took:
    """Seconds, elapsed and of processors."""

    seconds: float
    processor: float


@dataclass(frozen=True)
class Service:
    """A running one."""

    process: subprocess.Popen[bytes]
    port: int
    start: Took  # until it was ready


@contextmanager
def serving(folder: Path) -> Iterator[Service]:
    """The service over this artifact, from when it is ready."""
    port, begin = free_port(), time.perf_counter()
    process = subprocess.Popen(command(port), env=environment(folder))
    try:
        while not is_ready(port):
            assert process.poll() is None and time.perf_counter() - begin < PATIENCE
            time.sleep(0.02)
        elapsed = time.perf_counter() - begin
        yield Service(process, port, Took(elapsed, processor_seconds(process.pid)))
    finally:
        process.terminate()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=PATIENCE):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def processor_seconds(process: int) -> float:
    """What a process has used until now, without its children."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def importing() -> Took:
    """What Python needs for the packages."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import service.app"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(time.perf_counter() - begin, used)


class Asking:
    """One client of the service."""

    def __init__(self, port: int, encoder: str = "") -> None:
        self._port = port
        self._encoder = encoder
        self._connection: Connection | None = None

    async def send(self, request: str, body: bytes = b"", kind: str = "image/png") -> tuple[float, bytes]:
        """Milliseconds until the whole answer, which must be a good one, and its body."""
        head = f"{request} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        if self._connection is None or self._connection.left():
            self._connection = await Connection.open("127.0.0.1", self._port)
        begin = time.perf_counter()
        status, answer = await self._connection.ask(
            f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )
        assert status < 300, answer
        return 1e3 * (time.perf_counter() - begin), answer

    async def search(self, random: np.random.Generator) -> float:
        """By a code at random."""
        code = to_hex(random.integers(0, 256, 32, dtype=np.uint8))
        body = {"encoder_id": self._encoder, "codes": [code]}
        return (await self.send("POST /search/codes", json.dumps(body).encode(), "application/json"))[0]


async def asked(what: str, service: Service, queries: int, rounds: int) -> list[Row]:
    """Milliseconds of each kind of request; nobody else asks but where it is said."""
    random, seeds = np.random.default_rng(1), itertools.count(10**6)

    _, stats = await Asking(service.port).send("GET /stats")
    one, *others = [Asking(service.port, json.loads(stats)["encoder_id"]) for _ in range(1 + CLIENTS)]

    async def searching(client: Asking) -> list[float]:
        return [await client.search(random) for _ in range(rounds)]

    await searching(one)  # the first ones warm up
    alone = await searching(one)
    begin = time.perf_counter()
    together = await asyncio.gather(*map(searching, others))
    rate = CLIENTS * rounds / (time.perf_counter() - begin)
    ids = list[int]()
    milliseconds: dict[str, list[float]] = {name: [] for name in ("adding", "deleting", "page")}
    for _ in range(rounds):
        taken, body = await one.send("POST /images?label=class+1", picture(SMALL, next(seeds), "PNG"))
        milliseconds["adding"].append(taken)
        ids.append(json.loads(body)["images"][0]["image"]["id"])
    for id_ in ids[::2]:
        milliseconds["deleting"].append((await one.send(f"DELETE /images/{id_}"))[0])
    for after in random.integers(0, ids[0], rounds).tolist():
        milliseconds["page"].append((await one.send(f"GET /images?limit=100&after={after}"))[0])
    anew: dict[str, list[float]] = {address: [] for address in ("/stats", "/eval/map")}
    again: dict[str, list[float]] = {address: [] for address in anew}
    for id_ in ids[1:6:2]:  # what is computed once is computed anew after a change
        await one.send(f"DELETE /images/{id_}")
        for address in anew:
            anew[address].append((await one.send(f"GET {address}"))[0])
            again[address].append((await one.send(f"GET {address}"))[0])
    copying, _ = await one.send("POST /admin/snapshot", b'{"name": "copy"}', "application/json")
    return [
        told(f"{what}: search by code, one client", alone, "ms"),
        told(f"{what}: search by code, {CLIENTS} clients", [*itertools.chain(*together)], "ms"),
        told(f"{what}: the same, answers a second", [rate], "1/s"),
        told(f"{what}: adding an image", milliseconds["adding"], "ms"),
        told(f"{what}: deleting an image", milliseconds["deleting"], "ms"),
        told(f"{what}: GET /images, a page of 100", milliseconds["page"], "ms"),
        told(f"{what}: GET /stats after a change", anew["/stats"], "ms"),
        told(f"{what}: GET /stats again", again["/stats"], "ms"),
        told(f"{what}: GET /eval/map with {queries:,} queries after a change", anew["/eval/map"], "ms"),
        told(f"{what}: GET /eval/map again", again["/eval/map"], "ms"),
        told(f"{what}: snapshot", [copying], "ms"),
    ]


if __name__ == "__main__":
    parser = command_line()
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000], help="how many images")
    options = parser.parse_args()
    tell(measure(options.tiny, options.items), options.out)
