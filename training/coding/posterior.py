"""What a few labels say of all images: logistic regression on embeddings, its strength chosen by
cross-validation on the labels alone."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import ThreadpoolController

from index.items import UNLABELLED

FOLDS = 5
# The L2 weight of each label's share of the loss. Of 80 labels as of 800 a factor of ten either way costs
# one or two points of accuracy.
DECAYS = (1e-4, 1e-3, 1e-2)
TO_CHOOSE = 5_000  # labels, drawn at random, by which the decay is chosen: more make it no surer
STEPS = 500


@dataclass(frozen=True)
class Logistic:
    """Logistic regression on unit vectors (n, E)."""

    weight: NDArray[np.float32]  # (classes, E)
    bias: NDArray[np.float32]  # (classes,); −inf for a class without labels

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Posteriors (n, classes), rows sum to 1."""
        return softmax(vectors @ self.weight.T + self.bias)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows that sum to 1; a logit of −inf becomes 0."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def logistic(vectors: NDArray[np.float32], labels: NDArray[np.int64], classes: int, decay: float) -> Logistic:
    """Learned from the labelled of the unit vectors (n, E). A class without labels has probability 0; of one
    class alone every image is."""
    given = np.flatnonzero(labels != UNLABELLED)
    return _fit(vectors[given], labels[given], classes, decay)


def best_decay(vectors: NDArray[np.float32], labels: NDArray[np.int64], classes: int, seed: int) -> float:
    """Which of DECAYS gives held-out labels of the unit vectors (n, E) the highest likelihood; the middle one
    for too few of them."""
    given = np.flatnonzero(labels != UNLABELLED)
    sample = given[np.random.default_rng(seed).permutation(len(given))[:TO_CHOOSE]]
    x, y = vectors[sample], labels[sample]
    folds = fold_of(y, seed)
    if folds is None:
        return DECAYS[len(DECAYS) // 2]
    losses = [loss(crossed(x, y, classes, decay, folds), y) for decay in DECAYS]
    return DECAYS[int(np.argmin(losses))]


def fold_of(y: NDArray[np.int64], seed: int) -> NDArray[np.int64] | None:
    """To which of FOLDS each label (n,) belongs; None where there are not two of any class."""
    counts = np.bincount(y)
    often = np.isin(y, np.flatnonzero(counts >= 2))
    if len(np.unique(y[often])) < 2:
        return None
    folds = np.full(len(y), -1)  # a label that is alone in its class is always learned from
    at = np.flatnonzero(often)
    splits = min(FOLDS, int(counts[counts >= 2].min()))
    dealt = StratifiedKFold(splits, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(dealt.split(at, y[at])):
        folds[at[test]] = number
    return folds


def crossed(
    x: NDArray[np.float32], y: NDArray[np.int64], classes: int, decay: float, folds: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Posteriors (n, classes) of each label as learned without its fold; uniform for those in none."""
    out = np.full((len(y), classes), 1 / classes, np.float32)
    for number in range(folds.max() + 1):
        held = folds == number
        out[held] = _fit(x[~held], y[~held], classes, decay)(x[held])
    return out


def without_each(
    spaces: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    classes: int,
    decays: Sequence[float],
    seed: int,
) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """What regression in each of the `spaces` (n, E), with the decay of each, says of labels that it did not
    learn from: posteriors (m, classes) for each space, and the rows (m,) that have these labels.

    Of at most TO_CHOOSE labels; none where nothing can be held out.
    """
    given = np.flatnonzero(labels != UNLABELLED)
    given = np.sort(np.random.default_rng(seed).permutation(given)[:TO_CHOOSE])
    folds = fold_of(labels[given], seed)
    if folds is None:
        return [np.empty((0, classes), np.float32) for _ in spaces], np.empty(0, np.int64)
    y, held = labels[given], folds >= 0
    said = [crossed(x[given], y, classes, decay, folds) for x, decay in zip(spaces, decays, strict=True)]
    return [each[held] for each in said], given[held]


def loss(posteriors: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """The mean negative logarithm of what posteriors (m, classes) give the labels (m,)."""
    return float(-np.log(np.maximum(posteriors[np.arange(len(y)), y], 1e-6)).mean())


@cache
def threads() -> ThreadpoolController:
    """The libraries that compute here. To look for them takes as long as to learn from a few labels."""
    return ThreadpoolController()


def _fit(x: NDArray[np.float32], y: NDArray[np.int64], classes: int, decay: float) -> Logistic:
    present, rows = np.unique(y, return_inverse=True)
    weight = np.zeros((classes, x.shape[1]), np.float32)
    bias = np.full(classes, -np.inf, np.float32)
    bias[present] = 0
    if len(present) > 1:
        # Products this small are faster on one core: beside other work threads wait 30 times as long as they
        # compute.
        with threads().limit(limits=1), warnings.catch_warnings():
            # One label in each of many classes is what people begin with, and no mistake of theirs.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            model = LogisticRegression(C=1 / (decay * len(y)), max_iter=STEPS, tol=1e-4).fit(x, rows)
        if len(present) == 2:  # sklearn gives the difference of both alone
            weight[present], bias[present] = (
                np.concatenate([-model.coef_, model.coef_]) / 2,
                np.concatenate([-model.intercept_, model.intercept_]) / 2,
            )
        else:
            weight[present], bias[present] = model.coef_, model.intercept_
    return Logistic(weight, bias)
