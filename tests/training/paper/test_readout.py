"""The closed-form readout against scikit-learn's ridge classifier and the normal equations."""

import numpy as np
import pytest
import torch

from training.paper.readout import NOISE, ridge, ridge_accuracy


def blobs(images, features, classes, seed=0):
    """Noisy class means, features of very different scales and offsets, one of them constant."""
    random = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(size=(classes, features))
    labels = random.integers(classes, size=images)
    x = means[labels] + 3 * random.normal(size=(images, features))
    x = x * np.geomspace(0.01, 100, features) + np.arange(features)
    x[:, 1] = 0.1
    return x, labels


def accuracy(train, test, **more):
    return ridge_accuracy(*(torch.from_numpy(array) for array in (*train, *test)), **more)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("images", "features"), [(200, 12), (60, 150)])
def test_agrees_with_scikit_learn(images, features, classes):
    from sklearn.linear_model import RidgeClassifier  # a second
    from sklearn.preprocessing import StandardScaler

    train, test = blobs(images, features, classes), blobs(500, features, classes, seed=1)
    scaler = StandardScaler().fit(train[0])
    x = scaler.transform(train[0])
    reference = RidgeClassifier(alpha=NOISE * (x**2).sum() / images, solver="cholesky").fit(x, train[1])
    expected = reference.score(scaler.transform(test[0]), test[1])
    assert accuracy(train, test) == pytest.approx(expected, abs=1e-12)
    assert 1.3 / classes < expected < 1


@pytest.mark.parametrize("shape", [(20, 7), (7, 20)])
def test_weights_solve_the_normal_equations_in_either_form(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    t = torch.randn(shape[0], 3, generator=generator, dtype=torch.float64)
    weights = ridge(x, t, 0.5)
    strength = 0.5 * x.square().sum() / len(x)
    torch.testing.assert_close(x.T @ x @ weights + strength * weights, x.T @ t)


def test_scales_and_offsets_of_features_do_not_matter():
    train, test = blobs(100, 8, 3), blobs(200, 8, 3, seed=1)
    random = np.random.default_rng(5)
    scale, offset = random.uniform(0.01, 10, 8), random.normal(size=8)
    moved = [(x * scale + offset, labels) for x, labels in (train, test)]
    assert accuracy(*moved) == accuracy(train, test)


def test_labels_are_names_and_may_be_missing():
    """Labels need not start at 0 nor be dense; a class that was not learned is never right."""
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    known = torch.tensor([7, 7, 3, 3])
    assert ridge_accuracy(x, known, x, known) == 1
    assert ridge_accuracy(x, known, x, torch.tensor([7, 5, 3, 5])) == 0.5


def test_features_that_say_nothing_give_the_commonest_class():
    x = torch.ones(5, 3)
    assert ridge_accuracy(x, torch.tensor([0, 1, 1, 1, 0]), x[:2], torch.tensor([1, 0])) == 0.5


def test_inputs_stay_as_they_are_and_may_be_narrow():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels, before = (x[:, 0] > 0).long(), x.clone()
    assert ridge_accuracy(x, labels, x, labels) > 0.85
    assert torch.equal(x, before)


def test_shapes_that_do_not_fit_are_named():
    x, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"features and labels have shapes \(4, 3\) and \(3,\)"):
        ridge_accuracy(x, y[:3], x, y)
    with pytest.raises(ValueError, match=r"test_features and test_labels .* \(0, 3\)"):
        ridge_accuracy(x, y, x[:0], y[:0])
    with pytest.raises(ValueError, match="3 features, but 2 in the test"):
        ridge_accuracy(x, y, x[:, :2], y)
