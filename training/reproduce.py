"""The paper's tables, ours beside theirs.

python training/reproduce.py --table 3 --dataset cifar10 --data data
"""

import os

# As in build_index.py: threads that wait spin for some microseconds, then sleep.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from training.command_line import OneLineParser, run_or_fail
from training.config import DATASETS, PRECISIONS, SETTABLE, Config, ConfigError, configure, parse_setting
from training.device import choose_device, choose_precision, set_up_process
from training.learning.together import refuse_together
from training.nets.backbones import smallest_image
from training.paper import report, tables, timing
from training.paper.cells import OF_A_METHOD, Cell, Cells, Claimed
from training.paper.durations import with_fast
from training.paper.grid import ASKED, TEST, VALIDATION, Task, missing, run_task, said
from training.paper.report import GRIDS, checked_regime, known, share
from training.paper.search import search_all
from training.paper.work import QUICK_IMAGES, Countdown, smaller
from training.pixels import Loaded, load
from training.protocol import counted, least_share, too_few

log = logging.getLogger("hebbsearch")

REGIMES = ("1%", "2%", "3%", "4%", "5%", "10%", "25%", "100%")
SEEDS = 5
PAPER_EPOCHS = 20  # of pre-training, among which tables 1 and 5 look for the one that is enough
# What --quick computes: minutes on two cores.
QUICK_REGIMES, QUICK_SEEDS = ("5%", "25%", "100%"), 2
# Of tables 1, 4 and 5, of which a two-phase original takes minutes for a batch of 64 large images.
QUICK_TIMING = {"epochs": 3, "batch_size": 8}


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
    refuse_together("reproduce.py")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    if not flags.quick or flags.dataset != "digits":  # which are there to see the command work
        tables.paper(flags.table, flags.dataset)  # refuses a table that the data set is not in
    usual = GRIDS[flags.table].methods if flags.table in GRIDS else ()
    flags.methods = list(dict.fromkeys(flags.methods or usual))
    if flags.seeds is None:
        flags.seeds = SEEDS
        if flags.quick:
            flags.seeds = QUICK_SEEDS if flags.table in GRIDS else 1
    if flags.seeds < 1:
        raise tables.TableError(f"seeds {flags.seeds}: at least 1 is needed")
    if flags.search and (flags.quick or flags.table in timing.TABLES):
        raise ConfigError(
            f"search {flags.search}: only for tables {', '.join(map(str, GRIDS))} without --quick"
        )
    if flags.table in timing.TABLES:
        return run_timing(flags)
    flags.usual_regimes = not flags.regimes
    asked_for = flags.regimes or (QUICK_REGIMES if flags.quick else REGIMES)
    flags.regimes = list(dict.fromkeys(map(checked_regime, asked_for)))
    flags.search = flags.search and checked_regime(flags.search)
    backbone = network(GRIDS[flags.table].backbones, flags.dataset)
    configs = {method: method_config(flags, backbone, method) for method in flags.methods}
    suffix = "-quick" if flags.quick else ""
    if flags.on == VALIDATION:
        suffix += f"-{VALIDATION}"
    out = Path(flags.out)
    images = cache(partial(prepared, configs[flags.methods[0]], flags.quick))  # the same for all methods
    cells = Cells(out, f"{flags.dataset}-{backbone}{suffix}")
    if flags.search:
        cells.check(configs, apart=OF_A_METHOD)  # what the search finds
        check_labels([flags.search], *counted(images().images))
        configs = search_all(configs, out, images(), flags.search)
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
        path = cells.folder / f"table{table}-{flags.dataset}{suffix}"
        # The paper's numbers are those of the test images, whole.
        compared = not flags.quick and flags.on == TEST
        text = report.write(path, table, flags.dataset, cells, methods, regimes, compared=compared)
        if table == flags.table:
            print(text)
            print(f"{path}.csv, .md, .png")


