"""Hyper-parameters by coordinate descent on the accuracy of the validation images, as Lagani et al.,
Neurocomputing 2024 (doi 10.1016/j.neucom.2024.127867) found theirs; the queries are never looked at.

The descent is twenty lines: a package for it (Optuna has no coordinate descent) would cost more to explain.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from torch import Tensor

from training.checkpoint import STAGES
from training.config import Config, ConfigError, check, earlier
from training.device import describe
from training.learning.by_rule import LEARNERS
from training.learning.finetune import copied_state
from training.paper.cells import Cell, Cells
from training.pixels import Loaded
from training.protocol import split
from training.rules import TRAITS
from training.run import Run

log = logging.getLogger("hebbsearch")

ROUNDS = 5  # at most; two or three are usual until nothing changes
FACTORS = (0.1, 0.3, 3, 10)  # of a default: what is tried unless told


class Trial(NamedTuple):
    """A point of the search and the objective there, −∞ for none."""

    values: dict[str, float]
    score: float


def coordinate_descent(
    objective: Callable[[dict[str, float]], float],
    start: Mapping[str, float],
    steps: Mapping[str, Sequence[float]],
    rounds: int,
) -> Iterator[Trial]:
    """Each trial when it is computed, none of them twice. The first with the highest score is the result.

    One coordinate after the other takes the value among its `steps` that scores highest while the others
    stay; of equals the present one, then the first. Ends after `rounds` of this, or one that changed nothing.
    A score of NaN is the worst.
    """
    known: dict[tuple[tuple[str, float], ...], float] = {}
    present = dict(start)

    def score(values: dict[str, float]) -> float:
        return known[tuple(values.items())]

    for _ in range(rounds):
        before = present
        for name, candidates in steps.items():
            line = [present, *(present | {name: value} for value in candidates)]
            for values in line:
                key = tuple(values.items())
                if key not in known:
                    found = objective(values)
                    known[key] = -math.inf if math.isnan(found) else found
                    yield Trial(values, known[key])
            present = max(line, key=score)  # of equals the first
        if present == before:
            return


class Trials(Cells):
    """A search's finished trials, in `folder`/search/`name`.csv; their figures include what was tried."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder / "search", name)
        self.path = self.folder / f"{name}.csv"

    def identity(self, cell: Cell) -> tuple[Any, ...]:
        """A trial is of its configuration."""
        return *cell.key, cell.config

    def accuracy(self, config: Config) -> float | None:
        """The validation accuracy that a trial had with `config`, if there was one."""
        key = self.config_id(config), config.labels, config.seed
        found = (cell for cell in self.read() if (cell.config, cell.labels, cell.seed) == key)
        return next((cell.figures["validation_accuracy"] for cell in found), None)


class Accuracy:
    """The objective: the best validation accuracy of the fine-tuning, of one seed. Trials in `trials` are not
    computed again, and those computed are added to it. TableError where they are of other images."""

    def __init__(self, config: Config, trials: Trials, loaded: Loaded) -> None:
        self.config, self.trials, self.loaded = config, trials, loaded
        self.images = {"database": len(split(loaded.images, config.fraction(), config.seed).pretraining)}
        trials.check_images(self.images)
        self.best = -math.inf
        # By what they depend on: the best trial's and the last one's, which further trials may begin with.
        self.pretrained: dict[Config, dict[str, Tensor]] = {}

    def __call__(self, values: dict[str, float]) -> float:
        """Accuracy from 0 to 1, or −∞ for a trial that diverged."""
        config = with_values(self.config, values)
        if self.trials.accuracy(config) is None:
            begin = time.monotonic()
            run = Run(config, None, self.loaded)
            accuracy = self.measured(run)
            figures = values | {"validation_accuracy": accuracy, "seconds": time.monotonic() - begin}
            figures |= self.images
            name, machine = self.trials.remember(config), describe(run.device)
            self.trials.add(Cell(config.rule, config.labels, config.seed, name, machine, figures))
        # As it is written, so that a search that goes on decides as one in a piece.
        found = self.trials.accuracy(config)
        assert found is not None
        shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
        log.info("%s, %s: validation accuracy %.4f", config.rule, shown, found)
        if found > self.best:
            self.best = found
            self.pretrained = {key: state for key, state in self.pretrained.items() if key == earlier(config)}
        return found

    def measured(self, run: Run) -> float:
        """Pre-train, unless a network pre-trained so is at hand, and fine-tune."""
        if not len(run.split.validation):
            raise ConfigError(f"labels {run.config.labels}: too few to have validation images; use more")
        key, model = earlier(run.config), run.model
        try:
            if key in self.pretrained:
                model.load_state_dict(self.pretrained[key])
            else:
                run.learn_features()
                kept = list(self.pretrained.items())[:1]  # the best trial's comes first
                self.pretrained = dict(kept) | {key: copied_state(model)}
            run.finetune(None)
        except ArithmeticError as error:
            log.info("%s", error)
            return -math.inf
        return max(run.validation[STAGES[1]])


def with_values(config: Config, values: Mapping[str, float]) -> Config:
    """`config` with `values`, each in its field's type. Raises ConfigError."""
    types = get_type_hints(Config)
    wrong = [name for name in values if types.get(name) not in {bool, int, float}]
    if wrong:
        raise ConfigError(f"search {wrong[0]}: only numbers and true or false can be searched")
    changed = dataclasses.replace(config, **{name: types[name](value) for name, value in values.items()})
    check(changed)
    return changed


def candidates_of(config: Config) -> dict[str, list[float]]:
    """What to try for the method: multiples of each learning rate and of what else is its own."""
    own = LEARNERS[config.rule].searched if config.rule in LEARNERS else ()
    names = [*own, "finetune_lr", "weight_decay"]
    if config.rule in TRAITS and TRAITS[config.rule].temperature is None:
        names.remove("temperature")
    return {name: [float(f"{factor * getattr(config, name):.3g}") for factor in FACTORS] for name in names}


def search(
    config: Config,
    folder: Path,
    loaded: Loaded,
    regime: str,
    candidates: Mapping[str, Sequence[float]],
) -> dict[str, float]:
    """The best values of `candidates`, beginning with those of `config`, at the share `regime` of the labels.

    Trials are written to `folder`/search/<dataset>-<backbone>-<method>.csv, and read from there. The
    precision of `config` must have been chosen. Raises ArithmeticError if every trial diverged.
    """
    config = dataclasses.replace(config, labels=regime)
    start = {name: getattr(config, name) for name in candidates}
    trials = Trials(folder, f"{config.dataset}-{config.backbone}-{config.rule}")
    with trials.claimed([config.rule]):
        objective = Accuracy(config, trials, loaded)
        found = coordinate_descent(objective, start, candidates, ROUNDS)
        best = max(found, key=lambda trial: trial.score, default=Trial(start, 0.0))
    if best.score == -math.inf:
        raise ArithmeticError(f"{trials.path}: every trial diverged; begin with smaller learning rates")
    return best.values


def search_all(configs: Mapping[str, Config], folder: Path, loaded: Loaded, regime: str) -> dict[str, Config]:
    """Each method's configuration with the values that a search among `candidates_of` it found."""
    return {
        method: with_values(config, search(config, folder, loaded, regime, candidates_of(config)))
        for method, config in configs.items()
    }
