"""Tables 1, 4 and 5: what their figures are and where they come from. Nothing here asserts a duration."""

import csv
import dataclasses
import json
import math
import re

import pytest
import torch

from tests.training.paper.conftest import NOTHING, configured
from tests.training.paper.reading import read_csv
from training import reproduce
from training.device import describe
from training.paper import convergence, durations, one_layer, tables, timing
from training.paper.cells import Cells
from training.paper.tables import Key, TableError
from training.paper.work import smaller

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def next_to_nothing(monkeypatch):
    monkeypatch.setattr(durations, "SAMPLING", {"cpu": NOTHING})
    monkeypatch.setattr(timing, "set_up_process", lambda precision: None)  # it would outlast the test


def arguments(cifar, tmp_path, table=4, *more):
    return [
        *("--table", str(table), "--dataset", "cifar10", "--data", str(cifar), "--seeds", "2"),
        *("--device", "cpu", "--precision", "fp32", "--set", "batch_size=4", "--set", "epochs=2"),
        *("--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *more),
    ]


def figures(path):
    return {(row.method, row.metric): row for row in read_csv(path)}


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

    monkeypatch.setattr(convergence, "trajectory", trajectory)
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
    for module in (one_layer, durations):
        monkeypatch.setattr(module, "learn", None)
    fewer = smaller(loaded, 20)
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
    monkeypatch.setattr(convergence, "trajectory", lambda run: [0.5, 0.5])
    monkeypatch.setattr(durations, "learn", lambda *args: None)  # other tests learn
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
    monkeypatch.setattr(convergence, "trajectory", lambda run: [0.25, 0.5])

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(durations, "durations", interrupted)
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
