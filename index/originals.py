"""The files of images that were sent, kept as they came, each once under its SHA-256."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.artifact import sync
from index.locking import locked

LOCK = ".lock"


class Originals:
    """The folder `originals` of an artifact; made when the first file is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._turn = threading.Lock()

    def path(self, sha256: bytes) -> Path:
        """Where the file with this hash lies, if it was kept."""
        name = sha256.hex()
        return self.folder / name[:2] / name

    def hashes(self) -> Iterator[bytes]:
        """Of the kept files, in no order."""
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if path == self.path(sha256 := _from_hex(path.name)):
                yield sha256

    def strays(self) -> list[Path]:
        """Files that are none of those: a crash came before they were whole."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.name != LOCK)
        return sorted(path for path in files if path != self.path(_from_hex(path.name)))

    @contextmanager
    def alone(self, *, make: bool = False) -> Iterator[None]:
        """No other thread or process keeps or forgets files meanwhile: a file must not go while an item that
        needs it comes. `make`: the folder shall be there."""
        with self._turn:
            if not make and not self.folder.exists():
                yield
                return
            with locked(self.folder / LOCK, wait=True):
                yield

    def keep(self, sha256: bytes, content: bytes) -> bool:
        """Write the file, whole and to the disk before this returns, unless it is there: then False."""
        path = self.path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        if new:
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
            try:
                with open(descriptor, "wb") as file:
                    file.write(content)
                sync(Path(temporary))
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)
        for folder in (path.parent, self.folder, self.folder.parent):  # whose entries may be new
            sync(folder)
        return new

    def size(self) -> int:
        """Bytes of all files that are kept. Looks at each of them."""
        return sum(_size(file) for file in self.folder.glob("[0-9a-f][0-9a-f]/*"))

    def forget(self, sha256: bytes) -> None:
        """Remove the file, if it is there, from the disk too."""
        path = self.path(sha256)
        if path.exists():
            path.unlink()
            sync(path.parent)


def _from_hex(name: str) -> bytes:
    """Of a name that is no SHA-256, nothing, which is the name of no file."""
    try:
        return bytes.fromhex(name) if len(name) == 64 else b""
    except ValueError:
        return b""


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # forgotten at this moment
        return 0
