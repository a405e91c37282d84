"""Several processes learn what one learns from the same batches."""

import os
import subprocess
import sys
from functools import cache

import pytest
import torch

from tests import forking
from tests.training.learning.worker import BY_LABELS, CPU, LEARNED, TINY, WORLDS, learned
from training.config import ConfigError, configure
from training.learning.by_rule import LEARNERS
from training.learning.together import ALONE, Alone
from training.nets.backbones import BACKBONES


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """What so many workers have learned, once: [for each of them {rule: state}]."""
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    how = {"cwd": forking.ROOT, "env": env, "stderr": subprocess.PIPE, "text": True}

    @cache
    def by(world):
        folder = tmp_path_factory.mktemp("workers")
        command = [sys.executable, "-m", "tests.training.learning.worker", str(folder)]
        workers = [forking.Popen([*command, str(rank), str(world)], **how) for rank in range(world)]
        said = [worker.communicate(timeout=120)[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * world, said
        return [torch.load(folder / f"{rank}.pt") for rank in range(world)]

    return by


@pytest.mark.process
@pytest.mark.long
@pytest.mark.parametrize(("world", "tolerance"), [(2, 1e-5), pytest.param(3, 1e-10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", LEARNED)
def test_workers_learn_what_one_process_learns(taught, rule, world, tolerance, monkeypatch):
    """Weights and the statistics of batch norm are equal after all steps, though the workers began with
    different ones, and learned from parts of different size."""
    if rule in BY_LABELS:
        tolerance = max(tolerance, 1e-6)  # their loss always has 32 bits
    monkeypatch.setitem(BACKBONES, "tiny", TINY["tiny"])
    before, expected = learned(rule, WORLDS[world], ALONE)
    first, *others = (states[rule] for states in taught(world))
    torch.testing.assert_close(first, expected, rtol=tolerance, atol=tolerance)
    for name in expected:
        assert all(torch.equal(other[name], first[name]) for other in others), name
    assert max(float((expected[name] - before[name]).abs().max()) for name in before) > 100 * tolerance


@pytest.mark.parametrize("rule", ["swta", "hpca"])
def test_two_phase_rule_learns_in_one_process_only(rule):
    workers = Alone()
    workers.world = 2
    with pytest.raises(ConfigError, match=f"rule {rule} learns in one process only.* {rule}_fh"):
        LEARNERS[rule].configured(configure({"rule": rule}), 0, CPU, workers)
