"""Which image to label next, and which given label to look at again: by embeddings alone.

numpy and FAISS, no network.
"""

from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from index.items import UNLABELLED, CodeTable
from index.tables.doubts import Doubt

Vectors = NDArray[np.float32]  # (n, E), each of length 1

# Images, drawn at random, that suggestions are chosen among: all with all takes a second on one core.
CANDIDATES = 8_000
JUDGED = 20_000  # labels, drawn at random, that are looked at for doubtful ones
NEAR = 20  # neighbours that tell how dense it is around an image
ROUNDS = 10  # of k-means
PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # of weights, an image


def suggestions(
    vectors: Vectors, confidences: NDArray[np.float32], count: int, seed: int = 0
) -> NDArray[np.int64]:
    """Rows (m,) of at most `count` unlabelled images whose labels would teach most, the most telling first.

    From each of `count` clusters the image that is both typical and uncertain: (1 − confidence) × mean cosine
    to its neighbours. `confidences` (n,) are of the predicted labels, 0 where nothing is predicted; then the
    most typical images are chosen, as is best of the first labels of all.

    Source: Hacohen et al., "Active learning on a budget: opposite strategies suit high and low budgets",
    arXiv 2202.02794, for the clusters and typicality.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(vectors))[:CANDIDATES])
    if not len(rows) or count < 1:
        return np.empty(0, np.int64)
    x = np.ascontiguousarray(vectors[rows], np.float32)
    cosines, _ = faiss.knn(x, x, min(NEAR + 1, len(x)), metric=faiss.METRIC_INNER_PRODUCT)
    # The first is the image itself. Of one image alone it is as dense as anywhere.
    density = cosines[:, 1:].mean(1) if len(x) > 1 else np.ones(1, np.float32)
    scores = (1 - confidences[rows]) * np.maximum(density, 0)
    clusters = _clusters(x, min(count, len(x)), seed)
    order = np.argsort(-scores, kind="stable")
    _, best = np.unique(clusters[order], return_index=True)
    chosen: NDArray[np.int64] = rows[order[np.sort(best)]]
    return chosen


def _clusters(x: Vectors, count: int, seed: int) -> NDArray[np.int64]:
    """The cluster (n,) of each of the vectors, by k-means on the sphere."""
    if count == len(x):
        return np.arange(len(x))
    means = faiss.Kmeans(
        x.shape[1], count, niter=ROUNDS, seed=seed, spherical=True, min_points_per_centroid=1
    )
    means.train(x)
    clusters: NDArray[np.int64] = means.index.search(x, 1)[1][:, 0]
    return clusters


def embedded(
    table: CodeTable, ids: NDArray[np.int64], vectors: NDArray[np.float16]
) -> tuple[CodeTable, NDArray[np.float16]]:
    """Those rows of a table whose images are among `ids` (m,), which have embeddings (m, E); and these."""
    return table.rows(np.isin(table.ids, ids)), vectors[np.isin(ids, table.ids)]


def judged(table: CodeTable, vectors: NDArray[np.floating[Any]]) -> list[Doubt]:
    """How doubtful the labels of the images of a table are, which have these embeddings (n, E); the worst
    first. Of more than JUDGED labels as many are looked at, drawn at random."""
    labelled = np.flatnonzero(table.labels != UNLABELLED)
    rows = np.random.default_rng(0).permutation(labelled)[:JUDGED]
    found = doubts(vectors[rows].astype(np.float32), table.labels[rows])
    order = np.argsort(-found.doubt, kind="stable")
    columns = (table.ids[rows], table.labels[rows], found.rival, found.doubt)
    return [Doubt(*each) for each in zip(*(column[order].tolist() for column in columns), strict=True)]


class Doubts(NamedTuple):
    """Of labelled images: how much speaks for another label than the given one, and which."""

    doubt: NDArray[np.float32]  # (n,) −1: all the others confirm it … 1: all speak for the rival
    rival: NDArray[np.int64]  # (n,) the likeliest other label; −1 where there is none


def doubts(vectors: Vectors, labels: NDArray[np.int64]) -> Doubts:
    """What regression on all other labelled images says of the label (n,) of each image (n, E).

    Ridge regression to one number a class, of which the answers with one image left out have a closed form:
    y − (y − ŷ) / (1 − h), h the diagonal of the hat matrix; its penalty is the one whose left-out answers are
    best. On 10,000 photographs with a tenth of the labels wrong it finds more of them than a vote of the
    neighbours, and nearly as many as cleanlab with posteriors of the recipe (tests/benchmarks/LOG.md §11).

    Source: Allen, "The relationship between variable selection and data augmentation and a method for
    prediction", Technometrics 16(1), 1974, for the answers left out.
    """
    n = len(vectors)
    classes, own = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        return Doubts(np.full(n, -1, np.float32), np.full(n, -1, np.int64))
    targets = np.eye(len(classes), dtype=np.float32)[own]
    centred = vectors - vectors.mean(0)
    spread, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    along = centred @ axes.astype(np.float32)

    def left_out(penalty: float) -> NDArray[np.float32]:
        """What is said of each image by the others (n, classes)."""
        weight = (1 / (np.maximum(spread, 0) + penalty * n)).astype(np.float32)
        fitted = targets.mean(0) + along @ (weight[:, None] * (along.T @ targets))
        leverage = 1 / n + np.square(along) @ weight
        others: NDArray[np.float32] = targets - (targets - fitted) / (1 - leverage)[:, None]
        return others

    said = min(map(left_out, PENALTIES), key=lambda said: np.square(targets - said).sum())
    confirmed = said[np.arange(n), own].copy()
    said[np.arange(n), own] = -np.inf
    return Doubts(np.clip(said.max(1) - confirmed, -1, 1), classes[said.argmax(1)])
