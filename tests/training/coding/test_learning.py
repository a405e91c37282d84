"""From embeddings and few labels to codes."""

from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.codes import pack
from index.evaluation import mean_average_precision
from training.coding import learning
from training.coding.embedding import components, embedding
from training.coding.learning import learn_codes, learn_embedding, learn_head, propagated
from training.coding.quantisation import iterative_quantisation
from training.data import Positions
from training.nets.encoder import Coding, Description, Encoder

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "LEAST_STEPS", 100)


def blobs(n: int, classes: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors (n, 32) around two directions a class, and their classes (n,)."""
    centres = np.random.default_rng(9).standard_normal((2, classes, 32))
    rng = np.random.default_rng(seed)
    y, part = rng.integers(0, classes, n), rng.integers(0, 2, n)
    x = (centres[part, y] + 0.9 * rng.standard_normal((n, 32))).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


def codes_of(learned: learning.Learned, x: NDArray[np.float32]) -> NDArray[np.uint8]:
    with torch.no_grad():
        return pack((learned.head(torch.from_numpy(x)) > 0).numpy())


def quality(learned: learning.Learned) -> float:
    (x, y), (queries, asked) = blobs(600, 5), blobs(100, 5, seed=1)
    return mean_average_precision(codes_of(learned, queries), asked, codes_of(learned, x), y)


def test_where_every_image_has_a_label_propagation_adds_nothing() -> None:
    x, y = blobs(80, 5)
    posteriors = propagated(x, y, 6, seed=0)
    assert np.array_equal(posteriors, learn_codes(x, y, 6, bits=32, seed=0).posteriors)
    assert np.array_equal(posteriors, np.eye(6, dtype=np.float32)[y])
    few = np.where(np.arange(80) == 0, -1, y)
    assert np.array_equal(propagated(x, few, 6, seed=0)[1:], posteriors[1:])
    assert propagated(x, few, 6, seed=0)[0].max() < 1


def test_few_labels_beat_none_and_neighbours_beat_plain_itq() -> None:
    x, y = blobs(600, 5)
    labels = np.where(np.arange(600) < 40, y, -1)
    with_labels = learn_codes(x, labels, 5, bits=32, seed=0)
    without = learn_codes(x, np.full(600, -1), 0, bits=32, seed=0)
    weight, mean, _ = iterative_quantisation(x, 32, 0)
    (queries, asked), database = blobs(100, 5, seed=1), pack((x - mean) @ weight.T > 0)
    plain = mean_average_precision(pack((queries - mean) @ weight.T > 0), asked, database, y)
    assert quality(with_labels) > quality(without) + 0.05
    assert quality(without) > plain + 0.05
    assert with_labels.method == without.method == "ITQ"
    assert (with_labels.posteriors[:40].argmax(1) == y[:40]).all()
    assert (with_labels.posteriors.argmax(1) == y).mean() > 0.8


def test_the_same_seed_gives_the_same_codes() -> None:
    x, y = blobs(300, 5)
    labels = np.where(np.arange(300) < 40, y, -1)
    first, again = (learn_codes(x, labels, 5, bits=64, seed=3) for _ in range(2))
    assert np.array_equal(codes_of(first, x), codes_of(again, x))


def test_labels_accepted_in_groups_teach_and_do_not_tell_how_sure() -> None:
    """Half of them are wrong here: by them nothing would be sure, and they are most."""
    x, y = blobs(300, 5)
    grouped = np.arange(300) >= 60
    wrong = np.where(grouped & (np.arange(300) % 2 == 0), (y + 1) % 5, y)
    alone, by_all = (learn_codes(x, wrong, 5, bits=64, seed=3, grouped=each) for each in (grouped, None))
    assert (alone.calibration.labels, by_all.calibration.labels) == (60, 300)
    assert alone.calibration.temperature != by_all.calibration.temperature
    assert np.array_equal(codes_of(alone, x), codes_of(by_all, x))
    few = learn_codes(x, y, 5, bits=64, seed=3, grouped=np.arange(300) >= 20)
    assert few.calibration.kind == "none"


def test_the_student_says_what_its_teachers_say() -> None:
    x, y = blobs(600, 5)
    learned = learn_codes(x, np.where(np.arange(600) < 40, y, -1), 5, bits=64, seed=0)
    with torch.no_grad():
        said = learned.head.student(torch.from_numpy(x))[0].argmax(1).numpy()
    assert (said == learned.posteriors.argmax(1)).mean() > 0.9


def pixels(n: int) -> Tensor:
    return torch.randint(
        0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


@cache
def taught(classes: int) -> Encoder:
    """An encoder of random features that has learned codes from 60 images. Not to be changed."""
    torch.manual_seed(0)
    images = pixels(60)
    encoder = Encoder(
        Description("conv6", 32, whiten=False, bits=64, classes=classes, coding=Coding(40, 512))
    ).eval()

    def batches(what: str, positions: Positions) -> Iterable[Tensor]:
        return images[torch.from_numpy(positions)].split(30)

    labels = np.where(np.arange(60) < 30, np.arange(60) % max(classes, 1), -1)
    vectors = learn_embedding(encoder, batches, np.arange(60), 0.5, 0, {})
    learn_head(encoder, vectors, labels, 0)
    return encoder


@pytest.mark.parametrize("classes", [0, 3])
def test_a_code_is_the_same_alone_in_a_batch_and_of_what_was_kept(classes: int) -> None:
    encoder, images = taught(classes), pixels(60)
    together = encoder.encode_and_embed(images)
    assert together.embeddings is not None
    for count in (1, 7):
        parts = [encoder.encode_and_embed(part) for part in images.split(count)]
        assert np.array_equal(np.concatenate([part.codes for part in parts]), together.codes)
    assert np.array_equal(encoder.code(together.embeddings), together.codes)
    assert np.array_equal(encoder.encode(images), together.codes)
    assert together.embeddings.dtype == np.float16
    assert np.allclose(np.linalg.norm(together.embeddings.astype(float), axis=1), 1, atol=1e-3)
    assert encoder.posterior(together.embeddings).shape == (60, classes)


def test_a_mirror_image_has_the_same_code() -> None:
    encoder, images = taught(3), pixels(60)
    assert (encoder.encode(images.flip(3)) == encoder.encode(images)).mean() > 0.999


def test_a_saved_encoder_gives_the_same_codes_and_bytes(tmp_path) -> None:
    encoder = taught(3)
    encoder.save(tmp_path / "a.safetensors")
    loaded = Encoder.load(tmp_path / "a.safetensors")
    loaded.save(tmp_path / "b.safetensors")
    assert loaded.description == encoder.description
    assert np.array_equal(loaded.encode(pixels(20)), encoder.encode(pixels(20)))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_components_are_whitened_by_the_power(power: float) -> None:
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((500, 20)) * np.arange(1, 21)).astype(np.float32)
    made = embedding(components(features, 6, 0), power)
    with torch.no_grad():
        projected = made.project(torch.from_numpy(features)).numpy()
    values = np.linalg.eigvalsh(np.cov(features.T))[::-1][:6]
    assert np.allclose(projected.mean(0), 0, atol=1e-3)
    assert np.allclose(projected.std(0, ddof=1), np.sqrt(values) ** (1 - power), rtol=1e-3)
