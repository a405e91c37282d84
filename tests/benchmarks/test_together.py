"""The benchmark of workers measures a step of one."""

import pytest

from tests.benchmarks import together

pytestmark = pytest.mark.long


def test_one_worker_tells_nobody_anything(capsys):
    together.main(["--images", "4", "6", "--steps", "2"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [row[:3] for row in rows] == [["hpca_fh", "4", "1"], ["hpca_fh", "6", "1"]]
    assert all(float(row[3]) >= 0 and row[5] == "0.00" for row in rows)
