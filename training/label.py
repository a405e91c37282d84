"""Learn again from labels that grew: hebbsearch label ARTIFACT FILE.csv --out NEW

The features stay; the head is learned anew from the embeddings that the artifact keeps, and no image is read.
An artifact of the recipe paper keeps none: they are made by its network, from the files of all images. With
--full the network learns anew too, from these files, as if the index were built now. The old artifact is only
read, and goes on serving whatever happens here.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:  # as training/build_index.py has it
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import datetime
import json
import logging
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from index.advice import judged
from index.artifact import (
    CATALOGUE,
    ENCODER,
    LEARNED,
    ORIGINALS,
    QUERIES,
    Artifact,
    ArtifactError,
    Queries,
    encoder_id,
    open_artifact,
    publish,
    save_learned,
    save_queries,
)
from index.backup import copy_artifact
from index.catalogue import Catalogue
from index.codes import Codes
from index.evaluation import headline, mean_average_precision
from index.items import UNLABELLED, CodeTable, Item
from index.labels import Given, given_labels, match
from index.locking import locked
from index.names import shown
from index.near_copies import KEEP
from index.originals import Originals
from index.staging import LOCK, staging
from training import protocol
from training.checkpoint import CHECKPOINT
from training.coding.learning import Learned, learn_codes
from training.coding.predictions import predict, top1
from training.command_line import RELEARNING, OneLineParser, OutputError, beside, hebbsearch, run_or_fail
from training.config import ABOUT, Config, check, from_json, parse_setting, settings_help
from training.data import indexed
from training.device import choose_device, describe, round_products, set_up_process
from training.export import versions
from training.learning.division import Division, hold_out
from training.learning.together import refuse_together
from training.nets.encoder import Embeddings, Encoder
from training.nets.images import Reading
from training.pixels import Loaded, each_batch, place, read, stream
from training.run import Run, Saved, learn_encoder

ENOUGH = 50  # held-out images below which two artifacts are not compared
TOGETHER = 4096  # embeddings coded at a time
SHOWN = 5  # paths that are named
# As many times the labels that a network learned from teach the head alone too little. Of 10,000 images of
# CIFAR-10, 2,000 queries: network by 100 labels, head by 1,000: mAP 0.458; both by 1,000: 0.544.
GROWN = 2
CATALOGUE_SETTING = "HEBBSEARCH_CATALOGUE"
COPY = "artifact"  # in the folder of a run that may be stopped


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
    asked: list[str]  # of images that are held out since the build, whose labels stay
    learned_from: int  # labels
    held_out: int
    before: Quality | None  # None: too few are held out to judge
    after: Quality | None
    network_labels: int | None  # that the network learned from; None: it needs none
    only_class: str | None  # of all labels; None: there are several, or no label


@dataclass(frozen=True)
class Embedded:
    """An encoder, whose head is yet to learn, and the embeddings that it makes."""

    encoder: Encoder
    vectors: Embeddings  # (n, E) of the images of a division, in the order of its table
    asked: Embeddings  # (q, E) of the build's held-out queries, in that of their ids
    new: bool = False  # the catalogue has others, or none
    network_labels: int | None = None  # that the network learned from; None: it needs none
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)  # with which the network learned anew


def relearn(
    path: Path,
    labels: Path | None,
    target: Path,
    *,
    seed: int = 0,
    full: bool = False,
    settings: Mapping[str, Any] = MappingProxyType({}),
    url: str | None = None,
) -> Relearned:
    """The artifact in `path` with the labels of a file too, learned from again, in the new folder `target`.

    A tenth of the labels that came since the build, chosen by the images' bytes, is not learned from: with
    them both artifacts are measured. `full`: the network learns again too, with other `settings` than before
    where some are given; what was stopped goes on when it is asked for again. `url`: of the catalogue, where
    that lies in PostgreSQL; that of the new artifact is a file. ArtifactError, DataError, ConfigError.
    """
    if target.exists():
        raise ArtifactError(f"{target}: exists already; choose another folder")
    source = open_artifact(path, url)
    encoder, no_files = load(source), source.manifest.data.get("root") is None
    if no_files and full:
        raise ArtifactError(f"{path}: was not made from a folder of files, which --full reads; leave it out")
    if no_files and not encoder.embedding_size:
        raise ArtifactError(
            f"{path}: keeps no embeddings to learn from, and was not made from a folder of files, of which "
            "they could be made; build it anew with --recipe best"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArtifactError(f"{error.filename}: is a file, so that nothing can lie in it") from error
    if not full:
        kept, added = partial(kept_embeddings, encoder), partial(added_embeddings, encoder, seed=seed)
        return relearned(source, labels, target, seed, kept if encoder.embedding_size else added)
    with_settings(source, settings)
    with working(path, target, seed, settings) as work:
        if not (copy := work / COPY).exists():  # what a stopped run goes on with, whatever changes
            copy_artifact(path, copy, url)
        anew = partial(new_embeddings, work=work, seed=seed)
        made = relearned(with_settings(open_artifact(copy), settings), labels, target, seed, anew)
    shutil.rmtree(work)
    return made


def relearned(
    source: Artifact,
    labels: Path | None,
    target: Path,
    seed: int,
    embeddings: Callable[[Artifact, Catalogue, Division], Embedded],
) -> Relearned:
    """As `relearn`, from the `embeddings` of all images of an artifact, which has those labels by then."""
    given = [] if labels is None else given_labels(labels)
    with staging(target) as folder:
        copy_artifact(source.path, folder, source.url)
        with Catalogue.open(folder / CATALOGUE) as catalogue:
            changed, strays, asked = give(catalogue, given)
            taught = source.learned()
            near_copies = source.manifest.config.get("near_copies", KEEP)
            before = Division.of(catalogue, hold_out(catalogue, taught), near_copies)
            taught |= {
                item.sha256 for item in catalogue.get_many(before.labelled.ids.tolist()) if item.sha256
            }
            save_learned(folder / LEARNED, taught)
            known = embeddings(source, catalogue, before)
            learned = learn(before, known.vectors, len(catalogue.classes), known.encoder.bits, seed)
            new = with_head(known.encoder, learned)
            new.save(folder / ENCODER)
            after = before.recoded(coded(new, known.vectors))
            queries = recode(catalogue, folder, source.queries(), new, after.table, known)
            metrics: dict[str, Any] = {"seconds": known.seconds | learned.seconds}
            if queries is not None:
                metrics |= measured(queries, after)
                if learned.head.classes:
                    metrics["top1"] = top1(catalogue, new)
            calibration = predict(catalogue, new, after.table, known.vectors, after.held, learned.calibration)
            catalogue.doubts.keep(judged(after.table, known.vectors))
            classes = catalogue.classes
            present = np.unique(after.labelled.labels)
            only = classes[int(present[0])] if len(present) == 1 else None
        about = source.manifest.data | counts(after) | {"codes": learned.method}
        about["network_labels"] = known.network_labels
        made = publish(folder, target, replace(
            source.manifest,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            encoder_id=encoder_id(folder / ENCODER),
            bits=new.bits,
            classes=classes,
            config=source.manifest.config | {"recipe": "best"},  # the paper's gave its place to it
            preprocessing=new.preprocessing(),
            versions=source.manifest.versions | known.versions,
            data=about,
            metrics=metrics | {"calibration": asdict(calibration)},
        ))  # fmt: skip
    counted = (len(after.labelled.ids), int(after.held.sum()))
    return Relearned(
        made, changed, strays, asked, *counted, quality(before), quality(after), known.network_labels, only
    )


def load(source: Artifact) -> Encoder:
    """The encoder of an artifact. ArtifactError for one of another version."""
    try:
        return Encoder.load(source.encoder_path)
    except ValueError as error:
        raise ArtifactError(f"{error}; build the index again") from error


def give(catalogue: Catalogue, given: list[Given]) -> tuple[int, list[str], list[str]]:
    """Write the labels into the catalogue; how many changed, which paths name no image of it, and which name
    one that was held out when the index was built and is to stay as it is."""
    items = {item.id: item for item in catalogue.every_item()}
    found, strays = match(given, items.values())
    other = {id_: each for id_, each in found.items() if items[id_].label != each.label}
    seen = {id_: each for id_, each in found.items() if items[id_].source == "group" != each.source}
    new = {id_: each for id_, each in (other | seen).items() if items[id_].split == "database"}
    catalogue.label_all({id_: (each.label, each.source) for id_, each in new.items()})
    asked = [items[id_].path for id_ in other if items[id_].split == "query"]
    return len(new), strays, asked


def kept_embeddings(encoder: Encoder, source: Artifact, catalogue: Catalogue, _: Division) -> Embedded:
    """Those of an artifact's own encoder. ArtifactError where one is missing."""
    if len(missing := catalogue.without_embedding()):
        raise ArtifactError(
            f"{source.path}: {len(missing)} images have no embedding (such as {missing[0]}); send them again"
        )
    before = None if own_network(encoder, source) else source.manifest.learned_from
    taught = source.manifest.data.get("network_labels", before)
    vectors = (catalogue.embeddings()[1], catalogue.embeddings("query")[1])
    return Embedded(encoder, *vectors, network_labels=taught)


