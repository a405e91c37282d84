"""What needs no training, to compare with: codes of the pixels, and chance."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from training.data import Positions
from training.learning.finetune import head_without_labels
from training.nets.encoder import TILE, pack_signs
from training.nets.head import Head
from training.paper.measure import Descriptors, Measured, compare
from training.pixels import stream
from training.run import ITQ_IMAGES, Run

NO_LABELS = "0%"  # as the share of the labels, which these methods do not see
CHANCE, PIXELS = "chance", "pixels"


def untrained(method: str, run: Run) -> Measured:
    """What needs no network: ITQ codes of the standardised pixels, and a ranking at random."""
    images, split, config = run.images, run.split, run.config
    if method == CHANCE:  # all at one distance: their expectation is that of a random order
        queries, database = (_all_alike(images.labels[at]) for at in (split.queries, split.pretraining))
        measured = compare(queries, database, config.seed)
        drawn = {f"top{k}": min(1.0, k / len(images.classes)) for k in (1, 5)}
        return measured._replace(figures=measured.figures | drawn)
    run.model.normalise.fit(run.all_pixels("mean and deviation"))
    rng = np.random.default_rng(config.seed)
    sample = rng.permutation(split.pretraining)[:ITQ_IMAGES]
    head, _ = head_without_labels(torch.cat(list(_pixels(run, sample))).numpy(), config.bits, config.seed)
    queries, database = (_projected(run, head, at) for at in (split.queries, split.pretraining))
    return compare(queries, database, config.seed)


def _all_alike(labels: NDArray[np.int64]) -> Descriptors:
    return Descriptors(np.zeros((len(labels), 1), np.float32), np.zeros((len(labels), 1), np.uint8), labels)


def _projected(run: Run, head: Head, positions: Positions) -> Descriptors:
    """What `head` makes of the pixels at `positions`."""
    with torch.no_grad():
        projections = torch.cat([head.hash(values) for values in _pixels(run, positions)])
    return Descriptors(projections.numpy(), pack_signs(projections), run.images.labels[positions])


def _pixels(run: Run, positions: Positions) -> Iterator[Tensor]:
    """Standardised pixels (b, 3·32·32), larger images reduced."""
    for _, pixels in stream(run.pixels, run.groups(positions), run.device):
        x = run.model.normalise.standardise(pixels)
        if x.shape[-1] > TILE:
            x = interpolate(x, size=(TILE, TILE), mode="bilinear", antialias=True)
        yield x.flatten(1).cpu()
