"""How many requests may do the same at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from anyio import CapacityLimiter, WouldBlock
from starlette.exceptions import HTTPException

BATCHES = 4  # requests that search many images, under way or waiting; each may hold max_batch_bytes
ABREAST = 8  # of their images, all together, that are encoded or wait for it beside single searches
GROUPING = 8  # requests for duplicates, under way or waiting
EXPORTING = 4  # exports that are written, wait, or are sent: each is a file for so long
ADDING = 8  # forms with images, under way or waiting; each may hold max_batch_bytes
CHANGING = 64  # other requests that change something, each with max_image_bytes at most


@dataclass(frozen=True)
class Places:
    """Whoever finds no place is refused, or waits; by the names that they have in the metrics."""

    search: CapacityLimiter
    decode: CapacityLimiter
    search_batch: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(BATCHES))
    search_batch_images: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(ABREAST))
    add: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(ADDING))
    change: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(CHANGING))
    duplicates: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(GROUPING))
    export: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(EXPORTING))


@dataclass(frozen=True)
class Turns:
    """Who waits for one of these must not hold threads that others need."""

    prepare: CapacityLimiter
    preview: CapacityLimiter
    evaluate: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    count: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    group: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    export: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    probe: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))


@contextmanager
def place(places: CapacityLimiter, busy: str) -> Iterator[None]:
    """One of the places that there are; where all are taken 503 at once, which `busy` explains."""
    borrower = object()
    try:
        places.acquire_on_behalf_of_nowait(borrower)
    except WouldBlock:
        text = busy.format(int(places.total_tokens))
        raise HTTPException(503, text, {"Retry-After": "1"}) from None
    try:
        yield
    finally:
        places.release_on_behalf_of(borrower)
