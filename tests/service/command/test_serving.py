"""How the command `hebbsearch` starts: with which settings, and from where."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from index.artifact import Artifact, open_artifact
from service.command import main, parser
from service.command.serving import address_of
from service.settings import Settings
from tests import forking
from tests.samples import environment, free_port, wait_until_ready
from tests.service.test_kill import png
from tests.training.narrow import NARROW_PROCESS


@pytest.mark.process
def test_serve_takes_every_setting_but_keys(own: Artifact) -> None:
    shown = parser().parse_args(["serve", "--queue", "5"])
    assert shown.setting_queue == "5"
    options = {name for name in Settings.model_fields if hasattr(shown, f"setting_{name}")}
    secret = {"catalogue", "read_keys", "write_keys", "admin_keys"}  # others can read a command line
    assert set(Settings.model_fields) - options == {"artifact", *secret}
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
        wait_until_ready(f"http://127.0.0.1:{port}", process)
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
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        found = httpx.post(f"http://127.0.0.1:{port}/search", content=png(1), timeout=60)
    finally:
        process.terminate()
        process.wait(30)
    assert found.status_code == 200
    assert not ran.exists(), f"serve ran {ran.read_text()}"


def child_of(process: "subprocess.Popen[str]") -> int:
    """The process that it has started."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


@pytest.mark.process
@pytest.mark.long
def test_the_demo_learns_once_goes_on_where_it_was_stopped_and_serves(tmp_path: Path) -> None:
    folder, port = tmp_path / "first look", free_port()
    command = [sys.executable, "-m", "service.command", "demo", str(folder), "--port", str(port)]
    ctrl_c = signal.SIGINT

    def started() -> "subprocess.Popen[str]":
        env = environment(None) | NARROW_PROCESS
        return forking.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    learning = started()
    while not list(tmp_path.glob("first look.partial/checkpoint*")):
        assert learning.poll() is None, learning.communicate()
        time.sleep(0.01)
    for pid in (child_of(learning), learning.pid):  # as a terminal sends it to all
        os.kill(pid, ctrl_c)
    _, said = learning.communicate(timeout=60)
    assert learning.returncode == 130 and "Traceback" not in said, said
    assert said.startswith(f"{folder}: learns from 1,797 handwritten digits")
    assert said.endswith("hebbsearch: stopped; the same command goes on\n")

    for how in (f"{folder}: goes on where it was stopped", f"{folder}: made before, and served as it is"):
        serving = started()
        wait_until_ready(f"http://127.0.0.1:{port}", serving, minutes=10)  # it learns first
        found = httpx.post(f"http://127.0.0.1:{port}/search", content=png(1), timeout=60)
        assert len(found.json()["results"]) == 10
        assert "text/html" in httpx.get(f"http://127.0.0.1:{port}/").headers["content-type"]
        os.kill(serving.pid, ctrl_c)
        _, said = serving.communicate(timeout=60)
        assert serving.returncode == 0 and "Traceback" not in said, said
        assert said.startswith(how)
        assert f'Once it says "running on", open http://127.0.0.1:{port} in a browser' in said
        assert f"running on http://127.0.0.1:{port}" in said
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    with open_artifact(folder).open_catalogue() as catalogue:
        assert not len(catalogue.without_embedding())  # what is labelled there can be learned from


def test_what_cannot_be_served_is_refused_before_anything_is_learned(
    own: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures := tmp_path / "my pictures").mkdir()
    assert main(["demo", str(pictures), "--port", str(free_port())]) == 1
    assert f"hebbsearch build '{pictures}'" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        for command in (["demo", str(tmp_path / "new")], ["serve", str(own.path)]):
            assert main([*command, "--port", port]) == 1
            told = f"hebbsearch: port {port} of 127.0.0.1 is taken; choose another with --port\n"
            assert capsys.readouterr().err == told
    for address in (["--port", "70000"], ["--host", "nowhere.invalid"], ["--host", "x" * 70 + ".y"]):
        assert main(["demo", str(tmp_path / "new"), *address]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://localhost:80"),
        ("::", "http://localhost:80"),
        ("fe80::1", "http://[fe80::1]:80"),
    ],
)
def test_the_address_is_one_that_a_browser_opens(host: str, address: str) -> None:
    assert address_of(host, 80) == address
