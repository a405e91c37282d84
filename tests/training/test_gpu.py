"""The same on a GPU. Run with `pytest -m gpu` where there is one."""

import pytest
import torch

from tests.training.test_build_index import QUICK, build, stripes
from training.rules import RULES, raised_cosine

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
    y = projection.relu()
    if rule.startswith("swta"):
        y = raised_cosine(x, projection / 3, w, stride=1, padding=0)
    on_gpu = RULES[rule](x.cuda(), y.cuda(), w.cuda())
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), RULES[rule](x, y, w), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", ["hpca_fh", "swta_fh"])
def test_the_command_trains_there(tmp_path, rule):
    for number in range(40):
        stripes(
            tmp_path / "pictures" / ("across" if number % 2 else "down") / f"{number}.png", number % 2, number
        )
    done = build(tmp_path, "--data", "pictures", *QUICK, "--rule", rule, "--device", "cuda")
    assert "mAP" in done.stdout
