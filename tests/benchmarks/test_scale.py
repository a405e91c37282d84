"""The benchmark of millions of codes, with hundreds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import milvus
from tests.benchmarks import scale
from tests.benchmarks.scale import NOISE, made, markdown, measured, missing, rows


def test_drawn_codes_are_those_that_are_there_with_some_bits_flipped() -> None:
    rng = np.random.default_rng(0)
    some = rng.integers(0, 256, (3, 32), np.uint8)
    codes = made("drawn", 500, rng, some)
    flipped = np.unpackbits(codes[:, None] ^ some, axis=2).sum(axis=2).min(axis=1)
    assert codes.shape == (500, 32)
    assert 0 < flipped.mean() / 256 < NOISE and len(np.unique(codes, axis=0)) > 400


@pytest.mark.parametrize(
    "engine",
    [
        "faiss",
        "flat",
        "ivf",
        pytest.param("postgres", marks=pytest.mark.process),
        pytest.param("milvus", marks=milvus.CLUSTER),
    ],
)
def test_a_row_says_what_was_measured(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = np.random.default_rng(0).integers(0, 256, (12, 32), np.uint8)  # of more, no cells would be worth it
    monkeypatch.setattr(scale, "codes_of", lambda _: few)
    row = measured(engine, "drawn", 600, Path(), rounds=10)
    assert (row.engine, row.items, row.search_ms.n) == (engine, 600, 10)
    assert row.together_a_second > 0 and 0 < row.recall_at_10 <= 1
    assert bool(row.cells) == (engine == "ivf")


@pytest.mark.process
def test_it_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    run = [
        sys.executable,
        "-m",
        "tests.benchmarks.scale",
        "--out",
        str(out),
        "--items",
        "500",
        "--rounds",
        "5",
    ]
    subprocess.run([*run, "--engines", "flat"], check=True)
    before = out.read_text()
    assert [*missing(out, ["flat", "faiss"], ["uniform"], [500])] == [["faiss", "uniform", "500"]]
    told = subprocess.run([*run, "--engines", "flat", "faiss"], check=True, capture_output=True, text=True)
    assert out.read_text().startswith(before)
    assert [json.loads(line)["engine"] for line in out.read_text().splitlines()] == ["flat", "faiss"]
    assert [row["items"] for row in rows(out)] == [500, 500]
    assert told.stdout.strip() == markdown(out)
