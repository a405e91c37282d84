"""Many images become shards: encoded by as many processes as there are, on any machines, as the service would
encode them. No HTTP in it."""

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from index import shards
from index.artifact import open_bare
from index.names import normal, shown
from index.shards import Counted, Plan, Row, ShardError
from index.stores import (
    Folder,
    Found,
    Part,
    Store,
    Unreadable,
    digest_of,
    divided,
    images_of,
    labels_by_folder,
    store_of,
)
from service.core.library import Upload, new_item, rows
from service.core.pictures.decoding import Crashed, Decoded, Pool, TooSlow
from service.core.searcher import load_encoder
from service.core.sharing import CORES
from service.settings import Settings
from training.nets.encoder import Encoder
from training.nets.images import MAX_PIXELS, THUMBNAIL, BrokenImage, ImageError

PART = 10_000  # images of a part, unless it is a tar
TOGETHER = 64  # images encoded at a time; always the same ones, as another number changes last digits
SECONDS = 60.0  # for one image, also where a machine has far more to do than it can
MEMORY = int(Settings.model_fields["decoding_memory"].default)


@dataclass(frozen=True)
class Worker:
    """One of those that share the work."""

    rank: int = 0
    world: int = 1  # how many they are

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Worker":
        """As launchers say it, RANK of WORLD_SIZE; alone where they say nothing. ShardError."""
        told = [environment.get(name) for name in ("RANK", "WORLD_SIZE")]
        if told == [None, None]:
            return cls()
        try:
            rank, world = (int(each or "") for each in told)
        except ValueError:
            rank, world = -1, 0
        if not 0 <= rank < world:
            raise ShardError(
                f"RANK is {told[0]} and WORLD_SIZE is {told[1]}; set both, RANK from 0 to below WORLD_SIZE"
            )
        return cls(rank, world)


@dataclass(frozen=True)
class Done:
    """A part that is there."""

    number: int
    counted: Counted
    seconds: float | None  # None: it was there before


@dataclass(frozen=True)
class Work:
    """What is to be done: checked, written down for all, and not begun."""

    out: Path
    plan: Plan
    mine: range  # numbers of the parts
    _store: Store
    _parts: tuple[Part, ...]
    _labels: Mapping[str, str | None] | None
    _encoder: Encoder

    def do(self) -> Iterator[Done]:
        """Write those of its parts that are not there, each when it is done. Raises ShardError, NoDecoder,
        and OSError where the disk or the network fails; the same work again goes on."""
        with closing(Pool(CORES, seconds=SECONDS, memory=MEMORY)) as decoders:
            encoding = _Encoding(self._encoder, decoders, self.plan.folder)
            for number in self.mine:
                if shards.path_of(self.out, number).exists():
                    yield Done(number, shards.check(self.out, self.plan, number), None)
                    continue
                begun = time.monotonic()
                found = images_of(self._store, self._parts[number], self._labels)
                counted = shards.write(self.out, self.plan, number, encoding.rows(found))
                yield Done(number, counted, time.monotonic() - begun)


def prepare(
    data: str,
    encoder_of: Path,
    out: Path,
    worker: Worker,
    *,
    name: str | None = None,
    labels: bool = True,
    part_size: int = PART,
) -> Work:
    """The work of one of the processes that encode what lies at `data`, a folder, a tar or an address, into
    the folder `out`. `name`: of the images' folder in a catalogue. Raises DataError, ArtifactError and
    ShardError before anything is written."""
    shards.require()
    if part_size < 1:
        raise ShardError(f"--part-size is {part_size}; give at least 1")
    encoder, encoder_id = encoder_in(encoder_of)
    store = store_of(data)
    if isinstance(store, Folder) and store.holds(out):
        raise ShardError(f"{out}: lies in the folder of the images; choose one beside it")
    files = store.listed()
    parts = divided(files, part_size)
    if not parts:
        raise ShardError(f"{data}: the folder is empty; name where your images lie")
    if worker.world > len(parts):
        raise ShardError(
            f"WORLD_SIZE is {worker.world}, and there are {len(parts)} parts to share; "
            "start fewer, or make parts smaller with --part-size"
        )
    plan = Plan(
        encoder_id=encoder_id,
        bits=encoder.bits,
        embedding=encoder.embedding_size,
        folder=store.name if name is None else normal(shown(name)),
        files=len(files),
        part_size=part_size,
        parts=len(parts),
        digest=digest_of(files, str(part_size), "labels" if labels else ""),
    )
    by_folder = labels_by_folder(files) if labels else None
    out.mkdir(parents=True, exist_ok=True)
    plan.settle(out)
    return Work(
        out, plan, range(worker.rank, len(parts), worker.world), store, tuple(parts), by_folder, encoder
    )


def encoder_in(path: Path) -> tuple[Encoder, str]:
    """The encoder of an artifact of which no more than its manifest need be there, and its id."""
    artifact = open_bare(path)
    return load_encoder(artifact), artifact.manifest.encoder_id


class _Encoding:
    """From images to rows, on as many cores as torch may use."""

    def __init__(self, encoder: Encoder, decoders: Pool, folder: str) -> None:
        self._encoder = encoder
        self._decoders = decoders
        self._folder = folder

    def rows(self, found: Iterable[Found]) -> Iterator[Row]:
        """Of each image, in order. Each thread has one group at a time and one core: what a group becomes
        depends on nothing else."""
        drawn, waiting = iter(found), deque[Future[list[Row]]]()
        with ThreadPoolExecutor(CORES, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            try:
                while group := list(islice(drawn, TOGETHER)):
                    waiting.append(threads.submit(self._group, group))
                    if len(waiting) > CORES:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                threads.shutdown(cancel_futures=True)

    def _group(self, found: list[Found]) -> list[Row]:
        made: dict[int, Row] = {}
        uploads: dict[int, Upload] = {}
        decoded: dict[int, Decoded] = {}
        for place, each in enumerate(found):
            try:
                upload = Upload(each.path, each.read(), each.label, folder=self._folder)
                decoded[place] = self._decoded(upload.content)
                uploads[place] = upload
            except (ImageError, Unreadable) as error:
                made[place] = Row(each.path, None, str(error))
        if uploads:
            pixels = torch.stack([each.pixels for each in decoded.values()])
            encoded = rows(self._encoder.encode_and_embed(pixels))
            for (place, upload), (code, embedding) in zip(uploads.items(), encoded, strict=True):
                sha256 = hashlib.sha256(upload.content).digest()
                item = new_item(upload, sha256, decoded[place], code, embedding)
                made[place] = Row(upload.name, item, found[place].fault)
        return [made[place] for place in range(len(found))]

    def _decoded(self, content: bytes) -> Decoded:
        if not content:
            raise BrokenImage("the file is empty")
        try:
            return self._decode(content)
        except (Crashed, TooSlow):  # by the machine, perhaps, that had no memory or time left
            return self._decode(content)

    def _decode(self, content: bytes) -> Decoded:
        about = self._encoder.description
        return self._decoders.decode(
            content, size=about.image_size, max_pixels=MAX_PIXELS, reading=about.reading, thumbnail=THUMBNAIL
        )
