"""How long an epoch takes: what is timed, and how it is extrapolated. Nothing here asserts a duration."""

import pytest
import torch

from tests.training.paper.conftest import configured
from training.paper import durations
from training.paper.cells import Cell
from training.paper.durations import Sampling
from training.run import Run

pytestmark = pytest.mark.long


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
    found = durations.interleaved(cases, 3, clock=lambda: now[0])
    assert found == {"a": [1] * 3, "b": [2] * 3, "c": [3] * 3}
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"  # the first round warms up
    said = [message.rsplit(",", 1)[0] for message in caplog.messages]
    assert said == [f"timed: {done} of 4 rounds" for done in (1, 2, 3, 4)]


def test_epoch_duration_is_the_median_round_extrapolated(monkeypatch, cifar, loaded):
    run = Run(configured("swta", cifar), None, loaded)
    fast = Run(configured("swta_fh", cifar), None, loaded)
    rounds = {"swta": [3.0, 5.0, 4.0], "swta_fh": [0.2, 0.2, 0.2]}
    monkeypatch.setattr(durations, "interleaved", lambda goes, count: rounds)
    learners = {"swta": (run, run.pretraining()), "swta_fh": (fast, fast.pretraining())}
    assert len(run.split.pretraining) == 32  # four batches
    found = durations.durations(learners, Sampling(3, 2, 1))
    assert found["swta"] == {"epoch_duration": 16, "deviation": 4, "rounds": 3, "timed_batches": 3}
    fast = {"epoch_duration": 0.4, "deviation": 0, "rounds": 3, "timed_batches": 6}
    assert found["swta_fh"] == pytest.approx(fast)


def test_no_more_batches_are_timed_than_an_epoch_has(monkeypatch, cifar, loaded):
    run = Run(configured("hpca_fh", cifar), None, loaded)
    monkeypatch.setattr(durations, "interleaved", lambda goes, count: {"hpca_fh": [1.0, 1.0]})
    found = durations.durations({"hpca_fh": (run, run.pretraining())}, Sampling(2, 1000, 1))["hpca_fh"]
    assert (found["epoch_duration"], found["timed_batches"]) == (1, 8)


def test_rounds_see_other_images_of_the_pretraining_part(monkeypatch, cifar, loaded):
    run, seen = Run(configured("hpca_fh", cifar), None, loaded), []
    monkeypatch.setattr(durations, "learn", lambda run, learner, epoch, groups: seen.append(groups))
    rounds = iter(range(2))
    for _ in range(2):
        durations.some_batches(run, run.pretraining(), 2, rounds)()
    first, second = (torch.cat(groups).tolist() for groups in seen)
    assert len(first) == len(second) == 16
    assert first != second
    assert set(first) | set(second) <= set(run.split.pretraining.tolist())


def test_preprocessing_is_fitted_once_for_all_to_whom_it_is_the_same(monkeypatch, cifar, loaded):
    fitted, fit = [], Run.fit_preprocessing
    monkeypatch.setattr(Run, "fit_preprocessing", lambda run: fitted.append(run.config.rule) or fit(run))
    rules = ("swta_fh", "hpca_fh", "softhebb", "swta", "vae")  # of which swta and swta_fh whiten
    runs = durations.prepared({rule: configured(rule, cifar) for rule in rules}, loaded)
    assert fitted == ["swta_fh", "hpca_fh"]
    for rule, same in (("swta", "swta_fh"), ("vae", "hpca_fh"), ("softhebb", "hpca_fh")):
        assert runs[rule].config.whiten == runs[same].config.whiten
        expected = runs[same].model.normalise.state_dict()
        for name, tensor in runs[rule].model.normalise.state_dict().items():
            assert torch.equal(tensor, expected[name])


def test_what_is_compared_is_measured_in_one_run_and_only_what_is_missing(tmp_path):
    store = durations.Durations(tmp_path, "x")

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
