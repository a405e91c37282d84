"""One layer alone: that each rule moves it, and what is read out of it."""

import pytest
import torch

from tests.training.paper.conftest import configured
from training.paper import one_layer
from training.paper.timing import LAYERS
from training.run import Run, learn

pytestmark = pytest.mark.long


@pytest.mark.parametrize("rule", LAYERS)
def test_layer_learns_by_its_rule(rule, cifar, loaded):
    run = Run(configured(rule, cifar, whiten=False), None, loaded)
    run.fit_preprocessing()
    learner = one_layer.layer(run)
    before = learner.weights()["0.weight"].clone()
    assert before.shape == (96, 3, 5, 5)
    learn(run, learner, 0, run.groups(run.split.training[:4]))
    after = learner.weights()["0.weight"]
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)


def test_quadrants_are_means():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert one_layer.Quadrants()(x).tolist() == [[2.5, 4.5, 10.5, 12.5]]
