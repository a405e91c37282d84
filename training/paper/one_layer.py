"""The paper's table 4: what one layer, conv6's first, learns in an epoch by each rule."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from training.config import Config
from training.data import DataError
from training.finetune import nesterov
from training.hah import COST_WEIGHTS, HaHConv2d, HebbianAntiHebbian
from training.hebbian import HebbianConv2d, Pretraining
from training.nets.backbones import BACKBONES, Linear, convolve
from training.paper.convergence import linear_accuracy
from training.pixels import batches
from training.protocol import derived_seed
from training.rules import HAVE_TEMPERATURE
from training.run import Run, learn, positions_of


def layer(run: Run) -> Pretraining | HebbianAntiHebbian:
    """What learns conv6's first layer alone as the run's configuration has it."""
    config, plan = run.config, BACKBONES["conv6"].convolutions[0]
    torch.manual_seed(derived_seed(config.seed, 1))
    if config.rule == "hah":
        return HaHLayer(plan.channels, plan.kernel, len(run.classes), config, run.device)
    hyper = {"temperature": config.temperature} if config.rule in HAVE_TEMPERATURE else {}
    only = HebbianConv2d(3, plan.channels, plan.kernel, rule=config.rule, hyper=hyper)
    network = nn.Sequential(only).to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Pretraining(network, lr=config.hebbian_lr, adaptive=config.hebbian_adaptive)


class Quadrants(nn.Module):
    """The mean over each quarter of the map (Coates, Ng, Lee, AISTATS 2011): (B, Q, H, W) -> (B, 4Q)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, H, W) -> (B, 4Q)."""
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


class HaHLayer(HebbianAntiHebbian):
    """HebbianAntiHebbian of a single layer, with its cost, below a linear classifier of its quadrants."""

    def __init__(self, filters: int, kernel: int, classes: int, config: Config, device: torch.device) -> None:
        only = HaHConv2d(3, filters, kernel)
        self.layers = {"0": only}
        self.cost_weights = COST_WEIGHTS
        model = nn.Sequential(only, Quadrants(), Linear(4 * filters, classes))
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.lr, self.epochs, self.schedule = config.hah_lr, config.epochs, config.schedule
        self.optimizer = nesterov(self.model, config.hah_lr, config.momentum)

    def weights(self) -> dict[str, Tensor]:
        """The state of a plain convolution, alone in a Sequential."""
        return {"0.weight": self.layers["0"].filters().detach()}


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
