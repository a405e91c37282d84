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
from pathlib import Path
from shlex import quote
from typing import Any

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
from index.evaluation import mean_average_precision
from index.items import UNLABELLED, CodeTable, Item
from index.labels import Given, given_labels, match
from index.staging import staging
from training.coding.confidence import Calibration, of_queries
from training.coding.learning import Learned, learn_codes
from training.coding.predictions import Predicted, predictions
from training.command_line import OneLineParser, hebbsearch, run_or_fail
from training.device import set_up_process
from training.nets.encoder import Embeddings, Encoder

log = logging.getLogger("hebbsearch")

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


def relearn(path: Path, labels: Path | None, target: Path, *, seed: int = 0) -> Relearned:
    """The artifact in `path` with the labels of a file too, learned from again, in the new folder `target`.

    A tenth of the labels that came since the build, chosen by the images' bytes, is not learned from: with
    them both artifacts are measured. ArtifactError, DataError.
    """
    if target.exists():
        raise ArtifactError(f"{target}: exists already; choose another folder")
    source = open_artifact(path)
    encoder = load(source)
    given = None if labels is None else given_labels(labels)
    with staging(target) as folder:
        copy_artifact(path, folder)
        with Catalogue.open(folder / CATALOGUE) as catalogue:
            changed, strays = give(catalogue, given or [])
            held = hold_out(catalogue)
            table = catalogue.codes()
            ids, vectors = catalogue.embeddings()
            if len(ids) < len(table.ids):
                missing = np.setdiff1d(table.ids, ids)
                raise ArtifactError(
                    f"{path}: {len(missing)} images have no embedding (such as {missing[0]}); send them again"
                )
            copies = catalogue.copies_of_queries()
            learned = learn(table, vectors, held, copies, len(catalogue.classes), encoder.bits, seed)
            new = with_head(encoder, learned)
            codes = coded(new, vectors)
            new.save(folder / ENCODER)
            identity = encoder_id(folder / ENCODER)
            before = quality(table, held, copies)
            after = replace(table, codes=codes)
            queries = recode(catalogue, folder, source, new, identity, after)
            calibration = calibrated(catalogue, new, learned, vectors[np.isin(table.ids, held)], table, held)
            catalogue.predict(predictions(Predicted.of(new, vectors, table, calibration)))
            classes = catalogue.classes
        metrics = measured(after, queries, np.union1d(held, copies))
        made = publish(folder, target, replace(
            source.manifest,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            encoder_id=identity,
            classes=classes,
            data=source.manifest.data | counts(table, held, copies) | {"codes": learned.method},
            metrics=metrics | {"seconds": learned.seconds, "calibration": asdict(calibration)},
        ))  # fmt: skip
    return Relearned(
        made, changed, strays, int((learnable(table, held, copies) != UNLABELLED).sum()), len(held),
        before, quality(after, held, copies),
    )  # fmt: skip


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
    items = {item.id: item for item in every_item(catalogue)}
    found, strays = match(given, items.values())
    queries = [id_ for id_ in found if items[id_].split == "query"]
    labels = {id_: each for id_, each in found.items() if items[id_].label != each.label}
    for id_ in queries:  # held out when the index was built, and to stay as they are
        labels.pop(id_, None)
    catalogue.label_all(
        {id_: each.label for id_, each in labels.items()}, {id_: each.source for id_, each in labels.items()}
    )
    return len(labels), strays


def every_item(catalogue: Catalogue) -> Iterator[Item]:
    """Of both splits."""
    for split in ("database", "query"):
        after = 0
        while some := catalogue.page(after=after, count=TOGETHER, split=split):
            yield from some
            after = some[-1].id


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


