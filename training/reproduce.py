"""The paper's tables, ours beside theirs.

python training/reproduce.py --table 3 --dataset cifar10 --data data
"""

import os

# As in build_index.py: threads that wait spin for some microseconds, then sleep.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import argparse
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from training import plots, tables, timing
from training.build_index import USER_ERRORS, OneLineParser, explain, fail
from training.cells import Cell, Cells, Claimed
from training.config import (
    DATASETS,
    PRECISIONS,
    Config,
    ConfigError,
    configure,
    parse_setting,
    settings_help,
)
from training.data import ImageSet, Loaded
from training.device import choose_device, choose_precision, set_up_process
from training.grid import (
    ASKED,
    CHANCE,
    NO_LABELS,
    PIXELS,
    QUICK_IMAGES,
    TEST,
    VALIDATION,
    Countdown,
    Task,
    missing,
    run_task,
    smaller,
)
from training.nets.backbones import smallest_image
from training.protocol import split
from training.run import load
from training.search import search_all
from training.significance import mean_and_deviation, welch
from training.tables import Row, TableError

log = logging.getLogger("hebbsearch")

# The paper's names of the methods, in the order of its tables.
NAMES = {"none": "None", "vae": "VAE", "swta_fh": "SWTA-FH", "hpca_fh": "HPCA-FH"}
REGIMES = ("1%", "2%", "3%", "4%", "5%", "10%", "25%", "100%")
SEEDS = 5
PAPER_EPOCHS = 20  # of pre-training, among which tables 1 and 5 look for the one that is enough
# What --quick computes: minutes on two cores.
QUICK_REGIMES, QUICK_SEEDS = ("5%", "25%", "100%"), 2
# Of tables 1, 4 and 5, of which a two-phase original takes minutes for a batch of 64 large images.
QUICK_TIMING = {"epochs": 3, "batch_size": 8}
STAGE_SETTINGS = ("epochs", "finetune_epochs", "image_size")  # which have a flag in build_index.py only
BASELINE = "none"  # what the other methods are tested against
# The paper prints one mAP and does not say of what; results/README.md says why it is most likely this one.
PAPER_MAP = "map_at_100_retrieved"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table of method × labels: of which network, and which figures it shows."""

    backbones: dict[str, str]  # by data set
    metrics: tuple[str, ...]


CIFAR_AND_TINY = {"cifar10": "conv6", "cifar100": "conv6", "tinyimagenet": "conv6"}
GRIDS = {
    2: Grid(CIFAR_AND_TINY | {"imagenet": "conv10"}, ("top1", "top5")),
    3: Grid(CIFAR_AND_TINY | {"imagenet": "conv10"}, ("map_at_100_retrieved", "map")),
    6: Grid({"imagenet": "vgg11"}, ("top5", "map_at_100_retrieved", "map")),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = OneLineParser(
        prog="reproduce", description="The tables of the FastHebb paper, ours beside theirs."
    )
    add = command.add_argument
    add("--table", type=int, required=True, choices=sorted({*GRIDS, *timing.TABLES}), help="of the paper")
    add("--dataset", required=True, choices=DATASETS, help="named data set")
    add("--data", metavar="DIR", help="where the data set lies or shall lie")
    add("--seeds", type=int, metavar="N", help="runs of each cell (default: 5)")
    add("--regimes", nargs="+", metavar="N%", help="shares of the labels (default: the paper's)")
    add("--methods", nargs="+", metavar="RULE", help="as --rule in build_index.py (default: the table's)")
    add("--search", metavar="N%", help="first search each method's hyper-parameters at this share of labels")
    add("--on", default=TEST, choices=ASKED, help="images to ask with; choose settings on validation")
    add("--quick", action="store_true", help="a small version: few images, epochs, seeds and regimes")
    add("--device", default="auto", metavar="NAME", help="as in build_index.py")
    add("--precision", default="auto", choices=PRECISIONS, help="as in build_index.py")
    add("--set", default=[], metavar="NAME=VALUE", action="append", help="as in build_index.py")
    add("--out", default="results", metavar="DIR", help="tables and finished cells (default: results)")
    add(
        "--work", default="artifacts/reproduce", metavar="DIR",
        help="checkpoints, needed no more once all cells are finished (default: artifacts/reproduce)",
    )  # fmt: skip
    return command


def run_command(arguments: list[str] | None = None) -> None:
    """Compute what is missing, then write the table. Raises the errors that `main` turns into one line."""
    flags = parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    if not flags.quick or flags.dataset != "digits":  # which are there to see the command work
        tables.paper(flags.table, flags.dataset)  # refuses a table that the data set is not in
    flags.methods = list(dict.fromkeys(flags.methods or (NAMES if flags.table in GRIDS else ())))
    if flags.seeds is None:
        flags.seeds = SEEDS
        if flags.quick:
            flags.seeds = QUICK_SEEDS if flags.table in GRIDS else 1
    if flags.seeds < 1:
        raise TableError(f"seeds {flags.seeds}: at least 1 is needed")
    if flags.search and (flags.quick or flags.table in timing.TABLES):
        raise ConfigError(
            f"search {flags.search}: only for tables {', '.join(map(str, GRIDS))} without --quick"
        )
    if flags.table in timing.TABLES:
        return run_timing(flags)
    asked_for = flags.regimes or (QUICK_REGIMES if flags.quick else REGIMES)
    flags.regimes = list(dict.fromkeys(map(checked_regime, asked_for)))
    backbone = network(GRIDS[flags.table].backbones, flags.dataset)
    configs = {method: method_config(flags, backbone, method) for method in flags.methods}
    suffix = "-quick" if flags.quick else ""
    if flags.on == VALIDATION:
        suffix += f"-{VALIDATION}"
    out = Path(flags.out)
    images = cache(partial(prepared, configs[flags.methods[0]]))  # the same for all methods
    if flags.search:
        configs = search_all(configs, out, images(), checked_regime(flags.search))
    cells = Cells(out, f"{flags.dataset}-{backbone}{suffix}")
    cells.check(configs)
    try:
        compute(flags, configs, cells, images)
    finally:  # whatever ended it, what is known is shown
        if found := cells.read():
            show(flags, cells, found, backbone, suffix)


def show(flags: argparse.Namespace, cells: Cells, found: Sequence[Cell], backbone: str, suffix: str) -> None:
    """Write every table that the cells are of, and print the one asked for."""
    methods, regimes = known(found, flags.methods, flags.regimes)
    for table, grid in GRIDS.items():
        if table != flags.table and grid.backbones.get(flags.dataset) != backbone:
            continue
        # The paper's numbers are those of the test images, whole.
        paper = {} if flags.quick or flags.on == VALIDATION else tables.paper(table, flags.dataset)
        rows = list(rows_of(found, methods, regimes, paper))
        path = cells.folder / f"table{table}-{flags.dataset}{suffix}"
        tables.write_csv(path.with_suffix(".csv"), rows)
        text = tables.markdown([row for row in rows if row.metric in grid.metrics])
        if grid.metrics[0] == PAPER_MAP:
            text += "\n" + conventions_table(rows)
            draw_curves(Path(f"{path}-precision-recall.png"), cells, methods, min(regimes, key=share))
        tables.replace_file(path.with_suffix(".md"), text.encode())
        draw(path.with_suffix(".png"), rows, paper, grid.metrics[0])
        if table == flags.table:
            print(text)
            print(f"{path}.csv, .md, .png")


def conventions_table(rows: Sequence[Row]) -> str:
    """Markdown: what the mAP of each method is in every convention, beside the one number of the paper."""
    names = dict.fromkeys(row.metric for row in rows if row.metric.startswith(("map", "real_map")))
    shown = [name for name in names if not name.endswith(("_low", "_high", "_unvalidated"))]
    means = {(row.method, row.labels, row.metric): row for row in rows if row.mean is not None}
    lines = [
        [
            "mAP in %, in every convention",
            "labels",
            "the paper's",
            *(name.replace("_", " ") for name in shown),
        ],
        ["---", "--:", *["--:"] * (len(shown) + 1)],
    ]
    for method, labels in dict.fromkeys((row.method, row.labels) for row in rows):
        figures = [means.get((method, labels, name)) for name in shown]
        if any(figures):
            printed = next((row.paper for row in figures if row and row.paper is not None), None)
            numbers = [printed, *(row and row.mean for row in figures)]
            lines.append([method, labels, *(tables.MISSING if n is None else f"{n:.2f}" for n in numbers)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def checked_regime(labels: str) -> str:
    """A share of the labels as it is always written: `1%`, not `1.0%`. ConfigError for what is none."""
    if not labels.endswith("%"):
        raise ConfigError(f"regime {labels}: use a share of the labels, such as 1%")
    configure({"labels": labels})
    return f"{share(labels):g}%"


def share(labels: str) -> float:
    """`1%` in percent."""
    return float(labels[:-1])


def known(
    cells: Iterable[Cell], methods: Iterable[str], regimes: Iterable[str]
) -> tuple[list[str], list[str]]:
    """The methods and regimes of a table: what was asked for and what was computed at other times."""
    trained = [cell for cell in cells if cell.labels != NO_LABELS]
    all_methods = [*methods, *(cell.method for cell in trained)]
    all_regimes = {*regimes, *(cell.labels for cell in trained)}
    in_order = dict.fromkeys([*NAMES, *all_methods])
    return [method for method in in_order if method in all_methods], sorted(all_regimes, key=share)


def draw(path: Path, rows: Sequence[Row], paper: dict[tables.Key, float], metric: str) -> None:
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


def draw_curves(path: Path, cells: Cells, methods: Iterable[str], labels: str) -> None:
    """Precision against recall of the methods that have been computed at a share of the labels."""
    curves = {}
    for method in methods:
        file = cells.curve(method, labels)
        if file.exists():
            _, precision, recall = np.loadtxt(file, delimiter=",", skiprows=1, unpack=True)
            curves[NAMES.get(method, method)] = recall, precision
    if curves:
        plots.precision_recall(path, curves)


def run_timing(flags: argparse.Namespace) -> None:
    """Tables 1, 4 and 5: see training/timing.py. `--seeds` counts those of epochs and readouts."""
    if flags.regimes or flags.on == VALIDATION:
        raise ConfigError(f"table {flags.table} has neither regimes nor --on; leave them out")
    table = timing.TABLES[flags.table]
    methods = list(flags.methods or table.names)
    timing.check_methods(flags.table, methods)
    backbone = network(table.backbones, flags.dataset)
    chosen: dict[str, Any] = {"epochs": PAPER_EPOCHS}
    if flags.quick:
        chosen = QUICK_TIMING | {"image_size": max(32, smallest_image(backbone))}
    configs = {
        method: method_config(flags, backbone, method, **chosen) for method in timing.with_fast(methods)
    }
    out, work = Path(flags.out), Path(flags.work)
    request = timing.Request(methods, configs, flags.seeds, out, work, flags.quick)
    print(timing.make(flags.table, request))
    print(f"{out / f'table{flags.table}-{flags.dataset}{request.suffix}'}.csv, .md, .png")


def network(backbones: Mapping[str, str], dataset: str) -> str:
    """Of which network a table is, with a data set or, of the paper's in no table, the digits."""
    return backbones.get(dataset) or next(iter(backbones.values()))


