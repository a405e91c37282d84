"""Shards are brought into the catalogue of an artifact. No HTTP in it."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from index import shards
from index.artifact import CATALOGUE, QUERIES, Artifact, ArtifactError, open_artifact, open_bare
from index.catalogue import Catalogue, is_there
from index.postgres_catalogue import without_password
from index.shards import Counted, Plan, ShardError

LOADED = "loaded shards"  # note of a catalogue: the digests of those that it holds


@dataclass(frozen=True)
class Brought:
    """A part that the catalogue holds."""

    number: int
    counted: Counted
    arrivals: Counter[str] | None  # how many were added, there already, or in the trash; None: it was loaded


@dataclass(frozen=True)
class Loading:
    """What is to be loaded: checked, and not begun."""

    folder: Path
    plan: Plan
    there: dict[int, Counted]  # the parts that are there, by their numbers
    _artifact: Artifact

    def do(self) -> Iterator[Brought]:
        """Bring in the parts that the catalogue does not hold yet, each when it is there. What was begun and
        not ended is begun again: an image whose bytes are there is not added. Raises ShardError,
        ArtifactError and CatalogueError."""
        with closing(_catalogue_of(self._artifact)) as catalogue:
            loaded = _loaded(catalogue)
            for number, counted in self.there.items():
                if counted.contents in loaded:
                    yield Brought(number, counted, None)
                    continue
                for _ in shards.read(self.folder, self.plan, number):
                    pass  # what is damaged is known before any of it is there
                arrivals = Counter[str]()
                for rows in shards.read(self.folder, self.plan, number):
                    items = [row.item for row in rows if row.item is not None]
                    arrivals.update(arrival for _, arrival in catalogue.add_unknown(items))
                loaded.append(counted.contents)
                catalogue.note(LOADED, json.dumps(loaded))
                yield Brought(number, counted, arrivals)


def prepare(folder: Path, path: Path, url: str | None = None) -> Loading:
    """The shards in `folder`, to be loaded into the artifact in `path`, whose catalogue lies in PostgreSQL if
    there is a `url`. Raises ShardError, ArtifactError and CatalogueError, before anything is changed, where
    they do not fit, or one of them is not whole."""
    shards.require()
    plan = Plan.read(folder)
    artifact = _artifact_in(path, url)
    if plan.encoder_id != artifact.manifest.encoder_id:
        raise ShardError(
            f"{folder}: its codes are of encoder {plan.encoder_id}, and those of {path} of "
            f"{artifact.manifest.encoder_id}; encode the images with --encoder {path}"
        )
    numbers = [number for number in range(plan.parts) if shards.path_of(folder, number).exists()]
    if not numbers:
        raise ShardError(f"{folder}: none of its {plan.parts:,} parts is there; give hebbsearch encode again")
    return Loading(folder, plan, {number: shards.check(folder, plan, number) for number in numbers}, artifact)


def _artifact_in(path: Path, url: str | None) -> Artifact:
    """The artifact, or a manifest and an encoder of which one is to become."""
    if is_there(url or path / CATALOGUE):
        return open_artifact(path, url)
    artifact = open_bare(path, url)
    if QUERIES in artifact.manifest.files:
        way_out = "copy all of the artifact here" if url is None else "bring them there with hebbsearch move"
        where = without_password(url) if url else path / CATALOGUE
        raise ArtifactError(
            f"{where}: no catalogue is there, and with it the images that are held out are missing; {way_out}"
        )
    return artifact


def _catalogue_of(artifact: Artifact) -> Catalogue:
    place, manifest = artifact.url or artifact.path / CATALOGUE, artifact.manifest
    if not is_there(place):
        return Catalogue.create(
            place, encoder_id=manifest.encoder_id, bits=manifest.bits, classes=manifest.classes
        )
    catalogue = artifact.open_catalogue()
    if not catalogue.writable:
        catalogue.close()
        raise ArtifactError(f"{catalogue.path}: cannot be written to; let this user write there")
    return catalogue


def _loaded(catalogue: Catalogue) -> list[str]:
    """The digests of the parts that it holds."""
    return list(json.loads(catalogue.noted(LOADED) or "[]"))
