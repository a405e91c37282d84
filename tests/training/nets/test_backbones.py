"""Shapes of the networks as the paper gives them."""

import pytest
import torch

from training.nets.backbones import (
    BACKBONES,
    Conv2d,
    Network,
    RescaledBatchNorm2d,
    convolve,
    feature_count,
    features,
    map_size,
    smallest_image,
)


@pytest.mark.parametrize(
    ("backbone", "size", "shape"),
    [
        ("conv6", 32, (256, 3, 3)),
        ("conv10", 210, (512, 3, 3)),
        ("vgg11", 224, (512, 7, 7)),
        ("vgg11", 32, (512, 1, 1)),
        ("vgg16", 64, (512, 2, 2)),
    ],
)
def test_map_of_the_convolutional_part(backbone, size, shape):
    with torch.no_grad():
        maps = features(backbone).eval()(torch.zeros(1, 3, size, size))
    assert maps.shape[1:] == shape
    assert map_size(backbone, size) == shape[1]
    assert feature_count(backbone, size) == shape[0] * shape[1] * shape[2]


@pytest.mark.long
@pytest.mark.parametrize(("backbone", "letter", "count"), [
    ("vgg11", "A", 8), ("vgg13", "B", 10), ("vgg16", "D", 13), ("vgg19", "E", 16)])  # fmt: skip
def test_vgg_has_the_convolutions_of_torchvision(backbone, letter, count):
    from torchvision.models import vgg  # four seconds

    ours = BACKBONES[backbone].convolutions
    assert len(ours) == count
    assert all((conv.kernel, conv.padding) == (3, 1) for conv in ours)
    listed = [entry for conv in ours for entry in [conv.channels, "M"][: conv.pool]]
    assert listed == vgg.cfgs[letter]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_smallest_image_is_the_smallest_that_runs(backbone):
    size = smallest_image(backbone)
    with torch.no_grad():
        assert features(backbone).eval()(torch.zeros(1, 3, size, size)).shape[-1] == 1
        with pytest.raises(RuntimeError):
            features(backbone).eval()(torch.zeros(1, 3, size - 1, size - 1))


def test_norm_follows_the_pool_in_conv6_and_precedes_it_in_vgg11():
    assert [type(part).__name__ for part in features("conv6")[0]] == [
        "Conv2d", "ReLU", "MaxPool2d", "BatchNorm2d"]  # fmt: skip
    assert [type(part).__name__ for part in features("vgg11")[0]] == [
        "Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d"]  # fmt: skip


def test_hidden_layer_sees_the_whole_map():
    network = Network("conv6", 32)
    assert network.hidden[0].weight.shape == (4096, 256, 3, 3)
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 4096)


@pytest.mark.parametrize(("size", "kernel", "padding"), [(5, 5, 0), (5, 3, 0), (5, 5, 1), (1, 1, 0)])
def test_convolve_is_a_convolution(size, kernel, padding):
    layer = Conv2d(4, 6, kernel, padding=padding)
    x = torch.randn(3, 4, size, size)
    expected = torch.nn.functional.conv2d(x, layer.weight, None, 1, padding)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(convolve(x, layer.weight, 1, padding), expected)


@pytest.mark.parametrize(
    ("backbone", "layers"), [("conv6", {3, 4, 5}), ("conv10", {7, 8, 9}), ("vgg11", {9}), ("vgg16", {14})]
)
def test_layers_whose_norm_is_rescaled_are_those_of_the_authors_code(backbone, layers):
    size = smallest_image(backbone)
    with torch.device("meta"):
        plain, rescaled = (Network(backbone, size, rescale=rescale) for rescale in (False, True))
    blocks = [*rescaled.features, rescaled.hidden]
    norms = [next(part for part in block if isinstance(part, torch.nn.BatchNorm2d)) for block in blocks]
    assert {at for at, norm in enumerate(norms, 1) if isinstance(norm, RescaledBatchNorm2d)} == layers
    assert not any(isinstance(module, RescaledBatchNorm2d) for module in plain.modules())
    assert plain.state_dict().keys() == rescaled.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rescaled_norm_keeps_relative_variance(dtype):
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1.0, 3.0]).view(3, 1, 1)
    x = (torch.randn(64, 3, 8, 8, generator=generator) * spread + 5).to(dtype)
    norm = RescaledBatchNorm2d(3, momentum=1.0)  # the running variance is that of the last batch
    variance = x.float().var((0, 2, 3))
    out = norm(x)
    assert out.dtype == dtype
    tolerance = {torch.float32: 1e-3, torch.bfloat16: 2e-2}[dtype]
    expected = variance / variance.mean()
    for y in (out, norm.eval()(x)):
        torch.testing.assert_close(y.float().var((0, 2, 3)), expected, rtol=tolerance, atol=1e-3)
        assert y.float().mean((0, 2, 3)).abs().max() < 0.02
    with torch.no_grad():
        norm.bias.fill_(1.0)  # rescaled too
    torch.testing.assert_close(norm(x).float().mean((0, 2, 3)), expected.sqrt(), rtol=0.02, atol=0.02)