def added_embeddings(
    encoder: Encoder, source: Artifact, catalogue: Catalogue, division: Division, *, seed: int
) -> Embedded:
    """Those of an artifact whose encoder makes none: its network stays, what follows is learned anew from the
    files of all images. ArtifactError where files are gone or changed."""
    logging.info("no embeddings are kept: they are made of the files of all images")

    def as_it_was(run: Run) -> None:
        run.model.normalise.load_state_dict(encoder.normalise.state_dict())
        run.model.network.features.load_state_dict(encoder.features.state_dict())

    config = replace(settings_of(source), recipe="best", student_epochs=0, seed=seed)
    made = embeddings_by(as_it_was, config, source, catalogue, division, None)
    return replace(made, network_labels=source.manifest.learned_from or None)


def new_embeddings(
    source: Artifact, catalogue: Catalogue, division: Division, work: Path, seed: int
) -> Embedded:
    """Those of a network that learns anew from all that is seen, with checkpoints in the folder `work`.
    ArtifactError where files are gone or changed."""

    def anew(run: Run) -> Saved:
        return run.learn_features(run.restore())

    config = replace(settings_of(source), recipe="best", seed=seed)
    made = embeddings_by(anew, config, source, catalogue, division, work)
    own = own_network(made.encoder, source)
    return replace(made, network_labels=None if own else len(division.labelled.ids))


