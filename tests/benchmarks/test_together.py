"""The benchmark of workers measures a step of one."""

import pytest

from tests.benchmarks import together

pytestmark = pytest.mark.long


def test_one_worker_tells_nobody_anything(capsys):
    together.main(["--backbone", "vgg11", "--image-size", "32", "--images", "4", "6", "--steps", "2"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [row[:5] for row in rows] == [["vgg11", "32", "hpca_fh", count, "1"] for count in ("4", "6")]
    assert all(float(row[5]) >= 0 and row[7:] == ["0.00", "0.00"] for row in rows)
