"""The layer that runs a learning rule, and the pre-training that feeds it batches."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.nets.backbones import Conv2d, Network, convolve
from training.rules import COMPARES_DIRECTIONS, RESPONSES, RULES, rectified


class NotFinite(ArithmeticError):
    """Weights became infinite or NaN; the message names layer, rule and learning rate."""


class HebbianConv2d(Conv2d):
    """A convolution that, in training mode, leaves its rule's update in `update` at each forward pass.

    It has Conv2d's state and nothing else. Weights start uniform in ±1/√M.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int | tuple[int, int],
        *,
        rule: str,
        hyper: dict[str, float] | None = None,
        **shape: Any,
    ) -> None:
        super().__init__(channels, filters, kernel, **shape)
        self.rule = rule
        self.hyper = hyper or {}
        self.update: Tensor | None = None
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)

    def norms(self) -> Tensor | None:
        """Norms ‖b‖ (Q, 1, 1, 1) that the layer divides by; None for rules that project on b itself."""
        if self.rule not in COMPARES_DIRECTIONS:
            return None
        norms = self.weight.flatten(1).norm(dim=1).clamp_min(torch.finfo(self.weight.dtype).eps)
        return norms.view(-1, 1, 1, 1)

    def filters(self) -> Tensor:
        """The filters with which a plain convolution gives this layer's output."""
        norms = self.norms()
        return self.weight if norms is None else self.weight / norms

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> projections c·b (SWTA: c·b/‖b‖), (B, Q, H', W')."""
        projection = convolve(x, self.weight, self.stride, self.padding)
        norms = self.norms()
        if norms is not None:
            projection = projection / norms.transpose(0, 1)
        if self.training:
            shape = {"stride": self.stride, "padding": self.padding}
            y = RESPONSES.get(self.rule, rectified)(x, projection, self.weight, **shape)
            self.update = RULES[self.rule](x, y, self.weight, **shape, **self.hyper)
        return projection


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """The state of `network` for the same network with plain convolutions."""
    state = network.state_dict()
    for name, layer in network.named_modules():
        if isinstance(layer, HebbianConv2d):
            state[f"{name}.weight"] = layer.filters().detach()
    return state


class Pretraining:
    """Hebbian learning of all layers at once: one forward pass a batch, each layer from its own input.

    `adaptive` divides a layer's learning rate by √M, so that one rate suits wide and narrow layers.
    """

    def __init__(self, network: Network, *, lr: float, adaptive: bool) -> None:
        self.network = network.train()
        self.layers = {n: m for n, m in network.named_modules() if isinstance(m, HebbianConv2d)}
        self.lr = lr
        self.steps = {
            name: lr / math.sqrt(layer.weight[0].numel()) if adaptive else lr
            for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def epoch(self, batches: Iterable[Tensor]) -> None:
        """One pass over normalised batches (B, 3, S, S). Raises NotFinite."""
        for number, batch in enumerate(batches):
            self.network(batch)
            for name, layer in self.layers.items():
                assert layer.update is not None  # the forward pass above set it
                layer.weight.add_(layer.update, alpha=self.steps[name])
                layer.update = None
            if number % 100 == 0:  # a look at the weights waits for the device: not after every batch
                self.check()
        self.check()

    def check(self) -> None:
        """Raise NotFinite if any weight is infinite or NaN."""
        for name, layer in self.layers.items():
            if not torch.isfinite(layer.weight).all():
                raise NotFinite(
                    f"the weights of layer {name} became non-finite under rule {layer.rule} with learning "
                    f"rate {self.lr:g}: use a smaller one (--set hebbian_lr={self.lr / 10:g})"
                )
