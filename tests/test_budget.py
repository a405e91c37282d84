"""What takes more processor time than it may fails, and only that."""

import subprocess
import sys
from pathlib import Path

import pytest

BUDGET = Path(__file__).with_name("budget.py")
BUSY = "import time\nwhile time.process_time() < {}: pass"


@pytest.mark.process
@pytest.mark.parametrize(
    ("budget", "code", "expected"),
    [
        (60, "pass", 0),
        (60, "raise SystemExit(3)", 3),
        (0.4, BUSY.format(0.5), 1),
        (0.4, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY.format(0.5)!r}])", 1),
        (0.4, "import time; time.sleep(0.5)", 0),  # who waits takes none
    ],
)
def test_only_processor_time_counts_with_that_of_children(budget: float, code: str, expected: int) -> None:
    command = [sys.executable, str(BUDGET), str(budget), sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == expected, done.stdout
    assert f"of a budget of {budget:g} s" in done.stdout
    assert ("beyond the budget" in done.stdout) == (expected == 1)
