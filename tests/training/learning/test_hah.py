"""Hebbian/anti-Hebbian costs against a slow reference, and the training that adds them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, cross_entropy

from tests import reference
from training.config import configure
from training.learning.finetune import Classifier
from training.learning.hah import (
    COST_WEIGHTS,
    HaHConv2d,
    HebbianAntiHebbian,
    divisive_normalisation,
    hebbian_anti_hebbian_cost,
    strongest_locations,
    with_costs,
)
from training.nets.backbones import BACKBONES, Network, smallest_image

SIZE = smallest_image("conv6")

pytestmark = pytest.mark.usefixtures("narrow")


def activations(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype).relu()


def images(count=16, seed=0, dtype=torch.float32):
    """Stripes that lie across or stand, and which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    stripes = torch.sin(torch.arange(SIZE) * 1.5).expand(3, SIZE, SIZE)
    x = torch.stack([stripes.transpose(1, 2) if label else stripes for label in labels])
    return (x + 0.5 * torch.randn(x.shape, generator=generator)).to(dtype), labels


def learning(lr=1e-2, epochs=20, backbone="conv6", size=SIZE, cost_weights=COST_WEIGHTS):
    torch.manual_seed(0)
    network = with_costs(backbone, size, len(cost_weights))
    model = Classifier(network, BACKBONES[backbone].hidden, 2, dropout=0.0)
    return HebbianAntiHebbian(network, model, configure({"hah_lr": lr, "epochs": epochs}), cost_weights)


def batches(epoch, dtype=torch.float32, count=3):
    return [images(seed=10 * epoch + number, dtype=dtype) for number in range(count)]


# --- the functions ---


@pytest.mark.parametrize("shape", [(3, 20, 4, 5), (2, 7, 1, 1), (1, 1, 3, 3), (2, 96, 3, 3)])
@pytest.mark.parametrize(("share", "anti"), [(0.1, 0.1), (0.3, 1.0), (1.0, 0.5)])
def test_cost_is_that_of_each_location(shape, share, anti):
    a = activations(*shape)
    got = hebbian_anti_hebbian_cost(a, share=share, anti=anti)
    expected = reference.hebbian_anti_hebbian_cost_by_location(a.numpy(), share, anti)
    assert float(got) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_cost_promotes_the_strongest_and_demotes_the_others():
    a = activations(1, 20, 1, 1).add_(0.1).requires_grad_()
    hebbian_anti_hebbian_cost(a).backward()
    strongest = a.detach().flatten().topk(2).indices
    expected = torch.full((20,), 0.1 / 18, dtype=torch.float64)
    expected[strongest] = -1 / 2
    torch.testing.assert_close(a.grad.flatten(), expected)


@pytest.mark.parametrize("size", [(6, 5), (1, 1)])
def test_normalisation_is_that_of_each_location(size):
    x = activations(2, 9, *size)
    expected = torch.from_numpy(reference.divisive_normalisation_by_location(x.numpy(), 0.1))
    torch.testing.assert_close(divisive_normalisation(x), expected)


def test_normalisation_does_not_see_contrast():
    x = activations(2, 9, 6, 6) + 0.1
    torch.testing.assert_close(divisive_normalisation(1000 * x), divisive_normalisation(x), rtol=1e-5, atol=0)
    assert torch.equal(divisive_normalisation(0 * x), 0 * x)


@pytest.mark.parametrize(("size", "kept"), [((5, 4), 4), ((3, 3), 2), ((1, 1), 1)])
def test_threshold_keeps_the_strongest_fifth(size, kept):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) + 0.1
    out = strongest_locations(x)
    assert ((out > 0).flatten(2).sum(2) == kept).all()
    assert torch.equal(out.flatten(2).amax(2), x.flatten(2).amax(2))
    assert torch.equal(out[out > 0], x[out > 0])


# --- the layer ---


def test_layer_does_not_see_the_length_of_its_filters():
    layer, x = HaHConv2d(3, 10, 3), images(2)[0]
    before = layer(x).detach()
    with torch.no_grad():
        layer.weight.mul_(5)
    torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-5)
    assert layer.state_dict().keys() == nn.Conv2d(3, 10, 3, bias=False).state_dict().keys()


