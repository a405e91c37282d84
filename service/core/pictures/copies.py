"""Which indexed pictures are the same one as another: by the hashes of their pixels, and by parts of them."""

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.catalogue import Catalogue
from index.duplicates import groups_within
from index.engine import Engine
from index.snapshot import Part, Snapshot
from service.core.pictures.windows import distances_of_parts, hashes_of_wholes
from training.nets.pdq import BITS, PLAIN, SAME, Hashes, pdq, turned

COMPARED = 160  # pictures whose parts are compared, at most
BY_HASH = 20  # of them those whose hashes are nearest
AS_WHOLES = 40  # and those whose hashes are what those of a whole may be; the others show the like

EVEN = 16  # of 255: by how much the grey of a border differs, at most

Alike = Callable[[int], Iterable[int]]  # the ids of so many that show the like, nearest first


class NotHashed(LookupError):
    """Images of an earlier version have no hash yet; the message says how many, and the way out."""


@dataclass(frozen=True)
class Query:
    """A picture of which copies are looked for."""

    hashes: Hashes
    thumbnail: bytes  # WebP

    @property
    def asked(self) -> NDArray[np.uint8]:
        """All hashes (8 or 16, 32) of which any may be near: also those of the picture without its border."""
        grey = np.asarray(_grey(self.thumbnail), np.float32)
        inner = without_border(grey)
        if inner.shape == grey.shape:
            return self.hashes.hashes
        return np.concatenate([self.hashes.hashes, pdq(inner).hashes])

    @property
    def wholes(self) -> NDArray[np.uint8]:
        """Hashes (n, 32) of what it may be a part of."""
        return hashes_of_wholes(_grey(self.thumbnail))


@dataclass(frozen=True)
class Near:
    """Pictures near a query, sorted by (distance, id)."""

    distances: NDArray[np.int32]  # (n,)
    ids: NDArray[np.int64]  # (n,)
    ties_at_cut: int  # eligible pictures at the last of the distances
    contents: Snapshot[Part]  # which has them all


