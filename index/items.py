"""What the catalogue holds: items as they come and as they are, their labels and codes as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes
from index.sources import Source

SUCCESSOR = "successor"  # note of a catalogue: the folder beside its artifact that took that one's place
SUCCESSOR_AT = "successor_at"  # and the schema of that one's catalogue, if it lies in one
MOVED = "moved"  # note of a catalogue: the place where it is now
UNLABELLED = -1
# What can be found; what is held out to ask with; what was deleted and can come back.
Split = Literal["database", "query", "trash"]
SPLITS: tuple[Split, ...] = get_args(Split)

Embedding = NDArray[np.float16]  # (E,)


@dataclass(frozen=True)
class File:
    """The file that an item was made from, by which it is recognised when it comes again."""

    sha256: bytes
    # Name of the one that the item's path lies in; None: the manifest's; empty: none, it was sent alone.
    folder: str | None = None
    size: int | None = None  # bytes
    modified: int | None = None  # nanoseconds since 1970


@dataclass(frozen=True)
class Picture:
    """What a picture is recognised by, whatever it shows: a hash of its pixels (PDQ)."""

    hash: bytes  # 32
    quality: int  # 0 to 100: how much detail there is
    of: Literal["file", "thumbnail"] = "file"  # what was hashed: a thumbnail where the file was gone


@dataclass(frozen=True)
class NewItem:
    path: str  # relative to the indexed folder
    label: int | str  # class index, UNLABELLED, or a name, which becomes a class if it is none yet
    split: Split
    width: int
    height: int
    thumbnail: bytes
    code: Codes | None  # None for others than the database split's
    file: File | None = None  # None: there is none
    metadata: Mapping[str, Any] = field(default_factory=dict)  # the user's own, what JSON can hold
    added: int | None = None  # seconds since 1970; None: now
    embedding: Embedding | None = None  # None: the encoder makes none
    source: Source = "given"  # of the label
    held_out: bool = False  # asked with, and not learned from
    picture: Picture | None = None  # None: nobody has hashed it yet


@dataclass(frozen=True)
class Identity:
    """What an image is known by in any catalogue: its bytes, or, where one of two was not hashed, its path in
    the indexed folder."""

    sha256: bytes | None
    path: str
    folder: str | None = None  # as in File


@dataclass(frozen=True)
class Item:
    id: int
    path: str
    label: str | None  # class name
    split: Split
    width: int
    height: int
    added: int | None = None  # seconds since 1970; None: by a version that did not write it down
    sha256: str | None = None  # of the file, in hexadecimal
    folder: str | None = None  # as in File
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None  # of the label
    held_out: bool = False  # asked with since it has its label, and not learned from
    predicted: str | None = None  # class name
    confidence: float | None = None  # of the prediction, 0 to 1
    rival: str | None = None  # class name: the likeliest other label
    doubt: float | None = None  # -1: nothing speaks for the rival … 1: all does; None: nobody looked
    trashed: int | None = None  # since when, in seconds since 1970; None: it is not in the trash

    @property
    def identity(self) -> Identity:
        """What it is known by in another catalogue."""
        sha256 = None if self.sha256 is None else bytes.fromhex(self.sha256)
        return Identity(sha256, self.path, self.folder)


@dataclass(frozen=True)
class CodeTable:
    ids: NDArray[np.int64]  # (n,) ascending
    labels: NDArray[np.int64]  # (n,) class index or UNLABELLED
    codes: Codes  # (n, bits/8)

    def rows(self, which: NDArray[np.integer[Any] | np.bool_] | slice) -> Self:
        """Some of its rows, in the order that `which` says."""
        if isinstance(which, slice) or not self.codes.shape[1]:
            return type(self)(self.ids[which], self.labels[which], self.codes[which])
        # Each code as one thing: numpy takes nine times as long for 32 bytes beside each other.
        width = self.codes.shape[1]
        whole = np.ascontiguousarray(self.codes).view(f"V{width}")[:, 0]
        return type(self)(self.ids[which], self.labels[which], whole[which].view(np.uint8).reshape(-1, width))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All rows of at least one table, in the order that they have there."""
        ids = np.concatenate([part.ids for part in parts])
        labels = np.concatenate([part.labels for part in parts])
        return cls(ids, labels, np.concatenate([part.codes for part in parts]))


@dataclass(frozen=True)
class Changes:
    """What became of the database split since an earlier revision."""

    revision: int  # until which
    table: CodeTable  # items that are new or changed
    removed: NDArray[np.int64]  # ids (m,), ascending; some may have come and gone in between
    classes: tuple[str, ...]  # what the labels stand for