def learnable(table: CodeTable, held: NDArray[np.int64], copies: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels (n,) to learn from: of nothing that is held out, nor of copies of that."""
    return np.where(np.isin(table.ids, np.union1d(held, copies)), UNLABELLED, table.labels)


def learn(
    table: CodeTable,
    vectors: Embeddings,
    held: NDArray[np.int64],
    copies: NDArray[np.int64],
    classes: int,
    bits: int,
    seed: int,
) -> Learned:
    """A head from the embeddings of all that is not held out, nor a copy of that, and their labels."""
    seen = ~np.isin(table.ids, np.union1d(held, copies))
    labels = table.labels[seen]
    known = classes if (labels != UNLABELLED).any() else 0
    return learn_codes(vectors[seen].astype(np.float32), labels, known, bits=bits, seed=seed)


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
    catalogue: Catalogue, folder: Path, source: Artifact, encoder: Encoder, identity: str, table: CodeTable
) -> Queries | None:
    """Write the codes of all images; returns the build's held-out queries with theirs."""
    queries, made = source.queries(), None
    encoded = [(int(id_), code, None) for id_, code in zip(table.ids, table.codes, strict=True)]
    if queries is not None:
        ids, vectors = catalogue.embeddings("query")
        at = {int(id_): row for row, id_ in enumerate(ids)}
        codes = coded(encoder, vectors)[[at[int(id_)] for id_ in queries.ids]]
        made = Queries(codes, queries.labels, queries.ids)
        save_queries(folder / QUERIES, made)
        encoded += [(int(id_), code, None) for id_, code in zip(made.ids, made.codes, strict=True)]
    catalogue.recode(identity, encoder.bits, encoded, same_embeddings=True)
    return made


def calibrated(
    catalogue: Catalogue,
    encoder: Encoder,
    learned: Learned,
    vectors: Embeddings,
    table: CodeTable,
    held: NDArray[np.int64],
) -> Calibration:
    """How sure predictions are: by all that is held out, with embeddings (h, E) of what came since the build,
    or, where that is too little, by the labels that were learned from."""
    if not encoder.description.classes:
        return learned.calibration
    ids, asked = catalogue.embeddings("query")
    known = catalogue.held_out()
    labels = [known[int(id_)] for id_ in ids] + table.labels[np.isin(table.ids, held)].tolist()
    together = np.concatenate([asked, vectors]) if len(ids) else vectors
    if not len(together):
        return learned.calibration
    found = of_queries(encoder.posterior(together), np.array(labels, np.int64))
    return learned.calibration if found.kind == "none" else found


def quality(table: CodeTable, held: NDArray[np.int64], copies: NDArray[np.int64]) -> Quality | None:
    """How well the held-out images find images of their labels; None where they are too few to judge."""
    asked = np.isin(table.ids, held)
    ranked = ~asked & ~np.isin(table.ids, copies) & (table.labels != UNLABELLED)
    if asked.sum() < ENOUGH or not ranked.any():
        return None
    queries, database = table.rows(asked), table.rows(ranked)
    return Quality(len(queries.ids), *_scores(queries.codes, queries.labels, database))


def _scores(codes: Codes, labels: NDArray[np.int64], database: CodeTable) -> tuple[float, float]:
    """mAP, and how often the nearest image, in expectation among equally near ones, has the query's label."""
    shown = (codes, labels, database.codes, database.labels)
    return mean_average_precision(*shown), mean_average_precision(*shown, k=1)


def measured(table: CodeTable, queries: Queries | None, unranked: NDArray[np.int64]) -> dict[str, Any]:
    """What the build's held-out queries say, as `hebbsearch build` writes it; nothing without them."""
    if queries is None:
        return {}
    database = table.rows(~np.isin(table.ids, unranked) & (table.labels != UNLABELLED))
    shown = (queries.codes, queries.labels, database.codes, database.labels)
    return {
        "map": mean_average_precision(*shown),
        "map_at_100": mean_average_precision(*shown, k=100),
        "map_at_100_retrieved": mean_average_precision(*shown, k=100, denominator="retrieved"),
        "top1": mean_average_precision(*shown, k=1),
    }


def counts(table: CodeTable, held: NDArray[np.int64], copies: NDArray[np.int64]) -> dict[str, Any]:
    """What the manifest says of the images and labels."""
    labelled = int((table.labels != UNLABELLED).sum())
    return {
        "database": len(table.ids),
        "labelled": labelled,
        "unlabelled": len(table.ids) - labelled,
        "training_labels": int((learnable(table, held, copies) != UNLABELLED).sum()),
        "validation_labels": 0,
        "held_out": len(held),
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
