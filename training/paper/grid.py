"""The paper's protocol: pre-train once per method and seed, then learn from each share of the labels."""

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.checkpoint import STAGES
from training.config import Config, earlier
from training.data import DataError
from training.device import describe, round_products
from training.learning.by_rule import learns_from_labels
from training.learning.finetune import JointHead, copied_state
from training.paper import plots
from training.paper.baselines import CHANCE, NO_LABELS, PIXELS, untrained
from training.paper.cells import Cell, Cells
from training.paper.measure import Measured, measure
from training.paper.work import alone, work_folder
from training.pixels import Loaded
from training.run import Run

log = logging.getLogger("hebbsearch")

ASKED = TEST, VALIDATION = "test", "validation"  # on which images the grid is measured


class Task(NamedTuple):
    """Cells that share their pre-training."""

    method: str
    seed: int
    labels: tuple[str, ...]


def missing(cells: Sequence[Cell], methods: Sequence[str], regimes: Sequence[str], seeds: int) -> list[Task]:
    """What of methods × regimes × seeds 0 … `seeds` − 1 is not among `cells`, a seed of all methods first."""
    done = {cell.key for cell in cells}
    wanted = [(method, regimes) for method in methods] + [(PIXELS, (NO_LABELS,)), (CHANCE, (NO_LABELS,))]
    tasks = [
        Task(method, seed, tuple(share for share in shares if (method, share, seed) not in done))
        for seed in range(seeds)
        for method, shares in wanted
    ]
    return [task for task in tasks if task.labels]


def run_task(
    task: Task, config: Config, cells: Cells, loaded: Loaded, work: Path, on: str = TEST
) -> Iterator[Cell]:
    """Compute the cells of `task` one after the other; each is written when it is finished.

    `work` keeps the pre-trained network for cells to come; without it, it is trained again. `on` says which
    images are asked, one of ASKED.
    """
    config = dataclasses.replace(config, seed=task.seed)
    if task.labels == (NO_LABELS,):
        run = asked(Run(dataclasses.replace(config, labels="100%"), None, loaded), on)
        cells.check_images(counted(run))
        yield _finished(cells, task, NO_LABELS, config, run, untrained(task.method, run))
        return
    cells_work = work_folder(config, loaded, work)
    base = None
    for labels in task.labels:
        regime = dataclasses.replace(config, labels=labels)
        folder = cells_work / f"{task.seed}-{labels}"
        with alone(folder):
            run = asked(Run(regime, folder, loaded), on)
            cells.check_images(counted(run))  # both refuse before anything is trained
            if base is None or learns_from_labels(config.rule):
                base = _pretrained(regime, loaded, work)
                if task.seed == 0:
                    weights = next(base.model.network.parameters())  # of the first layer
                    plots.filters(cells.filters(task.method), weights.detach().cpu().numpy())
            saved = run.restore()
            if saved is None:
                run.model.normalise.load_state_dict(base.model.normalise.state_dict())
                run.model.network.load_state_dict(base.model.network.state_dict())
            measured = variants(run, saved)
            taken = {
                "pretraining_seconds": base.seconds.get(STAGES[0], 0.0),
                "finetuning_seconds": run.seconds[STAGES[1]],
            }
            measured = measured._replace(figures=measured.figures | taken)
            yield _finished(cells, task, labels, config, run, measured)
            shutil.rmtree(folder)


def asked(run: Run, on: str) -> Run:
    """`run`, measured on the images that `on` names: on VALIDATION, to choose settings by, no test image is
    seen. DataError where there are none, or those are searched themselves."""
    if on == VALIDATION:
        if not run.images.validation_share:
            raise DataError(f"{run.images.where}: no validation images are kept apart; leave out --on")
        run.split = dataclasses.replace(run.split, queries=run.split.validation)
    if not len(run.split.queries):
        raise DataError(f"{run.images.where}: no {on} image has a label, so that nothing can be measured")
    return run


def counted(run: Run) -> dict[str, int]:
    """How many images are asked with and searched."""
    return {"queries": len(run.split.queries), "database": len(run.split.pretraining)}


def _finished(cells: Cells, task: Task, labels: str, config: Config, run: Run, measured: Measured) -> Cell:
    seen = {"training_labels": len(run.split.training), "validation_labels": len(run.split.validation)}
    if labels == NO_LABELS:
        seen = dict.fromkeys(seen, 0)
    seen |= counted(run)
    # Meanwhile another process may have written others. By the rule, not by the task's method: what needs no
    # training comes with the configuration of any method.
    cells.check({config.rule: config})
    cells.check_images(seen)  # before the curve, which has to be there when the cell is
    name, machine = cells.remember(config), describe(run.device)
    cell = Cell(task.method, labels, task.seed, name, machine, measured.figures | seen)
    if task.seed == 0:
        cells.add_curve(cell, measured.curve)
    cells.add(cell)
    return cell


def _pretrained(config: Config, loaded: Loaded, work: Path) -> Run:
    """A run that has learned its features, from its checkpoint where there is one, whatever comes later."""
    config = earlier(config)
    labels = config.labels if learns_from_labels(config.rule) else "100%"
    name = str(config.seed) if labels == "100%" else f"{config.seed}-{labels}-features"
    folder = work_folder(config, loaded, work) / name
    with alone(folder):
        run = Run(dataclasses.replace(config, labels=labels), folder, loaded)
        run.learn_features(run.restore())
    return run


def variants(run: Run, saved: dict[str, Any] | None) -> Measured:
    """Fine-tune once and measure twice: at the epochs that the validation labels choose and, as
    `…_unvalidated`, at the last ones, which are what they are without any label but the training ones. (What
    the defaults of learning rates and pre-training epochs are was once chosen on validation labels.)"""
    tuned = run.finetune(saved)
    last, fresh = copied_state(run.model.classifier), copied_state(run.model.head)
    run.checkpoint = None  # what follows takes a minute or two, with a joint head as long as the fine-tuning
    tuned.finish()
    learned = run.train_head(None)
    last_head = copied_state(run.model.head)
    learned.finish()
    validated = _in_32_bits(run)
    run.model.classifier.load_state_dict(last)
    if isinstance(run.model.head, JointHead):  # it learned from features of its own
        run.model.head.load_state_dict(last_head)
    else:
        run.model.head.load_state_dict(fresh)
        run.train_head(None)
    unvalidated = {f"{name}_unvalidated": value for name, value in _in_32_bits(run).figures.items()}
    return validated._replace(figures=validated.figures | unvalidated)


def _in_32_bits(run: Run) -> Measured:
    """Codes as the service computes them."""
    round_products("fp32")
    measured = measure(run)
    round_products(run.precision)
    return measured


def said(cell: Cell) -> str:
    """A cell in a line of the log."""
    names = ("top1", "map", "map_at_100_retrieved")
    shown = ", ".join(f"{name} {cell.figures[name]:.4f}" for name in names if name in cell.figures)
    return f"{cell.method}, {cell.labels}, seed {cell.seed}: {shown}"
