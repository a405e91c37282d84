"""The network that learns from changed images."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.learning.student import CUT, MOVED, Lesson, PixelStudent, changed

CPU = torch.device("cpu")


def slowly(image: Tensor, down: int, right: int, mirrored: bool) -> Tensor:
    """An image (3, S, S), its edges reflected, moved pixel by pixel, and then mirrored or not."""
    side = image.shape[-1]

    def within(at: int) -> int:
        return -at if at < 0 else 2 * (side - 1) - at if at >= side else at

    moved = torch.empty_like(image)
    for y in range(side):
        for x in range(side):
            column = side - 1 - x if mirrored else x
            moved[:, y, x] = image[:, within(y + down), within(column + right)]
    return moved


@pytest.mark.parametrize("mirror", [True, False])
def test_images_are_moved_mirrored_and_lose_a_square(mirror: bool) -> None:
    torch.manual_seed(0)
    side = 12
    images = torch.randn(40, 3, side, side)
    most = round(MOVED * side)
    ways = set()
    for image, after in zip(images, changed(images, mirror=mirror), strict=True):
        hole = (after == 0).all(0)
        rows, columns = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
        assert hole.sum() == len(rows) * len(columns)
        assert 1 <= max(len(rows), len(columns)) <= CUT * side + 1
        found = [
            (down, right, mirrored)
            for down in range(-most, most + 1)
            for right in range(-most, most + 1)
            for mirrored in (False, True)
            if torch.equal(slowly(image, down, right, mirrored)[:, ~hole], after[:, ~hole])
        ]
        assert len(found) == 1
        ways.add(found[0])
    assert {mirrored for _, _, mirrored in ways} == {False, mirror}
    assert {down for down, _, _ in ways} == {right for _, right, _ in ways} == set(range(-most, most + 1))


def lessons(count: int, wrong: float, seed: int = 0) -> tuple[list[Lesson], Tensor, Tensor]:
    """Batches of noise that is brighter on one side by class, a part of them with another class's posterior;
    the images and their classes."""
    rng = np.random.default_rng(seed)
    y = torch.from_numpy(rng.integers(0, 2, count))
    x = torch.from_numpy(rng.standard_normal((count, 3, 16, 16)).astype(np.float32))
    x[y == 0, :, :8] += 0.7
    said = torch.where(torch.from_numpy(rng.random(count) < wrong), 1 - y, y)
    q = torch.nn.functional.one_hot(said, 2) * 0.6 + 0.2
    parts = zip(x.split(32), q.split(32), torch.ones(count).split(32), strict=True)
    return [Lesson(*part) for part in parts], x, y


def student(steps: int, lr: float = 0.05) -> PixelStudent:
    torch.manual_seed(1)
    return PixelStudent("conv7", 16, 2, lr=lr, steps=steps, device=CPU)


@torch.no_grad()
def says(made: PixelStudent, x: Tensor) -> Tensor:
    return made.mean(x).argmax(1)


def test_it_knows_more_than_its_teachers() -> None:
    batches, x, y = lessons(512, wrong=0.25)
    made = student(6 * len(batches))
    for epoch in range(6):
        made.epoch(epoch, batches)
    made.mean.eval()
    assert (says(made, x) == y).float().mean() > 0.9  # of the teachers' posteriors 0.75 are right


def test_what_has_no_weight_teaches_nothing() -> None:
    batches, x, y = lessons(512, wrong=0)
    without = [each._replace(weights=torch.zeros(len(each.weights))) for each in batches]
    half = [
        each._replace(
            posteriors=torch.where(even[:, None], each.posteriors, each.posteriors.flip(1)),
            weights=even.float(),
        )
        for each in batches
        for even in [torch.arange(len(each.weights)) % 2 == 0]
    ]
    nothing, something = student(12 * len(batches)), student(6 * len(batches))
    before = nothing.model.linear.bias.clone()
    nothing.epoch(0, without)
    assert torch.equal(nothing.model.linear.bias, before)
    for epoch in range(6):
        something.epoch(epoch, half)
    something.mean.eval()
    assert (says(something, x) == y).float().mean() > 0.9


def test_it_goes_on_as_if_nothing_had_happened() -> None:
    batches, _, _ = lessons(128, wrong=0)

    def learn(made: PixelStudent, epochs: range) -> None:
        for epoch in epochs:
            torch.manual_seed(epoch)
            made.epoch(epoch, batches)

    whole, first, second = (student(3 * len(batches)) for _ in range(3))
    learn(whole, range(3))
    learn(first, range(1))
    second.load_state_dict(first.state_dict())
    learn(second, range(1, 3))
    expected, found = whole.features().state_dict(), second.features().state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not torch.equal(expected["0.0.weight"], first.features().state_dict()["0.0.weight"])


def test_divergence_names_the_setting() -> None:
    batches, _, _ = lessons(128, wrong=0)
    with pytest.raises(
        FloatingPointError, match=r"^pixel student diverged in epoch 2 .*student_lr=1e\+29\)$"
    ):
        student(8, lr=1e30).epoch(1, batches)
