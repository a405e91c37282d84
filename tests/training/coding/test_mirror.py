"""Whether mirror images say the same, and a run that follows it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import training.learning.student
import training.run
from tests.training.test_build_index import striped_folder
from training.coding.mirror import USUAL, unusual
from training.config import configure
from training.learning.together import Part
from training.run import Run


def slow(images: NDArray[np.uint8]) -> float:
    """The same in loops, in 64 bits, of images whose sides are 32 pixels."""
    small = images.reshape(len(images), 3, 16, 2, 16, 2).mean((3, 5))
    both = np.concatenate([small, small[..., ::-1]])
    small = small - both.mean(0)
    shares = []
    for number, image in enumerate(small):
        others = np.delete(small, number, axis=0).reshape(len(small) - 1, -1)
        near = []
        for each in (image, image[..., ::-1]):
            flat = each.ravel()
            cosines = others @ flat / np.linalg.norm(others, axis=1) / np.linalg.norm(flat)
            near.append(cosines.max())
        if near[0] != near[1]:
            shares.append(near[0] > near[1])
    return float(np.mean(shares))


@pytest.mark.parametrize("seed", [0, 1])
def test_against_loops(seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (60, 3, 32, 32), np.uint8)
    assert unusual(torch.from_numpy(images)) == pytest.approx(slow(images))


def shapes(count: int, *, turned: bool) -> torch.Tensor:
    """The letter L somewhere in a picture; `turned`: half of them in a mirror."""
    rng, images = np.random.default_rng(0), np.zeros((count, 3, 32, 32), np.uint8)
    for image in images:
        top, left = rng.integers(2, 12, 2)
        image[:, top : top + 16, left : left + 3] = 255
        image[:, top + 13 : top + 16, left : left + 10] = 255
        if turned and rng.random() < 0.5:
            image[:] = image[..., ::-1].copy()
    return torch.from_numpy(images)


def test_letters_are_no_mirror_images() -> None:
    assert unusual(shapes(300, turned=False)) > 0.9
    assert unusual(shapes(300, turned=True)) < USUAL


def test_images_that_are_their_own_mirror_images_say_nothing() -> None:
    images = torch.randint(0, 256, (30, 3, 32, 16), dtype=torch.uint8)
    assert unusual(torch.cat([images, images.flip(3)], 3)) <= USUAL
    assert unusual(torch.zeros(5, 3, 8, 8, dtype=torch.uint8)) == 0


def test_other_sizes_and_one_image() -> None:
    assert 0 <= unusual(torch.randint(0, 256, (20, 3, 50, 50), dtype=torch.uint8)) <= 1
    assert unusual(torch.randint(0, 256, (1, 3, 9, 9), dtype=torch.uint8)) == 0


@pytest.fixture
def trained(tmp_path: Path, narrow: None, few: None) -> Callable[..., Run]:
    """A run on a few images, with a student of one epoch."""
    values = {"data": str(striped_folder(tmp_path / "pictures", 80)), "image_size": 28}

    def train(**chosen: Any) -> Run:
        run = Run(configure(values | {"bits": 32, "student_epochs": 1} | chosen), None)
        run.train()
        return run

    return train


@pytest.mark.long
@pytest.mark.parametrize(("share", "mirror", "expected"), [
    (0.5, "auto", True), (0.9, "auto", False), (0.9, "true", True), (0.5, "false", False),
])  # fmt: skip
def test_mirror_images_are_learned_from_where_they_are_usual(
    trained: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    share: float,
    mirror: str,
    expected: bool,
) -> None:
    caplog.set_level("INFO")
    compared, changes = list[int](), list[bool]()

    def noted(images: torch.Tensor) -> float:
        compared.append(len(images))
        return share

    def changed(images: torch.Tensor, *, mirror: bool, part: Part) -> torch.Tensor:
        assert part == (0, len(images))
        changes.append(mirror)
        return images

    monkeypatch.setattr(training.run, "unusual", noted)
    monkeypatch.setattr(training.run, "SAMPLE", 20)
    monkeypatch.setattr(training.learning.student, "changed", changed)
    encoder = trained(mirror=mirror).encoder()
    assert encoder.description.coding is not None
    assert encoder.description.coding.mirror is expected
    assert set(changes) == {expected}
    assert compared == ([20] if mirror == "auto" else [])
    assert ("mirror images are not learned from: 90 %" in caplog.text) is (mirror == "auto" and not expected)
    pixels = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    assert np.array_equal(encoder.encode(pixels), encoder.encode(pixels.flip(3))) is expected
