"""What experiments share: folders for checkpoints, fewer images, and how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from index.items import UNLABELLED
from index.locking import locked
from training.config import Config
from training.paper.cells import digest
from training.pixels import Loaded, PixelsOnDemand
from training.protocol import label_subset

QUICK_IMAGES = 1200  # of what is trained on and of what is asked, in --quick


def work_folder(config: Config, loaded: Loaded, work: Path) -> Path:
    """Where checkpoints of a configuration and these images lie."""
    return work / f"{digest(config)}-{loaded.images.fingerprint()[:8]}"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """`folder` is there, and no other process has it: one with the same `--work` waits until we are done."""
    with locked(folder.with_name(f"{folder.name}.lock"), wait=True):
        folder.mkdir(parents=True, exist_ok=True)
        yield


def smaller(loaded: Loaded, images: int) -> Loaded:
    """About `images` of what is trained on and of what is asked, each class with its share."""
    found, pixels, skipped, _ = loaded
    labels, queries = found.labels, found.queries
    parts = [np.ones(len(found), bool)] if queries is None else [queries, ~queries]
    kept = np.zeros(len(found), bool)
    for part in parts:
        members = np.flatnonzero(part & (labels != UNLABELLED))
        kept[members[label_subset(labels[members], min(1.0, images / len(members)), seed=0)]] = True
    positions = np.flatnonzero(kept)
    chosen = found.select(positions)
    if isinstance(pixels, PixelsOnDemand):
        return Loaded(chosen, PixelsOnDemand(chosen, pixels.size), skipped)
    return Loaded(chosen, pixels[torch.from_numpy(positions)], skipped)


class Countdown:
    """How many pieces of a work are left, and for about how long, if they take as long as those before."""

    def __init__(self, pieces: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.pieces, self.clock = pieces, clock
        self.done, self.begin = 0, clock()

    def one_done(self, left: int) -> str:
        """`2 of 5 cells, about 3 min left`: after one more piece, with `left` to come."""
        self.done += 1
        rest = (self.clock() - self.begin) / self.done * left
        return f"{self.done} of {self.done + left} {self.pieces}, about {rest / 60:.0f} min left"
