"""The tree of the folders that images lie in.

Where an image lies is the name of the folder that it was sent from and its path in that; in the folder that
was indexed when the artifact was made it is the path alone. One that was sent alone lies nowhere.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, false, or_, select

from index.names import from_stored, normal, spellings, stored
from index.tables.rows import driver_rows
from index.tables.schema import ITEMS

LONGEST_FOLDER = 255  # characters of the name of one that was sent
AFTER_SLASH = chr(ord("/") + 1)


class Folder(NamedTuple):
    """A folder with images in it, or below."""

    path: str  # from the top, composed, and as `stored` writes it
    images: int  # in it and in all folders below
    folders: int  # in it, not below

    @property
    def name(self) -> str:
        """The last part of the path; as in all names a byte may be no character."""
        return from_stored(self.path).rpartition("/")[2]


Tree = Mapping[str, Sequence[Folder]]  # by the path of the folder they lie in; "": at the top


def tree(connection: Connection) -> Tree:
    """The folders of all items of the database split, by name, without regard to capitals first."""
    alone = ITEMS.c.folder == ""
    query = select(ITEMS.c.folder, ITEMS.c.path).where(
        ITEMS.c.split == "database", or_(ITEMS.c.folder.is_(None), ~alone)
    )
    directly = Counter[tuple[str | None, str]]()
    for some in driver_rows(connection, query):
        directly.update((folder, _parent(from_stored(path))) for folder, path in some)
    images = Counter[str]()
    for (folder, inside), count in directly.items():
        parts = normal("/".join(each for each in (folder, inside) if each)).split("/")
        if all(parts):  # a name with an empty part is no path
            for depth in range(1, len(parts) + 1):
                images["/".join(parts[:depth])] += count
    below = defaultdict[str, list[str]](list)
    for path in sorted(images, key=_by_name):
        below[_parent(path)].append(path)
    return {
        stored(parent): [Folder(stored(path), images[path], len(below.get(path, ()))) for path in paths]
        for parent, paths in list(below.items())
    }


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _by_name(path: str) -> tuple[str, str]:
    return path.casefold(), path


def after(folders: Sequence[Folder], path: str) -> Sequence[Folder]:
    """Those that come after this one, which may be gone, of folders that lie in one."""
    wanted = _by_name(from_stored(path))
    return folders[bisect_right(folders, wanted, key=lambda each: _by_name(from_stored(each.path))) :]


def lies_below(path: str) -> ColumnElement[bool]:
    """That an item lies in the folder with this path, as `tree` has it, or in one below: part of it is the
    name of a folder that was sent, and the rest the way in that, or the name begins with it."""
    parts = from_stored(path).split("/")
    if not all(parts):
        return false()
    found: list[ColumnElement[bool]] = [ITEMS.c.folder.is_(None) & _leads_into(ITEMS.c.path, path)]
    for count in range(1, len(parts) + 1):
        folder, inside = "/".join(parts[:count]), "/".join(parts[count:])
        if len(folder) > LONGEST_FOLDER or folder != stored(folder):  # which is text
            break
        sent = ITEMS.c.folder.in_(spellings(folder))
        found.append(sent & _leads_into(ITEMS.c.path, stored(inside)) if inside else sent)
    named = ITEMS.c.folder
    is_path = ~(named.contains("//") | named.endswith("/"))
    return or_(*found, _leads_into(named, path) & is_path)


def _leads_into(column: ColumnElement[Any], path: str) -> ColumnElement[bool]:
    """That a stored path leads into this folder. As ranges, which an index answers."""
    ways = {stored(each) for each in spellings(from_stored(path))}
    ranges = [each for way in ways for each in _ranges(f"{way}/")]
    return or_(*(and_(column >= begin, column < end) for begin, end in ranges))


def _ranges(prefix: str) -> Iterator[tuple[str, str]]:
    """From where and up to where paths begin with a folder's path and a slash: without those in which this is
    the first of the two slashes that stand for a byte, and with those in which two more follow it."""
    yield prefix, f"{prefix}/"
    yield f"{prefix}//", f"{prefix}/{AFTER_SLASH}"
    yield f"{prefix}{AFTER_SLASH}", f"{prefix[:-1]}{AFTER_SLASH}"
