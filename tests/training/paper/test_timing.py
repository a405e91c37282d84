"""Tables 1, 4 and 5: what their figures are and where they come from. Nothing here asserts a duration."""

import csv
import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from training import reproduce
from training.config import ConfigError, configure
from training.data import DataError
from training.device import describe
from training.paper import tables, timing
from training.paper.cells import Cell, Cells
from training.paper.tables import Key, TableError
from training.paper.timing import Sampling, Trajectories
from training.pixels import load
from training.run import Run

NOTHING = Sampling(rounds=2, batches=2, two_phase_batches=1)


@pytest.fixture(autouse=True)
def next_to_nothing(monkeypatch):
    monkeypatch.setattr(timing, "SAMPLING", {"cpu": NOTHING})
    monkeypatch.setattr(timing, "set_up_process", lambda precision: None)  # it would outlast the test


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Red and blue noise as CIFAR-10's image folders: 40 training and 4 test images, 8 to validate."""
    root, random = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 2)):
        for channel, name in ((0, "red"), (2, "blue")):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 100, (32, 32, 3), np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def configured(rule, cifar, **more):
    chosen = {"rule": rule, "dataset": "cifar10", "data": str(cifar), "device": "cpu", "precision": "fp32"}
    return configure(chosen | {"epochs": 2, "batch_size": 8} | more)


@pytest.fixture(scope="module")
def loaded(cifar):
    return load(configured("hpca_fh", cifar))


