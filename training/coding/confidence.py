"""How sure a predicted label is: a temperature for the student's posteriors, and how well it holds."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from index.calibration import best_temperature, calibration_error, tempered
from index.items import UNLABELLED

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


def of_labels(posteriors: NDArray[np.float32], labels: NDArray[np.int64]) -> Calibration:
    """By labels (m,) that were learned from, with what was said of each without it (m, classes). None where
    there are fewer than FEWEST."""
    return _judged(posteriors, labels, "rough") if len(labels) >= FEWEST else Calibration()


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
