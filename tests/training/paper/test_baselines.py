"""Chance and raw pixels: what the methods are compared with."""

import numpy as np
import pytest

from training.config import configure
from training.paper.baselines import untrained
from training.paper.work import smaller
from training.pixels import load
from training.run import Run

pytestmark = pytest.mark.long

SMALL = {"dataset": "digits", "precision": "fp32", "epochs": 1, "finetune_epochs": 2, "head_epochs": 2}


@pytest.fixture(scope="module")
def loaded():
    return smaller(load(configure(SMALL)), 120)


def test_chance_is_what_random_codes_reach(loaded):
    run = Run(configure(SMALL), None, loaded)
    measured = untrained("chance", run)
    labels = run.images.labels
    rng = np.random.default_rng(0)
    values = []
    for _ in range(60):
        order = rng.permutation(run.split.pretraining)
        for label in labels[run.split.queries]:
            relevant = labels[order] == label
            values.append((np.cumsum(relevant) / np.arange(1, len(order) + 1))[relevant].mean())
    assert measured.figures["map"] == pytest.approx(np.mean(values), rel=0.03)
    assert (measured.figures["top1"], measured.figures["top5"]) == (0.1, 0.5)


def test_pixels_of_digits_say_more_than_chance(loaded):
    run = Run(configure(SMALL), None, loaded)
    pixels, chance = (untrained(method, run).figures for method in ("pixels", "chance"))
    assert pixels["map"] > 2 * chance["map"]
