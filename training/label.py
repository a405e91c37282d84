"""Learn again from labels that grew: hebbsearch label ARTIFACT FILE.csv --out NEW

The features stay; the head is learned anew from the embeddings that the artifact keeps, and no image is read.
The old artifact is only read, and goes on serving whatever happens here.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:  # as training/build_index.py has it
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import datetime
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path
from shlex import quote
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from index.artifact import (
    CATALOGUE,
    ENCODER,
    QUERIES,
    Artifact,
    ArtifactError,
    Queries,
    encoder_id,
    open_artifact,
    publish,
    save_queries,
)
from index.backup import copy_artifact
from index.catalogue import Catalogue
from index.codes import Codes
from index.evaluation import headline, mean_average_precision
from index.items import UNLABELLED, CodeTable
from index.labels import Given, given_labels, match
from index.staging import staging
from training.coding.learning import Learned, learn_codes
from training.coding.predictions import predict, top1
from training.command_line import OneLineParser, hebbsearch, run_or_fail
from training.device import set_up_process
from training.nets.encoder import Embeddings, Encoder

SHARE = 10  # one of so many labels that came since the build is held out
ENOUGH = 50  # held-out images below which two artifacts are not compared
TOGETHER = 4096  # embeddings coded at a time
SHOWN = 5  # paths that are named


@dataclass(frozen=True)
class Quality:
    """How good answers to the held-out images are, which no encoder learned from."""

    images: int
    map: float
    top1: float


@dataclass(frozen=True)
class Relearned:
    """The new artifact, and what is said of it."""

    artifact: Artifact
    given: int  # labels that changed
    strays: list[str]  # paths that name no image
    learned_from: int  # labels
    held_out: int
    before: Quality | None  # None: too few are held out to judge
    after: Quality | None


@dataclass(frozen=True)
class Division:
    """The images of an index by what they are used for, as masks (n,) of its table."""

    table: CodeTable
    held: NDArray[np.bool_]  # asked with
    copies: NDArray[np.bool_]  # of what is held out, byte for byte: neither learned from nor ranked

    @classmethod
    def of(cls, catalogue: Catalogue, held: NDArray[np.int64]) -> Self:
        """Of what a catalogue holds, with the ids of what is held out."""
        table = catalogue.codes()
        return cls(table, np.isin(table.ids, held), np.isin(table.ids, catalogue.copies_of_queries()))

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Learned from, with a label or without."""
        return ~self.held & ~self.copies

    @property
    def labelled(self) -> CodeTable:
        """What is seen and has a label: it teaches, and is ranked."""
        return self.table.rows(self.seen & (self.table.labels != UNLABELLED))

    def recoded(self, codes: Codes) -> Self:
        """The same with other codes."""
        return replace(self, table=replace(self.table, codes=codes))


def relearn(path: Path, labels: Path | None, target: Path, *, seed: int = 0) -> Relearned:
    """The artifact in `path` with the labels of a file too, learned from again, in the new folder `target`.

    A tenth of the labels that came since the build, chosen by the images' bytes, is not learned from: with
    them both artifacts are measured. ArtifactError, DataError.
    """
    if target.exists():
        raise ArtifactError(f"{target}: exists already; choose another folder")
    source = open_artifact(path)
    encoder = load(source)
    given = [] if labels is None else given_labels(labels)
    with staging(target) as folder:
        copy_artifact(path, folder)
        with Catalogue.open(folder / CATALOGUE) as catalogue:
            changed, strays = give(catalogue, given)
            before = Division.of(catalogue, hold_out(catalogue))
            vectors = all_embeddings(catalogue, path)
            learned = learn(before, vectors, len(catalogue.classes), encoder.bits, seed)
            new = with_head(encoder, learned)
            new.save(folder / ENCODER)
            after = before.recoded(coded(new, vectors))
            queries = recode(catalogue, folder, source.queries(), new, after.table)
            metrics: dict[str, Any] = {"seconds": learned.seconds}
            if queries is not None:
                metrics |= measured(queries, after)
                if learned.head.classes:
                    metrics["top1"] = top1(catalogue, new)
            calibration = predict(catalogue, new, after.table, vectors, after.held, learned.calibration)
            classes = catalogue.classes
        made = publish(folder, target, replace(
            source.manifest,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            encoder_id=encoder_id(folder / ENCODER),
            classes=classes,
            data=source.manifest.data | counts(after) | {"codes": learned.method},
            metrics=metrics | {"calibration": asdict(calibration)},
        ))  # fmt: skip
    return Relearned(
        made, changed, strays, len(after.labelled.ids), int(after.held.sum()), quality(before), quality(after)
    )


