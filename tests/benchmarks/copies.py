"""How often a picture that was edited finds its original, by what finds it, and how long that takes.

    python -m tests.benchmarks.copies --artifact DIR --data PHOTOGRAPHS [--others FOLDER]

makes an index of the photographs, all that a folder has, and of `--others`, up to 50,000 images in all, coded
by the artifact's encoder. It edits some of the photographs, searches with each, and counts how often the
original comes first: by the code, by the hash of the pixels alone, with the parts of pictures too, and, where
the package imagehash is there, by its `phash` of 16 × 16 bits.
"""

import argparse
import io
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from index.artifact import CATALOGUE, ENCODER, QUERIES, Artifact, open_artifact, publish
from index.catalogue import Catalogue
from index.items import UNLABELLED, NewItem, Picture
from service.core.searcher import Question, Searcher
from tests.benchmarks.harness import machine
from tests.samples import without_a_quarter
from training.nets.encoder import Encoder
from training.nets.images import ImageError, open_image, picture_hashes, thumbnail
from training.nets.pdq import Hashes

ITEMS = 50_000
EDITED = 80  # photographs
SEED = 0
SIDE = 800  # pixels of the longer side of a photograph, at most
SAME = 60  # bits: what is nearer to another photograph is taken for the same one, and left out
BATCH = 256
LARGE = (4000, 3000)
ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}

Chance = random.Random
Edit = Callable[[Image.Image, Chance], Image.Image]


def part(share: float) -> Edit:
    """Of the same shape, with so much of the area, from anywhere."""

    def cropped(image: Image.Image, chance: Chance) -> Image.Image:
        width, height = (round(side * share**0.5) for side in image.size)
        left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
        return image.crop((left, top, left + width, top + height))

    return cropped


def without_a_side(image: Image.Image, chance: Chance) -> Image.Image:
    """Without a quarter of the width or height, on one side."""
    return without_a_quarter(image, chance.choice(range(4)))


