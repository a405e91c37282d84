"""The same on a GPU. Run with `pytest -m gpu` where there is one."""

import re
from functools import partial

import pytest
import torch

from tests.training.test_build_index import QUICK, build, striped_folder
from training.config import configure
from training.learning.hebbian import HebbianConv2d, Pretraining, Replayed
from training.nets.backbones import Network
from training.rules import RULES, TRAITS
from training.run import Run

FAST = ["hpca_fh", "swta_fh", "hebbgrad", "krotov", "softhebb"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [8, 3])
def test_rules_agree_with_the_cpu(rule, size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, size, size, generator=generator, dtype=torch.float64)
    w = torch.randn(70, 5, 3, 3, generator=generator, dtype=torch.float64) / 7
    projection = torch.nn.functional.conv2d(x, w)
    respond = TRAITS[rule].response
    y = respond(x, projection / 3, w, stride=1, padding=0) if respond else projection.relu()
    on_gpu = RULES[rule](x.cuda(), y.cuda(), w.cuda())
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), RULES[rule](x, y, w), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", FAST)
def test_the_command_trains_there(tmp_path, rule):
    striped_folder(tmp_path / "pictures", 40)
    done = build(tmp_path, "--data", "pictures", *QUICK, "--rule", rule, "--device", "cuda")
    assert "mAP" in done.stdout


def learned(rule, step):
    """Weights after five steps of equal batches and two of smaller ones."""
    torch.manual_seed(0)
    network = Network("conv6", 32, partial(HebbianConv2d, rule=rule)).cuda()
    learning = Pretraining(network, lr=0.01, adaptive=True)
    learning.step = step(learning)
    generator = torch.Generator().manual_seed(1)
    sizes = [8] * 5 + [7] * 5
    learning.epoch(0, (torch.randn(size, 3, 32, 32, generator=generator).cuda() for size in sizes))
    return network.state_dict()


@pytest.mark.parametrize("rule", FAST)
def test_replayed_steps_learn_what_plain_ones_learn(rule):
    replayed = learned(rule, lambda learning: Replayed(learning.learn))
    plain = learned(rule, lambda learning: learning.learn)
    for name, tensor in plain.items():
        torch.testing.assert_close(replayed[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_the_command_trains_in_every_precision(tmp_path, precision):
    done = build(tmp_path, "--device", "cuda", "--precision", precision, "--epochs", "1", "--out", "here")
    assert float(re.search(r"mAP ([0-9.]+)", done.stdout)[1]) > 0.9


def test_small_sets_lie_on_the_device(tmp_path):
    run = Run(configure({"device": "cuda"}), tmp_path)
    assert run.pixels.is_cuda
    assert run.labels.is_cuda
    assert all(at.is_cuda for at in run.groups(run.split.training))


def test_no_step_waits_for_the_device(tmp_path):
    run = Run(configure({"device": "cuda"}), tmp_path)
    run.fit_preprocessing()
    network = Network("conv6", 32, partial(HebbianConv2d, rule="hpca_fh")).cuda()
    learning = Pretraining(network, lr=0.01, adaptive=True)
    groups = run.groups(run.split.pretraining)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _, inputs in run.inputs(groups):
            learning.learn(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
