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
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from training import tables, timing
from training.build_index import USER_ERRORS, OneLineParser, explain, fail
from training.cells import Cell, Cells, config_id
from training.config import DATASETS, PRECISIONS, Config, configure, parse_setting
from training.device import choose_device, choose_precision, set_up_process
from training.grid import Countdown, missing, run_task
from training.run import load
from training.significance import mean_and_deviation, welch
from training.tables import Row, TableError

log = logging.getLogger("hebbsearch")

# The paper's names of the methods, in the order of its tables.
NAMES = {"none": "None", "vae": "VAE", "swta_fh": "SWTA-FH", "hpca_fh": "HPCA-FH"}
REGIMES = ("1%", "2%", "3%", "4%", "5%", "10%", "25%", "100%")
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
    add("--seeds", type=int, default=5, metavar="N", help="runs of each cell (default: 5)")
    add(
        "--regimes",
        nargs="+",
        default=REGIMES,
        metavar="N%",
        help="shares of the labels (default: the paper's)",
    )
    add("--methods", nargs="+", default=tuple(NAMES), metavar="RULE", help=f"(default: {' '.join(NAMES)})")
    add("--device", default="auto", metavar="NAME", help="as in build_index.py")
    add("--precision", default="auto", choices=PRECISIONS, help="as in build_index.py")
    add(
        "--set",
        default=[],
        metavar="NAME=VALUE",
        action="append",
        help="as in build_index.py, for all methods",
    )
    add("--out", default="results", metavar="DIR", help="cells and tables (default: results)")
    add(
        "--work",
        default="artifacts/reproduce",
        metavar="DIR",
        help="checkpoints (default: artifacts/reproduce)",
    )
    return command


def run_command(arguments: list[str] | None = None) -> None:
    """Compute what is missing, then write the table. Raises the errors that `main` turns into one line."""
    flags = parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    paper = tables.paper(flags.table, flags.dataset)
    if flags.table in timing.TABLES:
        return run_timing(flags)
    grid = GRIDS[flags.table]
    configs = {method: method_config(flags, grid, method) for method in flags.methods}
    for labels in flags.regimes:
        configure({"labels": labels})  # says what is wrong with one
    out = Path(flags.out)
    cells = Cells(out, f"{flags.dataset}-{grid.backbones[flags.dataset]}")
    for method, config in configs.items():
        cells.check(method, config_id(config))
    with cells.claimed():
        compute(flags, configs, cells)
    rows = list(rows_of(cells.read(), flags.methods, flags.regimes, paper))
    name = f"table{flags.table}-{flags.dataset}"
    tables.write_csv(out / f"{name}.csv", rows)
    shown = [row for row in rows if row.metric in grid.metrics]
    tables.replace_file(out / f"{name}.md", tables.markdown(shown).encode())
    print(tables.markdown(shown))
    print(f"{out / name}.csv, .md")


def run_timing(flags: argparse.Namespace) -> None:
    """Tables 1, 4 and 5: see training/timing.py. `--seeds` counts those of epochs and readouts."""
    table = timing.TABLES[flags.table]
    by_default = flags.methods == parser().get_default("methods")
    methods = list(table.names) if by_default else list(flags.methods)
    timing.check_methods(flags.table, methods)
    grid = Grid(table.backbones, ())
    configs = {method: method_config(flags, grid, method) for method in timing.with_fast(methods)}
    print(timing.make(flags.table, methods, configs, flags.seeds, Path(flags.out), Path(flags.work)))
    print(f"{Path(flags.out) / f'table{flags.table}-{flags.dataset}'}.csv, .md, .png")


def method_config(flags: argparse.Namespace, grid: Grid, method: str) -> Config:
    """The configuration of one method; its precision is chosen. Raises ConfigError."""
    chosen: dict[str, Any] = {
        "backbone": grid.backbones[flags.dataset],
        "rule": method,
        "dataset": flags.dataset,
        "data": flags.data,
        "device": flags.device,
        "precision": choose_precision(flags.precision, choose_device(flags.device)),
    }
    return configure(chosen | dict(parse_setting(text) for text in flags.set))


def compute(flags: argparse.Namespace, configs: dict[str, Config], cells: Cells) -> None:
    """Every cell that is missing."""
    tasks = missing(cells.read(), flags.methods, flags.regimes, flags.seeds)
    if not tasks:
        return
    first = configs[flags.methods[0]]
    set_up_process(first.precision)
    loaded = load(first)  # the images are the same for all
    countdown = Countdown(tasks)
    for task in tasks:
        run_task(task, configs[task.method], cells, loaded, Path(flags.work), countdown)


def rows_of(
    cells: Sequence[Cell], methods: Iterable[str], regimes: Iterable[str], paper: dict[tables.Key, float]
) -> Iterator[Row]:
    """One row a figure: mean and deviation over the seeds, the paper's number, Welch's test."""
    for method in methods:
        for labels in regimes:
            ours = [cell for cell in cells if (cell.method, cell.labels) == (method, labels)]
            if not ours:
                continue
            base = [cell for cell in cells if (cell.method, cell.labels) == (BASELINE, labels)]
            name = NAMES.get(method, method)
            for metric in ours[0].figures:
                values = figures_of(ours, metric)
                mean, deviation = mean_and_deviation(values)
                tested = method != BASELINE and bool(base)
                printed = "map" if metric == PAPER_MAP else None if metric == "map" else metric
                yield Row(
                    method=name,
                    labels=labels,
                    metric=metric,
                    mean=mean,
                    std=deviation,
                    seeds=len(values),
                    paper=None if printed is None else paper.get(tables.Key(name, labels, printed)),
                    p_value=welch(values, figures_of(base, metric)) if tested else None,
                    p_against=NAMES[BASELINE] if tested else "",
                    config=ours[0].config,
                    machine=", ".join(dict.fromkeys(cell.machine for cell in ours)),
                )


IN_UNITS = ("seconds", "pretraining_seconds", "training_labels", "validation_labels")


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
