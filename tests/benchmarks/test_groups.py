"""The benchmark at a tiny size: what it counts is right, and the hashes that it makes are what it says."""

from pathlib import Path

import numpy as np
import pytest

from index.codes import hamming, unpack
from tests.benchmarks.groups import like, main
from tests.service.core.pictures.patches import asked, picture


def test_it_counts_copies_and_times_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(5):
        size = (400, 300) if seed < 3 else (120, 90)
        picture(seed, *size).save(tmp_path / f"{seed}.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    main(["--photographs", str(tmp_path), "--others", str(tmp_path), "--counts", "5", "30", "--runs", "2"])
    said = capsys.readouterr().out
    assert "| copy | of 3 photographs | of 2 small ones |" in said
    assert "| turned by a quarter, as they are | 0 | 0 |" in said
    assert "| turned by a quarter, eight ways | 3 | 2 |" in said
    assert "grouped with another one, eight ways: []" in said
    assert "30 hashes, eight ways, by parts: " in said and "5 hashes, as they are, compared with all" in said


def test_hashes_like_others_are_as_far_from_them_as_wanted() -> None:
    hashes = np.stack([asked(picture(seed)).hashes.upright for seed in range(3)])
    made = like(hashes, 300)
    assert set(unpack(made).sum(axis=1).tolist()) == {128}
    distances = hamming(made, hashes).min(axis=1).tolist()
    assert set(distances) == {0, 10, 60} and distances.count(0) == 3
    assert 3 < distances.count(10) < 40
