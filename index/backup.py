"""A copy of an artifact while it is served and changed."""

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from index import artifact
from index.artifact import CATALOGUE, ORIGINALS, Artifact, ArtifactError, sync
from index.catalogue import Catalogue
from index.originals import Originals
from index.sqlite import CatalogueError


def copy_artifact(source: Path, target: Path) -> Artifact:
    """The artifact in `source`, as it is at one moment, in the new folder `target`, whole or not at all.

    Who reads or searches it does not wait; who adds or removes images waits while the last kept files are
    linked. On one file system kept files are links to the same bytes, which never change. ArtifactError.
    """
    try:
        if target.exists():
            raise ArtifactError(f"{target}: exists already; choose another name")
        folder = TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", ignore_cleanup_errors=True)
        with folder as name:
            staging = Path(name)
            staging.chmod(source.stat().st_mode)
            _copy(source, staging)
            made = artifact.open_artifact(staging)
            made.open_catalogue().close()
            for path in (staging, *staging.rglob("*")):
                if path.parent.parent != staging / ORIGINALS:  # the kept files are on the disk already
                    sync(path)
            staging.rename(target)
        sync(target.parent)
    except (OSError, sqlite3.Error, CatalogueError) as error:
        raise ArtifactError(f"{target}: cannot be made ({error})") from error
    return replace(made, path=target)


def _copy(source: Path, staging: Path) -> None:
    for name in (artifact.MANIFEST, artifact.ENCODER, artifact.QUERIES):
        if (source / name).exists():
            shutil.copyfile(source / name, staging / name)
    originals, kept = Originals(source / ORIGINALS), Originals(staging / ORIGINALS)
    _link(originals, kept)  # nearly all, while nobody waits
    address = f"{(source / CATALOGUE).resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as catalogue:
        with originals.alone(make=os.access(source, os.W_OK)):
            _link(originals, kept)
            catalogue.execute("BEGIN")
            catalogue.execute("SELECT value FROM meta").fetchone()  # this state is what it sees from here on
        with closing(sqlite3.connect(staging / CATALOGUE)) as copy:
            catalogue.backup(copy)
    with Catalogue.open(staging / CATALOGUE) as copied:
        for key in (artifact.SUCCESSOR, artifact.PREDECESSOR):  # they are beside the other one
            copied.note(key, None)
        needed = copied.hashes()
    for sha256 in kept.hashes():
        if sha256 not in needed:
            kept.path(sha256).unlink()


def _link(originals: Originals, kept: Originals) -> None:
    for sha256 in originals.hashes():
        path = kept.path(sha256)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(originals.path(sha256), path)
            except FileNotFoundError:  # its image was removed at this moment
                continue
            except OSError:  # another file system, or one without links
                shutil.copyfile(originals.path(sha256), path)
                sync(path)
