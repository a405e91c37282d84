"""Finished cells of a grid of experiments, method × labels × seed: one row each of a CSV file."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any

from index.distances import PrecisionRecall
from index.locking import locked
from training.config import ABOUT, Config, percent
from training.paper.tables import TableError, replace_file


class Claimed(TableError):
    """Another process computes what was asked for."""


@dataclass(frozen=True)
class Cell:
    """One experiment of a grid and, once it is finished, its figures (shares from 0 to 1, seconds)."""

    method: str
    labels: str
    seed: int
    config: str  # see `Cells.config_id`
    machine: str
    figures: dict[str, float]

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is an experiment of."""
        return self.method, self.labels, self.seed


COLUMNS = ("method", "labels", "seed", "config", "machine")
# What may differ between the methods of one table: how they pre-train, and what --search finds for each.
OF_A_METHOD = frozenset(name for name, about in ABOUT.items() if about.of == "method")
# How many images were asked with and searched: other numbers are other images.
COUNTED = ("queries", "database")


def deciding(config: Config) -> dict[str, Any]:
    """All values that decide a cell's figures but its seed and labels. The precision must have been chosen:
    what `auto` is depends on the machine."""
    return {name: value for name, value in asdict(config).items() if ABOUT[name].of != "cell"}


def as_json(config: Config) -> str:
    """`deciding`, as it is written."""
    return json.dumps(deciding(config), indent=2, sort_keys=True) + "\n"


def digest(config: Config) -> str:
    """Twelve digits of what decides."""
    return hashlib.sha256(as_json(config).encode()).hexdigest()[:12]


DEFAULTS = {each.name: each.default for each in fields(Config) if each.default is not MISSING}


