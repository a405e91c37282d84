"""From a trained run to an artifact: codes, catalogue, measurements, manifest."""

import dataclasses
import datetime
import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from index import artifact
from index.catalogue import Catalogue
from index.codes import Codes
from index.evaluation import mean_average_precision
from index.items import UNLABELLED, File, NewItem
from training.data import DataError, ImageSet, Positions
from training.device import describe
from training.finetune import accuracy
from training.nets.encoder import Encoder
from training.nets.images import ImageError, thumbnail
from training.pixels import each_batch, progress, stream
from training.run import Run


def export(run: Run, method: str, staging: Path, target: Path) -> artifact.Artifact:
    """Write all of `run` into the new folder `staging` and publish it as `target`."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    encoder = run.encoder()
    encoder.save(staging / artifact.ENCODER)
    identity = artifact.encoder_id(staging / artifact.ENCODER)
    split = run.split
    codes = encode(run, encoder, split.database)
    metrics: dict[str, Any] = {
        "seconds": {stage: round(seconds, 1) for stage, seconds in run.seconds.items()},
        "validation_accuracy": run.validation,
    }
    with Catalogue.create(
        staging / artifact.CATALOGUE, encoder_id=identity, bits=encoder.bits, classes=run.classes
    ) as catalogue:
        catalogue.add(items(run, split.database, "database", codes))
        if len(split.queries):
            query_codes = encode(run, encoder, split.queries)
            ids = catalogue.add(items(run, split.queries, "query", None))
            labels = run.images.labels[split.queries]
            queries = artifact.Queries(query_codes, labels, np.array(ids, np.int64))
            artifact.save_queries(staging / artifact.QUERIES, queries)
            metrics |= measure(run, codes, query_codes)
    return artifact.publish(staging, target, manifest(run, encoder, identity, method, metrics))


def encode(run: Run, encoder: Encoder, positions: Positions) -> Codes:
    """Codes of the images at `positions` (n, bits / 8)."""
    groups = each_batch("encoding", positions, 256, run.home)
    streamed = stream(run.pixels, groups, run.device)
    return np.concatenate([encoder.encode(pixels) for _, pixels in streamed])


def measure(run: Run, database: Codes, queries: Codes) -> dict[str, float]:
    """What the held-out queries say of codes and classifier."""
    labels, split = run.images.labels, run.split
    ranked = labels[split.database] != UNLABELLED
    codes_and_labels = (queries, labels[split.queries], database[ranked], labels[split.database][ranked])
    run.model.eval()
    batches = run.labelled(run.normalised(run.groups(split.queries)))  # in 32 bits, as the service encodes
    return {
        "map": mean_average_precision(*codes_and_labels),
        "map_at_100": mean_average_precision(*codes_and_labels, k=100),
        "map_at_100_retrieved": mean_average_precision(*codes_and_labels, k=100, denominator="retrieved"),
        "top1": accuracy(run.model.classifier, batches),
    }


def items(
    run: Run, positions: Positions, split: Literal["database", "query"], codes: Codes | None
) -> Iterator[NewItem]:
    """Catalogue rows of the images at `positions`, each read once more for its size and thumbnail."""

    def row(number: int) -> NewItem:
        position = int(positions[number])
        try:
            image, file = run.images.open(position), file_of(run.images, position)
        except (ImageError, OSError) as error:
            raise DataError(
                f"{run.images.paths[position]}: changed while the run was reading it ({error}); "
                "put it back and go on with --resume"
            ) from error
        return NewItem(
            path=run.images.paths[position],
            label=int(run.images.labels[position]) if run.classes else UNLABELLED,
            split=split,
            width=image.width,
            height=image.height,
            thumbnail=thumbnail(image),
            code=None if codes is None else codes[number],
            file=file,
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from progress("thumbnails", pool.map(row, range(len(positions))), len(positions))


def file_of(images: ImageSet, position: int) -> File | None:
    """By what the image's file is recognised when it comes again; None if it lies in no folder."""
    if images.root is None:
        return None
    path = images.root / images.paths[position]
    content, about = path.read_bytes(), path.stat()
    return File(hashlib.sha256(content).digest(), None, about.st_size, about.st_mtime_ns)


def manifest(
    run: Run, encoder: Encoder, identity: str, method: str, metrics: dict[str, Any]
) -> artifact.Manifest:
    """What is worth knowing of this run."""
    split, config = run.split, run.config
    labelled = int((run.images.labels[split.database] != UNLABELLED).sum()) if run.classes else 0
    return artifact.Manifest(
        format=artifact.FORMAT,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        encoder_id=identity,
        bits=encoder.bits,
        classes=run.classes,
        config=dataclasses.asdict(config),
        preprocessing=encoder.preprocessing(),
        versions=versions() | {"device": describe(run.device), "precision": run.precision},
        data={
            "name": run.images.name,
            "root": None if run.images.root is None else str(run.images.root),
            "database": len(split.database),
            "labelled": labelled,
            "unlabelled": len(split.database) - labelled,
            "queries": len(split.queries),
            "skipped": run.skipped,
            "labels": config.labels if run.classes else "none",
            "training_labels": len(split.training),
            "validation_labels": len(split.validation),
            "codes": method,
        },
        metrics=metrics,
    )


def versions() -> dict[str, str]:
    """Of everything that the numbers depend on."""
    packages = ("torch", "torchvision", "faiss-cpu", "numpy", "pillow", "hebbsearch")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
