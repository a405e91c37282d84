"""The one reader of label files, and the one rule of what a label is."""

import csv
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from index.walking import DataError


def read_labels(file: Path, root: Path, files: Collection[Path]) -> dict[Path, str]:
    """The labels by path of a CSV file in UTF-8 that has columns `path` and `label`.

    Paths are relative to the folder `root` and must be among its `files`. The first line names the columns,
    in any order and in capitals or not; what else a line holds is ignored. Spaces around a cell are no part
    of it, and lines without text do not count. Raises DataError for a path that is there twice or names no
    file, for a label that is empty, and where no line is left.
    """
    rows = _rows(file)
    labels = {path: label_of(cell) for path, cell in rows}
    if len(labels) < len(rows):
        twice = Counter(path for path, _ in rows).most_common(1)[0][0]
        raise DataError(f"{file}: {twice} is labelled more than once; keep one line for each image")
    empty = [path for path, label in labels.items() if not label]
    if empty:
        raise DataError(f"{file}: {empty[0]} has an empty label; write one, or leave the line out")
    unknown = sorted(labels.keys() - set(files))
    if unknown:
        raise DataError(
            f"{file}: {len(unknown)} labels name no file below {root} (first: {unknown[0]}); "
            "paths are relative to that folder"
        )
    return labels


def label_of(cell: str) -> str:
    """A label is a text without the spaces around it; an empty one is none."""
    return cell.strip()


def _rows(file: Path) -> list[tuple[Path, str]]:
    """The path and the label's cell of each line that holds anything, at least one."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, skipinitialspace=True)
            columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
            rows = [row for row in reader if "".join(map(str, filter(None, row.values()))).strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: the labels cannot be read ({error})") from error
    if not {"path", "label"} <= columns.keys() or not rows:
        raise DataError(f"{file}: the first line must be 'path,label', and at least one image must follow")
    path, label = columns["path"], columns["label"]
    return [(Path((row[path] or "").strip()), row[label] or "") for row in rows]