def embeddings_by(
    features: Callable[[Run], Saved],
    config: Config,
    source: Artifact,
    catalogue: Catalogue,
    division: Division,
    work: Path | None,
) -> Embedded:
    """Those that a run with these settings makes of all images of an index, once it has its `features`."""
    items = list(catalogue.every_item())
    config = replace(config, labels="100%", device="auto")
    loaded = read_indexed(source, items, catalogue.classes, config)
    pixels = place(loaded.pixels, choose_device(config.device))
    run = Run(config, work, loaded._replace(pixels=pixels, split=divided(division, items)))
    round_products(run.precision)
    encoder, known = learn_encoder(run, features(run))
    round_products("fp32")  # codes are to be those that the service computes
    vectors, seen = np.empty((len(items), encoder.embedding_size), np.float16), run.split.pretraining
    vectors[seen], rest = known, np.setdiff1d(np.arange(len(items)), seen)
    for at, images in stream(pixels, each_batch("indexing", rest, 256), run.device):
        vectors[at] = encoder.embed(images)
    asked = np.array([item.split == "query" for item in items])
    about = versions() | {"device": describe(run.device), "precision": run.precision}
    return Embedded(encoder, vectors[~asked], vectors[asked], new=True, seconds=run.seconds, versions=about)


def settings_of(source: Artifact) -> Config:
    """With which an artifact was built. ArtifactError."""
    try:
        return from_json(source.manifest.config)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{source.path}: its settings are of another version ({reason})") from error


def with_settings(source: Artifact, settings: Mapping[str, Any]) -> Artifact:
    """The artifact as if it had been built with these. ConfigError for what its network cannot."""
    check(replace(settings_of(source), **settings))
    return replace(source, manifest=replace(source.manifest, config=source.manifest.config | dict(settings)))


def divided(division: Division, items: Sequence[Item]) -> protocol.Split:
    """The positions of all `items`, those of the division's table first, by what a run does with them."""
    everything, seen = np.arange(len(items)), np.flatnonzero(division.seen)
    labelled = seen[division.table.labels[seen] != UNLABELLED]
    count = len(division.table.ids)
    return protocol.Split(everything[count:], everything[:count], seen, labelled, everything[:0])


