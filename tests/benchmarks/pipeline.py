"""What surrounds the networks: encoding a database, and decoding a folder that does not fit into memory."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2.functional import center_crop, resize

from tests.benchmarks.harness import Report, Row, Spread, interleaved, main
from tests.training.encoding import encode
from training import data
from training.device import choose_device
from training.nets.encoder import Encoder
from training.pixels import PixelsOnDemand

PHOTO = (500, 375)  # about what ImageNet's images measure


@dataclass(frozen=True)
class Source:
    """The part of a run that encoding looks at."""

    pixels: Tensor
    home: torch.device
    device: torch.device


def measure(tiny: bool) -> Report:
    """conv6 over images in memory; JPEGs of 500 × 375 at 224 × 224."""
    torch.set_flush_denormal(True)
    device = torch.device("cpu") if tiny else choose_device("auto")
    images, photos, rounds = (40, 8, 1) if tiny else (4096, 256, 5)
    return Report(
        benchmark="pipeline",
        sizes={"images": images, "photos": photos, "photo": PHOTO, "threads": os.cpu_count()},
        rows=[encoding(images, rounds, device), decoding(photos, rounds)],
        tiny=tiny,
    )


def encoding(count: int, rounds: int, device: torch.device) -> Row:
    """Pixels to packed codes, against features and head alone on an input that is ready."""
    encoder = Encoder.initial("conv6").to(device)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, device=device)
    positions = np.arange(count)
    ready = [encoder.normalise(batch) for batch in pixels.split(256)]

    @torch.inference_mode()
    def forward() -> None:
        for batch in ready:
            encoder.head.hash(encoder.features(batch).flatten(1))
        if device.type == "cuda":
            torch.cuda.synchronize()

    source = Source(pixels, device, device)
    milliseconds = interleaved(
        {"ours": partial(encode, source, encoder, positions), "forward": forward}, rounds=rounds
    )
    rates = {
        name: Spread.of([1e3 * count / value for value in values]) for name, values in milliseconds.items()
    }
    share = rates["ours"].median / rates["forward"].median
    what = "encoding a database, conv6"
    return Row(
        what, rates["ours"], "1/s", share, "≥ 0.85 of it", share >= 0.85, "the forward pass", rates["forward"]
    )


def decoding(count: int, rounds: int) -> Row:
    """Our reader, the one that the service too reads through, against torchvision's in as many threads."""
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.jpg" for number in range(count)]
        random = np.random.default_rng(0)
        for file in files:
            coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            coarse.resize(PHOTO, Image.Resampling.BICUBIC).save(file, quality=90)
        pixels = PixelsOnDemand(data.folder(Path(folder)), 224)
        groups = torch.arange(count).split(64)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            milliseconds = interleaved(
                {
                    "ours": lambda: [len(found) for _, found in pixels.ahead(groups)],
                    "torchvision": lambda: list(pool.map(by_torchvision, files)),
                },
                rounds=rounds,
            )
    ours, theirs = (
        Spread.of([1e3 * count / value for value in milliseconds[name]]) for name in ("ours", "torchvision")
    )
    share = ours.median / theirs.median
    return Row("decoding ahead", ours, "1/s", share, "", None, "torchvision, decode and resize", theirs)


def by_torchvision(file: Path) -> Tensor:
    """The centre square of a JPEG at 224 × 224."""
    image = decode_jpeg(read_file(str(file)), ImageReadMode.RGB)
    return resize(center_crop(image, [min(image.shape[1:])] * 2), [224, 224], antialias=True)


if __name__ == "__main__":
    main(measure)
