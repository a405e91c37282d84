"""Who learns together: one process alone, or several, each from its part of every batch.

Whatever a batch decides comes of sums over its images or patches. Workers add these up before anything is
made of them: so each comes to what one process learns from the whole batch.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn.parallel import DistributedDataParallel

from training.config import Config, ConfigError
from training.nets.pretrained import is_pretrained
from training.rules import alone

T = TypeVar("T")

MEETING = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells each process
RESTARTS = "TORCHELASTIC_RESTART_COUNT"  # and how often it has started them again
# That others wait for the first, which learns embeddings and propagates labels alone, or for all to read.
# A process that dies is missed at once, by its connection.
PATIENCE = timedelta(hours=3)
# That one tells the others something once all are there: one that was telling its weights waited on for
# another that was killed meanwhile (once; torch 2.15, gloo).
TELLING = timedelta(minutes=10)


class WorkerLost(RuntimeError):
    """Another process ended, or cannot be reached."""


class Part(NamedTuple):
    """Where a worker's images lie in the batch of all: so many lie `before` them, there are so many in
    `total`."""

    before: int
    total: int


class Alone:
    """One process, which has nothing to add and nobody to tell."""

    rank, world = 0, 1
    add = staticmethod(alone)

    def share(self, batch: Tensor) -> Tensor:
        """What this worker learns from of a batch (B, …) of all: (b, …), perhaps nothing."""
        return batch

    def part(self, count: int) -> Part:
        """Where the next `count` images of this worker lie."""
        return Part(0, count)

    def join(self, model: nn.Module) -> None:
        """From now on the model's batch norm learns from the batch of all, and its dropout draws for it."""

    def spread(self, model: nn.Module) -> nn.Module:
        """A model that has joined, as it is to be called to learn by gradients: from equal weights, with the
        mean of all workers' gradients after each backward pass."""
        return model

    def begin_equal(self, model: nn.Module) -> None:
        """The model takes the state of the first worker's."""

    def told(self, values: Tensor) -> Tensor:
        """What the first worker has in place of values of this shape and type."""
        return values

    def agree(self, value: str) -> bool:
        """Whether all workers have the same value."""
        return True

    def pooled(self, value: T) -> list[T]:
        """What each worker has, in their order."""
        return [value]

    def leave(self) -> None:
        """The end of learning together."""


ALONE = Alone()


