"""The likeliest label of what is searched with, by what the network learned."""

from collections.abc import Sequence
from typing import NamedTuple

from index.artifact import Artifact
from index.calibration import tempered
from index.catalogue import Catalogue
from training.nets.encoder import Embeddings, Encoder


class Prediction(NamedTuple):
    """A label that nobody gave."""

    label: str
    confidence: float  # calibrated, 0 to 1


class Predictor:
    """What an artifact's encoder says of embeddings."""

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        calibration = artifact.manifest.metrics.get("calibration") or {"kind": "none"}
        self._able = encoder.description.classes > 0 and calibration["kind"] != "none"
        self._temperature = calibration.get("temperature", 1.0)
        self._encoder, self._classes = encoder, artifact.manifest.classes

    def predict(self, embeddings: Embeddings | None) -> Sequence[Prediction]:
        """The likeliest label of each of the images with these embeddings (n, E); none where there are no
        embeddings, or too few labels were learned from to say how sure it is."""
        if embeddings is None or not self._able:
            return []
        posteriors = tempered(self._encoder.posterior(embeddings), self._temperature)
        likeliest = zip(posteriors.argmax(1).tolist(), posteriors.max(1).tolist(), strict=True)
        return [Prediction(self._classes[index], confidence) for index, confidence in likeliest]

    def of_item(self, catalogue: Catalogue, item_id: int) -> Sequence[Prediction]:
        """That of an item or of a held-out query, if its embedding is kept."""
        if not self._able:  # then nothing need be read
            return []
        kept = catalogue.embeddings_of([item_id]).get(item_id)
        return self.predict(None if kept is None else kept[None])
