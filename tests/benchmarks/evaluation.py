"""mAP over the full ranking, exact under ties, against average precision by sorting."""

import multiprocessing
import re
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes
from index.evaluation import Labels, average_precision, mean_average_precision
from tests.benchmarks.harness import Report, at_least, at_most, interleaved, main

CLASSES = 10
FLIPPED = 0.25  # of the bits of a class's prototype: distances spread like those of trained codes


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
            at_most(500, "peak memory of the whole process", [peak_megabytes(queries, items)], "MB"),
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


def peak_megabytes(queries: int, items: int) -> float:
    """Peak memory of a process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_evaluate_alone, (queries, items))


def _evaluate_alone(queries: int, items: int) -> float:
    mean_average_precision(*collection(queries, items))
    # Not getrusage: its maximum is inherited from the parent.
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return int(peak[1]) / 1024


if __name__ == "__main__":
    main(measure)
