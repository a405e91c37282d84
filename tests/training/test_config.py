"""Defaults, ranges and --set."""

import dataclasses
from inspect import signature
from typing import get_args, get_type_hints

import pytest

from training.build_index import parser
from training.config import ABOUT, Config, ConfigError, configure, from_json, parse_setting, percent
from training.rules import RULES, TRAITS


def test_defaults_come_from_data_set_backbone_and_rule():
    digits = configure({})
    assert (digits.backbone, digits.rule, digits.dataset, digits.image_size) == (
        "conv6", "hpca_fh", "digits", 32)  # fmt: skip
    assert not digits.whiten
    assert configure({"rule": "swta_fh"}).whiten
    assert configure({"backbone": "conv10"}).image_size == 162  # the smallest it can see
    assert configure({"backbone": "vgg11", "data": "x"}).image_size == 224
    paper = configure({"dataset": "cifar10", "data": "x", "rule": "vae"})
    assert (paper.epochs, paper.finetune_epochs, paper.weight_decay) == (20, 20, 5e-2)
    fewer = {rule: configure({"dataset": "cifar10", "data": "x", "rule": rule}).epochs for rule in RULES}
    assert {rule: epochs for rule, epochs in fewer.items() if epochs < 20} == {
        "swta": 1, "swta_fh": 1, "hpca": 12, "hpca_fh": 12}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "digits", "other", "adaptive", "whiten"),
    [
        ("swta", 0.1, 0.01, False, True),
        ("swta_fh", 0.1, 0.01, False, True),
        ("hpca", 0.06, 0.06, True, False),
        ("hpca_fh", 0.06, 0.06, True, False),
        ("none", 0.06, 0.06, True, False),
    ],
)
def test_rates_of_the_papers_rules(rule, digits, other, adaptive, whiten):
    for chosen, lr in [({}, digits), ({"data": "x"}, other), ({"dataset": "cifar10", "data": "x"}, other)]:
        config = configure({"rule": rule} | chosen)
        assert (config.hebbian_lr, config.hebbian_adaptive) == (lr, adaptive)
        own_swta = rule in {"swta", "swta_fh"} and config.dataset is None
        assert (config.whiten, config.temperature) == (whiten, 0.01 if own_swta else 0.02)


def test_a_residual_network_learns_slower_where_the_rules_own_rate_is_too_much():
    rates = {
        rule: configure({"backbone": "resnet9", "rule": rule}).hebbian_lr for rule in ("hpca_fh", "softhebb")
    }
    assert rates == {"hpca_fh": 6e-3, "softhebb": 8e-2}
    assert configure({"backbone": "resnet9", "rule": "hpca_fh", "hebbian_lr": 0.1}).hebbian_lr == 0.1


def test_every_rule_has_a_rate_and_its_own_temperature():
    have = {name for name, traits in TRAITS.items() if traits.temperature is not None}
    own = {name: signature(rule).parameters.get("temperature") for name, rule in RULES.items()}
    assert {name for name, parameter in own.items() if parameter} == have
    assert all(configure({"rule": rule}).temperature == own[rule].default for rule in have)
    assert configure({"rule": "softhebb", "temperature": 0.5}).temperature == 0.5


@pytest.mark.parametrize("rule", ["swta", "swta_fh"])
def test_what_images_were_found_to_need_stands_above_what_the_rule_has(rule):
    own = {"data": "x", "rule": rule}
    assert configure(own).temperature == 0.01
    assert configure(own | {"temperature": 0.02}).temperature == 0.02
    assert configure(own).epochs == 4 < configure({"data": "x", "rule": "hpca_fh"}).epochs == 12
    for chosen in ({}, {"dataset": "cifar10", "data": "x"}, {"dataset": "imagenet", "data": "x"}):
        assert configure({"rule": rule} | chosen).temperature == 0.02


def test_chosen_values_win():
    config = configure({"epochs": 3, "image_size": 48, "whiten": True, "head_epochs": 7})
    assert (config.epochs, config.image_size, config.whiten, config.head_epochs) == (3, 48, True, 7)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"backbone": "resnet"}, "backbone 'resnet': use one of conv6, conv10, vgg11, vgg13, vgg16, vgg19"),
        (
            {"rule": "oja"},
            "rule 'oja': use one of swta, swta_fh, hpca, hpca_fh, hebbgrad, krotov, softhebb, vae, hah, none",
        ),
        ({"head": "loose"}, "head 'loose': use one of frozen, joint"),
        ({"vae_classifier": "decoder"}, "vae_classifier 'decoder': use one of hidden, latents"),
        ({"schedule": "cosine"}, "schedule 'cosine': use one of text, code"),
        ({"dataset": "mnist"}, "dataset 'mnist': use one of digits"),
        ({"labels": "0%"}, "labels 0%: use 1% to 100%"),
        ({"labels": "101%"}, "labels 101%"),
        ({"labels": "nan%"}, "labels nan%"),
        ({"labels": "few%"}, "labels few%"),
        ({"epochs": -1}, "epochs -1: at least 0"),
        ({"bits": 100}, "bits 100: use a multiple of 8"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"grey_bits": 7}, "grey_bits 7: use 8 to 32, or 0"),
        ({"grey_bits": 33}, "grey_bits 33: use 8 to 32, or 0"),
        ({"hebbian_lr": float("nan")}, "hebbian_lr nan"),
        ({"image_size": 10}, "image size 10: conv6 needs at least"),
        ({"finetune_backbone": True}, "finetune_backbone: only for a backbone timm/NAME; conv6 has"),
    ],
)
def test_values_out_of_range_are_named(chosen, says):
    with pytest.raises(ConfigError, match=says):
        configure(chosen)


