"""Tables 2, 3 and 6 of the finished cells: CSV, Markdown, plots."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from training.config import ConfigError, percent
from training.paper import plots, tables
from training.paper.baselines import CHANCE, NO_LABELS, PIXELS
from training.paper.cells import Cell, Cells
from training.paper.significance import mean_and_deviation, welch
from training.paper.tables import MISSING, Key, Row, grid

# The paper's names of the methods, in the order of its tables.
NAMES = {"none": "None", "vae": "VAE", "swta_fh": "SWTA-FH", "hpca_fh": "HPCA-FH"}
BASELINE = "none"  # what the other methods are tested against
# The paper prints one mAP and does not say of what; results/README.md says why it is most likely this one.
PAPER_MAP = "map_at_100_retrieved"
LAST = "_unvalidated"  # ends the names of the figures at the last epochs


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table of method × labels: of which network and methods, and which figures it shows."""

    backbones: dict[str, str]  # by data set
    methods: tuple[str, ...]
    metrics: tuple[str, ...]


CIFAR_AND_TINY = {"cifar10": "conv6", "cifar100": "conv6", "tinyimagenet": "conv6"}
GRIDS = {
    2: Grid(CIFAR_AND_TINY | {"imagenet": "conv10"}, tuple(NAMES), ("top1", "top5")),
    3: Grid(CIFAR_AND_TINY | {"imagenet": "conv10"}, tuple(NAMES), ("map", PAPER_MAP)),
    6: Grid({"imagenet": "vgg11"}, ("none", "swta_fh", "hpca_fh"), ("top5", "map", PAPER_MAP)),
}


def write(
    path: Path,
    table: int,
    dataset: str,
    cells: Cells,
    methods: Sequence[str],
    regimes: Sequence[str],
    *,
    compared: bool,
) -> str:
    """`path`.csv, .md, .png and what else is drawn, of all cells; returns the Markdown.

    `compared`: with the paper's numbers.
    """
    found, metrics = cells.read(), GRIDS[table].metrics
    paper = tables.paper(table, dataset) if compared else {}
    rows = list(rows_of(found, methods, regimes, paper))
    tables.write_csv(path.with_suffix(".csv"), rows)
    for number, metric in enumerate(printed_metrics(table, dataset)):
        ending = f"-{metric.replace('_', '-')}" if number else ""
        draw(Path(f"{path}{ending}.png"), rows, paper, metric)
    parts = [figures_table(rows, metrics), labels_seen(found)]
    parts += [pairs_table(found, methods, regimes, metric) for metric in metrics]
    if PAPER_MAP in metrics:
        parts.append(conventions_table(rows))
        draw_curves(Path(f"{path}-precision-recall.png"), cells, methods, regimes)
    text = "\n".join(part for part in parts if part)
    tables.replace_file(path.with_suffix(".md"), text.encode())
    return text


def printed_metrics(table: int, dataset: str) -> list[str]:
    """Those of the table's metrics that the paper prints for a data set; the first, where it has no rows."""
    grid = GRIDS[table]
    if dataset not in grid.backbones:
        return [grid.metrics[0]]
    names = {key.metric for key in tables.paper(table, dataset)}
    return [metric for metric in grid.metrics if printed(metric) in names]


def figures_table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Markdown: each metric and the same at the last epochs; with mAP its interval, precision in radius 2."""
    shown = [name for metric in metrics for name in (metric, metric + LAST)]
    shown += ["precision_radius_2"] * ("map" in metrics)
    text = tables.markdown([row for name in shown for row in rows if row.metric == name])
    if "map" not in metrics:
        return text
    ends = {(row.method, row.labels, row.metric): row.mean for row in rows}
    intervals = {
        (method, labels): f"{low:.2f} to {ends[method, labels, 'map_high']:.2f}"
        for (method, labels, metric), low in ends.items()
        if metric == "map_low"
    }
    corner = "map in %, 95 % bootstrap interval over the queries, mean over the seeds"
    return "\n".join(filter(None, [text, by_labels(corner, intervals)]))


def labels_seen(cells: Iterable[Cell]) -> str:
    """In words, what validation labels the figures have seen."""
    trained = [cell.figures for cell in cells if cell.labels != NO_LABELS]
    counts = sorted({int(figures.get("validation_labels", 0)) for figures in trained})
    if not any(counts):
        return "No validation label was seen.\n" if counts else ""
    many = " to ".join(dict.fromkeys(f"{count:,}" for count in (counts[0], counts[-1])))
    return (
        f"Beside the training labels {many} validation labels were seen: they chose the epochs. The "
        "figures at the last epochs were chosen by none of them.\n"
    )


def pairs_table(cells: Sequence[Cell], methods: Iterable[str], regimes: Sequence[str], metric: str) -> str:
    """Markdown: how far the means of two methods lie apart, with Welch's p-value; empty without a test."""

    def values(method: str, labels: str) -> list[float]:
        return figures_of((cell for cell in cells if cell.key[:2] == (method, labels)), metric)

    tests = {}
    for (one, other), labels in ((pair, labels) for pair in combinations(methods, 2) for labels in regimes):
        a, b = values(one, labels), values(other, labels)
        if not math.isnan(p := welch(a, b)):
            pair = f"{NAMES.get(other, other)} − {NAMES.get(one, one)}"
            tests[pair, labels] = f"{np.mean(b) - np.mean(a):+.2f} (p = {p:.2g})"
    what = metric.replace("_", " ")
    return by_labels(f"{what}, difference in points, Welch's t-test, not corrected for their number", tests)


