"""Shapes of the networks as the paper gives them."""

import pytest
import torch

from training.nets.backbones import (
    BACKBONES,
    Conv2d,
    Network,
    RescaledBatchNorm2d,
    Residual,
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
        ("soft3", 16, (768, 2, 2)),
        ("soft3", 32, (768, 2, 2)),
        ("soft3", 64, (768, 2, 2)),
        ("conv7", 32, (128, 2, 2)),
        ("resnet9", 32, (512, 4, 4)),
        ("resnet9", 75, (512, 4, 4)),
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


@pytest.mark.parametrize(("backbone", "most"), [(name, plan.most_side) for name, plan in BACKBONES.items()])
def test_features_are_bounded_where_the_row_says_so(backbone, most):
    size = 4 * BACKBONES[backbone].image_size
    assert (map_size(backbone, size) > map_size(backbone, size // 2)) == (most == 0)
    with torch.device("meta"):  # shapes without numbers
        assert features(backbone)(torch.empty(2, 3, size, size)).shape[-1] == map_size(backbone, size)


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


def test_overlapping_pool_takes_the_maximum_of_its_windows():
    pool = next(part for part in features("soft3")[0] if isinstance(part, torch.nn.MaxPool2d))
    x = torch.randn(2, 96, 6, 6)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
    expected = torch.stack(
        [
            torch.stack([padded[:, :, i : i + 4, j : j + 4].amax((2, 3)) for j in (0, 2, 4)], dim=-1)
            for i in (0, 2, 4)
        ],
        dim=-2,
    )
    assert torch.equal(pool(x), expected)


def test_large_map_is_averaged_to_the_side_that_the_row_allows():
    last = features("soft3")[-1][-1]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(last(x), torch.nn.functional.avg_pool2d(x, 4))
    assert torch.equal(last(x[..., :2, :2]), x[..., :2, :2])


@pytest.mark.parametrize("side", [4, 2])
def test_residual_block_adds_its_input_averaged_and_with_zeros_for_new_channels(side):
    layers = Conv2d(3, 5, 1), torch.nn.AdaptiveAvgPool2d(side)
    x = torch.randn(2, 3, 4, 4)
    expected = layers[1](layers[0](x)).detach()
    width = 4 // side
    for row in range(side):
        for column in range(side):
            part = x[:, :, width * row : width * (row + 1), width * column : width * (column + 1)]
            expected[:, :3, row, column] += part.mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(Residual(*layers)(x), expected)


def test_sums_of_a_residual_network_grow_by_one_variance_a_block_at_most():
    torch.manual_seed(0)
    x, blocks = torch.randn(16, 3, 32, 32), features("resnet9").train()
    with torch.no_grad():
        for number, block in enumerate(blocks, 1):
            x = block(x)
            assert isinstance(block, Residual) == (number > 1)
            assert 0.3 < float(x.var((0, 2, 3)).mean()) < number + 0.1


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
