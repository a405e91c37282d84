"""Tables of finished cells: what they hold, what they show, and that it comes from the cells alone."""

import csv
import re
import statistics

import numpy as np
import pytest
import scipy
from PIL import Image

from index.distances import PrecisionRecall
from training.paper import plots, report, tables
from training.paper.cells import Cell, Cells
from training.paper.report import GRIDS, NAMES, known, labels_seen, pairs_table, printed_metrics, rows_of
from training.paper.tables import Key

OURS, BASE = [0.38, 0.40, 0.39], [0.35, 0.36, 0.33]


def cell(method, seed, value):
    figures = {"top1": value, "map_at_100_retrieved": value / 2, "finetuning_seconds": 7 + seed}
    return Cell(method, "1%", seed, "c", "m", figures | ({"top5": 2 * value} if seed else {}))


def test_a_table_shows_what_is_known():
    cells = [
        Cell(method, labels, 0, "", "", {})
        for method, labels in (("softhebb", "5%"), ("none", "100%"), ("chance", "0%"))
    ]
    assert known(cells, ["hpca_fh"], ["10%"]) == (["none", "hpca_fh", "softhebb"], ["5%", "10%", "100%"])


def test_rows_are_means_deviations_and_welch_tests():
    cells = [cell("hpca_fh", seed, value) for seed, value in enumerate(OURS)]
    cells += [cell("none", seed, value) for seed, value in enumerate(BASE)]
    paper = {Key("HPCA-FH", "1%", "top1"): 39.75, Key("HPCA-FH", "1%", "map"): 37.39}
    rows = {(row.method, row.metric): row for row in rows_of(cells, ["hpca_fh", "none"], ["1%"], paper)}
    row = rows["HPCA-FH", "top1"]
    assert row.mean == pytest.approx(39)
    assert row.std == pytest.approx(100 * statistics.stdev(OURS))
    assert row.p_value == pytest.approx(scipy.stats.ttest_ind(OURS, BASE, equal_var=False).pvalue)
    assert (row.p_against, row.paper, row.seeds) == ("None", 39.75, 3)
    assert rows["HPCA-FH", "map_at_100_retrieved"].paper == 37.39
    assert rows["HPCA-FH", "finetuning_seconds"].mean == 8
    assert rows["HPCA-FH", "finetuning_seconds"].p_value is None
    assert (rows["HPCA-FH", "top5"].mean, rows["HPCA-FH", "top5"].seeds) == (pytest.approx(79), 2)
    assert rows["None", "top1"].p_value is None


def test_every_pair_of_methods_is_tested():
    third = [0.37, 0.375, 0.36]
    values = {"none": BASE, "swta_fh": OURS, "hpca_fh": third}
    cells = [cell(method, seed, value) for method, of in values.items() for seed, value in enumerate(of)]
    cells += [Cell("vae", "1%", 0, "c", "m", {"top1": 0.3})]  # one seed has no test
    lines = pairs_table(cells, ["none", "vae", "swta_fh", "hpca_fh"], ["1%", "5%"], "top1").splitlines()
    assert lines[0].startswith("| top1, difference in points, Welch's t-test, not corrected")
    assert lines[0].endswith("| 1% |")
    pairs = {
        "SWTA-FH − None": (OURS, BASE),
        "HPCA-FH − None": (third, BASE),
        "HPCA-FH − SWTA-FH": (third, OURS),
    }
    expected = []
    for pair, (a, b) in pairs.items():
        p = scipy.stats.ttest_ind(a, b, equal_var=False).pvalue
        expected.append(f"| {pair} | {100 * (np.mean(a) - np.mean(b)):+.2f} (p = {p:.2g}) |")
    assert lines[2:] == expected
    assert pairs_table(cells, ["none", "vae"], ["1%"], "top1") == ""


def test_what_is_drawn_is_what_the_paper_prints():
    for table, grid in GRIDS.items():
        for dataset in grid.backbones:
            names = {key.metric for key in tables.paper(table, dataset)}
            drawn = printed_metrics(table, dataset)
            assert ["map" if name == "map_at_100_retrieved" else name for name in drawn] == sorted(
                names, reverse=True
            )
    assert printed_metrics(2, "cifar100") == ["top5"]
    assert printed_metrics(2, "digits") == ["top1"]


def test_methods_that_are_run_unless_told_are_those_of_the_paper_and_none():
    for table, grid in GRIDS.items():
        for dataset in grid.backbones:
            names = {key.method for key in tables.paper(table, dataset)}
            assert {NAMES[method] for method in grid.methods} == names | {"None"}


