"""The folder that a training run leaves and the service opens.

manifest.json describes it and holds the SHA-256 of every file that does not change. The catalogue
does change; it carries its own integrity and is bound to the encoder by the encoder's id.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from index.catalogue import Catalogue
from index.codes import Codes, check_codes
from index.database import CatalogueError, CatalogueUnavailable
from index.items import MOVED, Changes
from index.items import SUCCESSOR as SUCCESSOR
from index.tables.connections import moved_to
from index.walking import sha256_of

FORMAT = 1
MANIFEST = "manifest.json"
ENCODER = "encoder.safetensors"
CATALOGUE = "catalogue.sqlite"
QUERIES = "queries.npz"
LEARNED = "learned.npy"
FIXED = (
    ENCODER,
    QUERIES,
    LEARNED,
)  # what never changes and the manifest lists; only the first is always there
ORIGINALS = "originals"

MISSING = "is missing; name a folder that hebbsearch build made"

# What catalogues note of their artifacts, beside SUCCESSOR.
BUILT = "built"  # the revision with which it was published: what came later, people did
PREDECESSOR = "predecessor"  # the folder beside this one whose place it took
PREDECESSOR_AT = "predecessor_at"  # and the schema of its catalogue, if it lies in one
TAKEN_OVER = "taken over"  # at this revision


# What the service shows of `data` and `config`, each possibly missing.
_TEXT, _COUNT = (str, type(None)), (int, type(None))
STATED: dict[str, dict[str, tuple[type, ...]]] = {
    "data": {
        "name": _TEXT,
        "root": _TEXT,
        "labels": _TEXT,
        "training_labels": _COUNT,
        "validation_labels": _COUNT,
        "queries_seen": _COUNT,  # of another artifact's encoder: images that it was made with
    },
    "config": {"rule": _TEXT, "backbone": _TEXT, "near_copies": _TEXT},
}


class ArtifactError(ValueError):
    """The artifact cannot be used. One line that names the file and the way out."""


@dataclass(frozen=True)
class Manifest:
    format: int
    created: str  # ISO 8601, UTC
    encoder_id: str
    bits: int
    classes: tuple[str, ...]
    config: dict[str, Any]
    preprocessing: dict[str, Any]
    versions: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)  # name -> SHA-256; `publish` fills it in

    @property
    def learned_from(self) -> int | None:
        """Labels that the codes were learned from, or chosen by; None: an earlier version did not note it."""
        taught, chose = (self.data.get(f"{what}_labels") for what in ("training", "validation"))
        return None if taught is None or chose is None else int(taught + chose)

    def to_json(self) -> str:
        """ValueError for a number that JSON does not have, such as NaN."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        # Names of folders may be no UTF-8: their lone surrogates are written as JSON escapes them.
        return text.encode(errors="backslashreplace").decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """ValueError that says what is missing or of the wrong type."""
        try:
            values = json.loads(text)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        if not isinstance(values, dict):
            raise ValueError("is not a JSON object")
        if values.get("format") != FORMAT:
            raise ValueError(f"has format {values.get('format')!r}, this version reads {FORMAT}")
        kinds = {"format": int, "bits": int, "created": str, "encoder_id": str, "classes": list}
        for name in (each.name for each in fields(cls)):
            kind = kinds.get(name, dict)
            if not isinstance(values.get(name), kind):
                raise ValueError(f"has no {name!r} of JSON type {kind.__name__}")
        for part, wanted in STATED.items():
            for name, types in wanted.items():
                if not isinstance(values[part].get(name), types):
                    raise ValueError(f"has {part}.{name} of a wrong type: {values[part].get(name)!r:.40}")
        known = {each.name: values[each.name] for each in fields(cls)}
        return cls(**{**known, "classes": tuple(values["classes"])})


@dataclass(frozen=True)
class Queries:
    """The held-out queries; their thumbnails lie in the catalogue."""

    codes: Codes  # (n, bits/8)
    labels: NDArray[np.int64]  # (n,) class indices
    ids: NDArray[np.int64]  # (n,) in the catalogue