def test_gradient_is_the_classes_and_the_layers_own_cost():
    """No layer's filters move for the cost of a later one."""
    trained, (x, labels) = learning(), images()
    trained.model.train()
    trained.gradients((x, labels))
    got = {name: layer.weight.grad.clone() for name, layer in trained.layers.items()}
    inputs = {}
    for name, layer in trained.layers.items():
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0].detach()}))
    trained.model.zero_grad()
    cross_entropy(trained.model(x), labels).backward()
    for (name, layer), alpha in zip(trained.layers.items(), COST_WEIGHTS, strict=False):
        classes = layer.weight.grad.clone()
        layer.weight.grad = None
        cost = hebbian_anti_hebbian_cost(conv2d(inputs[name], layer.filters()).relu())
        (1000 * alpha * cost).backward()
        own = layer.weight.grad / 1000
        assert own.norm() > 0
        torch.testing.assert_close(got[name], classes + own, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("backbone", "layers"), [("conv6", 4), ("conv10", 6), ("vgg11", 6)])
def test_first_layers_have_costs(backbone, layers):
    with torch.device("meta"):
        trained = learning(backbone=backbone, size=BACKBONES[backbone].image_size)
    assert list(trained.layers) == [f"features.{number}.0" for number in range(layers)]
    assert trained.model.state_dict().keys() >= {"network.hidden.2.running_var", "linear.weight"}


# --- learning ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_learns_the_classes(dtype):
    trained, (x, labels) = learning(), images(40, seed=99, dtype=dtype)
    for epoch in range(3):
        trained.epoch(epoch, batches(epoch, dtype))
    with torch.no_grad():
        assert (trained.model.eval()(x).argmax(1) == labels).float().mean() > 0.9
    assert all(p.dtype == torch.float32 for p in trained.model.parameters())


def test_costs_make_strong_activations_stronger():
    """In the first layer, of the same filters after the same training with and without costs."""
    costs = {}
    for alpha in (0.0, 5.0):
        trained = learning(cost_weights=(alpha,))
        for epoch in range(2):
            trained.epoch(epoch, batches(epoch))
        layer = trained.layers["features.0.0"].train()
        layer(images(seed=99)[0])
        costs[alpha] = layer.cost.item()
    assert costs[5.0] < 1.1 * costs[0.0] < 0


@pytest.mark.parametrize(("backbone", "size"), [("conv6", SIZE), ("vgg11", 32)])
def test_plain_network_gives_the_same_projections(backbone, size):
    trained = learning(backbone=backbone, size=size)
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    trained.epoch(0, [(x, torch.tensor([0, 1, 0, 1]))])
    plain = Network(backbone, size)
    plain.load_state_dict(trained.weights())
    first = trained.layers["features.0.0"]
    with torch.no_grad():
        projections = conv2d(x, first.weight, padding=first.padding)
        projections /= first.weight.flatten(1).norm(dim=1).view(-1, 1, 1)
        torch.testing.assert_close(plain.features[0][0](x), projections, rtol=1e-4, atol=1e-4)
    for name, layer in trained.layers.items():
        norms = plain.get_submodule(name).weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-4, atol=0)
        assert layer.cost is None
    assert torch.equal(plain.hidden[0].weight, trained.model.network.hidden[0].weight)
    assert torch.isfinite(plain.eval()(x)).all()


def test_resumed_run_equals_an_uninterrupted_one():
    whole, begun = learning(epochs=2), learning(epochs=2)
    for epoch in range(2):
        whole.epoch(epoch, batches(epoch))
    begun.epoch(0, batches(0))
    resumed = learning(epochs=2)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    resumed.epoch(1, batches(1))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_divergence_names_the_way_out():
    with pytest.raises(FloatingPointError, match=r"epoch 1 .*1e\+30.*--set hah_lr=1e\+29"):
        learning(lr=1e30).epoch(0, batches(0))


def test_reference_by_hand():
    a = np.array([[[[3.0]], [[1.0]], [[0.0]], [[5.0]]]])
    assert reference.hebbian_anti_hebbian_cost_by_location(a, 0.5, 1.0) == 0.5 - 4.0
