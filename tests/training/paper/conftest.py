"""A small CIFAR-10, and what learns from it."""

import numpy as np
import pytest
from PIL import Image

from training.config import configure
from training.paper.durations import Sampling
from training.pixels import load

NOTHING = Sampling(rounds=2, batches=2, two_phase_batches=1)


@pytest.fixture(autouse=True)
def _narrow(narrow):
    """Small networks in all tests of this folder."""


@pytest.fixture(scope="session")
def cifar(tmp_path_factory):
    """Red and blue noise as CIFAR-10's image folders: 40 training and 4 test images, 8 to validate."""
    root, random = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 2)):
        for channel, name in ((0, "red"), (2, "blue")):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 100, (32, 32, 3), np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def configured(rule, cifar, **more):
    chosen = {"rule": rule, "dataset": "cifar10", "data": str(cifar), "device": "cpu", "precision": "fp32"}
    return configure(chosen | {"epochs": 2, "batch_size": 8} | more)


@pytest.fixture(scope="session")
def loaded(cifar):
    return load(configured("hpca_fh", cifar))
