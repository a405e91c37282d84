"""What tests of shards share: pictures in folders, and what a catalogue holds of them."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from index.artifact import CATALOGUE, ENCODER, MANIFEST, Artifact, encoder_id, open_artifact
from index.catalogue import Catalogue
from index.walking import sha256_of
from service.core.artifacts import encoding, loading
from service.core.artifacts.encoding import Worker
from training.nets.encoder import Coding, Description, Encoder

SMALL = 7  # images of a part


def encode(
    data: str | Path, encoder_of: Path, out: Path, *workers: Worker, **more: Any
) -> list[encoding.Done]:
    """By these workers, one after the other."""
    how = {"part_size": SMALL} | more
    every = [encoding.prepare(str(data), encoder_of, out, each, **how) for each in workers or [Worker()]]
    return [done for work in every for done in work.do()]


def load(folder: Path, artifact: Path, url: str | None = None) -> list[loading.Brought]:
    return list(loading.prepare(folder, artifact, url).do())


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def known(artifact: Path, folder: str | None = None, url: str | None = None) -> dict[str, tuple[object, ...]]:
    """All that the catalogue knows of the images of a folder, by path, but when they came and their ids."""
    with Catalogue.open(url or artifact / CATALOGUE) as catalogue:
        codes = catalogue.codes()
        of_id = dict(zip(codes.ids.tolist(), codes.codes.tolist(), strict=True))
        items = [item for item in catalogue.page(count=10_000) if item.folder == folder]
        ids = [item.id for item in items]
        pictures, thumbnails = catalogue.pictures.of(ids), catalogue.pictures.thumbnails(ids)
        vectors = {id_: vector.tolist() for id_, vector in catalogue.embeddings_of(ids).items()}
        return {
            item.path: (
                item.label,
                item.source,
                item.split,
                (item.width, item.height),
                item.sha256,
                dict(item.metadata),
                of_id[item.id],
                pictures.get(item.id),
                thumbnails[item.id],
                vectors.get(item.id),
            )
            for item in items
        }


def embedding(artifact: Artifact, target: Path, data: Mapping[str, object]) -> Path:
    """The manifest of an artifact with an encoder that makes embeddings, and without images: of which an
    artifact can become by loading."""
    target.mkdir()
    coding = Coding(embedding=16, hidden=8)
    encoder = Encoder(Description("conv6", 32, whiten=False, bits=256, classes=3, coding=coding)).eval()
    random = np.random.default_rng(5)
    for name, tensor in encoder.state_dict().items():
        if name.startswith(("embedding.", "head.")) and tensor.dtype.is_floating_point:
            tensor.copy_(tensor.new_tensor(random.standard_normal(tuple(tensor.shape)) / 8))
    encoder.save(target / ENCODER)
    return manifest(artifact, target, data)


def manifest(artifact: Artifact, target: Path, data: Mapping[str, object]) -> Path:
    """That of an artifact, for the encoder in the folder `target`."""
    about = replace(
        artifact.manifest,
        encoder_id=encoder_id(target / ENCODER),
        files={ENCODER: sha256_of(target / ENCODER)},
        data=dict(artifact.manifest.data) | dict(data),
        metrics={},
    )
    (target / MANIFEST).write_text(about.to_json(), encoding="utf-8")
    return target


def bare(artifact: Artifact, target: Path) -> Path:
    """Manifest and encoder of an artifact, and nothing else."""
    target.mkdir()
    shutil.copyfile(artifact.path / ENCODER, target / ENCODER)
    return manifest(artifact, target, {})


def images_in(path: Path) -> int:
    with open_artifact(path).open_catalogue() as catalogue:
        return catalogue.counts()["database"]
