"""The one walk through a folder of images: which files are in it, and in what order."""

import os
from pathlib import Path


class DataError(ValueError):
    """Something about the images or labels given; the message names it and the way out."""


def files_in(root: Path, without: Path | None = None) -> list[Path]:
    """All files below `root` but hidden ones and `without`, relative to it, ordered by their parts.

    Links to folders are followed, each folder once. Whatever is no folder is listed, broken links and pipes
    too: who opens them says what is wrong. Raises DataError for a folder that cannot be read: a whole class
    could be missing.
    """

    def fail(error: OSError) -> None:
        raise DataError(
            f"{error.filename}: the folder cannot be read ({error.strerror}); allow it, or move it elsewhere"
        )

    excluded = os.path.realpath(without) if without else None
    found, visited = [], set()
    for folder, subfolders, names in os.walk(root, onerror=fail, followlinks=True):
        here = os.path.realpath(folder)
        if here in visited:  # a link that leads back
            subfolders.clear()
            continue
        visited.add(here)
        # In order, so that of two ways to a folder the same one is taken on every machine.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        found += [path.relative_to(root) for path in paths if os.path.realpath(path) != excluded]
    return sorted(found)
