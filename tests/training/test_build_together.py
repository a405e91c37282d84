"""The command in several processes, told of each other as torchrun does."""

import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from index import artifact
from tests import forking
from tests.training.test_build_index import COMMAND, environment, striped_folder
from training import label, reproduce
from training.learning.hebbian import Pretraining
from training.learning.together import MEETING

WORLD = 2
# Codes without labels: nothing follows that makes more of the last digits in which the pre-trainings differ.
LEARNED = ["--labels", "none", "--recipe", "paper", "--epochs", "2", "--image-size", "28"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return striped_folder(tmp_path_factory.mktemp("pictures"), 45)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def started(folders, *arguments, world=WORLD):
    """A process of the command for each rank, each in its folder."""
    folders = folders if isinstance(folders, list) else [folders] * world
    told = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    told |= {"GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(COMMAND), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        forking.Popen(command, cwd=folders[rank], env=environment() | told | {"RANK": str(rank)}, **pipes)
        for rank in range(world)
    ]


def ended(processes, code=0):
    """What each said on both ways."""
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), said
    assert not [errors for _, errors in said if "Traceback" in errors]
    return said


def features(folder):
    """What was learned in pre-training, and before it."""
    state = load_file(artifact.open_artifact(folder).path / "encoder.safetensors")
    return {name: state[name] for name in state if name.startswith(("features", "normalise"))}


def assert_equal(got, expected):
    assert len(expected) > 20
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.process
@pytest.mark.long
def test_two_processes_build_what_one_builds(pictures, tmp_path, here, monkeypatch):
    """From the start, or from where one was stopped; the second process says and leaves nothing."""
    asked = ["--data", str(pictures), *LEARNED]
    (said, progress), silent = ended(started(tmp_path, *asked, "--out", "two"))
    assert "two: 45 images indexed" in said
    assert "pre-training: epoch 2 of 2" in progress
    assert silent == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]

    here(*asked, "--out", "one")
    epoch = Pretraining.epoch
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "epoch", lambda *given: stop() if given[1] else epoch(*given))
        here(*asked, "--out", "stopped", code=130)
    assert ended(started(tmp_path, "--resume", "stopped.partial"))[1] == ("", "")
    for name in ("two", "stopped"):
        assert_equal(features(tmp_path / name), features(tmp_path / "one"))
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "stopped"}


def stop():
    raise KeyboardInterrupt


@pytest.mark.process
@pytest.mark.long
def test_processes_with_other_images_are_refused(pictures, tmp_path):
    """As on two machines."""
    for rank, count in enumerate((45, 44)):
        striped_folder(tmp_path / str(rank) / "pictures", count)
    processes = started([tmp_path / "0", tmp_path / "1"], "--data", "pictures", *LEARNED)
    for _, errors in ended(processes, code=2):
        assert "the processes do not have the same images" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--rule", "none"], "8 processes share the pre-training, and here is none"),
        (["--backbone", "timm/resnet18"], "8 processes share the pre-training, and here is none"),
        (["--set", "batch_size=15"], "batch_size 15 is too small for 8 processes: --set batch_size=16"),
        (["--device", "cuda:1"], "device cuda:1 is for one process"),
    ],
)
def test_what_several_processes_cannot_learn_is_refused(here, monkeypatch, tmp_path, given, says):
    for name in MEETING:
        monkeypatch.setenv(name, "8")
    assert says in here(*given, code=2)
    assert list(tmp_path.iterdir()) == []


def test_labels_and_the_papers_tables_are_for_one_process(call, monkeypatch):
    for name in MEETING:
        monkeypatch.setenv(name, "8")
    assert "hebbsearch label runs in one process" in call(label.main, "here", "--out", "there", code=2).err
    assert (
        "reproduce.py runs in one process"
        in call(reproduce.main, "--table", "2", "--dataset", "digits", code=2).err
    )
