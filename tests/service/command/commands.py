"""What the tests of the command share."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., subprocess.CompletedProcess[str]]


def hash_seed(name: str) -> int:
    """Other images for each test."""
    return 10_000 + int.from_bytes(name.encode()[-3:], "big") % 10**6


def added(run: Run, folder: Path, *more: str, code: int = 3) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run("add", str(folder), "--json", *more, code=code).stdout)
    return answer
