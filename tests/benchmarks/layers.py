"""A layer's training step, forward and update: the fast rules against the paper's form and the originals."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from tests.benchmarks import unfolded
from tests.benchmarks.harness import Report, Row, at_least, interleaved, main
from tests.benchmarks.unfolded import by_unfold, in_one_copy
from training.device import keep_freed_memory, multiplies_bf16
from training.learning.hebbian import HebbianConv2d
from training.nets.backbones import BACKBONES, map_size

STEPS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
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
    padding: int = 0

    def __str__(self) -> str:
        return f"{self.channels}→{self.filters} k{self.kernel} {self.side}²"


def shapes(backbone: str) -> list[Shape]:
    """The convolutions of a backbone at its own image size."""
    found, channels, side = [], 3, BACKBONES[backbone].image_size
    for layer in BACKBONES[backbone].convolutions:
        found.append(Shape(channels, layer.channels, layer.kernel, side, layer.padding))
        channels = layer.channels
        side = (side + 2 * layer.padding - layer.kernel + 1) // layer.pool
    return found


def measure(tiny: bool) -> Report:
    """The four convolutions of conv6 and its fully connected layer, batch 64."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    batch, rounds, neurons = (2, 2, 512) if tiny else (64, 7, 4096)
    rows = [row for rule in STEPS for row in convolutions(rule, batch, rounds)]
    rows.append(fully_connected(batch, rounds, neurons))
    # As in a run. Whoever needs most memory gains most by it: the targets are those of the rows above.
    keep_freed_memory()
    kept = [row for rule in STEPS for row in convolutions(rule, batch, rounds) if "together" in row.what]
    kept.append(fully_connected(batch, rounds, neurons))
    rows += [replace(row, what=f"{row.what}, freed memory kept", target="", met=None) for row in kept]
    return Report(
        benchmark="layers",
        sizes={"batch": batch, "two-phase batch": max(1, batch // TWO_PHASE_SHARE), "rounds": rounds},
        tiny=tiny,
        rows=rows,
    )


def convolutions(rule: str, batch: int, rounds: int) -> list[Row]:
    """Each of conv6's against the patches materialised, and all of them against that and the original."""
    rows = []
    total: dict[str, list[float]] = {}
    for shape in shapes("conv6"):
        milliseconds = compare(rule, STEPS[rule], shape, batch, rounds)
        for name, values in milliseconds.items():
            total[name] = [a + b for a, b in zip(total.get(name, [0.0] * rounds), values, strict=True)]
        what = f"{rule.upper()} {shape}"
        rows.append(at_least(1, what, milliseconds["ours"], "patches materialised", milliseconds["unfolded"]))
    what = f"{rule.upper()}, the four together"
    rows.append(at_least(1.7, what, total["ours"], "patches materialised", total["unfolded"]))
    in_one = at_least(1, what, total["ours"], "materialised in one copy", total["one copy"])
    rows.append(replace(in_one, target="", met=None))
    rows.append(at_least(150, what, total["ours"], "two-phase original", total["two-phase"]))
    if multiplies_bf16(torch.device("cpu")):  # the target is one for AMX, six times as fast in bf16
        rows.append(at_least(4, f"{what}, bf16", total["bf16"], "materialised, fp32", total["unfolded"]))
    return rows


def compare(
    rule: str, step: Callable[..., tuple[Tensor, Tensor]], shape: Shape, batch: int, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds a step of our layer, of the unfolded form, and of the two-phase rule for a whole batch."""
    x = torch.randn(batch, shape.channels, shape.side, shape.side)
    x = x.contiguous(memory_format=torch.channels_last)
    layer = HebbianConv2d(shape.channels, shape.filters, shape.kernel, rule=f"{rule}_fh")
    slow = HebbianConv2d(shape.channels, shape.filters, shape.kernel, rule=rule)
    slow.load_state_dict(layer.state_dict())
    planes, halves = x.contiguous(), x.bfloat16()
    with torch.no_grad():
        for patches_of in (by_unfold, in_one_copy):
            agree(layer, x, step(planes, layer.weight, patches_of))
        few = max(1, batch // TWO_PHASE_SHARE)
        cases = {
            "ours": partial(layer, x),
            "unfolded": partial(step, planes, layer.weight, by_unfold),
            "one copy": partial(step, planes, layer.weight, in_one_copy),
            "two-phase": partial(slow, x[:few]),
        }
        if multiplies_bf16(torch.device("cpu")):  # elsewhere it takes long, and nothing is said of it
            cases["bf16"] = partial(layer, halves)
        milliseconds = interleaved(cases, rounds=rounds)
    milliseconds["two-phase"] = [value * batch / few for value in milliseconds["two-phase"]]
    return milliseconds


def fully_connected(batch: int, rounds: int, neurons: int) -> Row:
    """HPCA of conv6's fully connected layer, or of fewer neurons: in blocks against one triangle product."""
    shape = Shape(256, neurons, map_size("conv6", 32), map_size("conv6", 32))
    x = torch.randn(batch, shape.channels, shape.side, shape.side)
    layer = HebbianConv2d(shape.channels, shape.filters, shape.kernel, rule="hpca_fh")
    with torch.no_grad():
        triangle = partial(unfolded.hpca_step, x, layer.weight, in_one_copy)
        agree(layer, x, triangle())
        milliseconds = interleaved({"ours": partial(layer, x), "triangle": triangle}, rounds=rounds)
    what = f"HPCA fully connected {x[0].numel()}→{shape.filters}"
    return at_least(3, what, milliseconds["ours"], "tril(AᵀA)B in one product", milliseconds["triangle"])


def agree(layer: HebbianConv2d, x: Tensor, step: tuple[Tensor, Tensor]) -> None:
    """What is compared must give the same output and update."""
    torch.testing.assert_close(layer(x), step[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.update, step[1], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main(measure)
