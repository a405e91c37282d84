"""The paper's numbers, and results as CSV and Markdown."""

import csv
import math
import os
import re
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.paper.reading import read_csv
from training.paper import tables
from training.paper.tables import (
    COLUMNS,
    Row,
    TableError,
    duration,
    markdown,
    paper,
    parse_value,
    replace_file,
    write_csv,
)

ROW = Row("HPCA-FH", "1%", "map", 37.9, 0.61, 5, 37.39, 0.012, "none", "conv6, 20 epochs", '2 cores "EPYC"')


def lines() -> list[dict[str, str]]:
    with tables.PAPER.open(newline="") as file:
        return list(csv.DictReader(file))


# --- the paper ---


def test_every_number_of_the_paper_is_found_in_its_order() -> None:
    places = dict.fromkeys((int(line["table"]), line["dataset"]) for line in lines())
    found = [(table, dataset, *key) for table, dataset in places for key in paper(table, dataset)]
    kept = ("table", "dataset", "method", "labels", "metric")
    assert [tuple(map(str, line)) for line in found] == [
        tuple(line[name] for name in kept)
        for place in places
        for line in lines()
        if place == (int(line["table"]), line["dataset"])
    ]
    assert len(set(found)) == len(lines())


def test_numbers_of_the_paper() -> None:
    assert paper(2, "cifar10")["HPCA-FH", "1%", "top1"] == 39.75
    assert paper(6, "imagenet")["None", "100%", "map"] == 50.58
    times = paper(1, "imagenet")
    assert times["SWTA", "", "epoch_duration"] == 105 * 3600 + 13 * 60 + 24
    assert times["HPCA-FH", "", "epochs"] == 3


def test_what_is_not_in_the_paper_is_said() -> None:
    with pytest.raises(TableError, match=r"^table 6 has no rows for cifar10; it has imagenet$"):
        paper(6, "cifar10")
    with pytest.raises(TableError, match=r"table 3 .* it has cifar10, cifar100, tinyimagenet, imagenet$"):
        paper(3, "digits")
    with pytest.raises(TableError, match=r"no table 7; they have 1, 2, 3, 4, 5, 6$"):
        paper(7, "cifar10")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("39.75", 39.75), ("12", 12), ("14 s", 14), ("4 min 14 s", 254), ("11 min", 660)),
        *(("1454 h", 5234400), ("105 h 13 min 24 s", 378804), ("7 h 7 min", 25620)),
    ],
)
def test_values_are_parsed(text: str, value: float) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize("text", ["", " ", "n/a", "14 s 4 min", "4 minutes", "-3", "39.75 %", "1.5 h"])
def test_other_values_are_refused(text: str) -> None:
    with pytest.raises(TableError, match=f"{re.escape(repr(text))} is neither a number nor a duration"):
        parse_value(text)


def test_durations_are_written_as_the_paper_writes_them() -> None:
    written = [line["value"] for line in lines() if line["metric"].endswith("duration")]
    assert len(written) > 40
    assert [duration(parse_value(text)) for text in written] == written


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0581, "58.1 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (3.417, "3.42 s"), (18.04, "18 s")),
        *((59.94, "59.9 s"), (59.96, "1 min"), (119.7, "2 min"), (3599.6, "1 h"), (0, "0 ms")),
    ],
)
def test_durations_are_rounded_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- CSV ---


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [
        ROW,
        replace(ROW, mean=0.1 + 0.2, std=None, paper=None, p_value=None, p_against="", seeds=1),
        replace(ROW, method="a, b\nc", labels="", mean=None, std=None, seeds=0, machine="ä"),
    ]
    path = tmp_path / "results" / "table3-cifar10.csv"
    write_csv(path, rows)
    assert read_csv(path) == rows
    first, second, third, *_ = path.read_bytes().split(b"\n")
    assert first == b"method,labels,metric,mean,std,seeds,paper,p_value,p_against,config,machine"
    assert second.startswith(b"HPCA-FH,1%,map,37.9,0.61,5,37.39,0.012,none,")
    assert b",0.30000000000000004,,1,,,," in third
    write_csv(path, [])
    assert read_csv(path) == []
    assert os.listdir(path.parent) == [path.name]


