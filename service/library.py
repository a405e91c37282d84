"""What changes the index: images come, change, and go. No HTTP in it.

Everything here blocks and may be called from many threads at a time. What a call has returned is on the disk,
and every search that begins afterwards sees it.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from index.catalogue import UNLABELLED, File, NewItem
from index.originals import Originals
from service.searcher import SENT, Searcher
from training.nets.images import ImageError, open_image, thumbnail

TOGETHER = 64  # images encoded at a time


class HeldOut(ValueError):
    """A held-out query must stay as it is; the message says why."""


@dataclass(frozen=True)
class Upload:
    """An image that is to be added."""

    name: str
    content: bytes
    label: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


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

    def __init__(self, searcher: Searcher, *, max_pixels: int, keep: bool) -> None:
        self._searcher = searcher
        self._catalogue = searcher.catalogue
        self._max_pixels = max_pixels
        self._keep = keep
        self._files = threading.Lock()  # a file must not go while an item that needs it comes

    @property
    def _originals(self) -> Originals:
        return self._searcher.originals

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
        self._refuse_held_out(item_id)
        index = UNLABELLED if unlabel else None if label is None else self._catalogue.label(label)
        self._catalogue.change(item_id, label=index, metadata=metadata)
        self._searcher.snapshot()

    def remove(self, item_id: int) -> None:
        """Forget an image, its thumbnail and, if it was sent, its file. Raises KeyError and HeldOut."""
        self._refuse_held_out(item_id)
        item = self._catalogue.get(item_id)
        if not self._catalogue.remove([item_id]):
            raise KeyError(item_id)
        self._searcher.snapshot()
        if item.sha256:
            sha256 = bytes.fromhex(item.sha256)
            with self._files:
                if self._catalogue.with_hash(sha256) is None:
                    self._originals.forget(sha256)

    def _refuse_held_out(self, item_id: int) -> None:
        if self._catalogue.get(item_id).split == "query":
            raise HeldOut(f"image {item_id} is held out to measure the answers and must stay as it is")

    def _decode(self, upload: Upload, sha256: bytes) -> _Decoded:
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
                label=UNLABELLED if each.upload.label is None else self._catalogue.label(each.upload.label),
                split="database",
                width=each.width,
                height=each.height,
                thumbnail=each.thumbnail,
                code=code,
                file=File(each.sha256, folder=SENT, size=len(each.upload.content)),
                metadata=each.upload.metadata,
            )
            for each, code in zip(decoded, codes, strict=True)
        ]
        with self._files:
            if self._keep:  # before the items: an item whose file is lost is worse than a file of no item
                for each in decoded:
                    self._originals.keep(each.sha256, each.upload.content)
            added = self._catalogue.add_unknown(items)
        self._searcher.snapshot()
        return added
