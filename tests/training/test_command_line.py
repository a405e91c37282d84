"""What the commands say where something is wrong: one line, and how to go on."""

import errno

import pytest

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
