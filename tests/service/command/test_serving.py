"""How the command `hebbsearch` starts: with which settings, and from where."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from index.artifact import Artifact
from service.command import parser
from service.settings import Settings
from tests import forking
from tests.samples import environment, free_port, wait_until_ready
from tests.service.test_kill import png


@pytest.mark.process
def test_serve_takes_every_setting_but_keys(own: Artifact) -> None:
    shown = parser().parse_args(["serve", "--queue", "5"])
    assert shown.setting_queue == "5"
    options = {name for name in Settings.model_fields if hasattr(shown, f"setting_{name}")}
    assert set(Settings.model_fields) - options == {"artifact", "read_keys", "write_keys", "admin_keys"}
    port = free_port()
    process = subprocess.Popen(  # as people start it
        [
            sys.executable,
            "-m",
            "service.command",
            "serve",
            str(own.path),
            "--port",
            str(port),
            "--host",
            "::",  # of IPv4 too, then
            "--log",
            "text",
        ],
        env=environment(None),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)  # type: ignore[arg-type]
        long = {f"x-{number}": "a" * 1000 for number in range(70)}
        assert httpx.get(f"http://127.0.0.1:{port}/health/live", headers=long).status_code == 431
        assert httpx.get(f"http://[::1]:{port}/health/ready").status_code == 200
        for name in ("127.0.0.1", "[::1]", "localhost"):  # this machine by each, who may change what there is
            assert httpx.delete(f"http://{name}:{port}/images/0").status_code == 404
    finally:
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert "GET /health/ready" in log and "{" not in log.splitlines()[-1]


@pytest.mark.process
def test_build_is_the_training_command(tmp_path: Path) -> None:
    done = forking.run([sys.executable, "-m", "service.command", "build", "--help"])
    assert done.returncode == 0 and "--backbone" in done.stdout


@pytest.mark.process
def test_the_command_is_installed() -> None:
    program = Path(sys.executable).with_name("hebbsearch")
    if not program.exists():
        assert not os.environ.get("CI"), "pip install made no command"
        pytest.skip("the project was installed before it had a command")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "reencode" in done.stdout


@pytest.mark.process
def test_no_module_is_taken_from_the_folder_in_which_it_is_started(own: Artifact, tmp_path: Path) -> None:
    """As people start it, in a folder that somebody else has filled."""
    here, ran = tmp_path / "downloads", tmp_path / "ran"
    here.mkdir()
    for name in ("index", "service", "training", "numpy", "torch", "faiss", "PIL", "json", "decimal"):
        (here / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write(__name__ + ' ')")
    start = "import sys; from service.command import main; sys.exit(main())"  # what pip makes of it
    program = tmp_path / "bin" / "hebbsearch"
    program.parent.mkdir()
    program.write_text(start)
    nowhere = ["--url", f"http://127.0.0.1:{free_port()}"]
    for arguments, code in (
        (["build", "--data", "gone"], 2),
        (["verify", str(own.path)], 0),
        (["add", str(here), *nowhere], 1),
    ):
        done = subprocess.run(
            [sys.executable, program, *arguments],
            cwd=here,
            env=environment(None),
            capture_output=True,
            text=True,
        )
        assert not ran.exists(), f"{arguments[0]} ran {ran.read_text()}"
        assert done.returncode == code, (arguments, done.stderr)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, program, "serve", str(own.path), "--port", str(port)],
        cwd=here,
        env=environment(None),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)  # type: ignore[arg-type]
        found = httpx.post(f"http://127.0.0.1:{port}/search", content=png(1), timeout=60)
    finally:
        process.terminate()
        process.wait(30)
    assert found.status_code == 200
    assert not ran.exists(), f"serve ran {ran.read_text()}"