def by_labels(corner: str, entries: Mapping[tuple[str, str], str]) -> str:
    """Markdown: {(row, share of the labels): text}, shares across; empty without entries."""
    if not entries:
        return ""
    regimes = sorted({labels for _, labels in entries}, key=share)
    lines = [
        [name, *(entries.get((name, labels), MISSING) for labels in regimes)]
        for name in dict.fromkeys(name for name, _ in entries)
    ]
    return grid([corner, *regimes], lines) + "\n"


def conventions_table(rows: Sequence[Row]) -> str:
    """Markdown: what the mAP of each method is in every convention, beside the one number of the paper."""
    names = dict.fromkeys(row.metric for row in rows if row.metric.startswith(("map", "real_map")))
    shown = [name for name in names if not name.endswith(("_low", "_high", "_unvalidated"))]
    means = {(row.method, row.labels, row.metric): row for row in rows if row.mean is not None}
    heads = ["mAP in %, in every convention", "labels", "the paper's", *(n.replace("_", " ") for n in shown)]
    lines = []
    for method, labels in dict.fromkeys((row.method, row.labels) for row in rows):
        figures = [means.get((method, labels, name)) for name in shown]
        if any(figures):
            printed = next((row.paper for row in figures if row and row.paper is not None), None)
            numbers = [printed, *(row and row.mean for row in figures)]
            lines.append([method, labels, *(MISSING if n is None else f"{n:.2f}" for n in numbers)])
    return grid(heads, lines) + "\n"


def share(labels: str) -> float:
    """`1%` in percent."""
    return float(labels[:-1])


def checked_regime(labels: str) -> str:
    """A share of the labels as it is always written: `1%`, not `1.0%`. ConfigError for what is none."""
    if not (share := percent(labels)):
        raise ConfigError(f"regime {labels}: use a share of the labels, such as 1%, of at most 100%")
    return f"{share:g}%"


def known(
    cells: Iterable[Cell], methods: Iterable[str], regimes: Iterable[str]
) -> tuple[list[str], list[str]]:
    """The methods and regimes of a table: what was asked for and what was computed at other times."""
    trained = [cell for cell in cells if cell.labels != NO_LABELS]
    all_methods = [*methods, *(cell.method for cell in trained)]
    all_regimes = {*regimes, *(cell.labels for cell in trained)}
    in_order = dict.fromkeys([*NAMES, *all_methods])
    return [method for method in in_order if method in all_methods], sorted(all_regimes, key=share)


def draw(path: Path, rows: Sequence[Row], paper: dict[Key, float], metric: str) -> None:
    """A metric against the share of labels."""
    ours: dict[str, dict[float, tuple[float, float]]] = {}
    chance = None
    for row in rows:
        if row.metric != metric or row.mean is None:
            continue
        if row.method == CHANCE:
            chance = row.mean
        elif row.labels != NO_LABELS:
            spread = row.mean, math.nan if row.std is None else row.std
            ours.setdefault(row.method, {})[share(row.labels)] = spread
    theirs: dict[str, dict[float, float]] = {}
    for key, value in paper.items():
        if key.metric == printed(metric):
            theirs.setdefault(key.method, {})[share(key.labels)] = value
    what = f"{metric} in %".replace("_", " ")
    plots.label_fractions(path, ours, theirs, metric=what, chance=chance)


def draw_curves(path: Path, cells: Cells, methods: Iterable[str], regimes: Iterable[str]) -> None:
    """Precision against recall at the smallest share of the labels at which a method has been computed."""
    methods = list(methods)
    for labels in sorted(regimes, key=share):
        curves = {}
        for method in methods:
            file = cells.curve(method, labels)
            if file.exists():
                _, precision, recall = np.loadtxt(file, delimiter=",", skiprows=1, unpack=True)
                curves[NAMES.get(method, method)] = recall, precision
        if curves:
            plots.precision_recall(path, curves, at=f"{labels} of the labels")
            return


def rows_of(
    cells: Sequence[Cell], methods: Iterable[str], regimes: Iterable[str], paper: dict[Key, float]
) -> Iterator[Row]:
    """One row a figure: mean and deviation over the seeds, the paper's number, Welch's test."""
    for method in (*methods, PIXELS, CHANCE):
        for labels in (NO_LABELS, *regimes):
            ours = [cell for cell in cells if (cell.method, cell.labels) == (method, labels)]
            if not ours:
                continue
            base = [cell for cell in cells if (cell.method, cell.labels) == (BASELINE, labels)]
            name = NAMES.get(method, method)
            for metric in dict.fromkeys(metric for cell in ours for metric in cell.figures):
                values = figures_of(ours, metric)
                mean, deviation = mean_and_deviation(values)
                tested = method != BASELINE and bool(base) and metric not in IN_UNITS
                yield Row(
                    method=name,
                    labels=labels,
                    metric=metric,
                    mean=mean,
                    std=deviation,
                    seeds=len(values),
                    paper=paper.get(Key(name, labels, printed(metric))),
                    p_value=welch(values, figures_of(base, metric)) if tested else None,
                    p_against=NAMES[BASELINE] if tested else "",
                    config=ours[0].config,
                    machine=", ".join(dict.fromkeys(cell.machine for cell in ours)),
                )


def printed(metric: str) -> str:
    """What the paper calls our metric, empty for what it does not print."""
    return {"map": "", PAPER_MAP: "map"}.get(metric, metric)


IN_UNITS = (
    *("pretraining_seconds", "finetuning_seconds"),
    *("training_labels", "validation_labels", "queries", "database"),
)


def figures_of(cells: Iterable[Cell], metric: str) -> list[float]:
    """The metric of each cell, shares in percent."""
    scale = 1 if metric in IN_UNITS else 100
    return [scale * cell.figures[metric] for cell in cells if metric in cell.figures]
