"""A table of results: its CSV, its Markdown, and the paper's numbers to lay beside ours.

Shares (top-1, mAP, …) are in percent here, as the paper prints them, durations in seconds, epochs a count.
"""

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from typing import NamedTuple

PAPER = Path(__file__).with_name("paper_tables.csv")
SIGNIFICANT = 0.05  # a smaller p-value gets a mark
MARKS = "†‡§¶"
MISSING = "–"
COUNTS = ("epochs", "timed_batches")  # metrics without a unit
_SECONDS = {"h": 3600, "min": 60, "s": 1}
_SECOND, _MINUTE = 0.9995, 59.95  # what three digits round up to 1 s and 60 s


class TableError(ValueError):
    """A table that does not exist or cannot be read; the message says what there is."""


@dataclass(frozen=True)
class Row:
    """One figure: a line of the CSV, its columns in this order. NaN counts as None, not known."""

    method: str
    labels: str  # the share that was learned from, such as 1%; empty where there is none
    metric: str
    mean: float | None  # None: the paper has this figure, we do not
    std: float | None  # sample standard deviation over the seeds; None for one seed
    seeds: int  # how many
    paper: float | None
    p_value: float | None  # of Welch's test
    p_against: str  # the method it is a test against; empty for none
    config: str
    machine: str

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            number = None if value is None or math.isnan(value) else float(value)
            object.__setattr__(self, name, number)


_NUMBERS = ("mean", "std", "paper", "p_value")
COLUMNS = tuple(field.name for field in fields(Row))


class Key(NamedTuple):
    """What the paper's number is of."""

    method: str
    labels: str
    metric: str


# --- The paper -------------------------------------------------------------------------------------


def paper(table: int, dataset: str) -> dict[Key, float]:
    """The numbers of one of the paper's tables for a data set, in its order. TableError if it has none."""
    with PAPER.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    there = [line for line in lines if line["table"] == str(table)]
    if not there:
        tables = sorted({line["table"] for line in lines})
        raise TableError(f"the paper's numbers have no table {table}; they have {', '.join(tables)}")
    chosen = [line for line in there if line["dataset"] == dataset]
    if not chosen:
        names = dict.fromkeys(line["dataset"] for line in there)
        raise TableError(f"table {table} has no rows for {dataset}; it has {', '.join(names)}")
    return {
        Key(line["method"], line["labels"], line["metric"]): parse_value(line["value"]) for line in chosen
    }


def parse_value(text: str) -> float:
    """`39.75` and `12` as they are, `4 min 14 s` as seconds. TableError for anything else."""
    number = re.fullmatch(r"\d+(\.\d+)?", text)
    duration = re.fullmatch(r"(?:(\d+) h)? ?(?:(\d+) min)? ?(?:(\d+) s)?", text)
    if number:
        return float(text)
    if not text.strip() or not duration:
        raise TableError(f"{text!r} is neither a number nor a duration such as 1 h 16 min 36 s")
    parts = zip(duration.groups(), _SECONDS.values(), strict=True)
    return float(sum(int(count or 0) * seconds for count, seconds in parts))


