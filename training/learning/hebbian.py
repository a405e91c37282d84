"""The layer that runs a learning rule, and the pre-training that feeds it batches."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from training.config import Config, ConfigError
from training.learning.together import ALONE, Alone
from training.nets.backbones import BACKBONES, Conv2d, ConvFactory, Network, convolve
from training.rules import TRAITS, Add


class NotFinite(ArithmeticError):
    """Weights became infinite or NaN; the message names layer, rule and learning rate."""


class HebbianConv2d(Conv2d):
    """A convolution that, in training mode, leaves its rule's update in `update` at each forward pass.

    It has Conv2d's state and nothing else. Weights start uniform in ±1/√M, or so many times
    that as the rule's traits say. Workers that learn together set `add`.
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
        self.rule, self.traits = rule, TRAITS[rule]
        self.hyper = hyper or {}
        self.add: Add | None = None
        self.update: Tensor | None = None
        bound = self.traits.start / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)

    def filters(self) -> Tensor:
        """The filters of the plain convolution that gives this layer's projections: b, or what the
        rule makes of it."""
        made = self.traits.filters
        return made(self.weight) if made else self.weight

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> ReLU(c·b) with b from `filters`, (B, Q, H', W').

        Rectified here, where it costs no second map; the network's own ReLU leaves it as it is. A rule that
        learns from something else learns before that, for it may be the projection itself.
        """
        shape = {"stride": self.stride, "padding": self.padding}
        projection = convolve(x, self.filters().to(x.dtype), **shape)
        respond = self.traits.response if self.training else None
        y = respond(x, projection, self.weight, **shape) if respond else projection.relu_()
        if self.training:
            workers = {"add": self.add} if self.add else {}
            self.update = self.traits.update(x, y, self.weight, **shape, **self.hyper, **workers)
        return projection.relu_() if respond else y


def layers_of(config: Config) -> ConvFactory:
    """Layers that learn as the configuration has it."""
    softmax = TRAITS[config.rule].temperature is not None
    hyper = {"temperature": config.temperature} if softmax else {}
    return partial(HebbianConv2d, rule=config.rule, hyper=hyper)


class Replayed:
    """A step on a GPU, recorded once for each shape of batch and then replayed as one CUDA graph.

    A batch of small images is some hundred kernels, each faster run than launched. The first steps run as
    they are, so that libraries choose their algorithms and allocate outside the recording.
    """

    WARM_UP = 3

    def __init__(self, step: Callable[[Tensor], None]) -> None:
        self._step = step
        self._seen: Counter[torch.Size] = Counter()
        self._recorded: dict[torch.Size, tuple[Tensor, torch.cuda.CUDAGraph]] = {}

    def __call__(self, batch: Tensor) -> None:
        if batch.shape not in self._recorded:
            self._seen[batch.shape] += 1
            if self._seen[batch.shape] <= self.WARM_UP:
                return self._beside(batch)
            self._recorded[batch.shape] = self._record(batch)
        inputs, graph = self._recorded[batch.shape]
        inputs.copy_(batch)
        graph.replay()

    def _beside(self, batch: Tensor) -> None:
        """Run the step on a stream of its own, as recording does."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step(batch)
        torch.cuda.current_stream().wait_stream(stream)

    def _record(self, batch: Tensor) -> tuple[Tensor, torch.cuda.CUDAGraph]:
        inputs, graph = batch.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(inputs)
        return inputs, graph


class Pretraining:
    """Hebbian learning of all layers at once: one forward pass a batch, each layer from its own input.

    `adaptive` divides a layer's learning rate by √M, so that one rate suits wide and narrow layers.
    """

    from_labels: ClassVar = False
    searched: ClassVar[tuple[str, ...]] = ("hebbian_lr", "temperature")

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        adaptive: bool,
        rates: Sequence[float] = (),
        workers: Alone = ALONE,
    ) -> None:
        self.network, self.workers = network.train(), workers
        self.layers = {n: m for n, m in network.named_modules() if isinstance(m, HebbianConv2d)}
        self.lr = lr
        self.steps = {
            name: lr * rate / math.sqrt(layer.weight[0].numel()) if adaptive else lr * rate
            for (name, layer), rate in zip(self.layers.items(), chain(rates, repeat(1.0)), strict=False)
        }
        if workers.world > 1:
            self._join()
        # What workers tell each other is not recorded.
        recorded = next(network.parameters()).is_cuda and workers.world == 1
        self.step: Callable[[Tensor], None] = Replayed(self.learn) if recorded else self.learn

    def _join(self) -> None:
        """Learn together with the other workers from now on. Raises ConfigError."""
        self.workers.join(self.network)
        for layer in self.layers.values():
            if not layer.traits.adds:
                raise ConfigError(
                    f"rule {layer.rule} learns in one process only; several learn by {layer.rule}_fh, which "
                    "comes to the same"
                )
            layer.add = self.workers.add

    @classmethod
    def configured(cls, config: Config, classes: int, device: torch.device, workers: Alone = ALONE) -> Self:
        """Learning of a new network as the configuration has it, whatever the number of classes."""
        network = Network(
            config.backbone,
            config.image_size,
            layers_of(config),
            rescale=config.norm_rescale,
            hidden=config.recipe == "paper",
        )
        rates = []
        if config.rule == "softhebb" and (soft := BACKBONES[config.backbone].soft):
            rates = [rate for rate, _ in soft]
            convolutions = [each for each in network.modules() if isinstance(each, HebbianConv2d)]
            for layer, (_, softness) in zip(convolutions, soft, strict=False):
                layer.hyper = {"temperature": config.temperature * softness}
        return cls(
            network.to(device),
            lr=config.hebbian_lr,
            adaptive=config.hebbian_adaptive,
            rates=rates,
            workers=workers,
        )

    def epoch(self, number: int, batches: Iterable[Tensor]) -> None:
        """One pass over normalised batches (B, 3, S, S), whatever its number. Raises NotFinite."""
        self.workers.begin_equal(self.network)
        for done, batch in enumerate(batches):
            self.step(batch)
            # On a GPU a look at the weights waits for all that was launched: there only at the end.
            if done % 100 == 0 and not batch.is_cuda:
                self.check()
        self.check()

    def weights(self) -> dict[str, Tensor]:
        """What was learned, as the state of a network of plain convolutions."""
        filters = {f"{name}.weight": layer.filters().detach() for name, layer in self.layers.items()}
        return self.network.state_dict() | filters

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run needs to go on."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.network.load_state_dict(state)

    @torch.no_grad()
    def learn(self, batch: Tensor) -> None:
        """One forward pass, and every layer moves by its update."""
        self.network(batch)
        for name, layer in self.layers.items():
            assert layer.update is not None  # the forward pass above set it
            layer.weight.add_(layer.update, alpha=self.steps[name])
            layer.update = None

    def check(self) -> None:
        """Raise NotFinite if any weight is infinite or NaN."""
        for name, layer in self.layers.items():
            if not torch.isfinite(layer.weight).all():
                raise NotFinite(
                    f"the weights of layer {name} became non-finite under rule {layer.rule} with learning "
                    f"rate {self.lr:g}: use a smaller one (--set hebbian_lr={self.lr / 10:g})"
                )
