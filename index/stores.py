"""Where many images lie: in a folder, in tars in it (the files of WebDataset), or in object storage.

What is listed is divided into parts that are worked on alone. A tar is a part: it is read once, from front to
back, as disks and object storage are fastest, and nobody has to list what lies in all of them.
"""

import errno
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any, BinaryIO, Protocol
from zlib import error as ZlibError

from index.labels import LabelError, label_of
from index.names import normal, shown
from index.walking import DataError, walk

LARGEST = 200_000_000  # bytes of a file that is read at all
CHUNK = 2**20  # bytes that are asked of object storage at a time
TARS = (".tar", ".tar.gz", ".tgz")
# Of members of tars; what a file is, its first bytes say.
IMAGES = {
    "avif", "bmp", "gif", "heic", "heif", "j2k", "jp2", "jpe", "jpeg", "jpg", "pcx", "pgm", "png", "pnm",
    "ppm", "qoi", "tga", "tif", "tiff", "webp",
}  # fmt: skip
# WebDataset's: all that has the same name up to the first dot of its last part is of one sample.
MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
META = re.compile(r"__[^/]*__(?:/|$)")  # of the tar, not of a sample
DAMAGE = (tarfile.TarError, EOFError, ZlibError)  # what a damaged tar raises
LABELS = ("cls", "json", "txt")  # members that may say what an image's label is, the first of them counts


class Unreadable(Exception):
    """A file that cannot be read, for a reason of its own."""


@dataclass(frozen=True)
class Listed:
    """A file of a store."""

    path: str  # relative, with slashes
    size: int = 0
    fault: str | None = None  # why nobody can read it

    @property
    def is_tar(self) -> bool:
        """Whether it holds images and is none."""
        return self.fault is None and self.path.lower().endswith(TARS)


@dataclass(frozen=True)
class Found:
    """An image."""

    path: str
    read: Callable[[], bytes]  # raises Unreadable
    label: str | None = None
    fault: str | None = None  # of its label


Part = Sequence[Listed]  # images, or one tar


class Store(Protocol):
    """Where files lie."""

    name: str  # of the folder

    def listed(self) -> list[Listed]:
        """Files in the order of their paths' parts, and what keeps any from being listed. DataError."""

    def open(self, path: str) -> BinaryIO:
        """To be read from front to back. FileNotFoundError or PermissionError where that is the file's own
        fault; other errors are of the disk or the network."""


def store_of(data: str) -> Store:
    """The folder, the one tar or the address that is named. DataError."""
    return Remote(data) if "://" in data else Folder(Path(data))


class Folder:
    """On a disk."""

    def __init__(self, path: Path) -> None:
        self._root = path.absolute()
        self._only: str | None = None
        if path.is_file() and Listed(path.name).is_tar:
            self._root, self._only = self._root.parent, path.name
        elif not path.is_dir():
            raise DataError(f"{path}: is neither a folder nor a tar; name where your images lie")
        self.name = normal(shown(self._only or self._root.resolve().name))

    def holds(self, path: Path) -> bool:
        """Whether a file or folder lies in it."""
        return self._only is None and path.resolve().is_relative_to(self._root.resolve())

    def listed(self) -> list[Listed]:
        """As Store."""
        if self._only is not None:
            return [self._listed(Path(self._only))]
        walked = walk(self._root)
        faults = [Listed(place.as_posix(), fault=why) for place, why in walked.unreadable.items()]
        return _in_order([*map(self._listed, walked.files), *faults])

    def open(self, path: str) -> BinaryIO:
        """As Store."""
        return (self._root / path).open("rb")

    def _listed(self, file: Path) -> Listed:
        path = file.as_posix()
        try:
            status = os.stat(self._root / file)
        except OSError as error:
            return Listed(path, fault=error.strerror or str(error))
        if not S_ISREG(status.st_mode):  # a pipe or a device would never end
            return Listed(path, fault="not a regular file")
        return Listed(path, status.st_size)