def arguments(cifar, tmp_path, table=4, *more):
    return [
        *("--table", str(table), "--dataset", "cifar10", "--data", str(cifar), "--seeds", "2"),
        *("--device", "cpu", "--precision", "fp32", "--set", "batch_size=4", "--set", "epochs=2"),
        *("--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *more),
    ]


def figures(path):
    return {(row.method, row.metric): row for row in tables.read_csv(path)}


# --- durations ---


def test_cases_take_turns_and_preparing_is_not_timed(caplog):
    caplog.set_level("INFO", "hebbsearch")
    now, order = [0.0], []

    def case(name, seconds):
        def prepare():
            now[0] += 1000

            def go():
                order.append(name)
                now[0] += seconds

            return go

        return prepare

    cases = {"a": case("a", 1), "b": case("b", 2), "c": case("c", 3)}
    found = timing.interleaved(cases, 3, clock=lambda: now[0])
    assert found == {"a": [1] * 3, "b": [2] * 3, "c": [3] * 3}
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"  # the first round warms up
    said = [message.rsplit(",", 1)[0] for message in caplog.messages]
    assert said == [f"timed: {done} of 4 rounds" for done in (1, 2, 3, 4)]


def test_epoch_duration_is_the_median_round_extrapolated(monkeypatch, cifar, loaded):
    run = Run(configured("swta", cifar), None, loaded)
    fast = Run(configured("swta_fh", cifar), None, loaded)
    rounds = {"swta": [3.0, 5.0, 4.0], "swta_fh": [0.2, 0.2, 0.2]}
    monkeypatch.setattr(timing, "interleaved", lambda goes, count: rounds)
    learners = {"swta": (run, run.pretraining()), "swta_fh": (fast, fast.pretraining())}
    assert len(run.split.pretraining) == 32  # four batches
    found = timing.durations(learners, Sampling(3, 2, 1))
    assert found["swta"] == {"epoch_duration": 16, "deviation": 4, "rounds": 3, "timed_batches": 3}
    fast = {"epoch_duration": 0.4, "deviation": 0, "rounds": 3, "timed_batches": 6}
    assert found["swta_fh"] == pytest.approx(fast)


def test_no_more_batches_are_timed_than_an_epoch_has(monkeypatch, cifar, loaded):
    run = Run(configured("hpca_fh", cifar), None, loaded)
    monkeypatch.setattr(timing, "interleaved", lambda goes, count: {"hpca_fh": [1.0, 1.0]})
    found = timing.durations({"hpca_fh": (run, run.pretraining())}, Sampling(2, 1000, 1))["hpca_fh"]
    assert (found["epoch_duration"], found["timed_batches"]) == (1, 8)


def test_rounds_see_other_images_of_the_pretraining_part(monkeypatch, cifar, loaded):
    run, seen = Run(configured("hpca_fh", cifar), None, loaded), []
    monkeypatch.setattr(timing, "learn", lambda run, learner, epoch, groups: seen.append(groups))
    rounds = iter(range(2))
    for _ in range(2):
        timing.some_batches(run, run.pretraining(), 2, rounds)()
    first, second = (torch.cat(groups).tolist() for groups in seen)
    assert len(first) == len(second) == 16
    assert first != second
    assert set(first) | set(second) <= set(run.split.pretraining.tolist())


def test_preprocessing_is_fitted_once_for_all_to_whom_it_is_the_same(monkeypatch, cifar, loaded):
    fitted, fit = [], Run.fit_preprocessing
    monkeypatch.setattr(Run, "fit_preprocessing", lambda run: fitted.append(run.config.rule) or fit(run))
    rules = ("swta_fh", "hpca_fh", "softhebb", "swta", "vae")  # of which swta and swta_fh whiten
    runs = timing.prepared({rule: configured(rule, cifar) for rule in rules}, loaded)
    assert fitted == ["swta_fh", "hpca_fh"]
    for rule, same in (("swta", "swta_fh"), ("vae", "hpca_fh"), ("softhebb", "hpca_fh")):
        assert runs[rule].config.whiten == runs[same].config.whiten
        expected = runs[same].model.normalise.state_dict()
        for name, tensor in runs[rule].model.normalise.state_dict().items():
            assert torch.equal(tensor, expected[name])


# --- epochs to convergence ---


@pytest.mark.parametrize(
    ("accuracies", "epoch"),
    [
        ([0.3], 1),
        ([0.3, 0.4, 0.5], 3),
        ([0.495, 0.4, 0.5], 1),
        ([0.4949, 0.4, 0.5, 0.5], 3),
        ([0.5, 0.4, 0.3], 1),
    ],
)
def test_converged_is_first_within_half_a_point_of_the_best(accuracies, epoch):
    assert timing.converged(accuracies) == epoch


@pytest.mark.parametrize("rule", ["hpca_fh", "vae"])
def test_trajectory_is_that_of_a_run(rule, cifar, loaded):
    config = configured(rule, cifar)
    run, reference = Run(config, None, loaded), Run(config, None, loaded)
    accuracies = timing.trajectory(run)
    reference.learn_features()
    for name, tensor in reference.model.network.state_dict().items():
        torch.testing.assert_close(run.model.network.state_dict()[name], tensor, msg=name)
    assert len(accuracies) == 2
    assert accuracies[-1] == timing.readout(run)


def test_digits_are_read_better_than_by_chance():
    chosen = {"dataset": "digits", "device": "cpu", "precision": "fp32", "epochs": 1}
    run = Run(configure(chosen), None)
    run.learn_features()
    assert timing.readout(run, 300) > 0.7


def test_readout_never_looks_at_a_test_image(monkeypatch, cifar, loaded):
    run, seen = Run(configured("hpca_fh", cifar), None, loaded), set()
    features = run.features
    monkeypatch.setattr(
        run, "features", lambda groups: features(seen.update(g.tolist()) or g for g in groups)
    )
    timing.readout(run)
    assert seen == set(run.split.training.tolist()) | set(run.split.validation.tolist())
    seen.clear()
    timing.readout(run, 5)
    assert len(seen) == 10


def test_interrupted_trajectory_goes_on_where_it_was(monkeypatch, cifar, loaded, tmp_path):
    config = configured("hpca_fh", cifar, epochs=3)
    whole = timing.trajectory(Run(config, None, loaded))
    learn = timing.learn

    def stops(run, learner, epoch, groups):
        if epoch == 2:
            raise KeyboardInterrupt
        learn(run, learner, epoch, groups)

    monkeypatch.setattr(timing, "learn", stops)
    with pytest.raises(KeyboardInterrupt):
        timing.trajectory(Run(config, tmp_path, loaded))
    epochs = []
    monkeypatch.setattr(timing, "learn", lambda *args: epochs.append(args[2]) or learn(*args))
    assert timing.trajectory(Run(config, tmp_path, loaded)) == pytest.approx(whole)
    assert epochs == [2]


def test_finished_runs_are_skipped_and_the_file_says_what_they_were(
    monkeypatch, caplog, cifar, loaded, tmp_path
):
    caplog.set_level("INFO", "hebbsearch")
    made = []

    def trajectory(run):
        made.append((run.config.rule, run.config.seed))
        return [0.25, 0.5 + run.config.seed / 100]

    monkeypatch.setattr(timing, "trajectory", trajectory)
    configs = {rule: configured(rule, cifar) for rule in ("hpca_fh", "swta_fh")}
    finished = Trajectories(tmp_path, "cifar10-conv6")
    for seeds in (1, 2):
        timing.converge(configs, seeds, finished, lambda: loaded, tmp_path / "work")
    assert made == [("hpca_fh", 0), ("swta_fh", 0), ("hpca_fh", 1), ("swta_fh", 1)]
    said = [line.rsplit(",", 1)[0] for line in caplog.messages if "converged" in line]
    assert said == [
        f"{rule}, seed {seed}: converged in epoch 2; {number} of 2 runs"
        for seed in (0, 1)
        for number, rule in enumerate(configs, 1)
    ]
    assert [each.accuracies for each in finished.of("swta_fh")] == [[0.25, 0.5], [0.25, 0.51]]
    timing.converge(configs, 2, finished, None, None)  # nothing is left, not even images are read
    lines = (tmp_path / "convergence" / "cifar10-conv6.csv").read_text().splitlines()
    assert lines[0] == "method,seed,epoch,readout_accuracy,config,machine,database"
    first = Cells(tmp_path, "").config_id(configs["hpca_fh"])
    machine = describe(torch.device("cpu"))
    assert lines[1:3] == [
        f'hpca_fh,0,{epoch},{accuracy},{first},"{machine}",32' for epoch, accuracy in ((1, 0.25), (2, 0.5))
    ]
    assert len(lines) == 9
    assert (tmp_path / "configs" / f"{Cells(tmp_path, '').config_id(configs['swta_fh'])}.json").exists()
    assert not list((tmp_path / "work" / "convergence").glob("*/*"))
    finished.check("hpca_fh", configs["hpca_fh"])
    with pytest.raises(TableError, match=r"its epochs of hpca_fh have configuration .* another folder"):
        finished.check("hpca_fh", dataclasses.replace(configs["hpca_fh"], epochs=9))
    fewer = timing.smaller(loaded, 20)
    with pytest.raises(TableError, match="its cells have 32 database, this run 16: other images"):
        timing.converge(configs, 3, finished, lambda: fewer, tmp_path / "work")
    assert len(made) == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method,seed\n", "the columns should be method,seed,epoch,readout_accuracy,config,machine,database"),
        ("{}vae,0,2,0.5,x,m,9\n", "line 2: epoch 2 where 1 should be; mend or remove it"),
        ("{}vae,0,1,much,x,m,9\n", "line 2: .*much"),
        ("{}vae,0,1\n", "line 2: not enough values"),
    ],
)
def test_damaged_trajectories_are_named(tmp_path, text, says):
    finished = Trajectories(tmp_path, "x")
    finished.path.parent.mkdir()
    finished.path.write_text(text.format(",".join(Trajectories.COLUMNS) + "\n"))
    with pytest.raises(TableError, match=rf"x\.csv.*{says}"):
        finished.read()


