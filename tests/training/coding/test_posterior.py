"""Logistic regression by few labels, against sklearn and by what it must do at the edges."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from training.coding.posterior import DECAYS, best_decay, crossed, fold_of, logistic, softmax


def blobs(n: int, classes: int, noise: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors (n, 16) around one direction a class, and their classes (n,)."""
    rng = np.random.default_rng(seed)
    centres, y = rng.standard_normal((classes, 16)), rng.integers(0, classes, n)
    x = (centres[y] + noise * rng.standard_normal((n, 16))).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_posteriors_are_those_of_sklearn(classes: int) -> None:
    x, y = blobs(300, classes, 1.0)
    labels = np.where(np.arange(300) < 200, y, -1)
    decay = best_decay(x, labels, classes, 0)
    assert decay == best_decay(x[:200], y[:200], classes, 0)
    found = logistic(x, labels, classes, decay)(x)
    wanted = LogisticRegression(C=1 / (decay * 200), max_iter=500).fit(x[:200], y[:200]).predict_proba(x)
    assert np.allclose(found, wanted, atol=0.02)
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    assert (found.argmax(1) == y)[200:].mean() > 0.8


def test_a_class_without_labels_is_never_predicted() -> None:
    x, y = blobs(100, 3, 0.5)
    labels = np.where(y == 1, -1, y)
    found = logistic(x, labels, 3, 1e-3)(x)
    assert (found[:, 1] == 0).all()
    assert np.allclose(found.sum(1), 1)


def test_of_one_class_every_image_is() -> None:
    x, y = blobs(50, 3, 0.5)
    found = logistic(x, np.where(y == 2, 2, -1), 3, 1e-3)(x)
    assert (found == [0, 0, 1]).all()


def test_noise_is_decayed_more_than_what_separates() -> None:
    clean, labels = blobs(400, 3, 0.3)
    noise = np.random.default_rng(1).standard_normal((400, 16)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    assert best_decay(clean, labels, 3, 0) < best_decay(noise, labels, 3, 0)


def test_without_two_labels_of_two_classes_nothing_can_be_held_out() -> None:
    assert fold_of(np.array([0, 1, 2]), 0) is None
    assert fold_of(np.array([0, 0, 1]), 0) is None
    x, _ = blobs(3, 3, 0.1)
    assert best_decay(x, np.array([0, 1, 2]), 3, 0) in DECAYS


def test_each_label_is_judged_by_what_was_learned_without_it() -> None:
    """Labels at random: who had seen them would know them."""
    x, _ = blobs(60, 2, 5.0)
    y = np.random.default_rng(2).integers(0, 2, 60)
    folds = fold_of(y, 0)
    assert folds is not None
    held = crossed(x, y, 2, 1e-4, folds)
    seen = logistic(x, y, 2, 1e-4)(x)
    assert (held.argmax(1) == y).mean() < (seen.argmax(1) == y).mean()
    assert (held.argmax(1) == y).mean() < 0.75


def test_a_label_alone_in_its_class_is_in_no_fold() -> None:
    folds = fold_of(np.array([0, 0, 1, 1, 2]), 0)
    assert folds is not None
    assert folds[4] == -1
    assert set(folds[:4].tolist()) == {0, 1}


def test_softmax_of_minus_infinity_is_nothing() -> None:
    found = softmax(np.array([[0, -np.inf], [1000, 1000]], np.float32))
    assert np.allclose(found, [[1, 0], [0.5, 0.5]])
