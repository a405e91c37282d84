"""The wheel is all that is needed: built, installed, and walked from an empty folder without the sources."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import httpx
import pytest

from index.artifact import Artifact
from tests.samples import environment, free_port, wait_until_ready
from tests.service.test_kill import png

ROOT = Path(__file__).parents[1]
ROOMS = ("index", "training", "service")
SOURCES = (*ROOMS, "pyproject.toml", "README.md", "LICENSE")
NOT_SHIPPED = shutil.ignore_patterns("__pycache__", ".*_cache")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as a build leaves its traces among the sources."""
    sources = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, ignore=NOT_SHIPPED)
        else:
            shutil.copyfile(ROOT / name, sources / name)
    made = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(made), str(sources)]
    subprocess.run(build, check=True)
    (wheel,) = made.iterdir()
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it lies, apart from everything that it needs, which is that of the tests."""
    site = tmp_path_factory.mktemp("site")
    subprocess.run(
        [*PIP, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True
    )
    return site


@pytest.mark.process
def test_every_file_of_the_packages_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if name.partition("/")[0] in ROOMS}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert re.match(rf"hebbsearch-{re.escape(project['project']['version'])}-py3-none-any", wheel.name)
    kept = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *ROOMS],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\n")  # fmt: skip
    assert there == {name for name in kept if name and (ROOT / name).exists()}


@pytest.mark.process
@pytest.mark.parametrize("made_before", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_demo_needs_nothing_else(
    installed: Path, artifact: Artifact, tmp_path: Path, made_before: bool
) -> None:
    if made_before:
        shutil.copytree(artifact.path, tmp_path / "hebbsearch-demo")
    port = free_port()
    where = environment(None) | {"PYTHONPATH": str(installed), "HOME": str(tmp_path)}
    command = [str(installed / "bin" / "hebbsearch"), "demo", "--port", str(port)]
    with (tmp_path / "said").open("w+") as said:
        process = subprocess.Popen(command, cwd=tmp_path, env=where, stderr=said)
        try:
            while not (tmp_path / "hebbsearch-demo").exists():  # it learns
                assert process.poll() is None
                time.sleep(0.1)
            wait_until_ready(f"http://127.0.0.1:{port}", process)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                page = client.get("/").raise_for_status().text
                parts = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
                assert len(parts) > 1
                for part in parts:
                    client.get(f"/{part}").raise_for_status()
                results = client.post("/search", content=png(1)).raise_for_status().json()["results"]
                assert len(results) == 10
                if not made_before:
                    learn = [command[0], "learn", "--take", "--url", str(client.base_url)]
                    learned = subprocess.run(learn, cwd=tmp_path, env=where, capture_output=True, text=True)
                    assert learned.returncode == 0, learned.stderr
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        said.seek(0)
        assert "Traceback" not in said.read()
    modules = subprocess.run(
        [sys.executable, "-P", "-c", "import index, service, training; print(service.__path__)"],
        cwd=tmp_path, env=where, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert str(installed) in modules and str(ROOT) not in modules
    made = set() if made_before else {"hebbsearch-demo-learned-1"}
    there = {name for name in os.listdir(tmp_path) if not name.startswith(".hebbsearch-demo.jobs.")}
    assert there == {"hebbsearch-demo", "said"} | made
