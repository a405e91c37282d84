"""The one walk through a folder of images: which files are in it, their order, and what tells them apart."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR


class DataError(ValueError):
    """Something about the images or labels given; the message names it and the way out."""


def sha256_of(path: Path) -> str:
    """Of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Walk:
    """What is in a folder; all paths are relative to it.

    `files`: ordered by their parts. `unreadable`: folders that cannot be listed and links that lead nowhere,
    with the reason; what lies behind them is not known.
    """

    files: list[Path] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)


def walk(root: Path, without: Path | None = None) -> Walk:
    """All files below `root` but hidden ones and `without`.

    Links are followed, and each real file is there once: by its own path if that lies in the folder, else by
    the link that comes first. What is no folder is a file, pipes too: who opens it says what is wrong. Raises
    DataError if `root` itself cannot be read.
    """
    found, visited, links_to_files = Walk(), set[str](), list[str]()
    places = [str(root)]
    while places:  # first the folder itself, then what its links lead to, then what theirs lead to
        links = list[str]()
        for place in sorted(places):
            for entry in _below(place, visited, found.unreadable):
                if entry.is_symlink():
                    links.append(entry.path)
                else:
                    found.files.append(Path(entry.path))
        places = []
        for link in sorted(links):
            try:
                (places if S_ISDIR(os.stat(link).st_mode) else links_to_files).append(link)
            except FileNotFoundError:
                found.unreadable[Path(link)] = "the link leads nowhere"
            except OSError as error:
                found.unreadable[Path(link)] = f"the link cannot be followed ({error.strerror})"
    found.files += _others(sorted(links_to_files), visited)
    if root in found.unreadable:
        raise DataError(f"{root}: {found.unreadable[root]}; allow it, or name another folder")
    excluded = os.path.realpath(without) if without else None
    return Walk(
        sorted(file.relative_to(root) for file in found.files if os.path.realpath(file) != excluded),
        {place.relative_to(root): reason for place, reason in found.unreadable.items()},
    )


def _below(place: str, visited: set[str], unreadable: dict[Path, str]) -> Iterator[os.DirEntry[str]]:
    """All below a folder that is no folder itself; links are not followed, and no folder is visited twice."""
    folders = [place]
    while folders:
        folder = folders.pop()
        if (real := os.path.realpath(folder)) in visited:
            continue
        visited.add(real)
        try:
            with os.scandir(folder) as listing:
                entries = [entry for entry in listing if not entry.name.startswith(".")]
        except OSError as error:
            unreadable[Path(folder)] = f"the folder cannot be read ({error.strerror})"
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                yield entry


def _others(links: list[str], visited: set[str]) -> Iterator[Path]:
    """The links to files that are not listed already, in a visited folder or by an earlier link."""
    taken = set[str]()
    for link in links:
        real = os.path.realpath(link)
        folder, name = os.path.split(real)
        if real not in taken and (folder not in visited or name.startswith(".")):
            taken.add(real)
            yield Path(link)
