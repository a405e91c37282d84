"""The paper's table 4: what one layer, conv6's first, learns in an epoch by each rule."""

from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor, nn

from training.config import Config
from training.data import DataError
from training.learning.by_rule import Learner
from training.learning.hah import HaHConv2d, HebbianAntiHebbian
from training.learning.hebbian import Pretraining, layers_of
from training.learning.together import ALONE, Alone
from training.nets.backbones import BACKBONES, Linear, convolve
from training.paper.convergence import linear_accuracy
from training.pixels import batches
from training.protocol import derived_seed
from training.run import Run, learn, positions_of

FIRST = BACKBONES["conv6"].convolutions[0]


def layer(run: Run) -> Learner:
    """What learns conv6's first layer alone as the run's configuration has it."""
    config = run.config
    torch.manual_seed(derived_seed(config.seed, 1))
    if config.rule == "hah":
        return HaHLayer.configured(config, len(run.classes), run.device)
    network = nn.Sequential(layers_of(config)(3, FIRST.channels, FIRST.kernel))
    network.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Pretraining(network, lr=config.hebbian_lr, adaptive=config.hebbian_adaptive)


class Quadrants(nn.Module):
    """The mean over each quarter of the map (Coates, Ng, Lee, AISTATS 2011): (B, Q, H, W) -> (B, 4Q)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, H, W) -> (B, 4Q)."""
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


class HaHLayer(HebbianAntiHebbian):
    """HebbianAntiHebbian of a single layer, with its cost, below a linear classifier of its quadrants."""

    @classmethod
    def configured(cls, config: Config, classes: int, device: torch.device, workers: Alone = ALONE) -> Self:
        """Learning of a new layer, alone in a Sequential, as the configuration has it."""
        only = nn.Sequential(HaHConv2d(3, FIRST.channels, FIRST.kernel))
        model = nn.Sequential(only, Quadrants(), Linear(4 * FIRST.channels, classes))
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(only, model, config, workers=workers)


def layer_readout(run: Run) -> float:
    """What one epoch taught a layer: ReLU of its projections, the mean over each of the four quadrants, and
    ridge regression from all labels of the training images; accuracy on the validation images.

    Images are whitened where the rule's configuration says so. Test images take no part.
    """
    if not len(run.split.validation):
        raise DataError(f"{run.images.where}: no labelled images to validate on; add some")
    learner, pool = layer(run), Quadrants()
    seed = derived_seed(run.config.seed, 2, 0)
    torch.manual_seed(seed)
    positions = positions_of(run, learner)
    learn(run, learner, 0, batches(positions, run.config.batch_size, seed, run.home))
    filters = learner.weights()["0.weight"]

    def features(groups: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for at, images in run.inputs(groups):
            with torch.no_grad():
                yield at, pool(convolve(images, filters.to(images.dtype)).relu())

    return linear_accuracy(run, features, run.split.training, None)
