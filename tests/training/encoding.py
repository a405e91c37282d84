"""Codes of a run's images without an artifact."""

import numpy as np

from index.codes import Codes
from training.data import Positions
from training.nets.encoder import Encoder
from training.pixels import each_batch, stream
from training.run import Run


def encode(run: Run, encoder: Encoder, positions: Positions) -> Codes:
    """Of the images at `positions` (n, bits / 8), as the training sees them."""
    streamed = stream(run.pixels, each_batch("encoding", positions, 256, run.home), run.device)
    return np.concatenate([encoder.encode(pixels) for _, pixels in streamed])
