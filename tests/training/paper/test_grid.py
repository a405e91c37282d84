"""The grid of experiments: what is missing, what a cell learns from, and what stands beside it."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from training import data, protocol
from training.config import configure
from training.learning.finetune import Supervised
from training.paper import grid
from training.paper.cells import Cell, Cells
from training.paper.grid import Task, missing, run_task
from training.paper.tables import TableError
from training.paper.work import smaller
from training.pixels import Loaded, load
from training.run import Run

pytestmark = pytest.mark.long

SMALL = {"dataset": "digits", "precision": "fp32", "epochs": 1, "finetune_epochs": 2, "head_epochs": 2}


@pytest.fixture(scope="module")
def loaded():
    return smaller(load(configure(SMALL)), 120)


def cell(method, labels, seed):
    return Cell(method, labels, seed, "", "", {})


def test_what_is_done_is_not_missing():
    done = [cell("none", "1%", 0), cell("hpca_fh", "5%", 1), cell("chance", "0%", 0)]
    tasks = missing(done, ["none", "hpca_fh"], ["1%", "5%"], 2)
    assert tasks == [
        Task("none", 0, ("5%",)),
        Task("hpca_fh", 0, ("1%", "5%")),
        Task("pixels", 0, ("0%",)),
        Task("none", 1, ("1%", "5%")),
        Task("hpca_fh", 1, ("1%",)),
        Task("pixels", 1, ("0%",)),
        Task("chance", 1, ("0%",)),
    ]


def test_regimes_share_their_pretraining_and_leave_no_checkpoint(loaded, tmp_path, monkeypatch):
    learned = []
    pretrain = Run.pretrain

    def count(self, saved):
        learned.append(None if saved is None else saved["epoch"])
        pretrain(self, saved)

    monkeypatch.setattr(Run, "pretrain", count)
    cells, config = Cells(tmp_path / "results", "digits-conv6"), configure(SMALL)
    found = list(run_task(Task("hpca_fh", 1, ("50%", "100%")), config, cells, loaded, tmp_path / "work"))
    assert learned == [None]
    for each, written in zip(found, cells.read(), strict=True):
        assert written.key == each.key
        assert written.figures == pytest.approx(each.figures, rel=1e-5)
    assert [each.key for each in found] == [("hpca_fh", "50%", 1), ("hpca_fh", "100%", 1)]
    for each, labels in zip(found, (55, 110), strict=True):
        figures = each.figures
        assert figures["training_labels"] + figures["validation_labels"] == pytest.approx(labels, abs=10)
        assert 0.1 < figures["map"] < 1
        assert {"top1_unvalidated", "real_map", "map_low", "precision_radius_2"} <= figures.keys()
    left = sorted(path.name for path in (tmp_path / "work").glob("*/*") if path.is_dir())
    assert left == ["1"]  # the pre-training, for regimes to come
    other = dataclasses.replace(config, finetune_lr=1e-2, head="joint")  # which learns no other features
    list(run_task(Task("hpca_fh", 1, ("100%",)), other, Cells(tmp_path, "other"), loaded, tmp_path / "work"))
    assert learned == [None, 1]  # the second reads what the first has learned


def test_the_unvalidated_figures_are_those_of_the_last_epoch(loaded, tmp_path, monkeypatch):
    """With validation that always prefers the last epoch both must be the same."""
    monkeypatch.setattr(Supervised, "consider", lambda self, accuracy: None)
    config = configure(SMALL | {"rule": "none"})
    cells = Cells(tmp_path / "results", "digits-conv6")
    (found,) = run_task(Task("none", 0, ("100%",)), config, cells, loaded, tmp_path / "work")
    figures = found.figures
    same = [name for name in figures if f"{name}_unvalidated" in figures]
    assert len(same) > 10
    assert all(figures[name] == figures[f"{name}_unvalidated"] for name in same)


def test_on_validation_no_test_image_is_asked(loaded, tmp_path):
    """The classifier's accuracy there is that by which its epoch was chosen."""
    apart = Loaded(dataclasses.replace(loaded.images, validation_share=0.3), *loaded[1:])
    config = configure(SMALL | {"rule": "none"})
    cells = Cells(tmp_path / "results", "digits-conv6-validation")
    task = Task("none", 0, ("100%",))
    (found,) = run_task(task, config, cells, apart, tmp_path / "work", on="validation")
    run = Run(config, None, apart)
    run.learn_features()
    run.finetune(None)
    assert found.figures["top1"] == pytest.approx(max(run.validation["fine-tuning"]))
    (chance,) = run_task(Task("chance", 0, ("0%",)), config, cells, apart, tmp_path, on="validation")
    assert chance.figures["queries"] == len(run.split.validation) != len(run.split.queries)
    with pytest.raises(data.DataError, match="no validation images are kept apart; leave out --on"):
        list(run_task(Task("pixels", 0, ("0%",)), config, cells, loaded, tmp_path, on="validation"))


