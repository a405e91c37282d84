"""Smoothing and propagation, against a dense solve in 64 bits."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

from training.coding.graph import affinity, neighbours
from training.coding.propagation import propagated, smoothed


def unit(n: int, length: int = 8, seed: int = 0) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).standard_normal((n, length)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def dense(graph: sp.csr_matrix, values: NDArray[np.float32], alpha: float) -> NDArray[np.float64]:
    """(1 − α) (I − αW)⁻¹ Y."""
    system = np.eye(len(values)) - alpha * graph.toarray().astype(np.float64)
    return np.asarray(np.linalg.solve(system, (1 - alpha) * values.astype(np.float64)))


@pytest.fixture(scope="module")
def graph() -> sp.csr_matrix:
    return affinity(neighbours(unit(300), 10))


@pytest.mark.parametrize("alpha", [0.5, 0.9, 0.99])
def test_smoothing_solves_the_system(graph: sp.csr_matrix, alpha: float) -> None:
    values = np.random.default_rng(1).standard_normal((300, 130)).astype(np.float32)
    wanted = dense(graph, values, alpha)
    error = np.linalg.norm(smoothed(graph, values, alpha) - wanted) / np.linalg.norm(wanted)
    assert error < 1e-3


def test_an_isolated_point_keeps_its_direction() -> None:
    graph = sp.csr_matrix((3, 3), dtype=np.float32)
    values = np.eye(3, dtype=np.float32)
    assert np.allclose(smoothed(graph, values, 0.9), 0.1 * values, rtol=1e-3)


def test_alpha_must_lie_between() -> None:
    with pytest.raises(ValueError, match="alpha 1"):
        smoothed(sp.csr_matrix((3, 3), dtype=np.float32), np.eye(3, dtype=np.float32), 1)


@pytest.mark.parametrize("alpha", [0.9, 0.99])
def test_posteriors_are_those_of_the_dense_solve(graph: sp.csr_matrix, alpha: float) -> None:
    labels = np.full(300, -1)
    labels[[0, 1, 2, 50, 51, 100]] = [0, 0, 0, 1, 1, 2]  # a class with one label
    sources = np.zeros((300, 3), np.float32)
    sources[[0, 1, 2], 0], sources[[50, 51], 1], sources[100, 2] = 1 / 3, 1 / 2, 1
    wanted = dense(graph, sources, alpha)
    wanted /= wanted.sum(1, keepdims=True)
    found = propagated(graph, labels, 3, alpha)
    assert np.allclose(found, wanted, atol=5e-3)
    assert np.allclose(found.sum(1), 1, atol=1e-5)


def test_where_no_label_arrives_every_class_is_as_likely() -> None:
    x = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)  # two kinds that are like no other
    x = np.concatenate([x, -x[:1]])
    labels = np.full(21, -1)
    labels[0] = 0
    found = propagated(affinity(neighbours(x, 4)), labels, 2, 0.9)
    assert np.allclose(found[10:20], 0.5)
    assert np.allclose(found[20], 0.5)
    assert found[0, 0] == 1


def test_copies_have_the_posterior_of_their_label() -> None:
    x = np.concatenate([np.repeat(unit(5), 8, axis=0)])
    labels = np.full(40, -1)
    labels[np.arange(5) * 8] = np.arange(5)
    found = propagated(affinity(neighbours(x, 6)), labels, 5, 0.99)
    assert (found.argmax(1) == np.repeat(np.arange(5), 8)).all()


def test_one_label_in_all() -> None:
    found = propagated(affinity(neighbours(unit(30), 5)), np.array([0] + [-1] * 29), 1, 0.9)
    assert np.allclose(found, 1)