def test_what_cannot_converge_says_so(cifar, loaded):
    with pytest.raises(ConfigError, match="epochs 0: at least 1"):
        timing.trajectory(Run(configured("hpca_fh", cifar, epochs=0), None, loaded))
    run = Run(configured("hpca_fh", cifar, labels="none"), None, loaded)
    for figure in (timing.trajectory, timing.layer_readout):
        with pytest.raises(DataError, match="no labelled images to validate on"):
            figure(run)


# --- the tables ---


def test_names_are_the_papers():
    for number, table in timing.TABLES.items():
        for dataset in table.backbones:
            paper = {key.method for key in tables.paper(number, dataset)}
            assert paper == set(table.names.values()), (number, dataset)


def test_networks_table_has_every_figure(monkeypatch, cifar, loaded, tmp_path):
    ran = []

    def trajectory(run):
        ran.append(run.config.rule)
        return [0.3, 0.5] if run.config.seed else [0.5, 0.5]

    monkeypatch.setattr(timing, "trajectory", trajectory)
    configs = {rule: configured(rule, cifar, batch_size=4) for rule in ("vae", "hpca", "hpca_fh")}
    paper = {Key("HPCA", "", "epoch_duration"): 383.0}
    work = tmp_path / "work"
    request = timing.Request(list(configs), configs, 2, tmp_path, work)
    timing.time_networks(request, lambda: loaded)
    rows = list(timing.network_rows(request, paper))
    assert set(ran) == {"vae", "hpca_fh"}
    by = {(row.method, row.metric): row for row in rows}
    for method, batches in (("VAE", 4), ("HPCA", 2), ("HPCA-FH", 4)):
        epoch, count = by[method, "epoch_duration"], by[method, "epochs"]
        assert epoch.mean > 0
        assert epoch.seeds == 2  # rounds
        assert (count.mean, count.seeds, count.std) == (1.5, 2, pytest.approx(math.sqrt(0.5)))
        assert by[method, "total_duration"].mean == pytest.approx(1.5 * epoch.mean)
        assert by[method, "timed_batches"].mean == batches
        assert epoch.machine == count.machine == describe(torch.device("cpu"))
    assert by["HPCA", "epoch_duration"].paper == 383
    assert (
        by["HPCA", "epochs"].config
        == by["HPCA-FH", "epochs"].config
        == Cells(tmp_path, "").config_id(configs["hpca_fh"])
    )
    assert by["HPCA", "epoch_duration"].config == Cells(tmp_path, "").config_id(configs["hpca"])
    text = timing.markdown(rows, request.durations().newest())
    assert "| timed batches |" in text
    assert "extrapolated" in text
    assert text.endswith(f"- run 1, {describe(torch.device('cpu'))}: VAE, HPCA, HPCA-FH\n")
    ours, papers = timing.bars(rows)
    assert list(ours) == ["VAE", "HPCA", "HPCA-FH"]
    assert papers == {"HPCA": 383}


