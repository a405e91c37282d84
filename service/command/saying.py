"""What every subcommand says, and how: lines for people, JSON for scripts, a bar for who waits."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from index.names import on_a_line, shown
from service.schemas.images import Image
from service.schemas.search import Result

T = TypeVar("T")

SOME_LEFT_OUT = 3  # exit code
SHOWN = 20  # files or images left out that are named, without --json


class Failed(Exception):
    """One line that says what and the way out."""


def show(value: Any) -> None:
    """As JSON, and what is no Unicode, as a file's name may hold, as �."""
    text = shown(json.dumps(value, ensure_ascii=False))
    # Escapes say the same, where the terminal does not know each letter.
    print(text if (sys.stdout.encoding or "utf-8").lower() == "utf-8" else json.dumps(json.loads(text)))


def say(text: str, file: TextIO | None = None) -> None:
    """A line for people; whatever is in it, a name too, stays within it."""
    print(on_a_line(text), file=file)


def named(image: Result | Image) -> str:
    """Id, label and place of an image, in columns."""
    where = image.path or "–" if image.folder is None else f"{image.folder}/{image.path}"
    return f"{image.id:8d}  {'–' if image.label is None else image.label}  {where}"


def progress(each: Iterable[T], total: int, unit: str = "image") -> Iterator[T]:
    """With a bar on a terminal."""
    yield from tqdm(each, total=total, unit=unit, disable=None if total else True, file=sys.stderr)


def name_all(options: argparse.Namespace, images: Iterable[Image]) -> int:
    """A line for each image, or all as JSON."""
    if options.json:
        show([image.model_dump() for image in images])
    else:
        for image in images:
            say(named(image))
    return 0
