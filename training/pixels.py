"""The images' pixels: read once, kept in memory or decoded on demand, and fed in batches."""

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from index.items import UNLABELLED, File
from index.names import shown
from training import protocol
from training.config import Config
from training.data import DataError, ImageSet, Positions, images_of
from training.device import choose_device
from training.learning.together import ALONE, Alone
from training.nets.images import ImageError, open_image, opened_file, square_pixels

T = TypeVar("T")

log = logging.getLogger("hebbsearch")

# Up to here all pixels are kept in memory as uint8; larger sets are decoded again in every epoch.
MEMORY_LIMIT = 4 << 30
BETWEEN_LINES = 10.0  # seconds, where no terminal shows how far it is
GROUPS_AHEAD = 2  # batches that are decoded while one is used


class Loaded(NamedTuple):
    """The readable images, their pixels, what was skipped and why, and how they are divided, where that is
    settled."""

    images: ImageSet
    pixels: "Pixels"
    skipped: list[dict[str, str]]
    split: protocol.Split | None = None


class Pixels(Protocol):
    """uint8 images by position: a tensor, or something that decodes when asked."""

    def __getitem__(self, positions: Tensor) -> Tensor:
        """(b,) -> (b, 3, S, S)."""

    def __len__(self) -> int: ...


class PixelsOnDemand:
    """Pixels of a set that does not fit into memory, decoded by all cores."""

    def __init__(self, images: ImageSet, size: int) -> None:
        self.images, self.size = images, size
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def __getitem__(self, positions: Tensor) -> Tensor:
        return next(self.ahead([positions]))[1]

    def __len__(self) -> int:
        return len(self.images)

    def ahead(self, groups: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each group of positions with its pixels; the next groups are decoded while one is used."""
        for positions, images in ahead(self.pool, self._one, groups):
            yield positions, torch.stack(images)

    def _one(self, position: int) -> Tensor:
        try:
            return square_pixels(self.images.open(position), self.size)
        except (ImageError, OSError) as error:
            path = Path(self.images.where, self.images.paths[position])
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"{path}: it changed while the run was reading it ({reason}); put it back as it was, and "
                "go on with --resume"
            ) from error


def ahead(
    pool: Executor, work: Callable[[int], T], groups: Iterable[Tensor]
) -> Iterator[tuple[Tensor, list[T]]]:
    """Each group of positions with what the work makes of each; the next groups are worked at meanwhile."""
    waiting: deque[tuple[Tensor, list[Future[T]]]] = deque()
    try:
        for positions in groups:
            waiting.append((positions, [pool.submit(work, at) for at in positions.tolist()]))
            if len(waiting) > GROUPS_AHEAD:
                yield _gathered(*waiting.popleft())
        while waiting:
            yield _gathered(*waiting.popleft())
    finally:  # whoever stops early wants no more of it
        for _, under_way in waiting:
            for each in under_way:
                each.cancel()


def _gathered(positions: Tensor, done: list[Future[T]]) -> tuple[Tensor, list[T]]:
    return positions, [each.result() for each in done]


def place(pixels: Pixels, device: torch.device) -> Pixels:
    """The pixels on the device, if they take no more than half of its free memory; else as they are."""
    if device.type != "cuda" or not isinstance(pixels, Tensor):
        return pixels
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.to(device) if pixels.numel() <= free / 2 else pixels


def stream(pixels: Pixels, groups: Iterable[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Each group of positions with its uint8 pixels on the device; nothing waits for the device."""
    read = pixels.ahead(groups) if isinstance(pixels, PixelsOnDemand) else ((at, pixels[at]) for at in groups)
    for positions, found in read:
        if device.type == "cuda" and not found.is_cuda:
            found = found.pin_memory()  # only then the copy goes on beside the computation
        yield positions, found.to(device, non_blocking=True)


def load(config: Config, workers: Alone = ALONE) -> Loaded:
    """The images of the configuration, checked, then decoded, and on its device if they fit there. Raises
    DataError and ConfigError."""
    images = images_of(config)
    said = protocol.check(images, config)
    log.info("found %s; decoding them", counted(images))
    loaded = read(images, config.image_size, workers)
    if config.fraction():  # of some classes one image only may be readable
        protocol.say_of_one_image(loaded.images, said)
        protocol.say_of_contradictions(loaded.images)
    return loaded._replace(pixels=place(loaded.pixels, choose_device(config.device)))


def counted(images: ImageSet) -> str:
    """How many there are, in words."""
    what = "images" if images.root is None else "files"
    labels = np.count_nonzero(images.labels != UNLABELLED)
    return f"{len(images):,} {what}, {labels:,} with a label"


def opened(images: ImageSet, position: int) -> tuple[Image.Image, File | None]:
    """An image in RGB, and its file with the hash of the very bytes that were decoded, if it has one. Raises
    ImageError and OSError."""
    if images.root is None:
        return images.open(position), None
    with opened_file(images.root / images.paths[position]) as stream:
        about, content = os.fstat(stream.fileno()), stream.read()
    file = File(hashlib.sha256(content).digest(), None, about.st_size, about.st_mtime_ns)
    return open_image(content, reading=images.reading), file


def read(images: ImageSet, size: int, workers: Alone = ALONE) -> Loaded:
    """Decode everything once. Workers share what is not kept in memory. DataError."""
    in_memory = 3 * size * size * len(images) <= MEMORY_LIMIT
    pixels = torch.empty((len(images) if in_memory else 0, 3, size, size), dtype=torch.uint8)
    check_same(images, workers)

    def decode(position: int) -> tuple[bytes, str | None]:
        """The hash of its file, and what is wrong with it."""
        try:
            image, file = opened(images, position)
            square = square_pixels(image, size)
        except (ImageError, OSError) as error:
            return b"", str(error)
        if in_memory:
            pixels[position] = square
        return file.sha256 if file else b"", None

    readers = ALONE if in_memory else workers
    own = range(readers.rank, len(images), readers.world)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read_here = list(progress("decoding images", pool.map(decode, own), len(own)))
    outcomes: list[tuple[bytes, str | None]] = [(b"", None)] * len(images)
    for rank, theirs in enumerate(readers.pooled(read_here)):
        outcomes[rank :: readers.world] = theirs
    faults = [fault for _, fault in outcomes]
    broken = [(path, fault) for path, fault in zip(images.paths, faults, strict=True) if fault]
    skipped = [
        {"path": shown(path), "reason": shown(reason)} for path, reason in (*images.unreadable, *broken)
    ]
    if len(broken) == len(images):
        raise DataError(
            f"{images.where}: none of its {len(images)} files is a readable image"
            f" (first: {skipped[-len(broken)]['path']}: {broken[0][1]})"
        )
    keep = np.flatnonzero([fault is None for fault in faults])
    if images.root is not None:
        images = replace(images, hashes=tuple(hash_ for hash_, _ in outcomes))
    if broken:
        images = with_what_is_left(images.select(keep))
        pixels = pixels[torch.from_numpy(keep)] if in_memory else pixels
    return Loaded(images, pixels if in_memory else PixelsOnDemand(images, size), skipped)


def check_same(images: ImageSet, workers: Alone) -> None:
    """DataError where workers do not have the same images, with the same labels."""
    if workers.world > 1 and not workers.agree(images.fingerprint()):  # one process hashes no names for it
        raise DataError(f"{images.where}: the processes do not have the same images; copy the folder anew")


def with_what_is_left(images: ImageSet) -> ImageSet:
    """`images` without the classes of which no image to learn from can be read; says which."""
    left = images.counts() > 0
    if lost := [name for name, some in zip(images.classes, left, strict=True) if not some]:
        names = ", ".join(map(repr, lost))
        log.warning("%s: no image to learn from can be read of %s: left out", images.where, names)
        return images.of_classes(left)
    return images


def batches(
    positions: Positions, size: int, seed: int | None = None, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """Positions in groups of at most `size`, of almost equal length, shuffled if a seed is given.

    Equal lengths matter: batch norm cannot learn from a last batch of one image. All positions go to the
    device at once.
    """
    if seed is not None:
        positions = np.random.default_rng(seed).permutation(positions)
    count = max(1, -(-len(positions) // size))
    return iter(torch.from_numpy(positions).to(device).tensor_split(count))


def each_batch(
    what: str, positions: Positions, size: int, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """One pass over `positions` in their order, in `batches`, with a progress bar named `what`."""
    return progress(what, batches(positions, size, device=device), -(-len(positions) // size))


def progress(what: str, steps: Iterable[Any], count: int) -> Iterator[Any]:
    """`steps` with a bar on the terminal if they take longer than two seconds, elsewhere with a line now and
    then."""
    bar = tqdm(steps, what, count, delay=2, leave=False, disable=None)
    return in_lines(what, steps, count) if bar.disable else iter(bar)


def in_lines(what: str, steps: Iterable[Any], count: int) -> Iterator[Any]:
    """`steps`, and in the log how many are done."""
    said = time.monotonic()
    for done, step in enumerate(steps, 1):
        yield step
        now = time.monotonic()
        if done < count and now - said > BETWEEN_LINES:
            said = now
            log.info("%s: %s of %s", what, f"{done:,}", f"{count:,}")
