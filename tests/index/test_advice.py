"""Suggestions and doubts, on graphs made by hand and against a slow count."""

import numpy as np
import pytest
from numpy.typing import NDArray

from index import advice
from index.advice import doubts, suggestions


def around(*centres: int, spread: float = 0.05, each: int = 20, seed: int = 0) -> NDArray[np.float32]:
    """`each` unit vectors (n, 8) around each of the named axes."""
    rng = np.random.default_rng(seed)
    x = np.repeat(np.eye(8)[list(centres)], each, axis=0) + spread * rng.standard_normal(
        (len(centres) * each, 8)
    )
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_each_cluster_gives_its_most_typical_image() -> None:
    x = around(0, 1, 2)
    chosen = suggestions(x, np.zeros(60, np.float32), 3)
    assert sorted(chosen // 20) == [0, 1, 2]
    for row in chosen:
        cluster = np.arange(60) // 20 == row // 20
        typical = np.sort(x[cluster] @ x.T)[:, -21:-1].mean(1)  # without itself
        assert np.isclose(typical.max(), typical[row % 20], atol=1e-6)


def test_what_is_uncertain_comes_first() -> None:
    x = around(0, 1, 2)
    confidences = np.repeat([0.9, 0.2, 0.5], 20).astype(np.float32)
    assert list(suggestions(x, confidences, 3) // 20) == [1, 2, 0]


def test_an_image_like_no_other_is_not_suggested_before_typical_ones() -> None:
    x = np.concatenate([around(0, 1), np.eye(8, dtype=np.float32)[[7]]])
    assert 40 not in suggestions(x, np.zeros(41, np.float32), 3)[:2]


@pytest.mark.parametrize(
    ("images", "count", "given"), [(0, 5, 0), (1, 5, 1), (3, 5, 3), (30, 0, 0), (30, 7, 7)]
)
def test_no_more_than_there_are(images: int, count: int, given: int) -> None:
    x = around(0, each=max(images, 1))[:images]
    chosen = suggestions(x, np.zeros(images, np.float32), count)
    assert len(set(chosen.tolist())) == given


def test_of_many_images_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "CANDIDATES", 30)
    x = around(0, 1, each=50)
    first, again = (suggestions(x, np.zeros(100, np.float32), 4, seed=1) for _ in range(2))
    assert len(first) == 4
    assert np.array_equal(first, again)


def test_a_label_among_others_is_doubted_and_its_rival_named() -> None:
    x = around(0, 1)
    labels = np.repeat([4, 9], 20)
    labels[3] = 9
    found = doubts(x, labels)
    assert found.doubt.argmax() == 3
    assert found.rival[3] == 4
    assert found.doubt[3] > 0.9
    assert np.delete(found.doubt, 3).max() < 0


def test_doubts_are_what_learning_without_each_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "PENALTIES", (0.01,))
    rng = np.random.default_rng(3)
    x = around(0, 1, 2, spread=0.3, each=15)
    labels = rng.integers(0, 3, 45)
    found = doubts(x, labels)
    for i in range(45):
        others = np.delete(np.arange(45), i)
        a = np.hstack([x[others].astype(float), np.ones((44, 1))])
        penalty = np.diag([0.01 * 45] * 8 + [0])  # none of the intercept
        weight = np.linalg.solve(a.T @ a + penalty, a.T @ np.eye(3)[labels[others]])
        said = np.append(x[i], 1) @ weight
        rival = max((c for c in range(3) if c != labels[i]), key=lambda c: said[c])
        assert np.isclose(found.doubt[i], np.clip(said[rival] - said[labels[i]], -1, 1), atol=1e-5)
        assert found.rival[i] == rival


def test_wrong_labels_of_many_are_doubted_first() -> None:
    rng = np.random.default_rng(0)
    x = around(0, 1, 2, spread=0.5, each=200)
    labels = np.repeat([0, 1, 2], 200)
    wrong = rng.choice(600, 60, replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 3, 60)) % 3
    first = np.argsort(-doubts(x, labels).doubt)[:60]
    assert np.isin(first, wrong).mean() > 0.6


@pytest.mark.parametrize("labels", [[], [1], [2, 2, 2]])
def test_without_another_label_nothing_is_doubted(labels: list[int]) -> None:
    x = around(0, each=max(len(labels), 1))[: len(labels)]
    found = doubts(x, np.array(labels, np.int64))
    assert (found.doubt == -1).all()
    assert (found.rival == -1).all()
