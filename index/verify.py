"""What is wrong with an artifact: all of it, by name."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from index.artifact import ORIGINALS, QUERIES, Artifact, ArtifactError, file_faults, read_manifest
from index.catalogue import Catalogue
from index.database import DAMAGE
from index.originals import Originals
from index.staging import abandoned
from index.walking import sha256_of


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    path: Path | str  # a file or folder, or the schema of a server that keeps the catalogue
    what: str
    orphan: bool = False  # what nothing needs, such as a crash leaves: `sweep` removes it

    def __str__(self) -> str:
        return self.what if self.what.startswith(str(self.path)) else f"{self.path}: {self.what}"


def faults(path: Path, url: str | None = None) -> Iterator[Fault]:
    """All faults of the artifact in this folder, those first that hide others. `url`: of its catalogue, where
    that lies in PostgreSQL.

    Reads every kept file and the whole catalogue. Of what a service changes meanwhile, something may be named
    that is none.
    """
    try:
        manifest = read_manifest(path)
        wrong = [Fault(file, what) for file, what in file_faults(path, manifest, url)]
        yield from wrong
        artifact = Artifact(path, manifest, url)
        with artifact.open_catalogue() as catalogue:
            parts: list[Iterator[Fault]] = [(Fault(catalogue.path, what) for what in catalogue.faults())]
            if not any(fault.path == path / QUERIES for fault in wrong):
                parts.append(_queries(artifact, catalogue))
            parts.append(_embeddings(catalogue))
            parts.append(_originals(Originals(path / ORIGINALS), catalogue))
            for part in parts:
                yield from _as_far_as_it_is_read(part, artifact, catalogue)
    except ArtifactError as error:
        yield Fault(path, str(error))  # which names the file
    except OSError as error:
        yield Fault(Path(error.filename or path), error.strerror or str(error))
    for folder in abandoned(path.resolve().parent):
        yield Fault(folder, "is a copy that was not finished", orphan=True)


def sweep(path: Path, url: str | None = None) -> list[Path]:
    """Remove what a crash leaves: kept files that no image needs, and copies beside the artifact that were
    not finished; which they were. ArtifactError, before anything is removed, also where the catalogue is
    damaged and may not know what it needs."""
    originals = Originals(path / ORIGINALS)
    with Artifact(path, read_manifest(path), url).open_catalogue() as catalogue, originals.alone():
        if (fault := next(catalogue.faults(thumbnails=False), None)) is not None:
            raise ArtifactError(f"{catalogue.path}: {fault}; nothing was removed, as it may still be needed")
        needed = catalogue.hashes()  # within: who adds keeps the file first
        swept = [originals.path(sha256) for sha256 in originals.hashes() if sha256 not in needed]
        swept += originals.strays()
        for file in swept:
            file.unlink()
    for folder in abandoned(path.resolve().parent):
        shutil.rmtree(folder)
        swept.append(folder)
    return swept


def _as_far_as_it_is_read(
    found: Iterator[Fault], artifact: Artifact, catalogue: Catalogue
) -> Iterator[Fault]:
    """What damage keeps from being read is a fault too, and hides no other."""
    try:
        yield from found
    except DAMAGE as error:
        named = isinstance(error, ArtifactError)  # by itself; CatalogueError by the catalogue's path
        yield Fault(artifact.path if named else catalogue.path, str(error))


def _queries(artifact: Artifact, catalogue: Catalogue) -> Iterator[Fault]:
    queries = artifact.queries()
    rows = [] if queries is None else list(zip(queries.ids.tolist(), queries.labels.tolist(), strict=True))
    held_out, known = dict(rows), catalogue.held_out()
    others = {id_ for id_ in held_out.keys() & known.keys() if held_out[id_] != known[id_]}
    path = artifact.path / QUERIES
    for ids, what in (
        (held_out.keys() - known.keys(), "is none of the catalogue's held-out queries"),
        (known.keys() - held_out.keys(), "is held out in the catalogue and not here"),
        (others, "has another label there"),
    ):
        yield from (Fault(path, f"query {id_} {what}") for id_ in sorted(ids))
    if len(held_out) < len(rows):
        yield Fault(path, f"holds {len(rows) - len(held_out):,} ids more than once")


def _embeddings(catalogue: Catalogue) -> Iterator[Fault]:
    """An index keeps one of each image, or none at all."""
    missing, counts = catalogue.without_embedding(), catalogue.counts()
    if 0 < len(missing) < counts["database"] + counts["queries"]:
        yield Fault(catalogue.path, f"{len(missing):,} images have no embedding, such as image {missing[0]}")


def _originals(originals: Originals, catalogue: Catalogue) -> Iterator[Fault]:
    needed = catalogue.hashes()
    for sha256 in originals.hashes():
        path = originals.path(sha256)
        if sha256_of(path) != path.name:
            yield Fault(path, "is damaged: its SHA-256 is not its name")
        if sha256 not in needed:
            yield Fault(path, "belongs to no image", orphan=True)
    yield from (Fault(path, "was not written to its end", orphan=True) for path in originals.strays())
