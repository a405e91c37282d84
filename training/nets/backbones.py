"""The convolutional networks, one table row each: the paper's conv6, conv10, vgg11, VGG's deeper ones, three
wide layers, and a residual network.

Every layer computes in the precision of what comes in: weights are 32 bits wide and cast on the way.
Layers and their order: Lagani et al., Neurocomputing 2024, doi 10.1016/j.neucom.2024.127867; vgg13, vgg16 and
vgg19 have the convolutions of Simonyan and Zisserman, arXiv 1409.1556, in vgg11's order; soft3 is SoftHebb's
network for CIFAR-10 (Journé et al., arXiv 2209.11883).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, linear, pad

from training.nets import pretrained

IntPair = int | tuple[int, ...]
BESIDE = "+"  # between names of networks whose features lie beside each other


def convolve(x: Tensor, w: Tensor, stride: IntPair = 1, padding: IntPair = 0) -> Tensor:
    """A convolution; one matrix product where the kernel is the whole map, which is 5 × faster on a CPU."""
    if x.shape[2:] == w.shape[2:] and padding in (0, (0, 0)):
        return linear(x.flatten(1), w.flatten(1))[:, :, None, None]
    return conv2d(x, w, None, stride, padding)


class Conv2d(nn.Conv2d):
    """nn.Conv2d without bias, through `convolve`."""

    padding: tuple[int, ...]

    def __init__(self, channels: int, filters: int, kernel: int | tuple[int, int], **shape: Any) -> None:
        super().__init__(channels, filters, kernel, bias=False, **shape)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, Q, H', W')."""
        return convolve(x, self.weight.to(x.dtype), self.stride, self.padding)


class Linear(nn.Linear):
    """nn.Linear in the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) -> (B, Q)."""
        return linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class RescaledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm after which channels still vary as much, beside each other, as before: each is multiplied by
    √((σ²_c + ε) / (mean σ² + ε)), of the running variances σ² that the forward pass leaves.

    As in Lagani et al.'s code, for the networks that learn by their rules; the text does not mention it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, Q, H, W) -> the same shape."""
        normed = super().forward(input)
        assert self.running_var is not None
        variance = self.running_var + self.eps
        return normed * (variance / variance.mean()).sqrt().view(-1, 1, 1).to(normed.dtype)


class Residual(nn.Sequential):
    """Layers to whose output their input is added, averaged to its size, and with zeros for new channels.

    Each block's own part leaves its batch norm with variance 1: after k blocks there is at most k + 1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, Q, H', W') with Q ≥ C."""
        output = super().forward(input)
        if input.shape[2:] != output.shape[2:]:
            input = adaptive_avg_pool2d(input, output.shape[2:])
        return output + pad(input, (0, 0, 0, 0, 0, output.shape[1] - input.shape[1]))


class Power(nn.Module):
    """Raises what is not negative to a power."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return x.pow(self.power)


class AtMost(nn.Module):
    """Averages a map of more than side × side to that."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, H) -> (B, C, h, h), h = min(H, side)."""
        return x if x.shape[-1] <= self.side else adaptive_avg_pool2d(x, self.side)


class Beside(nn.ModuleList):
    """Networks that see the same images; their features lie one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, F), F the sum of all."""
        return torch.cat([network(x).flatten(1) for network in self], dim=1)


class Conv(NamedTuple):
    """One convolution with its ReLU, batch norm and pool."""

    channels: int
    kernel: int
    padding: int = 0
    pool: int = 1  # how many times smaller the map becomes; 1: there is no pool
    window: int = 0  # of the pool, the same on both sides where it overlaps; 0: as `pool`
    mean: bool = False  # what the pool takes, instead of the maximum
    skip: bool = False  # whether the block's input is added to its output
    power: float = 1.0  # to which what the ReLU leaves is raised


ConvFactory = Callable[..., Conv2d]  # called with (channels in, channels out, kernel, padding=)


