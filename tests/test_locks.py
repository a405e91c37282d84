"""The locks: what `make run` installs, and what `make test` installs besides."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNS, DEVELOPS, CLUSTER = "requirements.lock", "requirements-dev.lock", "requirements-cluster.lock"


def pins(lock: str) -> dict[str, list[str]]:
    """`name==version ; marker` of each block, with its hashes."""
    text = re.sub(r"^#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.M)
    blocks = [
        re.sub(r" *\\\n\s+", "\n", block).split("\n") for block in re.split(r"\n(?=\S)", text.rstrip("\n"))
    ]
    return {block[0].strip(): block[1:] for block in blocks}


def names(wanted: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in wanted}


@pytest.mark.parametrize("lock", [RUNS, DEVELOPS, CLUSTER])
def test_each_version_is_exact_and_each_file_has_a_hash(lock: str) -> None:
    found = pins(lock)
    assert len(found) > (10 if lock == CLUSTER else 50)
    for pin, hashes in found.items():
        assert re.match(r"[a-z0-9.-]+==\S+( ; |$)", pin)
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), pin


def test_what_runs_has_no_tool_of_developers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = names(list(pins(RUNS)))
    assert names(project["dependencies"]) <= locked
    assert not locked & (names(project["optional-dependencies"]["dev"]) | {"pytest", "matplotlib", "pyarrow"})


def test_both_have_the_same_versions() -> None:
    developing = pins(DEVELOPS)
    for pin, hashes in pins(RUNS).items():
        assert developing[pin] == hashes


def test_what_a_cluster_needs_besides_changes_no_version() -> None:
    running, besides = pins(RUNS), pins(CLUSTER)
    assert {"psycopg", "psycopg-binary", "pymilvus"} <= names(list(besides))
    both = names(list(running)) & names(list(besides))
    assert {pin for pin in besides if names([pin]) <= both} <= running.keys()


@pytest.mark.parametrize("lock", [RUNS, DEVELOPS, CLUSTER])
def test_no_place_is_named_from_which_they_came(lock: str) -> None:
    assert not re.search(r"://|^-|index-url|find-links", (ROOT / lock).read_text(encoding="utf-8"), re.M)