def load(source: Artifact) -> Encoder:
    """The encoder of an artifact that keeps embeddings. ArtifactError for another."""
    try:
        encoder = Encoder.load(source.encoder_path)
    except ValueError as error:
        raise ArtifactError(f"{error}; build the index again") from error
    if not encoder.embedding_size:
        raise ArtifactError(
            f"{source.path}: keeps no embeddings to learn from again; build it once with --recipe best"
        )
    return encoder


def give(catalogue: Catalogue, given: list[Given]) -> tuple[int, list[str]]:
    """Write the labels into the catalogue; how many changed, and which paths name no image of it."""
    items = {item.id: item for item in catalogue.every_item()}
    found, strays = match(given, items.values())
    # Those that were held out when the index was built are to stay as they are.
    new = {
        id_: each
        for id_, each in found.items()
        if items[id_].split == "database" and items[id_].label != each.label
    }
    catalogue.label_all({id_: (each.label, each.source) for id_, each in new.items()})
    return len(new), strays


def hold_out(catalogue: Catalogue) -> NDArray[np.int64]:
    """Keep a tenth of the labels that came since the build to ask with; the ids (n,) of all that are kept so.

    Chosen by the SHA-256 of their files, so that whenever and wherever the same image comes it is on the same
    side. Labels that were accepted in groups are not: nobody looked at each of them.
    """
    built = int(catalogue.noted("built") or 0)
    new = [
        item.id
        for item in catalogue.changed(built, count=2**31)
        if item.label is not None
        and item.source != "group"
        and item.sha256 is not None
        and int(item.sha256[:8], 16) % SHARE == 0
    ]
    catalogue.hold_out(new)
    return np.array(sorted(id_ for id_, (_, held) in catalogue.sources().items() if held), np.int64)


def all_embeddings(catalogue: Catalogue, path: Path) -> Embeddings:
    """Those (n, E) of all that can be found. ArtifactError where one is missing."""
    if len(missing := catalogue.without_embedding()):
        raise ArtifactError(
            f"{path}: {len(missing)} images have no embedding (such as {missing[0]}); send them again"
        )
    return catalogue.embeddings()[1]


def learn(division: Division, vectors: Embeddings, classes: int, bits: int, seed: int) -> Learned:
    """A head from the embeddings (n, E) and labels of all that is seen."""
    labels = division.table.labels[division.seen]
    known = classes if (labels != UNLABELLED).any() else 0
    return learn_codes(vectors[division.seen].astype(np.float32), labels, known, bits=bits, seed=seed)


def with_head(encoder: Encoder, learned: Learned) -> Encoder:
    """An encoder with the features and embedding of `encoder`, and the head that was learned."""
    head = learned.head
    made = Encoder(replace(encoder.description, classes=head.classes))
    kept = {name: value for name, value in encoder.state_dict().items() if not name.startswith("head.")}
    made.load_state_dict(kept | {f"head.{name}": value for name, value in head.state_dict().items()})
    return made.eval()


def coded(encoder: Encoder, vectors: Embeddings) -> Codes:
    """Codes (n, bits/8) of embeddings (n, E)."""
    starts = range(0, len(vectors), TOGETHER)
    return np.concatenate([encoder.code(vectors[start : start + TOGETHER]) for start in starts])


