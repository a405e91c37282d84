"""Usage, keys, and arguments of any kind."""

import re

import pytest

from index.artifact import Artifact
from service.command import main
from tests.samples import free_port, serve
from tests.service.command.commands import Run


def test_wrong_usage_and_no_service(hebbsearch: Run) -> None:
    assert "invalid choice" in hebbsearch("fly", code=2).stderr
    gone = hebbsearch("list", HEBBSEARCH_URL=f"http://127.0.0.1:{free_port()}", code=1).stderr
    assert re.fullmatch(r"hebbsearch: http://127.0.0.1:\d+ cannot be reached .*\n", gone)
    assert "is no folder" in hebbsearch("add", "nowhere", code=1).stderr


def test_a_key_comes_from_the_environment(own: Artifact, hebbsearch: Run) -> None:
    key = "k" * 16
    with serve(own.path, write_keys=key) as address:
        refused = hebbsearch("remove", "1", "--url", address, code=1)
        assert "a key is needed" in refused.stderr
        hebbsearch("remove", "1", "--url", address, HEBBSEARCH_KEY=key)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"hebbsearch \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "caf\udce9.png"),
        ("search", "--label", "caf\udce9", __file__),
        ("list", "--folder", "caf\udce9"),
        ("list", "--label", "caf\udce9"),
        ("reload", "caf\udce9"),
        ("snapshot", "caf\udce9"),
        ("add", "caf\udce9"),
        ("stats", "--url", "http://caf\udce9"),
    ],
)
def test_an_argument_that_is_no_utf_8_is_refused_in_a_line(
    hebbsearch: Run, arguments: tuple[str, ...]
) -> None:
    (line,) = hebbsearch(*arguments, code=1).stderr.splitlines()
    assert line.startswith("hebbsearch: ") and "caf\ufffd" in line
