"""One of several processes that learn together, and what each learner learns, there or in one process alone.

python -m tests.training.learning.worker FOLDER RANK WORLD
"""

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from training.config import configure
from training.learning.by_rule import LEARNERS
from training.learning.finetune import Classifier, Supervised, copied_state
from training.learning.student import Lesson, PixelStudent
from training.learning.together import Alone, Together
from training.nets.backbones import BACKBONES, Conv, Network, Plan
from training.rules import TRAITS

CPU, CLASSES, SIZE = torch.device("cpu"), 5, 14
# All that couples the images of a batch: rules of convolutions and of a whole map, both kinds of batch norm.
TINY = {"tiny": Plan(SIZE, (Conv(8, 5, pool=2), Conv(12, 3)), hidden=16, rescaled=2)}
RULES = [rule for rule, traits in TRAITS.items() if traits.adds] + ["vae", "hah"]
BY_LABELS = ["fine-tuning", "pixel student"]
LEARNED = [*RULES, *BY_LABELS]
# Two sums of the same numbers differ in their last digit. At their usual rates these two make more of it in
# 50 steps, between two orders of one batch's images too.
RATES = {"swta_fh": {"hebbian_lr": 1e-3}, "hah": {"hah_lr": 1e-4}}


class World(NamedTuple):
    """How many images the batches of an epoch have, and in which numbers their workers learn."""

    epochs: int
    sizes: tuple[int, ...]
    dtype: torch.dtype


WORLDS = {
    2: World(5, (10,) * 9 + (7,), torch.float32),
    3: World(2, (10, 9, 2, 8), torch.float64),  # of two images the last worker gets none
}


def images(sizes: tuple[int, ...], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images, smooth but for some noise, with the label of each."""
    generator = torch.Generator().manual_seed(seed)
    for count in sizes:
        coarse = torch.randn(count, 3, 4, 4, generator=generator)
        noise = torch.randn(count, 3, SIZE, SIZE, generator=generator)
        smooth = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")
        yield smooth + 0.3 * noise, torch.randint(CLASSES, (count,), generator=generator)


def learned(what: str, world: World, workers: Alone) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state of all that learns, before and after."""
    torch.manual_seed(workers.rank)  # only the first worker's start counts
    return (by_labels if what in BY_LABELS else by_rule)(what, world, workers)


def by_rule(rule: str, world: World, workers: Alone) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    settings: dict[str, Any] = {"rule": rule, "backbone": "tiny", "recipe": "paper", "norm_rescale": True}
    settings |= {"image_size": SIZE, "epochs": world.epochs} | RATES.get(rule, {})
    learner: Any = LEARNERS[rule].configured(configure(settings), CLASSES, CPU, workers)
    model = (learner.model if hasattr(learner, "model") else learner.network).to(world.dtype)
    before = copied_state(model)
    for epoch, shares in epochs(world, workers):
        learner.epoch(epoch, shares if learner.from_labels else (x for x, _ in shares))
    return before, model.state_dict()


def by_labels(what: str, world: World, workers: Alone) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.set_default_dtype(world.dtype)
    try:
        if what == "fine-tuning":
            classifier = Classifier(Network("tiny", SIZE), TINY["tiny"].hidden, CLASSES, dropout=0.5)
            tuning = Supervised(classifier, configure({}), lr=0.003, epochs=world.epochs, workers=workers)
            workers.begin_equal(classifier)
            before = copied_state(classifier)
            for epoch, shares in epochs(world, workers):
                tuning.epoch(epoch, shares)
            return before, classifier.state_dict()
        steps = world.epochs * len(world.sizes)
        student = PixelStudent("tiny", SIZE, CLASSES, lr=0.05, steps=steps, device=CPU, workers=workers)
        before = copied_state(student.model)
        for epoch, shares in epochs(world, workers):
            student.epoch(epoch, map(lesson, shares))
        return before, student.model.state_dict() | {
            f"mean.{name}": tensor for name, tensor in student.mean.module.state_dict().items()
        }
    finally:
        torch.set_default_dtype(torch.float32)


def lesson(batch: tuple[Tensor, Tensor]) -> Lesson:
    """Posteriors that are surer of some classes than of others, and count accordingly."""
    images, labels = batch
    posteriors = nn.functional.one_hot(labels, CLASSES) * 2.0 + (labels[:, None] == 0)
    posteriors = (posteriors + 0.1).to(images.dtype)
    posteriors = posteriors / posteriors.sum(1, keepdim=True)
    return Lesson(images, posteriors, posteriors.amax(1))


def epochs(world: World, workers: Alone) -> Iterator[tuple[int, Iterator[tuple[Tensor, Tensor]]]]:
    """A worker's part of each batch of each epoch, which begins with the same random numbers."""
    for epoch in range(world.epochs):
        torch.manual_seed(100 + epoch)
        yield (
            epoch,
            (
                (workers.share(x).to(world.dtype), workers.share(labels))
                for x, labels in images(world.sizes, seed=epoch)
            ),
        )


def main(folder: str, rank: str, world: str) -> None:
    BACKBONES.update(TINY)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=int(rank),
        world_size=int(world),
        timeout=timedelta(seconds=60),
    )
    workers = Together(CPU)
    states = {rule: learned(rule, WORLDS[int(world)], workers)[1] for rule in LEARNED}
    torch.save(states, Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
