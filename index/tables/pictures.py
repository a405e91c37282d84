"""Hashes of the pixels of images, by which copies are found: a second space of codes beside the first."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Select, delete, func, insert, select

from index.items import Changes, Picture
from index.tables.checksums import of_row
from index.tables.connections import Connections
from index.tables.rows import BATCH, changes, code_table, gone
from index.tables.schema import ITEMS, PICTURES, THUMBNAILS

BITS = 256  # of a hash


class Pictures:
    """The hashes in an open catalogue. An image of an earlier version has none until it is made."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def changes(self, since: int) -> tuple[Changes, int]:
        """What happened to the database split after revision `since`, with hashes in place of codes; and how
        many images came or changed that have none."""
        which = (ITEMS.c.split == "database", ITEMS.c.revision > since)
        lacking = select(func.count()).where(*which, _unhashed())
        with self._connections.reading() as connection:
            table = code_table(connection, BITS, *which, code=PICTURES.c.hash)
            return changes(connection, table, gone(connection, since)), connection.scalar(lacking) or 0

    def missing(self) -> NDArray[np.int64]:
        """The ids (n,), ascending, of images of all splits that have none."""
        query = select(ITEMS.c.id).where(_unhashed()).order_by(ITEMS.c.id)
        with self._connections.reading() as connection:
            return np.array(list(connection.scalars(query)), np.int64)

    def of(self, ids: Sequence[int]) -> dict[int, Picture]:
        """Those of at most BATCH images that have one."""
        with self._connections.reading() as connection:
            return _read(connection, _COLUMNS.where(PICTURES.c.item_id.in_(ids)))

    def detailed(self, ids: NDArray[np.int64], quality: int) -> NDArray[np.bool_]:
        """Which of the images (n,) have so much detail or more: the others look like many."""
        qualities = self.qualities()
        return np.array([qualities.get(id_, 0) >= quality for id_ in ids.tolist()], np.bool_)

    def qualities(self) -> dict[int, int]:
        """How much detail each image has, 0 to 100, of those that have a hash."""
        with self._connections.reading() as connection:
            found = connection.execute(select(PICTURES.c.item_id, PICTURES.c.quality))
            return {id_: quality for id_, quality in found}

    def held_out(self) -> dict[int, Picture]:
        """Those of the held-out queries."""
        with self._connections.reading() as connection:
            return _read(connection, _COLUMNS.join(ITEMS).where(ITEMS.c.split == "query"))

    def sizes(self, ids: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Width and height of those of the images that are there."""
        found: dict[int, tuple[int, int]] = {}
        with self._connections.reading() as connection:
            for start in range(0, len(ids), BATCH):
                some = ITEMS.c.id.in_(ids[start : start + BATCH])
                query = select(ITEMS.c.id, ITEMS.c.width, ITEMS.c.height).where(some)
                found |= {id_: (width, height) for id_, width, height in connection.execute(query)}
        return found

    def thumbnails(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The WebP bytes of those of at most BATCH images that are there."""
        query = select(THUMBNAILS.c.item_id, THUMBNAILS.c.image).where(THUMBNAILS.c.item_id.in_(ids))
        with self._connections.reading() as connection:
            return {id_: image for id_, image in connection.execute(query)}

    def keep(self, pictures: Mapping[int, Picture]) -> None:
        """Write those of images that are there, in place of those they have. The revision stays: nobody
        searches by them before all images have one."""
        with self._connections.noting() as connection:
            here = set(connection.scalars(select(ITEMS.c.id).where(ITEMS.c.id.in_(pictures))))
            connection.execute(delete(PICTURES).where(PICTURES.c.item_id.in_(here)))
            keep_pictures(connection, ((id_, each) for id_, each in pictures.items() if id_ in here))


def _unhashed() -> ColumnElement[bool]:
    return ~select(PICTURES.c.item_id).where(PICTURES.c.item_id == ITEMS.c.id).exists()


_COLUMNS = select(PICTURES.c.item_id, PICTURES.c.hash, PICTURES.c.quality, PICTURES.c.source)


def _read(connection: Connection, query: Select[Any]) -> dict[int, Picture]:
    return {
        id_: Picture(hash_, quality, "thumbnail" if source == "thumbnail" else "file")
        for id_, hash_, quality, source in connection.execute(query)
    }


def keep_pictures(connection: Connection, pictures: Iterable[tuple[int, Picture | None]]) -> None:
    """Write the hashes of images that have none yet; None is none. ValueError for one of another length."""
    drawn = iter(pictures)
    while batch := list(islice(drawn, BATCH)):
        for id_, each in batch:
            if each is not None and len(each.hash) * 8 != BITS:
                raise ValueError(f"image {id_}: its hash has {len(each.hash) * 8} bits; wanted {BITS}")
        rows = [
            {"item_id": id_, "hash": each.hash, "quality": each.quality, "source": each.of,
             "checksum": of_row([id_, each.hash, each.quality, each.of])}
            for id_, each in batch
            if each is not None
        ]  # fmt: skip
        if rows:
            connection.execute(insert(PICTURES), rows)
