"""The one rule of what a label is, and the one reader of label files.

The page has the rule again in service/static/labels.js, to say what is wrong before anything is sent.
"""

import csv
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from index.names import normal
from index.sources import SOURCES, Source
from index.walking import DataError, sha256_of

if TYPE_CHECKING:  # clients ask what a label is, and need no NumPy
    from index.items import Item

LONGEST = 200  # characters of a label
DECOMPOSED = 4 * LONGEST  # no character has more than four parts; to compose many more would take long
# Unicode's property White_Space. What Python's own str.strip takes has four control characters more.
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
# By Unicode's general category. Not format characters (Cf): Persian and joined emoji are written with them.
NO_TEXT = {
    "Cc": "a control character",
    "Zl": "a line break",
    "Zp": "a line break",
    "Cs": "half of a surrogate pair",
}


class LabelError(DataError):
    """A text that is no label; the message names it, the place in it, and the way out."""


def normal_form(text: str) -> str:
    """What labels are compared by: composed (Unicode's NFC, UAX #15), without the white space around it."""
    text = text.strip(WHITE_SPACE)
    return unicodedata.normalize("NFC", text) if len(text) <= DECOMPOSED else text


def label_of(text: str, what: str = "label") -> str:
    """A text as a label, or as a key of metadata: its normal form; an empty one is none.

    LabelError for a control character, a line break or half of a surrogate pair within it, whose position is
    counted from 1 in the text as it was given, and for more than LONGEST characters.
    """
    label, before = normal_form(text), len(text) - len(text.lstrip(WHITE_SPACE))
    if len(label) > LONGEST:
        raise LabelError(
            f"{what} {label[:40] + '…'!r}: it has {len(label):,} characters, at most {LONGEST} are kept; "
            "shorten it"
        )
    for position, character in enumerate(text.strip(WHITE_SPACE), before + 1):
        if kind := NO_TEXT.get(unicodedata.category(character)):
            raise LabelError(
                f"{what} {label!r}: there is {kind} (U+{ord(character):04X}) at position {position}; "
                "leave it out"
            )
    return label


def known_as(text: str, labels: Iterable[str]) -> str | None:
    """Which of the `labels` a text means: itself, else the first with its normal form.

    Those that came before there was this rule may break it: they stay as they are, and mean what they meant.
    """
    form = normal_form(text)
    alike = [label for label in labels if normal_form(label) == form]
    return text if text in alike else alike[0] if alike else None


# --- files of labels -------------------------------------------------------------------------------

NEEDED = ("path", "label")
COLUMNS = (*NEEDED, "folder", "sha256", "source")
PREDICTED = "predicted"  # the source of what is no label


class Labels(NamedTuple):
    """What a file says of the files of a folder."""

    labels: dict[Path, str]
    strays: list[str]  # paths, in order, that name no file
    elsewhere: list[str]  # likewise; these lines have a SHA-256, and no file here has it
    grouped: frozenset[Path]  # files whose labels were accepted in groups


def read_labels(file: Path, root: Path, files: Collection[Path]) -> Labels:
    """`labels_in`, and DataError for a path that names no file, unless its line has a SHA-256."""
    read = labels_in(file, root, files)
    strays = read.strays or (read.elsewhere if not read.labels else [])
    if strays:
        raise DataError(
            f"{file}: {len(strays)} labels name no file below {root} (first: {strays[0]}); "
            "paths are relative to that folder"
        )
    return read


def labels_in(
    file: Path, root: Path, files: Collection[Path], take: Callable[[str], str] = label_of
) -> Labels:
    """The labels by path of a CSV file in UTF-8 that has columns `path` and `label`, and perhaps `sha256` and
    `source`. `take` makes of a cell a label.

    Paths are relative to the folder `root`. One names a file as it is written, else without white space
    around it, composed or not, with slashes either way, or by way of a link. A line with the SHA-256 of a
    file is of the files that have it, wherever they lie now; of no other. The first line names the columns,
    in any order and in capitals or not; what else a line holds is ignored, and lines without text, or with a
    predicted label, do not count. Raises DataError for a file that is labelled twice, for a label that is
    empty or none, and where no line is left.
    """
    rows = _lines(file, [name for name in COLUMNS if name != "folder"])  # all lie in one
    named = _named([row["path"] for row in rows], root, files)
    hashes = _Hashes(root, files)
    labels, strays, elsewhere, looked_at = dict[Path, str](), set[str](), set[str](), set[Path]()
    for row in rows:
        path, sha256 = row["path"], row.get("sha256", "").strip().lower()
        place = named.get(path, Path(path.strip()))
        label = _label_in(file, place, row["label"], take)
        if sha256:
            places, lost = hashes.places(sha256, named.get(path)), elsewhere
        elif place in labels or str(place) in strays:
            raise DataError(f"{file}: {place} is labelled more than once; keep one line for each image")
        else:
            places, lost = [place] if path in named else [], strays
        if not places:
            lost.add(str(place))
        if row.get("source") != "group":
            looked_at.update(places)
        for each in places:
            if labels.setdefault(each, label) != label:
                raise DataError(f"{file}: {each} is labelled {labels[each]!r} and {label!r}; keep one line")
    return Labels(labels, sorted(strays), sorted(elsewhere), frozenset(labels.keys() - looked_at))