def method_config(flags: argparse.Namespace, backbone: str, method: str, **chosen_before: Any) -> Config:
    """The configuration of one method; its precision is chosen. Raises ConfigError."""
    few = {"epochs": 2, "finetune_epochs": 10} if flags.quick and flags.dataset != "digits" else {}
    chosen: dict[str, Any] = (
        few
        | chosen_before
        | {
            "backbone": backbone,
            "rule": method,
            "dataset": flags.dataset,
            "data": flags.data,
            "device": flags.device,
            "precision": choose_precision(flags.precision, choose_device(flags.device)),
        }
    )
    for name, value in map(parse_setting, flags.set):
        if name not in {*settings_help(), *STAGE_SETTINGS}:
            raise ConfigError(f"--set {name}: what is computed is said by reproduce's own flags")
        chosen[name] = value
    return configure(chosen)


def prepared(config: Config) -> Loaded:
    """The process made ready for the configuration, and its images."""
    set_up_process(config.precision)
    return load(config)


def compute(
    flags: argparse.Namespace, configs: dict[str, Config], cells: Cells, images: Callable[[], Loaded]
) -> None:
    """Every cell that is missing, but for those that other processes are computing."""

    def left() -> list[Task]:
        return missing(cells.read(), flags.methods, flags.regimes, flags.seeds)

    if not left():
        return
    first, loaded = configs[flags.methods[0]], images()
    if loaded.skipped:
        path, reason = loaded.skipped[0].values()
        log.warning("%d images cannot be read, the first is %s: %s", len(loaded.skipped), path, reason)
    if flags.quick:
        loaded = smaller(loaded, QUICK_IMAGES)
    check_labels(loaded.images, flags.regimes)
    countdown = Countdown()
    failed, elsewhere = set[tuple[str, int]](), set[tuple[str, int]]()
    # Asked anew after each task: another process may have finished some meanwhile.
    while tasks := [task for task in left() if (task.method, task.seed) not in failed | elsewhere]:
        method, seed, _ = task = tasks[0]
        try:
            with cells.claimed([f"{method}-{seed}"]):
                if task not in left():
                    continue
                config = configs.get(method, first)
                for cell in run_task(task, config, cells, loaded, Path(flags.work), flags.on):
                    countdown.finished(cell, left())
        except Claimed:
            elsewhere.add((method, seed))
            log.info("%s, seed %d: left to the process that is computing it", method, seed)
        except ArithmeticError as error:  # diverged; others need not
            failed.add((method, seed))
            log.error("%s, seed %d: %s", method, seed, error)
    if failed:
        names = ", ".join(f"{method} with seed {seed}" for method, seed in failed)
        raise TableError(f"not computed, because it diverged: {names}; the reasons are above")


def check_labels(images: ImageSet, regimes: Sequence[str]) -> None:
    """Raise ConfigError for a regime with fewer labels than classes: each class gets one at least, so that it
    would not be the share that it says."""
    labels, classes = len(split(images, 1.0, seed=0).training), len(images.classes)
    for regime in regimes:
        if share(regime) / 100 * labels < classes:
            raise ConfigError(
                f"regime {regime}: of {labels} training labels that is fewer than the {classes} classes; "
                f"use at least {math.ceil(100 * classes / labels)}%"
            )


def rows_of(
    cells: Sequence[Cell], methods: Iterable[str], regimes: Iterable[str], paper: dict[tables.Key, float]
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
                    paper=paper.get(tables.Key(name, labels, printed(metric))),
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


def main() -> None:
    """The command: errors of the user's making end in one line and exit code 2."""
    command = partial(fail, command="reproduce")
    try:
        run_command()
    except KeyboardInterrupt:
        command("stopped; the same command goes on", code=130)
    except (*USER_ERRORS, TableError) as error:
        command(str(error))
    except OSError as error:
        command(explain(error))


if __name__ == "__main__":
    main()