def test_what_is_compared_is_measured_in_one_run_and_only_what_is_missing(tmp_path):
    store = timing.Durations(tmp_path, "x")

    def measured(number, *methods):
        for method in methods:
            store.add(Cell(method, "", 0, "c", "m", {"run": number, "epoch_duration": 10 * number}))

    assert store.missing(["vae", "swta"]) == ["vae", "swta", "swta_fh"]
    measured(1, "vae", "hpca_fh")
    assert store.missing(["vae", "hpca_fh"]) == []
    assert store.missing(["vae", "hpca"]) == ["hpca", "hpca_fh"]  # the original and its rival, by turns
    measured(2, "hpca", "hpca_fh")
    assert store.missing(["vae", "hpca", "hpca_fh"]) == []
    found = {method: cell.figures["run"] for method, cell in store.newest().items()}
    assert found == {"vae": 1, "hpca": 2, "hpca_fh": 2}
    assert len(store.read()) == 4  # nothing is dropped
    measured(3, "hpca_fh")  # as if the file had been edited: no longer of one run
    assert store.missing(["hpca_fh"]) == []
    assert store.missing(["hpca"]) == ["hpca", "hpca_fh"]


def test_layers_table_through_the_command_and_again(monkeypatch, caplog, cifar, tmp_path, capsys):
    caplog.set_level("INFO", "hebbsearch")
    # Whitening learned from 32 images amplifies what they lack: noise, in all others.
    command = arguments(cifar, tmp_path, 4, "--seeds", "1", "--set", "whiten=false")
    reproduce.run_command(command)
    out = tmp_path / "out"
    by = figures(out / "table4-cifar10.csv")
    assert {method for method, _ in by} == set(timing.LAYERS.values())
    for name in timing.LAYERS.values():
        assert by[name, "epoch_duration"].mean > 0
        assert by[name, "epoch_duration"].paper is not None
        assert by[name, "readout_validation"].mean > 70  # of red and blue
        assert by[name, "readout_validation"].seeds == 1
        assert (by[name, "top1"].mean, by[name, "top1"].seeds) == (None, 0)
    assert by["SWTA", "readout_validation"] == dataclasses.replace(
        by["SWTA-FH (this work)", "readout_validation"], method="SWTA"
    )
    text = (out / "table4-cifar10.md").read_text()
    assert text in capsys.readouterr().out
    assert "top1" not in text
    assert (out / "table4-cifar10.png").stat().st_size > 1000
    cells = Cells(out, "cifar10-layer").read()
    assert len(cells) == 6  # six learn, two are the originals
    assert [line for line in caplog.messages if "6 of 6 layers, about 0 min left" in line]

    table = (out / "table4-cifar10.csv").read_bytes()
    monkeypatch.setattr(timing, "load", None)  # nothing is left to compute
    reproduce.run_command(command)
    reproduce.run_command([*command, "--methods", "hah"])
    assert Cells(out, "cifar10-layer").read() == cells
    assert (out / "table4-cifar10.csv").read_bytes() == table
    with pytest.raises(TableError, match="cells of hebbgrad have configuration"):
        reproduce.run_command([*command, "--set", "batch_size=16", "--methods", "softhebb"])


