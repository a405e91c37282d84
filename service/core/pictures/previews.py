"""Pictures large enough to look at, without what their files say of themselves.

Made from the original when somebody asks; the latest are kept in memory.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.core.pictures.decoding import Decode
from service.core.pictures.originals import NoOriginal, state_of
from training.nets.images import AS_SHOWN, ImageError, Reading

SIDE = 1024  # pixels of its longer side, at most
ROOM = 2**26  # bytes of those that are kept: some 600 photographs
LARGEST = 200_000_000  # bytes of a file that is read for one


@dataclass(frozen=True)
class Source:
    """What a preview is made from."""

    key: str  # another one where the preview would be another
    path: Path | None  # None: the original is not there
    thumbnail: bytes  # shown instead where no preview can be made
    reading: Reading = AS_SHOWN


class Previews:
    """Makes them, and keeps those that were asked for last. May be called from many threads at a time."""

    def __init__(self, decode: Decode, *, max_pixels: int, room: int = ROOM) -> None:
        self._decode = decode
        self._max_pixels = max_pixels
        self._room = room
        self._kept = OrderedDict[str, bytes]()  # the latest last
        self._size = 0
        self._changing = threading.Lock()

    def kept(self, source: Source) -> bytes | None:
        """The preview, if it is kept."""
        with self._changing:
            if source.key in self._kept:
                self._kept.move_to_end(source.key)
            return self._kept.get(source.key)

    def make(self, source: Source) -> bytes:
        """A WebP with sides of at most SIDE pixels; the thumbnail where none can be made. NoDecoder."""
        preview = self.kept(source)
        if preview is None:
            preview = self._made(source)
            self._keep(source.key, preview)
        return preview

    def _made(self, source: Source) -> bytes:
        try:
            if source.path is None or source.path.stat().st_size > LARGEST:
                return source.thumbnail
            content = source.path.read_bytes()
            made = self._decode(
                content, size=0, max_pixels=self._max_pixels, reading=source.reading, thumbnail=SIDE
            )
        except (OSError, ImageError):  # gone or changed since it was indexed, or too much to decode
            return source.thumbnail
        return made.thumbnail

    def _keep(self, key: str, preview: bytes) -> None:
        with self._changing:
            self._size += len(preview) - len(self._kept.pop(key, b""))
            self._kept[key] = preview
            while self._size > self._room:
                self._size -= len(self._kept.popitem(last=False)[1])


def source_of(original: Callable[[], Path], thumbnail: bytes, reading: Reading) -> Source:
    """Of an image with this thumbnail, whose file `original` gives or raises NoOriginal for."""
    try:
        path = original()
        state = repr((str(path), *state_of(path))).encode(errors="surrogateescape")
    except (NoOriginal, OSError):
        return Source(short_hash(thumbnail), None, thumbnail, reading)
    return Source(short_hash(state), path, thumbnail, reading)


def short_hash(content: bytes) -> str:
    """What tells contents apart, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:32]
