"""How sure a predicted label is."""

import numpy as np
import pytest
from numpy.typing import NDArray

from index.calibration import calibration_error, tempered
from training.coding.confidence import Calibration, of_labels, of_queries
from training.coding.posterior import without_each


def overconfident(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Posteriors (n, 5) that are three times as sure as they should be, and the labels."""
    rng = np.random.default_rng(seed)
    true = tempered(rng.dirichlet(np.ones(5), n), 1.0)
    labels = np.array([rng.choice(5, p=p) for p in true])
    return tempered(true, 1 / 3).astype(np.float32), labels


def test_queries_tell_the_temperature_and_new_ones_agree() -> None:
    found = of_queries(*overconfident(1500))
    assert found.kind == "held out"
    assert found.labels == 1500
    assert 2 < found.temperature < 4.5
    posteriors, labels = overconfident(1500, seed=1)
    before = calibration_error(posteriors.max(1), posteriors.argmax(1) == labels)
    cooled = tempered(posteriors, found.temperature)
    after = calibration_error(cooled.max(1), cooled.argmax(1) == labels)
    assert after < 0.05 < before
    assert found.error is not None
    assert abs(found.error - after) < 0.03


def test_too_few_queries_tell_nothing() -> None:
    posteriors, labels = overconfident(300)
    labels[199:] = -1
    assert of_queries(posteriors, labels) == Calibration()
    assert Calibration().kind == "none"


def test_a_query_of_a_class_that_came_later_does_not_count() -> None:
    posteriors, labels = overconfident(250)
    assert of_queries(posteriors, np.append(labels[:-1], 7)).labels == 249


def blobs(n: int, noise: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    centres, y = rng.standard_normal((4, 16)), rng.integers(0, 4, n)
    x = (centres[y] + noise * rng.standard_normal((n, 16))).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_labels_that_are_learned_from_tell_it_roughly(noise: float) -> None:
    x, y = blobs(2000, noise)
    (said,), rows = without_each([x], np.where(np.arange(2000) < 200, y, -1), 4, [1e-3], 0)
    found = of_labels(said, y[rows])
    assert found.kind == "rough"
    assert found.labels == 200
    assert found.error is not None
    assert found.error < 0.12


@pytest.mark.parametrize("labels", [29, 0])
def test_of_fewer_than_thirty_labels_nothing_is_said(labels: int) -> None:
    x, y = blobs(100, 0.5)
    (said,), rows = without_each([x], np.where(np.arange(100) < labels, y, -1), 4, [1e-3], 0)
    assert of_labels(said, y[rows]).kind == "none"


def test_of_one_class_there_is_nothing_to_be_unsure_of() -> None:
    x, y = blobs(100, 0.5)
    (said,), rows = without_each([x], np.where(y == 0, 0, -1), 4, [1e-3], 0)
    assert said.shape == (0, 4)
    assert of_labels(said, y[rows]).kind == "none"
