"""What few labels are worth: mAP and top-1 of the recipe `best`, step by step, for shares of the labels.

`python -m tests.benchmarks.few_labels --data DIR --labels none,1%` adds rows to results/few-labels.csv and
writes results/few-labels.md and .png anew. Features are made once for all shares. With train/test in DIR the
queries are those of `test`, else a tenth that is held out; no query takes part in anything that is chosen.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from index.codes import Codes, pack
from index.evaluation import mean_average_precision
from index.items import UNLABELLED
from training import protocol
from training.checkpoint import CHECKPOINT
from training.coding import learning
from training.coding.confidence import of_queries
from training.coding.learning import learn_codes, learn_embedding
from training.coding.quantisation import iterative_quantisation
from training.config import Config, configure, parse_setting
from training.device import describe, set_up_process
from training.learning.student import FEWEST
from training.paper import plots, tables
from training.run import (
    Run,
    embed_all,
    joined_embeddings,
    labels_given,
    learn_from_changed,
    pixels_of,
    remember_embeddings,
    remembered_embeddings,
    with_student,
)

RESULTS = Path(__file__).parents[2] / "results"
UNSEEN = 5  # one of so many classes is left without labels
# What the recipe is without one of its steps: functions and values that take the place of its own.
WITHOUT: Mapping[str, Mapping[str, Callable[..., object] | tuple[float, ...]]] = {
    "no smoothing": {"places_of": lambda vectors, seconds: vectors},
    "labels by embeddings alone": {"SHARES": (0.0,)},
    "labels by smoothed embeddings alone": {"SHARES": (1.0,)},
    "class alone in the code": {"emphasis": lambda posteriors, places: 100.0},
    "place alone in the code": {"emphasis": lambda posteriors, places: 0.0},
}


@dataclass(frozen=True)
class Row:
    """One share of the labels, after one step of the recipe."""

    data: str
    images: int
    queries: int
    labels: int
    regime: str
    seed: int
    features: str
    recipe: str
    step: str
    top1: float | None
    map: float
    map100_retrieved: float
    map_unseen: float | None
    itq_unseen: float | None
    ece: float | None
    seconds: float | None  # unknown where a checkpoint was gone on from
    machine: str
    commit: str


@dataclass(frozen=True, eq=False)
class Embedded:
    """All that the shares of the labels have in common."""

    run: Run
    vectors: NDArray[np.float32]  # (n, E) of what is learned from
    queries: NDArray[np.float32]  # (q, E)
    known: NDArray[np.int64]  # (n,) all labels, to measure with
    asked: NDArray[np.int64]  # (q,)
    seconds: float  # that features and embeddings took


def embedded(run: Run) -> Embedded:
    """Features of the run's own learning, and embeddings of all its images."""
    start = time.monotonic()
    run.learn_features(run.restore())
    return whitened(run, run.config.component_power, start)


def whitened(run: Run, power: float, start: float) -> Embedded:
    """Embeddings of features that are learned, whose spread is evened out by this `power`."""
    seen, queries = run.split.pretraining, run.split.queries
    encoder = run.model.embedder(run.config, 0, len(seen))
    pixels = pixels_of(run)
    its_own = power == run.config.component_power
    vectors = remembered_embeddings(run, encoder) if its_own else None
    if vectors is None:
        vectors = learn_embedding(encoder, pixels, seen, power, run.config.seed, {})
        if its_own:
            remember_embeddings(run, encoder, vectors)
    seconds = time.monotonic() - start
    asked = np.concatenate([encoder.embed(batch) for batch in pixels("queries", queries)])
    labels = run.images.labels
    return Embedded(run, vectors, asked.astype(np.float32), labels[seen], labels[queries], seconds)


def percent(regime: str) -> float:
    """The share of the labels, in percent."""
    return float(regime.removesuffix("%"))


