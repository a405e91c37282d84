"""Renaming the tensors of one network for another of the same layers."""

import pytest
import torch

from tests.benchmarks.lite0 import relative_difference, renamed

THEIRS = {"_stem.weight": torch.ones(2, 3), "_bn.bias": torch.zeros(2), "_fc.weight": torch.ones(5, 2)}


def test_layers_keep_their_order_and_the_classifier_is_left_out() -> None:
    found = renamed(THEIRS, {"stem.weight": torch.empty(2, 3), "norm.bias": torch.empty(2)})
    assert list(found) == ["stem.weight", "norm.bias"]
    assert torch.equal(found["stem.weight"], THEIRS["_stem.weight"])


@pytest.mark.parametrize(
    "wanted", [{"stem.weight": torch.empty(3, 2)}, {"stem.bias": torch.empty(2, 3)}], ids=["shape", "kind"]
)
def test_another_network_is_refused(wanted: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"_stem\.weight \(2, 3\) is not stem"):
        renamed(THEIRS, wanted)


def test_difference_by_hand() -> None:
    features, others = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 5.0], [1.0, 0.0]])
    assert relative_difference(features, others) == pytest.approx(10**0.5 / 5)
