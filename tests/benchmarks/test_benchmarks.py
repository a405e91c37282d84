"""Each benchmark runs at a tiny size: what it compares agrees, and what it reports can be read again."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests import forking
from tests.benchmarks.harness import Report, Row, Spread, at_least, at_most, interleaved
from tests.training.narrow import NARROW_PROCESS

ROOT = Path(__file__).parents[2]


@pytest.mark.process
@pytest.mark.parametrize(
    "name", ["layers", "memory", "evaluation", "service", "pipeline", "pretraining", "load", "sizing"]
)
def test_runs_alone_and_writes_what_it_measured(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--tiny", "--out", str(tmp_path)]
    ran = forking.run(command, cwd=ROOT, env=os.environ | NARROW_PROCESS, timeout=600)
    assert ran.returncode == 0, ran.stderr
    (written,) = tmp_path.iterdir()
    report = json.loads(written.read_text())
    assert (report["benchmark"], report["tiny"]) == (name, True)
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["torch"]
    for row in report["rows"]:
        spread = row["ours"]
        assert spread["low"] <= spread["median"] <= spread["high"]
        assert spread["n"] >= 1
        assert f"| {row['what']} |" in ran.stdout
        assert row["met"] in ([True, False] if row["target"] else [None])


def test_cases_take_turns() -> None:
    ran: list[str] = []
    cases = {name: lambda name=name: ran.append(name) for name in ("a", "b", "c")}
    milliseconds = interleaved(cases, rounds=3, warm_up=1)
    assert "".join(ran) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(values) for name, values in milliseconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_targets_are_judged_by_medians() -> None:
    assert at_least(2, "x", [1, 9, 1], "y", [2, 2, 0]).met
    assert not at_least(2.1, "x", [1, 9, 1], "y", [2, 2, 0]).met
    assert at_most(3, "x", [3, 1, 9], "ms").met
    assert not at_most(2.9, "x", [3, 1, 9], "ms").met


def test_a_table_says_what_was_missed() -> None:
    one = Spread.of([1.0, 2.0, 3.0])
    rows = [
        Row("step", one, "ms", 0.5, "≥ 2 ×", False, "slow", one),
        Row("memory", one, "MB", 2, "≤ 3", True),
    ]
    table = Report("name", {}, rows).markdown().splitlines()
    assert table[2] == "| step | 2 ms (1.2–2.8) | slow: 2 ms (1.2–2.8) | 0.5 | ≥ 2 × | no |"
    assert table[3] == "| memory | 2 MB (1.2–2.8) |  | 2 | ≤ 3 | yes |"
