"""Figures are PNG files of the expected size, the same for the same numbers, whatever is missing."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from training.paper.plots import durations, filter_grid, filters, label_fractions, precision_recall
from training.paper.tables import paper

NAN = math.nan
OURS = {"HPCA-FH": {1.0: (37.1, 0.5), 10.0: (50.2, NAN), 100.0: (81.0, 0.2)}, "none": {1.0: (21.0, 1.1)}}
PAPER = {"HPCA-FH": {1.0: 37.39, 5.0: 44.92, 100.0: 81.8}, "VAE": {1.0: 21.9, 100.0: 84.67}}
RECALL = np.array([0.0, 0.1, 0.5, 1.0])
CURVES = {"HPCA-FH": (RECALL, np.array([0.0, 0.9, 0.6, 0.1])), "none": (RECALL, RECALL[::-1])}
EPOCHS = {key.method: value for key, value in paper(1, "cifar10").items() if key.metric == "epoch_duration"}

CASES: dict[str, tuple[int, Callable[[Path], None]]] = {
    "fractions": (920, lambda path: label_fractions(path, OURS, PAPER, metric="mAP, %", chance=10)),
    "fractions, one point": (920, lambda path: label_fractions(path, {"x": {5: (1, NAN)}}, {}, metric="mAP")),
    "fractions, paper alone": (920, lambda path: label_fractions(path, {}, PAPER, metric="mAP")),
    "fractions, not known": (920, lambda path: label_fractions(path, {"x": {5: (NAN, NAN)}}, {}, metric="m")),
    "fractions, nothing": (920, lambda path: label_fractions(path, {}, {}, metric="mAP")),
    "precision": (920, lambda path: precision_recall(path, CURVES, at="1%")),
    "precision, one": (920, lambda path: precision_recall(path, {"swta_fh": CURVES["none"]}, at="1%")),
    "durations": (1004, lambda path: durations(path, {"HPCA-FH": 58.1, "new": 0.3}, EPOCHS, what="epoch")),
    "durations, ours": (384, lambda path: durations(path, {"HPCA-FH": 0.0581}, {}, what="one step")),
    "durations, paper's": (880, lambda path: durations(path, {}, EPOCHS, what="epoch")),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_figure_is_a_png_of_its_size_and_always_the_same(tmp_path: Path, case: str) -> None:
    height, draw = CASES[case]
    first, second = tmp_path / "results" / "first.png", tmp_path / "second.png"
    draw(first)
    with Image.open(first) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (1600, height))
        assert set(image.info) <= {"dpi"}  # neither a date nor a version
        drawn = np.asarray(image.convert("RGB"))
    assert (drawn == 255).all(axis=2).mean() > 0.5
    assert (drawn != 255).any()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 30}):
        draw(second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.process
def test_nothing_of_pyplot_is_loaded() -> None:
    code = "import sys, training.paper.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 3)


@pytest.mark.long
def test_a_method_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    for number, draw in enumerate(
        [
            lambda path: label_fractions(path, {"HPCA-FH": {1: (1, NAN), 5: (2, NAN)}}, {}, metric="m"),
            lambda path: label_fractions(path, {"new": {1: (1, 0)}, "hpca_fh": {1: (1, 0)}}, {}, metric="m"),
            lambda path: precision_recall(path, {"HPCA-FH": CURVES["none"]}, at="1%"),
            lambda path: durations(path, {"SWTA-FH": 2.0, "HPCA-FH": 1.0}, {}, what="w"),
        ]
    ):
        draw(tmp_path / f"{number}.png")
        blue = pixels(tmp_path / f"{number}.png") == [0x00, 0x72, 0xB2]
        assert blue.all(axis=1).sum() > 100


@pytest.mark.long
def test_missing_deviations_draw_no_bars(tmp_path: Path) -> None:
    for name, deviation in (("none", NAN), ("zero", 0.0), ("some", 3.0)):
        points = {1.0: (30.0, deviation), 5.0: (40.0, deviation)}
        label_fractions(tmp_path / name, {"x": points}, {"x": {1.0: 50.0}}, metric="m")
    images = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert images["none"] == images["zero"] != images["some"]


def test_durations_that_no_logarithm_has_are_refused(tmp_path: Path) -> None:
    for seconds in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="wanted all above 0"):
            durations(tmp_path / "x.png", {"a": 1.0, "b": seconds}, {}, what="w")
    assert not list(tmp_path.iterdir())


# --- filters ---


def random_filters(count: int, size: int = 5) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize(("gap", "columns"), [(1, 4), (3, 7), (0, 10), (2, 20)])
def test_each_filter_lies_at_its_place_in_its_own_range(gap: int, columns: int) -> None:
    weights = random_filters(10)
    weights[3] *= 1000
    grid = filter_grid(weights, gap=gap, columns=columns)
    rows = -(-10 // columns)
    assert grid.shape == (rows * (5 + gap) + gap, columns * (5 + gap) + gap, 3)
    rest = np.ones(grid.shape[:2], bool)
    for i, one in enumerate(weights):
        place = np.s_[gap + i // columns * (5 + gap) :, gap + i % columns * (5 + gap) :]
        got = grid[place][:5, :5].astype(float)
        assert (got.min(), got.max()) == (0, 255)
        expected = 255 * (one - one.min()) / (one.max() - one.min())
        np.testing.assert_allclose(got, np.moveaxis(expected, 0, 2), atol=0.51)
        rest[place][:5, :5] = False
    assert (grid[rest] == 255).all()


def test_filters_are_upscaled_to_whole_squares(tmp_path: Path) -> None:
    weights = random_filters(6, size=3)
    filters(tmp_path / "a.png", weights, scale=4)
    filters(tmp_path / "b.png", weights, scale=4)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        large = np.asarray(image)
    small = filter_grid(weights)
    assert large.shape == (4 * small.shape[0], 4 * small.shape[1], 3)
    for row, column in ((0, 0), (3, 3)):
        np.testing.assert_array_equal(large[row::4, column::4], small)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (64, 8), (96, 12), (97, 14)])
def test_the_grid_is_about_three_by_two_and_full(count: int, columns: int) -> None:
    assert filter_grid(random_filters(count, size=1), gap=0).shape[1] == columns


def test_a_filter_without_a_range_is_grey_and_nonsense_is_refused() -> None:
    assert np.unique(filter_grid(np.full((1, 3, 5, 5), 7.0), gap=0)).tolist() == [128]
    for shape in ((2, 1, 5, 5), (3, 5, 5), (0, 3, 5, 5)):
        with pytest.raises(ValueError, match="wanted \\(Q, 3, k, k\\)"):
            filter_grid(np.zeros(shape))
    with pytest.raises(ValueError, match="not finite"):
        filter_grid(np.full((1, 3, 5, 5), np.nan))