def with_text(image: Image.Image, _: Chance) -> Image.Image:
    """A line over the middle."""
    written = image.copy()
    font = ImageFont.load_default(max(8, image.height // 6))
    middle = (image.width / 2, image.height / 2)
    edge = max(1, image.height // 150)
    pen = ImageDraw.Draw(written)
    pen.text(middle, "SAMPLE", "white", font, anchor="mm", stroke_width=edge, stroke_fill="black")
    return written


def as_jpeg(image: Image.Image, _: Chance) -> Image.Image:
    """Of quality 30."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


EDITS: dict[str, Edit] = {
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "turned by a quarter": lambda image, _: image.transpose(Image.Transpose.ROTATE_90),
    "grey": lambda image, _: image.convert("L").convert("RGB"),
    "JPEG of quality 30": as_jpeg,
    "a text over it": with_text,
    "a border of 10 %": lambda image, _: ImageOps.expand(image, image.width // 10, "black"),
    "a quarter of the area cut off": part(0.75),
    "a quarter cut off on one side": without_a_side,
    "half of the area cut off": part(0.5),
}


def images_of(folder: Path) -> Iterator[Image.Image]:
    """What can be read in a folder, by name; what is transparent is white."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in ENDINGS:
            try:
                yield open_image(path.read_bytes())
            except (ImageError, OSError):
                continue


def photographs(folders: Sequence[Path]) -> list[Image.Image]:
    """The images of folders, small, without what is nearly the same as one before."""
    kept, hashes = list[Image.Image](), list[NDArray[np.uint8]]()
    for image in (image for folder in folders for image in images_of(folder)):
        image.thumbnail((SIDE, SIDE))
        hash_ = picture_hashes(image).upright
        if all(np.bitwise_count(hash_ ^ other).sum() >= SAME for other in hashes):
            kept.append(image)
            hashes.append(hash_)
    return kept


def indexed(images: Iterator[Image.Image], encoder: Artifact, folder: Path) -> Artifact:
    """A new artifact of the images, whose ids count from 1."""
    staging, coder = folder / "staging", Encoder.load(encoder.encoder_path)
    staging.mkdir()
    shutil.copy(encoder.encoder_path, staging / ENCODER)
    manifest = replace(encoder.manifest, classes=(), data={"root": None})
    if (encoder.path / QUERIES).exists():
        manifest = replace(manifest, files={})
    identity = manifest.encoder_id
    with Catalogue.create(staging / CATALOGUE, encoder_id=identity, bits=coder.bits, classes=[]) as catalogue:
        some = list[Image.Image]()
        for image in images:
            some.append(image)
            if len(some) == BATCH:
                add(catalogue, coder, some)
                some = []
        if some:
            add(catalogue, coder, some)
    return publish(staging, folder / "artifact", manifest)


def add(catalogue: Catalogue, coder: Encoder, images: Sequence[Image.Image]) -> None:
    codes = coder.encode(torch.stack([coder.prepare(image) for image in images]))
    first = catalogue.counts()["database"]
    made = [picture_hashes(image) for image in images]
    catalogue.add(
        NewItem(
            path=f"{first + number}.png",
            label=UNLABELLED,
            split="database",
            width=image.width,
            height=image.height,
            thumbnail=thumbnail(image),
            code=code,
            picture=Picture(hashes.upright.tobytes(), hashes.quality),
        )
        for number, (image, code, hashes) in enumerate(zip(images, codes, made, strict=True))
    )


def first_by_code(searcher: Searcher, question: Question) -> int:
    return searcher.nearest(searcher.encode(question.pixels[None]), [question.wanted])[0].matches[0].id


def first_by_picture(searcher: Searcher, question: Question) -> int:
    return searcher.copies_of(question).matches[0].id


def first_by_hash(searcher: Searcher, question: Question) -> int:
    """Of a picture without detail parts are not looked for."""
    assert question.picture is not None
    alone = replace(question.picture, hashes=Hashes(question.picture.hashes.hashes, 0))
    return searcher.copies_of(replace(question, picture=alone)).matches[0].id


WAYS: dict[str, Callable[[Searcher, Question], int]] = {
    "code": first_by_code,
    "hash": first_by_hash,
    "hash and parts": first_by_picture,
}


@dataclass(frozen=True)
class Row:
    """How often the original of an edited photograph came first, by each way."""

    edit: str
    first: dict[str, int]
    milliseconds: list[float]  # of each search by picture, the image decoded


def found(searcher: Searcher, originals: Sequence[Image.Image], chosen: Sequence[int]) -> Iterator[Row]:
    """One row an edit. The id of an original is its place and one."""
    for edit, change in EDITS.items():
        chance = Chance(SEED)
        first, times = dict.fromkeys(WAYS, 0), list[float]()
        for place in chosen:
            file = io.BytesIO()
            change(originals[place], chance).save(file, "PNG")
            question = searcher.prepare(file.getvalue(), k=1, copies=True)
            for name, way in WAYS.items():
                begin = time.perf_counter()
                first[name] += way(searcher, question) == place + 1
                if name == "hash and parts":
                    times.append(1e3 * (time.perf_counter() - begin))
        yield Row(edit, first, times)


def found_by_phash(
    images: Iterator[Image.Image], originals: Sequence[Image.Image], chosen: Sequence[int]
) -> dict[str, int]:
    """As the column `first`, of another library's hash; nothing where it is not installed."""
    try:
        import imagehash
    except ImportError:
        return {}

    def hash_of(image: Image.Image) -> NDArray[np.uint8]:
        return np.packbits(imagehash.phash(image, hash_size=16).hash.ravel())

    all_, counts = np.stack([hash_of(image) for image in images]), dict[str, int]()
    for edit, change in EDITS.items():
        chance = Chance(SEED)
        edited = [hash_of(change(originals[place], chance)) for place in chosen]
        nearest = [int(np.bitwise_count(all_ ^ each).sum(axis=1).argmin()) for each in edited]
        counts[edit] = sum(place == first for place, first in zip(chosen, nearest, strict=True))
    return counts


def seconds_to_hash(images: Sequence[Image.Image]) -> float:
    """Of processor time."""
    begin = time.process_time()
    for image in images:
        picture_hashes(image)
    return time.process_time() - begin


def table(rows: Sequence[Row], by_phash: dict[str, int], count: int) -> Iterator[str]:
    """In Markdown."""
    ways = [*WAYS, *(["phash"] if by_phash else [])]
    yield f"| edit, of {count} photographs | {' | '.join(ways)} |"
    yield "|---" * (len(ways) + 1) + "|"
    for row in rows:
        counts = [*row.first.values(), *([by_phash[row.edit]] if by_phash else [])]
        yield f"| {row.edit} | {' | '.join(map(str, counts))} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", type=Path, required=True, help="whose encoder makes the codes")
    parser.add_argument("--data", type=Path, action="append", required=True, help="photographs; several")
    parser.add_argument("--others", type=Path, help="a folder of images that are nobody's original")
    parser.add_argument("--items", type=int, default=ITEMS, help="images in all, at most")
    parser.add_argument("--edited", type=int, default=EDITED, help="photographs that are edited")
    flags = parser.parse_args(arguments)
    originals = photographs(flags.data)
    others = [] if flags.others is None else images_of(flags.others)
    others = [image for image, _ in zip(others, range(flags.items - len(originals)), strict=False)]
    chosen = sorted(Chance(SEED).sample(range(len(originals)), min(flags.edited, len(originals))))
    print(f"{len(originals)} photographs, {len(others)} others; seed {SEED}; load {os.getloadavg()}")
    print(machine())
    print({name: version(name) for name in ("numpy", "pillow", "torch", "faiss-cpu", "scipy")})
    with tempfile.TemporaryDirectory() as folder:
        built = indexed(iter([*originals, *others]), open_artifact(flags.artifact), Path(folder))
        with closing(Searcher(built, max_pixels=10**8)) as searcher:
            rows = list(found(searcher, originals, chosen))
    by_phash = found_by_phash(iter([*originals, *others]), originals, chosen)
    print("\n".join(table(rows, by_phash, len(chosen))))
    print(f"search by picture: {median(ms for row in rows for ms in row.milliseconds):.1f} ms (median)")
    print(f"hashing {len(others)} others: {seconds_to_hash(others):.1f} s of processor time")
    large = [originals[0].resize(LARGE)] * 5
    print(
        f"hashing one of 12 megapixels: {1e3 * seconds_to_hash(large) / len(large):.0f} ms of processor time"
    )
    print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    main()
