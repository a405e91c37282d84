"""What people did to one artifact, done to the artifact that takes its place; and which of the two answers
better. No HTTP in it.

An image is known in both by its bytes (SHA-256) or, where one of the two did not hash them, by its path in
the indexed folder; of images of equal bytes each is one of the other's. Doing all again does nothing: it may
be begun while images still come and go, and be finished when none do.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from index.codes import Codes
from index.items import UNLABELLED, Embedding, File, Identity, Item, NewItem
from index.labels import normal_form
from index.names import normal, shown
from service.core.library import Library, rows
from service.core.measuring import NothingToMeasure, scores
from service.core.pictures.decoding import Decode, decode
from service.core.pictures.originals import NoOriginal
from service.core.searcher import Searcher
from training.nets.images import MAX_PIXELS, ImageError

T = TypeVar("T")

FOUND, THROWN = ("database",), ("trash",)  # splits of what can be found, and of what was deleted
KEPT = (*FOUND, *THROWN)
PAGE = 1000  # items looked at together
TOGETHER = 16  # images in memory at a time, each with its file


class CannotCarry(ValueError):
    """Images would be lost; the message says how many and why."""


@dataclass(frozen=True)
class Carried:
    """How many images were carried over."""

    added: int = 0
    changed: int = 0
    removed: int = 0

    def __add__(self, other: "Carried") -> "Carried":
        return Carried(self.added + other.added, self.changed + other.changed, self.removed + other.removed)


@dataclass(frozen=True)
class Comparison:
    """mAP of two artifacts, each over its own index, on the images that both hold out."""

    queries: int
    before: float
    after: float


def carry(source: Searcher, target: Library, since: int, *, decode: Decode = decode) -> tuple[int, Carried]:
    """Do to `target` what was done to `source` after its revision `since`: images that were sent or removed,
    labels and metadata that were given. Until which revision, and how much it was.

    Raises CannotCarry, before anything is done, for images that were sent, are not there yet, and whose codes
    cannot be made because their files were not kept.
    """
    until = source.catalogue.revision
    lost = sum(_is_lost(source, target, item) for item, twin in _changed(source, target, since) if not twin)
    if lost:
        raise CannotCarry(
            f"the files of {lost:,} images that were sent to {source.name} are not kept, so that the encoder "
            f"of {target.searcher.name} cannot make their codes; remove these images, or build an artifact "
            "with them"
        )
    gone = source.catalogue.gone(since)
    removed = _remove(source, target, gone)
    target.searcher.catalogue.bury(gone)  # what it never had must not come back from a third one
    learned = target.searcher.artifact.learned()
    thrown = [_asked_with(item, learned) for item in source.catalogue.trash.since(since)]
    removed += _throw(source, target, thrown)
    added, changed, coming = _take_out(source, target, since, decode), 0, list[Item]()
    for item, twin in _changed(source, target, since):
        if twin:
            changed += _change(target, item, twin)
        elif item.folder is not None:
            coming.append(item)
            if len(coming) == TOGETHER:
                added += _add(source, target, coming, decode)
                coming = []
    added += _add(source, target, coming, decode)
    return until, Carried(added, changed, removed)


def compare(before: Searcher, after: Searcher) -> Comparison | None:
    """Both on the same images; None where `before` measures nothing that could become worse.

    Raises NothingToMeasure where no image is held out by both.
    """
    items = before.catalogue.get_many(before.held_out().tolist())
    if not items:
        return None
    asked = set(after.held_out().tolist())
    known = after.catalogue.known_as([item.identity for item in items])
    twins = {twin.id: twin for each in known.values() for twin in each if twin.id in asked}
    pairs = [(id_, twin.id) for id_, twin in _paired(items, list(twins.values())).items()]
    if not pairs:
        raise NothingToMeasure(
            f"no image is held out by both {before.name} and {after.name}, so that nobody knows which "
            "answers better"
        )
    ours, theirs = (np.array(ids, np.int64) for ids in zip(*pairs, strict=True))
    found = np.stack([scores(before, ours), scores(after, theirs)])
    found = np.where(np.isnan(found), 0, found)  # no indexed image has the label: nothing right is found
    return Comparison(len(pairs), *found.mean(axis=1).tolist())


def _changed(source: Searcher, target: Library, since: int) -> Iterator[tuple[Item, Item | None]]:
    """What came or changed, each with the item that it is in the target."""
    after, learned = 0, target.searcher.artifact.learned()
    while items := source.catalogue.changed(since, after=after, count=PAGE):
        theirs = _found_as(target.searcher, [item.identity for item in items])
        twins = _twins(source, theirs)
        for item in items:
            yield _asked_with(item, learned), twins.get(item.id)
        after = items[-1].id


def _asked_with(item: Item, learned: frozenset[str]) -> Item:
    """An item as it is to be carried: what the target learned from is held out no more."""
    return replace(item, held_out=False) if item.sha256 in learned else item


def _found_as(
    searcher: Searcher, identities: Sequence[Identity], splits: Collection[str] = FOUND
) -> list[Item]:
    """What is there of these, each item once. One that is held out has no place among it yet."""
    known = searcher.catalogue.known_as(list(dict.fromkeys(identities)))
    items = {item.id: item for each in known.values() for item in each if item.split in splits}
    return [items[id_] for id_ in sorted(items)]


def _twins(source: Searcher, theirs: Sequence[Item], splits: Collection[str] = FOUND) -> dict[int, Item]:
    """Those of `theirs` that an item of the source is, by its id. All that may be one of them have their say,
    not only what changed."""
    return _paired(_found_as(source, [item.identity for item in theirs], splits), theirs)


def _paired(ours: Sequence[Item], theirs: Sequence[Item]) -> dict[int, Item]:
    """The item of `theirs` that each of `ours` is, by its id, and none twice: of equal bytes the one at the
    same path, else any; where one was not hashed, the one at the same path."""
    pairs: dict[int, Item] = {}
    for key in (_bytes_and_path, _bytes_and_name, _bytes, _path, _name):
        taken = {twin.id for twin in pairs.values()}
        free: defaultdict[Hashable, deque[Item]] = defaultdict(deque)
        for item in theirs:
            if item.id not in taken and key(item) is not None:
                free[key(item)].append(item)
        for item in ours:
            left = free.get(key(item))
            if item.id in pairs or not left or (key in (_path, _name) and item.sha256 and left[0].sha256):
                continue
            pairs[item.id] = left.popleft()
    return pairs


def _bytes_and_path(item: Item) -> Hashable:
    return None if item.sha256 is None else (item.sha256, item.path)


def _bytes_and_name(item: Item) -> Hashable:
    return None if item.sha256 is None else (item.sha256, normal(item.path))


def _bytes(item: Item) -> Hashable:
    return item.sha256


def _path(item: Item) -> Hashable:
    return item.path if item.folder is None else None


def _name(item: Item) -> Hashable:
    return normal(item.path) if item.folder is None else None


def _is_lost(source: Searcher, target: Library, item: Item) -> bool:
    if item.folder is None or _same_encoder(source, target):
        return False
    if _same_embedding(source, target) and source.catalogue.embeddings_of([item.id]):
        return False
    try:
        source.original_of(item)
    except NoOriginal:
        return _is_there(source, item)
    return False


def _is_there(source: Searcher, item: Item) -> bool:
    """Still: images come and go meanwhile."""
    try:
        source.catalogue.get(item.id)
    except KeyError:
        return False
    return True


def _same_encoder(source: Searcher, target: Library) -> bool:
    return source.catalogue.encoder_id == target.searcher.catalogue.encoder_id


def _same_embedding(source: Searcher, target: Library) -> bool:
    """Whether embeddings that one keeps are those that the other would make."""
    return source.embedding_id is not None and source.embedding_id == target.searcher.embedding_id


def _remove(source: Searcher, target: Library, gone: Sequence[Identity]) -> int:
    """Forget for good what is gone for good; how many could be found."""
    leaving = _leaving(source, target, gone, FOUND, KEPT)
    thrown = _leaving(source, target, gone, THROWN, KEPT)
    removed = sum(len(target.forget(leaving[at : at + PAGE])) for at in range(0, len(leaving), PAGE))
    for at in range(0, len(thrown), PAGE):
        target.forget(thrown[at : at + PAGE])
    return removed


def _leaving(
    source: Searcher,
    target: Library,
    gone: Sequence[Identity],
    splits: Collection[str],
    staying: Collection[str],
) -> list[Item]:
    """What the target has of these in `splits`, without those that are still there in the source, in
    `staying`: where some of equal bytes are, only the one at the same path goes."""
    theirs = _found_as(target.searcher, gone, splits)
    kept = {item.id for item in _twins(source, theirs, staying).values()}
    there = {item.sha256 for item in _found_as(source, gone, staying)} - {None}
    places = {(each.sha256, normal(each.path)) for each in gone}
    return [
        item
        for item in theirs
        if item.id not in kept
        and (item.sha256 not in there or (item.identity.sha256, normal(item.path)) in places)
    ]


def _throw(source: Searcher, target: Library, thrown: Sequence[Item]) -> int:
    """Put into the target's trash what lies in the source's, as it was there; how many could be found."""
    identities = [item.identity for item in thrown]
    leaving = _leaving(source, target, identities, FOUND, FOUND)
    pairs, since = _paired(thrown, leaving), dict[int, int]()
    for item in thrown:
        if item.id in pairs:
            twin = pairs[item.id]
            _change(target, replace(item, trashed=None), twin)
            since[twin.id] = item.trashed or 0
    latest = max((item.trashed or 0 for item in thrown), default=0)
    for time in sorted({since.get(item.id, latest) for item in leaving}):
        ids = [item.id for item in leaving if since.get(item.id, latest) == time]
        target.searcher.catalogue.throw(ids, since=time)
    known = _paired(thrown, _found_as(target.searcher, identities, THROWN))
    for item in thrown:
        if item.id in known and _differs(target, item, known[item.id]):
            target.searcher.catalogue.rewrite_thrown(known[item.id].id, item)
    strange = [item for item in thrown if item.id not in known]
    for at in range(0, len(strange), TOGETHER):
        _while_there(source, strange[at : at + TOGETHER], partial(_throw_new, source, target))
    target.searcher.snapshot()
    return len(leaving)


def _throw_new(source: Searcher, target: Library, items: Sequence[Item]) -> None:
    """Have the target's trash hold what the target never had: a code of another encoder is made when it comes
    back."""
    ids = [item.id for item in items]
    kept = source.catalogue.embeddings_of(ids) if _same_embedding(source, target) else {}
    codes = source.catalogue.trash.codes(ids) if _same_encoder(source, target) else {}
    files = {
        hashed.sha256: file
        for item in items
        if item.folder is not None
        and (hashed := _as_file(item))
        and (file := _file(source, item)) is not None
    }
    new = [
        (_new(source, item, None, kept.get(item.id), "trash"), item.trashed or 0, codes.get(item.id))
        for item in items
    ]
    target.store_thrown(new, files)


def _while_there(source: Searcher, items: Sequence[Item], work: Callable[[Sequence[Item]], T]) -> T:
    """Do something with the items, without those that go from the source at this moment."""
    try:
        return work(items)
    except (KeyError, FileNotFoundError):
        there = [item for item in items if _is_there(source, item)]
        if len(there) == len(items):
            raise
        return _while_there(source, there, work)


def _take_out(source: Searcher, target: Library, since: int, decode: Decode) -> int:
    """Let what came out of the source's trash, and lies in the target's, be found there; how many."""
    lone = [item for item, twin in _changed(source, target, since) if not twin]
    thrown = _found_as(target.searcher, [item.identity for item in lone], THROWN)
    pairs = _paired(lone, thrown)
    items, taken = [item for item in lone if item.id in pairs], 0
    for at in range(0, len(items), TOGETHER):
        some = items[at : at + TOGETHER]
        taken += _while_there(source, some, lambda these: _restore(source, target, these, pairs, decode))
    target.searcher.snapshot()
    return taken


def _restore(
    source: Searcher, target: Library, items: Sequence[Item], pairs: Mapping[int, Item], decode: Decode
) -> int:
    """Take the twins of these out of the target's trash, with codes of its encoder; how many had one, or got
    one: the others stay."""
    trash = target.searcher.catalogue.trash
    uncoded = set(trash.uncoded([pairs[item.id].id for item in items]))
    waiting = [item for item in items if pairs[item.id].id in uncoded]
    files = {item.id: file for item in waiting if (file := _file(source, item)) is not None}
    known = source.catalogue.embeddings_of([item.id for item in waiting])
    simple, same = _same_encoder(source, target), _same_embedding(source, target)
    able = [item for item in waiting if simple or item.id in files or (same and item.id in known)]
    made = _encoded(source, target, able, files, decode) if able else {}
    twins = {pairs[id_].id: each for id_, each in made.items()}
    return len(target.searcher.catalogue.take_out([pairs[item.id].id for item in items], twins))


def _change(target: Library, item: Item, twin: Item) -> bool:
    """Whether anything was different in what may be changed."""
    different = _differs(target, item, twin)
    if different:
        target.carry(twin.id, item)
    return different


def _differs(target: Library, item: Item, twin: Item) -> bool:
    different = twin.metadata != item.metadata or not _have_one_label(target, item, twin)
    different |= twin.source == "group" != item.source  # somebody looked at it since
    return different or twin.trashed != item.trashed or (item.held_out and not twin.held_out)


def _have_one_label(target: Library, item: Item, twin: Item) -> bool:
    """As far as the target has one for both: labels are compared by their normal forms."""
    if item.label is None or twin.label is None or item.label == twin.label:
        return item.label == twin.label
    alike = normal_form(item.label) == normal_form(twin.label)
    return alike and item.label not in target.searcher.snapshot().classes


def _add(source: Searcher, target: Library, items: Sequence[Item], decode: Decode) -> int:
    """How many were new. Those that are removed from the source at this moment are left out."""
    return _while_there(source, items, lambda there: _add_all(source, target, there, decode) if there else 0)


def _add_all(source: Searcher, target: Library, items: Sequence[Item], decode: Decode) -> int:
    files = {item.id: file for item in items if (file := _file(source, item)) is not None}
    encoded = _encoded(source, target, items, files, decode)
    new = [_new(source, item, *encoded[item.id]) for item in items]
    kept = {
        hashed.sha256: files[item.id] for item in items if item.id in files and (hashed := _as_file(item))
    }
    return sum(arrival != "exists" for _, arrival in target.store(new, kept))


def _new(
    source: Searcher,
    item: Item,
    code: Codes | None,
    embedding: Embedding | None,
    split: Literal["database", "trash"] = "database",
) -> NewItem:
    """An item as another catalogue is to have it."""
    return NewItem(
        path=item.path,
        label=UNLABELLED if item.label is None else item.label,
        split=split,
        width=item.width,
        height=item.height,
        thumbnail=source.catalogue.thumbnail(item.id),
        code=code,
        embedding=embedding,
        file=_as_file(item),
        metadata=item.metadata,
        added=item.added,
        source=item.source or "given",
        held_out=item.held_out,
        picture=source.catalogue.pictures.of([item.id]).get(item.id),
    )


def _encoded(
    source: Searcher, target: Library, items: Sequence[Item], files: Mapping[int, bytes], decode: Decode
) -> dict[int, tuple[Codes, Embedding | None]]:
    """Code and embedding of each item as the target has them: those that are there, codes of embeddings that
    are there, else both of the files."""
    embeddings = source.catalogue.embeddings_of([item.id for item in items])
    if _same_encoder(source, target):
        return {item.id: (source.catalogue.code(item.id)[0], embeddings.get(item.id)) for item in items}
    known = embeddings if _same_embedding(source, target) else {}
    encoded: dict[int, tuple[Codes, Embedding | None]] = {
        id_: (target.searcher.code(embedding[None])[0], embedding) for id_, embedding in known.items()
    }
    if unknown := [item for item in items if item.id not in known]:
        pixels = torch.stack([_pixels(target, item, files[item.id], decode) for item in unknown])
        made = rows(target.searcher.encode_and_embed(pixels))
        encoded |= zip((item.id for item in unknown), made, strict=True)
    return encoded


def _as_file(item: Item) -> File | None:
    return None if item.sha256 is None else File(bytes.fromhex(item.sha256), item.folder)


def _file(source: Searcher, item: Item) -> bytes | None:
    """The bytes that were sent, if they are kept."""
    try:
        return source.original_of(item).read_bytes()
    except NoOriginal:
        return None


def _pixels(target: Library, item: Item, content: bytes, decode: Decode) -> Tensor:
    try:
        return target.searcher.decoded(content, decode, max_pixels=MAX_PIXELS).pixels
    except ImageError as error:
        raise CannotCarry(
            f"image {item.id}, {shown(item.path)}: its kept file cannot be read ({error})"
        ) from None
