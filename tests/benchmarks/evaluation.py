"""mAP over the full ranking, exact under ties, against average precision by sorting."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes
from index.evaluation import average_precision, mean_average_precision
from index.rankings import Labels
from tests.benchmarks.harness import Report, at_least, at_most, interleaved, main

CLASSES = 10
FLIPPED = 0.25  # of the bits of a class's prototype: distances spread like those of trained codes

# The kernel's own count of the peak: getrusage would inherit the parent's.
ALONE = """
import re, sys
from pathlib import Path
import numpy as np
from index.evaluation import mean_average_precision
mean_average_precision(*np.load(sys.argv[1]).values())
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def measure(tiny: bool) -> Report:
    """10,000 queries × 50,000 codes of 256 bits."""
    queries, items, rounds = (40, 500, 2) if tiny else (10_000, 50_000, 3)
    arguments = collection(queries, items)
    agree(*arguments)
    cases = {
        "ours": partial(mean_average_precision, *arguments),
        "sorting": partial(by_sorting, *arguments),
    }
    milliseconds = interleaved(cases, rounds=rounds, warm_up=0)
    ours = milliseconds["ours"]
    what = f"mAP of {queries:,} queries × {items:,} codes, ties in expectation"
    return Report(
        benchmark="evaluation",
        sizes={"queries": queries, "items": items, "bits": 256, "classes": CLASSES},
        tiny=tiny,
        rows=[
            at_least(20, what, ours, "argsort each row, numpy", milliseconds["sorting"]),
            at_most(1700, what, ours, "ms"),
            at_most(500, "peak memory of the whole process", [peak_megabytes(*arguments)], "MB"),
        ],
    )


def collection(queries: int, items: int) -> tuple[Codes, Labels, Codes, Labels]:
    """Codes scattered around a prototype of their class."""
    random = np.random.default_rng(0)
    prototypes = random.random((CLASSES, 256)) < 0.5

    def draw(count: int) -> tuple[Codes, NDArray[np.int64]]:
        labels = random.integers(0, CLASSES, count)
        return np.packbits(prototypes[labels] ^ (random.random((count, 256)) < FLIPPED), axis=1), labels

    return (*draw(queries), *draw(items))


def by_sorting(query_codes: Codes, query_labels: Labels, codes: Codes, labels: Labels) -> float:
    """The usual way: sort, then precision at each relevant rank. Ties fall as the database lies."""
    ranks = np.arange(1, len(codes) + 1)
    scores = []
    for code, label in zip(query_codes, query_labels, strict=True):
        distances = np.bitwise_count(code.view(np.uint64) ^ codes.view(np.uint64)).sum(1)
        relevant = (labels == label)[np.argsort(distances, kind="stable")]
        scores.append((relevant.cumsum() / ranks)[relevant].mean())
    return float(np.mean(scores))


def agree(query_codes: Codes, query_labels: Labels, codes: Codes, labels: Labels) -> None:
    """Both ways must give the same where ties are ranked the same way."""
    few = slice(0, 20)
    ours = average_precision(query_codes[few], query_labels[few], codes, labels, ties="order").mean()
    theirs = by_sorting(query_codes[few], query_labels[few], codes, labels)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def peak_megabytes(*arguments: NDArray[np.generic]) -> float:
    """Peak memory of a process that does nothing else."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "collection.npz"
        np.savez(file, *arguments)
        ran = subprocess.run(
            [sys.executable, "-c", ALONE, str(file)], capture_output=True, text=True, check=True
        )
    return int(ran.stdout) / 1024


if __name__ == "__main__":
    main(measure)