def test_layers_of_other_images_are_refused_before_they_learn(monkeypatch, cifar, loaded, tmp_path):
    configs = {"hpca_fh": configured("hpca_fh", cifar)}
    request = timing.Request(["hpca_fh"], configs, 1, tmp_path, tmp_path / "work")
    timing.time_layers(request, lambda: loaded)
    monkeypatch.setattr(timing, "learn", None)
    fewer = timing.smaller(loaded, 20)
    with pytest.raises(
        TableError, match=r"cells/cifar10-layer\.csv: its cells have 32 database, this run 16"
    ):
        timing.time_layers(dataclasses.replace(request, seeds=2), lambda: fewer)
    (tmp_path / "cells" / "cifar10-layer.csv").unlink()  # durations are not of other images either
    monkeypatch.setattr(timing, "layer_readout", lambda run: 0.5)
    more = dataclasses.replace(request, methods=["krotov"], configs={"krotov": configured("krotov", cifar)})
    with pytest.raises(
        TableError, match=r"durations/cifar10-layer\.csv: its cells have 32 database, this run"
    ):
        timing.time_layers(more, lambda: fewer)


def test_networks_table_grows_by_what_is_asked_for(monkeypatch, cifar, tmp_path):
    monkeypatch.setattr(timing, "trajectory", lambda run: [0.5, 0.5])
    monkeypatch.setattr(timing, "learn", lambda *args: None)  # other tests learn
    reproduce.run_command(arguments(cifar, tmp_path, 1, "--methods", "swta", "--set", "whiten=false"))
    out = tmp_path / "out"
    first = figures(out / "table1-cifar10.csv")
    assert {method for method, _ in first} == {"SWTA", "SWTA-FH"}  # which are compared
    assert first["SWTA", "total_duration"].paper == 254
    lines = list(csv.DictReader((out / "convergence/cifar10-conv6.csv").read_text().splitlines()))
    assert {line["method"] for line in lines} == {"swta_fh"}
    reproduce.run_command(arguments(cifar, tmp_path, 1, "--methods", "vae"))
    both = figures(out / "table1-cifar10.csv")
    assert {method for method, _ in both} == {"VAE", "SWTA", "SWTA-FH"}
    assert {key: row for key, row in both.items() if key in first} == first
    text = (out / "table1-cifar10.md").read_text()
    assert re.search(r"- run 1, .*: SWTA, SWTA-FH\n- run 2, .*: VAE\n$", text)
    with pytest.raises(
        TableError, match=r"durations/cifar10-conv6.csv: its cells of .*\(batch_size 4 there, 8"
    ):
        reproduce.run_command(arguments(cifar, tmp_path, 1, "--methods", "hpca", "--set", "batch_size=8"))
    assert figures(out / "table1-cifar10.csv") == both


