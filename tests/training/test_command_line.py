"""What the commands say where something is wrong: one line, and how to go on."""

import errno
import shlex
from pathlib import Path

import pytest

from tests.training.test_build_index import QUICK, striped_folder
from training import command_line
from training.command_line import USER_ERRORS, OneLineParser, OutputError, explain, fail
from training.config import ConfigError
from training.data import DataError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_the_way_out(number):
    said = explain(OSError(number, "No room", "x.pt"), again="give it again")
    assert said == "No room; make room on the disk and give it again"


def test_what_else_the_system_refuses_is_told_as_it_is():
    error = PermissionError(errno.EACCES, "Permission denied", "x.pt")
    assert explain(error, again="give it again") == str(error)


def test_failing_is_one_line_and_an_exit_code(capsys):
    with pytest.raises(SystemExit) as stop:
        fail("no such folder", command="reproduce")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "reproduce: no such folder\n"


def test_a_wrong_flag_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        OneLineParser(prog="build_index").parse_args(["--colour"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said == "build_index: unrecognized arguments: --colour (--help shows all flags)\n"


def test_errors_of_the_users_making_are_told_from_the_programs_own():
    for error in (ConfigError, DataError, OutputError, FloatingPointError):
        assert issubclass(error, USER_ERRORS)
    for error in (TypeError, KeyError, AssertionError):
        assert not issubclass(error, USER_ERRORS)


@pytest.mark.parametrize(
    ("on_path", "beside", "called"),
    [
        (True, True, "hebbsearch"),
        (False, True, "'{}/my bin/hebbsearch'"),
        (False, False, "'{}/my bin/python' -P -m service.command"),
    ],
)
def test_the_command_is_called_as_it_can_be_called(tmp_path, monkeypatch, on_path, beside, called):
    for folder, there in (("path", on_path), ("my bin", beside)):
        (tmp_path / folder).mkdir()
        if there:
            (tmp_path / folder / "hebbsearch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "my bin" / "python"))
    assert command_line.hebbsearch() == called.format(tmp_path)


@pytest.mark.long
def test_advice_names_commands_that_are_there(here, tmp_path, monkeypatch, before_the_head):
    """Also where the folder of the command is in no PATH, and for names with a space."""
    striped_folder(tmp_path / "pictures", 20)
    with before_the_head():
        advice = here("--data", "pictures", *QUICK, "--out", "my run", code=130)
        diverging = ["--set", "hebbian_lr=1e30", "--epochs", "4"]
        diverged = here("--data", "pictures", *QUICK, *diverging, "--out", "wild", code=2)
    go_on = shlex.split(advice.split("go on with: ")[1])
    assert go_on[1:] == ["build", "--resume", "my run.partial"]
    again = shlex.split(diverged.split("; ")[-1])
    assert again[1:6] == ["build", "--resume", "wild.partial", "--set", "NAME=VALUE"]
    monkeypatch.setenv("PATH", str(tmp_path))
    serve = shlex.split(here("--resume", "my run.partial").splitlines()[-1].split("serve it with: ")[1])
    assert serve[1:] == ["serve", "my run"]
    assert Path(serve[0]).is_absolute()
    for command in (go_on[0], again[0], serve[0]):
        assert Path(command).name == "hebbsearch"
        assert command == "hebbsearch" or Path(command).is_file()
