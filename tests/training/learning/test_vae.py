"""The β-VAE: its loss against exact values, its mirror's shapes, and what it learns."""

import copy

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.distributions import kl_divergence as exact_divergence

from training.config import configure
from training.learning.vae import (
    Autoencoder,
    Autoencoding,
    ConvTranspose2d,
    decoder,
    kl_divergence,
    reconstruction_error,
)
from training.nets.backbones import BACKBONES, Network, smallest_image

SIZE = smallest_image("conv6")

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("narrow")]


def images(count=32, size=SIZE, seed=0):
    """Smooth images that three numbers decide, standardised."""
    generator = torch.Generator().manual_seed(seed)
    shade, slope, colour = torch.randn(3, count, 1, 1, 1, generator=generator)
    across = torch.linspace(-1, 1, size).expand(3, size, size)
    channel = torch.tensor([1.0, 0.0, -1.0]).view(3, 1, 1)
    return 0.7 * shade + 0.7 * slope * across + 0.5 * colour * channel


def learning(lr=3e-2, epochs=20, momentum=0.9, seed=0, **more):
    torch.manual_seed(seed)
    chosen = {"rule": "vae", "image_size": SIZE, "vae_lr": lr, "momentum": momentum, "epochs": epochs}
    return Autoencoding(Network("conv6", SIZE), configure(chosen | more))


def batches(epoch, dtype=torch.float32, count=2):
    torch.manual_seed(100 + epoch)
    return [images(16, seed=10 * epoch + number).to(dtype) for number in range(count)]


@torch.no_grad()
def reconstructed(model, x):
    """Mean reconstruction error and KL divergence of `x`."""
    torch.manual_seed(7)
    reconstruction, mean, log_variance = model.eval()(x)
    return reconstruction_error(x, reconstruction).mean(), kl_divergence(mean, log_variance).mean()


# --- the loss ---


def test_divergence_by_hand():
    mean, log_variance = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    expected = [0.0, 0.5 * 4 + 0.5 * (2.718281828 - 1 - 1)]
    torch.testing.assert_close(kl_divergence(mean, log_variance), torch.tensor(expected))


def test_divergence_is_that_of_gaussians():
    mean, log_variance = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), exact_divergence(posterior, prior))


def test_error_is_a_gaussian_likelihood_but_for_its_constant():
    x, other = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    constant = 0.5 * 75 * torch.log(torch.tensor(2 * torch.pi))
    expected = -Independent(Normal(other, 1.0), 3).log_prob(x) - constant
    torch.testing.assert_close(reconstruction_error(x, other), expected)
    assert reconstruction_error(x.bfloat16(), other.bfloat16()).dtype == torch.float32


def test_bound_meets_the_evidence_of_a_linear_gaussian_model():
    """x = Wz + noise, orthogonal columns in W: under the exact posterior error + KL is the evidence itself,
    for every x; under another it is more."""
    generator = torch.Generator().manual_seed(0)
    w = torch.linalg.qr(torch.randn(6, 2, generator=generator, dtype=torch.float64))[0]
    w = w * torch.tensor([2.0, 0.5], dtype=torch.float64)
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    variance = 1 / (1 + w.square().sum(0))
    mean = variance * (x @ w)
    evidence = -MultivariateNormal(torch.zeros_like(x[0]), w @ w.T + torch.eye(6)).log_prob(x)
    evidence -= 0.5 * 6 * torch.log(torch.tensor(2 * torch.pi))

    def bound(mean):
        # E‖x − Wz‖² = ‖x − Wμ‖² + tr(W Σ Wᵀ)
        expected_error = reconstruction_error(x, mean @ w.T) + 0.5 * (variance * w.square().sum(0)).sum()
        return expected_error + kl_divergence(mean, variance.log().expand_as(mean))

    torch.testing.assert_close(bound(mean), evidence, rtol=1e-6, atol=1e-6)
    assert (bound(mean + 0.1) > evidence).all()


def test_loss_weighs_the_divergence_and_divides_by_the_values():
    model = learning()
    x = images(8)
    model.model.train()
    torch.manual_seed(3)
    loss = model.loss(x)
    torch.manual_seed(3)
    reconstruction, mean, log_variance = model.model(x)
    each = reconstruction_error(x, reconstruction) + 0.5 * kl_divergence(mean, log_variance)
    torch.testing.assert_close(loss, each.mean() / (3 * SIZE**2))