def read_indexed(source: Artifact, items: Sequence[Item], classes: Sequence[str], config: Config) -> Loaded:
    """The pixels of all images of an index. ArtifactError where a file is not the one that was indexed."""
    root, kept = Path(source.manifest.data["root"]), Originals(source.path / ORIGINALS)
    images = indexed(root, kept, items, classes, Reading(grey_bits=config.grey_bits))
    names = [shown(item.path) for item in items]
    there = [(root / path).exists() for path in images.paths]
    _refuse(root, [name for name, found in zip(names, there, strict=True) if not found], "are gone")
    loaded = read(images, config.image_size)
    named = dict(zip(map(shown, images.paths), names, strict=True))
    _refuse(root, [named[each["path"]] for each in loaded.skipped], "cannot be read")
    hashes = zip(items, loaded.images.hashes or (), strict=True)
    changed = [shown(item.path) for item, sha256 in hashes if item.sha256 not in (None, sha256.hex())]
    _refuse(root, changed, "are not those that were indexed")
    return loaded


def _refuse(root: Path, lost: Sequence[str], why: str) -> None:
    if lost:
        named = ", ".join(lost[:SHOWN])
        way_out = "put them back or remove these images"
        raise ArtifactError(f"{root}: the files of {len(lost):,} images {why}, such as {named}; {way_out}")


@contextmanager
def working(path: Path, target: Path, seed: int, settings: Mapping[str, Any]) -> Iterator[Path]:
    """The folder beside `target` in which a run works that may be stopped, for one process at a time.
    OutputError where another run was stopped there."""
    work = beside(target)
    # What diverged goes on from before that, with another rate.
    same = {name: value for name, value in settings.items() if not ABOUT[name].changeable}
    asked = json.dumps({"artifact": os.path.abspath(path), "seed": seed} | same)
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        if not (note := work / RELEARNING).exists():
            if any(file.name != LOCK for file in work.iterdir()):
                raise OutputError(f"{work}: is an unfinished run of hebbsearch build; finish or remove it")
            note.write_text(asked)
        elif note.read_text() != asked:
            raise OutputError(f"{work}: is an unfinished run of another artifact, seed or setting; remove it")
        try:
            yield work
        except BaseException as stop:
            if not (work / CHECKPOINT).exists():
                shutil.rmtree(work)  # nothing was learned yet
            elif isinstance(stop, KeyboardInterrupt):
                raise KeyboardInterrupt("stopped; the same command goes on from here") from None
            raise


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(work / LOCK))
        except BlockingIOError:
            raise OutputError(f"{work}: another process is at work there; wait for it") from None
        yield


def learn(division: Division, vectors: Embeddings, classes: int, bits: int, seed: int) -> Learned:
    """A head from the embeddings (n, E) and labels of all that is seen."""
    seen = division.seen
    labels, grouped = division.table.labels[seen], division.grouped[seen]
    known = classes if (labels != UNLABELLED).any() else 0
    return learn_codes(vectors[seen].astype(np.float32), labels, known, bits=bits, seed=seed, grouped=grouped)


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
    catalogue: Catalogue,
    folder: Path,
    queries: Queries | None,
    encoder: Encoder,
    table: CodeTable,
    known: Embedded,
) -> Queries | None:
    """Write the codes of all images, and embeddings that are new; returns the build's held-out queries with
    their codes."""
    codes = list(zip(table.ids.tolist(), table.codes, known.vectors, strict=True))
    made = None
    if queries is not None:
        ids = np.array(sorted(catalogue.held_out()), np.int64)
        rows = np.searchsorted(ids, queries.ids)
        made = replace(queries, codes=coded(encoder, known.asked)[rows])
        save_queries(folder / QUERIES, made)
        codes += zip(made.ids.tolist(), made.codes, known.asked[rows], strict=True)
    catalogue.recode(encoder_id(folder / ENCODER), encoder.bits, codes, same_embeddings=not known.new)
    return made


def quality(division: Division) -> Quality | None:
    """How well the held-out images find images of their labels; None where they are too few to judge."""
    queries, ranked = division.table.rows(division.held), division.ranked
    if len(queries.ids) < ENOUGH or not np.isin(queries.labels, ranked.labels).any():
        return None
    shown = (queries.codes, queries.labels, ranked.codes, ranked.labels)
    # The nearest image, in expectation among equally near ones, has the query's label.
    return Quality(len(queries.ids), mean_average_precision(*shown), mean_average_precision(*shown, k=1))


def measured(queries: Queries, division: Division) -> dict[str, float]:
    """What the build's held-out queries say of the codes."""
    known, ranked = queries.labels != UNLABELLED, division.ranked
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


