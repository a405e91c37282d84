"""The convolutional networks, one table row each: the paper's conv6, conv10, vgg11, and VGG's deeper ones.

Every layer computes in the precision of what comes in: weights are 32 bits wide and cast on the way.
Layers and their order: Lagani et al., Neurocomputing 2024, doi 10.1016/j.neucom.2024.127867; vgg13, vgg16 and
vgg19 have the convolutions of Simonyan and Zisserman, arXiv 1409.1556, in vgg11's order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

IntPair = int | tuple[int, ...]


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


class Conv(NamedTuple):
    """One convolution with its ReLU, batch norm and max pool (pool 1: none)."""

    channels: int
    kernel: int
    padding: int = 0
    pool: int = 1


ConvFactory = Callable[..., Conv2d]  # called with (channels in, channels out, kernel, padding=)


@dataclass(frozen=True)
class Plan:
    """What a backbone is made of, and the input size that the paper feeds it."""

    image_size: int
    convolutions: tuple[Conv, ...]
    norm_before_pool: bool = False
    hidden: int = 4096
    rescaled: int = 3  # last layers, the hidden one included, whose batch norm may be RescaledBatchNorm2d


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
}


def map_size(backbone: str, image_size: int) -> int:
    """Side of the last feature map; below 1 the images are too small for the network."""
    side = image_size
    for conv in BACKBONES[backbone].convolutions:
        side = (side + 2 * conv.padding - conv.kernel + 1) // conv.pool
        if side < 1:
            return 0
    return side


def smallest_image(backbone: str) -> int:
    """The smallest image size, in pixels, that leaves a feature map of at least 1 × 1."""
    return next(size for size in range(1, 1000) if map_size(backbone, size) >= 1)


def feature_count(backbone: str, image_size: int) -> int:
    """Length of the flattened convolutional features."""
    return BACKBONES[backbone].convolutions[-1].channels * map_size(backbone, image_size) ** 2


def features(backbone: str, conv: ConvFactory = Conv2d, *, rescale: bool = False) -> nn.Sequential:
    """The convolutional part: images (B, 3, S, S) -> feature maps (B, C, s, s)."""
    plan = BACKBONES[backbone]
    blocks, channels = [], 3
    for number, layer in enumerate(plan.convolutions):
        filters = conv(channels, layer.channels, layer.kernel, padding=layer.padding)
        norm = _norm(rescale and len(plan.convolutions) - number < plan.rescaled, layer.channels)
        pool = nn.MaxPool2d(layer.pool) if layer.pool > 1 else nn.Identity()
        after = (norm, pool) if plan.norm_before_pool else (pool, norm)
        blocks.append(nn.Sequential(filters, nn.ReLU(inplace=True), *after))
        channels = layer.channels
    return nn.Sequential(*blocks)


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
