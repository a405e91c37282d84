"""The command in several processes, told of each other as torchrun does."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from index import artifact
from tests import forking
from tests.training.test_build_index import COMMAND, environment, striped_folder
from training import label, pixels, reproduce, run
from training.learning.finetune import Supervised
from training.learning.hebbian import Pretraining
from training.learning.together import MEETING

WORLD = 2
# Codes without labels: nothing follows that makes more of the last digits in which the pre-trainings differ.
BRIEFLY = [
    "-c",
    "import training.run as run; run.LEAST_STEPS = 1; import training.build_index as b; b.main()",
]
# The same, where no set fits into memory; each process notes the images that it reads at the start.
NOTING = """
import os
import training.pixels as pixels
pixels.MEMORY_LIMIT = 0
opened = pixels.opened

def noted(images, position):
    with open("read-" + os.environ["RANK"], "a") as file:
        print(position, file=file)
    return opened(images, position)

pixels.opened = noted
import training.build_index as b
b.main()
"""
LEARNED = ["--labels", "none", "--recipe", "paper", "--epochs", "2", "--image-size", "28"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return striped_folder(tmp_path_factory.mktemp("pictures"), 45)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def started(folders, *arguments, world=WORLD, command=(str(COMMAND),)):
    """A process of the command for each rank, each in its folder."""
    folders = folders if isinstance(folders, list) else [folders] * world
    told = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    told |= {"GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, *command, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        forking.Popen(command, cwd=folders[rank], env=environment() | told | {"RANK": str(rank)}, **pipes)
        for rank in range(world)
    ]


def ended(processes, code=0, patience=120):
    """What each said on both ways."""
    said = [process.communicate(timeout=patience) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), said
    assert not [errors for _, errors in said if "Traceback" in errors]
    return said


def weights(folder):
    """All that was learned."""
    return load_file(artifact.open_artifact(folder).path / "encoder.safetensors")


def features(folder):
    """What was learned in pre-training, and before it."""
    state = weights(folder)
    return {name: state[name] for name in state if name.startswith(("features", "normalise"))}


def assert_equal(got, expected, share=2e-3):
    """But for rounding, of which a winner here and there makes more: kernels of some processors round by the
    size of a batch. To the last digits test_together.py compares, over fewer steps."""
    assert len(expected) > 20
    for name, tensor in expected.items():
        difference = (got[name].double() - tensor.double()).norm()
        assert difference <= share * tensor.double().norm() + 1e-4 * tensor.numel() ** 0.5, name


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
    stop_after_an_epoch(Pretraining, here, monkeypatch, *asked, "--out", "stopped")
    assert ended(started(tmp_path, "--resume", "stopped.partial"))[1] == ("", "")
    for name in ("two", "stopped"):
        assert_equal(features(tmp_path / name), features(tmp_path / "one"))
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "stopped"}


@pytest.mark.process
@pytest.mark.long
def test_each_image_is_read_once_before_they_learn(pictures, tmp_path, here, monkeypatch):
    """Of a set that does not fit into memory, by one of them; all leave out what that one cannot read."""
    shutil.copytree(pictures, tmp_path / "some")
    for broken in sorted((tmp_path / "some").rglob("*.png"))[7:9]:
        broken.write_bytes(b"no image")
    asked = ["--data", str(tmp_path / "some"), *LEARNED]
    command = ["-c", NOTING]
    (said, _), silent = ended(started(tmp_path, *asked, "--out", "two", command=command))
    assert "two: 43 images indexed" in said and silent == ("", "")
    read = [(tmp_path / f"read-{rank}").read_text().splitlines() for rank in range(WORLD)]
    assert [len(positions) for positions in read] == [23, 22]
    assert sorted(int(each) for positions in read for each in positions) == [*range(45)]

    monkeypatch.setattr(pixels, "MEMORY_LIMIT", 0)
    here(*asked, "--out", "one")
    one, two = (artifact.open_artifact(tmp_path / name) for name in ("one", "two"))
    assert two.manifest.data["skipped"] == one.manifest.data["skipped"]
    assert len(two.manifest.data["skipped"]) == 2
    with one.open_catalogue() as ours, two.open_catalogue() as theirs:
        both = zip(ours.page(count=50), theirs.page(count=50), strict=True)
        assert all(our.sha256 == their.sha256 for our, their in both)
    assert_equal(features(tmp_path / "two"), features(tmp_path / "one"))


@pytest.mark.process
def test_folders_that_differ_are_refused(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "0" / "some")
    shutil.copytree(pictures, tmp_path / "1" / "some")
    next((tmp_path / "1" / "some").rglob("*.png")).rename(tmp_path / "1" / "some" / "other.png")
    folders = [tmp_path / "0", tmp_path / "1"]
    said = ended(started(folders, "--data", "some", *LEARNED, command=["-c", NOTING]), code=2)
    assert all("the processes do not have the same images" in errors for _, errors in said)
    assert not [*tmp_path.glob("?/read-*")], "nothing was read for it"


def stop_after_an_epoch(learner, here, monkeypatch, *asked):
    """As Ctrl+C does while the second epoch begins."""
    epoch = learner.epoch

    def stopped(self, number, *more):
        if number:
            raise KeyboardInterrupt
        return epoch(self, number, *more)

    with monkeypatch.context() as patch:
        patch.setattr(learner, "epoch", stopped)
        here(*asked, code=130)


@pytest.mark.process
@pytest.mark.long
def test_labels_are_learned_from_together(pictures, tmp_path, here, monkeypatch):
    """Fine-tuning and the head as one process has them, also where they are gone on with."""
    asked = ["--data", str(pictures), "--recipe", "paper", "--epochs", "1", "--finetune-epochs", "2"]
    asked += ["--image-size", "28", "--labels", "50%"]
    (said, progress), silent = ended(started(tmp_path, *asked, "--out", "two"))
    assert "two: 41 images indexed, codes of 256 bits (supervised tanh head)" in said
    assert "hashing head: epoch 2 of 2" in progress
    assert silent == ("", "")

    here(*asked, "--out", "one")
    stop_after_an_epoch(Supervised, here, monkeypatch, *asked, "--out", "stopped")
    assert ended(started(tmp_path, "--resume", "stopped.partial"))[1] == ("", "")
    for name in ("two", "stopped"):
        assert_equal(weights(tmp_path / name), weights(tmp_path / "one"))


@pytest.mark.process
@pytest.mark.long
@pytest.mark.parametrize("stage", ["pre-training", pytest.param("fine-tuning", marks=pytest.mark.slow)])
def test_a_process_that_is_killed_ends_the_others_with_a_line(pictures, tmp_path, stage):
    """Its checkpoint is gone on with."""
    epochs = ["500", "1"] if stage == "pre-training" else ["1", "500"]
    asked = ["--data", str(pictures), "--recipe", "paper", "--image-size", "28", "--out", "made"]
    first, second = started(tmp_path, *asked, "--epochs", epochs[0], "--finetune-epochs", epochs[1])
    with first, second:
        said = [next(line for line in first.stderr if line.startswith(stage))]
        second.kill()
        said += first.stderr
    assert first.returncode == 2
    assert "hebbsearch build: another process ended or cannot be reached; go on with: " in said[-1]
    assert "build --resume made.partial (" in said[-1]
    assert not [line for line in said if "Traceback" in line]
    config = tmp_path / "made.partial" / "config.json"
    config.write_text(config.read_text().replace("500", "1"))
    assert ended(started(tmp_path, "--resume", "made.partial"))[1] == ("", "")
    assert features(tmp_path / "made")


@pytest.mark.process
@pytest.mark.slow
def test_torchrun_starts_again_where_one_was_killed(pictures, tmp_path):
    """Its elastic restart: the same command goes on with what is there."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    command += ["--no-python", sys.executable, str(COMMAND), "--data", str(pictures), *LEARNED]
    command += ["--epochs", "60", "--out", "made"]
    env = environment() | {"GLOO_SOCKET_IFNAME": "lo"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with forking.Popen(command, cwd=tmp_path, env=env, **pipes) as run:
        said = [next(line for line in run.stderr if line.startswith("pre-training: epoch"))]
        workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        assert len(workers) == WORLD
        assert (tmp_path / "made.partial" / "checkpoint.pt").exists()
        os.kill(int(workers[1]), signal.SIGKILL)
        said += run.stderr
        assert "made: 45 images indexed" in run.stdout.read()
    epochs = [int(line.split()[2]) for line in said if line.startswith("pre-training: epoch")]
    assert epochs == sorted(set(epochs))  # none was learned twice
    assert epochs[-1] == 60


@pytest.mark.process
@pytest.mark.slow
def test_a_student_learns_together(pictures, tmp_path, here, monkeypatch):
    """A pre-trained network learns on from images that were changed; the first worker tells the others what
    the labels say of each, at first and after each round."""
    asked = [
        "--data",
        str(pictures),
        "--backbone",
        "timm/test_resnet",
        "--weights",
        "none",
        "--recipe",
        "best",
    ]
    asked += ["--set", "finetune_backbone=true", "--image-size", "32", "--set", "student_epochs=8"]
    (said, progress), silent = ended(started(tmp_path, *asked, "--out", "two", command=BRIEFLY))
    assert "two: 41 images indexed" in said
    assert "pixel student: epoch 8 of 8" in progress
    assert silent == ("", "")
    monkeypatch.setattr(run, "LEAST_STEPS", 1)
    here(*asked, "--out", "one")
    one, two = (students(tmp_path / name) for name in ("one", "two"))
    assert_equal(two, one, 1e-2)  # momentum makes more of the last digits: 0.33 % was seen


def students(folder):
    """What a student learned, which lies beside the network that it began with."""
    state = weights(folder)
    return {name: state[name] for name in state if name.startswith("features.0.1.")}


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
        (["--rule", "none", "--labels", "none"], "8 processes share what is learned, and here is nothing"),
        (
            ["--backbone", "timm/resnet18", "--labels", "none"],
            "8 processes share what is learned, and here is nothing",
        ),
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
