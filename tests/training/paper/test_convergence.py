"""How many epochs a network needs: the readout after each, and what is kept of it."""

import dataclasses

import pytest
import torch

from tests.training.paper.conftest import configured
from training import run as training_run
from training.config import ConfigError, configure
from training.data import DataError
from training.device import describe
from training.paper import convergence
from training.paper.cells import Cells
from training.paper.convergence import Trajectories
from training.paper.one_layer import layer_readout
from training.paper.tables import TableError
from training.paper.work import smaller
from training.run import Run

pytestmark = pytest.mark.long


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
    assert convergence.converged(accuracies) == epoch


@pytest.mark.parametrize("rule", ["hpca_fh", "vae"])
def test_trajectory_is_that_of_a_run(rule, cifar, loaded):
    config = configured(rule, cifar)
    run, reference = Run(config, None, loaded), Run(config, None, loaded)
    accuracies = convergence.trajectory(run)
    reference.learn_features()
    for name, tensor in reference.model.network.state_dict().items():
        torch.testing.assert_close(run.model.network.state_dict()[name], tensor, msg=name)
    assert len(accuracies) == 2
    assert accuracies[-1] == convergence.readout(run)


def test_digits_are_read_better_than_by_chance():
    chosen = {"dataset": "digits", "device": "cpu", "precision": "fp32", "epochs": 1}
    run = Run(configure(chosen), None)
    run.learn_features()
    assert convergence.readout(run, 300) > 0.7


def test_readout_never_looks_at_a_test_image(monkeypatch, cifar, loaded):
    run, seen = Run(configured("hpca_fh", cifar), None, loaded), set()
    features = run.features
    monkeypatch.setattr(
        run, "features", lambda groups: features(seen.update(g.tolist()) or g for g in groups)
    )
    convergence.readout(run)
    assert seen == set(run.split.training.tolist()) | set(run.split.validation.tolist())
    seen.clear()
    convergence.readout(run, 5)
    assert len(seen) == 10


def test_interrupted_trajectory_goes_on_where_it_was(monkeypatch, cifar, loaded, tmp_path):
    config = configured("hpca_fh", cifar, epochs=3)
    whole = convergence.trajectory(Run(config, None, loaded))
    learn = training_run.learn

    def stops(run, learner, epoch, groups):
        if epoch == 2:
            raise KeyboardInterrupt
        learn(run, learner, epoch, groups)

    monkeypatch.setattr(training_run, "learn", stops)
    with pytest.raises(KeyboardInterrupt):
        convergence.trajectory(Run(config, tmp_path, loaded))
    epochs = []
    monkeypatch.setattr(training_run, "learn", lambda *args: epochs.append(args[2]) or learn(*args))
    assert convergence.trajectory(Run(config, tmp_path, loaded)) == pytest.approx(whole)
    assert epochs == [2]


def test_finished_runs_are_skipped_and_the_file_says_what_they_were(
    monkeypatch, caplog, cifar, loaded, tmp_path
):
    caplog.set_level("INFO", "hebbsearch")
    made = []

    def trajectory(run):
        made.append((run.config.rule, run.config.seed))
        return [0.25, 0.5 + run.config.seed / 100]

    monkeypatch.setattr(convergence, "trajectory", trajectory)
    configs = {rule: configured(rule, cifar) for rule in ("hpca_fh", "swta_fh")}
    finished = Trajectories(tmp_path, "cifar10-conv6")
    for seeds in (1, 2):
        convergence.converge(configs, seeds, finished, lambda: loaded, tmp_path / "work")
    assert made == [("hpca_fh", 0), ("swta_fh", 0), ("hpca_fh", 1), ("swta_fh", 1)]
    said = [line.rsplit(",", 1)[0] for line in caplog.messages if "converged" in line]
    assert said == [
        f"{rule}, seed {seed}: converged in epoch 2; {number} of 2 runs"
        for seed in (0, 1)
        for number, rule in enumerate(configs, 1)
    ]
    assert [each.accuracies for each in finished.of("swta_fh")] == [[0.25, 0.5], [0.25, 0.51]]
    convergence.converge(configs, 2, finished, None, None)  # nothing is left, not even images are read
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
    fewer = smaller(loaded, 20)
    with pytest.raises(TableError, match="its cells have 32 database, this run 16: other images"):
        convergence.converge(configs, 3, finished, lambda: fewer, tmp_path / "work")
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
        convergence.trajectory(Run(configured("hpca_fh", cifar, epochs=0), None, loaded))
    run = Run(configured("hpca_fh", cifar, labels="none"), None, loaded)
    for figure in (convergence.trajectory, layer_readout):
        with pytest.raises(DataError, match="no labelled images to validate on"):
            figure(run)
