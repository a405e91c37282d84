"""Each fast rule against its two-phase original and a loop over patches; and what the rules learn."""

import pytest
import torch

from tests.reference import (
    hebbgrad_patch_by_patch,
    hpca_patch_by_patch,
    krotov_patch_by_patch,
    softhebb_patch_by_patch,
    swta_patch_by_patch,
)
from training.rules import RULES, TRAITS, hebbgrad, krotov, raised_cosine, softhebb, swta_fh

SHAPES = {
    # name: (x, w, stride, padding)
    "square": ((3, 4, 8, 8), (5, 4, 3, 3), 1, 0),
    "stride": ((2, 3, 9, 9), (6, 3, 3, 3), 2, 0),
    "stride leaves a rest": ((2, 3, 10, 9), (6, 3, 3, 3), (3, 2), 0),
    "padding": ((2, 3, 6, 6), (4, 3, 3, 3), 1, 1),
    "uneven padding": ((2, 3, 6, 5), (4, 3, 5, 3), 1, (2, 1)),
    "oblong kernel": ((2, 3, 7, 8), (4, 3, 2, 5), (1, 2), (0, 1)),
    "1x1 kernel": ((3, 4, 5, 5), (7, 4, 1, 1), 1, 0),
    "fully connected": ((6, 4, 3, 3), (150, 4, 3, 3), 1, 0),
    "1x1 map": ((9, 12, 1, 1), (10, 12, 1, 1), 1, 0),
    "padded 1x1 map": ((4, 5, 1, 1), (6, 5, 3, 3), 1, 1),
    "one image": ((1, 2, 4, 4), (3, 2, 4, 4), 1, 0),
}
REFERENCES = {
    "swta": swta_patch_by_patch,
    "swta_fh": swta_patch_by_patch,
    "hpca": hpca_patch_by_patch,
    "hpca_fh": hpca_patch_by_patch,
    "hebbgrad": hebbgrad_patch_by_patch,
    "krotov": krotov_patch_by_patch,
    "softhebb": softhebb_patch_by_patch,
}
RANK = ("hebbgrad", "krotov", "softhebb")  # rules that ask which neuron is the most active


