"""A copy of an artifact while it is served and changed."""

import errno
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from index import artifact
from index.artifact import CATALOGUE, ORIGINALS, Artifact, ArtifactError, sync
from index.catalogue import Catalogue, copy_to_file
from index.database import CatalogueError
from index.originals import Originals
from index.sqlite import WRITABLE, open_mode
from index.staging import staging
from index.tables.connections import moved_to
from index.tables.moving import BESIDE


def copy_artifact(source: Path, target: Path, url: str | None = None) -> Artifact:
    """The artifact in `source`, as it is at one moment, in the new folder `target`, whole or not at all. Its
    catalogue is a file there, also where it is at a `url`.

    Who reads or searches it does not wait; who adds or removes images waits while the last kept files are
    linked. On one file system kept files are links to the same bytes, which never change. ArtifactError.
    """
    try:
        if target.exists():
            raise ArtifactError(f"{target}: exists already; choose another name")
        if url is None and (place := artifact.moved_place(source)) is not None:
            raise ArtifactError(f"{source / CATALOGUE}: {moved_to(place)}")
        with staging(target) as folder:
            folder.mkdir()
            _copy(source, folder, url)
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


def _copy(source: Path, folder: Path, url: str | None) -> None:
    for name in (artifact.MANIFEST, *artifact.FIXED):
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    originals, kept = Originals(source / ORIGINALS), Originals(folder / ORIGINALS)
    _link(originals, kept)  # nearly all, while nobody waits
    if url is None:
        _copy_file(source, folder, originals, kept)
    else:
        copy_to_file(url, folder / CATALOGUE, _linked(originals, kept))
    with Catalogue.open(folder / CATALOGUE) as copied:
        copied.note_all(dict.fromkeys(BESIDE))
        needed = copied.hashes()
    for sha256 in kept.hashes():
        if sha256 not in needed:
            kept.path(sha256).unlink()


def _copy_file(source: Path, folder: Path, originals: Originals, kept: Originals) -> None:
    """The catalogue, page by page, with all files that it knows."""
    mode = open_mode(source / CATALOGUE)
    changes = mode == WRITABLE  # else there is nothing to wait for, and no lock can be written
    address = f"{(source / CATALOGUE).resolve().as_uri()}?{'mode=ro' if changes else mode}"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as catalogue:
        with _linked(originals, kept) if changes else nullcontext():
            catalogue.execute("BEGIN")
            catalogue.execute("SELECT value FROM meta").fetchone()  # this state is what it sees from here on
        with closing(sqlite3.connect(folder / CATALOGUE)) as copy:
            catalogue.backup(copy)


@contextmanager
def _linked(originals: Originals, kept: Originals) -> Iterator[None]:
    """Within, all files of images are linked, and none comes or goes."""
    with originals.alone(make=True):
        _link(originals, kept)
        yield


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
