"""What holds for all that pre-trains, whichever rule it follows."""

import pytest
import torch

from training.config import ABOUT, UNRULED, configure
from training.learning.by_rule import LEARNERS
from training.nets.backbones import Network
from training.pixels import load
from training.rules import RULES
from training.run import Run, learn, positions_of

CPU = torch.device("cpu")
pytestmark = pytest.mark.long
SMALL = {"dataset": "digits", "image_size": 28, "precision": "fp32", "device": "cpu", "labels": "10%"}


@pytest.fixture(scope="module")
def loaded():
    return load(configure(SMALL))


def test_every_rule_has_a_learner_but_none():
    assert LEARNERS.keys() == {*RULES, *UNRULED} - {"none"}


@pytest.mark.parametrize("rule", LEARNERS)
def test_what_a_search_tunes_are_numbers_of_the_pretraining(rule):
    names = LEARNERS[rule].searched
    assert all(ABOUT[name].stage == "early" and ABOUT[name].lowest is not None for name in names)
    assert names[0].endswith("_lr")  # each has a rate of its own, and it comes first


@pytest.mark.parametrize("rule", LEARNERS)
def test_the_recipe_best_takes_the_features_of_every_learner(loaded, rule):
    run = Run(configure(SMALL | {"rule": rule, "recipe": "best"}), None, loaded)
    learned = run.pretraining().weights()
    run.model.take(learned)
    taken = run.model.network.state_dict()
    assert {name.partition(".")[0] for name in taken} == {"features"}
    assert all(torch.equal(value, learned[name]) for name, value in taken.items())


@pytest.mark.parametrize("rule", ["hpca_fh", "softhebb", "vae", "hah"])
def test_learner_sees_its_images_and_leaves_a_plain_networks_weights(loaded, rule):
    run = Run(configure(SMALL | {"rule": rule}), None, loaded)
    run.fit_preprocessing()
    torch.manual_seed(0)
    learner = run.pretraining()
    from_labels = rule == "hah"  # all others see every image, and no label
    expected = run.split.training if from_labels else run.split.pretraining
    assert set(positions_of(run, learner)) == set(expected)
    assert len(run.split.training) < len(run.split.pretraining)
    before = {name: tensor.clone() for name, tensor in learner.weights().items()}
    learn(run, learner, 0, [torch.from_numpy(expected[:16])])
    after = learner.weights()
    plain = Network("conv6", 28)
    plain.load_state_dict(after)
    assert not torch.equal(after["features.0.0.weight"], before["features.0.0.weight"])


def test_labels_reach_a_learner_only_where_it_learns_from_them(loaded, monkeypatch):
    asked = []
    labelled = Run.labelled
    monkeypatch.setattr(
        Run, "labelled", lambda run, inputs: asked.append(run.config.rule) or labelled(run, inputs)
    )
    for rule in ("hpca_fh", "vae", "hah"):
        run = Run(configure(SMALL | {"rule": rule}), None, loaded)
        learn(run, run.pretraining(), 0, [torch.from_numpy(run.split.training[:8])])
    assert asked == ["hah"]


def test_autoencoder_is_asked_for_its_latents_by_the_configuration():
    chosen = configure(SMALL | {"rule": "vae", "vae_classifier": "latents", "latents": 8})
    weights = LEARNERS["vae"].configured(chosen, 10, CPU).weights()
    assert weights["latents.bias"].shape == (8,)
    plain = LEARNERS["vae"].configured(configure(SMALL | {"rule": "vae"}), 10, CPU).weights()
    assert "latents.bias" not in plain
