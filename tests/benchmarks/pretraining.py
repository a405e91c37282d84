"""Pre-training from pixels in memory to learned layers: an epoch of conv6, images a second of vgg11."""

import time
from functools import partial

import torch
from torch import Tensor, nn

from tests.benchmarks.harness import Report, Row, Spread, interleaved, main
from tests.benchmarks.layers import shapes
from training import data
from training.device import activation_type, choose_device, choose_precision, set_up_process
from training.hebbian import HebbianConv2d, Pretraining
from training.nets.backbones import BACKBONES, Network, feature_count
from training.nets.encoder import Normalise

IMAGES, BATCH = 40_000, 64
BLOCK = 64  # neurons of a block in the fully connected layer's cheapest form
DEVICE_LIMIT = 0.5  # seconds an epoch on an H200
FULL_SPEED = 5_000  # vgg11 images a second on an H200


def measure(tiny: bool) -> Report:
    """On the best device there is, in the precision that a run would choose there; on a CPU also in fp32."""
    device = torch.device("cpu") if tiny else choose_device("auto")
    precision = choose_precision("auto", device)
    set_up_process(precision)
    rows = on_gpu(device, precision) if device.type == "cuda" else on_cpu(tiny, device, precision)
    return Report(
        benchmark="pretraining",
        sizes={"images": IMAGES, "batch": BATCH, "rule": "hpca_fh", "device": device.type},
        rows=rows,
        precision=precision,
        tiny=tiny,
    )


def on_cpu(tiny: bool, device: torch.device, precision: str) -> list[Row]:
    """Some batches of an epoch, against their matrix products alone at the speed of a large one."""
    batches, rounds = (1, 1) if tiny else (20, 5)
    whole = IMAGES / BATCH / batches
    dtypes = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if precision == "bf16" else {})
    cases = {"product": partial(large_product, 64 if tiny else 2048)}
    for name, dtype in dtypes.items():
        for part in ("convolutions", "whole network"):
            cases[f"{part}, {name}"] = partial(learn, *learner("conv6", device, part), dtype, batches)
    milliseconds = interleaved(cases, rounds=rounds)
    operations_a_ms = 2 * (64 if tiny else 2048) ** 3 / Spread.of(milliseconds["product"]).median
    rows = []
    for part, limit in (("convolutions", 1.5), ("whole network", 2.0)):
        products = convolution_operations("conv6") + (part != "convolutions") * hidden_operations("conv6")
        alone = Spread.of([IMAGES / BATCH * products / operations_a_ms / 1e3])
        for name in dtypes:
            taken = Spread.of([value * whole / 1e3 for value in milliseconds[f"{part}, {name}"]])
            ratio = taken.median / alone.median
            goal, met = (f"≤ {limit:g} ×", ratio <= limit) if name == "fp32" else ("", None)
            what = f"conv6 epoch, {IMAGES:,} images, {part}, {name}"
            rows.append(Row(what, taken, "s", ratio, goal, met, "its matrix products alone, fp32", alone))
    return rows


def on_gpu(device: torch.device, precision: str) -> list[Row]:
    """Whole epochs of conv6; vgg11 at the speed of the device."""
    dtype = activation_type(precision)
    learning, pixels = learner("conv6", device, "whole network")
    learn(learning, pixels, dtype, IMAGES // BATCH)
    taken = Spread.of(timed(partial(learn, learning, pixels, dtype, IMAGES // BATCH), 5))
    what = f"conv6 epoch, {IMAGES:,} images, {precision}"
    goal, met = f"≤ {DEVICE_LIMIT:g} s on an H200", taken.median <= DEVICE_LIMIT
    rows = [Row(what, taken, "s", taken.median, goal, met)]

    size, batches = 8192, 20
    a = torch.randn(size, size, device=device, dtype=dtype)
    peak = 2 * size**3 / Spread.of(timed(lambda: a @ a, 20)).median
    learning, pixels = learner("vgg11", device, "whole network")
    learn(learning, pixels, dtype, 5)
    seconds = timed(partial(learn, learning, pixels, dtype, batches), 5)
    rate = Spread.of([batches * BATCH / each for each in seconds])
    operations = convolution_operations("vgg11") + hidden_operations("vgg11")
    share = rate.median / BATCH * operations / peak
    what = f"vgg11 224 × 224, {precision}"
    goal, met = f"≥ {FULL_SPEED:,} a second on an H200", rate.median >= FULL_SPEED
    rows.append(Row(what, rate, "images/s", rate.median, goal, met))
    rows.append(
        Row(f"{what}, of the peak of a large product", rate, "images/s", share, "≥ 0.4", share >= 0.4)
    )
    return rows


def learner(backbone: str, device: torch.device, part: str) -> tuple[Pretraining, Tensor]:
    """A network about to learn, and images on its device; the small ones as many as CIFAR-10 trains on."""
    torch.manual_seed(0)
    size = BACKBONES[backbone].image_size
    network: nn.Module = Network(backbone, size, partial(HebbianConv2d, rule="hpca_fh")).to(device)
    count = IMAGES if size == 32 else 20 * BATCH
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=device)
    if part == "convolutions":
        network = network.features
    return Pretraining(network, lr=1e-3, adaptive=True), pixels


def learn(learning: Pretraining, pixels: Tensor, dtype: torch.dtype, batches: int) -> None:
    """So many batches of an epoch, as a run feeds them."""
    device = pixels.device
    normalise = Normalise(whiten=False).to(device)
    positions = torch.randperm(len(pixels))[: batches * BATCH].numpy()
    streamed = data.stream(pixels, data.batches(positions, BATCH, seed=0, device=device), device)
    learning.epoch(normalise(found).to(dtype) for _, found in streamed)


def large_product(size: int) -> Tensor:
    """A product that reaches what the machine's matrix library can do."""
    a = torch.ones(size, size)
    return a @ a


def timed(step: partial[None], rounds: int) -> list[float]:
    """Seconds of each round on a GPU."""
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds


def convolution_operations(backbone: str) -> int:
    """Of a batch: the forward product, the update's, and AᵀA."""
    total = 0
    for shape in shapes(backbone):
        patches = BATCH * (shape.side + 2 * shape.padding - shape.kernel + 1) ** 2
        inputs = shape.channels * shape.kernel**2
        total += 2 * patches * shape.filters * (2 * inputs + shape.filters)
    return total


def hidden_operations(backbone: str) -> int:
    """Of a batch in the fully connected layer, neurons in blocks: forward, AᵀR, tril(AᵀA)B, the residual."""
    inputs = feature_count(backbone, BACKBONES[backbone].image_size)
    return 2 * BACKBONES[backbone].hidden * inputs * (3 * BATCH + BLOCK)


if __name__ == "__main__":
    main(measure)
