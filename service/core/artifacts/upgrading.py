"""What an artifact of an earlier version lacks, made: the hashes of its pictures, and how doubtful its labels
are. No HTTP in it."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from index.advice import embedded, judged
from index.artifact import ORIGINALS, Artifact, open_artifact
from index.catalogue import Catalogue
from index.database import CatalogueError
from index.items import Item, Picture
from index.originals import Originals
from index.walking import sha256_of
from service.core.pictures.originals import NoOriginal, original_of
from service.core.searcher import load_encoder
from training.nets.images import ImageError, Reading, open_image, picture_hashes

TOGETHER = 256  # images whose hashes are kept at a time

Progress = Callable[[Iterable[int], int], Iterable[int]]


class Made(NamedTuple):
    """What an upgrade made."""

    of_files: int  # hashes
    of_thumbnails: int
    labels: int  # that were looked at


def upgrade(path: Path, *, url: str | None = None, progress: Progress = lambda ids, _: ids) -> Made:
    """Hash those pictures of the artifact in `path` that have no hash yet, of all splits: by their files, or,
    where these are gone or have changed, by their thumbnails. Look at its labels, where nobody has yet.

    A service may run meanwhile. After an interruption it goes on where it was. Raises ArtifactError and
    CatalogueError. `url` as of open_artifact.
    """
    artifact = open_artifact(path, url)
    reading = load_encoder(artifact).description.reading
    with (
        closing(artifact.open_catalogue()) as catalogue,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        if not catalogue.writable:
            raise CatalogueError(f"{catalogue.path}: cannot be written to; let this user write to its folder")
        hashed_by = partial(_picture, artifact, Originals(artifact.path / ORIGINALS), reading)

        def hashed(ids: list[int]) -> list[Picture]:
            items = list(catalogue.there(ids).values())
            thumbnails = catalogue.pictures.thumbnails(ids)
            pictures = list(pool.map(hashed_by, items, [thumbnails[item.id] for item in items]))
            catalogue.pictures.keep(dict(zip((item.id for item in items), pictures, strict=True)))
            return pictures

        missing = catalogue.pictures.missing().tolist()
        waiting, made = list[int](), list[Picture]()
        for id_ in progress(missing, len(missing)):
            waiting.append(id_)
            if len(waiting) == TOGETHER:
                made += hashed(waiting)
                waiting = []
        made += hashed(waiting)
        labels = _look_at_labels(catalogue)
    of_files = sum(each.of == "file" for each in made)
    return Made(of_files, len(made) - of_files, labels)


def _look_at_labels(catalogue: Catalogue) -> int:
    """Note how doubtful they are, unless somebody has; how many were looked at."""
    if catalogue.doubts.known():
        return 0
    doubts = judged(*embedded(catalogue.codes(), *catalogue.embeddings()))
    catalogue.doubts.keep(doubts)
    return len(doubts)


def _picture(artifact: Artifact, kept: Originals, reading: Reading, item: Item, thumbnail: bytes) -> Picture:
    try:
        path = original_of(artifact, kept, item)
        if item.sha256 in (None, sha256_of(path)):
            return _hashed(open_image(path, reading=reading), "file")
    except (NoOriginal, ImageError, OSError):
        pass
    return _hashed(Image.open(BytesIO(thumbnail)).convert("RGB"), "thumbnail")


def _hashed(image: Image.Image, of: Literal["file", "thumbnail"]) -> Picture:
    made = picture_hashes(image)
    return Picture(made.upright.tobytes(), made.quality, of)
