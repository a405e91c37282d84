"""What few labels are worth, on few small pictures."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import few_labels
from tests.training.narrow import little_is_enough, widths_are_narrow
from tests.training.test_build_index import striped_folder
from training.checkpoint import STAGES
from training.run import Run


@pytest.mark.process  # git says which commit it is
@pytest.mark.long
def test_each_step_has_a_row_that_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widths_are_narrow(monkeypatch.setitem, monkeypatch.setattr)
    little_is_enough(monkeypatch.setattr)
    pictures = striped_folder(tmp_path / "pictures", 60)

    def measured(*more: str) -> list[dict[str, str]]:
        command = ["few_labels", "--data", str(pictures), "--backbone", "conv6", "--rule", "hpca_fh"]
        command += ["--epochs", "1", "--set", "bits=32", "--set", "student_epochs=0", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", [*command, *more])
        few_labels.main()
        with (tmp_path / "few-labels.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    found = measured("--labels", "none,20%", "--unseen", "--steps")
    names = [*few_labels.WITHOUT, "whitened by the power 0"]
    steps = ["itq", "final", "final", *(f"final, {name}" for name in names)]
    assert [row["step"] for row in found] == steps
    assert [row["regime"] for row in found] == ["none"] * 2 + ["20%"] * (len(steps) - 2)
    assert all(0 < float(row["map"]) <= 1 for row in found)
    assert [bool(row["map_unseen"]) for row in found] == [row is found[2] for row in found]
    by_step = {row["step"]: row["map"] for row in found[2:]}
    assert by_step["final"] != by_step["final, place alone in the code"]
    again = measured("--labels", "20%")
    assert [row["step"] for row in again] == steps
    assert again[2]["map_unseen"] == ""
    taught = measured("--labels", "20%,50%", "--before", "20%,50%", "--set", "student_epochs=1")
    new = [(row["regime"], row["step"]) for row in taught[len(steps) :]]
    assert new == [("50%", "final"), ("50%", "network by 20%")]
    steps += ["final", "network by 20%"]
    assert (tmp_path / "few-labels.md").read_text().count("\n| ") == 1 + len(steps)
    work = ["--labels", "50%", "--set", "student_epochs=4", "--work"]
    whole = measured(*work, str(tmp_path / "whole"))[-2]
    save, epochs = Run.save, list[int]()

    def stopped(run: Run, stage: str, epoch: int, training: dict[str, Any]) -> None:
        save(run, stage, epoch, training)
        epochs.append(epoch)
        if stage == STAGES[3] and epochs.count(2) == 1 and epoch == 2:
            raise InterruptedError

    monkeypatch.setattr(Run, "save", stopped)
    with pytest.raises(InterruptedError):
        measured(*work, str(tmp_path / "stopped"))
    with pytest.raises(SystemExit, match="was begun with other settings"):
        measured(*work, str(tmp_path / "stopped"), "--seed", "1")
    epochs[:] = [2]
    gone_on = measured(*work, str(tmp_path / "stopped"))[-2]
    assert epochs[1] == 3
    assert gone_on == whole | {"seconds": ""}, "a run that goes on cannot tell how long it took"