def filled(folder, name):
    """Cells of three methods, two seeds and two shares, with a curve each."""
    cells, rng = Cells(folder, name), np.random.default_rng(0)
    curve = PrecisionRecall(np.arange(3), np.array([0.9, 0.6, 0.1]), np.array([0.1, 0.5, 1.0]))
    for method in ("none", "swta_fh", "hpca_fh"):
        for labels, seed in ((labels, seed) for labels in ("1%", "100%") for seed in (0, 1)):
            names = ("top1", "top5", "map", "map_at_100_retrieved", "precision_radius_2")
            figures = {name: rng.uniform(0.2, 0.9) for name in names}
            figures |= {f"{name}_unvalidated": value - 0.1 for name, value in figures.items()}
            figures |= {"map_low": figures["map"] - 0.01, "map_high": figures["map"] + 0.01}
            figures["validation_labels"] = 10000
            cells.add(Cell(method, labels, seed, "c", "m", figures))
            cells.add_curve(Cell(method, labels, seed, "c", "m", figures), curve)
    # Chance as it was written before it had a top5.
    cells.add(
        Cell("chance", "0%", 0, "c", "m", {"top1": 0.001, "map": 0.002, "map_low": 0.001, "map_high": 0.003})
    )
    return cells


def test_precision_and_recall_are_of_the_smallest_share_that_has_been_computed(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "precision_recall", lambda path, curves, at: drawn.append((set(curves), at)))
    cells = Cells(tmp_path, "cifar10-conv6")
    curve = PrecisionRecall(*(np.linspace(0, 1, 3) for _ in range(3)))
    for labels in ("5%", "10%"):
        cells.add_curve(Cell("hpca_fh", labels, 0, "c", "m", {}), curve)
    report.draw_curves(tmp_path / "x.png", cells, ["none", "hpca_fh"], ["10%", "1%", "5%"])
    assert drawn == [({"HPCA-FH"}, "5% of the labels")]


@pytest.mark.long
def test_table_6_has_plots_of_both_metrics_and_everything_that_table_3_has(tmp_path, monkeypatch):
    drawn = {}
    draw = plots.label_fractions

    def watch(path, ours, theirs, **more):
        drawn[path.name] = (more["metric"], set(ours), set(theirs))
        draw(path, ours, theirs, **more)

    monkeypatch.setattr(plots, "label_fractions", watch)
    cells = filled(tmp_path, "imagenet-vgg11")
    methods, regimes = known(cells.read(), GRIDS[6].methods, ["1%", "100%"])
    text = report.write(tmp_path / "table6-imagenet", 6, "imagenet", cells, methods, regimes, compared=True)
    assert (tmp_path / "table6-imagenet.md").read_text() == text
    names = {"None", "SWTA-FH", "HPCA-FH"}
    assert drawn == {
        "table6-imagenet.png": ("top5 in %", names, names),
        "table6-imagenet-map-at-100-retrieved.png": ("map at 100 retrieved in %", names, names),
    }
    for name in (*drawn, "table6-imagenet-precision-recall.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width == 1600
    assert "| mAP in %, in every convention | labels | the paper's |" in text
    assert "| HPCA-FH | 100% | 50.06 |" in text


@pytest.mark.long
def test_markdown_has_the_unvalidated_figures_the_interval_and_what_was_seen(tmp_path):
    cells = filled(tmp_path, "cifar10-conv6")
    by = {each.key: each.figures for each in cells.read()}
    methods = ["none", "swta_fh", "hpca_fh"]
    text = report.write(
        tmp_path / "table3-cifar10", 3, "cifar10", cells, methods, ["1%", "100%"], compared=True
    )
    heads = re.findall(r"^\| (.*?), labels \|", text, re.M)
    last = " at the last epochs in %"
    maps = ["map in %", f"map{last}", "map at 100 retrieved in %", f"map at 100 retrieved{last}"]
    assert heads == [*maps, "precision radius 2 in %"]
    for metric, head in (
        ("map_unvalidated", f"map{last}"),
        ("precision_radius_2", "precision radius 2 in %"),
    ):
        table = text.split(f"| {head}, labels |")[1].split("\n\n")[0]
        mean = 50 * sum(by["hpca_fh", "100%", seed][metric] for seed in (0, 1))
        assert re.search(rf"\| HPCA-FH \|.*{mean:.2f}", table)
    low, high = (
        50 * sum(by["swta_fh", "1%", seed][end] for seed in (0, 1)) for end in ("map_low", "map_high")
    )
    assert f"| SWTA-FH | – | {low:.2f} to {high:.2f} |" in text.split("95 % bootstrap interval")[1]
    assert "Beside the training labels 10,000 validation labels were seen: they chose the epochs." in text
    assert text.count("difference in points") == 2
    with (tmp_path / "table3-cifar10.csv").open(newline="") as file:
        assert tuple(next(csv.reader(file))) == tables.COLUMNS


def test_what_was_seen_is_said():
    def seen(*counts):
        return labels_seen([Cell("none", "5%", 0, "", "", {"validation_labels": count}) for count in counts])

    assert "9 to 120 validation labels were seen" in seen(120, 9, 50)
    assert seen(0, 0) == "No validation label was seen.\n"
    assert labels_seen([Cell("chance", "0%", 0, "", "", {"validation_labels": 0})]) == ""