def run_timing(flags: argparse.Namespace) -> None:
    """Tables 1, 4 and 5: see training/paper/timing.py. `--seeds` counts those of epochs and readouts."""
    if flags.regimes or flags.on == VALIDATION:
        raise ConfigError(f"table {flags.table} has neither regimes nor --on; leave them out")
    table = timing.TABLES[flags.table]
    methods = list(flags.methods or table.names)
    timing.check_methods(flags.table, methods)
    backbone = network(table.backbones, flags.dataset)
    chosen: dict[str, Any] = {"epochs": PAPER_EPOCHS}
    if flags.quick:
        chosen = QUICK_TIMING | {"image_size": max(32, smallest_image(backbone))}
    configs = {method: method_config(flags, backbone, method, **chosen) for method in with_fast(methods)}
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
    chosen: dict[str, Any] = few | chosen_before | {"backbone": backbone, "rule": method}
    chosen |= {name: getattr(flags, name) for name in ("dataset", "data", "device")}
    chosen["precision"] = choose_precision(flags.precision, choose_device(flags.device))
    for name, value in (parse_setting(text, SETTABLE) for text in flags.set):
        if name not in SETTABLE:
            raise ConfigError(f"--set {name}: what is computed is said by reproduce's own flags")
        chosen[name] = value
    return configure(chosen)


def prepared(config: Config, quick: bool) -> Loaded:
    """The process made ready for the configuration, and its images; a part of them if it shall be quick."""
    set_up_process(config.precision)
    loaded = load(config)
    if loaded.skipped:
        path, reason = loaded.skipped[0].values()
        log.warning("%d images cannot be read, the first is %s: %s", len(loaded.skipped), path, reason)
    return smaller(loaded, QUICK_IMAGES) if quick else loaded


def compute(
    flags: argparse.Namespace, configs: dict[str, Config], cells: Cells, images: Callable[[], Loaded]
) -> None:
    """Every cell that is missing, but for those that other processes are computing."""

    def left() -> list[Task]:
        return missing(cells.read(), flags.methods, flags.regimes, flags.seeds)

    if not left():
        return
    first, loaded = configs[flags.methods[0]], images()
    classes, labels = counted(loaded.images)
    if flags.quick and flags.usual_regimes:
        flags.regimes = with_enough_labels(flags.regimes, classes, labels)
    check_labels(flags.regimes, classes, labels)
    countdown = Countdown("cells")
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
                    still = sum(len(task.labels) for task in left())
                    log.info("%s; %s", said(cell), countdown.one_done(still))
        except Claimed:
            elsewhere.add((method, seed))
            log.info("%s, seed %d: left to the process that has this method and seed", method, seed)
        except ArithmeticError as error:  # diverged; others need not
            failed.add((method, seed))
            log.error("%s, seed %d: %s", method, seed, error)
    if others := sum(len(task.labels) for task in left() if (task.method, task.seed) in elsewhere):
        log.warning(
            "%d cells are not there yet: other processes have their methods and seeds; give the command "
            "again when those have ended, for what they finished and what they left",
            others,
        )
    if failed:
        names = ", ".join(f"{method} with seed {seed}" for method, seed in failed)
        raise tables.TableError(f"not computed, because it diverged: {names}; the reasons are above")


def with_enough_labels(regimes: Sequence[str], classes: int, labels: int) -> list[str]:
    """The `regimes` that have a label for each class; says which have not."""
    least = least_share(classes, labels)
    for regime in regimes:
        if share(regime) < least:
            log.info("%s of the labels left out: fewer than the %d classes", regime, classes)
    return [regime for regime in regimes if share(regime) >= least]


def check_labels(regimes: Sequence[str], classes: int, labels: int) -> None:
    """Raise ConfigError for a regime with fewer labels than classes."""
    least = least_share(classes, labels)
    for regime in regimes:
        if share(regime) < least:
            raise ConfigError(too_few(f"regime {regime}", classes, labels))


def main() -> None:
    """The command: errors of the user's making end in one line and exit code 2."""
    stopped, again = "stopped; the same command goes on", "give the same command again"
    run_or_fail(run_command, "reproduce", stopped, again, tables.TableError)


if __name__ == "__main__":
    main()