# --- the mirror ---


@pytest.mark.parametrize("backbone", BACKBONES)
def test_mirror_restores_every_size(backbone):
    smallest = smallest_image(backbone)
    for size in (smallest, smallest + 1, smallest + 6, smallest + 11, BACKBONES[backbone].image_size):
        with torch.device("meta"):  # shapes without numbers: vgg11 at 224 px has 200 M weights
            model = Autoencoder(Network(backbone, size), backbone, size, 256)
            reconstruction, mean, log_variance = model(torch.empty(2, 3, size, size))
            assert reconstruction.shape == (2, 3, size, size)
            assert mean.shape == log_variance.shape == (2, 256)


def test_mirror_has_the_encoders_layers_backwards():
    for backbone, plan in BACKBONES.items():
        with torch.device("meta"):
            mirror = decoder(backbone, plan.image_size, 256)
            network = Network(backbone, plan.image_size)
        filters = [block[0].weight.shape for block in network.features]
        undone = [layer.weight.shape for layer in mirror.modules() if isinstance(layer, ConvTranspose2d)]
        assert undone == filters[::-1]


def test_nothing_passes_beside_the_latents():
    """Two images with equal latents have equal reconstructions."""
    model = learning().model.eval()
    with torch.no_grad():
        model.latents.weight.zero_()
        torch.manual_seed(1)
        first = model(images(4, seed=1))[0]
        torch.manual_seed(1)
        second = model(images(4, seed=2))[0]
    assert torch.equal(first, second)


def test_first_reconstructions_are_as_small_as_the_images():
    reconstruction = learning().model.train()(images(32))[0]
    assert 0.1 < reconstruction.var() < 1


# --- learning ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_come_to_carry_the_image(dtype):
    trained, held_out = learning(lr=1e-1), images(32, seed=99).to(dtype)
    before, _ = reconstructed(copy.deepcopy(trained.model), held_out)
    for epoch in range(3):
        trained.epoch(epoch, batches(epoch, dtype, count=10))
    error, divergence = reconstructed(trained.model, held_out)
    assert error < 0.6 * before
    mean_image = held_out.float().mean(0, keepdim=True).expand_as(held_out)
    assert error < 0.7 * reconstruction_error(held_out, mean_image).mean()
    assert divergence > 1
    assert all(p.dtype == torch.float32 for p in trained.model.parameters())


def test_plain_network_is_the_encoder():
    trained = learning()
    trained.epoch(0, batches(0))
    plain = Network("conv6", SIZE)
    plain.load_state_dict(trained.weights())
    x = images(4)
    with torch.no_grad():
        hidden = plain.eval()(x)
        mean = trained.model.eval()(x)[1]
        torch.testing.assert_close(trained.model.latents(hidden)[:, :256], mean)
    assert hidden.std() > 0.01


def test_plain_network_with_latents_gives_their_means():
    trained = learning(vae_classifier="latents")
    trained.epoch(0, batches(0))
    plain = Network("conv6", SIZE, latents=256)
    plain.load_state_dict(trained.weights())
    x = images(4)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), trained.model.eval()(x)[1])


def test_resumed_run_equals_an_uninterrupted_one():
    whole = learning(epochs=2)
    for epoch in range(2):
        whole.epoch(epoch, batches(epoch))
    begun = learning(epochs=2)
    begun.epoch(0, batches(0))
    resumed = learning(epochs=2, seed=5)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    resumed.epoch(1, batches(1))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_rate_halves_late():
    trained = learning(lr=1.0, epochs=20)
    rates = []
    for epoch in (0, 9, 10, 12, 19):
        trained.epoch(epoch, [])
        rates.append(trained.optimizer.param_groups[0]["lr"])
    assert rates == [1, 1, 0.5, 0.25, 1 / 32]


def test_divergence_names_the_way_out():
    with pytest.raises(FloatingPointError, match=r"epoch 1 .*1e\+30.*--set vae_lr=1e\+29"):
        learning(lr=1e30).epoch(0, batches(0))
