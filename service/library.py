"""What changes the index: images come, change, and go. No HTTP in it.

Everything here blocks and may be called from many threads at a time. What a call has returned is on the disk,
and every search that begins afterwards sees it.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from index.catalogue import UNLABELLED, File, Item, NewItem
from service.schemas import too_large
from service.searcher import SENT, Searcher
from training.nets.images import BrokenImage, ImageError, open_image, thumbnail

TOGETHER = 64  # images encoded at a time

log = logging.getLogger("hebbsearch")


class HeldOut(ValueError):
    """A held-out query must stay as it is; the message says why."""


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
    """What became of an upload: an item, new or there before, or the error that refused it."""

    id: int | None
    new: bool = False
    error: ImageError | None = None


@dataclass(frozen=True)
class _Decoded:
    upload: Upload
    sha256: bytes
    pixels: Tensor
    width: int
    height: int
    thumbnail: bytes


class Library:
    """The index of a searcher, to be changed; `keep` says whether the files of images that come are kept."""

    def __init__(self, searcher: Searcher, *, max_bytes: int, max_pixels: int, keep: bool) -> None:
        self._searcher = searcher
        self._catalogue = searcher.catalogue
        self._originals = searcher.originals
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._keep = keep

    def add(self, uploads: Sequence[Upload]) -> list[Outcome]:
        """Add what can be read, all of it or nothing; the same bytes are the same item."""
        decoded: dict[int, _Decoded] = {}
        outcomes: dict[int, Outcome] = {}
        for number, upload in enumerate(uploads):
            sha256 = hashlib.sha256(upload.content).digest()
            if (known := self._catalogue.with_hash(sha256)) is not None:
                outcomes[number] = Outcome(known)
                continue
            try:
                decoded[number] = self._decode(upload, sha256)
            except ImageError as error:
                outcomes[number] = Outcome(None, error=error)
        added = self._add(list(decoded.values()))
        outcomes |= zip(decoded, (Outcome(id_, new) for id_, new in added), strict=True)
        return [outcomes[number] for number in range(len(uploads))]

    def change(
        self,
        item_id: int,
        *,
        label: str | None = None,
        unlabel: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Give an image another label, or none, or other metadata. Raises KeyError and HeldOut."""
        self._changeable(item_id)
        if unlabel or label is not None or metadata is not None:
            self._catalogue.change(item_id, label=UNLABELLED if unlabel else label, metadata=metadata)
            self._searcher.snapshot()

    def remove(self, item_id: int) -> None:
        """Forget an image, its thumbnail and, if it was sent, its file. Raises KeyError and HeldOut."""
        item = self._changeable(item_id)
        if not self._catalogue.remove([item_id]):
            raise KeyError(item_id)
        self._searcher.snapshot()
        if item.sha256:
            self._forget_unused([bytes.fromhex(item.sha256)])

    def _forget_unused(self, hashes: Iterable[bytes]) -> None:
        """Remove the files that no item needs. The items are gone: a file that cannot be removed stays."""
        with self._originals.alone():
            for sha256 in hashes:
                if self._catalogue.with_hash(sha256) is None:
                    try:
                        self._originals.forget(sha256)
                    except OSError:
                        log.exception("%s of no item stays", self._originals.path(sha256))

    def _changeable(self, item_id: int) -> Item:
        """The item, if it may be changed. Raises KeyError and HeldOut."""
        item = self._catalogue.get(item_id)
        if item.split == "query":
            raise HeldOut(f"image {item_id} is held out to measure the answers and must stay as it is")
        return item

    def _decode(self, upload: Upload, sha256: bytes) -> _Decoded:
        if not upload.content:
            raise BrokenImage("the file is empty")
        if len(upload.content) > self._max_bytes:
            raise BrokenImage(too_large(self._max_bytes))
        image = open_image(upload.content, max_pixels=self._max_pixels)
        pixels = self._searcher.pixels(image)
        return _Decoded(upload, sha256, pixels, image.width, image.height, thumbnail(image))

    def _add(self, decoded: Sequence[_Decoded]) -> list[tuple[int, bool]]:
        if not decoded:
            return []
        starts = range(0, len(decoded), TOGETHER)
        stacks = (torch.stack([each.pixels for each in decoded[at : at + TOGETHER]]) for at in starts)
        codes = [code for stack in stacks for code in self._searcher.encode(stack)]
        items = [
            NewItem(
                path=each.upload.name,
                label=UNLABELLED if each.upload.label is None else each.upload.label,
                split="database",
                width=each.width,
                height=each.height,
                thumbnail=each.thumbnail,
                code=code,
                file=File(each.sha256, folder=each.upload.folder, size=len(each.upload.content)),
                metadata=each.upload.metadata,
            )
            for each, code in zip(decoded, codes, strict=True)
        ]
        kept: list[bytes] = []
        try:
            with self._originals.alone(make=self._keep):
                # Before the items: an item whose file is lost is worse than a file of no item.
                for each in decoded if self._keep else ():
                    if self._originals.keep(each.sha256, each.upload.content):
                        kept.append(each.sha256)
                added = self._catalogue.add_unknown(items)
        except Exception:
            self._forget_unused(kept)
            raise
        self._searcher.snapshot()
        return added