def labels_of(run: Run, regime: str) -> NDArray[np.int64]:
    """The labels (n,) of what a run learns from, of which a share is known."""
    share = protocol.split(run.images, percent(regime) / 100, run.config.seed)
    return labels_given(run.images, share)[run.split.pretraining]


@cache
def refined(given: Embedded, regime: str) -> Embedded:
    """The same with what a student learned from a share of the labels, where there is a student."""
    work = given.run.checkpoint and given.run.checkpoint.parent / regime
    return taught_by(given, labels_of(given.run, regime), work)


def taught_by(given: Embedded, labels: NDArray[np.int64], work: Path | None = None) -> Embedded:
    """The same with what a student learned from labels (n,), where there is a student; its checkpoint lies in
    a folder of its own."""
    run, start = given.run, time.monotonic()
    if not with_student(run):
        return given
    if work is not None:
        work.mkdir(exist_ok=True)
    with patch.object(run, "checkpoint", work and work / CHECKPOINT):
        student = learn_from_changed(run, given.vectors, labels, run.restore())
    own = embed_all(run, student, {})
    seconds = given.seconds + time.monotonic() - start
    asked = np.concatenate([student.embed(batch) for batch in pixels_of(run)("queries", run.split.queries)])
    vectors = joined_embeddings(given.vectors, own)
    asked = joined_embeddings(given.queries, asked.astype(np.float32))
    return replace(given, vectors=vectors, queries=asked, seconds=seconds)


def rows(
    given: Embedded, regime: str, commit: str, *, unseen: bool, steps: bool, before: str | None
) -> Iterator[Row]:
    """Plain ITQ and smoothed codes where there are no labels, else the recipe with a share of them; if
    `unseen`, again with a fifth of the classes without any, and if `steps`, without one step at a time. With
    `before` the network learned from that share: what `hebbsearch label` makes of labels that grew."""
    run, config = given.run, given.run.config
    learned_by = config.rule if config.weights == "none" else Path(config.weights).stem
    about = {
        "data": named(config),
        "images": len(given.vectors),
        "queries": len(given.queries),
        "regime": regime,
        "seed": config.seed,
        "features": f"{config.backbone} {learned_by}",
        "recipe": "best",
        "machine": describe(run.device),
        "commit": commit,
    }
    labels = np.full(len(given.known), UNLABELLED)
    if regime == "none":
        scores = quality(given, *itq(given))
        yield Row(**about, labels=0, step="itq", **scores, **NOT_MEASURED, seconds=given.seconds)
        scores, seconds, *_ = learned(given, labels, 0)
        total = round(given.seconds + seconds, 1)
        yield Row(**about, labels=0, step="final", **scores, **NOT_MEASURED, seconds=total)
        return
    labels = labels_of(run, regime)
    about["labels"] = int((labels != UNLABELLED).sum())
    classes = len(run.images.classes)
    taught = refined(given, before or regime)
    left_out = len(given.vectors) >= FEWEST and not config.student_epochs and config.weights == "none"
    step = "no pixel student" if left_out else f"network by {before}" if before else "final"
    scores, seconds, ece = learned(taught, labels, classes)
    scores |= without_some(given, labels) if unseen else NOT_SEEN
    yield Row(**about, step=step, **scores, ece=ece, seconds=round(taught.seconds + seconds, 1))
    if steps:
        for name, scores, seconds, ece in without_steps(taught, labels, classes):
            total = round(taught.seconds + seconds, 1)
            yield Row(**about, step=f"{step}, {name}", **scores, **NOT_SEEN, ece=ece, seconds=total)


def named(config: Config) -> str:
    """What the table calls the images; the paper divides those of a named set otherwise than a folder's."""
    if config.data is None:
        return str(config.dataset)
    return Path(config.data).name if config.dataset is None else f"{config.dataset}, divided as in the paper"


