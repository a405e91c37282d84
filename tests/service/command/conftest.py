"""The command, as a process of its own, against a service in another."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import PREFIX
from tests import forking
from tests.samples import build_artifact, environment, serve
from tests.service.command.commands import Run, hash_seed
from tests.service.test_kill import png


@pytest.fixture(scope="package")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that takes few images at a time, to be changed by the tests of this folder."""
    artifact = build_artifact(tmp_path_factory.mktemp("command"))
    with serve(artifact.path, max_batch="8", max_batch_bytes="200000") as address:
        yield address


@pytest.fixture
def hebbsearch(address: str, tmp_path: Path) -> Run:
    def run(*arguments: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = forking.run(
            [sys.executable, "-m", "service.command", *arguments],
            env=environment(None) | {f"{PREFIX}URL": address} | more,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images in two folders, and three files that are none."""
    folder = tmp_path / tmp_path.name
    for number in range(20):
        file = folder / ("one", "two words")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(hash_seed(tmp_path.name) + number))
    (folder / "notes.txt").write_text("no image")
    (folder / "one" / "half.png").write_bytes(png(1)[:50])
    (folder / ".hidden.png").write_bytes(png(2))
    return folder