class _Hashes:
    """Files below a folder by their SHA-256; only those are read that must be."""

    def __init__(self, root: Path, files: Collection[Path]) -> None:
        self._root = root
        self._files = files
        self._hash_of = cache(self._read)

    def places(self, sha256: str, named: Path | None) -> list[Path]:
        """The file that is named, if it has this hash; else all that have it."""
        if named is not None and self._hash_of(named) == sha256:
            return [named]
        return self._by_hash.get(sha256, [])

    @cached_property
    def _by_hash(self) -> Mapping[str, list[Path]]:
        found = defaultdict[str, list[Path]](list)
        for file in self._files:
            found[self._hash_of(file)].append(file)
        return found

    def _read(self, file: Path) -> str:
        try:
            return sha256_of(self._root / file)
        except OSError:  # it is left out and named when it is to be indexed
            return ""


class Given(NamedTuple):
    """A line of a file of labels for images that are indexed."""

    path: str
    label: str
    folder: str  # that of `path`, empty where the file does not say
    sha256: str  # of the image's file, in hexadecimal, likewise
    source: Source


def given_labels(file: Path) -> list[Given]:
    """The lines of a CSV file with columns `path` and `label`, and perhaps `folder`, `sha256` and `source`.
    DataError for a label or a source that is none."""
    given = list[Given]()
    for row in _lines(file):
        label = _label_in(file, row["path"], row["label"])
        source = row.get("source") or "given"
        if source not in SOURCES:
            raise DataError(f"{file}: {row['path']}: source {source!r}: use one of {', '.join(SOURCES)}")
        sha256 = row.get("sha256", "").strip().lower()
        given.append(Given(row["path"], label, row.get("folder", "").strip(), sha256, source))
    return given


def _label_in(file: Path, place: object, cell: str, take: Callable[[str], str] = label_of) -> str:
    """The label in a cell of a file, of the image at a place. DataError for none."""
    try:
        label = take(cell)
    except LabelError as error:
        raise DataError(f"{file}: {place}: {error}") from None
    if not label:
        raise DataError(f"{file}: {place} has an empty label; write one, or leave the line out")
    return label


def match(given: Iterable[Given], items: Iterable["Item"]) -> tuple[dict[int, Given], list[str]]:
    """Which line is of which of the `items`, by id, and the paths of those that are of none, or of several.

    The SHA-256 decides where there is one; then the path, as it is written, or as `_loosely` reads it, within
    its folder if that is given. Of equal files each gets the label, but for those that lie at the very path
    of another line with their SHA-256. Of several lines for one image one that somebody looked at counts.
    DataError for two labels of one image.
    """
    given = list(given)
    by_hash = defaultdict[str, list[int]](list)
    by_path: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_hash[item.sha256 or ""].append(item.id)
        by_path[_loosely(item.path)].append(item)
    own = [_itself(each, by_path.get(_loosely(each.path), [])) for each in given]
    named = {id_ for ids in own for id_ in ids}
    found, strays = dict[int, Given](), list[str]()
    for each, itself in zip(given, own, strict=True):
        equal = by_hash.get(each.sha256, []) if each.sha256 else []
        ids = itself + [id_ for id_ in equal if id_ not in named] or equal
        if not ids:
            alike = [item for item in by_path.get(_loosely(each.path), []) if _fits(item, each)]
            exactly = [item for item in alike if item.path == each.path] or alike
            ids = [item.id for item in exactly] if len(exactly) == 1 else []
        if not ids:
            strays.append(each.path.strip())
        for id_ in ids:
            if (first := found.setdefault(id_, each)).label != each.label:
                one, other = first.path.strip(), each.path.strip()
                names = one if one == other else f"{one}, which is the same file as {other},"
                raise DataError(f"{names} is labelled {first.label!r} and {each.label!r}; keep one line")
            if first.source == "group":
                found[id_] = each
    return found, strays


