"""The likeliest label of what is searched with."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from service.core.pictures.predicting import Predictor
from training.nets.encoder import Coding, Description, Encoder

CLASSES = ("cat", "dog", "eel")


def predictor(calibration: dict[str, Any] | None, classes: int = 3) -> Predictor:
    torch.manual_seed(3)
    about = Description("conv6", 32, whiten=False, bits=32, classes=classes, coding=Coding(20, 8))
    metrics = {} if calibration is None else {"calibration": calibration}
    artifact: Any = SimpleNamespace(manifest=SimpleNamespace(metrics=metrics, classes=CLASSES))
    return Predictor(artifact, Encoder(about).eval())


@pytest.fixture
def embeddings() -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((50, 20)).astype(np.float16)
    return 10 * vectors


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_it_is_the_most_probable_class_as_sure_as_the_temperature_says(
    embeddings: np.ndarray, temperature: float
) -> None:
    found = predictor({"kind": "rough", "temperature": temperature})
    logits = np.log(found._encoder.posterior(embeddings).astype(float)) / temperature
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    predicted = found.predict(embeddings)
    assert [each.label for each in predicted if each] == [CLASSES[row.argmax()] for row in wanted]
    assert [each.confidence for each in predicted if each] == pytest.approx(wanted.max(1))
    assert len({each.label for each in predicted if each}) > 1


@pytest.mark.parametrize("calibration", [None, {"kind": "none", "temperature": 1.0}])
def test_from_too_few_labels_nothing_is_predicted(embeddings: np.ndarray, calibration: Any) -> None:
    assert predictor(calibration).predict(embeddings) == []


def test_nor_without_classes_or_embeddings(embeddings: np.ndarray) -> None:
    surely = {"kind": "held out", "temperature": 1.0}
    assert predictor(surely, classes=0).predict(embeddings) == []
    assert predictor(surely).predict(None) == []
