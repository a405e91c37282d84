"""Encoder, catalogue and engine together: what the service can do, without HTTP.

Everything here blocks and may be called from many threads at a time.
"""

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from index.artifact import ORIGINALS, Artifact, ArtifactError, open_artifact
from index.bootstrap import bootstrap_interval
from index.codes import Codes
from index.conventions import Denominator, Ties
from index.distances import pairs_by_distance, precision_by_distance, precision_recall_curve
from index.evaluation import average_precision, average_precision_at_random
from index.items import UNLABELLED, Item
from index.originals import Originals
from index.rankings import Labels
from index.snapshot import Snapshot
from service.decoding import Decode, decode
from service.schemas import ClassScore, Curve, Definition, Evaluation, Interval, ScoreSummary
from training.nets.encoder import Encoder
from training.nets.images import looks_like_an_image

T = TypeVar("T")

CORES = torch.get_num_threads()
FEW_PIXELS = 2**12  # not worth waking another core for: conv6 encodes one image of 32 × 32 faster without
LISTED = 20  # labels that an error message names at most
SENT = ""  # the folder of an item that was sent alone
EVALUATIONS = 64  # results kept: whoever asks for every k must not fill the memory


class UnknownLabel(ValueError):
    """A label that no item can have; the message names those there are."""


class NothingToMeasure(ValueError):
    """Without labelled queries and items there is no mAP; the message says what is missing."""


class NoOriginal(LookupError):
    """The original file cannot be given out; the message says why."""


@dataclass(frozen=True)
class Wanted:
    """Which items a query asks for; the labels exist."""

    k: int
    max_distance: int | None = None
    labels: tuple[int, ...] = ()  # class indices, ascending; none: any item
    without: int | None = None  # an id


@dataclass(frozen=True)
class Question:
    """A query that is known to be good: its image is decoded."""

    pixels: Tensor  # uint8 (3, S, S)
    wanted: Wanted


@dataclass(frozen=True)
class Match:
    """One item near the query."""

    id: int
    label: str | None
    distance: int
    similarity: float


@dataclass(frozen=True)
class Answer:
    """What a search found, sorted by (distance, id)."""

    code: Codes  # (1, bits/8)
    matches: tuple[Match, ...]
    exact: bool
    ties_at_cut: int  # eligible items at the distance of the last match, the matches included


@dataclass(frozen=True)
class Measurement:
    """An evaluation and what it is the mean of: the n queries that were scored."""

    evaluation: Evaluation
    ids: NDArray[np.int64]  # (n,)
    labels: Labels  # (n,) class indices
    scores: NDArray[np.float64]  # (n,)
    classes: tuple[str, ...]  # what the labels stand for