# --- CSV -------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """One line a figure; what is not known stays empty. The file is replaced as a whole."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    # csv writes None as nothing and a float with all its digits
    writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)
    replace_file(path, text.getvalue().encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file or none: a reader never sees half of it. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# --- Markdown --------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row]) -> str:
    """Methods down; across the label regimes, one table a metric, or the metrics where no labels are.

    A cell is `mean ± std (seeds)` and, small, the paper's number; a mark says that p < 0.05 against the
    method that the legend below names. Methods keep the order in which they come.
    """
    metrics = dict.fromkeys(row.metric for row in rows if row.labels)
    plain = [row for row in rows if not row.labels]
    against = dict.fromkeys(row.p_against for row in rows if _significant(row))
    marks = {name: MARKS[i % len(MARKS)] * (i // len(MARKS) + 1) for i, name in enumerate(against)}
    parts = []
    for metric in metrics:
        of_it = [row for row in rows if row.labels and row.metric == metric]
        parts.append(_grid(f"{_title(metric)}, labels", of_it, marks))
    if plain:
        parts.append(_grid("", plain, marks))
    return "\n\n".join([*parts, _legend(rows, marks)]) + "\n"


def duration(seconds: float) -> str:
    """Seconds as the paper prints them, below a minute to three digits: `58.1 ms`, `4 min 14 s`."""
    if seconds < _SECOND:
        return f"{1000 * seconds:.3g} ms"
    if seconds < _MINUTE:
        return f"{seconds:.3g} s"
    left, parts = round(seconds), []
    for unit, size in _SECONDS.items():
        count, left = divmod(left, size)
        parts += [f"{count} {unit}"] * (count > 0)
    return " ".join(parts)


def _grid(corner: str, rows: Sequence[Row], marks: dict[str, str]) -> str:
    """One Markdown table. Regimes go by size, metrics as they come."""
    across: Callable[[Row], str] = (lambda row: row.labels) if corner else (lambda row: row.metric)
    columns = dict.fromkeys(across(row) for row in rows)
    heads = sorted(columns, key=_share) if corner else list(columns)
    cells: dict[tuple[str, str], str] = {}
    for row in rows:
        place = row.method, across(row)
        if place in cells:
            raise TableError(f"{row.method} has two figures of {row.metric} {row.labels}".rstrip())
        cells[place] = _cell(row, marks)
    lines = [
        [_escape(method), *(cells.get((method, head), MISSING) for head in heads)]
        for method in dict.fromkeys(row.method for row in rows)
    ]
    return grid([corner, *(head if corner else _title(head) for head in heads)], lines)


def grid(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right; no line break ends it."""
    rule = ["---", *["--:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


def _cell(row: Row, marks: dict[str, str]) -> str:
    ours = MISSING
    if row.mean is not None:
        mark = marks[row.p_against] if _significant(row) else ""
        ours = f"{_write(row.metric, row.mean, row.std)}{mark} ({row.seeds})"
    return ours if row.paper is None else f"{ours}<br><sub>{_write(row.metric, row.paper)}</sub>"


def _legend(rows: Sequence[Row], marks: dict[str, str]) -> str:
    parts = ["Mean ± standard deviation (seeds)"]
    if any(row.paper is not None for row in rows):
        parts[0] += ", small below it the paper's number"
    parts += [
        f"{mark} p < {SIGNIFICANT} against {_escape(name)}, Welch's t-test" for name, mark in marks.items()
    ]
    return "; ".join(parts) + "."


def _significant(row: Row) -> bool:
    return row.p_value is not None and row.p_value < SIGNIFICANT and bool(row.p_against)


def _write(metric: str, mean: float, std: float | None = None) -> str:
    """`mean ± std` in the metric's unit, or the mean alone."""
    if _is_duration(metric):
        return duration(mean) if std is None else _duration_with_spread(mean, std)
    values = [mean] if std is None else [mean, std]
    if metric in COUNTS:
        return " ± ".join(f"{value:.1f}".removesuffix(".0") for value in values)
    return " ± ".join(f"{value:.2f}" for value in values)


def _duration_with_spread(mean: float, std: float) -> str:
    if mean >= _MINUTE:
        return f"{duration(mean)} ± {duration(std) if std >= _MINUTE else f'{_short(std)} s'}"
    number, unit = duration(mean).split()
    return f"{number} ± {_short(std * (1000 if unit == 'ms' else 1))} {unit}"


def _short(value: float) -> str:
    """A deviation to two digits."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _is_duration(metric: str) -> bool:
    return metric.endswith("duration")


def _title(metric: str) -> str:
    unit = "" if _is_duration(metric) or metric in COUNTS else " in %"
    return _escape(metric.replace("_unvalidated", " at the last epochs").replace("_", " ")) + unit


def _share(labels: str) -> tuple[float, str]:
    """Sorts 2% before 10%, and what is not a share behind both."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", labels)
    return (float(number[1]) if number else math.inf, labels)


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
