"""The Hebbian layer beside a plain convolution, and the pre-training loop."""

from functools import partial

import pytest
import torch
from torch import nn

from training.learning.hebbian import HebbianConv2d, NotFinite, Pretraining
from training.nets.backbones import BACKBONES, Network
from training.rules import RULES, TRAITS

pytestmark = pytest.mark.usefixtures("narrow")

FAST = ["hpca_fh", "swta_fh", "hebbgrad", "krotov", "softhebb"]


def images(count=4, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def hebbian(rule, backbone="conv6", size=32):
    torch.manual_seed(0)
    return Network(backbone, size, partial(HebbianConv2d, rule=rule))


@pytest.mark.parametrize("rule", RULES)
def test_layer_has_the_state_of_a_convolution(rule):
    layer, plain = HebbianConv2d(3, 5, 3, rule=rule), nn.Conv2d(3, 5, 3, bias=False)
    layer(images())
    assert layer.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(plain.weight, layer.weight)


@pytest.mark.parametrize("rule", FAST)
@pytest.mark.parametrize(("backbone", "size"), [("conv6", 32), ("vgg11", 32), ("soft3", 48), ("resnet9", 32)])
def test_plain_network_gives_the_same_output(rule, backbone, size):
    network = hebbian(rule, backbone, size)
    learning = Pretraining(network, lr=0.01, adaptive=False)
    learning.epoch(0, [images(), images()])
    plain = Network(backbone, size)
    plain.load_state_dict(learning.weights())
    with torch.no_grad():
        expected, got = network.eval()(images(2, size)), plain.eval()(images(2, size))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize(("rule", "scale"), [("hpca_fh", 1), ("krotov", 3.5), ("softhebb", 9)])
def test_weights_start_uniform_within_some_over_root_m(rule, scale):
    weight = HebbianConv2d(16, 64, 3, rule=rule).weight.detach()
    bound = scale * (16 * 9) ** -0.5
    assert weight.abs().max() <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize("adaptive", [False, True])
def test_each_layer_learns_from_its_own_input(adaptive):
    network = hebbian("hpca_fh")
    first = network.features[0][0]
    batch, start = images(), first.weight.detach().clone()
    projection = nn.functional.conv2d(batch, start)
    dw = RULES["hpca_fh"](batch, projection.relu(), start)
    Pretraining(network, lr=0.5, adaptive=adaptive).epoch(0, [batch])
    rate = 0.5 / 75**0.5 if adaptive else 0.5
    torch.testing.assert_close(first.weight.detach(), start + rate * dw, rtol=1e-4, atol=1e-6)
    before = hebbian("hpca_fh")
    for old, new in zip(before.parameters(), network.parameters(), strict=True):
        if old.dim() == 4:  # the filters of every layer
            assert not torch.equal(old, new)


def test_batch_norm_learns_statistics_only():
    network = hebbian("hpca_fh")
    Pretraining(network, lr=0.01, adaptive=False).epoch(0, [images(), images()])
    norm = network.features[0][3]
    assert torch.equal(norm.weight, torch.ones(12))
    assert torch.equal(norm.bias, torch.zeros(12))
    assert not torch.equal(norm.running_var, torch.ones(12))


def test_evaluation_mode_learns_nothing():
    network = hebbian("swta_fh").eval()
    network(images())
    assert network.features[0][0].update is None


@pytest.mark.long
@pytest.mark.usefixtures("real")  # the bound is of that many neurons
@pytest.mark.parametrize("rule", FAST)
def test_bfloat16_learns_the_same_within_its_precision(rule):
    """From equal weights, one step: directions of the updates agree layer by layer.

    Where one neuron takes a patch, a close second may win it when rounded: few patches in a convolution, but
    the hidden layer has one an image."""
    least = 0.8 if rule in {"hebbgrad", "krotov"} else 0.99
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        network = hebbian(rule)
        start = [block[0].weight.detach().clone() for block in [*network.features, network.hidden]]
        Pretraining(network, lr=0.01, adaptive=False).epoch(0, [images(8).to(dtype)])
        weights = [block[0].weight for block in [*network.features, network.hidden]]
        assert all(weight.dtype == torch.float32 for weight in weights)
        moved[dtype] = [(weight - old).flatten() for weight, old in zip(weights, start, strict=True)]
        assert network.eval()(images(2).to(dtype)).dtype == dtype
    for exact, rounded in zip(*moved.values(), strict=True):
        assert nn.functional.cosine_similarity(exact, rounded, dim=0) > least


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("training", [True, False])
def test_layer_gives_out_the_rectified_projection(rule, training):
    layer = HebbianConv2d(3, 5, 3, rule=rule).train(training)
    expected = nn.functional.conv2d(images(), layer.filters()).relu()
    torch.testing.assert_close(layer(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_layer_learns_from_what_its_rule_asks_for(rule):
    """Unrectified where the rule has a response, though the output is rectified in the same memory."""
    layer, x, shape = HebbianConv2d(3, 5, 3, rule=rule), images(), {"stride": (1, 1), "padding": (0, 0)}
    projection, w = nn.functional.conv2d(x, layer.filters()), layer.weight.detach()
    respond = TRAITS[rule].response
    y = respond(x, projection, w, **shape) if respond else projection.relu()
    layer(x)
    torch.testing.assert_close(layer.update, RULES[rule](x, y.detach(), w, **shape), rtol=1e-3, atol=1e-5)


def test_softhebb_puts_out_the_triangle_of_its_currents():
    layer = HebbianConv2d(3, 5, 3, rule="softhebb").eval()
    currents = nn.functional.conv2d(images(), layer.weight.detach())
    triangle = (currents - currents.mean(1, keepdim=True)).relu()
    torch.testing.assert_close(layer(images()), triangle, rtol=1e-4, atol=1e-5)


def test_divergence_names_layer_rule_and_rate():
    learning = Pretraining(hebbian("hpca_fh"), lr=1e30, adaptive=False)
    with pytest.raises(NotFinite, match=r"features\.0\.0 .*hpca_fh.*1e\+30"):
        learning.epoch(0, [images()] * 3)


@pytest.mark.usefixtures("real")
def test_every_backbone_has_a_network():
    for name, plan in BACKBONES.items():
        with torch.device("meta"):  # shapes without numbers
            network = Network(name, plan.image_size)
        assert len(network.features) == len(plan.convolutions)