def own_network(encoder: Encoder, source: Artifact) -> bool:
    """Whether the network is the one that was asked for alone, and none beside it learned from labels."""
    return bool(encoder.description.backbone == source.manifest.config["backbone"])


def report(made: Relearned) -> Iterator[str]:
    """What the command says at its end."""
    if made.strays:
        names = ", ".join(made.strays[:SHOWN])
        yield f"{len(made.strays)} labels name no image of the index (such as {names})"
    if made.asked:
        names = ", ".join(made.asked[:SHOWN])
        yield f"{len(made.asked)} labels are of images that are held out since the build, which stay: {names}"
    yield f"{made.given} labels are new or changed; learned from {made.learned_from}"
    if made.only_class is not None:
        yield f"all of these are {made.only_class!r}: no label is predicted until there is a second one"
    if made.before is not None and made.after is not None:
        yield (
            f"by {made.after.images} labels that nothing learned from: mAP {made.before.map:.3f} -> "
            f"{made.after.map:.3f}, top-1 {made.before.top1:.3f} -> {made.after.top1:.3f}"
        )
    elif made.held_out < ENOUGH:
        yield f"{made.held_out} labels are held out: too few to judge by ({ENOUGH} are needed)"
    else:
        yield f"{made.held_out} labels are held out: nothing else has their labels that somebody looked at"
    if made.network_labels is not None and made.learned_from >= GROWN * made.network_labels:
        yield f"the network learned from {made.network_labels} labels: with --full it learns from all of them"
    yield f"serve it with: {hebbsearch()} serve {quote(str(made.artifact.path))}"


class Lines(logging.Handler):
    """Each message as a line of JSON on standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        print(json.dumps({"progress": record.getMessage()}), flush=True)


def stop_with_input() -> None:
    """Interrupt this process once nobody holds the other end of its standard input."""
    while os.read(0, 2**12):  # not by sys.stdin, whose lock Python wants when it ends
        pass
    os.kill(os.getpid(), signal.SIGINT)


def run_command(arguments: list[str] | None = None) -> None:
    """Parse, learn, report."""
    command = OneLineParser(prog="hebbsearch label", description="Learn again from labels that grew.")
    command.add_argument("artifact", type=Path, help="that is to learn; it stays as it is")
    command.add_argument("labels", type=Path, nargs="?", help="CSV file with columns path and label")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new artifact's folder")
    command.add_argument(
        "--catalogue",
        metavar="URL",
        default=os.environ.get(CATALOGUE_SETTING),
        help=f"where that lies in PostgreSQL ({CATALOGUE_SETTING}); the new artifact has a file",
    )
    command.add_argument(
        "--full", action="store_true", help="let the network learn anew too, from the files of all images"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    command.add_argument("--json", action="store_true", help="progress and result as lines of JSON")
    command.add_argument(
        "--set", metavar="NAME=VALUE", action="append", help="with --full, any value of a build's --set"
    )
    command.add_argument(
        "--while-read", action="store_true", help="stop when standard input ends: whoever started it is gone"
    )
    options = command.parse_args(arguments)
    if not 0 <= options.seed < 2**31:
        command.error(f"--seed {options.seed}: use a number from 0, below {2**31}")
    settings = dict(parse_setting(text, settings_help()) for text in options.set or ())
    refuse_together("hebbsearch label")
    if settings and not options.full:
        command.error("--set goes with --full, which learns the network anew")
    if taken := settings.keys() - settings_help().keys():
        command.error(f"--set {min(taken)}: stays as the index was built")
    if options.while_read:
        threading.Thread(target=stop_with_input, daemon=True).start()
    handlers = [Lines()] if options.json else None
    logging.basicConfig(format="%(message)s", level=logging.INFO, handlers=handlers, force=options.json)
    set_up_process("fp32")
    torch.manual_seed(options.seed)
    made = relearn(
        options.artifact,
        options.labels,
        options.out,
        seed=options.seed,
        full=options.full,
        settings=settings,
        url=options.catalogue or None,
    )
    if options.json:
        result = {**asdict(made), "artifact": str(made.artifact.path)}
        print(json.dumps(result), flush=True)
    else:
        for line in report(made):
            print(line)
    if made.strays or made.asked:
        sys.exit(3)


def main() -> None:
    """The command: errors of the user's making end in one line and exit code 2."""
    run_or_fail(run_command, "hebbsearch label", "stopped; nothing was changed", "start again")


if __name__ == "__main__":
    main()
