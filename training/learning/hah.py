"""Supervised learning with a Hebbian and anti-Hebbian cost at each of the first layers.

Source: Cekic, Bakiskan, Madhow, "Neuro-inspired deep neural networks with sparse, strong activations",
ICIP 2022, arXiv 2202.13074; what it leaves open is as in the authors' code (github.com/metehancekic/HaH):
each cost moves its own layer's filters only, and the defaults below are theirs for VGG16 on CIFAR-10, where
six of the thirteen convolutions learn this way. They use Adam; here it is SGD, as in the fine-tuning.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.functional import cross_entropy, max_pool2d

from training.config import Config
from training.learning.finetune import Batch, Classifier, Descent
from training.learning.together import ALONE, Alone
from training.nets.backbones import BACKBONES, Conv2d, Network, convolve

COST_WEIGHTS = (0.0045, 0.0025, 0.0013, 0.001, 0.0008, 0.0005)  # of the first layers, from the input on


def hebbian_anti_hebbian_cost(activations: Tensor, *, share: float = 0.1, anti: float = 0.1) -> Tensor:
    """λ · mean of the others − mean of the K = ⌈share · Q⌉ strongest of the Q neurons at a location, averaged
    over all locations: non-negative activations (B, Q, H, W) -> a number, in 32 bits, 0 where there are no
    images. λ is `anti`."""
    a = activations.movedim(1, -1).float()
    strongest = math.ceil(share * a.shape[-1])
    top = a.topk(strongest, dim=-1, sorted=False).values.sum(-1)
    others = (a.sum(-1) - top) / max(1, a.shape[-1] - strongest)
    costs = anti * others - top / strongest
    return costs.sum() / max(1, costs.numel())


def divisive_normalisation(x: Tensor, sigma: float = 0.1) -> Tensor:
    """x / (σ max_hw M + (1 − σ) M), where M (B, 1, H, W) is the mean over channels of the largest activation
    in the 3 × 3 neighbourhood: non-negative (B, Q, H, W) -> the same shape."""
    m = max_pool2d(x, 3, stride=1, padding=1).mean(1, keepdim=True)
    return x / (sigma * m.amax((2, 3), keepdim=True) + (1 - sigma) * m + 1e-7)


def strongest_locations(x: Tensor, share: float = 0.2) -> Tensor:
    """Zero but for the ⌈share · H·W⌉ largest values of each channel of each image, and those equal to the
    smallest of them: (B, Q, H, W) -> the same shape."""
    values = x.detach().flatten(2)
    kept = math.ceil(share * values.shape[2])
    threshold = values.topk(kept, dim=2).values[..., -1]
    return x * (x >= threshold[..., None, None])


class HaHConv2d(Conv2d):
    """A convolution with w/‖w‖, then ReLU, divisive normalisation and threshold.

    In training mode it leaves the cost of its rectified projections in `cost`. It has Conv2d's state.
    """

    cost: Tensor | None = None

    def filters(self) -> Tensor:
        """The filters with which a plain convolution gives this layer's projections: w/‖w‖."""
        return self.weight / (self.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, Q, H', W')."""
        activations = convolve(x, self.filters().to(x.dtype), self.stride, self.padding).relu()
        self.cost = hebbian_anti_hebbian_cost(activations) if self.training else None
        return strongest_locations(divisive_normalisation(activations))


class NoNorm(nn.BatchNorm2d):
    """Batch norm's state and no effect: the layer before it has normalised, the plain network's will not."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, Q, H, W), as it is."""
        return input


def with_costs(backbone: str, image_size: int, layers: int, *, rescale: bool = False) -> Network:
    """A network whose first `layers` convolutions are HaHConv2d without batch norm."""
    network = Network(backbone, image_size, rescale=rescale)
    for block in list(network.features.children())[:layers]:
        assert isinstance(block, nn.Sequential)
        for at, layer in enumerate(block):
            if isinstance(layer, Conv2d):
                channels, filters = layer.in_channels, layer.out_channels
                block[at] = HaHConv2d(channels, filters, layer.kernel_size[0], padding=layer.padding)
            elif isinstance(layer, nn.BatchNorm2d):
                block[at] = NoNorm(layer.num_features)
    network.features.to(memory_format=torch.channels_last)
    return network


class HebbianAntiHebbian(Descent):
    """Learning of the classes by `model`, of which `network` is the part to be kept: SGD with Nesterov
    momentum on the cross-entropy, to whose gradient for a HaHConv2d's filters its own cost's is added.

    `cost_weights` has one entry for each such layer, the paper's α; further entries are unused.
    A rate of 1e-3 to 3e-3 learns; 1e-2 does not, with or without costs (2,000 images of CIFAR-10, conv6).
    """

    from_labels: ClassVar = True
    searched: ClassVar[tuple[str, ...]] = ("hah_lr",)
    what, rate = "Hebbian/anti-Hebbian training", "hah_lr"

    def __init__(
        self,
        network: nn.Module,
        model: nn.Module,
        config: Config,
        cost_weights: Sequence[float] = COST_WEIGHTS,
        workers: Alone = ALONE,
    ) -> None:
        super().__init__(model, config, lr=config.hah_lr, epochs=config.epochs, workers=workers)
        self.network, self.cost_weights = network, cost_weights
        self.layers = {name: m for name, m in network.named_modules() if isinstance(m, HaHConv2d)}

    @classmethod
    def configured(cls, config: Config, classes: int, device: torch.device, workers: Alone = ALONE) -> Self:
        """Learning of a new network, below a linear classifier, as the configuration has it."""
        network = with_costs(
            config.backbone, config.image_size, len(COST_WEIGHTS), rescale=config.norm_rescale
        )
        model = Classifier(network, BACKBONES[config.backbone].hidden, classes, dropout=0.0).to(device)
        return cls(network, model, config, workers=workers)

    def gradients(self, batch: Batch) -> Tensor:
        """Leave the gradient in every parameter; returns the cross-entropy, or this worker's part of it."""
        inputs, labels = batch
        total = self.workers.part(len(inputs)).total
        share = len(inputs) / total
        loss = cross_entropy(self.model(inputs).float(), labels, reduction="sum") / total
        local: list[tuple[Tensor, Tensor]] = []
        for layer, alpha in zip(self.layers.values(), self.cost_weights, strict=False):
            assert layer.cost is not None  # the forward pass above set it
            (gradient,) = grad(alpha * share * layer.cost, layer.weight, retain_graph=True)
            local.append((layer.weight, gradient))
            layer.cost = None
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for weight, gradient in local:
            assert weight.grad is not None
            weight.grad.add_(gradient)
        self.add_gradients()
        return loss.detach()

    def weights(self) -> dict[str, Tensor]:
        """The state of a plain Network whose convolutions give the same projections: filters divided by their
        norms. Divisive normalisation and threshold are not part of it, and the batch norm that stands there
        instead has learned nothing: fine-tuning has to follow."""
        state = self.network.state_dict()
        return state | {f"{name}.weight": layer.filters().detach() for name, layer in self.layers.items()}
