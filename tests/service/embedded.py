"""Embeddings made by hand: which images are alike is known."""

import numpy as np

from index.artifact import CATALOGUE, Artifact
from index.catalogue import Catalogue


def axis(number: int, seed: int) -> np.ndarray:
    """A unit vector (8,) near an axis."""
    vector = np.eye(8)[number] + 0.05 * np.random.default_rng(seed).standard_normal(8)
    return (vector / np.linalg.norm(vector)).astype(np.float16)


def embed_by_hand(own: Artifact) -> None:
    """Circles lie by axis 0, squares by 1, all others by 2; of what has no label one lies by 5, two by 6."""
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        items = catalogue.page(count=1000)
        places = {"circle": 0, "square": 1, "<b>cross</b>": 2}
        lonely = iter((5, 6, 6))
        vectors = {
            item.id: axis(next(lonely) if item.label is None else places[item.label], item.id)
            for item in items
        }
        catalogue.embed(vectors.items())
        unlabelled = [item.id for item in items if item.label is None]
        catalogue.predict([(id_, 0, 0.3) for id_ in unlabelled])
