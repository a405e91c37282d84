"""The files of images that were sent, kept as they came, each once under its SHA-256."""

import os
from pathlib import Path

from index.artifact import sync


class Originals:
    """The folder `originals` of an artifact; made when the first file is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: bytes) -> Path:
        """Where the file with this hash lies, if it was kept."""
        name = sha256.hex()
        return self.folder / name[:2] / name

    def keep(self, sha256: bytes, content: bytes) -> None:
        """Write the file, whole and to the disk before this returns, unless it is there."""
        path = self.path(sha256)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(content)
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for folder in (path.parent, self.folder, self.folder.parent):  # each of which may be new
            sync(folder)

    def forget(self, sha256: bytes) -> None:
        """Remove the file, if it is there."""
        self.path(sha256).unlink(missing_ok=True)
