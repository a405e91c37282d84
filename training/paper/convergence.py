"""How many epochs pre-training needs: the accuracy of a linear readout after each, and where it converged."""

import csv
import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.locking import locked
from training.checkpoint import STAGES
from training.config import Config, ConfigError
from training.data import DataError
from training.device import describe
from training.paper import tables
from training.paper.cells import Cells, refuse_others
from training.paper.readout import ridge_accuracy
from training.paper.tables import TableError
from training.paper.work import Countdown, alone, work_folder
from training.pixels import Loaded
from training.run import Run

log = logging.getLogger("hebbsearch")

READOUT_IMAGES = 5000  # at most, to learn from and to measure on
CLOSE = 0.005  # to the best accuracy: converged
Images = Callable[[], Loaded]  # read when they are first needed: not where everything is known


def converged(accuracies: Sequence[float]) -> int:
    """The first epoch, counted from 1, whose accuracy is within half a point of the best of all epochs."""
    best = max(accuracies)
    return next(n for n, accuracy in enumerate(accuracies, 1) if accuracy >= best - CLOSE - 1e-9)


def trajectory(run: Run) -> list[float]:
    """Pre-train as Run.learn_features does; the readout's accuracy after each epoch (see `readout`).

    With a folder for checkpoints an interrupted run goes on after its last epoch.
    """
    if run.config.epochs < 1:
        raise ConfigError(f"epochs {run.config.epochs}: at least 1 is needed to see it converge")
    if not len(run.split.validation):
        raise DataError(f"{run.images.where}: no labelled images to validate on; add some")
    saved = run.restore()
    if saved is None:
        run.fit_preprocessing()
    accuracies = run.validation.setdefault(STAGES[0], [])  # the checkpoint keeps it
    run.pretrain(saved, lambda: accuracies.append(readout(run)))
    return accuracies


def readout(run: Run, count: int = READOUT_IMAGES) -> float:
    """Accuracy of a ridge regression (see readout.py) from the flattened convolutional features of
    at most `count` labelled pre-training images, on at most `count` validation images; both are drawn by
    the seed, the same after each epoch. Test images take no part."""
    run.model.network.eval()
    return linear_accuracy(run, run.features, sample(run.split.training, count, run.config.seed), count)


def linear_accuracy(
    run: Run,
    features: Callable[[Iterable[Tensor]], Iterator[tuple[Tensor, Tensor]]],
    training: NDArray[np.int64],
    count: int | None,
) -> float:
    """Ridge regression from `features` of the images at `training`, on at most `count` validation images."""
    found: list[Tensor] = []
    validation = run.split.validation
    for positions in (training, validation if count is None else sample(validation, count, run.config.seed)):
        found.append(torch.cat([values.float() for _, values in features(run.groups(positions))]))
        found.append(run.labels[torch.from_numpy(positions).to(run.home)].to(run.device))
    return ridge_accuracy(*found)


def sample(positions: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` of the positions, in order."""
    if len(positions) <= count:
        return positions
    return np.sort(np.random.default_rng(seed).choice(positions, count, replace=False))


class Trajectory(NamedTuple):
    """The readout's accuracy after each epoch of a run."""

    config: str
    machine: str
    database: int  # images of an epoch
    accuracies: list[float]


class Trajectories:
    """How runs converged, `convergence/<name>.csv`: a line an epoch."""

    COLUMNS = ("method", "seed", "epoch", "readout_accuracy", "config", "machine", "database")

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / "convergence" / f"{name}.csv"
        self.cells = Cells(folder, f"{name}-convergence")  # keeps configurations, and others away

    def read(self) -> dict[tuple[str, int], Trajectory]:
        """By method and seed. TableError for a file that holds something else."""
        found: dict[tuple[str, int], Trajectory] = {}
        if not self.path.exists():
            return found
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != self.COLUMNS:
                raise TableError(f"{self.path}: the columns should be {','.join(self.COLUMNS)}")
            try:
                for method, seed, epoch, accuracy, config, machine, database in reader:
                    new = Trajectory(config, machine, int(database), [])
                    known = found.setdefault((method, int(seed)), new)
                    if int(epoch) != len(known.accuracies) + 1:
                        raise ValueError(f"epoch {epoch} where {len(known.accuracies) + 1} should be")
                    known.accuracies.append(float(accuracy))
            except ValueError as error:
                raise TableError(f"{self.path}, line {reader.line_num}: {error}; mend or remove it") from None
        return found

    def of(self, method: str) -> list[Trajectory]:
        """Those of a method, of all seeds."""
        return [each for (name, _), each in self.read().items() if name == method]

    def add(self, method: str, seed: int, trajectory: Trajectory) -> None:
        """Write a finished run beside the others; the file is replaced as a whole."""
        with locked(self.path.with_suffix(".lock"), wait=True):
            found = self.read() | {(method, seed): trajectory}
            text = StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(self.COLUMNS)
            for (name, number), (*about, values) in found.items():
                writer.writerows((name, number, n, f"{v:.6g}", *about) for n, v in enumerate(values, 1))
            tables.replace_file(self.path, text.getvalue().encode())

    def check_images(self, database: int) -> None:
        """Raise TableError for other images than those of the runs, as far as their number tells."""
        refuse_others(self.path, "database", (each.database for each in self.read().values()), database)

    def check(self, method: str, config: Config) -> None:
        """Raise TableError if runs of `method` were configured otherwise: their mean would mean nothing."""
        for name in {each.config for each in self.of(method)}:
            if differing := self.cells.differences(name, config):
                raise TableError(
                    f"{self.path}: its epochs of {method} have configuration {name}, this run other values "
                    f"({differing}); name another folder with --out"
                )


def converge(
    configs: Mapping[str, Config], seeds: int, finished: Trajectories, images: Images, work: Path
) -> None:
    """Trajectories of each method for seeds 0 … `seeds` − 1; finished ones are not run again."""
    countdown = Countdown("runs")
    with finished.cells.claimed(configs):
        known = finished.read()
        missing = [(seed, name) for seed in range(seeds) for name in configs if (name, seed) not in known]
        for number, (seed, method) in enumerate(missing, 1):
            config = configs[method]
            folder = work_folder(config, images(), work) / f"{seed}-epochs"
            with alone(folder):
                run = Run(dataclasses.replace(config, seed=seed), folder, images())
                database = len(run.split.pretraining)
                finished.check_images(database)
                accuracies = trajectory(run)
                name, machine = finished.cells.remember(config), describe(run.device)
                finished.add(method, seed, Trajectory(name, machine, database, accuracies))
                shutil.rmtree(folder)
            left = countdown.one_done(len(missing) - number)
            log.info("%s, seed %d: converged in epoch %d; %s", method, seed, converged(accuracies), left)