@dataclass(frozen=True)
class Artifact:
    """An artifact whose immutable files were verified."""

    path: Path
    manifest: Manifest
    url: str | None = field(default=None, repr=False)  # of its catalogue in PostgreSQL; None: it is a file

    @property
    def encoder_path(self) -> Path:
        return self.path / ENCODER

    def open_catalogue(self) -> Catalogue:
        """The catalogue, verified. ArtifactError if it is damaged or of another encoder."""
        return self.load_catalogue()[0]

    def load_catalogue(self) -> tuple[Catalogue, Changes]:
        """The same and what it holds, as `Catalogue.load`."""
        here = self.path / CATALOGUE
        try:
            if self.url is not None and here.is_file() and moved_place(self.path) is None:
                raise CatalogueUnavailable(
                    f"{here}: was not moved to PostgreSQL; hebbsearch move does that, or leave out "
                    "HEBBSEARCH_CATALOGUE"
                )
            catalogue, contents = Catalogue.load(self.url or here)
        except CatalogueError as error:
            way_out = "" if isinstance(error, CatalogueUnavailable) or self.url else "; build the index again"
            raise ArtifactError(f"{error}{way_out}") from error
        if (place := catalogue.noted(MOVED)) is not None:
            catalogue.close()
            raise ArtifactError(f"{here}: {moved_to(place)}")
        manifest = self.manifest
        # Images that were added may have brought more classes along.
        trained = catalogue.classes[: len(manifest.classes)]
        for name, found, wanted in (
            ("encoder_id", catalogue.encoder_id, manifest.encoder_id),
            ("bits", catalogue.bits, manifest.bits),
            ("classes", trained, manifest.classes),
        ):
            if found != wanted:
                catalogue.close()
                way_out = "name the schema of this artifact" if self.url else "build the index again"
                raise ArtifactError(
                    f"{catalogue.path}: its {name} is {found}, {MANIFEST} says {wanted}; {way_out}"
                )
        return catalogue, contents

    def queries(self) -> Queries | None:
        """The held-out queries; None where there are none."""
        if QUERIES not in self.manifest.files:
            return None
        return load_queries(self.path / QUERIES, bits=self.manifest.bits)

    def learned(self) -> frozenset[str]:
        """The SHA-256 of the files of those images whose labels taught it, or what it was made of: whatever
        becomes of these, they are never held out. Empty where an earlier version made it."""
        return load_learned(self.path / LEARNED) if LEARNED in self.manifest.files else frozenset()


def encoder_id(path: Path) -> str:
    """What names an encoder: the first 16 hexadecimal digits of its file's SHA-256."""
    return sha256_of(path)[:16]


def save_queries(path: Path, queries: Queries) -> None:
    """Write queries.npz. ValueError if the arrays do not fit together."""
    _check_queries(queries)
    np.savez_compressed(path, codes=queries.codes, labels=queries.labels, ids=queries.ids)


