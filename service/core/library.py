"""What changes the index: images come, change, and go. No HTTP in it.

Everything here blocks and may be called from many threads at a time. What a call has returned is on the disk,
and every search that begins afterwards sees it.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch

from index.codes import Codes
from index.items import UNLABELLED, Embedding, File, Item, NewItem, Picture
from index.labels import LabelError, known_as, label_of, normal_form
from index.sources import Source
from index.tables.arriving import Arrival
from service.core.pictures.decoding import Decode, Decoded, decode
from service.core.searcher import SENT, Searcher
from training.nets.encoder import Encoded
from training.nets.images import THUMBNAIL, BrokenImage, ImageError

TOGETHER = 64  # images encoded at a time
FORGETTING = "forgetting"  # note of a catalogue: files of images that were forgotten may still be there

log = logging.getLogger("hebbsearch")


class HeldOut(ValueError):
    """A held-out query must stay as it is; the message says why."""


class InTrash(ValueError):
    """An image that lies in the trash must come back before it can be changed; the message says so."""


class OtherLabel(ValueError):
    """An image has another label by now than the one that somebody saw; the message says which."""


class OtherBytes(ValueError):
    """An id is that of another image than the one that is meant; the message says of which."""


@dataclass(frozen=True)
class Upload:
    """An image that is to be added."""

    name: str
    content: bytes
    label: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    folder: str = SENT  # its name; with one, `name` is the path in it


@dataclass(frozen=True)
class Outcome:
    """What became of an upload: an item, or the error that refused it."""

    id: int | None
    arrival: Arrival = "exists"
    error: ImageError | None = None


@dataclass(frozen=True)
class _Readable:
    upload: Upload
    sha256: bytes
    made: Decoded


@dataclass(frozen=True)
class Prepared:
    """Uploads that were decoded and encoded, or refused, and not added yet."""

    library: "Library"  # which knows the encoder
    count: int
    outcomes: Mapping[int, Outcome]  # by place, of those that are there already or were refused
    items: Mapping[int, NewItem]  # of the others
    files: Mapping[bytes, bytes]  # theirs, by SHA-256
    labels: Mapping[int, str]  # by id, for images that are there already and have none


class Library:
    """The index of a searcher, to be changed; `keep` says whether the files of images that come are kept."""

    def __init__(self, searcher: Searcher, *, max_bytes: int, max_pixels: int, keep: bool) -> None:
        self.searcher = searcher
        self._catalogue = searcher.catalogue
        self._originals = searcher.originals
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._keep = keep

    def add(
        self, uploads: Sequence[Upload], *, decode: Decode = decode, batch: str | None = None
    ) -> list[Outcome]:
        """Add what can be read, all of it or nothing; the same bytes are the same item. They are decoded in
        this process unless `decode` says otherwise. `batch`: the name by which it can be undone, as below."""
        return self.put(self.prepare(uploads, decode=decode), batch=batch)

    def prepare(self, uploads: Sequence[Upload], *, decode: Decode = decode) -> Prepared:
        """Decode and encode what is not there yet: nearly all of the time that `add` takes. Raises as
        `label`."""
        named = {text: self.label(text) for text in {upload.label for upload in uploads} if text is not None}
        outcomes: dict[int, Outcome] = {}
        readable: dict[int, _Readable] = {}
        labels: dict[int, str] = {}
        for number, upload in enumerate(uploads):
            label = None if upload.label is None else named[upload.label]
            upload = replace(upload, label=label)
            sha256 = hashlib.sha256(upload.content).digest()
            if (known := self._catalogue.with_hash(sha256)) is not None:
                outcomes[number] = Outcome(known)
                if label is not None and self._is_unlabelled(known):
                    labels[known] = label
                continue
            try:
                readable[number] = self._decode(upload, sha256, decode)
            except ImageError as error:
                outcomes[number] = Outcome(None, error=error)
        items = dict(zip(readable, self._items(list(readable.values())), strict=True))
        files = {each.sha256: each.upload.content for each in readable.values()}
        return Prepared(self, len(uploads), outcomes, items, files, labels)

    def put(self, prepared: Prepared, *, batch: str | None = None) -> list[Outcome]:
        """Add what was prepared by this library, all of it or nothing. What is there already and has no label
        gets the one that was given; what lies in the trash comes back."""
        items, outcomes = list(prepared.items.values()), dict(prepared.outcomes)
        if items or prepared.labels:
            stored = self.store(items, prepared.files, prepared.labels, batch=batch)
            outcomes |= zip(prepared.items, (Outcome(*each) for each in stored), strict=True)
        return [outcomes[number] for number in range(prepared.count)]

    def change(
        self,
        item_id: int,
        *,
        label: str | None = None,
        source: Source = "given",
        unlabel: bool = False,
        metadata: Mapping[str, Any] | None = None,
        sha256: str | None = None,
        was: str | None = None,
        batch: str | None = None,
    ) -> None:
        """Give an image another label, or none, or other metadata. Raises as `changeable` and `label`, and
        OtherLabel where it does not have the label that it `was` seen with; an empty one is none."""
        _check_label(_check_not_thrown(self.changeable(item_id, sha256)), was)
        label = None if label is None else self.label(label)
        if unlabel or label is not None or metadata is not None:
            given = UNLABELLED if unlabel else label
            self._catalogue.change(item_id, label=given, metadata=metadata, source=source, batch=batch)
            self.searcher.snapshot()

    def relabel(
        self,
        ids: Iterable[int],
        label: str | None,
        *,
        source: Source = "given",
        was: str | None = None,
        batch: str | None = None,
    ) -> tuple[int, dict[int, str]]:
        """Give many images one label, or none, in one step. How many have it then, and why others were left:
        those that are gone or held out, and those that do not have the label that they `was` seen with."""
        wanted = list(dict.fromkeys(ids))
        label = None if label is None else self.label(label)
        there, left = self._catalogue.there(wanted), dict[int, str]()
        for item_id in wanted:
            try:
                _check_label(_check_not_thrown(_check_not_held_out(there[item_id])), was)
            except KeyError:
                left[item_id] = f"there is no image {item_id}"
            except (HeldOut, InTrash, OtherLabel) as error:
                left[item_id] = str(error)
        if labels := {item_id: (label, source) for item_id in wanted if item_id not in left}:
            try:
                self._catalogue.label_all(labels, batch=batch)
            except KeyError:  # another process has removed one at this moment
                return self.relabel(wanted, label, source=source, was=was, batch=batch)
            self.searcher.snapshot()
        return len(labels), left

    def label(self, text: str) -> str:
        """The label that a text gives: one that is there, by its normal form, or a new one. LabelError."""
        label = known_as(text, self.searcher.snapshot().classes) or label_of(text)
        if not label:
            raise LabelError("label: there is nothing but white space; give a label, or none")
        return label

    def carry(self, item_id: int, item: Item) -> None:
        """Have an image of the database split be what `item` is in another artifact, even by another rule of
        what a label is."""
        given = UNLABELLED if item.label is None else item.label
        self._catalogue.change(item_id, label=given, metadata=item.metadata, source=item.source or "given")
        if item.held_out:
            self._catalogue.hold_out([item_id])
        self.searcher.snapshot()

    def forget(self, items: Sequence[Item], *, thrown_until: int | None = None) -> list[int]:
        """Forget those of the items that are there or in the trash and held out for nothing, for good, and
        the files that no other needs; which they were. `thrown_until` as of `Catalogue.remove`."""
        with self._originals.alone():
            ids = (item.id for item in items)
            gone = self._catalogue.remove(ids, thrown_until=thrown_until, noting=FORGETTING)
            if gone:
                self.searcher.snapshot()
                self._finish(bytes.fromhex(item.sha256) for item in items if item.sha256)
        return gone

    def finish_forgetting(self) -> None:
        """Remove the files of images that were forgotten when the process was killed, or when their files
        could not be removed."""
        if self._catalogue.noted(FORGETTING) is not None:
            with self._originals.alone():
                needed = self._catalogue.hashes()  # within: who adds keeps the file first
                self._finish([sha256 for sha256 in self._originals.hashes() if sha256 not in needed])

    def _finish(self, hashes: Iterable[bytes]) -> None:
        if self._forget_unused(hashes):
            self._catalogue.note(FORGETTING, None)

    def _forget_unused(self, hashes: Iterable[bytes]) -> bool:
        """Remove the files that no item needs, alone; whether none stays. Their items are gone already."""
        all_went = True
        for sha256 in hashes:
            if not self._catalogue.has_file(sha256):
                try:
                    self._originals.forget(sha256)
                except OSError:
                    all_went = False
                    log.exception("%s of no item stays", self._originals.path(sha256))
        return all_went

    def is_stale(self, prepared: Prepared) -> bool:
        """Whether it was prepared by another library, or what was there then is not any more."""
        known = [outcome.id for outcome in prepared.outcomes.values() if outcome.id is not None]
        there = self._catalogue.there(known)
        found = (id_ in there and there[id_].split == "database" for id_ in known)
        return prepared.library is not self or not all(found)

    def _is_unlabelled(self, item_id: int) -> bool:
        try:
            return self._catalogue.get(item_id).label is None
        except KeyError:  # removed at this moment
            return False

    def changeable(self, item_id: int, sha256: str | None = None) -> Item:
        """The item, if it may be changed. Raises KeyError and HeldOut, and OtherBytes where its file has not
        this SHA-256, in lower-case hexadecimal."""
        item = _check_not_held_out(self._catalogue.get(item_id))
        if sha256 not in (None, item.sha256):
            raise OtherBytes(
                f"image {item_id} has other bytes than those of SHA-256 {sha256}; look for the image again"
            )
        return item

    def _decode(self, upload: Upload, sha256: bytes, decode: Decode) -> _Readable:
        if not upload.content:
            raise BrokenImage("the file is empty")
        if len(upload.content) > self._max_bytes:
            raise BrokenImage(too_large(self._max_bytes))
        made = self.searcher.decoded(upload.content, decode, max_pixels=self._max_pixels, thumbnail=THUMBNAIL)
        return _Readable(upload, sha256, made)

    def _items(self, readable: Sequence[_Readable]) -> list[NewItem]:
        starts = range(0, len(readable), TOGETHER)
        stacks = (torch.stack([each.made.pixels for each in readable[at : at + TOGETHER]]) for at in starts)
        encoded = [each for stack in stacks for each in rows(self.searcher.encode_and_embed(stack))]
        return [
            new_item(each.upload, each.sha256, each.made, code, embedding)
            for each, (code, embedding) in zip(readable, encoded, strict=True)
        ]

    def store(
        self,
        items: Sequence[NewItem],
        files: Mapping[bytes, bytes],
        labels: Mapping[int, str] = MappingProxyType({}),
        *,
        batch: str | None = None,
    ) -> list[tuple[int, Arrival]]:
        """Add the items that are not there yet, all of them or nothing, as `Catalogue.add_unknown`.

        `files` are theirs, by SHA-256, and kept where they shall be.
        """
        with self._keeping(files):
            arrived = self._catalogue.add_unknown(items, labels, batch=batch)
        self.searcher.snapshot()
        return arrived

    def store_thrown(
        self, items: Sequence[tuple[NewItem, int, bytes | None]], files: Mapping[bytes, bytes]
    ) -> None:
        """Have the trash hold items that were never here, as `Catalogue.throw_new`; `files` as above."""
        with self._keeping(files):
            self._catalogue.throw_new(items)

    @contextmanager
    def _keeping(self, files: Mapping[bytes, bytes]) -> Iterator[None]:
        """The files are there before the items that come within, and go again if these do not come: an item
        whose file is lost is worse than a file of no item."""
        try:
            with self._originals.alone(make=self._keep and bool(files)):
                for sha256, content in files.items() if self._keep else ():
                    self._originals.keep(sha256, content)
                yield
        except Exception:
            with self._originals.alone():
                self._forget_unused(files)
            raise


def _check_not_held_out(item: Item) -> Item:
    if item.split == "query":
        raise HeldOut(f"image {item.id} is held out to measure the answers and must stay as it is")
    return item


def _check_not_thrown(item: Item) -> Item:
    if item.trashed is not None:
        raise InTrash(f"image {item.id} lies in the trash; restore it first")
    return item


def _check_label(item: Item, was: str | None) -> None:
    """Raise OtherLabel where somebody saw it with another label; an empty one is none."""
    if was is not None and normal_form(was) != normal_form(item.label or ""):
        now = "no label" if item.label is None else f"the label {item.label!r}"
        raise OtherLabel(f"image {item.id} has {now} by now; look at it again")


def new_item(
    upload: Upload, sha256: bytes, made: Decoded, code: Codes, embedding: Embedding | None
) -> NewItem:
    """What the catalogue is to hold of an upload that was decoded and encoded."""
    return NewItem(
        path=upload.name,
        label=UNLABELLED if upload.label is None else upload.label,
        split="database",
        width=made.width,
        height=made.height,
        thumbnail=made.thumbnail,
        code=code,
        embedding=embedding,
        file=File(sha256, folder=upload.folder, size=len(upload.content)),
        metadata=upload.metadata,
        picture=picture_of(made),
    )


def picture_of(made: Decoded) -> Picture | None:
    """What is kept of how a picture is recognised."""
    hashes = made.hashes
    return None if hashes is None else Picture(hashes.upright.tobytes(), hashes.quality)


def rows(encoded: Encoded) -> list[tuple[Codes, Embedding | None]]:
    """Of each image its code (bits/8,) and its embedding (E,), if there are any."""
    codes, embeddings = encoded
    kept = [None] * len(codes) if embeddings is None else list(embeddings)
    return list(zip(codes, kept, strict=True))


def too_large(limit: int) -> str:
    """The detail of every 413."""
    return f"the image has more than {limit:,} bytes; send a smaller one"