class Together(Alone):
    """The processes of torch's default group, with their tensors on `device`. By the group `telling`, of the
    same ones, the first tells the others something, which takes no long."""

    def __init__(self, device: torch.device, telling: Any = None) -> None:
        self.rank, self.world, self.device = distributed.get_rank(), distributed.get_world_size(), device
        self._telling = telling

    def add(self, *sums: Tensor | int) -> tuple[Any, ...]:
        """By way of one buffer, of the first one's type, in which all workers find the very same bits."""
        like = next(each for each in sums if isinstance(each, Tensor))
        own = [each if isinstance(each, Tensor) else like.new_full((), each) for each in sums]
        flat = torch.cat([each.flatten() for each in own])
        distributed.all_reduce(flat)
        joined = flat.split([each.numel() for each in own])
        return tuple(values.view(each.shape) for values, each in zip(joined, own, strict=True))

    def share(self, batch: Tensor) -> Tensor:
        """Equal parts, in the workers' order, the first ones longer by one where it has to be."""
        return batch.tensor_split(self.world)[self.rank]

    def part(self, count: int) -> Part:
        """Asks all workers: whoever calls it waits for the others."""
        counts = torch.zeros(self.world, dtype=torch.int64, device=self.device)
        counts[self.rank] = count
        distributed.all_reduce(counts)
        return Part(int(counts[: self.rank].sum()), int(counts.sum()))

    def join(self, model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.__class__ = _joined(module.__class__)  # type: ignore[arg-type]  # classes are hashable
            elif isinstance(module, nn.Dropout):
                module.__class__ = JoinedDropout

    def spread(self, model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model)

    def begin_equal(self, model: nn.Module) -> None:
        self._wait_for_all()
        for tensor in model.state_dict().values():
            same = tensor.contiguous()
            distributed.broadcast(same, 0, self._telling)
            tensor.copy_(same)

    def told(self, values: Tensor) -> Tensor:
        self._wait_for_all()
        told = values.to(self.device, copy=True)
        distributed.broadcast(told, 0, self._telling)
        return told.to(values.device)

    def _wait_for_all(self) -> None:
        distributed.all_reduce(torch.zeros(1, device=self.device))

    def agree(self, value: str) -> bool:
        own = int.from_bytes(hashlib.sha256(value.encode()).digest()[:7])
        largest = torch.tensor([own, -own], device=self.device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return largest.tolist() == [own, -own]

    def pooled(self, value: T) -> list[T]:
        pooled: list[Any] = [None] * self.world
        distributed.all_gather_object(pooled, value)
        return pooled

    def leave(self) -> None:
        distributed.destroy_process_group()


def world_size() -> int:
    """How many processes torchrun started, this one included; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in MEETING) else 1


def started_again() -> bool:
    """Whether torchrun started these processes in place of some of which one ended."""
    return os.environ.get(RESTARTS, "0") != "0"


@contextmanager
def missing(what_now: str) -> Iterator[None]:
    """What torch raises where another process is lost, as WorkerLost that says `what_now`."""
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).strip().splitlines()[0]
        if world_size() == 1 or not (isinstance(error, distributed.DistError) or "gloo" in first_line):
            raise
        reason = first_line.partition("] ")[2].partition(". ")[0] or first_line  # without place and advice
        raise WorkerLost(f"another process ended or cannot be reached; {what_now} ({reason})") from error


def meet(device: torch.device) -> Alone:
    """The processes that torchrun started, with this one; on GPUs each takes one. Raises ConfigError."""
    if world_size() == 1:
        return ALONE
    if device.type == "cuda":
        own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= there:
            raise ConfigError(
                f"there are fewer GPUs ({there}) than processes: start {there}, or --device cpu"
            )
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return Together(device, distributed.new_group(timeout=TELLING))


def check_together(config: Config) -> None:
    """ConfigError where the processes that torchrun started cannot learn together as this has it."""
    world = world_size()
    if world == 1:
        return
    unlearned = config.rule == "none" or is_pretrained(config.backbone)
    if unlearned and config.labels == "none":
        raise ConfigError(f"{world} processes share what is learned, and here is nothing: start one process")
    if ":" in config.device:
        raise ConfigError(
            f"device {config.device} is for one process: {world} take one each of --device cuda"
        )
    if config.batch_size < 2 * world:  # then no part of a batch is empty
        raise ConfigError(
            f"batch_size {config.batch_size} is too small for {world} processes: "
            f"--set batch_size={2 * world} or more, or start fewer"
        )


def refuse_together(command: str) -> None:
    """ConfigError where torchrun started several processes of a command for one."""
    if world_size() > 1:
        raise ConfigError(f"{command} runs in one process: start it without torchrun")


class Added(Function):
    """The sum of a tensor over all workers, and of its gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        joined = own.clone()
        distributed.all_reduce(joined)
        return joined

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        joined = gradient.clone()
        distributed.all_reduce(joined)
        return joined


class JoinedDropout(nn.Dropout):
    """Dropout drawn for the batch of all workers, as one process draws it."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, …) -> the same shape."""
        if not self.training or not self.p:
            return input
        before, total = Together(input.device).part(len(input))
        kept = input.new_empty(total, *input.shape[1:]).bernoulli_(1 - self.p)
        return input * kept[before : before + len(input)] / (1 - self.p)


class JoinedNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of the batch of all workers. torch's SyncBatchNorm does not run on CPUs."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, …) -> the same shape."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        mean, variance, count = _moments(input.to(self.weight.dtype))
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1).clamp_min(1)), self.momentum)
        shape = (1, -1, *(1,) * (input.ndim - 2))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift.view(shape), input, scale.view(shape)).to(input.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C,) over the batch of all workers (B, C, …), and how many values each is of.

    Workers add Σ x and Σ x², in 64 bits, as their difference is small where the mean is large. Each makes
    them of its own mean and deviations, for which 32 bits will do. A part without images adds 0.
    """
    own = x.numel() // x.shape[1]
    over = [0, *range(2, x.ndim)]
    mean = x.sum(over, keepdim=True) / max(1, own)
    deviation = (x - mean).square().sum(over).double()
    mean = mean.flatten().double()
    sums = [own * mean, deviation + own * mean.square(), mean.new_full((1,), own)]
    total, squares, count = Added.apply(torch.cat(sums)).split([x.shape[1], x.shape[1], 1])
    mean = total / count
    variance = squares / count - mean.square()
    return mean.to(x.dtype), variance.clamp_min(0).to(x.dtype), count.to(x.dtype)


@cache
def _joined(kind: type) -> type:
    """The same module with JoinedNorm in the place of torch's own batch norm: what a kind of ours does before
    and after that stays as it is."""
    return type(f"Joined{kind.__name__}", (kind, JoinedNorm), {})