class Sharing:
    """Divides the machine's cores among those who compute at the same time.

    A team of threads for each would have more threads than cores, and wait for the slowest again and again.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._busy = 0
        self._lock = threading.Lock()

    @contextmanager
    def share(self) -> Iterator[int]:
        """How many cores one may use within; at least one."""
        with self._lock:
            self._busy += 1
            cores = max(1, self._cores // self._busy)
        try:
            yield cores
        finally:
            with self._lock:
                self._busy -= 1


class Searcher:
    """An open artifact, ready to search."""

    def __init__(self, artifact: Artifact, *, max_pixels: int) -> None:
        self.artifact = artifact
        self._max_pixels = max_pixels
        self._encoder = load_encoder(artifact)
        self.queries = artifact.queries()  # held out; None: there are none
        self.catalogue, contents = artifact.load_catalogue()
        self.originals = Originals(artifact.path / ORIGINALS)
        self._encoding = Sharing(CORES)
        self._refreshing = threading.Lock()
        self._evaluating = threading.Lock()
        self._once: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)
        self._made: dict[Hashable, tuple[int, Any]] = {}  # and their revisions
        self._evaluations: dict[tuple[int, int | None, Ties, Denominator], Measurement] = {}
        self._latest = Snapshot.of(contents)

    @classmethod
    def open(cls, path: Path, *, max_pixels: int) -> Self:
        """Open and verify the artifact in this folder. ArtifactError names the file at fault."""
        return cls(open_artifact(path), max_pixels=max_pixels)

    @property
    def name(self) -> str:
        """That of the artifact's folder."""
        return self.artifact.path.resolve().name

    def close(self) -> None:
        """Release the catalogue."""
        self.catalogue.close()

    def prepare(
        self,
        image: bytes,
        *,
        k: int,
        max_distance: int | None = None,
        labels: Sequence[str] = (),
        max_pixels: int | None = None,
        decode: Decode = decode,
    ) -> Question:
        """What `answer` needs to find the k nearest items within `max_distance` that carry one of `labels`
        (none given: any item). Raises ImageError and UnknownLabel; `max_pixels` can only lower the limit.
        The image is decoded in this process unless `decode` says otherwise."""
        limit = self._max_pixels if max_pixels is None else min(max_pixels, self._max_pixels)
        made = decode(image, size=self.image_size, max_pixels=limit)
        return Question(made.pixels, self.wanted(k, max_distance, labels))

    def wanted(self, k: int, max_distance: int | None = None, labels: Sequence[str] = ()) -> Wanted:
        """The k nearest items within `max_distance` that carry one of `labels`. Raises UnknownLabel."""
        return Wanted(k, max_distance, self._indices(labels))

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Encode all queries together and rank together those that ask alike."""
        codes = self.encode(torch.stack([question.pixels for question in questions]))
        return self.nearest(codes, [question.wanted for question in questions])

    def nearest(self, codes: Codes, wanted: Sequence[Wanted]) -> list[Answer]:
        """What lies near each of the codes (n, bits/8), ranked together where the same is wanted."""
        snapshot = self.snapshot()
        alike: defaultdict[Wanted, list[int]] = defaultdict(list)
        for row, each in enumerate(wanted):
            alike[replace(each, max_distance=None)].append(row)
        answers: dict[int, Answer] = {}
        for rows in alike.values():
            ranked = self._rank(snapshot, codes[rows], [wanted[row] for row in rows])
            answers |= zip(rows, ranked, strict=True)
        return [answers[row] for row in range(len(wanted))]

    def similar(self, item_id: int, wanted: Wanted) -> Answer:
        """What lies near an item, or near a held-out query, without itself. Raises KeyError."""
        return self.nearest(self._code(item_id), [replace(wanted, without=item_id)])[0]

    def search(
        self, image: bytes, *, k: int, max_distance: int | None = None, labels: Sequence[str] = ()
    ) -> Answer:
        """`prepare` and `answer` of one query."""
        return self.answer([self.prepare(image, k=k, max_distance=max_distance, labels=labels)])[0]

    def check(self, *, decode: Decode = decode) -> int:
        """Decode and encode a tiny image and search with it; the number of indexed items."""
        tiny = BytesIO()
        Image.new("RGB", (1, 1)).save(tiny, "PNG")
        self.answer([self.prepare(tiny.getvalue(), k=1, decode=decode)])
        return len(self.snapshot().engine)

    def evaluate(
        self, *, k: int | None = None, ties: Ties = "expected", denominator: Denominator = "min"
    ) -> Evaluation:
        """mAP of the held-out queries against the index as it is now. Raises NothingToMeasure.

        The same question is computed once for each revision of the catalogue.
        """
        return self.measure(k=k, ties=ties, denominator=denominator).evaluation

    def measure(
        self, *, k: int | None = None, ties: Ties = "expected", denominator: Denominator = "min"
    ) -> Measurement:
        """`evaluate`, with the score of each query that was scored."""
        snapshot = self.snapshot()
        key = (snapshot.revision, k, ties, denominator)
        with self._evaluating:
            if key not in self._evaluations:
                if len(self._evaluations) >= EVALUATIONS:
                    self._evaluations.clear()
                self._evaluations[key] = self._measure(snapshot, k, ties, denominator)
            return self._evaluations[key]

    def curve(self) -> Curve:
        """What each distance is worth, by the held-out queries against the index as it is now. Raises
        NothingToMeasure. Computed once for each revision of the catalogue."""

        def made(snapshot: Snapshot) -> Curve:
            compared = self.asked_and_ranked(snapshot)
            within, pairs = precision_recall_curve(*compared), pairs_by_distance(*compared)
            return Curve(
                radius=within.radius.tolist(),
                precision=within.precision.tolist(),
                recall=within.recall.tolist(),
                precision_at=precision_by_distance(pairs).tolist(),
                same_class=pairs.same_class.tolist(),
                other_class=pairs.other_class.tolist(),
            )

        return self.once("curve", made)

    def once(self, what: Hashable, make: Callable[[Snapshot], T]) -> T:
        """What `make` makes of the index as it is now, once for each revision of the catalogue: who asks for
        the same meanwhile waits for it. The values of `what` must be few, each of them is kept."""
        snapshot = self.snapshot()
        with self._once[what]:
            revision, made = self._made.get(what, (None, None))
            if revision != snapshot.revision:
                made = make(snapshot)
                self._made[what] = snapshot.revision, made
            value: T = made  # type: ignore[assignment]  # that of this very `make`
            return value

    def held_out(self) -> NDArray[np.int64]:
        """The ids (n,) of the held-out queries that have a label."""
        if self.queries is None:
            return np.empty(0, np.int64)
        asked: NDArray[np.int64] = self.queries.ids[self.queries.labels != UNLABELLED]
        return asked

    def scores(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Average precision (n,) of these held-out queries over the whole ranking; NaN where no indexed image
        has the label. Raises NothingToMeasure."""
        codes, labels, items, classes = self.asked_and_ranked(self.snapshot())
        row_of = {item_id: row for row, item_id in enumerate(self.held_out().tolist())}
        rows = [row_of[item_id] for item_id in ids.tolist()]
        return average_precision(codes[rows], labels[rows], items, classes)

    def original(self, item_id: int) -> Path:
        """The indexed file itself. KeyError for an unknown id, NoOriginal with the reason."""
        return self.original_of(self.catalogue.get(item_id))

    def original_of(self, item: Item) -> Path:
        """The same of an item that is known. Raises NoOriginal."""
        if item.folder is not None:
            path = self.originals.path(bytes.fromhex(item.sha256 or ""))
            if not path.is_file():
                raise NoOriginal("the file was sent and is not kept; there is only the thumbnail")
            return path
        folder = self.artifact.manifest.data.get("root")
        if folder is None:
            raise NoOriginal("this index was not made from a folder of files; there is only the thumbnail")
        try:
            root = Path(folder).resolve(strict=True)
            path = (root / item.path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # missing, unreadable, a loop of links
            raise NoOriginal("the original file is no longer there; there is only the thumbnail") from None
        if not path.is_relative_to(root):
            raise NoOriginal("the original file lies outside the indexed folder and is not given out")
        if not path.is_file():
            raise NoOriginal("the original is not a file any more; there is only the thumbnail")
        # An artifact says itself where its images lie: nothing but an image is ever given out.
        try:
            if looks_like_an_image(path):
                return path
        except OSError:
            raise NoOriginal("the original cannot be read; there is only the thumbnail") from None
        raise NoOriginal("the original is not an image any more; there is only the thumbnail")

    def snapshot(self) -> Snapshot:
        """The index as the catalogue is now."""
        if self._latest.revision != self.catalogue.revision:
            with self._refreshing:
                if self._latest.revision != self.catalogue.revision:
                    self._latest = self._latest.after(self.catalogue.changes(self._latest.revision))
        return self._latest

    @property
    def image_size(self) -> int:
        """Pixels of a side of what `encode` takes."""
        return self._encoder.description.image_size

    def encode(self, pixels: Tensor) -> Codes:
        """Packed codes (n, bits/8) of uint8 pixels (n, 3, S, S)."""
        with self._encoding.share() as cores:
            torch.set_num_threads(
                1 if pixels[:, 0].numel() <= FEW_PIXELS else cores
            )  # here, and for threads yet to start
            return self._encoder.encode(pixels)

    def _indices(self, labels: Sequence[str]) -> tuple[int, ...]:
        classes = self.snapshot().classes if labels else ()
        for label in labels:
            if label not in classes:
                raise UnknownLabel(f"label {label[:80]!r} is unknown; {_known(classes)}")
        return tuple(sorted({classes.index(label) for label in labels}))

    def _code(self, item_id: int) -> Codes:
        """The code (1, bits/8) of an item or of a held-out query. Raises KeyError."""
        if self.queries is not None:
            held_out: Codes = self.queries.codes[self.queries.ids == item_id]
            if len(held_out):
                return held_out
        return self.catalogue.code(item_id)

    def _rank(self, snapshot: Snapshot, codes: Codes, wanted: Sequence[Wanted]) -> list[Answer]:
        """Answers to those that want the same but for the distance."""
        engine, allowed = snapshot.engine, snapshot.ids_of(wanted[0].labels)
        if (left_out := wanted[0].without) is not None:
            allowed = snapshot.ids if allowed is None else allowed
            allowed = allowed[allowed != left_out]
        distances, ids = engine.search(codes, wanted[0].k, allowed=allowed)
        limits = (each.max_distance for each in wanted)
        radii = np.array([engine.bits if limit is None else limit for limit in limits])
        found = (distances <= radii[:, None]).sum(axis=1)  # the first of each row, which is sorted
        last = np.array([row[n - 1] if n else -1 for row, n in zip(distances, found, strict=True)])
        nearer = (distances < last[:, None]).sum(axis=1)
        ties = engine.count(codes, last, allowed=allowed) - nearer
        return [
            Answer(code[None], self._matches(snapshot, row[:n], row_ids[:n]), engine.exact, int(tied))
            for code, row, row_ids, n, tied in zip(codes, distances, ids, found, ties, strict=True)
        ]

    def _matches(
        self, snapshot: Snapshot, distances: NDArray[np.int32], ids: NDArray[np.int64]
    ) -> tuple[Match, ...]:
        bits = self.catalogue.bits
        rows = zip(ids.tolist(), distances.tolist(), snapshot.labels_of(ids).tolist(), strict=True)
        return tuple(
            Match(item_id, _name(snapshot.classes, label), distance, 1 - distance / bits)
            for item_id, distance, label in rows
        )

    def _held_out(self) -> int:
        return 0 if self.queries is None else len(self.queries.ids)

    def asked_and_ranked(self, snapshot: Snapshot) -> tuple[Codes, Labels, Codes, Labels]:
        """Codes and labels of the held-out queries and of the items, as far as they have labels. Queries that
        were sent later are searched, but not ranked here: each would find itself. Raises NothingToMeasure."""
        if self.queries is None:
            raise NothingToMeasure(
                "this index was built without labels, so that no image is held out to measure the answers "
                "with; labels given later do not change that, build one with labelled images"
            )
        queries, (_, codes) = self.queries, snapshot.engine.items()
        asked, ranked = queries.labels != UNLABELLED, snapshot.labels != UNLABELLED
        ranked &= ~np.isin(snapshot.ids, self.catalogue.copies_of_queries())
        if not asked.any() or not ranked.any():
            lacking = "held-out query" if ranked.any() else "indexed image"
            raise NothingToMeasure(f"no {lacking} has a label, so that no answer can be called right")
        if not np.isin(queries.labels[asked], snapshot.labels[ranked]).any():
            raise NothingToMeasure("no indexed image has the label of any held-out query")
        return queries.codes[asked], queries.labels[asked], codes[ranked], snapshot.labels[ranked]

    def _measure(
        self, snapshot: Snapshot, k: int | None, ties: Ties, denominator: Denominator
    ) -> Measurement:
        _, labels, codes, ranked = compared = self.asked_and_ranked(snapshot)
        scores = average_precision(*compared, k=k, ties=ties, denominator=denominator)
        scored = ~np.isnan(scores)
        chance = average_precision_at_random(labels[scored], ranked, k=k, denominator=denominator)
        manifest, data = self.artifact.manifest, self.artifact.manifest.data
        members = np.bincount(ranked, minlength=len(snapshot.classes))
        unlabelled = int((snapshot.labels == UNLABELLED).sum())
        definition = Definition(
            text="",
            queries=int(scored.sum()),
            dropped_queries=self._held_out() - int(scored.sum()),
            items=len(codes),
            unlabelled_items=unlabelled,
            copies_of_queries=len(snapshot.ids) - unlabelled - len(codes),
            k=k,
            ties=ties,
            denominator=denominator,
            encoder_id=manifest.encoder_id,
            artifact=self.name,
            rule=manifest.config.get("rule"),
            backbone=manifest.config.get("backbone"),
            labels=_regime(data),
            dataset=data.get("name"),
            bits=manifest.bits,
            created=manifest.created,
        )
        evaluation = Evaluation(
            map=float(scores[scored].mean()),
            interval=_interval(scores[scored]),
            chance=float(chance.mean()),
            aps=_summary(scores[scored]),
            per_class=[
                _class_score(name, scores[scored & (labels == label)], int(members[label]))
                for label, name in enumerate(snapshot.classes)
            ],
            definition=definition.model_copy(update={"text": _in_words(definition, data)}),
        )
        return Measurement(
            evaluation, self.held_out()[scored], labels[scored], scores[scored], snapshot.classes
        )


def load_encoder(artifact: Artifact) -> Encoder:
    """The artifact's encoder, ready. ArtifactError."""
    try:
        encoder = Encoder.load(artifact.encoder_path)
    except ValueError as error:
        raise ArtifactError(f"{error}; build the index again") from error
    if encoder.bits != artifact.manifest.bits:
        raise ArtifactError(
            f"{artifact.encoder_path}: makes codes of {encoder.bits} bits, the manifest says "
            f"{artifact.manifest.bits}; build the index again"
        )
    return encoder


def _name(classes: Sequence[str], label: int) -> str | None:
    return None if label == UNLABELLED else classes[label]


def _known(classes: Sequence[str]) -> str:
    if not classes:
        return "this index has no labels"
    more = f" and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    return f"known are {', '.join(classes[:LISTED])}{more}"


def _summary(scores: NDArray[np.float64]) -> ScoreSummary:
    p10, median, p90 = np.quantile(scores, [0.1, 0.5, 0.9]).tolist()
    return ScoreSummary(mean=float(scores.mean()), std=float(scores.std()), p10=p10, median=median, p90=p90)


def _interval(scores: NDArray[np.float64]) -> Interval | None:
    low, high = bootstrap_interval(scores, seed=0)  # the same question has the same answer
    return None if math.isnan(low) else Interval(low=low, high=high)


def _class_score(label: str, scores: NDArray[np.float64], items: int) -> ClassScore:
    aps = float(scores.mean()) if len(scores) else None
    return ClassScore(label=label, aps=aps, queries=len(scores), items=items)


def _regime(data: dict[str, Any]) -> str | None:
    """The label regime; of a file of labels only its name, not where it lay."""
    labels = data.get("labels")
    return None if labels is None else Path(labels).name


def _in_words(definition: Definition, data: dict[str, Any]) -> str:
    depth = "the whole ranking" if definition.k is None else f"the first {definition.k:,} of the ranking"
    ties = {
        "expected": "groups of equal distance count with the exact expectation over their random orders",
        "order": "groups of equal distance are ranked by id",
    }[definition.ties]
    divisor = {
        "min": "the relevant images" + ("" if definition.k is None else " or the cut-off, if smaller"),
        "retrieved": "the relevant images found in that part",
    }[definition.denominator]
    sentences = [
        f"Mean over {definition.queries:,} held-out queries of the average precision of {depth} of "
        f"{definition.items:,} labelled images by Hamming distance of {definition.bits}-bit codes.",
        f"An image is relevant if it has the query's label; {ties}; each precision sum is divided by "
        f"{divisor}.",
    ]
    if definition.dropped_queries:
        sentences.append(f"{definition.dropped_queries:,} queries without a relevant image are left out.")
    if definition.unlabelled_items:
        sentences.append(
            f"{definition.unlabelled_items:,} indexed images have no label and are not ranked here."
        )
    if definition.copies_of_queries:
        sentences.append(
            f"{definition.copies_of_queries:,} images that were sent are held-out queries themselves and are "
            "not ranked here."
        )
    if training := data.get("training_labels"):
        validation = data.get("validation_labels") or 0
        chosen = f", and {validation:,} more chose its best epoch" if validation else ""
        sentences.append(f"Training saw {training:,} labels{chosen}.")
    if seen := data.get("queries_seen"):
        sentences.append(f"Its encoder may have learned from {seen:,} of the queries, which flatters it.")
    return " ".join(sentences)