@dataclass(frozen=True)
class Plan:
    """What a backbone is made of, and the input size that the paper feeds it."""

    image_size: int
    convolutions: tuple[Conv, ...]
    norm_before_pool: bool = False
    hidden: int = 4096
    # Of SoftHebb in each layer, as its authors found them: learning rate and temperature, as multiples of
    # what the settings say. None: the same in all.
    soft: tuple[tuple[float, float], ...] | None = None
    batch_size: int = 64  # in pre-training
    enough: int = 0  # images that pre-training learns from, however many there are; 0: all
    most_side: int = 0  # of the last map, which is averaged to that, so that features stay few; 0: any
    rescaled: int = 3  # last layers, the hidden one included, whose batch norm may be RescaledBatchNorm2d
    rates: Mapping[str, float] = field(default_factory=dict)  # of rules whose own learning rate is too much


def _vgg(*channels_or_pool: int | str) -> Plan:
    layers: list[Conv] = []
    for entry in channels_or_pool:
        if isinstance(entry, int):
            layers.append(Conv(entry, 3, padding=1))
        else:
            layers[-1] = layers[-1]._replace(pool=2)
    return Plan(224, tuple(layers), norm_before_pool=True, rescaled=1)


BACKBONES: dict[str, Plan] = {
    "conv6": Plan(32, (Conv(96, 5, pool=2), Conv(128, 3), Conv(192, 3, pool=2), Conv(256, 3))),
    "conv10": Plan(
        210,
        (
            Conv(96, 7, pool=3),
            Conv(128, 3),
            Conv(192, 3, pool=2),
            Conv(192, 3),
            Conv(256, 3, pool=2),
            Conv(256, 3),
            Conv(384, 3, pool=2),
            Conv(512, 3),
        ),
    ),
    "vgg11": _vgg(64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg13": _vgg(64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg16": _vgg(64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M"),
    "vgg19": _vgg(64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"),
    # SoftHebb's network with half the filters in the last layer and a quarter of its map: a fifth of the
    # time, and as good once the codes are learned.
    "soft3": Plan(
        32,
        (
            Conv(96, 5, padding=2, pool=2, window=4, power=0.7),
            Conv(384, 3, padding=1, pool=2, window=4, power=1.4),
            Conv(768, 3, padding=1, pool=2, mean=True),
        ),
        hidden=512,
        soft=((1, 1), (1 / 16, 1.54), (1 / 8, 4)),
        batch_size=10,
        most_side=2,
        enough=15_000,
        rescaled=0,
    ),
    # Small enough to learn from pixels for an hour on two cores.
    "conv7": Plan(
        32,
        (
            Conv(24, 3, padding=1),
            Conv(32, 3, padding=1, pool=2),
            Conv(32, 3, padding=1),
            Conv(128, 3, padding=1, pool=2),
            Conv(128, 3, padding=1),
            Conv(128, 3, padding=1, pool=2),
            Conv(128, 3, padding=1),
        ),
        hidden=512,
        most_side=2,
        rescaled=0,
    ),
    "resnet9": Plan(
        32,
        (
            Conv(96, 5, padding=2, pool=2, window=4),
            Conv(128, 3, padding=1, skip=True),
            Conv(128, 3, padding=1, skip=True),
            Conv(256, 3, padding=1, pool=2, window=4, skip=True),
            Conv(256, 3, padding=1, skip=True),
            Conv(256, 3, padding=1, skip=True),
            Conv(512, 3, padding=1, pool=2, mean=True, skip=True),
            Conv(512, 3, padding=1, skip=True),
        ),
        hidden=512,
        most_side=4,
        rescaled=0,
        # What skips add up makes HPCA's products larger: with 0.06 the weights of the fourth layer diverge.
        rates={"hpca": 6e-3, "hpca_fh": 6e-3},
    ),
}


def together(*backbones: str) -> str:
    """The name of networks whose features lie beside each other. Only an encoder has such a one."""
    return BESIDE.join(backbones)


def parts(backbone: str) -> list[str]:
    """The inverse: the networks by their own names."""
    return backbone.split(BESIDE)


def names(backbone: str) -> bool:
    """Whether there is such a network, or, of timm's, may be one."""
    return backbone in BACKBONES or pretrained.is_pretrained(backbone)


def native_size(backbone: str) -> int:
    """The image size, in pixels, that the network was made for."""
    if pretrained.is_pretrained(backbone):
        return pretrained.about(backbone).image_size
    return BACKBONES[backbone].image_size


def map_size(backbone: str, image_size: int) -> int:
    """Side of the last feature map; below 1 the images are too small for the network."""
    side = image_size
    for conv in BACKBONES[backbone].convolutions:
        side = (side + 2 * conv.padding - conv.kernel + 1) // conv.pool
        if side < 1:
            return 0
    return min(side, BACKBONES[backbone].most_side or side)


def smallest_image(backbone: str) -> int:
    """The smallest image size, in pixels, that leaves a feature map of at least 1 × 1."""
    return next(size for size in range(1, 1000) if map_size(backbone, size) >= 1)


def feature_count(backbone: str, image_size: int) -> int:
    """Length of the flattened features."""
    if len(parts(backbone)) > 1:
        return sum(feature_count(part, image_size) for part in parts(backbone))
    if pretrained.is_pretrained(backbone):
        return pretrained.feature_count(backbone, image_size)
    return BACKBONES[backbone].convolutions[-1].channels * map_size(backbone, image_size) ** 2


def features(backbone: str, conv: ConvFactory = Conv2d, *, rescale: bool = False) -> nn.Sequential:
    """The convolutional part: images (B, 3, S, S) -> feature maps (B, C, s, s); of timm's networks, which
    pool by themselves, and of several beside each other (B, F)."""
    if len(parts(backbone)) > 1:
        return nn.Sequential(Beside(features(part, conv, rescale=rescale) for part in parts(backbone)))
    if pretrained.is_pretrained(backbone):
        return nn.Sequential(pretrained.network(backbone))
    plan = BACKBONES[backbone]
    blocks, channels = [], 3
    for number, layer in enumerate(plan.convolutions):
        filters = conv(channels, layer.channels, layer.kernel, padding=layer.padding)
        norm = _norm(rescale and len(plan.convolutions) - number < plan.rescaled, layer.channels)
        # The power of a maximum is the maximum of the powers, of a quarter of the values.
        power = [] if layer.power == 1 else [Power(layer.power)]
        after = (norm, _pool(layer)) if plan.norm_before_pool else (_pool(layer), *power, norm)
        block = Residual if layer.skip else nn.Sequential
        blocks.append(block(filters, nn.ReLU(inplace=True), *after))
        channels = layer.channels
    if plan.most_side:
        blocks[-1].append(AtMost(plan.most_side))
    return nn.Sequential(*blocks)


def _pool(layer: Conv) -> nn.Module:
    if layer.pool == 1:
        return nn.Identity()
    window = layer.window or layer.pool
    return (nn.AvgPool2d if layer.mean else nn.MaxPool2d)(window, layer.pool, (window - layer.pool) // 2)


def _norm(rescaled: bool, channels: int) -> nn.BatchNorm2d:
    return RescaledBatchNorm2d(channels) if rescaled else nn.BatchNorm2d(channels)


class Network(nn.Module):
    """Convolutional features and the hidden layer: everything that is pre-trained without labels.

    Without `hidden` the features are all there is. `rescale` keeps the channels' relative variance in the
    batch norms that the backbone's plan says. With `latents` a linear layer to so many follows: what an
    autoencoder's encoder puts out.
    """

    def __init__(
        self,
        backbone: str,
        image_size: int,
        conv: ConvFactory = Conv2d,
        *,
        rescale: bool = False,
        latents: int = 0,
        hidden: bool = True,
    ) -> None:
        super().__init__()
        self.features = features(backbone, conv, rescale=rescale)
        self.features.to(memory_format=torch.channels_last)
        self.hidden = nn.Sequential()
        self.latents: nn.Module = nn.Identity()
        if not hidden:
            return
        # Fully connected, as a convolution whose kernel is the whole map: (B, hidden, 1, 1).
        plan, side = BACKBONES[backbone], map_size(backbone, image_size)
        filters = conv(plan.convolutions[-1].channels, plan.hidden, side)
        norm = _norm(rescale and plan.rescaled > 0, plan.hidden)
        self.hidden = nn.Sequential(filters, nn.ReLU(inplace=True), norm)
        if latents:
            self.latents = Linear(plan.hidden, latents)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) -> hidden activations (B, hidden), or latents (B, latents), or
        flattened features (B, F)."""
        return self.latents(self.hidden(self.features(x)).flatten(1))
