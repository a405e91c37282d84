"""Calibration, against a slow count and scipy's minimum."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from index.calibration import best_temperature, calibration_error, tempered


def posteriors(n: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors (n, 4), and labels drawn from them; then sharpened: T of what gives the labels is that."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, 4))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(4, p=p) for p in true])
    return tempered(true, 1 / sharpness), labels


def test_error_is_that_of_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    confidences, correct = rng.random(500), rng.random(500) < 0.4
    total = 0.0
    for low in range(15):
        here = (confidences >= low / 15) & (confidences < (low + 1) / 15)
        if here.any():
            total += here.mean() * abs(confidences[here].mean() - correct[here].mean())
    assert np.isclose(calibration_error(confidences, correct), total)


def test_error_at_the_edges() -> None:
    assert calibration_error(np.array([]), np.array([], bool)) == 0
    assert calibration_error(np.array([1.0]), np.array([True])) == 0
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert calibration_error(np.array([0.0]), np.array([False])) == 0


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_temperature_is_the_likeliest_and_mends_the_error(sharpness: float) -> None:
    found, labels = posteriors(4000, sharpness)
    temperature = best_temperature(found, labels)
    each = np.arange(len(labels))

    def loss(T: float) -> float:
        return float(-np.log(tempered(found, T)[each, labels]).mean())

    wanted = minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    assert abs(np.log(temperature / wanted)) < 0.06
    assert abs(np.log(temperature / sharpness)) < 0.15
    better = tempered(found, temperature)
    assert calibration_error(better.max(1), better.argmax(1) == labels) < 0.03
    assert np.allclose(better.sum(1), 1)
    assert (better.argmax(1) == found.argmax(1)).all()


def test_nothing_to_tell_by_changes_nothing() -> None:
    found, _ = posteriors(10, 1)
    assert best_temperature(found[:0], np.empty(0, np.int64)) == 1
    assert np.allclose(tempered(found, 1), found)


def test_what_is_impossible_stays_so() -> None:
    assert np.allclose(tempered(np.array([[1.0, 0.0]]), 5.0), [[1, 0]], atol=5e-3)
