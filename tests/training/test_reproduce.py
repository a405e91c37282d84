"""The command that reproduces the paper's tables: as a process, killed and resumed; and its arithmetic."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests import forking
from tests.training.narrow import NARROW_PROCESS, NARROW_WITHOUT_FIGURES
from tests.training.paper.reading import read_csv
from tests.training.test_build_index import stripes
from training.paper.cells import Cells
from training.paper.report import checked_regime

pytestmark = pytest.mark.process
COMMAND = Path(__file__).parents[2] / "training" / "reproduce.py"
SMALL = ["--set", "epochs=1", "--set", "finetune_epochs=2", "--set", "head_epochs=1", "--precision", "fp32"]
CIFAR = ["--table", "3", "--dataset", "cifar10", "--seeds", "1", *SMALL]


def started(folder, *arguments, start=forking.Popen, how=NARROW_WITHOUT_FIGURES):
    return start(
        [sys.executable, str(COMMAND), *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | how,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def reproduce(folder, *arguments, code=0, **more):
    process = started(folder, *arguments, **more)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out + err


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for number in range(80):
        part = "test" if number < 20 else "train"
        label = number % 2
        stripes(root / part / ("across" if label else "down") / f"{number}.png", label, number)
    return root


def finished(folder, name="cifar10-conv6"):
    path = folder / "results" / "cells" / f"{name}.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def figures(folder):
    """The rows without what they took."""
    rows = finished(folder)
    return [{name: text for name, text in row.items() if not name.endswith("_seconds")} for row in rows]


def test_killed_in_mid_grid_it_goes_on_from_its_rows_alone(tmp_path, pictures):
    command = [*CIFAR, "--data", str(pictures), "--methods", "none", "hpca_fh", "--regimes", "50%", "100%"]
    (tmp_path / "uninterrupted").mkdir()
    reproduce(tmp_path / "uninterrupted", *command, how=NARROW_PROCESS)
    process = started(tmp_path, *command, how=NARROW_PROCESS)
    deadline = time.monotonic() + 200
    while len(finished(tmp_path)) < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = finished(tmp_path)
    assert 2 <= len(before) < 6
    subprocess.run(["rm", "-r", str(tmp_path / "artifacts")], check=True)  # nothing but the rows is needed
    said = reproduce(tmp_path, *command, how=NARROW_PROCESS)
    after = finished(tmp_path)
    assert after[: len(before)] == before
    assert figures(tmp_path) == figures(tmp_path / "uninterrupted")
    cells = [(row["method"], row["labels"]) for row in after]
    methods = [(method, labels) for method in ("none", "hpca_fh") for labels in ("50%", "100%")]
    assert cells == [*methods, ("pixels", "0%"), ("chance", "0%")]
    assert f"1 of {6 - len(before)} cells" in said

    results = tmp_path / "results"
    rows = read_csv(results / "table3-cifar10.csv")
    ours = {(row.method, row.labels, row.metric): row for row in rows}
    row = ours["HPCA-FH", "100%", "map_at_100_retrieved"]
    assert (row.paper, row.seeds, row.std) == (81.80, 1, None)
    assert ours["HPCA-FH", "100%", "map"].paper is None
    assert row.mean == pytest.approx(100 * float(after[3]["map_at_100_retrieved"]))
    text = (results / "table3-cifar10.md").read_text()
    assert "| HPCA-FH |" in text
    printed, shown = (
        f"| HPCA-FH | 100% | 81.80 | {ours['HPCA-FH', '100%', 'map'].mean:.2f} |",
        text.split("\n\n")[-1],
    )
    assert printed in shown
    assert f" {row.mean:.2f} |" in shown
    assert "table2-cifar10.csv" in {path.name for path in results.iterdir()}  # of the same cells
    for name in ("table3-cifar10.png", "table3-cifar10-precision-recall.png"):
        with Image.open(results / name) as picture:
            assert picture.width == 1600
    assert (results / "filters" / "cifar10-conv6-hpca_fh.png").exists()

    # Once more: nothing is computed, the table is the same.
    table = (results / "table3-cifar10.csv").read_bytes()
    assert "cells" not in reproduce(tmp_path, *command).replace("results", "")
    assert (results / "table3-cifar10.csv").read_bytes() == table
    # What was computed at other times is shown too, whatever part is asked for.
    reproduce(tmp_path, *CIFAR, "--data", str(pictures), "--methods", "none", "--regimes", "100%")
    assert (results / "table3-cifar10.csv").read_bytes() == table

    # Other settings would be other cells.
    said = reproduce(tmp_path, *command, "--set", "finetune_lr=0.5", code=2)
    assert "cells of none have configuration" in said
    assert "(finetune_lr 0.001 there, 0.5 here); name another folder with --out" in said
    assert finished(tmp_path) == after


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--table", "6", "--dataset", "cifar10"], "table 6 has no rows for cifar10; it has imagenet"),
        (["--table", "3", "--dataset", "digits"], "table 3 has no rows for digits; it has cifar10"),
        (["--table", "7", "--dataset", "cifar10"], "invalid choice: 7"),
        ([*CIFAR, "--regimes", "1"], "regime 1: use a share"),
        ([*CIFAR, "--seeds", "0"], "seeds 0: at least 1 is needed"),
        (["--table", "6", "--dataset", "cifar10", "--quick"], "table 6 has no rows for cifar10; it has imag"),
        (
            ["--table", "4", "--dataset", "imagenet", "--quick"],
            "table 4 has no rows for imagenet; it has cif",
        ),
        (["--table", "1", "--dataset", "cifar10", "--regimes", "1%"], "table 1 has neither regimes nor --on"),
        (["--table", "4", "--dataset", "cifar10", "--on", "validation"], "table 4 has neither regimes nor"),
        ([*CIFAR, "--regimes", "200%"], "regime 200%: use a share of the labels, such as 1%, of at"),
        ([*CIFAR, "--regimes", "nan%"], "regime nan%: use a share"),
        ([*CIFAR, "--regimes", "0%"], "regime 0%: use a share"),
        ([*CIFAR, "--data", ".", "--search", "5"], "regime 5: use a share"),
        ([*CIFAR, "--methods", "pca"], "rule 'pca': use one of"),
        (CIFAR, "--dataset cifar10 needs --data DIR"),
        ([*CIFAR, "--set", "epoch=1"], "--set epoch=1: use name=value with one of hebbian_lr, "),
        ([*CIFAR, "--set", "rule=none"], "--set rule: what is computed is said by reproduce's own flags"),
        ([*CIFAR, "--set", "seed=3"], "--set seed: what is computed"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, says):
    said = reproduce(tmp_path, *arguments, code=2)
    assert says in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.rglob("*.csv"))


def test_a_regime_with_fewer_labels_than_classes_is_refused(tmp_path, pictures):
    command = [*CIFAR, "--data", str(pictures), "--regimes", "1%"]
    said = reproduce(tmp_path, *command, code=2, start=subprocess.Popen)  # as people start it
    assert "regime 1%" in said
    assert "of 48 training labels that is fewer than the 2 classes; use at least 4.17%" in said
    assert finished(tmp_path) == []


def test_test_images_without_labels_are_refused_before_anything_is_trained(tmp_path, pictures):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(pictures / "train")
    (tmp_path / "data" / "test").mkdir()
    for number, file in enumerate(sorted((pictures / "test").rglob("*.png"))):
        shutil.copy(file, tmp_path / "data" / "test" / f"{number}.png")
    said = reproduce(tmp_path, *CIFAR, "--data", "data", "--regimes", "50%", "--methods", "none", code=2)
    assert "no test image has a label" in said
    assert finished(tmp_path) == []


def test_what_diverges_does_not_stop_the_rest(tmp_path, pictures):
    command = [*CIFAR, "--data", str(pictures), "--methods", "hpca_fh", "none", "--regimes", "50%"]
    said = reproduce(tmp_path, *command, "--set", "hebbian_lr=1e30", code=2)
    assert "use a smaller one" in said
    assert said.splitlines()[-1].endswith("because it diverged: hpca_fh with seed 0; the reasons are above")
    assert [row["method"] for row in finished(tmp_path)] == ["none", "pixels", "chance"]
    assert "| None |" in (tmp_path / "results" / "table3-cifar10.md").read_text()


def test_processes_share_a_table_seed_by_seed(tmp_path, pictures):
    cells = Cells(tmp_path / "results", "cifar10-conv6")
    command = [*CIFAR, "--data", str(pictures), "--methods", "none", "--regimes", "100%", "--seeds", "2"]
    with cells.claimed(["none-0", "chance-0"]):
        said = reproduce(tmp_path, *command)
    assert "none, seed 0: left to the process that has this method and seed" in said
    assert "2 cells are not there yet: other processes have their methods and seeds" in said
    done = {(cell.method, cell.seed) for cell in cells.read()}
    assert done == {("none", 1), ("pixels", 0), ("pixels", 1), ("chance", 1)}
    said = reproduce(tmp_path, *command)  # whoever claims nothing any more leaves it to the next
    assert "not there yet" not in said
    assert {(cell.method, cell.seed) for cell in cells.read()} - done == {("none", 0), ("chance", 0)}


def test_what_needs_no_training_does_not_care_how_the_methods_train(tmp_path, pictures):
    command = [*CIFAR, "--data", str(pictures), "--regimes", "100%"]
    reproduce(tmp_path, *command, "--methods", "none")
    reproduce(tmp_path, *command, "--methods", "hpca_fh", "--seeds", "2", "--set", "epochs=2")
    done = {(row["method"], row["seed"]): decided(tmp_path, row)["epochs"] for row in finished(tmp_path)}
    assert done == {
        ("none", "0"): 1,
        **{("hpca_fh", seed): 2 for seed in "01"},
        **{(method, seed): 1 + int(seed) for method in ("pixels", "chance") for seed in "01"},
    }


def decided(folder, row):
    """The values that a cell was computed with."""
    return json.loads((folder / "results" / "configs" / f"{row['config']}.json").read_text())


def test_quick_is_a_small_version_in_files_of_its_own(tmp_path, pictures):
    command = ["--table", "2", "--dataset", "cifar10", "--data", str(pictures), "--precision", "fp32"]
    few = ["--methods", "none", "--seeds", "1", "--set", "finetune_epochs=1"]
    reproduce(tmp_path, *command, "--quick", *few)
    assert finished(tmp_path) == []
    rows = finished(tmp_path, "cifar10-conv6-quick")
    cells = {(row["method"], row["labels"], row["seed"]) for row in rows}
    baselines = {(method, "0%", "0") for method in ("pixels", "chance")}
    assert cells == {("none", labels, "0") for labels in ("5%", "25%", "100%")} | baselines
    assert decided(tmp_path, rows[0])["epochs"] == 2
    for name in ("table2-cifar10-quick", "table3-cifar10-quick"):
        table = read_csv(tmp_path / "results" / f"{name}.csv")
        assert table
        assert {row.paper for row in table} == {None}  # it is of other images
    assert not list((tmp_path / "results").glob("table?-cifar10.*"))


def test_quick_leaves_out_shares_with_fewer_labels_than_classes(tmp_path):
    for number in range(120):
        part, label = ("test" if number < 20 else "train"), number % 20
        stripes(tmp_path / "data" / part / f"class{label}" / f"{number}.png", label % 2, number)
    command = ["--table", "2", "--dataset", "cifar10", "--data", "data", "--precision", "fp32", "--quick"]
    few = ["--methods", "none", "--seeds", "1", "--set", "finetune_epochs=1"]
    said = reproduce(tmp_path, *command, *few)
    assert "5% of the labels left out: fewer than the 20 classes" in said
    rows = finished(tmp_path, "cifar10-conv6-quick")
    assert [row["labels"] for row in rows if row["method"] == "none"] == ["25%", "100%"]
    said = reproduce(tmp_path, *command, *few, "--regimes", "5%", code=2)  # who names it is told
    assert "regime 5%: of 80 training labels that is fewer than the 20 classes; use at least 25%" in said


def test_a_search_is_refused_before_it_begins(tmp_path, pictures):
    command = [*CIFAR, "--data", str(pictures), "--methods", "none", "--regimes", "100%"]
    said = reproduce(tmp_path, *command, "--search", "1%", code=2)
    assert "regime 1%: of 48 training labels that is fewer than the 2 classes" in said
    reproduce(tmp_path, *command)
    said = reproduce(tmp_path, *command, "--search", "50%", "--set", "batch_size=32", code=2)
    assert "(batch_size 64 there, 32 here); name another folder with --out" in said
    assert not (tmp_path / "results" / "search").exists()


def test_search_finds_what_the_cells_are_computed_with(tmp_path, pictures):
    command = [*CIFAR, "--data", str(pictures), "--methods", "none", "--regimes", "100%", "--search", "50%"]
    reproduce(tmp_path, *command, "--set", "finetune_epochs=1")
    trials = (tmp_path / "results" / "search" / "cifar10-conv6-none.csv").read_text()
    tried = list(csv.DictReader(trials.splitlines()))
    assert {row["labels"] for row in tried} == {"50%"}
    scores = [float(row["validation_accuracy"]) for row in tried]
    assert len(scores) >= 9  # the default and four others of each value
    best = [row for row, score in zip(tried, scores, strict=True) if score == max(scores)]
    (row,) = (row for row in finished(tmp_path) if row["method"] == "none")
    found = decided(tmp_path, row)
    points = [(float(trial["finetune_lr"]), float(trial["weight_decay"])) for trial in best]
    assert (found["finetune_lr"], found["weight_decay"]) in points
    assert (row["labels"], row["validation_labels"]) == ("100%", "12")
    assert (tmp_path / "results" / "table3-cifar10.md").exists()


@pytest.mark.slow
def test_imagenet_table_from_its_layout(tmp_path):
    for number in range(48):
        part, label = ("val" if number < 8 else "train"), number % 2
        stripes(tmp_path / "data" / part / f"n0000000{label}" / f"{number}.JPEG", label, number, size=40)
    command = ["--table", "6", "--dataset", "imagenet", "--data", "data", "--methods", "hpca_fh", *SMALL]
    command += ["--seeds", "1", "--regimes", "100%", "--set", "image_size=32"]
    reproduce(tmp_path, *command, start=subprocess.Popen)  # as people start it
    row = finished(tmp_path, "imagenet-vgg11")[0]
    assert (row["method"], row["queries"], row["validation_labels"]) == ("hpca_fh", "8", "2")
    assert decided(tmp_path, row)["backbone"] == "vgg11"
    results = tmp_path / "results"
    by = {(row.method, row.metric): row for row in read_csv(results / "table6-imagenet.csv")}
    top5, printed = by["HPCA-FH", "top5"], by["HPCA-FH", "map_at_100_retrieved"]
    assert (top5.mean, top5.paper, printed.paper) == (100, 88.54, 50.06)  # of two classes
    assert by["chance", "top5"].mean == 100
    for name in ("", "-map-at-100-retrieved", "-precision-recall"):
        assert (results / f"table6-imagenet{name}.png").exists()


def test_a_share_has_one_spelling():
    spellings = ("1%", "1.0%", "10e-1%", " 1%")
    assert {checked_regime(labels) for labels in spellings} == {"1%"}
    assert checked_regime("2.50%") == "2.5%"
