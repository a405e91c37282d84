"""The graph of neighbours, against a comparison of all with all."""

import logging

import numpy as np
import pytest
from numpy.typing import NDArray

from training.coding.graph import Neighbours, affinity, neighbours


def unit(n: int, length: int = 16, seed: int = 0) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).standard_normal((n, length)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow_neighbours(x: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """The cosines (n, k) of the nearest others, in 64 bits."""
    cosines = x.astype(np.float64) @ x.T.astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    return -np.sort(-cosines, axis=1)[:, :k]


def test_neighbours_are_the_nearest_others() -> None:
    x = unit(200)
    found = neighbours(x, 7)
    assert np.allclose(found.cosines, slow_neighbours(x, 7), atol=1e-6)
    assert not (found.rows == np.arange(200)[:, None]).any()
    assert np.allclose(found.cosines, np.einsum("nd,nkd->nk", x, x[found.rows]), atol=1e-6)


def test_copies_are_neighbours_and_nobody_is_its_own() -> None:
    """Of more copies than k + 1, FAISS may not return the image itself at all."""
    x = np.repeat(unit(3), 20, axis=0)
    found = neighbours(x, 5)
    assert not (found.rows == np.arange(60)[:, None]).any()
    assert (found.rows // 20 == np.arange(60)[:, None] // 20).all()


def test_fewer_images_than_neighbours() -> None:
    found = neighbours(unit(4), 30)
    assert found.rows.shape == (4, 3)
    assert sorted(found.rows[0]) == [1, 2, 3]


def test_inverted_lists_say_what_they_miss(caplog: pytest.LogCaptureFixture) -> None:
    x = unit(3000, 8)
    with caplog.at_level(logging.INFO, "hebbsearch"):
        found = neighbours(x, 10, exact_to=1000)
    true = slow_neighbours(x, 10)
    share = float((found.cosines >= true[:, -1:] - 1e-6).mean())
    assert share > 0.8
    (line,) = [r.getMessage() for r in caplog.records]
    assert abs(float(line.split(": ")[1].split(" %")[0]) / 100 - share) < 0.05


def test_affinity_is_the_normalised_symmetric_graph() -> None:
    x = unit(40, 4)
    found = neighbours(x, 5)
    directed = np.zeros((40, 40))
    for row, (cosines, others) in enumerate(zip(found.cosines, found.rows, strict=True)):
        directed[row, others] = np.maximum(cosines, 0).astype(np.float64) ** 3
    both = directed + directed.T
    degrees = both.sum(1)
    wanted = both / np.sqrt(np.outer(degrees, degrees))
    graph = affinity(found)
    assert np.allclose(graph.toarray(), wanted, atol=1e-6)
    assert np.abs(np.linalg.eigvalsh(graph.toarray())).max() <= 1 + 1e-5


def test_an_image_like_no_other_has_an_empty_row() -> None:
    found = Neighbours(np.array([[0.5], [0.5], [-0.1]], np.float32), np.array([[1], [0], [0]]))
    graph = affinity(found)
    assert graph[[2]].nnz == 0
    assert graph[:, [2]].nnz == 0
    assert np.isfinite(graph.toarray()).all()
