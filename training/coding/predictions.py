"""Predicted labels of images that have none, and how sure they are."""

import numpy as np
from numpy.typing import NDArray

from index.calibration import tempered
from index.catalogue import Catalogue
from index.items import UNLABELLED, CodeTable
from training.coding.confidence import Calibration, of_queries
from training.nets.encoder import Embeddings, Encoder

TOGETHER = 4096  # images predicted at a time


def predict(
    catalogue: Catalogue,
    encoder: Encoder,
    table: CodeTable,
    vectors: Embeddings,
    held: NDArray[np.bool_],
    otherwise: Calibration,
) -> Calibration:
    """Write the predicted labels of all images that have none into the catalogue, and say how sure they are.

    The held-out queries tell that, those of the build and those `held` (n,) of the images; where they are too
    few, what is known `otherwise`. `vectors` are the embeddings (n, E) of the images of `table`.
    """
    calibration = otherwise
    if encoder.description.classes:
        queries, asked = asked_with(catalogue)
        together = np.concatenate([asked, vectors[held]]) if len(asked) else vectors[held]
        if len(together):
            labels = np.concatenate([queries, table.labels[held]])
            found = of_queries(encoder.posterior(together), labels)
            calibration = otherwise if found.kind == "none" else found
    shown = encoder.description.classes > 0 and calibration.kind != "none"
    rows = np.flatnonzero((table.labels == UNLABELLED) & shown)
    catalogue.predict(
        (id_, label, confidence)
        for start in range(0, len(rows), TOGETHER)
        for id_, label, confidence in _likeliest(
            encoder, table.ids, vectors, rows[start : start + TOGETHER], calibration.temperature
        )
    )
    return calibration


def _likeliest(
    encoder: Encoder,
    ids: NDArray[np.int64],
    vectors: Embeddings,
    rows: NDArray[np.int64],
    temperature: float,
) -> list[tuple[int, int, float]]:
    """Of some rows the ids, their likeliest label, and its calibrated probability."""
    posteriors = tempered(encoder.posterior(vectors[rows]), temperature)
    found = (ids[rows], posteriors.argmax(1), posteriors.max(1))
    return list(zip(*(each.tolist() for each in found), strict=True))


def asked_with(catalogue: Catalogue) -> tuple[NDArray[np.int64], Embeddings]:
    """Labels (q,) and embeddings (q, E) of the build's held-out queries."""
    ids, vectors = catalogue.embeddings("query")
    known = catalogue.held_out()
    return np.array([known[id_] for id_ in ids.tolist()], np.int64), vectors


def top1(catalogue: Catalogue, encoder: Encoder) -> float:
    """How many of the build's held-out queries get their own class as the likeliest one."""
    labels, vectors = asked_with(catalogue)
    return float((encoder.posterior(vectors).argmax(1) == labels).mean())