def test_nan_is_not_known_and_numpy_is_plain(tmp_path: Path) -> None:
    row = replace(ROW, mean=np.float32(0.5), std=math.nan, p_value=np.float64("nan"))
    assert row == replace(ROW, mean=0.5, std=None, p_value=None)
    write_csv(tmp_path / "rows.csv", [row])
    assert "np." not in (tmp_path / "rows.csv").read_text()
    assert read_csv(tmp_path / "rows.csv") == [row]


def test_columns_are_the_fields() -> None:
    assert len(COLUMNS) == len(astuple(ROW)) == 11


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has the columns ; wanted method,"),
        ("method,mean\n", "has the columns method, mean; wanted method, labels"),
        (",".join(COLUMNS) + "\na,1%,map,x,,1,,,,,\n", "line 2: could not convert string to float: 'x'"),
        (",".join(COLUMNS) + "\na,1%,map,1,,,,,,,\n", "line 2: invalid literal for int"),
        (",".join(COLUMNS) + "\na,1%,map\n", "line 2: 3 values; wanted 11"),
    ],
)
def test_a_file_that_is_off_is_named(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "off.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=f"off.csv.*{re.escape(fault)}"):
        read_csv(path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


# --- Markdown ---


def test_methods_are_rows_and_regimes_columns_by_size() -> None:
    rows = [
        replace(ROW, labels="10%", mean=50.123, std=1.0, paper=None, p_value=0.3),
        ROW,
        replace(ROW, method="VAE|x", labels="2%", std=None, seeds=1, p_value=None),
        replace(ROW, method="none", mean=None, std=None, seeds=0, paper=21.9),
    ]
    assert markdown(rows) == (
        "| map in %, labels | 1% | 2% | 10% |\n"
        "| --- | --: | --: | --: |\n"
        "| HPCA-FH | 37.90 ± 0.61† (5)<br><sub>37.39</sub> | – | 50.12 ± 1.00 (5) |\n"
        "| VAE\\|x | – | 37.90 (1)<br><sub>37.39</sub> | – |\n"
        "| none | –<br><sub>21.90</sub> | – | – |\n"
        "\n"
        "Mean ± standard deviation (seeds), small below it the paper's number; "
        "† p < 0.05 against none, Welch's t-test.\n"
    )


def test_each_metric_has_a_table_and_each_rival_a_mark() -> None:
    rows = [replace(ROW, metric=f"m_{i}", p_against=f"rival {i}", paper=None) for i in range(5)]
    text = markdown(rows)
    assert re.findall(r"^\| (m .) in %, labels \| 1% \|$", text, re.M) == [f"m {i}" for i in range(5)]
    assert re.findall(r"0\.61(\S+) \(5\)", text) == ["†", "‡", "§", "¶", "††"]
    assert "; § p < 0.05 against rival 2, Welch's t-test; ¶ p < 0.05 against rival 3" in text
    assert "the paper's" not in text


def test_without_labels_metrics_are_the_columns() -> None:
    time = replace(ROW, labels="", metric="epoch_duration", mean=19.31, std=0.42, paper=254.0, p_value=None)
    rows = [
        time,
        replace(time, metric="epochs", mean=12.4, std=0.5, paper=12.0),
        replace(time, metric="total_duration", mean=3725.2, std=3.61),
        replace(time, method="fast", mean=0.0581, std=0.0012),
        replace(time, method="fast", metric="total_duration", mean=7300.0, std=95.0, paper=None),
    ]
    assert markdown(rows) == (
        "|  | epoch duration | epochs | total duration |\n"
        "| --- | --: | --: | --: |\n"
        "| HPCA-FH | 19.3 ± 0.42 s (5)<br><sub>4 min 14 s</sub> | 12.4 ± 0.5 (5)<br><sub>12</sub> "
        "| 1 h 2 min 5 s ± 3.6 s (5)<br><sub>4 min 14 s</sub> |\n"
        "| fast | 58.1 ± 1.2 ms (5)<br><sub>4 min 14 s</sub> | – | 2 h 1 min 40 s ± 1 min 35 s (5) |\n"
        "\n"
        "Mean ± standard deviation (seeds), small below it the paper's number.\n"
    )


def test_two_figures_for_one_cell_are_refused() -> None:
    with pytest.raises(TableError, match="HPCA-FH has two figures of map 1%"):
        markdown([ROW, replace(ROW, config="another")])
