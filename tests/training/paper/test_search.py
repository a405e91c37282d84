"""The descent against functions whose maximum is known; the search on small pictures, and what it may see."""

import csv
import math

import pytest

from tests.training.test_build_index import striped_folder
from tests.training.test_run import Watched
from training.config import ConfigError, configure
from training.paper.search import (
    Trial,
    candidates_of,
    coordinate_descent,
    earlier,
    search,
    search_all,
    with_values,
)
from training.paper.tables import TableError
from training.paper.work import smaller
from training.pixels import load
from training.reproduce import run_command
from training.run import Run

pytestmark = pytest.mark.long


def descended(score, start, steps, rounds=10):
    """What was tried, and the result."""
    trials = list(coordinate_descent(lambda values: score(**values), start, steps, rounds))
    return trials, max(trials, key=lambda trial: trial.score).values


# --- the descent ---


def test_finds_the_top_of_a_hill_and_tries_nothing_twice():
    steps = {"x": [1, 2, 3, 4], "y": [10, 20, 30]}
    trials, best = descended(lambda x, y: -((x - 3) ** 2) - (y - 20) ** 2, {"x": 0, "y": 0}, steps)
    assert best == {"x": 3, "y": 20}
    points = [tuple(trial.values.items()) for trial in trials]
    assert len(set(points)) == len(points)
    # First x with the start's y, then y with the best x; the second round adds x with the best y.
    assert [tuple(trial.values.values()) for trial in trials] == [
        (0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (3, 10), (3, 20), (3, 30),
        (1, 20), (2, 20), (4, 20)]  # fmt: skip


def test_goes_round_again_where_coordinates_depend_on_each_other():
    def stairs(x, y):
        return x + y if y in {x, x + 1} else -1

    steps = {"x": [0, 1, 2, 3], "y": [0, 1, 2, 3]}
    for rounds, top in [(1, (0, 1)), (2, (1, 2)), (3, (2, 3)), (10, (3, 3))]:
        assert tuple(descended(stairs, {"x": 0, "y": 0}, steps, rounds)[1].values()) == top
    whole = descended(stairs, {"x": 0, "y": 0}, steps)[0]
    assert descended(stairs, {"x": 0, "y": 0}, steps, rounds=1)[0] == whole[:7]


def test_of_equals_the_present_value_stays():
    trials, best = descended(lambda x: 1.0, {"x": 5}, {"x": [1, 2, 3]})
    assert best == {"x": 5}
    assert len(trials) == 4
    assert descended(lambda x: min(x, 2), {"x": 1}, {"x": [2, 3, 4]})[1] == {"x": 2}


@pytest.mark.parametrize("worst", [math.nan, -math.inf])
def test_what_diverged_is_never_chosen(worst):
    trials, best = descended(lambda x: worst if x > 2 else x, {"x": 3}, {"x": [4, 1, 2]})
    assert best == {"x": 2}
    assert [trial.score for trial in trials] == [-math.inf, -math.inf, 1, 2]


def test_nothing_to_search_is_nothing_to_try():
    assert list(coordinate_descent(lambda values: 1.0, {}, {}, 3)) == []
    assert list(coordinate_descent(lambda values: 1.0, {"x": 1}, {"x": []}, 3)) == [Trial({"x": 1}, 1.0)]


# --- the search ---


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return striped_folder(tmp_path_factory.mktemp("pictures"), 240)


@pytest.fixture
def config(pictures):
    chosen = {"data": str(pictures), "image_size": 28, "epochs": 1, "finetune_epochs": 2, "precision": "fp32"}
    return configure(chosen)


@pytest.fixture
def loaded(config):
    read = load(config)
    return read._replace(pixels=Watched(read.pixels))


def rows(folder):
    (path,) = (folder / "search").glob("*.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


def test_search_chooses_by_validation_and_never_looks_at_a_query(config, loaded, tmp_path):
    candidates = {"hebbian_lr": [0.0, 1e30], "finetune_lr": [0.0]}
    best = search(config, tmp_path, loaded, "50%", candidates)
    queries = set(Run(config, None, loaded).split.queries.tolist())
    assert len(queries) == 24
    assert loaded.pixels.seen == set(range(240)) - queries
    done = rows(tmp_path)
    assert (tmp_path / "search" / "None-conv6-hpca_fh.csv").exists()
    assert {(row["labels"], row["seed"]) for row in done} == {("50%", "0")}
    scores = [float(row["validation_accuracy"]) for row in done]
    first = {name: float(done[scores.index(max(scores))][name]) for name in candidates}
    assert best == pytest.approx(first)
    assert scores[[row["hebbian_lr"] for row in done].index("1e+30")] == -math.inf  # diverged
    assert all(float(row["seconds"]) > 0 for row in done)


def test_score_is_the_best_validation_epoch_of_the_run_that_it_stands_for(config, loaded, tmp_path):
    search(config, tmp_path, loaded, "100%", {"finetune_lr": []})
    run = Run(config, None, loaded)
    run.learn_features()
    tuned = run.finetune(None)
    assert float(rows(tmp_path)[0]["validation_accuracy"]) == pytest.approx(tuned.best_accuracy)


def test_search_goes_on_from_its_rows(config, loaded, tmp_path, monkeypatch):
    candidates = {"hebbian_lr": [0.01], "finetune_lr": [1e-2, 1e-4]}
    pretrained = []
    learn = Run.learn_features
    monkeypatch.setattr(
        Run, "learn_features", lambda run: pretrained.append(run.config.hebbian_lr) or learn(run)
    )
    finetune = Run.finetune

    def best_as_it_began(run, *arguments):
        finetune(run, *arguments)
        if any(getattr(run.config, name) in tried for name, tried in candidates.items()):
            run.validation["fine-tuning"] = [0.0]

    monkeypatch.setattr(Run, "finetune", best_as_it_began)
    best = search(config, tmp_path, loaded, "100%", candidates)
    assert sorted(pretrained) == [0.01, 0.06]  # fine-tuning alone does not need it anew
    done = rows(tmp_path)
    (path,) = (tmp_path / "search").glob("*.csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))  # as if stopped before the last trial
    assert search(config, tmp_path, loaded, "100%", candidates) == best
    again = rows(tmp_path)
    assert [row | {"seconds": ""} for row in again] == [row | {"seconds": ""} for row in done]
    monkeypatch.setattr(Run, "__init__", None)  # nothing is left to compute
    assert search(config, tmp_path, loaded, "100%", candidates) == best
    assert rows(tmp_path) == again


def test_trials_of_other_images_are_refused(config, loaded, tmp_path, monkeypatch):
    search(config, tmp_path, loaded, "100%", {"finetune_lr": []})
    before = rows(tmp_path)
    assert before[0]["database"] == "216"
    monkeypatch.setattr(Run, "__init__", None)  # they are before anything is computed
    with pytest.raises(TableError, match="its cells have 216 database, this run 90: other images"):
        search(config, tmp_path, smaller(load(config), 100), "100%", {"finetune_lr": [0.1]})
    assert rows(tmp_path) == before


def test_search_without_a_trial_that_learned_is_said(config, loaded, tmp_path):
    diverging = with_values(config, {"hebbian_lr": 1e30})
    with pytest.raises(ArithmeticError, match=r"None-conv6-hpca_fh\.csv: every trial diverged"):
        search(diverging, tmp_path, loaded, "100%", {"finetune_lr": []})


def test_search_without_validation_images_is_refused(config, loaded, tmp_path):
    with pytest.raises(ConfigError, match="labels 10%: too few to have validation images"):
        search(config, tmp_path, loaded, "10%", {"finetune_lr": [0.1]})


def test_every_method_gets_its_own_values(config, loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("training.paper.search.candidates_of", lambda config: {"finetune_lr": [1e-2]})
    configs = {
        "none": configure({"rule": "none", "data": config.data, "image_size": 28, "finetune_epochs": 2})
    }
    configs = {name: with_values(each, {"epochs": 1}) for name, each in configs.items()} | {"hpca_fh": config}
    found = search_all(configs, tmp_path, loaded, "100%")
    assert found.keys() == configs.keys()
    for name, each in found.items():
        assert each.finetune_lr in {1e-3, 1e-2}
        assert each == with_values(configs[name], {"finetune_lr": each.finetune_lr})
    assert len(list((tmp_path / "search").glob("*.csv"))) == 2


def test_values_have_their_fields_type():
    changed = with_values(configure({}), {"finetune_epochs": 7.0, "whiten": 1.0, "weight_decay": 1})
    assert (changed.finetune_epochs, changed.whiten, changed.weight_decay) == (7, True, 1.0)
    assert isinstance(changed.finetune_epochs, int)
    with pytest.raises(ConfigError, match="search rule: only numbers"):
        with_values(configure({}), {"rule": 1.0})
    with pytest.raises(ConfigError, match=r"dropout 1\.0"):
        with_values(configure({}), {"dropout": 1.0})


def test_each_method_is_searched_for_what_it_has():
    names = {
        rule: set(candidates_of(configure({"rule": rule}))) for rule in ("none", "vae", "hpca_fh", "swta_fh")
    }
    fine_tuning = {"finetune_lr", "weight_decay"}
    assert names == {
        "none": fine_tuning,
        "vae": fine_tuning | {"vae_lr", "beta"},
        "hpca_fh": fine_tuning | {"hebbian_lr"},
        "swta_fh": fine_tuning | {"hebbian_lr", "temperature"},
    }
    assert candidates_of(configure({}))["hebbian_lr"] == [0.006, 0.018, 0.18, 0.6]


def test_what_comes_later_is_no_part_of_the_pretraining():
    for rule in ("hpca_fh", "vae", "hah"):
        base = configure({"rule": rule})
        assert earlier(base) == earlier(with_values(base, {"finetune_lr": 0.1, "weight_decay": 0.1}))
        assert earlier(base) != earlier(with_values(base, {"smoothing": 0.1}))


@pytest.mark.parametrize("arguments", [["--table", "3", "--quick"], ["--table", "1"]])
def test_search_is_for_the_whole_data_set(arguments):
    with pytest.raises(ConfigError, match="search 5%: only for tables 2, 3, 6 without --quick"):
        run_command(["--dataset", "cifar10", "--search", "5%", *arguments])