class Remote:
    """At an address that fsspec knows, such as s3://bucket/folder."""

    def __init__(self, address: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise DataError(
                f"{address}: fsspec is needed to read it; install it: pip install 'hebbsearch[shards]'"
            ) from None
        try:
            self._files, root = url_to_fs(address)
        except (ImportError, ValueError) as error:  # the package for it, an address that it does not know
            raise DataError(f"{address}: {error}") from None
        self._address, self._root = address, str(root).rstrip("/")
        self.name = normal(PurePosixPath(self._root).name) or "images"

    def listed(self) -> list[Listed]:
        """As Store."""
        try:
            found: Mapping[str, Mapping[str, Any]] = self._files.find(self._root, detail=True)
        except Exception as error:  # each kind of storage has its own
            raise DataError(f"{self._address}: cannot be listed ({error})") from None
        if list(found) == [self._root]:
            self._root = self._root.rpartition("/")[0]
        paths = {path.removeprefix(self._root).lstrip("/"): about for path, about in found.items()}
        return _in_order(
            Listed(path, int(about.get("size") or 0))
            for path, about in paths.items()
            if not any(part.startswith(".") for part in path.split("/"))
        )

    def open(self, path: str) -> BinaryIO:
        """As Store."""
        with _as_os_error():
            return io.BufferedReader(_Far(self._files.open(f"{self._root}/{path}", "rb")), CHUNK)


class _Far(io.RawIOBase):
    """A file of fsspec that fails as files on disks do."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _as_os_error():
            some = self._file.read(len(buffer))
        buffer[: len(some)] = some
        return len(some)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Each kind of storage has errors of its own where the network fails."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def divided(files: Sequence[Listed], size: int) -> list[Part]:
    """So many images a part, and then each tar alone."""
    images = [file for file in files if not file.is_tar]
    parts: list[Part] = [images[at : at + size] for at in range(0, len(images), size)]
    return parts + [[file] for file in files if file.is_tar]


def digest_of(files: Iterable[Listed], *more: str) -> str:
    """What names these files: by their paths and sizes, not by what is in them."""
    digest = hashlib.sha256("\0".join(more).encode())
    for file in files:
        digest.update(f"\0{file.path}\0{file.size}\0{file.fault or ''}".encode(errors="surrogatepass"))
    return digest.hexdigest()


def labels_by_folder(files: Iterable[Listed]) -> dict[str, str | None]:
    """The label of each image by its path, as of a build: the first folder is its class, or the second where
    the first is `train` or `test` and both are there. DataError for a folder whose name is no label."""
    paths = {file.path: file.path.split("/")[:-1] for file in files if not file.is_tar}
    at = 1 if {"train", "test"} <= {parts[0].lower() for parts in paths.values() if parts} else 0
    names = {path: parts[at] if len(parts) > at else None for path, parts in paths.items()}
    labels: dict[str | None, str | None] = {None: None}
    for name in set(names.values()) - {None}:
        try:
            labels[name] = label_of(shown(name or "")) or None
        except LabelError as error:
            raise DataError(f"{error}; rename that folder, or leave labels out with --no-labels") from None
    return {path: labels[name] for path, name in names.items()}


def images_of(store: Store, part: Part, labels: Mapping[str, str | None] | None) -> Iterator[Found]:
    """The images of a part, in order, with the labels of those by path, and of tars the labels in them; None:
    no labels at all."""
    for file in part:
        if file.is_tar:
            yield from _in_tar(store, file, labelled=labels is not None)
        else:
            yield Found(file.path, partial(_read, store, file), (labels or {}).get(file.path))


def _read(store: Store, file: Listed) -> bytes:
    if file.fault is not None:
        raise Unreadable(file.fault)
    if file.size > LARGEST:
        raise Unreadable(f"it has more than {LARGEST:,} bytes")
    try:
        with store.open(file.path) as opened:
            return opened.read()
    except (FileNotFoundError, PermissionError) as error:
        raise Unreadable(error.strerror or str(error)) from None


def _in_order(files: Iterable[Listed]) -> list[Listed]:
    return sorted(files, key=lambda file: file.path.split("/"))


# --- tars ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    name: str
    sample: str
    kind: str  # the rest of its name, in small letters
    content: bytes | None  # None: it is too large


def _in_tar(store: Store, file: Listed, *, labelled: bool) -> Iterator[Found]:
    try:
        with store.open(file.path) as opened, tarfile.open(fileobj=opened, mode="r|*") as tar:
            for members in _samples(tar):
                yield from _in_sample(file.path, members, labelled=labelled)
            rest: Any = tar.fileobj
            if any(any(some) for some in iter(partial(rest.read, 2**20), b"")):
                raise tarfile.ReadError("what follows is no tar")
    except (FileNotFoundError, PermissionError) as error:
        yield _left_out(file.path, error.strerror or str(error))
    except DAMAGE as error:
        yield _left_out(file.path, f"the tar is damaged or not whole, the rest of it is left out ({error})")


def _samples(tar: tarfile.TarFile) -> Iterator[list[_Member]]:
    """What follows each other and is of one sample; before damage, what there is of one."""
    sample = list[_Member]()
    try:
        for member in _members(tar):
            if sample and member.sample != sample[0].sample:
                yield sample
                sample = []
            sample.append(member)
    except DAMAGE:
        if sample:
            yield sample
        raise
    if sample:
        yield sample


def _members(tar: tarfile.TarFile) -> Iterator[_Member]:
    """The files of all samples, as they come."""
    for about in tar:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps them all
        matched = MEMBER.fullmatch(about.name)
        if matched is None or not about.isreg() or META.match(about.name):
            continue
        kept = tar.extractfile(about) if about.size <= LARGEST else None
        content = None if kept is None else kept.read()
        yield _Member(about.name, matched[1], matched[2].lower(), content)


def _in_sample(tar: str, members: Sequence[_Member], *, labelled: bool) -> Iterator[Found]:
    images = [each for each in members if each.kind.rpartition(".")[2] in IMAGES]
    label, fault = _label(members) if labelled else (None, None)
    for each in images:
        path = _within(tar, each.name)
        if each.content is None:
            yield _left_out(path, f"it has more than {LARGEST:,} bytes")
        else:
            yield Found(path, partial(_same, each.content), label, fault)
    if not images:
        kinds = ", ".join(each.kind for each in members)
        yield _left_out(_within(tar, members[0].sample), f"there is no image of this name, only {kinds}")


def _label(members: Sequence[_Member]) -> tuple[str | None, str | None]:
    """What a sample says is its label, and what is wrong with that."""
    contents = {each.kind: each.content or b"" for each in members}
    for kind in LABELS:
        if kind not in contents:
            continue
        try:
            text = contents[kind].decode()
            given = _in_json(text) if kind == "json" else text
            if given is not None and (label := label_of(given)):
                return label, None
        except (ValueError, RecursionError) as error:  # LabelError, no UTF-8, no JSON
            return None, f"it is there without a label: .{kind}: {error}"
    return None, None


def _in_json(text: str) -> str | None:
    values = json.loads(text)
    given = values.get("label") if isinstance(values, dict) else None
    return str(given) if isinstance(given, str | int) and not isinstance(given, bool) else None


def _within(tar: str, name: str) -> str:
    """Where a member lies: the tar is as a folder."""
    return "/".join([tar, *(part for part in name.split("/") if part not in ("", ".", ".."))])


def _same(content: bytes) -> bytes:
    return content


def _left_out(path: str, reason: str) -> Found:
    def read() -> bytes:
        raise Unreadable(reason)

    return Found(path, read)
