"""An artifact whose images are there, moved to the encoder of another one. No HTTP in it."""

import datetime
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from index.artifact import (
    CATALOGUE,
    ENCODER,
    LEARNED,
    QUERIES,
    Artifact,
    ArtifactError,
    Manifest,
    Queries,
    open_artifact,
    publish,
    save_learned,
    save_queries,
)
from index.backup import copy_artifact
from index.catalogue import Catalogue
from index.codes import Codes
from index.items import Embedding, Item
from index.names import shown
from index.staging import staging
from service.core.library import rows
from service.core.pictures.originals import NoOriginal
from service.core.searcher import Searcher, load_encoder
from training.nets.encoder import Encoder
from training.nets.images import MAX_PIXELS, ImageError, open_image

TOGETHER = 64  # images encoded at a time
SHOWN = 3  # images that a refusal names

Progress = Callable[[Iterable[Item], int], Iterable[Item]]


def reencode(
    path: Path, encoder_of: Path, target: Path, *, progress: Progress = lambda items, _: items
) -> Artifact:
    """The artifact in `path` with the encoder of the one in `encoder_of`, in the new folder `target`.

    Ids, labels, metadata and thumbnails stay; every code is made anew, those of the held-out queries too. The
    artifact must not be changed meanwhile. ArtifactError, among others where the files of images are gone.
    """
    if target.exists():
        raise ArtifactError(f"{target}: exists already; choose another folder")
    other = open_artifact(encoder_of)
    encoder = load_encoder(other)
    with closing(Searcher.open(path, max_pixels=MAX_PIXELS)) as source:
        items = list(source.catalogue.every_item())
        _refuse_lost(source, items)
        with staging(target) as folder:
            copy_artifact(path, folder)
            codes = _codes(source, encoder, progress(items, len(items)))
            with Catalogue.open(folder / CATALOGUE) as catalogue:
                held_out = catalogue.recode(other.manifest.encoder_id, encoder.bits, codes)
            if (queries := source.artifact.queries()) is not None:
                made = np.stack([held_out[id_] for id_ in queries.ids.tolist()])
                save_queries(folder / QUERIES, Queries(made, queries.labels, queries.ids))
            shutil.copyfile(other.encoder_path, folder / ENCODER)
            save_learned(folder / LEARNED, source.artifact.learned() | other.learned())
            return publish(folder, target, _manifest(source, other, items))


def _refuse_lost(source: Searcher, items: Iterable[Item]) -> None:
    lost = [item for item in items if not _is_there(source, item)]
    if lost:
        named = ", ".join(shown(item.path) for item in lost[:SHOWN])
        raise ArtifactError(
            f"{source.artifact.path}: the files of {len(lost):,} images are not there, such as {named}; "
            "put them back or remove these images"
        )


def _is_there(source: Searcher, item: Item) -> bool:
    try:
        source.original_of(item)
    except NoOriginal:
        return False
    return True


def _codes(
    source: Searcher, encoder: Encoder, items: Iterable[Item]
) -> Iterator[tuple[int, Codes, Embedding | None]]:
    """Ids with their codes (bits/8,) and embeddings."""
    waiting: list[tuple[int, torch.Tensor]] = []

    def encoded() -> Iterator[tuple[int, Codes, Embedding | None]]:
        if waiting:
            made = rows(encoder.encode_and_embed(torch.stack([pixels for _, pixels in waiting])))
            yield from ((id_, *kept) for (id_, _), kept in zip(waiting, made, strict=True))
            waiting.clear()

    for item in items:
        try:
            image = open_image(source.original_of(item), reading=encoder.description.reading)
            waiting.append((item.id, encoder.prepare(image)))
        except (ImageError, NoOriginal, OSError) as error:
            raise ArtifactError(f"{shown(item.path)}: {error}; put it back as it was") from None
        if len(waiting) == TOGETHER:
            yield from encoded()
    yield from encoded()


def _manifest(source: Searcher, other: Artifact, items: Iterable[Item]) -> Manifest:
    """What is known of the images from the one, of the encoder from the other; nothing of it is measured."""
    ours, theirs = source.artifact.manifest, other.manifest
    learned = ("labels", "training_labels", "validation_labels", "codes")
    with other.open_catalogue() as catalogue:
        identities = [item.identity for item in items if item.split == "query"]
        known = catalogue.known_as(identities)
        seen = sum(any(twin.split == "database" for twin in known[each]) for each in identities)
    return replace(
        theirs,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        classes=ours.classes,
        data=ours.data
        | {name: theirs.data[name] for name in learned if name in theirs.data}
        | {"queries_seen": seen},
        metrics={},
    )
