"""Peak memory of one layer's training step, vgg11 at 224 × 224, against patches materialised.

Each step runs in a process of its own, whose peak the kernel (on a GPU: torch) counts.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks.harness import Report, Row, Spread, main
from tests.benchmarks.layers import STEPS, Shape, shapes
from tests.benchmarks.unfolded import in_one_copy
from training.device import choose_device
from training.learning.hebbian import HebbianConv2d

MEGABYTE = 2**20


def measure(tiny: bool) -> Report:
    """Every convolution of vgg11 but the first, whose input is nothing beside its output."""
    batch, device = (1, "cpu") if tiny else (64, choose_device("auto").type)
    wanted = shapes("vgg11")[-1:] if tiny else list(dict.fromkeys(shapes("vgg11")[1:]))
    rows = [compare(rule, shape, batch, device) for rule in STEPS for shape in wanted]
    return Report(benchmark="memory", sizes={"batch": batch, "device": device}, tiny=tiny, rows=rows)


def compare(rule: str, shape: Shape, batch: int, device: str) -> Row:
    """Input, output, weights and all that lies between, in both forms."""
    ours, unfolded = (peak(form, rule, shape, batch, device) for form in ("ours", "unfolded"))
    ratio, goal = unfolded / ours, 5 if shape.channels == shape.filters else 3.7
    return Row(
        what=f"{rule.upper()} {shape}",
        ours=Spread.of([ours]),
        unit="MB",
        figure=ratio,
        target=f"≥ {goal:g} × less",
        met=ratio >= goal,
        against="patches materialised",
        baseline=Spread.of([unfolded]),
    )


def peak(form: str, rule: str, shape: Shape, batch: int, device: str) -> float:
    """MB at the step's peak."""
    sizes = (shape.channels, shape.filters, shape.kernel, shape.side, shape.padding, batch)
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.memory",
        "--step",
        form,
        rule,
        device,
        *map(str, sizes),
    ]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@torch.no_grad()
def step(form: str, rule: str, device: str, shape: Shape, batch: int) -> float:
    """Run one step in this process; MB at its peak, input and weights included."""
    layer = HebbianConv2d(
        shape.channels, shape.filters, shape.kernel, rule=f"{rule}_fh", padding=shape.padding
    ).to(device)

    def run(x: Tensor) -> object:
        return layer(x) if form == "ours" else STEPS[rule](x, layer.weight, in_one_copy, shape.padding)

    def images(count: int) -> Tensor:
        # each form gets the layout that it wants, so that neither has to copy it
        layout = torch.channels_last if form == "ours" else torch.contiguous_format
        x = torch.zeros(count, shape.channels, shape.side, shape.side, device=device)
        return x.uniform_().contiguous(memory_format=layout)

    run(images(1))  # libraries that load and threads that start are not the step's
    layer.update = None
    x = images(batch)
    held = sum(tensor.numel() * tensor.element_size() for tensor in (x, layer.weight))
    return (held + grown(device, lambda: run(x))) / MEGABYTE


def grown(device: str, run: Callable[[], object]) -> int:
    """Bytes that the process needed at most, beyond what it has."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, at what is resident now
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(what: str) -> int:
    """Bytes that the kernel counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{what}:"))


def one_step(form: str, rule: str, device: str, *sizes: str) -> None:
    """What a process of its own does: print its peak."""
    channels, filters, kernel, side, padding, batch = map(int, sizes)
    print(step(form, rule, device, Shape(channels, filters, kernel, side, padding), batch))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--step", nargs="+")
    asked, _ = parser.parse_known_args()
    if asked.step:
        one_step(*asked.step)
    else:
        main(measure)