def without_steps(
    taught: Embedded, labels: NDArray[np.int64], classes: int
) -> Iterator[tuple[str, dict[str, float | None], float, float | None]]:
    """The name, scores, seconds and calibration error of the recipe without each of its steps; embeddings
    are whitened otherwise only where no student made them."""
    for name, others in WITHOUT.items():
        with patch.multiple(learning, **others):
            yield name, *learned(taught, labels, classes)
    if not with_student(taught.run):
        power = 0.0 if taught.run.config.component_power else 0.5
        made = whitened(taught.run, power, time.monotonic())
        yield f"whitened by the power {power:g}", *learned(made, labels, classes)


def without_some(given: Embedded, labels: NDArray[np.int64]) -> dict[str, float | None]:
    """mAP of the queries of some classes whose labels were dropped, by the recipe and by plain ITQ."""
    run = given.run
    classes = len(run.images.classes)
    hidden = np.random.default_rng(run.config.seed).permutation(classes)[: max(1, classes // UNSEEN)]
    asked = np.isin(given.asked, hidden)
    left = np.where(np.isin(labels, hidden), UNLABELLED, labels)
    scores, _, _ = learned(taught_by(given, left), left, classes, asked)
    return {"map_unseen": scores["map"], "itq_unseen": quality(given, *itq(given), asked)["map"]}


NOT_SEEN: dict[str, float | None] = {"map_unseen": None, "itq_unseen": None}
NOT_MEASURED: dict[str, float | None] = NOT_SEEN | {"ece": None}


def itq(given: Embedded) -> tuple[Codes, Codes]:
    """Codes of the queries and the database by the embeddings alone."""
    bits, seed = given.run.config.bits, given.run.config.seed
    weight, mean, _ = iterative_quantisation(given.vectors, bits, seed)
    return tuple(pack((x - mean) @ weight.T > 0) for x in (given.queries, given.vectors))  # type: ignore[return-value]


def learned(
    given: Embedded, labels: NDArray[np.int64], classes: int, which: NDArray[np.bool_] | None = None
) -> tuple[dict[str, float | None], float, float | None]:
    """Quality of the recipe's codes, the seconds it took, and the calibration error on the queries."""
    start = time.monotonic()
    config = given.run.config
    made = learn_codes(given.vectors, labels, classes, bits=config.bits, seed=config.seed)
    seconds = time.monotonic() - start
    with torch.inference_mode():
        database = pack((made.head(torch.from_numpy(given.vectors)) > 0).numpy())
        asked = torch.from_numpy(given.queries)
        queries = pack((made.head(asked) > 0).numpy())
        posteriors = made.head.student(asked)[0].softmax(1).numpy()
    scores = quality(given, queries, database, which)
    if not classes:
        return scores, seconds, None
    right = posteriors.argmax(1) == given.asked
    scores["top1"] = float(right[which].mean() if which is not None else right.mean())
    return scores, seconds, of_queries(posteriors, given.asked).error


def quality(
    given: Embedded, queries: Codes, database: Codes, which: NDArray[np.bool_] | None = None
) -> dict[str, float | None]:
    """mAP of all queries, or of some."""
    which = np.ones(len(queries), bool) if which is None else which
    shown = (queries[which], given.asked[which], database, given.known)
    return {
        "top1": None,
        "map": mean_average_precision(*shown),
        "map100_retrieved": mean_average_precision(*shown, k=100, denominator="retrieved"),
    }


def write(found: Sequence[Row], folder: Path) -> None:
    """Add rows to the table; what was measured again takes the place of what was."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "few-labels.csv"
    names = [each.name for each in fields(Row)]
    before = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    new = [{name: _text(value) for name, value in asdict(row).items()} for row in found]
    key = ("data", "images", "regime", "seed", "features", "recipe", "step")
    table = {tuple(row[name] for name in key): row for row in [*before, *new]}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.values())
    shown = ["data", "images", "features", "regime", "labels", "step", "top1", "map", "map100_retrieved"]
    shown += ["map_unseen", "itq_unseen", "ece", "seconds", "seed"]
    lines = [f"| {' | '.join(shown)} |", "|" + "---|" * len(shown)]
    lines += [f"| {' | '.join(row[name] for name in shown)} |" for row in table.values()]
    about = "Made by `python -m tests.benchmarks.few_labels`; machine and commit of each row: few-labels.csv."
    picture = draw(list(table.values()), folder / "few-labels.png")
    (folder / "few-labels.md").write_text("\n".join(["# Few labels", "", about, *picture, "", *lines, ""]))


def draw(table: Sequence[dict[str, str]], path: Path) -> list[str]:
    """Curves of mAP@100 against the share of CIFAR-10's labels, beside the paper's, which prints that one.
    Returns the lines that show them; none where there is no such row."""
    found = defaultdict[str, dict[float, list[float]]](lambda: defaultdict(list))
    for row in table:
        if row["data"] == "cifar10" and row["step"] == "final" and row["regime"] != "none":
            found[row["features"]][percent(row["regime"])].append(100 * float(row["map100_retrieved"]))
    if not found:
        return []
    ours = {
        features: {share: (float(np.mean(all_)), float(np.std(all_))) for share, all_ in points.items()}
        for features, points in found.items()
    }
    theirs = defaultdict[str, dict[float, float]](dict)
    for key, value in tables.paper(3, "cifar10").items():
        if key.metric == "map" and key.method == "HPCA-FH":
            theirs[key.method][float(key.labels[:-1])] = value
    plots.label_fractions(path, ours, theirs, metric="mAP@100, retrieved, in %", chance=10)
    return ["", f"![mAP@100 against the share of labels]({path.name})"]


def _text(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def goes_on(work: Path, config: Config) -> bool:
    """Whether something of these settings is there to go on with. SystemExit for other settings: a checkpoint
    knows its images and learning rates, and no more."""
    work.mkdir(parents=True, exist_ok=True)
    noted, settings = work / "config.json", json.dumps(asdict(config), indent=2)
    if noted.exists() and noted.read_text() != settings:
        raise SystemExit(f"{work}: was begun with other settings ({noted}); name another folder")
    noted.write_text(settings)
    return any(work.rglob("*.pt"))


def main() -> None:
    """Measure all shares of the labels that are asked for."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    command.add_argument("--data", help="folder of images; the embedded digits without it")
    command.add_argument("--labels", default="none,1%,5%,10%,100%", help="shares, with commas between")
    for flag in ("--backbone", "--rule", "--weights", "--dataset"):
        command.add_argument(flag, default=argparse.SUPPRESS)
    for flag in ("--epochs", "--image-size", "--seed"):
        command.add_argument(flag, type=int, default=argparse.SUPPRESS)
    command.add_argument("--set", action="append", default=[])
    command.add_argument("--unseen", action="store_true", help="measure classes without labels too")
    command.add_argument(
        "--before", default="", help="shares, below those, by which a network learned that stays"
    )
    command.add_argument("--steps", action="store_true", help="leave out one step at a time too")
    command.add_argument("--work", type=Path, help="folder of checkpoints, to go on from if stopped")
    command.add_argument("--out", type=Path, default=RESULTS)
    options = vars(command.parse_args())
    shares, folder = options.pop("labels").split(","), options.pop("out")
    more = {name: options.pop(name) for name in ("unseen", "steps")}
    earlier = [*filter(None, options.pop("before").split(","))]
    work = options.pop("work")
    settings = dict(parse_setting(text) for text in options.pop("set"))
    chosen = {name: value for name, value in options.items() if value is not None}
    config = configure(chosen | settings | {"recipe": "best"})
    set_up_process(config.precision if config.precision != "auto" else "fp32")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS, check=True
    ).stdout.strip()
    gone_on = work is not None and goes_on(work, config)
    given = embedded(Run(config, work))
    for share in shares:
        below = [before for before in earlier if share != "none" and percent(before) < percent(share)]
        for before in (None, *below):
            for row in rows(given, share, commit, before=before, **more):
                row = replace(row, seconds=None) if gone_on else row
                write([row], folder)
                print(row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