def test_a_method_that_learns_from_labels_sees_those_of_its_regime_only(loaded, tmp_path, monkeypatch):
    seen = []
    pretrain = Run.pretrain

    def watch(self, saved):
        seen.append(len(self.split.training))
        pretrain(self, saved)

    monkeypatch.setattr(Run, "pretrain", watch)
    config = configure(SMALL | {"rule": "hah"})
    cells = Cells(tmp_path / "results", "digits-conv6")
    found = list(run_task(Task("hah", 0, ("50%", "100%")), config, cells, loaded, tmp_path / "work"))
    assert seen == [each.figures["training_labels"] for each in found]
    assert seen[0] < seen[1]


def test_a_cell_is_not_written_beside_those_of_another_configuration(loaded, tmp_path):
    """Two processes may begin with an empty file and different settings."""
    config = configure(SMALL | {"rule": "none"})
    cells = Cells(tmp_path / "results", "digits-conv6")
    other = cells.remember(dataclasses.replace(config, finetune_lr=0.5))
    cells.add(Cell("none", "50%", 1, other, "", {}))
    with pytest.raises(TableError, match=r"finetune_lr 0.5 there, 0.001 here"):
        list(run_task(Task("none", 0, ("50%",)), config, cells, loaded, tmp_path / "work"))
    assert [cell.seed for cell in cells.read()] == [1]


@pytest.mark.parametrize(("method", "labels"), [("none", "50%"), ("chance", "0%")])
def test_other_images_are_refused_before_anything_is_computed(method, labels, loaded, tmp_path, monkeypatch):
    config = configure(SMALL | {"rule": "none"})
    cells = Cells(tmp_path / "results", "digits-conv6")
    theirs = {"queries": 1, "database": 2}
    cells.add(Cell("none", "50%", 1, cells.remember(config), "", theirs))
    for name in ("variants", "untrained"):
        monkeypatch.setattr(grid, name, None)
    with pytest.raises(TableError, match=r"its cells have 1 queries, this run \d+: other images"):
        list(run_task(Task(method, 0, (labels,)), config, cells, loaded, tmp_path / "work"))
    assert not list((tmp_path / "results").rglob("*.png"))
    assert not cells.curve(method, labels).exists()


def test_label_subsets_are_nested_and_stratified_over_all_regimes():
    """In the split itself: the 1 % is part of the 2 %, and every class has its share."""
    labels = np.repeat(np.arange(5), 400)
    queries = np.zeros(2000, bool)
    queries[::10] = True
    images = data.ImageSet("x", "x", None, tuple("abcde"), ("",) * 2000, labels, queries, None, 0.2)
    for seed in (0, 1):
        splits = [protocol.split(images, share / 100, seed) for share in (1, 2, 3, 4, 5, 10, 25, 100)]
        smaller_ones = [set(each.training.tolist()) for each in splits]
        for small, large in pairwise(smaller_ones):
            assert small < large
        for share, each in zip((1, 2, 3, 4, 5, 10, 25, 100), splits, strict=True):
            counts = np.bincount(labels[each.training])
            wanted = 288 * share / 100  # of a class: 400, less 40 queries, less a fifth
            assert (abs(counts - wanted) < 1).all()
            assert counts.sum() == pytest.approx(5 * wanted, abs=0.5)
            assert np.array_equal(each.validation, splits[0].validation)
            assert np.array_equal(each.pretraining, splits[0].pretraining)
            parts = (each.queries, each.pretraining, each.validation)
            assert sum(map(len, parts)) == len(np.unique(np.concatenate(parts))) == 2000
