"""The paper's protocol: pre-train once per method and seed, then learn from each share of the labels."""

import dataclasses
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from training.cells import Cell, Cells, config_id
from training.config import Config
from training.data import Loaded
from training.device import round_products
from training.export import describe
from training.finetune import JointHead
from training.measure import figures
from training.run import Run

log = logging.getLogger("hebbsearch")


class Task(NamedTuple):
    """Cells that share their pre-training."""

    method: str
    seed: int
    labels: tuple[str, ...]


def missing(cells: Sequence[Cell], methods: Sequence[str], regimes: Sequence[str], seeds: int) -> list[Task]:
    """What of methods × regimes × seeds 0 … `seeds` − 1 is not among `cells`, a seed of all methods first."""
    done = {cell.key for cell in cells}
    tasks = [
        Task(method, seed, tuple(labels for labels in regimes if (method, labels, seed) not in done))
        for seed in range(seeds)
        for method in methods
    ]
    return [task for task in tasks if task.labels]


def run_task(
    task: Task, config: Config, cells: Cells, loaded: Loaded, work: Path, shown: "Countdown"
) -> None:
    """Compute the cells of `task` one after the other, each written when it is finished.

    `work` keeps the pre-trained network for cells to come; without it, it is trained again.
    """
    config = dataclasses.replace(config, seed=task.seed)
    work = work / config_id(config)
    base = _pretrained(config, loaded, work / str(task.seed))
    pretraining = base.seconds.get("pre-training", 0.0)
    for labels in task.labels:
        begin = time.monotonic()
        folder = work / f"{task.seed}-{labels}"
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(dataclasses.replace(config, labels=labels), folder, loaded)
        saved = run.restore()
        if saved is None:
            run.model.normalise.load_state_dict(base.model.normalise.state_dict())
            run.model.network.load_state_dict(base.model.network.state_dict())
        measured = dict(variants(run, saved))
        taken = {"pretraining_seconds": pretraining, "seconds": time.monotonic() - begin}
        counts = {"training_labels": len(run.split.training), "validation_labels": len(run.split.validation)}
        name, machine = cells.remember(config), describe(run.device)
        cells.add(Cell(task.method, labels, task.seed, name, machine, measured | counts | taken))
        shutil.rmtree(folder)
        shown.finished(task, labels, measured)


def _pretrained(config: Config, loaded: Loaded, folder: Path) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(dataclasses.replace(config, labels="100%"), folder, loaded)
    run.learn_features(run.restore())
    return run


def variants(run: Run, saved: dict[str, object] | None) -> Iterator[tuple[str, float]]:
    """Fine-tune once and measure twice: at the epochs that the validation labels choose and, as
    `…_unvalidated`, at the last ones, for which no label but the training ones was seen."""
    tuned = run.finetune(saved)
    last, untrained = weights(run.model.classifier), weights(run.model.head)
    run.checkpoint = None  # what follows takes a minute or two, with a joint head as long as the fine-tuning
    tuned.finish()
    learned = run.train_head(None)
    last_head = weights(run.model.head)
    learned.finish()
    yield from in_full_precision(run)
    run.model.classifier.load_state_dict(last)
    if isinstance(run.model.head, JointHead):  # it learned from features of its own
        run.model.head.load_state_dict(last_head)
    else:
        run.model.head.load_state_dict(untrained)
        run.train_head(None)
    for name, value in in_full_precision(run):
        yield f"{name}_unvalidated", value


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of what it has learned."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def in_full_precision(run: Run) -> Iterator[tuple[str, float]]:
    """The figures of `run`, computed in 32 bits."""
    round_products("fp32")
    yield from figures(run).items()
    round_products(run.precision)


class Countdown:
    """Says after each cell what came out, how many are left, and for about how long."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.left = [(task.method, labels) for task in tasks for labels in task.labels]
        self.count = len(self.left)
        self.begin = time.monotonic()

    def finished(self, task: Task, labels: str, measured: dict[str, float]) -> None:
        """One cell less."""
        self.left.remove((task.method, labels))
        done = self.count - len(self.left)
        rest = (time.monotonic() - self.begin) / done * len(self.left)
        log.info(
            "%s, %s, seed %d: top-1 %.4f, mAP %.4f, @100 retrieved %.4f; %d of %d cells, about %.0f min left",
            *(task.method, labels, task.seed, measured["top1"], measured["map"]),
            *(measured["map_at_100_retrieved"], done, self.count, rest / 60),
        )