def _itself(given: Given, there: Iterable["Item"]) -> list[int]:
    """The id of the one image that lies at the very path of a line, of those that lie `there` or nearly so,
    and has the SHA-256 that the line says; else none."""
    same = [
        item
        for item in there
        if given.sha256 and item.sha256 == given.sha256 and item.path == given.path and _fits(item, given)
    ]
    same = [item for item in same if (item.folder or "") == given.folder] or same
    return [item.id for item in same] if len(same) == 1 else []


def _fits(item: "Item", given: Given) -> bool:
    """Whether an item at its path may be the one; not one with other bytes than those that were labelled."""
    other = bool(given.sha256 and item.sha256 and item.sha256 != given.sha256)
    return not other and given.folder in ("", item.folder or "")


def _named(paths: Collection[str], root: Path, files: Collection[Path]) -> dict[str, Path]:
    """The file that each path names; what names none, or could be several, is left out."""
    exactly = {str(file): file for file in files}
    found = {path: exactly[name] for path in paths if (name := str(Path(path))) in exactly}
    found |= _alike(set(paths) - found.keys(), files, _loosely)
    # Only what is there can be a link or have a name that the root's folder has too.
    there = [path for path in set(paths) - found.keys() if os.path.exists(root / path.strip())]
    return found | _alike(there, files, lambda path: os.path.realpath(root / path.strip()))


def _alike(paths: Collection[str], files: Iterable[Path], key: Callable[[str], str]) -> dict[str, Path]:
    """The one file that has the key of each path."""
    by_key = defaultdict[str, list[Path]](list)
    for file in files if paths else ():
        by_key[key(str(file))].append(file)
    keyed = {path: by_key.get(key(path), []) for path in paths}
    return {path: found[0] for path, found in keyed.items() if len(found) == 1}


def _loosely(path: str) -> str:
    """Without what spreadsheets, Windows and macOS do to a path."""
    return str(Path(normal(path.strip().replace("\\", "/"))))


def _separator(first: str) -> str:
    """What stands between the cells: a comma, or what spreadsheets write where a comma is in numbers."""
    counts = {each: first.count(each) for each in ",;\t"}
    return max(counts, key=lambda each: counts[each])


def _lines(file: Path, wanted: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """The cells of each line that gives a label, at least one, by the names of those `wanted` columns that
    there are; what else it holds is ignored."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            first = lines.readline()  # which is read once: a pipe cannot be rewound
            if first.lower().startswith("sep="):  # Excel's own note of what stands between cells
                first = lines.readline()
            again = chain([first] if first else [], lines)
            reader = csv.DictReader(again, skipinitialspace=True, delimiter=_separator(first))
            names = [(name or "").strip().lower() for name in reader.fieldnames or ()]
            columns = dict(zip(names, reader.fieldnames or (), strict=True))
            rows = [row for row in reader if "".join(map(str, filter(None, row.values()))).strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not in UTF-8 ({error.reason}); save it as CSV in UTF-8") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{file}: the labels cannot be read ({error})") from error
    if {*NEEDED} <= columns.keys() and not rows:
        raise DataError(f"{file}: no image follows the first line {first.strip()[:80]!r}; write one in each")
    if not {*NEEDED} <= columns.keys():
        found = f"; it is {first.strip()[:80]!r}" if first.strip() else ""
        raise DataError(
            f"{file}: the first line must be 'path,label', and at least one image must follow{found}"
        )
    for name in wanted:
        if names.count(name) > 1:
            raise DataError(f"{file}: the first line has {name!r} more than once; keep one such column")
    known = [(name, columns[name]) for name in wanted if name in columns]
    cells = [{name: row[column] or "" for name, column in known} for row in rows]
    for row in cells:
        if "source" in row:
            row["source"] = row["source"].strip().lower()
    given = [row for row in cells if row.get("source") != PREDICTED]
    if not given:
        raise DataError(f"{file}: all its labels are predicted; there must be one that somebody gave")
    return given
