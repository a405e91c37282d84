"""The folder in which an artifact is made, beside its place, and what a crash leaves of such folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from index.locking import locked

PREFIX = ".unfinished-"
LOCK = ".lock"  # held for as long as somebody works there


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Where nothing is yet, on the file system of `target`: what is made there is renamed to `target` when it
    is whole, and else removed. OSError."""
    folder = TemporaryDirectory(dir=target.parent, prefix=PREFIX, ignore_cleanup_errors=True)
    with folder as name, locked(Path(name) / LOCK):
        yield Path(name) / target.name


def abandoned(parent: Path) -> list[Path]:
    """The folders of `staging` in this one in which nobody works any more: a crash came before they were
    removed."""
    return sorted(
        folder
        for folder in parent.glob(f"{PREFIX}*")
        if folder.is_dir() and not folder.is_symlink() and _is_free(folder / LOCK)
    )


def _is_free(lock: Path) -> bool:
    """Whether nobody holds it; where that cannot be known, somebody may."""
    if not lock.exists():
        return True
    try:
        with locked(lock):
            return True
    except OSError:
        return False