@pytest.mark.slow  # half a minute, of two-phase learning
def test_vgg11_from_imagenets_layout(cifar, tmp_path):
    (tmp_path / "imagenet").mkdir()
    for part, source in (("train", "train"), ("val", "test")):
        (tmp_path / "imagenet" / part).symlink_to(cifar / source)
    given = arguments(tmp_path / "imagenet", tmp_path, 5, "--methods", "hpca", "--seeds", "1")
    given[given.index("cifar10")] = "imagenet"
    reproduce.run_command([*given, "--set", "image_size=32", "--set", "epochs=1"])
    by = figures(tmp_path / "out" / "table5-imagenet.csv")
    assert {method for method, _ in by} == {"HPCA", "HPCA-FH"}
    for method, hours in (("HPCA", 5896), ("HPCA-FH", 83 + 25 / 60)):
        assert by[method, "epochs"].mean == 1
        assert by[method, "total_duration"].paper == pytest.approx(3600 * hours)
        assert by[method, "total_duration"].mean == by[method, "epoch_duration"].mean > 0


def test_interrupted_it_shows_what_is_known(monkeypatch, cifar, tmp_path):
    monkeypatch.setattr(timing, "trajectory", lambda run: [0.25, 0.5])

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "durations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce.run_command(arguments(cifar, tmp_path, 1, "--methods", "vae", "hpca"))
    by = figures(tmp_path / "out" / "table1-cifar10.csv")
    assert by.keys() == {("VAE", "epochs"), ("HPCA-FH", "epochs")}


@pytest.mark.parametrize("table", [1, 4])
def test_quick_is_small_and_has_files_of_its_own(monkeypatch, cifar, tmp_path, table):
    asked = []
    monkeypatch.setattr(timing, "smaller", lambda loaded, count: asked.append(count) or loaded)
    command = ["--table", str(table), "--dataset", "cifar10", "--data", str(cifar), "--quick"]
    command += ["--device", "cpu", "--precision", "fp32", "--methods", "hpca_fh", "--set", "whiten=false"]
    command += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    reproduce.run_command(command)
    assert asked == [1200]
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    files = {name for name in files if not name.endswith((".lock", ".json"))}
    of = "conv6" if table == 1 else "layer"
    known = "convergence" if table == 1 else "cells"
    tables_ = {f"table{table}-cifar10-quick.{kind}" for kind in ("csv", "md", "png")}
    assert files == tables_ | {f"{known}/cifar10-{of}-quick.csv", f"durations/cifar10-{of}-quick.csv"}
    rows = figures(tmp_path / "out" / f"table{table}-cifar10-quick.csv")
    duration = rows["HPCA-FH" if table == 1 else "HPCA-FH (this work)", "epoch_duration"]
    assert (duration.paper, duration.seeds) == (None, 2)  # rounds; the paper's epoch is another one
    (config,) = {
        json.loads((tmp_path / "out" / "configs" / f"{row.config}.json").read_text())["batch_size"]
        for row in rows.values()
    }
    assert config == 8


@pytest.mark.parametrize(
    ("table", "more", "says"),
    [
        (1, ("--methods", "none"), "table 1 has no method 'none'; use some of vae, swta, "),
        (4, ("--methods", "vae"), "table 4 has no method 'vae'; use some of hebbgrad, "),
        (5, (), "table 5 has no rows for cifar10; it has imagenet"),
        (1, ("--seeds", "0"), "seeds 0: at least 1"),
    ],
)
def test_wrong_requests_say_what_there_is(cifar, tmp_path, table, more, says):
    with pytest.raises(TableError, match=says):
        reproduce.run_command(arguments(cifar, tmp_path, table, *more))


# --- one layer ---


@pytest.mark.parametrize("rule", timing.LAYERS)
def test_layer_learns_by_its_rule(rule, cifar, loaded):
    run = Run(configured(rule, cifar, whiten=False), None, loaded)
    run.fit_preprocessing()
    learner = timing.layer(run)
    before = learner.weights()["0.weight"].clone()
    assert before.shape == (96, 3, 5, 5)
    timing.learn(run, learner, 0, run.groups(run.split.training[:4]))
    after = learner.weights()["0.weight"]
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)


def test_quadrants_are_means():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert timing.Quadrants()(x).tolist() == [[2.5, 4.5, 10.5, 12.5]]
