"""Timing that can be trusted on a noisy machine: warm-up, cases interleaved, medians with their spread.

A benchmark is a module with `measure(tiny) -> Report`; `tiny` runs the same code on next to nothing, for
the tests.
"""

import argparse
import datetime
import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from training.device import processor

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "faiss-cpu", "numpy", "pillow", "fastapi", "uvicorn")


@dataclass(frozen=True)
class Spread:
    """Median and tenth to ninetieth percentile of n measurements."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of the values."""
        low, median, high = np.percentile(values, [10, 50, 90]).tolist()
        return cls(median, low, high, len(values))


@dataclass(frozen=True)
class Row:
    """One comparison; `figure` is what the target speaks of, and `met` whether it is reached; None where
    there is no target."""

    what: str
    ours: Spread
    unit: str
    figure: float
    target: str
    met: bool | None
    against: str | None = None
    baseline: Spread | None = None


@dataclass(frozen=True)
class Report:
    """What a benchmark measured, and where."""

    benchmark: str
    sizes: dict[str, object]
    rows: list[Row]
    precision: str = "fp32"
    seed: int = 0
    tiny: bool = False
    created: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    machine: dict[str, object] = field(default_factory=lambda: machine())
    versions: dict[str, str] = field(
        default_factory=lambda: {"python": platform.python_version()} | {p: version(p) for p in PACKAGES}
    )

    def markdown(self) -> str:
        """The rows as a table."""
        lines = ["| what | ours | against | figure | target | met |", "|---|---|---|---|---|---|"]
        for row in self.rows:
            against = f"{row.against}: {_shown(row.baseline, row.unit)}" if row.baseline else ""
            cells = (
                *(row.what, _shown(row.ours, row.unit), against),
                *(f"{row.figure:.3g}", row.target, {True: "yes", False: "no", None: ""}[row.met]),
            )
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def at_least(
    times: float, what: str, ours: Sequence[float], against: str, baseline: Sequence[float], unit: str = "ms"
) -> Row:
    """`ours` shall be `times` smaller than `baseline`."""
    mine, its = Spread.of(ours), Spread.of(baseline)
    ratio = its.median / mine.median
    return Row(what, mine, unit, ratio, f"≥ {times:g} ×", ratio >= times, against, its)


def at_most(limit: float, what: str, ours: Sequence[float], unit: str) -> Row:
    """The median shall not exceed `limit`."""
    mine = Spread.of(ours)
    return Row(what, mine, unit, mine.median, f"≤ {limit:g} {unit}", mine.median <= limit)


def interleaved(
    cases: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Milliseconds of each case in each round, the order turning from round to round."""
    for case in [*cases.values()] * warm_up:
        case()
    names = list(cases)
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            cases[name]()
            milliseconds[name].append(1e3 * (time.perf_counter() - start))
    return milliseconds


def machine() -> dict[str, object]:
    """The hardware and the number of threads."""
    facts = Path("/proc/cpuinfo")
    text = facts.read_text() if facts.exists() else ""
    flags = set(re.findall(r"\w+", (re.search(r"flags\s*:\s*(.+)", text) or [""])[0]))
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "extensions": sorted(flags & {"avx2", "avx512f", "amx_bf16", "amx_tile"}),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "waiting": {name: os.environ.get(name) for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")},
    }


def save(report: Report, folder: Path = RESULTS) -> Path:
    """Write the report as JSON, one file a benchmark and kind of machine."""
    folder.mkdir(parents=True, exist_ok=True)
    device = str(report.machine["gpu"] or f"{report.machine['cpu']} {report.machine['cores']} cores")
    path = folder / f"{report.benchmark}-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
    path.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n")
    return path


@dataclass(frozen=True)
class Memory:
    """Bytes that processes hold: what several share counts in each as its part (PSS)."""

    all: int
    anonymous: int  # without files that are mapped, whose part depends on who else maps them


def memory(process: int) -> Memory:
    """What a process and all that descend from it hold at this moment. ProcessLookupError when it is gone."""
    parts = [_memory(each) for each in _family(process)]
    if not any(part.all for part in parts):
        raise ProcessLookupError(process)
    return Memory(sum(part.all for part in parts), sum(part.anonymous for part in parts))


def _family(process: int) -> list[int]:
    family = [process]
    for each in family:  # which grows meanwhile
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with suppress(OSError):  # the thread has ended
                family += map(int, children.read_text().split())
    return family


def _memory(process: int) -> Memory:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return Memory(0, 0)
    found = {name: 1024 * int(kibibytes) for name, kibibytes in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}
    return Memory(found.get("Pss", 0), found.get("Pss_Anon", 0))


def command_line() -> argparse.ArgumentParser:
    """What every benchmark understands."""
    parser = argparse.ArgumentParser(description="Measure, print a table, and write JSON.")
    parser.add_argument("--tiny", action="store_true", help="next to nothing, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder for the JSON")
    return parser


def tell(report: Report, folder: Path) -> None:
    """Print the table and write the JSON."""
    print(f"\n{report.benchmark}: {report.sizes}\n\n{report.markdown()}\n\n{save(report, folder)}")


def main(*benchmarks: Callable[[bool], Report]) -> None:
    """The command line of one benchmark or of all."""
    options = command_line().parse_args()
    for measure in benchmarks:
        tell(measure(options.tiny), options.out)


def _shown(spread: Spread, unit: str) -> str:
    return f"{spread.median:.4g} {unit} ({spread.low:.4g}–{spread.high:.4g})"