def load_queries(path: Path, *, bits: int) -> Queries:
    """Read queries.npz. ArtifactError names the fault."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            queries = Queries(arrays["codes"], arrays["labels"], arrays["ids"])
        check_codes(queries.codes, bits=bits)
        _check_queries(queries)
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise ArtifactError(f"{path}: no readable queries ({error}); build the index again") from error
    return queries


def save_learned(path: Path, hashes: Iterable[str | None]) -> None:
    """Write learned.npy, (n, 32) bytes, ascending; nothing where none of the hashes is known."""
    if known := sorted({sha256 for sha256 in hashes if sha256 is not None}):
        np.save(path, np.frombuffer(bytes.fromhex("".join(known)), np.uint8).reshape(-1, 32))


def load_learned(path: Path) -> frozenset[str]:
    """Read learned.npy. ArtifactError names the fault."""
    try:
        rows = np.load(path, allow_pickle=False)
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 32:
            raise ValueError(f"type {rows.dtype} and shape {rows.shape}; wanted uint8 (n, 32)")
    except (OSError, EOFError, ValueError) as error:
        raise ArtifactError(f"{path}: no readable hashes ({error}); build the index again") from error
    return frozenset(row.tobytes().hex() for row in rows)


def publish(staging: Path, target: Path, manifest: Manifest) -> Artifact:
    """Turn the folder `staging` into the artifact `target`, all at once.

    Both must lie on one file system. Hashes the immutable files, checks that manifest, encoder and
    catalogue belong together, writes the manifest, forces everything to disk and renames.
    ArtifactError if `target` exists or something does not fit; `staging` then stays as it is.
    """
    if target.exists():
        raise ArtifactError(f"{target}: exists already; choose another folder")
    if not (staging / ENCODER).is_file():
        raise ArtifactError(f"{staging / ENCODER}: {MISSING}")
    names = (name for name in FIXED if (staging / name).exists())
    manifest = replace(manifest, files={name: sha256_of(staging / name) for name in names})
    (staging / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    artifact = open_artifact(staging)
    artifact.queries(), artifact.learned()
    with artifact.open_catalogue() as catalogue:
        if catalogue.noted(BUILT) == "0":  # else it was published before, and people changed it since
            catalogue.note(BUILT, str(catalogue.revision))
    for path in (*staging.iterdir(), staging):
        sync(path)
    try:
        staging.rename(target)
    except OSError as error:
        raise ArtifactError(f"{target}: {error.strerror}; choose another folder") from error
    sync(target.parent)
    return Artifact(target, manifest)


def in_service(path: Path) -> Path:
    """The folder that is to be served where `path` is asked for: the one that took its place, if one did.

    ArtifactError where that is missing or they lead in a circle.
    """
    seen = [path.resolve()]
    while (name := _successor(seen[-1])) is not None:
        if not name or "\0" in name or Path(name).name != name:
            raise ArtifactError(
                f"{seen[-1] / CATALOGUE}: is damaged: its successor {name[:80]!r} is no folder beside it; "
                "serve another one"
            )
        path = (seen[-1].parent / name).resolve()
        if path in seen:
            raise ArtifactError(f"{seen[-1] / CATALOGUE}: its successors lead in a circle; serve another one")
        if not path.exists():
            raise ArtifactError(f"{path}: took the place of {seen[-1].name} and is missing; put it back")
        seen.append(path)
    return seen[-1]


def leave_out(path: Path) -> None:
    """Before this artifact is removed, have those whose place it took lead to the one that took its own: a
    restart that is asked for the first goes from each to the next. CatalogueError where one cannot be
    changed."""
    after = _successor(path)
    for other in path.parent.iterdir() if after is not None else ():
        if other.joinpath(CATALOGUE).is_file() and _successor(other) == path.name:
            with Catalogue.open(other / CATALOGUE) as catalogue:
                catalogue.note(SUCCESSOR, after)


def _successor(path: Path) -> str | None:
    """Read as it is, before anything is verified: what is wrong with it, `open_artifact` says. None where the
    catalogue was moved: what it leads to, it says where it is now."""
    try:
        successor = Catalogue.read_note(path / CATALOGUE, SUCCESSOR)
        return None if successor is None or moved_place(path) is not None else successor
    except CatalogueError:
        return None


def moved_place(path: Path) -> str | None:
    """Where the catalogue of the artifact in this folder was moved to, without a password. CatalogueError."""
    return Catalogue.read_note(path / CATALOGUE, MOVED)


def open_artifact(path: Path, url: str | None = None) -> Artifact:
    """The artifact in this folder, its manifest read and its immutable files verified. `url`: of its
    catalogue, where that lies in PostgreSQL."""
    try:
        manifest = read_manifest(path)
        for file, what in file_faults(path, manifest, url):
            raise ArtifactError(f"{file}: {what}")
    except OSError as error:
        raise ArtifactError(f"{error.filename or path}: {error.strerror}; make it readable") from error
    return Artifact(path, manifest, url)


def open_bare(path: Path, url: str | None = None) -> Artifact:
    """An artifact of which no more than manifest and encoder need be there, both verified. ArtifactError."""
    manifest = read_manifest(path)
    for file, what in file_faults(path, manifest, url):
        if file.name in (ENCODER, MANIFEST):
            raise ArtifactError(f"{file}: {what}")
    return Artifact(path, manifest, url)


def read_manifest(path: Path) -> Manifest:
    """That of the artifact in this folder. ArtifactError."""
    file = path / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{file}: {MISSING}")
    try:
        return Manifest.from_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{file}: {error}; build the index again") from error


def file_faults(path: Path, manifest: Manifest, url: str | None = None) -> Iterator[tuple[Path, str]]:
    """What is wrong with the files that the manifest of this folder names, each with its way out. `url` as
    above."""
    if url is None and not (path / CATALOGUE).is_file():
        yield path / CATALOGUE, f"{MISSING}, or set HEBBSEARCH_CATALOGUE, if it was moved to PostgreSQL"
    if ENCODER not in manifest.files or not manifest.files.keys() <= {*FIXED}:
        wanted = f"wanted {ENCODER} and perhaps {QUERIES} and {LEARNED}; build the index again"
        yield path / MANIFEST, f"lists files {sorted(manifest.files)}, {wanted}"
    for name, sha256 in manifest.files.items():
        if not (path / name).is_file():
            yield path / name, MISSING
        elif sha256_of(path / name) != sha256:
            what = "is not the file the artifact was made with (its SHA-256 differs)"
            yield path / name, f"{what}; restore it or build the index again"
    named, of_file = manifest.encoder_id, manifest.files.get(ENCODER, "")[:16]
    if named != of_file:
        what = f"encoder id {named} is not {of_file}, that of {ENCODER}; build the index again"
        yield path / MANIFEST, what


def _check_queries(queries: Queries) -> None:
    check_codes(queries.codes)
    for name in ("labels", "ids"):
        values: NDArray[np.int64] = getattr(queries, name)
        if values.shape != (len(queries.codes),) or values.dtype != np.int64:
            raise ValueError(
                f"{name} have type {values.dtype} and shape {values.shape}; "
                f"wanted int64 ({len(queries.codes)},)"
            )


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
