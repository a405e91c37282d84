"""A network that learns, from images and the posteriors of each, to say the same of images that were changed.

What few labels say by way of the neighbours is often wrong of one image, seldom of all that look like it. A
network that must say it of each image moved, mirrored and with a piece missing cannot learn the errors by
heart, and so knows more in the end than its teachers. Changes: DeVries and Taylor, arXiv 1708.04552; soft
labels weighted by their sureness: Iscen et al., arXiv 1904.04717; mean of the weights: Tarvainen and Valpola,
arXiv 1703.01780.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.optim.swa_utils import AveragedModel

from training.learning.finetune import Classifier, is_finite
from training.learning.together import ALONE, Alone, Part
from training.nets.backbones import Network, feature_count

BATCH = 128
# Images below which the teachers know more. 1,800 of CIFAR-10, 180 labels, 200 queries: accuracy 59.0 %, mAP
# 0.431 without the student, 56.0 %, 0.383 with it. Of 45,000 with 4,500 labels it gains ten points.
FEWEST = 5_000
LEAST_STEPS = 600  # however few images there are
ROUNDS = 4  # equal parts of the learning, after each of which labels are propagated anew
WARM_UP = 0.15  # of all steps the learning rate rises, then it falls to nothing
AVERAGED = 0.05  # of all steps are what the mean of the weights looks back on
WEIGHT_DECAY = 5e-4
PARTS = ("model", "mean", "optimizer")  # of what a later run needs to go on
MOVED, CUT = 0.1, 0.25  # of an image's side: how far it moves at most, what is cut out of it


class Lesson(NamedTuple):
    """A batch to learn from, or a worker's part of it: images (B, 3, S, S), posteriors (B, classes), how much
    each counts (B,)."""

    images: Tensor
    posteriors: Tensor
    weights: Tensor


class PixelStudent:
    """Descent on the cross-entropy to posteriors, in `steps` steps; the mean of the last weights is what was
    learned. It begins with the weights of `start`, features of the same backbone, else with random ones."""

    def __init__(
        self,
        backbone: str,
        image_size: int,
        classes: int,
        *,
        lr: float,
        steps: int,
        device: torch.device,
        mirror: bool = True,
        dtype: torch.dtype = torch.float32,
        start: nn.Module | None = None,
        workers: Alone = ALONE,
    ) -> None:
        network = Network(backbone, image_size, hidden=False)
        if start is not None:
            network.features.load_state_dict(start.state_dict())
        model = Classifier(network, feature_count(backbone, image_size), classes, dropout=0.0)
        self.model = model.to(device)
        horizon = max(1.0, AVERAGED * steps)

        def follow(mean: Tensor, weights: Tensor, _: Tensor | int) -> Tensor:
            return mean.lerp(weights, 1 / horizon) if mean.is_floating_point() else weights

        self.mean = AveragedModel(self.model, avg_fn=follow, use_buffers=True)
        workers.join(self.model)
        self.workers, self.called = workers, workers.spread(self.model)
        groups: list[dict[str, Any]] = [
            {"params": [each for each in self.model.parameters() if each.ndim > 1]},
            {"params": [each for each in self.model.parameters() if each.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(
            groups, lr, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True, fused=True
        )
        self.lr, self.steps, self.taken, self.mirror, self.dtype = lr, steps, 0, mirror, dtype

    def epoch(self, number: int, lessons: Iterable[Lesson]) -> None:
        """One pass; epochs count from 0. Raises FloatingPointError where it diverges."""
        self.model.train()
        total = torch.zeros(())
        for lesson in lessons:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * rate((self.taken + 1) / (self.steps + 1))
            self.taken += 1
            part = self.workers.part(len(lesson.images))
            images = changed(lesson.images, mirror=self.mirror, part=part)
            with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
                logits = self.called(images).float()
            each = -(lesson.posteriors * logits.log_softmax(1)).sum(1)
            (weight,) = self.workers.add(lesson.weights.sum())
            loss = (lesson.weights * each).sum() / weight.clamp_min(1e-6)
            self.optimizer.zero_grad(set_to_none=True)
            (self.workers.world * loss).backward()  # of which the mean is taken
            self.optimizer.step()
            self.mean.update_parameters(self.model)
            total = total.to(loss.device) + loss.detach()
        self.model.eval()
        (total,) = self.workers.add(total)
        if not is_finite(self.model, total):
            raise FloatingPointError(
                f"pixel student diverged in epoch {number + 1} with learning rate {self.lr:g}: use a smaller "
                f"one (--set student_lr={self.lr / 10:g})"
            )

    def features(self) -> nn.Sequential:
        """The convolutional part that was learned so far."""
        model = cast(Classifier, self.mean.module)
        return model.network.features

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run needs to go on."""
        return {name: getattr(self, name).state_dict() for name in PARTS} | {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.taken = state["taken"]


def rate(share: float) -> float:
    """The learning rate's factor once this share of the steps is taken: it rises, then falls, in lines."""
    return share / WARM_UP if share < WARM_UP else (1 - share) / (1 - WARM_UP)


def rounds_end(epochs: int, count: int) -> bool:
    """Whether, after so many `epochs` of `count`, labels are propagated anew."""
    ends = {round(count * part / ROUNDS) for part in range(1, ROUNDS)}
    return epochs in ends


def changed(images: Tensor, *, mirror: bool = True, part: Part | None = None) -> Tensor:
    """Images (B, 3, S, S), each moved, perhaps mirrored, and with a square set to 0, the mean of all. A part
    of a batch is changed as it is together with the rest."""
    count, side = len(images), images.shape[-1]
    before, total = part or (0, count)
    here = slice(before, before + count)
    most = min(max(1, round(MOVED * side)), side - 1)
    down, right = torch.randint(0, 2 * most + 1, (2, total, 1))[:, here]
    along = torch.arange(side).expand(count, side)
    mirrored = torch.where((torch.rand(total, 1)[here] < 0.5) & mirror, along.flip(1), along)
    rows = (down + along)[:, :, None].to(images.device)
    columns = (right + mirrored)[:, None, :].to(images.device)
    wide = pad(images, (most,) * 4, mode="reflect").permute(0, 2, 3, 1)
    moved = wide[torch.arange(count, device=images.device)[:, None, None], rows, columns]
    centre = torch.randint(0, side, (2, total, 1))[:, here]
    inside = (along - centre).abs() <= CUT * side / 2
    hole = (inside[0, :, :, None] & inside[1, :, None, :]).to(images.device)
    return moved.permute(0, 3, 1, 2).masked_fill(hole[:, None], 0)
