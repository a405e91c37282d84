"""How sure a predicted label is: a temperature for the student's posteriors, and how well it holds."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from index.calibration import best_temperature, calibration_error, tempered
from index.items import UNLABELLED
from training.coding.posterior import TO_CHOOSE, best_decay, crossed, fold_of

ENOUGH = 200  # held-out queries from which on they tell the temperature
FEWEST = 30  # labels below which no confidence is shown


@dataclass(frozen=True)
class Calibration:
    """By what posteriors are made calmer or surer.

    `kind`: by held-out queries; rough: by the labels themselves, each judged by what was learned without it;
    none: there are too few labels for any confidence. `error` is the expected calibration error on `labels`
    labels, half of which told the temperature and half of which are judged, in turns.
    """

    temperature: float = 1.0
    kind: Literal["held out", "rough", "none"] = "none"
    labels: int = 0
    error: float | None = None


def of_queries(posteriors: NDArray[np.float32], labels: NDArray[np.int64]) -> Calibration:
    """By held-out queries with posteriors (q, classes) and labels (q,); none where they are not ENOUGH."""
    known = (labels != UNLABELLED) & (labels < posteriors.shape[1])
    if known.sum() < ENOUGH:
        return Calibration()
    return _judged(posteriors[known], labels[known], "held out")


def rough(
    spaces: tuple[NDArray[np.float32], ...], labels: NDArray[np.int64], classes: int, seed: int
) -> Calibration:
    """By the labels (n,) that were learned from: each has the mean of what regressions say of it in each of
    the `spaces` (n, E) without its fold. None for fewer than FEWEST, or where nothing can be held out."""
    given = np.flatnonzero(labels != UNLABELLED)
    given = np.sort(np.random.default_rng(seed).permutation(given)[:TO_CHOOSE])
    y = labels[given]
    folds = fold_of(y, seed) if len(y) >= FEWEST else None
    if folds is None:
        return Calibration()
    said = [crossed(x[given], y, classes, best_decay(x[given], y, classes, seed), folds) for x in spaces]
    held = folds >= 0
    return _judged(np.mean(said, axis=0)[held], y[held], "rough")


def _judged(
    posteriors: NDArray[np.float32], labels: NDArray[np.int64], kind: Literal["held out", "rough"]
) -> Calibration:
    """The temperature of all, and the error that each half has with that of the other."""
    half = np.random.default_rng(0).permutation(len(labels)) % 2 == 0
    confidences, correct = np.zeros(len(labels)), np.zeros(len(labels), bool)
    for told, judged in ((half, ~half), (~half, half)):
        cooled = tempered(posteriors[judged], best_temperature(posteriors[told], labels[told]))
        confidences[judged], correct[judged] = cooled.max(1), cooled.argmax(1) == labels[judged]
    error = round(calibration_error(confidences, correct), 4)
    return Calibration(best_temperature(posteriors, labels), kind, len(labels), error)