class Pictures:
    """The second space of an index: the hash of each picture beside its code, in an engine of the same kind.

    Filled when it is first asked for.
    """

    def __init__(self, catalogue: Catalogue, engine: Callable[[int], Engine], *, at_once: int = 1) -> None:
        """`engine` makes an empty one for codes of so many bits; parts are compared for so many queries
        `at_once`."""
        self._catalogue = catalogue
        self._engine = engine(BITS)
        self._using = threading.Lock()
        self._comparing = threading.Semaphore(at_once)

    def check(self) -> None:
        """Raises NotHashed where nothing can be found."""
        with self._using:
            self._followed()

    def hashed(self, item_id: int) -> Query:
        """An indexed picture, or a held-out one, as a query. Raises KeyError and NotHashed."""
        thumbnail = self._catalogue.thumbnail(item_id, thrown=False)
        kept = self._catalogue.pictures.of([item_id]).get(item_id)
        if kept is None:
            raise NotHashed(lacking(1))
        made = pdq(np.asarray(_grey(thumbnail), np.float32))
        made.hashes[0] = np.frombuffer(kept.hash, np.uint8)  # of the file: better than of the thumbnail
        return Query(Hashes(made.hashes, kept.quality), thumbnail)

    def search(
        self,
        query: Query,
        alike: Alike,
        *,
        k: int,
        max_distance: int = BITS,
        labels: Collection[int] = (),
        without: int | None = None,
    ) -> Near:
        """The k pictures nearest to one as it is, turned or mirrored, and those of which it is a part or that
        are a part of it. Parts are compared of some only: of those nearest by their hashes, and of others
        that are `alike`. `labels` as the engine takes them; none: any. Raises NotHashed."""
        asked = query.asked
        with self._using:
            contents = self._followed()
            near = self._nearest(asked, k + BY_HASH + 1, labels, contents.revision)
            wholes = self._nearest(query.wholes, AS_WHOLES + 1, labels, contents.revision)
        near.pop(-1 if without is None else without, None)
        some = [id_ for id_ in self._to_compare(near, wholes, alike) if contents.has(id_, labels or None)]
        some = [id_ for id_ in some if id_ != without]
        parts = self._parts(query, some)
        for id_, distance in parts.items():
            near[id_] = min(distance, near.get(id_, BITS))
        within = {id_: distance for id_, distance in near.items() if distance <= max_distance}
        ids = sorted(within, key=lambda id_: (within[id_], id_))[:k]
        last = within[ids[-1]] if ids else -1
        with self._using:
            tied = {
                id_
                for id_ in self._at(asked, last, labels, contents.revision)
                if parts.get(id_, last) >= last
            }
        tied |= {id_ for id_ in within if within[id_] == last}
        tied.discard(-1 if without is None else without)
        distances = np.array([within[id_] for id_ in ids], np.int32)
        return Near(distances, np.array(ids, np.int64), len(tied), contents)

    def groups(self, radius: int, *, most: int) -> tuple[list[NDArray[np.int64]], Snapshot[Part], int]:
        """Ids of pictures that are copies of each other, mirrored and turned ones too, as `groups_within` has
        them; what there was then; and how many pictures have too little detail to say so, which are in no
        group. Raises NotHashed and TooManyPairs."""
        with self._using:
            contents = self._followed()
        table = self._catalogue.pictures.changes(-1)[0].table
        telling = self._catalogue.pictures.detailed(table.ids, PLAIN) & np.isin(table.ids, contents.ids)
        found = groups_within(table.codes[telling], radius, most=most, ways=turned)
        return [table.ids[telling][group] for group in found], contents, int((~telling).sum())

    def _followed(self) -> Snapshot[Part]:
        """What can be found, with the engine at the same revision; nobody else uses it meanwhile."""
        if self._engine.revision != self._catalogue.revision:
            changes, unhashed = self._catalogue.pictures.changes(self._engine.revision)
            if unhashed:
                raise NotHashed(lacking(unhashed))
            self._engine.apply(changes)
        return self._engine.snapshot

    def _nearest(
        self, asked: NDArray[np.uint8], count: int, labels: Collection[int], revision: int
    ) -> dict[int, int]:
        """Ids and distances of so many nearest to any of the hashes, and some more."""
        distances, ids = self._engine.search(asked, count, labels=labels or None, at_least=revision)
        return _least(distances.ravel(), ids.ravel())

    def _at(
        self, asked: NDArray[np.uint8], distance: int, labels: Collection[int], revision: int
    ) -> set[int]:
        """Ids of pictures whose nearest hash lies at this distance."""
        if distance < 0:
            return set()
        found = self._engine.range_search(asked, distance, labels=labels or None, at_least=revision)
        least = _least(*(np.concatenate(each) for each in zip(*found, strict=True)))
        return {id_ for id_, nearest in least.items() if nearest == distance}

    def _to_compare(self, near: dict[int, int], wholes: dict[int, int], alike: Alike) -> list[int]:
        """Of which pictures parts are compared: those that are copies anyway need not be."""
        found = list[int]()
        for distances, count in ((near, BY_HASH), (wholes, AS_WHOLES)):
            nearest = sorted(distances, key=lambda id_: (distances[id_], id_))
            found += [id_ for id_ in nearest if near.get(id_, BITS) > SAME][:count]
        shown = (id_ for id_ in alike(COMPARED - BY_HASH - AS_WHOLES) if near.get(id_, BITS) > SAME)
        return list(dict.fromkeys([*found, *shown]))

    def _parts(self, query: Query, ids: list[int]) -> dict[int, int]:
        """The distances of those pictures that share a part with the query."""
        if query.hashes.quality < PLAIN:  # every plain part would do
            return {}
        with self._comparing:
            thumbnails = self._catalogue.pictures.thumbnails(ids)
            there = [id_ for id_ in ids if id_ in thumbnails]
            pictures = [_grey(thumbnails[id_]) for id_ in there]
            distances = distances_of_parts(_grey(query.thumbnail), pictures)
        return {id_: each for id_, each in zip(there, distances.tolist(), strict=True) if each < BITS}


def lacking(count: int) -> str:
    """What is said where images have no hash."""
    return (
        f"{count:,} images come from an earlier version and have no hash of their pixels, by which copies "
        "are found; run: hebbsearch upgrade ARTIFACT"
    )


def without_border(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """The picture (H, W) without rows and columns at its edges that are of one grey; all of it where less
    than half of a side would be left."""
    bounds = list[tuple[int, int]]()
    for lines in (grey, grey.T):
        telling = np.flatnonzero(np.ptp(lines, axis=1) > EVEN)
        if not len(telling) or 2 * (telling[-1] + 1 - telling[0]) < len(lines):
            return grey
        bounds.append((int(telling[0]), int(telling[-1]) + 1))
    (top, bottom), (left, right) = bounds
    return grey[top:bottom, left:right]


def _least(distances: NDArray[np.int32], ids: NDArray[np.int64]) -> dict[int, int]:
    """Each id with the least of its distances."""
    order = np.lexsort((distances, ids))
    found, first = np.unique(ids[order], return_index=True)
    return dict(zip(found.tolist(), distances[order][first].tolist(), strict=True))


def _grey(webp: bytes) -> Image.Image:
    return Image.open(BytesIO(webp)).convert("L")
