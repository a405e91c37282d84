"""Which image to label next, and which given label to look at again: by embeddings alone.

Both compare images with images; numpy and FAISS, no network.
"""

from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (n, E), each of length 1

# Images, drawn at random, that suggestions are chosen among: all with all takes a second on one core.
CANDIDATES = 8_000
JUDGED = 20_000  # labels, drawn at random, that are looked at for doubtful ones
NEAR = 20  # neighbours that tell how dense it is around an image
ROUNDS = 10  # of k-means
WITNESSES = 30  # neighbours that confirm a label or contradict it
POWER = 3  # of their cosines, as in the graph that labels are propagated over


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


class Doubts(NamedTuple):
    """Of labelled images: how much speaks for another label than the given one, and which."""

    doubt: NDArray[np.float32]  # (n,) −1: all neighbours confirm it … 1: all have the rival
    rival: NDArray[np.int64]  # (n,) the label that most of the others have; −1 where there is none


def doubts(vectors: Vectors, labels: NDArray[np.int64]) -> Doubts:
    """What the nearest labelled others of each labelled image (n, E) say of its label (n,)."""
    n = len(vectors)
    if n < 2:
        return Doubts(np.full(n, -1, np.float32), np.full(n, -1, np.int64))
    k = min(WITNESSES + 1, n)
    cosines, rows = faiss.knn(vectors, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    votes = np.maximum(cosines, 0) ** POWER
    votes[rows == np.arange(n)[:, None]] = 0  # nobody is a witness of his own
    classes, own = np.unique(labels, return_inverse=True)
    for_each = np.zeros((n, len(classes)), np.float32)
    np.add.at(for_each, (np.arange(n)[:, None], own[rows]), votes)
    total = np.maximum(for_each.sum(1), np.finfo(np.float32).tiny)
    confirmed = for_each[np.arange(n), own].copy()
    for_each[np.arange(n), own] = 0
    rival, strength = for_each.argmax(1), for_each.max(1)
    return Doubts((strength - confirmed) / total, np.where(strength > 0, classes[rival], -1))
