"""What a step of pre-training takes in one process and in several, and what they tell each other.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.together
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m tests.benchmarks.together

prints a row of a table for each size of the batch of all.
"""

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from tests.benchmarks.harness import machine
from training.config import configure
from training.device import choose_device, set_up_process
from training.learning.by_rule import LEARNERS
from training.learning.together import Alone, meet

WARM_UP = 3


class Heard:
    """Counts the bytes of all sums that workers tell each other, and the seconds until all have them."""

    def __init__(self) -> None:
        self.bytes, self.seconds = 0, 0.0
        self._add = distributed.all_reduce
        distributed.all_reduce = self  # type: ignore[assignment]

    def __call__(self, tensor: Tensor, *more: object) -> None:
        self.bytes += tensor.numel() * tensor.element_size()
        start = time.perf_counter()
        self._add(tensor, *more)  # type: ignore[arg-type]
        self.seconds += time.perf_counter() - start


def row(
    backbone: str, size: int, rule: str, count: int, steps: int, workers: Alone, device: torch.device
) -> str:
    """A row for batches of so many images: seconds of the clock, of a worker's processor, megabytes, and the
    share of the clock until the others' sums were there."""
    settings = {"rule": rule, "backbone": backbone, "image_size": size, "recipe": "paper"}
    torch.manual_seed(0)
    learner = LEARNERS[rule].configured(configure(settings), 0, device, workers)
    batch = workers.share(torch.randn(count, 3, size, size)).to(device)
    learner.epoch(0, [batch] * WARM_UP)
    heard = Heard()
    clock, processor = time.perf_counter(), time.process_time()
    learner.epoch(1, [batch] * steps)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    distributed.all_reduce = heard._add
    figures = (clock / steps, processor / steps, heard.bytes / steps / 1e6, heard.seconds / clock)
    about = (backbone, size, rule, count, workers.world, *(f"{each:.2f}" for each in figures))
    return f"| {' | '.join(map(str, about))} |"


def main(arguments: Sequence[str] | None = None) -> None:
    command = argparse.ArgumentParser()
    command.add_argument("--backbone", default="conv6")
    command.add_argument("--image-size", type=int, default=32)
    command.add_argument("--rule", default="hpca_fh")
    command.add_argument("--images", type=int, nargs="+", default=[64, 512], help="in a batch")
    command.add_argument("--steps", type=int, default=10)
    options = command.parse_args(arguments)
    set_up_process("fp32")
    device = choose_device("auto")
    workers = meet(device)
    asked = (options.backbone, options.image_size, options.rule)
    rows = [row(*asked, count, options.steps, workers, device) for count in options.images]
    if workers.rank == 0:
        print(machine())
        print(
            "| backbone | px | rule | images a batch | workers | s a step | processor s a step of each "
            "| MB a step | share of the clock in telling |"
        )
        print("|" + "---|" * 9, *rows, sep="\n")
    workers.leave()


if __name__ == "__main__":
    main()
