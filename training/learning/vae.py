"""The baseline that learns by backpropagation: a β-VAE whose encoder is the network to be pre-trained.

Sources: Kingma and Welling, ICLR 2014, arXiv 1312.6114; Higgins et al., "beta-VAE", ICLR 2017. 256 latents,
β = 0.5 and the schedule: Lagani et al., Neurocomputing 2024, doi 10.1016/j.neucom.2024.127867. Two things are
not as there. Unpooling repeats each value: max-unpooling with the encoder's indices, as in the paper's code,
tells the decoder where the maxima lay, past the latents. And the squared error is summed over pixels, as the
likelihood has it: beside their code's mean, at most 1 or so, hardly anything is worth its KL divergence.
"""

import math
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d
from torch.nn.utils import clip_grad_norm_

from training.config import Config
from training.learning.finetune import Descent
from training.learning.together import ALONE, Alone, Part
from training.nets.backbones import BACKBONES, Linear, Network, map_size

LONGEST_GRADIENT = 1.0  # a usual length, on CIFAR-10 1.2 in the median: it holds back the first steps' 3 to 6


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ (μ² + σ² − log σ² − 1) over the latents: (B, L), (B, L) -> (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)


def reconstruction_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    """½ ‖x − x̂‖², in 32 bits: (B, …), (B, …) -> (B,). The negative logarithm of a Gaussian likelihood of unit
    variance, but for the constant ½ log 2π a pixel."""
    return 0.5 * (x.float() - reconstruction.float()).square().flatten(1).sum(1)


class ConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d of stride 1 in the precision of its input.

    Weights start uniform in ±1/√(Q·k²), the values that an output sums, as those of nn.Conv2d do. torch's own
    start counts the channels that go out: from 96 to 3 it gives pixels a variance of 11.
    """

    padding: tuple[int, ...]

    def reset_parameters(self) -> None:
        """Start anew."""
        bound = 1 / math.sqrt(self.weight[:, 0].numel())
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, Q, H', W') -> (B, C, H, W), the sizes from which a convolution of equal shape leads there."""
        assert self.bias is not None
        return conv_transpose2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), padding=self.padding)


def decoder(backbone: str, image_size: int, latents: int) -> nn.Sequential:
    """The backbone mirrored layer by layer: (B, latents) -> (B, 3, S, S).

    Where the encoder pools, the map grows to the exact size that it had before, each value repeated.
    """
    plan, side = BACKBONES[backbone], map_size(backbone, image_size)
    last = plan.convolutions[-1].channels
    layers: list[nn.Module] = [
        *(Linear(latents, plan.hidden), nn.ReLU(inplace=True), nn.BatchNorm1d(plan.hidden)),
        *(Linear(plan.hidden, last * side**2), nn.Unflatten(1, (last, side, side))),
    ]
    side, mirrored = image_size, []
    below = (3, *(conv.channels for conv in plan.convolutions))
    for channels, conv in zip(below, plan.convolutions, strict=False):
        side = side + 2 * conv.padding - conv.kernel + 1
        smaller = conv.pool > 1 or (plan.most_side and conv is plan.convolutions[-1])
        unpool = nn.Upsample((side, side)) if smaller else nn.Identity()
        filters = ConvTranspose2d(conv.channels, channels, conv.kernel, padding=conv.padding)
        mirrored.append(nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(conv.channels), unpool, filters))
        side //= conv.pool
    return nn.Sequential(*layers, *reversed(mirrored)).to(memory_format=torch.channels_last)


class Autoencoder(nn.Module):
    """Network, Gaussian latents, decoder."""

    def __init__(self, network: Network, backbone: str, image_size: int, latents: int) -> None:
        super().__init__()
        self.network = network
        self.latents = Linear(BACKBONES[backbone].hidden, 2 * latents)
        self.decoder = decoder(backbone, image_size, latents)

    def forward(self, x: Tensor, part: Part | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, S, S) -> reconstruction like x; mean and log-variance (B, L) in 32 bits.

        Decodes a sample, in evaluation too: z = μ + σε (Kingma and Welling), ε from torch's generator. It is
        drawn for the batch of which x is a `part`: so no image's depends on who learns from which.
        """
        mean, log_variance = self.latents(self.network(x)).float().chunk(2, dim=1)
        before, total = part or Part(0, len(x))
        noise = torch.randn(total, mean.shape[1], device=mean.device)[before : before + len(x)]
        z = mean + (0.5 * log_variance).exp() * noise
        return self.decoder(z.to(x.dtype)), mean, log_variance


class Autoencoding(Descent):
    """Learning of `network`, in place, as the encoder of a β-VAE: SGD with Nesterov momentum on
    (reconstruction error + β KL) / values of an image, the rate halving as in the fine-tuning.

    The division changes no optimum; without it the gradient, and so the rate, would depend on the image's
    size. On 2,000 images of CIFAR-10 (conv6, batches of 64) the paper's 1e-3 diverges on the sum within three
    batches and is slow on the quotient. There 3e-2 is a good rate; 1e-1 diverges too, unless the gradient's
    length is bounded, as it is here.

    Where the classifier is to stand on the latents, the network is learned up to their means.
    """

    from_labels: ClassVar = False
    searched: ClassVar[tuple[str, ...]] = ("vae_lr", "beta")
    what, rate = "the autoencoder", "vae_lr"
    model: Autoencoder

    def __init__(self, network: Network, config: Config, workers: Alone = ALONE) -> None:
        device = next(network.parameters()).device
        model = Autoencoder(network, config.backbone, config.image_size, config.latents).to(device)
        super().__init__(model, config, lr=config.vae_lr, epochs=config.epochs, workers=workers)
        self.beta, self.to_latents = config.beta, config.vae_classifier == "latents"

    @classmethod
    def configured(cls, config: Config, classes: int, device: torch.device, workers: Alone = ALONE) -> Self:
        """Learning of a new network as the configuration has it, whatever the number of classes."""
        network = Network(config.backbone, config.image_size, rescale=config.norm_rescale)
        return cls(network.to(device), config, workers)

    def gradients(self, batch: Tensor) -> Tensor:
        """Leave the gradient, no longer than LONGEST_GRADIENT, in every parameter; returns the loss."""
        loss = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.add_gradients()
        clip_grad_norm_(self.model.parameters(), LONGEST_GRADIENT)
        return loss.detach()

    def loss(self, batch: Tensor) -> Tensor:
        """The mean over the batch of (½ ‖x − x̂‖² + β KL) / (3·S·S), or this worker's part of it."""
        part = self.workers.part(len(batch))
        reconstruction, mean, log_variance = self.model(batch, part)
        each = reconstruction_error(batch, reconstruction) + self.beta * kl_divergence(mean, log_variance)
        return each.sum() / part.total / batch.shape[1:].numel()

    def weights(self) -> dict[str, Tensor]:
        """The encoder as the state of a plain Network, or of one with latents, which are the means."""
        state = self.model.network.state_dict()
        if not self.to_latents:
            return state
        weight, bias = (each.detach().chunk(2)[0] for each in self.model.latents.parameters())
        return state | {"latents.weight": weight, "latents.bias": bias}
