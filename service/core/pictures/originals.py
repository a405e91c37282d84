"""The files that indexed images were made from."""

import os
from functools import lru_cache
from pathlib import Path

from index.artifact import Artifact
from index.items import Item
from index.originals import Originals
from index.walking import sha256_of
from training.nets.images import looks_like_an_image

HASHES = 10_000  # of files behind links that are remembered


class NoOriginal(LookupError):
    """The original file cannot be given out; the message says why."""


def original_of(artifact: Artifact, kept: Originals, item: Item) -> Path:
    """The file of an item: of one that was sent among those that are `kept`, else in the indexed folder.
    Raises NoOriginal."""
    if item.folder is not None:
        path = kept.path(bytes.fromhex(item.sha256 or ""))
        if not path.is_file():
            raise NoOriginal("the file was sent and is not kept; there is only the thumbnail")
        return path
    folder = artifact.manifest.data.get("root")
    if folder is None:
        raise NoOriginal("this index was not made from a folder of files; there is only the thumbnail")
    try:
        root = Path(folder).resolve(strict=True)
        path = (root / item.path).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # missing, unreadable, a loop of links
        raise NoOriginal("the original file is no longer there; there is only the thumbnail") from None
    if not path.is_file():
        raise NoOriginal("the original is not a file any more; there is only the thumbnail")
    # An artifact says itself where its images lie: nothing but an image is ever given out, and through a link
    # that leads out of the folder nothing but the image that was indexed.
    try:
        if not path.is_relative_to(root) and item.sha256 != _hash_of(path, state_of(path)):
            raise NoOriginal("what lies outside the indexed folder is not the file that was indexed")
        if looks_like_an_image(path):
            return path
    except OSError:
        raise NoOriginal("the original cannot be read; there is only the thumbnail") from None
    raise NoOriginal("the original is not an image any more; there is only the thumbnail")


def state_of(path: Path) -> tuple[int, ...]:
    """What is another one once the file has changed."""
    about = os.stat(path)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


@lru_cache(HASHES)
def _hash_of(path: Path, _: tuple[int, ...]) -> str:
    """The SHA-256 of a file in this state: a page of images asks for that of each, again and again."""
    return sha256_of(path)