def recode(
    catalogue: Catalogue, folder: Path, queries: Queries | None, encoder: Encoder, table: CodeTable
) -> Queries | None:
    """Write the codes of all images; returns the build's held-out queries with theirs."""
    codes = list(zip(table.ids.tolist(), table.codes, repeat(None)))
    made = None
    if queries is not None:
        ids, vectors = catalogue.embeddings("query")
        made = replace(queries, codes=coded(encoder, vectors)[np.searchsorted(ids, queries.ids)])
        save_queries(folder / QUERIES, made)
        codes += zip(made.ids.tolist(), made.codes, repeat(None))
    catalogue.recode(encoder_id(folder / ENCODER), encoder.bits, codes, same_embeddings=True)
    return made


def quality(division: Division) -> Quality | None:
    """How well the held-out images find images of their labels; None where they are too few to judge."""
    queries, ranked = division.table.rows(division.held), division.labelled
    if len(queries.ids) < ENOUGH or not np.isin(queries.labels, ranked.labels).any():
        return None
    shown = (queries.codes, queries.labels, ranked.codes, ranked.labels)
    # The nearest image, in expectation among equally near ones, has the query's label.
    return Quality(len(queries.ids), mean_average_precision(*shown), mean_average_precision(*shown, k=1))


def measured(queries: Queries, division: Division) -> dict[str, float]:
    """What the build's held-out queries say of the codes."""
    known, ranked = queries.labels != UNLABELLED, division.labelled
    return headline(queries.codes[known], queries.labels[known], ranked.codes, ranked.labels)


def counts(division: Division) -> dict[str, Any]:
    """What the manifest says of the images and labels."""
    labelled = int((division.table.labels != UNLABELLED).sum())
    return {
        "database": len(division.table.ids),
        "labelled": labelled,
        "unlabelled": len(division.table.ids) - labelled,
        "training_labels": len(division.labelled.ids),
        "validation_labels": 0,
        "held_out": int(division.held.sum()),
    }


def report(made: Relearned) -> Iterator[str]:
    """What the command says at its end."""
    if made.strays:
        names = ", ".join(made.strays[:SHOWN])
        yield f"{len(made.strays)} labels name no image of the index (such as {names})"
    yield f"{made.given} labels are new or changed; learned from {made.learned_from}"
    if made.before is None or made.after is None:
        yield f"{made.held_out} labels are held out: too few to judge by ({ENOUGH} are needed)"
    else:
        yield (
            f"by {made.after.images} labels that nothing learned from: mAP {made.before.map:.3f} -> "
            f"{made.after.map:.3f}, top-1 {made.before.top1:.3f} -> {made.after.top1:.3f}"
        )
    yield f"serve it with: {hebbsearch()} serve {quote(str(made.artifact.path))}"


class Lines(logging.Handler):
    """Each message as a line of JSON on standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        print(json.dumps({"progress": record.getMessage()}), flush=True)


def run_command(arguments: list[str] | None = None) -> None:
    """Parse, learn, report."""
    command = OneLineParser(prog="hebbsearch label", description="Learn again from labels that grew.")
    command.add_argument("artifact", type=Path, help="that is to learn; it stays as it is")
    command.add_argument("labels", type=Path, nargs="?", help="CSV file with columns path and label")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new artifact's folder")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    command.add_argument("--json", action="store_true", help="progress and result as lines of JSON")
    options = command.parse_args(arguments)
    handlers = [Lines()] if options.json else None
    logging.basicConfig(format="%(message)s", level=logging.INFO, handlers=handlers, force=options.json)
    set_up_process("fp32")
    torch.manual_seed(options.seed)
    made = relearn(options.artifact, options.labels, options.out, seed=options.seed)
    if options.json:
        result = {**asdict(made), "artifact": str(made.artifact.path)}
        print(json.dumps(result), flush=True)
    else:
        for line in report(made):
            print(line)
    if made.strays:
        sys.exit(3)


def main() -> None:
    """The command: errors of the user's making end in one line and exit code 2."""
    run_or_fail(run_command, "hebbsearch label", "stopped; nothing was changed", "start again")


if __name__ == "__main__":
    main()
