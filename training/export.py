"""From a trained run to an artifact: codes, catalogue, measurements, manifest."""

import datetime
import os
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index import artifact
from index.advice import judged
from index.catalogue import Catalogue
from index.codes import Codes
from index.evaluation import headline
from index.items import UNLABELLED, NewItem, Picture
from index.names import shown
from index.near_copies import LEAVE_OUT
from index.tables.listing import Listing
from training.coding.predictions import predict, top1
from training.data import DataError, Positions
from training.device import describe
from training.learning.division import near_copies
from training.learning.finetune import accuracy
from training.nets.encoder import Encoded, Encoder
from training.nets.images import ImageError, picture_hashes, square_pixels, thumbnail
from training.pixels import ahead, each_batch, opened
from training.run import Run

Split = Literal["database", "query"]


def export(run: Run, method: str, staging: Path, target: Path) -> artifact.Artifact:
    """Write all of `run` into the new folder `staging` and publish it as `target`."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    encoder = run.encoder()
    encoder.save(staging / artifact.ENCODER)
    identity = artifact.encoder_id(staging / artifact.ENCODER)
    metrics: dict[str, Any] = {
        "seconds": {stage: round(seconds, 1) for stage, seconds in run.seconds.items()},
        "validation_accuracy": run.validation,
    }
    with Catalogue.create(
        staging / artifact.CATALOGUE, encoder_id=identity, bits=encoder.bits, classes=run.classes
    ) as catalogue:
        indexed = [add_images(run, encoder, catalogue, "database")]
        if len(run.split.queries):
            queries = add_images(run, encoder, catalogue, "query")
            labels = run.images.labels[queries.positions]
            artifact.save_queries(
                staging / artifact.QUERIES, artifact.Queries(queries.codes, labels, queries.ids)
            )
            copies = np.isin(indexed[0].ids, catalogue.copies_of_queries())
            near = np.isin(indexed[0].ids, near_copies(catalogue))
            unranked = copies | near if run.config.near_copies == LEAVE_OUT else copies
            metrics |= measure(run, indexed[0], queries, unranked)
            metrics |= {"copies_of_queries": int(copies.sum()), "near_copies": int(near.sum())}
            metrics["top1"] = classified(run, catalogue, queries.positions)
            indexed.append(queries)
        if run.coded is not None:
            table, (_, vectors) = catalogue.codes(), catalogue.embeddings()
            held, known = np.zeros(len(table.ids), bool), run.coded.learned.calibration
            metrics["calibration"] = asdict(predict(catalogue, encoder, table, vectors, held, known))
            catalogue.doubts.keep(judged(table, vectors))
        labelled = catalogue.page(Listing(labels=range(len(run.classes))), count=2**31)
        artifact.save_learned(staging / artifact.LEARNED, (item.sha256 for item in labelled))
    return artifact.publish(staging, target, manifest(run, encoder, identity, indexed, method, metrics))


class Indexed(NamedTuple):
    """Images that the catalogue has: positions (n,) in the set, ids (n,), codes (n, bits / 8)."""

    positions: Positions
    ids: Positions
    codes: Codes


def add_images(run: Run, encoder: Encoder, catalogue: Catalogue, split: Split) -> Indexed:
    """Read each image of the split once more, and encode, hash and show what was read, whatever training
    saw. What cannot be read any more is left out and named among what was skipped."""
    positions = run.split.database if split == "database" else run.split.queries
    groups, done = each_batch(f"indexing, {split}", positions, 256), list[Indexed]()
    known = np.full(len(run.images), -1)  # of each image its row among those that were learned from
    known[run.split.pretraining] = np.arange(len(run.split.pretraining))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _, found in ahead(pool, partial(read, run, split), groups):
            rows = [row for row in found if isinstance(row, Row)]
            run.skipped += [row for row in found if not isinstance(row, Row)]
            if rows:
                codes, embeddings = encoded(run, encoder, rows, known)
                coded = codes if split == "database" else [None] * len(rows)
                kept = [None] * len(rows) if embeddings is None else embeddings
                ids = catalogue.add(
                    replace(row.item, code=code, embedding=embedding)
                    for row, code, embedding in zip(rows, coded, kept, strict=True)
                )
                at = np.array([row.position for row in rows], np.int64)
                done.append(Indexed(at, np.array(ids, np.int64), codes))
    if not done:
        raise DataError(
            f"{run.images.where}: none of its images can be read any more; put them back, and --resume"
        )
    return Indexed(*map(np.concatenate, zip(*done, strict=True)))


class Row(NamedTuple):
    """An image at its position in the set, as it is stored and as it is encoded."""

    position: int
    item: NewItem
    pixels: Tensor


def encoded(run: Run, encoder: Encoder, rows: list[Row], known: Positions) -> Encoded:
    """What is kept of images. Embeddings that training made of the same pixels, in rows that are `known` of
    each position, are not made again."""
    pixels = torch.stack([row.pixels for row in rows])
    if run.coded is None or not isinstance(run.pixels, Tensor):
        return encoder.encode_and_embed(pixels.to(run.device))
    at = np.array([row.position for row in rows])
    seen = run.pixels[torch.from_numpy(at).to(run.home)].cpu()
    same = (seen == pixels).flatten(1).all(1).numpy() & (known[at] >= 0)
    made = np.empty((len(rows), encoder.embedding_size), np.float16)
    made[same] = run.coded.vectors[known[at[same]]]
    if not same.all():
        made[~same] = encoder.embed(pixels[~same].to(run.device))
    return Encoded(encoder.code(made), made)


def read(run: Run, split: Split, position: int) -> Row | dict[str, str]:
    """One image, read once; or what is said of it if that is not possible any more."""
    images = run.images
    path = images.paths[position]
    try:
        image, file = opened(images, position)
    except (ImageError, OSError) as error:
        return {"path": shown(path), "reason": f"it changed while the run was reading it ({error})"}
    label = int(images.labels[position]) if run.classes else UNLABELLED
    hashes = picture_hashes(image)
    item = NewItem(
        path=path,
        label=label,
        split=split,
        width=image.width,
        height=image.height,
        thumbnail=thumbnail(image),
        code=None,
        file=file,
        picture=Picture(hashes.upright.tobytes(), hashes.quality),
        source="given" if images.grouped is None or not images.grouped[position] else "group",
    )
    return Row(position, item, square_pixels(image, run.config.image_size))


def measure(run: Run, database: Indexed, queries: Indexed, unranked: NDArray[np.bool_]) -> dict[str, float]:
    """What the held-out queries say of the codes. The `unranked` (n,) of the database are copies of queries:
    each query would find itself; nor are those ranked whose labels nobody looked at."""
    labels = run.images.looked_at
    known = labels[database.positions]
    ranked = (known != UNLABELLED) & ~unranked
    return headline(queries.codes, labels[queries.positions], database.codes[ranked], known[ranked])


def classified(run: Run, catalogue: Catalogue, queries: Positions) -> float:
    """How many of the queries get their own class as the most likely one."""
    if run.coded is not None:
        return top1(catalogue, run.coded.encoder)
    run.model.eval()
    # In 32 bits, as the service encodes.
    return accuracy(run.model.classifier, run.labelled(run.normalised(run.groups(queries))))


def manifest(
    run: Run, encoder: Encoder, identity: str, indexed: list[Indexed], method: str, metrics: dict[str, Any]
) -> artifact.Manifest:
    """What is worth knowing of this run. `indexed`: the database and, if there are any, the queries."""
    split, config, database = run.split, run.config, indexed[0].positions
    labelled = int((run.images.labels[database] != UNLABELLED).sum()) if run.classes else 0
    return artifact.Manifest(
        format=artifact.FORMAT,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        encoder_id=identity,
        bits=encoder.bits,
        classes=run.classes,
        config=asdict(config),
        preprocessing=encoder.preprocessing(),
        versions=versions() | {"device": describe(run.device), "precision": run.precision},
        data={
            "name": run.images.name,
            "root": None if run.images.root is None else str(run.images.root),
            "database": len(database),
            "labelled": labelled,
            "unlabelled": len(database) - labelled,
            "queries": sum(len(queries.ids) for queries in indexed[1:]),
            "skipped": run.skipped,
            "labels": config.labels if run.classes else "none",
            "training_labels": len(split.training),
            "validation_labels": len(split.validation),
            "codes": method,
        }
        | ({} if run.origin is None else {"weights": asdict(run.origin)}),
        metrics=metrics,
    )


def versions() -> dict[str, str]:
    """Of everything that the numbers depend on."""
    packages = ("torch", "torchvision", "faiss-cpu", "numpy", "pillow", "hebbsearch")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
