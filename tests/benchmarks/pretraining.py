"""Pre-training from pixels in memory to learned layers: an epoch of conv6, images a second of vgg11."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.harness import Report, Row, Spread, interleaved, main
from tests.benchmarks.layers import shapes
from training.device import activation_type, choose_device, choose_precision, set_up_process
from training.learning.hebbian import HebbianConv2d, Pretraining
from training.nets.backbones import BACKBONES, Network, feature_count
from training.nets.encoder import Normalise
from training.pixels import batches, stream

IMAGES, BATCH = 40_000, 64
BLOCK = 64  # neurons of a block in the fully connected layer's cheapest form
PARTS = {"convolutions": 1.5, "whole network": 2.0}  # at most so many times their matrix products


def measure(tiny: bool) -> Report:
    """On the best device there is, in the precision that a run would choose there; on a CPU also in fp32."""
    device = torch.device("cpu") if tiny else choose_device("auto")
    precision = choose_precision("auto", device)
    set_up_process(precision)
    rows = []
    if tiny:
        rows += on_cpu(precision, batches=1, rounds=1, side=64)
        rows += small_images(device, precision, images=8, batch=4)
        rows += large_images(device, precision, backbone="conv6", batches=1, batch=4, side=64)
    elif device.type == "cuda":
        rows += small_images(device, precision, images=IMAGES, batch=BATCH)
        rows += large_images(device, precision, backbone="vgg11", batches=20, batch=BATCH, side=8192)
    else:
        rows += on_cpu(precision, batches=20, rounds=5, side=2048)
    return Report(
        benchmark="pretraining",
        sizes={"images": IMAGES, "batch": BATCH, "rule": "hpca_fh", "device": device.type},
        rows=rows,
        precision=precision,
        tiny=tiny,
    )


def on_cpu(precision: str, *, batches: int, rounds: int, side: int) -> list[Row]:
    """Some batches of a conv6 epoch, against their matrix products alone at the speed of a large one."""
    dtypes = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if precision == "bf16" else {})
    cases = {"product": partial(square_product, torch.ones(side, side))}
    for name, dtype in dtypes.items():
        for part in PARTS:
            learning, pixels = learner("conv6", torch.device("cpu"), batches * BATCH, part)
            cases[f"{part}, {name}"] = partial(learn, learning, pixels, dtype, BATCH)
    milliseconds = interleaved(cases, rounds=rounds)
    operations_a_second = 2e3 * side**3 / Spread.of(milliseconds["product"]).median
    rows = []
    for part, limit in PARTS.items():
        operations = convolution_operations("conv6", BATCH)
        if part == "whole network":
            operations += hidden_operations("conv6", BATCH)
        alone = Spread.of([IMAGES / BATCH * operations / operations_a_second])
        for name in dtypes:
            taken = Spread.of([ms / 1e3 * IMAGES / BATCH / batches for ms in milliseconds[f"{part}, {name}"]])
            ratio = taken.median / alone.median
            goal, met = (f"≤ {limit:g} ×", ratio <= limit) if name == "fp32" else ("", None)
            what = f"conv6 epoch, {IMAGES:,} images, {part}, {name}"
            rows.append(Row(what, taken, "s", ratio, goal, met, "its matrix products alone, fp32", alone))
    return rows


def small_images(device: torch.device, precision: str, *, images: int, batch: int) -> list[Row]:
    """Whole epochs of conv6."""
    learning, pixels = learner("conv6", device, images)
    epoch = partial(learn, learning, pixels, activation_type(precision), batch)
    taken = Spread.of(seconds_of(epoch, device, rounds=5))
    what = f"conv6 epoch, {images:,} images, {precision}"
    return [Row(what, taken, "s", taken.median, "≤ 0.5 s on an H200", taken.median <= 0.5)]


def large_images(
    device: torch.device, precision: str, *, backbone: str, batches: int, batch: int, side: int
) -> list[Row]:
    """Images a second of a backbone, and its share of what a large product reaches."""
    dtype = activation_type(precision)
    product = partial(square_product, torch.ones(side, side, device=device, dtype=dtype))
    peak = 2 * side**3 / Spread.of(seconds_of(product, device, rounds=20)).median
    learning, pixels = learner(backbone, device, batches * batch)
    taken = seconds_of(partial(learn, learning, pixels, dtype, batch), device, rounds=5)
    rate = Spread.of([len(pixels) / seconds for seconds in taken])
    operations = convolution_operations(backbone, batch) + hidden_operations(backbone, batch)
    share = rate.median / batch * operations / peak
    what = f"{backbone}, {pixels.shape[-1]} × {pixels.shape[-1]}, {precision}"
    return [
        Row(what, rate, "1/s", rate.median, "≥ 5,000 on an H200", rate.median >= 5000),
        Row(f"{what}, of a large product's speed", rate, "1/s", share, "≥ 0.4", share >= 0.4),
    ]


def learner(
    backbone: str, device: torch.device, images: int, part: str = "whole network"
) -> tuple[Pretraining, Tensor]:
    """A network about to learn, and images beside it."""
    torch.manual_seed(0)
    size = BACKBONES[backbone].image_size
    network = Network(backbone, size, partial(HebbianConv2d, rule="hpca_fh")).to(device)
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, device=device)
    learns = network.features if part == "convolutions" else network
    return Pretraining(learns, lr=1e-3, adaptive=True), pixels


def learn(learning: Pretraining, pixels: Tensor, dtype: torch.dtype, batch: int) -> None:
    """An epoch, as a run feeds it."""
    device = pixels.device
    normalise = Normalise(whiten=False).to(device)
    groups = batches(np.arange(len(pixels)), batch, seed=0, device=device)
    learning.epoch(0, (normalise(found).to(dtype) for _, found in stream(pixels, groups, device)))


def square_product(a: Tensor) -> Tensor:
    """What the machine's matrix library does best."""
    return a @ a


def seconds_of(step: Callable[[], object], device: torch.device, *, rounds: int) -> list[float]:
    """Of each round, until the device is done; the first is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def convolution_operations(backbone: str, batch: int) -> int:
    """Of a batch: the forward product, the update's, and AᵀA on and below the diagonal."""
    total = 0
    for shape in shapes(backbone):
        patches = batch * (shape.side + 2 * shape.padding - shape.kernel + 1) ** 2
        inputs = shape.channels * shape.kernel**2
        total += patches * shape.filters * (4 * inputs + shape.filters + 1)
    return total


def hidden_operations(backbone: str, batch: int) -> int:
    """Of a batch in the fully connected layer, neurons in blocks: forward, AᵀR, tril(AᵀA)B, the residual."""
    inputs = feature_count(backbone, BACKBONES[backbone].image_size)
    return 2 * BACKBONES[backbone].hidden * inputs * (3 * batch + BLOCK)


if __name__ == "__main__":
    main(measure)
