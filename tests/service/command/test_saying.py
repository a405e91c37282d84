"""What is said, whatever the terminal."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from index.artifact import Artifact
from service.command import main
from service.command.saying import show
from service.settings import PREFIX
from tests.samples import environment
from tests.service.test_kill import png


def test_who_reads_only_the_first_lines_sees_no_fault(own: Artifact, monkeypatch, capsys) -> None:
    for output in (["verify"], ["verify", "--json"]):  # whole lines, and what waits for the end
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            monkeypatch.setattr(sys, "stdout", pipe)
            assert main([*output, str(own.path)]) == 141
            pipe.write("what Python still writes at its end")
    assert capsys.readouterr().err == ""


def test_a_name_that_is_no_unicode_is_shown_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="utf-8", errors="strict"))
    show({"refused": {"caf\udce9.png": "é"}})
    sys.stdout.flush()
    assert json.loads(output.getvalue()) == {"refused": {"caf\ufffd.png": "é"}}


def test_on_a_terminal_that_knows_few_letters_nothing_ends_in_a_traceback(
    address: str, tmp_path: Path
) -> None:
    (tmp_path / "\U0001fae9 é.png").write_bytes(png(92_000_000))
    environment_ = environment(None) | {f"{PREFIX}URL": address, "PYTHONIOENCODING": "latin-1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "service.command", *arguments]
        path = {"PYTHONPATH": str(Path(__file__).parents[3])}
        done = subprocess.run(command, env=environment_ | path, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("latin-1")

    run("add", str(tmp_path), "--name", "latin")
    (line,) = run("list", "--folder", "latin").splitlines()
    assert line.endswith("latin/? é.png")
    (image,) = json.loads(run("list", "--folder", "latin", "--json"))
    assert image["path"] == "\U0001fae9 é.png"
    assert "--max-pixels" in run("serve", "--help")
