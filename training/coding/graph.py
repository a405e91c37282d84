"""Which images look alike: the k nearest neighbours of every embedding, as a sparse graph."""

import logging
from typing import NamedTuple

import faiss
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (n, E), each of length 1

log = logging.getLogger("hebbsearch")

NEIGHBOURS = 30
POWER = 3  # weights are cosines to this power: near ones count far more
# Up to so many images each is compared with all: 100,000 are 10¹³ operations, a minute or two on two cores.
EXACT = 100_000
PROBED, LISTS_EACH = 32, 4  # of inverted lists: searched for each image; so many times √n of them
CHECKED = 500  # images whose neighbours are looked up exactly too, to say what the lists miss


class Neighbours(NamedTuple):
    """Of each of n images: its k nearest others, nearest first."""

    cosines: NDArray[np.float32]  # (n, k)
    rows: NDArray[np.int64]  # (n, k); −1 where there are no more


def neighbours(vectors: Vectors, k: int = NEIGHBOURS, *, exact_to: int = EXACT) -> Neighbours:
    """The k nearest others of each of the unit vectors (n, E) by cosine; exact for up to `exact_to` of them.

    Above, FAISS looks into inverted lists; what share of the true neighbours it finds is measured and said.
    """
    n, length = vectors.shape
    flat = faiss.IndexFlatIP(length)
    if n <= exact_to:
        flat.add(vectors)
        return _others(*flat.search(vectors, min(k + 1, n)), np.arange(n), k)
    lists = faiss.IndexIVFFlat(flat, length, int(LISTS_EACH * np.sqrt(n)), faiss.METRIC_INNER_PRODUCT)
    lists.train(vectors)
    lists.add(vectors)
    lists.nprobe = PROBED
    found = _others(*lists.search(vectors, k + 1), np.arange(n), k)
    log.info("neighbours of %d images: %.1f %% of the true ones found", n, 100 * _recall(vectors, found))
    return found


def _others(
    cosines: NDArray[np.float32], rows: NDArray[np.int64], own: NDArray[np.int64], k: int
) -> Neighbours:
    """Without each image itself: one of its k + 1 nearest, or behind equal copies and as far as the last."""
    itself = rows == own[:, None]
    itself[~itself.any(1), -1] = True
    keep = ~itself
    shape = (len(rows), rows.shape[1] - 1)
    return Neighbours(cosines[keep].reshape(shape)[:, :k], rows[keep].reshape(shape)[:, :k])


def _recall(vectors: Vectors, found: Neighbours) -> float:
    """Which share of the true neighbours of some images is among the `found`."""
    sample = np.random.default_rng(0).choice(len(vectors), min(CHECKED, len(vectors)), replace=False)
    k = found.rows.shape[1]
    cosines, rows = faiss.knn(vectors[sample], vectors, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
    true = _others(cosines, rows, sample, k).rows
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found.rows[sample], true, strict=True)]
    return float(np.mean(hits)) / k


def affinity(found: Neighbours, power: int = POWER) -> sp.csr_matrix:
    """The symmetric graph (n, n), D^−½ (A + Aᵀ) D^−½ with A = max(cosine, 0)^power: its eigenvalues lie in
    −1 … 1. An image that is like no other has an empty row.

    Source: Iscen et al., "Label propagation for deep semi-supervised learning", arXiv 1904.04717.
    """
    n, k = found.rows.shape
    weights = np.maximum(found.cosines, 0).astype(np.float32) ** power
    weights[found.rows < 0] = 0
    ends = (np.repeat(np.arange(n), k), np.maximum(found.rows, 0).ravel())
    directed = sp.csr_matrix((weights.ravel(), ends), shape=(n, n))
    directed.eliminate_zeros()
    both = (directed + directed.T).tocsr()
    degrees = np.asarray(both.sum(1)).ravel()
    scale = np.zeros(n, np.float32)
    np.divide(1, np.sqrt(degrees), out=scale, where=degrees > 0)
    diagonal = sp.diags_array(scale)
    return sp.csr_matrix(diagonal @ both @ diagonal)