def test_settings_are_read_in_their_type():
    assert parse_setting("bits=128") == ("bits", 128)
    assert parse_setting("hebbian_lr=1e-3") == ("hebbian_lr", 1e-3)
    assert parse_setting("whiten=true") == ("whiten", True)


@pytest.mark.parametrize("text", ["bits", "colour=red", "bits=many", "whiten=maybe", "=3"])
def test_unknown_settings_are_refused(text):
    with pytest.raises(ConfigError, match=f"--set {text}"):
        parse_setting(text)


def test_an_unknown_setting_is_told_what_is_offered():
    with pytest.raises(ConfigError, match=r"use name=value with one of bits, whiten$"):
        parse_setting("colour=red", ["bits", "whiten"])


@pytest.mark.parametrize("name", ABOUT)
def test_every_setting_says_what_it_is(name):
    """Numbers have a lowest value, texts their choices, unless anything may be written."""
    about, kind = ABOUT[name], get_type_hints(Config)[name]
    assert about.of in {"cell", "table", "method"}
    assert about.stage in {"early", "late"}
    assert (about.lowest is not None) == (kind in {int, float})
    anything = name in {"backbone", "data", "labels", "device", "weights"}
    assert bool(about.choices) == ((kind is str or str in get_args(kind)) and not anything)
    # Of a cell's own values, the results' configurations say nothing: they must be known otherwise.
    assert about.settled or about.of != "cell"
    assert about.changeable == name.endswith("_lr")
    if name.startswith(("head", "finetune")):
        assert about.stage == "late"


def test_every_setting_has_a_flag_or_what_help_says_of_it():
    flags = {action.dest for action in parser()._actions}
    assert {field.name for field in dataclasses.fields(Config)} == ABOUT.keys()
    assert flags & ABOUT.keys() == {name for name, about in ABOUT.items() if about.help is None}


@pytest.mark.parametrize("name", [name for name, about in ABOUT.items() if about.lowest is not None])
def test_every_number_is_held_to_its_lowest(name):
    written = dataclasses.asdict(configure({}))
    with pytest.raises(ConfigError, match=f"{name} .*: at least {ABOUT[name].lowest} is needed"):
        from_json(written | {name: type(written[name])(ABOUT[name].lowest - 1)})


@pytest.mark.parametrize("name", [name for name, about in ABOUT.items() if about.choices])
def test_every_choice_is_held_to_what_there_is(name):
    with pytest.raises(ConfigError, match=f"{name} 'other': use one of {ABOUT[name].choices[0]}"):
        from_json(dataclasses.asdict(configure({})) | {name: "other"})


@pytest.mark.parametrize(
    ("text", "share"),
    [("1%", 1.0), ("0.5%", 0.5), ("0%", 0.0), ("100%", 100.0), ("101%", None), ("-1%", None), ("nan%", None)]
    + [(text, None) for text in ("none", "5", "%", "few%", "some.csv", "")],
)
def test_a_share_of_the_labels_is_told_from_other_texts(text, share):
    assert percent(text) == share


@pytest.mark.parametrize(
    ("chosen", "recipe"),
    [
        ({}, "paper"),
        ({"backbone": "vgg11", "rule": "swta_fh"}, "paper"),
        ({"dataset": "cifar10", "data": "x"}, "paper"),
        ({"data": "x"}, "best"),
        ({"data": "x", "labels": "none", "seed": 3, "image_size": 48, "bits": 64}, "best"),
        ({"data": "x", "backbone": "vgg11"}, "paper"),
        ({"data": "x", "rule": "swta_fh"}, "paper"),
        ({"data": "x", "finetune_epochs": 5}, "paper"),
        ({"data": "x", "head": "joint"}, "paper"),
        ({"data": "x", "head_lr": 0.1, "recipe": "best"}, "best"),
        ({"data": "x", "recipe": "paper"}, "paper"),
    ],
)
def test_own_images_are_learned_by_the_best_recipe_unless_something_of_the_paper_is_named(chosen, recipe):
    assert configure(chosen).recipe == recipe


def test_labels():
    assert configure({"labels": "1%"}).fraction() == 0.01
    assert configure({"labels": "none"}).fraction() == 0
    assert configure({"labels": "some.csv"}).fraction() == 1
    assert str(configure({"labels": "some.csv"}).labels_file()) == "some.csv"
    assert configure({"labels": "5%"}).labels_file() is None


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"recipe": "best", "data": "x"}, ("soft3", "softhebb", 1, 10)),
        ({"recipe": "best", "dataset": "cifar10"}, ("soft3", "softhebb", 1, 10)),
        ({"recipe": "best", "data": "x", "backbone": "conv6"}, ("conv6", "hpca_fh", 12, 10)),
        ({"recipe": "best", "data": "x", "rule": "swta_fh"}, ("conv6", "swta_fh", 4, 10)),
        ({"recipe": "best", "data": "x", "student_epochs": 0}, ("soft3", "softhebb", 1, 0)),
        ({"recipe": "best"}, ("conv6", "hpca_fh", 5, 0)),  # the digits
        ({"data": "x"}, ("soft3", "softhebb", 1, 10)),
        ({"data": "x", "recipe": "paper"}, ("conv6", "hpca_fh", 12, 0)),
    ],
)
def test_recipe_best_chooses_what_is_not_given_for_own_images(chosen, expected):
    config = configure(chosen)
    assert (config.backbone, config.rule, config.epochs, config.student_epochs) == expected
