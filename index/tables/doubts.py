"""How doubtful given labels are, as it was found when something was learned last."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from sqlalchemy import and_, delete, insert, select

from index.items import UNLABELLED
from index.tables.connections import Connections
from index.tables.rows import BATCH
from index.tables.schema import DOUBTS, ITEMS

# A doubt that counts: of the label that the item still has.
OF_LABEL = and_(DOUBTS.c.item_id == ITEMS.c.id, DOUBTS.c.label == ITEMS.c.label)


class Doubt(NamedTuple):
    """Of one image's label."""

    item_id: int
    label: int  # class index
    rival: int  # the likeliest other class, or UNLABELLED
    doubt: float  # as `index.advice.Doubts` has it


class Doubted:
    """The doubts that an open catalogue knows of."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def known(self) -> bool:
        """Whether labels were looked at since the encoder came."""
        with self._connections.reading() as connection:
            return bool(connection.scalar(select(select(DOUBTS.c.item_id).exists())))

    def keep(self, doubts: Iterable[Doubt]) -> None:
        """Know these, in place of all that were. The revision stays: nothing that is searched changes."""
        drawn = iter(doubts)
        with self._connections.noting() as connection:
            connection.execute(delete(DOUBTS))
            while batch := list(islice(drawn, BATCH)):
                rows = [{**each._asdict(), "rival": _named(each.rival)} for each in batch]
                connection.execute(insert(DOUBTS), rows)


def _named(label: int) -> int | None:
    return None if label == UNLABELLED else label
