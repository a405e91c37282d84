"""A layer's training step, forward and update: the fast rules against the paper's form and the originals."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tests.benchmarks import unfolded
from tests.benchmarks.harness import Report, Row, at_least, interleaved, main
from training.hebbian import HebbianConv2d
from training.nets.backbones import BACKBONES, map_size

STEPS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "hpca": unfolded.hpca_step,
    "swta": unfolded.swta_step,
}
TWO_PHASE_SHARE = 16  # the two-phase originals run on this part of a batch: they are linear in it


@dataclass(frozen=True)
class Shape:
    """A convolutional layer and the map that it sees."""

    channels: int
    filters: int
    kernel: int
    side: int

    def __str__(self) -> str:
        return f"{self.channels}→{self.filters} k{self.kernel} {self.side}²"


def conv6() -> list[Shape]:
    """Its four convolutions."""
    shapes, channels, side = [], 3, BACKBONES["conv6"].image_size
    for layer in BACKBONES["conv6"].convolutions:
        shapes.append(Shape(channels, layer.channels, layer.kernel, side))
        channels, side = layer.channels, (side - layer.kernel + 1) // layer.pool
    return shapes


def measure(tiny: bool) -> Report:
    """The four convolutions of conv6 and its fully connected layer, batch 64."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    batch, rounds = (2, 2) if tiny else (64, 7)
    rows: list[Row] = []
    for rule, step in STEPS.items():
        total: dict[str, list[float]] = {}
        for shape in conv6():
            milliseconds = compare(rule, step, shape, batch, rounds)
            for name, values in milliseconds.items():
                total[name] = [a + b for a, b in zip(total.get(name, [0.0] * rounds), values, strict=True)]
            ours = milliseconds["ours"]
            what = f"{rule.upper()} {shape}"
            rows.append(at_least(1, what, ours, "patches materialised", milliseconds["unfolded"]))
        what = f"{rule.upper()}, the four together"
        rows.append(at_least(1.7, what, total["ours"], "patches materialised", total["unfolded"]))
        rows.append(at_least(150, what, total["ours"], "two-phase original", total["two-phase"]))
    rows.append(fully_connected(batch, rounds))
    return Report(
        benchmark="layers",
        sizes={"batch": batch, "two-phase batch": max(1, batch // TWO_PHASE_SHARE), "rounds": rounds},
        tiny=tiny,
        rows=rows,
    )


def compare(
    rule: str, step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], shape: Shape, batch: int, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds a step of our layer, of the unfolded form, and of the two-phase rule for a whole batch."""
    x = torch.randn(batch, shape.channels, shape.side, shape.side)
    x = x.contiguous(memory_format=torch.channels_last)
    layer = HebbianConv2d(shape.channels, shape.filters, shape.kernel, rule=f"{rule}_fh")
    slow = HebbianConv2d(shape.channels, shape.filters, shape.kernel, rule=rule)
    slow.load_state_dict(layer.state_dict())
    planes = x.contiguous()
    with torch.no_grad():
        agree(layer, x, step(planes, layer.weight))
        few = max(1, batch // TWO_PHASE_SHARE)
        milliseconds = interleaved(
            {
                "ours": partial(layer, x),
                "unfolded": partial(step, planes, layer.weight),
                "two-phase": partial(slow, x[:few]),
            },
            rounds=rounds,
        )
    milliseconds["two-phase"] = [value * batch / few for value in milliseconds["two-phase"]]
    return milliseconds


def fully_connected(batch: int, rounds: int) -> Row:
    """conv6's 2304→4096 layer under HPCA: neurons in blocks against one product with the triangle."""
    shape = Shape(256, 4096, map_size("conv6", 32), map_size("conv6", 32))
    x = torch.randn(batch, shape.channels, shape.side, shape.side)
    layer = HebbianConv2d(shape.channels, shape.filters, shape.kernel, rule="hpca_fh")
    with torch.no_grad():
        agree(layer, x, unfolded.hpca_step(x, layer.weight))
        milliseconds = interleaved(
            {"ours": partial(layer, x), "triangle": partial(unfolded.hpca_step, x, layer.weight)},
            rounds=rounds,
        )
    what = f"HPCA fully connected {x[0].numel()}→{shape.filters}"
    return at_least(3, what, milliseconds["ours"], "tril(AᵀA)B in one product", milliseconds["triangle"])


def agree(layer: HebbianConv2d, x: Tensor, step: tuple[Tensor, Tensor]) -> None:
    """What is compared must give the same output and update."""
    torch.testing.assert_close(layer(x), step[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.update, step[1], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main(measure)