def layer(shape, dtype, rule):
    x_shape, w_shape, stride, padding = SHAPES[shape]
    generator = torch.Generator().manual_seed(len(shape))
    x = torch.randn(x_shape, generator=generator, dtype=torch.float64).to(dtype)
    w = (torch.randn(w_shape, generator=generator, dtype=torch.float64) / w_shape[1]).to(dtype)
    projection = torch.nn.functional.conv2d(x, w, None, stride, padding)
    if rule.startswith("swta"):
        y = raised_cosine(x, projection / 3, w, stride=stride, padding=padding)
    elif rule in RANK:  # ranks in place of activations: no two alike, and exact in bfloat16
        y = ((projection.argsort(1).argsort(1) - len(w) // 2) / 8).to(dtype)
    else:
        y = projection.relu()
    return x, y, w, {"stride": stride, "padding": padding}


def assert_close(got, expected, tolerance):
    scale = expected.abs().max().clamp_min(1e-30)
    assert ((got - expected).abs().max() / scale) < tolerance


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_rule_equals_the_loop_over_patches(rule, shape, dtype, tolerance):
    x, y, w, geometry = layer(shape, dtype, rule)
    expected = torch.from_numpy(REFERENCES[rule](x.numpy(), y.numpy(), w.numpy(), **geometry))
    got = RULES[rule](x, y, w, **geometry)
    assert got.dtype == dtype
    assert got.shape == w.shape
    assert_close(got.double(), expected, tolerance)


@pytest.mark.parametrize("shape", ["square", "uneven padding", "fully connected"])
@pytest.mark.parametrize("hyper", [{"p": 3.0}, {"p": 2.5, "k": 3, "delta": 0.4}, {"k": 3}])
def test_krotov_equals_the_loop_for_other_norms_and_ranks(hyper, shape):
    x, y, w, geometry = layer(shape, torch.float64, "krotov")
    expected = krotov_patch_by_patch(x.numpy(), y.numpy(), w.numpy(), **geometry, **hyper)
    assert_close(krotov(x, y, w, **geometry, **hyper), torch.from_numpy(expected), 1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_hebbgrad_is_minus_the_gradient_of_the_surrogate_loss(shape):
    """Miconi's loss −½ Σ a² with a of the winners' values, but of the gradient of c·b − ‖b‖² / 2."""
    x, y, w, geometry = layer(shape, torch.float64, "hebbgrad")
    w.requires_grad_()
    surrogate = torch.nn.functional.conv2d(x, w, None, **geometry)
    surrogate = surrogate - w.square().sum((1, 2, 3)).view(-1, 1, 1, 1).movedim(0, 1) / 2
    a = (y == y.amax(1, keepdim=True)).double() + surrogate - surrogate.detach()
    (gradient,) = torch.autograd.grad(-a.square().sum() / 2, w)
    patches = y.numel() / len(w)
    assert_close(hebbgrad(x, y, w.detach(), **geometry), -gradient / patches, 1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["swta", "hpca"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_fast_rule_equals_its_two_phase_original(rule, shape, dtype, tolerance):
    x, y, w, geometry = layer(shape, dtype, rule)
    assert_close(RULES[f"{rule}_fh"](x, y, w, **geometry), RULES[rule](x, y, w, **geometry), tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_bfloat16_patches_beside_32_bit_weights(rule, shape):
    """Products round to 8 bits: within 1 % of the largest update of the same values in float64."""
    x, y, w, geometry = layer(shape, torch.float32, rule)
    x, y = x.bfloat16(), y if rule.startswith("swta") else y.bfloat16()
    got = RULES[rule](x, y, w, **geometry)
    assert got.dtype == torch.float32
    exact = (t.double().numpy() for t in (x, y, w))
    assert_close(got.double(), torch.from_numpy(REFERENCES[rule](*exact, **geometry)), 1e-2)


def test_response_keeps_the_precision_of_the_weights():
    x, _, w, geometry = layer("square", torch.float32, "swta")
    projection = torch.nn.functional.conv2d(x, w) / 3
    response = raised_cosine(x.bfloat16(), projection.bfloat16(), w, **geometry)
    assert response.dtype == torch.float32
    torch.testing.assert_close(response, raised_cosine(x, projection, w, **geometry), rtol=0, atol=5e-3)


@pytest.mark.parametrize("rule", RULES)
def test_memory_format_does_not_matter(rule):
    x, y, w, geometry = layer("padding", torch.float64, rule)
    last = [t.to(memory_format=torch.channels_last) for t in (x, y, w)]
    torch.testing.assert_close(RULES[rule](*last, **geometry), RULES[rule](x, y, w, **geometry))


@pytest.mark.parametrize("shape", ["square", "fully connected"])
@pytest.mark.parametrize("rule", RULES)
def test_rule_is_pure(rule, shape):
    x, y, w, geometry = layer(shape, torch.float32, rule)
    before = [t.clone() for t in (x, y, w)]
    dw = RULES[rule](x, y, w, **geometry)
    assert all(torch.equal(a, b) for a, b in zip((x, y, w), before, strict=True))
    assert not dw.requires_grad


@pytest.mark.parametrize("rule", ["swta", "swta_fh"])
def test_neuron_that_no_patch_excites_does_not_move(rule):
    x, y, w, geometry = layer("square", torch.float32, "swta")
    y[:, 2] = -100.0  # its softmax underflows to zero at every patch
    dw = RULES[rule](x, y, w, **geometry)
    assert torch.equal(dw[2], torch.zeros_like(dw[2]))
    assert torch.isfinite(dw).all()
    assert dw[0].abs().max() > 0


def test_patch_that_excites_nobody_moves_nobody():
    x, y, w, geometry = layer("square", torch.float64, "hebbgrad")
    y[1:] = 0.0  # what ReLU leaves of the other images
    expected = hebbgrad(x[:1], y[:1], w, **geometry) / 3
    torch.testing.assert_close(hebbgrad(x, y, w, **geometry), expected)


def test_softhebb_learns_the_same_from_centred_activations():
    x, y, w, geometry = layer("padding", torch.float64, "softhebb")
    shifted = y - y.mean(1, keepdim=True)
    torch.testing.assert_close(softhebb(x, shifted, w, **geometry), softhebb(x, y, w, **geometry))


def test_softhebb_rests_at_length_one():
    x, y, w, geometry = layer("square", torch.float64, "softhebb")
    w[2] /= w[2].norm()
    dw = softhebb(x, y, w, **geometry)
    assert dw[2].abs().max() < 1e-6
    assert dw[0].abs().max() > 1e-3


@pytest.mark.parametrize("rule", ["krotov", "softhebb"])
def test_empty_batch_of_zeros_moves_by_finite_amounts(rule):
    x, y, w, geometry = layer("square", torch.float32, rule)
    assert torch.isfinite(RULES[rule](torch.zeros_like(x), torch.zeros_like(y), w, **geometry)).all()


def test_temperature_decides_who_wins():
    x, y, w, geometry = layer("square", torch.float64, "swta")
    sharp = swta_fh(x, y, w, **geometry, temperature=0.02)
    flat = swta_fh(x, y, w, **geometry, temperature=50.0)
    # Nearly flat scores pull every neuron to the same mean patch: the differences of dw are those of w.
    equal_pull = flat - flat[:1] + (w - w[:1]) / len(w)
    assert equal_pull.abs().max() < 1e-3
    assert (sharp - sharp[:1] + (w - w[:1]) / len(w)).abs().max() > 0.1


def test_empty_patch_has_cosine_zero():
    x, w = torch.zeros(1, 2, 3, 3), torch.ones(4, 2, 3, 3)
    response = raised_cosine(x, torch.zeros(1, 4, 1, 1), w, stride=1, padding=0)
    assert torch.equal(response, torch.full((1, 4, 1, 1), 0.25))


@pytest.mark.parametrize("rule", ["hpca", "hpca_fh"])
def test_hpca_finds_the_principal_components_in_order(rule):
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    deviations = torch.tensor([4, 3, 2, 1.5, 1, 0.5, 0.3, 0.1], dtype=torch.float64)
    w = torch.randn(4, 8, 1, 1, generator=generator, dtype=torch.float64) / 8
    for _ in range(600):
        c = (torch.randn(256, 8, generator=generator, dtype=torch.float64) * deviations) @ basis.T
        x = c[:, :, None, None]
        y = torch.nn.functional.conv2d(x, w)  # linear neurons: this is Sanger's rule
        w = w + 0.02 * RULES[rule](x, y, w)
    cosines = (w.flatten(1) @ basis[:, :4]).abs()
    torch.testing.assert_close(cosines, torch.eye(4, dtype=torch.float64), atol=0.1, rtol=0)


@pytest.mark.parametrize("rule", ["swta", "swta_fh"])
def test_swta_finds_the_cluster_centres(rule):
    generator = torch.Generator().manual_seed(1)
    centres = torch.linalg.qr(torch.randn(12, 5, generator=generator, dtype=torch.float64)).Q.T
    w = torch.randn(10, 12, 1, 1, generator=generator, dtype=torch.float64) / 4
    for _ in range(300):
        which = torch.randint(5, (128,), generator=generator)
        noise = 0.05 * torch.randn(128, 12, generator=generator, dtype=torch.float64)
        x = (centres[which] + noise)[:, :, None, None]
        norms = w.flatten(1).norm(dim=1).view(1, -1, 1, 1)
        y = raised_cosine(x, torch.nn.functional.conv2d(x, w) / norms, w, stride=1, padding=0)
        w = w + 0.1 * RULES[rule](x, y, w)
    distances = torch.cdist(centres, w.flatten(1)).min(1).values  # of each centre to its nearest neuron
    assert distances.max() < 0.1


@pytest.mark.parametrize(("rule", "lr"), [("hebbgrad", 0.5), ("krotov", 0.02), ("softhebb", 0.1)])
def test_winners_point_to_the_cluster_centres(rule, lr):
    """Hard winners keep what they win: with 40 neurons for 5 centres none wins two of them at the start."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.linalg.qr(torch.randn(12, 5, generator=generator, dtype=torch.float64)).Q.T * 3
    w = torch.randn(40, 12, 1, 1, generator=generator, dtype=torch.float64) / 4
    traits = TRAITS[rule]
    made = traits.filters or torch.Tensor.clone
    for _ in range(300):
        which = torch.randint(5, (128,), generator=generator)
        noise = 0.05 * torch.randn(128, 12, generator=generator, dtype=torch.float64)
        x = (centres[which] + noise)[:, :, None, None]
        projection = torch.nn.functional.conv2d(x, made(w))
        w = w + lr * RULES[rule](x, projection if traits.response else projection.relu(), w)
    cosines = torch.nn.functional.normalize(w.flatten(1)) @ centres.T / 3
    assert cosines.max(0).values.min() > 0.99
