"""Many images are encoded and loaded by commands, each a process that may be killed at any time."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from index import shards
from index.artifact import CATALOGUE, ENCODER, MANIFEST, Artifact
from service.command import main
from service.core.artifacts.encoding import Worker
from tests import forking
from tests.samples import environment
from tests.service.command.commands import Run
from tests.service.core.artifacts.shards import contents, encode, known, load

pytestmark = pytest.mark.process

PART = 3
PARTS = 25  # of 75 images


@pytest.fixture
def data(own: Artifact) -> Path:
    return Path(str(own.manifest.data["root"]))


@pytest.fixture
def whole(own: Artifact, data: Path, tmp_path: Path) -> Path:
    """The shards that nobody interrupted."""
    encode(data, own.path, tmp_path / "whole", part_size=PART)
    return tmp_path / "whole"


def encoding(data: Path, artifact: Path, out: Path) -> list[str]:
    where = ["--data", str(data), "--encoder", str(artifact), "--out", str(out)]
    return ["encode", *where, "--part-size", str(PART)]


def killed_after_a_line(command: list[str], **more: str) -> None:
    """Begun as a process, and killed when it has told of a part."""
    with forking.Popen(
        [sys.executable, "-m", "service.command", *command],
        env=environment(None) | more,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("part ")
        process.kill()
        assert process.wait() == -signal.SIGKILL


@pytest.mark.long
def test_a_killed_worker_is_made_good_by_any_number_of_others(
    hebbsearch: Run, own: Artifact, data: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = encoding(data, own.path, out)
    killed_after_a_line(command, RANK="1", WORLD_SIZE="2")
    begun = {name for name in contents(out) if not name.startswith(".")}
    assert 1 < len(begun) < 1 + PARTS // 2  # the plan, and some of its parts, not all
    encode(data, own.path, out, *(Worker(rank, 3) for rank in range(3)), part_size=PART)
    assert contents(out) == contents(whole)
    assert json.loads(hebbsearch(*command, "--json").stdout) == {
        "shards": str(out), "parts": PARTS, "ready": PARTS, "images": 75, "noted": {},
    }  # fmt: skip


@pytest.mark.long
def test_a_killed_load_goes_on_and_ends_equal(
    hebbsearch: Run, own: Artifact, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(own.path, tmp_path / "other")
    load(whole, tmp_path / "other")
    command = ["load", str(whole), "--artifact", str(own.path)]
    killed_after_a_line(command)
    assert 0 < len(known(own.path, "images")) < 75
    told = json.loads(hebbsearch(*command, "--json").stdout)
    assert 0 < told["parts_before"] < PARTS and told["parts_missing"] == 0
    assert known(own.path, "images") == known(tmp_path / "other", "images")
    assert len(known(own.path, "images")) == 75
    assert "no fault" in hebbsearch("verify", str(own.path)).stdout
    again = hebbsearch(*command).stdout
    assert (
        again == f"{own.path}: 0 added, 0 there already, 0 back from the trash; 25 parts were loaded before\n"
    )


def test_what_was_left_out_is_named_and_ends_nobody_else(
    hebbsearch: Run, own: Artifact, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["encode", "--data", str(folder), "--encoder", str(own.path), "--out", str(out)]
    alone = hebbsearch(*command, "--name", "holiday", code=3)
    assert "20 images; 1 of 1 parts are there" in alone.stdout
    assert "left out: notes.txt: not an image" in alone.stderr
    assert "left out: one/half.png: the image is" in alone.stderr
    one_of_many = hebbsearch(*command, "--name", "holiday", RANK="0", WORLD_SIZE="1")
    assert one_of_many.stderr.count("left out: ") == 2
    loaded = hebbsearch("load", str(out), "--artifact", str(own.path), code=3)
    assert "20 added, 0 there already" in loaded.stdout and loaded.stderr.count("left out: ") == 2
    assert len(known(own.path, "holiday")) == 20


def test_parts_that_are_missing_are_told(hebbsearch: Run, own: Artifact, whole: Path) -> None:
    shards.path_of(whole, 4).unlink()
    loaded = hebbsearch("load", str(whole), "--artifact", str(own.path), code=3)
    assert "1 of 25 parts are not encoded yet; give both commands again\n" in loaded.stdout


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"RANK": "30", "WORLD_SIZE": "31"},
            "WORLD_SIZE is 31, and there are 25 parts to share",
        ),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is x and WORLD_SIZE is 2; set both"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    hebbsearch: Run, own: Artifact, data: Path, tmp_path: Path, change: dict[str, str], line: str
) -> None:
    out = tmp_path / "out"
    said = hebbsearch(*encoding(data, own.path, out), code=1, **change)
    assert said.stderr.startswith(f"hebbsearch: {line}") and len(said.stderr.splitlines()) == 1
    assert not out.exists()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can become larger meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    own: Artifact, data: Path, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = encoding(data, own.path, out)
    with full_disk(2000):
        assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"hebbsearch: {out}: File too large; free space, and the same command goes on where it was"
    assert list(contents(out)) == [shards.PLAN]
    assert main(command) == 0
    assert contents(out) == contents(whole)


def test_a_full_disk_ends_a_load_that_then_goes_on(
    own: Artifact, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["load", str(whole), "--artifact", str(own.path)]
    with full_disk((own.path / CATALOGUE).stat().st_size + 100_000):
        assert main(command) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hebbsearch: {own.path / CATALOGUE}: ") and "free space on that disk" in line
    before = len(known(own.path, "images"))
    assert before < 75 and before % PART == 0
    assert main(command) == 0
    assert len(known(own.path, "images")) == 75


def test_without_pyarrow_both_say_what_to_install(
    own: Artifact,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    before = (own.path / CATALOGUE).read_bytes()
    for command in (
        encoding(data, own.path, tmp_path / "out"),
        ["load", str(tmp_path), "--artifact", str(own.path)],
    ):
        assert main(command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("hebbsearch: ") and "pip install 'hebbsearch[shards]'" in line
    assert not (tmp_path / "out").exists() and (own.path / CATALOGUE).read_bytes() == before


@pytest.mark.slow
def test_torchrun_starts_them(own: Artifact, data: Path, tmp_path: Path, whole: Path) -> None:
    """As the docs say, but by the module: the command may not be installed."""
    out = tmp_path / "out"
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    command = [*start, sys.executable, "-m", "service.command", *encoding(data, own.path, out)]
    subprocess.run(command, check=True, env=os.environ | environment(None), timeout=300)
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_what_is_loaded_is_what_was_built(hebbsearch: Run, data: Path, tmp_path: Path) -> None:
    """By a real build, whose encoder makes embeddings: its own images, encoded and loaded beside them."""
    built, out = tmp_path / "built", tmp_path / "out"
    how = ["--backbone", "conv6", "--recipe", "best", "--epochs", "1", "--device", "cpu"]
    how += ["--data", str(data), "--out", str(built)]
    forking.run([sys.executable, "-m", "training.build_index", *how], timeout=600).check_returncode()
    hebbsearch("encode", "--data", str(data), "--encoder", str(built), "--out", str(out), "--name", "again")
    hebbsearch("load", str(out), "--artifact", str(built))  # what is there by its bytes is not added
    before = known(built)
    assert len(before) > 50 and all(each[-1] for each in before.values())
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copyfile(built / ENCODER, empty / ENCODER)
    manifest = json.loads((built / MANIFEST).read_text())
    manifest["files"] = {ENCODER: manifest["files"][ENCODER]}
    (empty / MANIFEST).write_text(json.dumps(manifest))
    hebbsearch("load", str(out), "--artifact", str(empty))
    ours = known(empty, "again")
    assert {path: ours[path] for path in before} == before
    assert "no fault" in hebbsearch("verify", str(empty)).stdout
