"""A copy of an artifact while it is served and changed."""

import errno
import os
import shutil
import sqlite3
import stat
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

from index import artifact
from index.artifact import CATALOGUE, ORIGINALS, Artifact, ArtifactError, sync
from index.catalogue import Catalogue
from index.database import CatalogueError
from index.originals import Originals
from index.sqlite import WRITABLE, open_mode
from index.staging import staging


def copy_artifact(source: Path, target: Path) -> Artifact:
    """The artifact in `source`, as it is at one moment, in the new folder `target`, whole or not at all.

    Who reads or searches it does not wait; who adds or removes images waits while the last kept files are
    linked. On one file system kept files are links to the same bytes, which never change. ArtifactError.
    """
    try:
        if target.exists():
            raise ArtifactError(f"{target}: exists already; choose another name")
        with staging(target) as folder:
            folder.mkdir()
            _copy(source, folder)
            made = artifact.open_artifact(folder)
            made.open_catalogue().close()
            folder.chmod(source.stat().st_mode | stat.S_IRWXU)  # nobody may write to that one, perhaps
            for path in (folder, *folder.rglob("*")):
                if path.parent.parent != folder / ORIGINALS:  # the kept files are on the disk already
                    sync(path)
            folder.rename(target)
            sync(folder.parent)  # both that a name went from and, below, that it came to
        sync(target.parent)
    except (OSError, sqlite3.Error, CatalogueError) as error:
        way_out = "; copy its folder to another place" if _is_fixed(error) else ""
        raise ArtifactError(f"{target}: cannot be made ({error}){way_out}") from error
    return replace(made, path=target)


def _is_fixed(error: Exception) -> bool:
    """Whether nothing may be written there."""
    return isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)


def _copy(source: Path, folder: Path) -> None:
    for name in (artifact.MANIFEST, *artifact.FIXED):
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    originals, kept = Originals(source / ORIGINALS), Originals(folder / ORIGINALS)
    _link(originals, kept)  # nearly all, while nobody waits
    mode = open_mode(source / CATALOGUE)
    changes = mode == WRITABLE  # else there is nothing to wait for, and no lock can be written
    address = f"{(source / CATALOGUE).resolve().as_uri()}?{'mode=ro' if changes else mode}"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as catalogue:
        with originals.alone(make=True) if changes else nullcontext():
            _link(originals, kept)
            catalogue.execute("BEGIN")
            catalogue.execute("SELECT value FROM meta").fetchone()  # this state is what it sees from here on
        with closing(sqlite3.connect(folder / CATALOGUE)) as copy:
            catalogue.backup(copy)
    with Catalogue.open(folder / CATALOGUE) as copied:
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