class Cells:
    """The finished cells in `folder`, and the configurations that their ids stand for."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.path = folder / "cells" / f"{name}.csv"
        self.configs = folder / "configs"

    def read(self) -> list[Cell]:
        """All finished cells, oldest first. Raises TableError for a file that holds something else."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            try:
                if tuple(reader.fieldnames or ())[: len(COLUMNS)] != COLUMNS:
                    raise TableError(f"{self.path}: the columns should begin with {','.join(COLUMNS)}")
                found: dict[tuple[Any, ...], Cell] = {}
                for line in reader:
                    cell = _parsed(line)
                    if found.setdefault(self.identity(cell), cell) is not cell:
                        raise ValueError("an earlier line has the same experiment, and one counts once")
                return list(found.values())
            except TableError:
                raise
            except (ValueError, TypeError, AttributeError) as error:
                raise TableError(f"{self.path}, line {reader.line_num}: {error}; mend or remove it") from None

    def add(self, cell: Cell) -> None:
        """Write `cell` beside the others, unless it is there: another process may compute a baseline too.

        The file is replaced as a whole, so that it is never half a row. TableError as `check_images`.
        """
        with locked(self.path.with_suffix(".lock"), wait=True):
            cells = self.read()
            if self.identity(cell) in map(self.identity, cells):
                return
            self._same_images(cells, cell.figures)
            cells.append(cell)
            names = dict.fromkeys(name for each in cells for name in each.figures)
            text = StringIO()
            writer = csv.DictWriter(text, [*COLUMNS, *names], lineterminator="\n")
            writer.writeheader()
            for each in cells:
                about = {name: getattr(each, name) for name in COLUMNS}
                writer.writerow(about | {name: _written(value) for name, value in each.figures.items()})
            replace_file(self.path, text.getvalue().encode())

    def check_images(self, counts: Mapping[str, float]) -> None:
        """Raise TableError if the finished cells are of other images than a run with these COUNTED, as far as
        their numbers tell."""
        self._same_images(self.read(), counts)

    def _same_images(self, cells: Sequence[Cell], counts: Mapping[str, float]) -> None:
        for name in COUNTED:
            if name in counts:
                theirs = (cell.figures[name] for cell in cells if name in cell.figures)
                refuse_others(self.path, name, theirs, counts[name])

    def identity(self, cell: Cell) -> tuple[Any, ...]:
        """Two cells of which this is the same are one experiment."""
        return cell.key

    def filters(self, method: str) -> Path:
        """Where the picture of a method's first-layer filters lies."""
        return self.folder / "filters" / f"{self.name}-{method}.png"

    def curve(self, method: str, labels: str) -> Path:
        """Where precision and recall at each radius lie, of seed 0."""
        return self.folder / "curves" / f"{self.name}-{method}-{labels.replace('%', 'pc')}.csv"

    def add_curve(self, cell: Cell, curve: PrecisionRecall) -> None:
        """Write the curve of a cell."""
        lines = (
            f"{radius},{precision:.5g},{recall:.5g}\n"
            for radius, precision, recall in zip(curve.radius, curve.precision, curve.recall, strict=True)
        )
        text = "radius,precision,recall\n" + "".join(lines)
        replace_file(self.curve(cell.method, cell.labels), text.encode())

    def config_id(self, config: Config) -> str:
        """Twelve digits that stand for the configuration; `remember` writes the file of that name.

        A configuration written before a setting existed had what is the setting's default now.
        """
        values = deciding(config)
        for path in sorted(self.configs.glob("*.json")):
            written = self._values(path)
            if DEFAULTS | written == DEFAULTS | values and values.keys() >= written.keys():
                return path.stem
        return digest(config)

    def remember(self, config: Config) -> str:
        """`config_id`, after writing down what it stands for."""
        name = self.config_id(config)
        if not (path := self.configs / f"{name}.json").exists():
            replace_file(path, as_json(config).encode())
        return name

    def check(self, configs: Mapping[str, Config], apart: Iterable[str] = ()) -> None:
        """Raise TableError if there are cells that do not belong into one table with those of `configs`, by
        method: of such a method, computed otherwise but for what is `apart`, or of another with something
        else that all share."""
        anyone = next(iter(configs.values()))
        for method, name in dict.fromkeys((cell.method, cell.config) for cell in self.read()):
            config = configs.get(method)
            if differing := self.differences(name, config or anyone, apart if config else OF_A_METHOD):
                raise TableError(
                    f"{self.path}: its cells of {method} have configuration {name}, this run other values "
                    f"({differing}); name another folder with --out"
                )

    def differences(self, name: str, config: Config, apart: Iterable[str] = ()) -> str:
        """In words, where the configuration called `name` is another than `config`; empty: nowhere. What is
        in `apart` may differ. TableError if nobody knows what `name` stands for."""
        path = self.configs / f"{name}.json"
        if not path.exists():
            raise TableError(f"{path} is missing: cells in {self.path} were computed as it says; put it back")
        theirs, ours = DEFAULTS | self._values(path), deciding(config)
        return ", ".join(
            f"{key} {theirs.get(key)} there, {value} here"
            for key, value in ours.items()
            if key not in apart and theirs.get(key) != value
        )

    def _values(self, path: Path) -> dict[str, Any]:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("it is not a JSON object")
        except ValueError as error:
            raise TableError(f"{path}: {error}; mend it or put it back") from None
        return values

    @contextmanager
    def claimed(self, parts: Iterable[str]) -> Iterator[None]:
        """Nobody else computes these parts, each a method or a seed of one, meanwhile. Raises Claimed if
        somebody does."""
        with ExitStack() as claims:
            for part in sorted(set(parts)):
                try:
                    claims.enter_context(locked(self.path.with_name(f"{self.name}-{part}.lock")))
                except BlockingIOError:
                    raise Claimed(
                        f"{self.path}: another process is computing cells of {part}; wait, or use another "
                        "--out"
                    ) from None
            yield


def refuse_others(path: Path, name: str, theirs: Iterable[float], ours: float) -> None:
    """Raise TableError where the results in `path` have another number of something than `ours`."""
    if others := set(theirs) - {ours}:
        raise TableError(
            f"{path}: its cells have {max(others):.0f} {name}, this run {ours:.0f}: other images; "
            "name another folder with --out"
        )


def _written(value: float) -> str:
    """Whole numbers with all their digits, as counts are compared; others with six."""
    whole = float(value).is_integer() and abs(value) < 2**53
    return f"{value:.0f}" if whole else f"{value:.6g}"


def _parsed(line: dict[str, Any]) -> Cell:
    about = [line.pop(name) for name in COLUMNS]
    if None in line or None in line.values() or None in about:
        raise ValueError("the row has not as many values as there are columns")
    figures = {name: float(value) for name, value in line.items() if value}
    method, labels, seed, config, machine = about
    if labels and percent(labels) is None:
        raise ValueError(f"labels {labels!r} are no share such as 1%")
    return Cell(method, labels, int(seed), config, machine, figures)
