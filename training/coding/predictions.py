"""Predicted labels of images that have none, and how sure they are."""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from index.calibration import tempered
from index.items import UNLABELLED, CodeTable
from training.coding.confidence import Calibration
from training.nets.encoder import Embeddings, Encoder

TOGETHER = 4096  # images predicted at a time


class Predicted(NamedTuple):
    """The likeliest label of images, and its calibrated probability."""

    ids: NDArray[np.int64]  # (n,)
    labels: NDArray[np.int64]  # (n,)
    confidences: NDArray[np.float64]  # (n,)

    @classmethod
    def of(cls, encoder: Encoder, vectors: Embeddings, table: CodeTable, calibration: Calibration) -> Self:
        """Of those of the images, with embeddings (n, E), that have no label; of none where there were too
        few labels to tell how sure a prediction is."""
        nothing = calibration.kind == "none" or not encoder.description.classes
        rows = np.flatnonzero(table.labels == UNLABELLED)[: 0 if nothing else None]
        labels, confidences = np.zeros(len(rows), np.int64), np.zeros(len(rows))
        for start in range(0, len(rows), TOGETHER):
            part = slice(start, start + TOGETHER)
            posteriors = tempered(encoder.posterior(vectors[rows[part]]), calibration.temperature)
            labels[part], confidences[part] = posteriors.argmax(1), posteriors.max(1)
        return cls(table.ids[rows], labels, confidences)


def predictions(predicted: Predicted) -> Iterator[tuple[int, int, float]]:
    """As `Catalogue.predict` takes them."""
    return zip(*(each.tolist() for each in predicted), strict=True)
