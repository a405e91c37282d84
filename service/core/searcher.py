"""Encoder, catalogue and engine together: what the service can do, without HTTP.

Everything here blocks and may be called from many threads at a time.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from index.artifact import ORIGINALS, Artifact, ArtifactError, open_artifact
from index.codes import Codes
from index.engine import EngineError
from index.engines import Making, flat
from index.following import Following
from index.hamming import FaissEngine
from index.items import UNLABELLED, Changes, Item
from index.ivf import IvfEngine, Recall
from index.labels import normal_form
from index.originals import Originals
from index.snapshot import Part, Snapshot
from service.core.pictures.copies import Pictures, Query
from service.core.pictures.decoding import Decode, Decoded, decode
from service.core.pictures.originals import original_of
from service.core.pictures.predicting import Prediction, Predictor
from service.core.pictures.previews import Source, source_of
from service.core.sharing import CORES, Remembered, Sharing
from training.nets.encoder import Embeddings, Encoded, Encoder
from training.nets.images import THUMBNAIL, Reading
from training.nets.pdq import BITS as HASH_BITS
from training.nets.pdq import PLAIN
from training.nets.pretrained import MissingPackage

T = TypeVar("T")

FEW_PIXELS = 2**12  # not worth waking another core for: conv6 encodes one image of 32 × 32 faster without
LISTED = 20  # labels that an error message names at most
SPARE = 16  # items that are looked for behind those that are wanted, as that shows ties without counting all
SENT = ""  # the folder of an item that was sent alone
GONE = (None, None)  # path and folder of an item that was removed meanwhile
TRIES = 3  # searches that a change may come between, before changes wait for one


class UnknownLabel(ValueError):
    """A label that no item can have; the message names those there are."""


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
    picture: Query | None = None  # where copies of it are looked for


@dataclass(frozen=True)
class Match:
    """One item near the query."""

    id: int
    path: str | None  # as an item has it; None: it was removed meanwhile
    folder: str | None
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
    predicted: Prediction | None = None  # of the query
    stale: int = 0  # images that were changed since what was searched
    plain: bool = False  # whether a picture of which copies were looked for has too little detail for that


class Searcher:
    """An open artifact, ready to search."""

    def __init__(self, artifact: Artifact, *, max_pixels: int, engine: Making = flat) -> None:
        self.artifact = artifact
        self._max_pixels = max_pixels
        self._encoder = load_encoder(artifact)
        self._predictor = Predictor(artifact, self._encoder)
        self.queries = artifact.queries()  # held out; None: there are none
        self.catalogue, contents = artifact.load_catalogue()
        self.originals = Originals(artifact.path / ORIGINALS)
        self._encoding = Sharing(CORES)
        self._remembered = Remembered()
        try:
            self._engine = engine(artifact.manifest.bits, artifact.manifest.encoder_id)
            self.following = Following(self._engine, self.catalogue, contents)
        except EngineError:
            self.catalogue.close()
            raise
        self.pictures = Pictures(self.catalogue, FaissEngine, at_once=CORES)  # of hashes, so exact

    @classmethod
    def open(cls, path: Path, *, max_pixels: int, url: str | None = None, engine: Making = flat) -> Self:
        """Open and verify the artifact in this folder, as `open_artifact`. ArtifactError and EngineError."""
        return cls(open_artifact(path, url), max_pixels=max_pixels, engine=engine)

    @property
    def exact(self) -> bool:
        """Whether a search by content misses no nearer item."""
        return self._engine.exact

    @property
    def recall(self) -> Recall | None:
        """How much a search that is not exact finds; None where it is, or where nothing was measured yet."""
        return self._engine.recall if isinstance(self._engine, IvfEngine) else None

    @property
    def name(self) -> str:
        """That of the artifact's folder."""
        return self.artifact.path.resolve().name

    def close(self) -> None:
        """Release catalogue and engine."""
        self.catalogue.close()
        self._engine.close()

    def prepare(
        self,
        image: bytes,
        *,
        k: int,
        max_distance: int | None = None,
        labels: Sequence[str] = (),
        max_pixels: int | None = None,
        decode: Decode = decode,
        copies: bool = False,
    ) -> Question:
        """What `answer` needs to find the k nearest items within `max_distance` that carry one of `labels`
        (none given: any item), or, with `copies`, what `copies_of` needs. Raises ImageError and UnknownLabel;
        `max_pixels` can only lower the limit. The image is decoded in this process unless `decode` says
        otherwise."""
        limit = self._max_pixels if max_pixels is None else min(max_pixels, self._max_pixels)
        made = self.decoded(image, decode, max_pixels=limit, thumbnail=THUMBNAIL if copies else 0)
        picture = None if made.hashes is None else Query(made.hashes, made.thumbnail)
        return Question(made.pixels, self.wanted(k, max_distance, labels), picture)

    def wanted(self, k: int, max_distance: int | None = None, labels: Sequence[str] = ()) -> Wanted:
        """The k nearest items within `max_distance` that carry one of `labels`. Raises UnknownLabel."""
        return Wanted(k, max_distance, self._indices(labels))

    def answer(self, questions: Sequence[Question]) -> Sequence[Answer]:
        """Encode all queries together and rank together those that ask alike."""
        encoded = self.encode_and_embed(torch.stack([question.pixels for question in questions]))
        answers = self.nearest(encoded.codes, [question.wanted for question in questions])
        return _with_predictions(answers, self._predictor.predict(encoded.embeddings))

    def nearest(self, codes: Codes, wanted: Sequence[Wanted]) -> list[Answer]:
        """What lies near each of the codes (n, bits/8), ranked together where the same is wanted."""
        alike: defaultdict[Wanted, list[int]] = defaultdict(list)
        for row, each in enumerate(wanted):
            alike[replace(each, max_distance=None)].append(row)
        answers: dict[int, Answer] = {}
        for rows in alike.values():
            ranked = self._rank(codes[rows], [wanted[row] for row in rows])
            answers |= zip(rows, ranked, strict=True)
        return [answers[row] for row in range(len(wanted))]

    def similar(self, item_id: int, wanted: Wanted) -> Answer:
        """What lies near an item, or near a held-out query, without itself. Raises KeyError."""
        answers = self.nearest(self._code(item_id), [replace(wanted, without=item_id)])
        return _with_predictions(answers, self._predictor.of_item(self.catalogue, item_id))[0]

    def copies_of(self, question: Question) -> Answer:
        """The pictures that are the same one as a query that was prepared for that: its code in the answer
        says what it shows, the distances are of hashes. Raises NotHashed."""
        assert question.picture is not None
        encoded = self.encode_and_embed(question.pixels[None])
        answer = self._copies(encoded.codes, question.picture, question.wanted)
        return _with_predictions([answer], self._predictor.predict(encoded.embeddings))[0]

    def copies_of_item(self, item_id: int, wanted: Wanted) -> Answer:
        """As `copies_of`, of an item or a held-out query, without itself. Raises KeyError and NotHashed."""
        without = replace(wanted, without=item_id)
        answer = self._copies(self._code(item_id), self.pictures.hashed(item_id), without)
        return _with_predictions([answer], self._predictor.of_item(self.catalogue, item_id))[0]

    def _copies(self, code: Codes, picture: Query, wanted: Wanted) -> Answer:
        def alike(count: int) -> list[int]:
            near = replace(wanted, k=count, max_distance=None)
            return [match.id for match in self.nearest(code, [near])[0].matches]

        most = HASH_BITS if wanted.max_distance is None else wanted.max_distance
        near = self.pictures.search(
            picture, alike, k=wanted.k, max_distance=most, labels=wanted.labels, without=wanted.without
        )
        matches = _matches(
            near.contents, near.distances, near.ids, self.catalogue.paths(near.ids.tolist()), HASH_BITS
        )
        plain = picture.hashes.quality < PLAIN
        return Answer(code, matches, exact=False, ties_at_cut=near.ties_at_cut, plain=plain)

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
        return len(self.snapshot())

    def held_out(self) -> NDArray[np.int64]:
        """The ids (n,) of the held-out queries that have a label."""
        if self.queries is None:
            return np.empty(0, np.int64)
        asked: NDArray[np.int64] = self.queries.ids[self.queries.labels != UNLABELLED]
        return asked

    def original_of(self, item: Item) -> Path:
        """The file that the item was made from. Raises NoOriginal."""
        return original_of(self.artifact, self.originals, item)

    def to_look_at(self, item: Item) -> Source:
        """What a preview of an image, or of a held-out query, is made from. KeyError: it went meanwhile."""
        thumbnail = self.catalogue.thumbnail(item.id)
        return source_of(partial(self.original_of, item), thumbnail, self.reading)

    def once(self, what: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes of the index as it is now, remembered until the index changes: who asks for the
        same meanwhile waits for it."""
        return self._remembered.once(what, self.catalogue.revision, make)

    def contents(self) -> Changes:
        """All that can be found, with its codes and labels, as it is now."""
        return self.once("contents", self.following.contents)

    def snapshot(self) -> Snapshot[Part]:
        """As `Following.snapshot`."""
        return self.following.snapshot()

    def decoded(self, content: bytes, decode: Decode, *, max_pixels: int, thumbnail: int = 0) -> Decoded:
        """What `encode` takes of an image, read as those that are there were. Raises ImageError."""
        size = self._encoder.description.image_size
        return decode(content, size=size, max_pixels=max_pixels, reading=self.reading, thumbnail=thumbnail)

    @property
    def reading(self) -> Reading:
        """By which the images that are there became pixels."""
        return self._encoder.description.reading

    def encode(self, pixels: Tensor) -> Codes:
        """Packed codes (n, bits/8) of uint8 pixels (n, 3, S, S)."""
        return self.encode_and_embed(pixels).codes

    def encode_and_embed(self, pixels: Tensor) -> Encoded:
        """All that is kept of uint8 pixels (n, 3, S, S)."""
        with self._encoding.share() as cores:
            few = pixels[:, 0].numel() <= FEW_PIXELS
            torch.set_num_threads(1 if few else cores)  # here, and for threads yet to start
            return self._encoder.encode_and_embed(pixels)

    def code(self, embeddings: Embeddings) -> Codes:
        """Packed codes (n, bits/8) of embeddings (n, E) that an encoder of the same `embedding_id` made."""
        return self._encoder.code(embeddings)

    @cached_property
    def embedding_id(self) -> str | None:
        """As Encoder's."""
        return self._encoder.embedding_id

    def _indices(self, labels: Sequence[str]) -> tuple[int, ...]:
        """Of all classes that are one of the labels by their normal form."""
        classes = self.snapshot().classes if labels else ()
        alike = _by_normal_form(classes)
        for label in labels:
            if normal_form(label) not in alike:
                raise UnknownLabel(f"label {label[:80]!r} is unknown; {_known(classes)}")
        return tuple(sorted({index for label in labels for index in alike[normal_form(label)]}))

    def _code(self, item_id: int) -> Codes:
        """The code (1, bits/8) of an item or of a held-out query. Raises KeyError."""
        if self.queries is not None:
            held_out: Codes = self.queries.codes[self.queries.ids == item_id]
            if len(held_out):
                return held_out
        return self.catalogue.code(item_id)

    def _rank(self, codes: Codes, wanted: Sequence[Wanted]) -> list[Answer]:
        """Answers to those that want the same but for the distance, all of one revision."""
        for _ in range(TRIES):
            snapshot = self.snapshot()
            found = self._found(snapshot, codes, wanted)
            if self._engine.snapshot is snapshot:  # nobody has changed the engine meanwhile
                break
        else:
            with self.following.still():  # nobody does
                snapshot = self._engine.snapshot
                found = self._found(snapshot, codes, wanted)
        paths = _paths(self, {id_ for _, ids, _ in found for id_ in ids.tolist()})
        bits, exact, stale = self.catalogue.bits, self._engine.exact, self.following.behind
        return [
            Answer(code[None], _matches(snapshot, distances, ids, paths, bits), exact, ties, stale=stale)
            for code, (distances, ids, ties) in zip(codes, found, strict=True)
        ]

    def _found(
        self, snapshot: Snapshot[Part], codes: Codes, wanted: Sequence[Wanted]
    ) -> list[tuple[NDArray[np.int32], NDArray[np.int64], int]]:
        """Distances (n,), ids (n,), and how many items lie at the last of the distances."""
        (k, left_out), labels = (wanted[0].k, wanted[0].without), wanted[0].labels or None
        asked: dict[str, Any] = {"labels": labels, "at_least": self._engine.revision}
        found = zip(*self._engine.search(codes, k + SPARE, **asked), wanted, strict=True)
        near = [_cut(*each, self.catalogue.bits) for each in found]
        beyond = [row for row, (_, _, ties) in enumerate(near) if ties < 0]
        if beyond:
            cuts = np.array([near[row][0][-1] for row in beyond])
            within = self._engine.count(codes[beyond], cuts, **asked)
            # What is left out has the query's own code: it lies within, wherever it was cut off.
            within -= snapshot.has(left_out, labels)
            for row, count, cut in zip(beyond, within.tolist(), cuts, strict=True):
                distances, ids, _ = near[row]
                near[row] = (distances, ids, count - int(np.count_nonzero(distances < cut)))
        return near


def _cut(
    distances: NDArray[np.int32], ids: NDArray[np.int64], wanted: Wanted, bits: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """Of what was found, SPARE more than `wanted`, distances (n,) and ids (n,) of what is, and how many lie
    at the last of the distances; -1: more may lie there than were found."""
    good = ids != wanted.without
    good &= distances <= (bits if wanted.max_distance is None else wanted.max_distance)
    near, last = distances[good], distances[good][: wanted.k][-1:]  # empty where nothing is near
    more = len(distances) == wanted.k + SPARE and bool((distances[-1:] == last).any())
    return near[: wanted.k], ids[good][: wanted.k], -1 if more else int((near == last).sum())


def _paths(searcher: Searcher, ids: Iterable[int]) -> Mapping[int, tuple[str | None, str | None]]:
    """Path and folder of those that are there; of none, while the catalogue is away."""
    with searcher.following.catalogue_absence.tolerated():
        return searcher.catalogue.paths(ids)
    return {}


def load_encoder(artifact: Artifact) -> Encoder:
    """The artifact's encoder, ready. ArtifactError."""
    try:
        encoder = Encoder.load(artifact.encoder_path)
    except ValueError as error:
        raise ArtifactError(f"{error}; build the index again") from error
    except MissingPackage as error:
        raise ArtifactError(f"{artifact.encoder_path}: {error}") from error
    if encoder.bits != artifact.manifest.bits:
        raise ArtifactError(
            f"{artifact.encoder_path}: makes codes of {encoder.bits} bits, the manifest says "
            f"{artifact.manifest.bits}; build the index again"
        )
    return encoder


def _with_predictions(answers: Sequence[Answer], predicted: Sequence[Prediction]) -> Sequence[Answer]:
    """Answers with the likeliest labels of their queries; as they are, where nothing is predicted."""
    if not predicted:
        return answers
    return [replace(each, predicted=label) for each, label in zip(answers, predicted, strict=True)]


def _matches(
    snapshot: Snapshot[Part],
    distances: NDArray[np.int32],
    ids: NDArray[np.int64],
    paths: Mapping[int, tuple[str | None, str | None]],
    bits: int,
) -> tuple[Match, ...]:
    rows = zip(ids.tolist(), distances.tolist(), snapshot.labels_of(ids).tolist(), strict=True)
    return tuple(
        Match(
            item_id, *paths.get(item_id, GONE), _name(snapshot.classes, label), distance, 1 - distance / bits
        )
        for item_id, distance, label in rows
    )


def _name(classes: Sequence[str], label: int) -> str | None:
    return None if label == UNLABELLED else classes[label]


@lru_cache(4)
def _by_normal_form(classes: tuple[str, ...]) -> Mapping[str, list[int]]:
    """The indices of the classes that are one label. Searches ask again and again, of the same classes."""
    alike = defaultdict[str, list[int]](list)
    for index, name in enumerate(classes):
        alike[normal_form(name)].append(index)
    return dict(alike)


def _known(classes: Sequence[str]) -> str:
    if not classes:
        return "this index has no labels"
    more = f" and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    return f"known are {', '.join(classes[:LISTED])}{more}"
