"""Who teaches, who is asked with and who is ranked, of the images of an index."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from index.catalogue import Catalogue
from index.codes import Codes
from index.items import UNLABELLED, CodeTable, Item
from index.near_copies import LEAVE_OUT, near_copies_of_queries
from training.nets.pdq import PLAIN, SAME, turned

SHARE = 10  # one of so many labels that came since the build is held out


@dataclass(frozen=True)
class Division:
    """The images of an index by what they are used for, as masks (n,) of its table."""

    table: CodeTable
    held: NDArray[np.bool_]  # asked with
    copies: NDArray[np.bool_]  # of what is held out, byte for byte: neither learned from nor ranked
    grouped: NDArray[np.bool_]  # with a label that was accepted in a group, when nobody looked at each
    near: NDArray[np.bool_]  # nearly what is held out: not ranked, if the index was built so

    @classmethod
    def of(cls, catalogue: Catalogue, held: NDArray[np.int64], handling: str) -> Self:
        """Of what a catalogue holds, with the ids of what is held out, and what to do with near-copies."""
        near = near_copies(catalogue) if handling == LEAVE_OUT else held[:0]
        table = catalogue.codes()
        grouped = [id_ for id_, (source, _) in catalogue.sources().items() if source == "group"]
        masks = (np.isin(table.ids, ids) for ids in (held, catalogue.copies_of_queries(), grouped, near))
        return cls(table, *masks)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Learned from, with a label or without."""
        return ~self.held & ~self.copies

    @property
    def labelled(self) -> CodeTable:
        """What is seen and has a label: it teaches."""
        return self.table.rows(self.seen & (self.table.labels != UNLABELLED))

    @property
    def ranked(self) -> CodeTable:
        """Of that what is ranked for those that are asked with: only what somebody looked at is right."""
        return self.table.rows(self.seen & (self.table.labels != UNLABELLED) & ~self.near & ~self.grouped)

    def recoded(self, codes: Codes) -> Self:
        """The same with other codes."""
        return replace(self, table=replace(self.table, codes=codes))


def hold_out(catalogue: Catalogue, learned: frozenset[str] = frozenset()) -> NDArray[np.int64]:
    """Keep a tenth of the labels that came since the build to ask with; the ids (n,) of all that are kept so.

    Chosen by the SHA-256 of their files, so that whenever and wherever the same image comes it is on the same
    side. Neither labels that were accepted in groups, as nobody looked at each, nor the `learned` files, nor
    what alone can teach a class.
    """
    built = int(catalogue.noted("built") or 0)
    new = [
        item.id
        for item in catalogue.changed(built, count=2**31)
        if item.label is not None
        and item.source != "group"
        and (item.sha256 is not None and item.sha256 not in learned)
        and int(item.sha256[:8], 16) % SHARE == 0
    ]
    catalogue.hold_out(new)
    held = list(catalogue.get_many(id_ for id_, (_, held) in catalogue.sources().items() if held))
    known = [item.id for item in held if item.sha256 in learned]  # which an undone change brought back
    needed = only_teachers(catalogue, [item for item in held if item.sha256 not in learned])
    catalogue.hold_out([*known, *needed], held=False)
    return np.setdiff1d(np.array([item.id for item in held], np.int64), [*known, *needed])


def only_teachers(catalogue: Catalogue, held: Iterable[Item]) -> list[int]:
    """The ids of those held-out images that must teach, as their class has nothing else to learn from: of
    each such class the file of the lowest SHA-256."""
    idle, by_class = catalogue.copies_of_queries().tolist(), defaultdict[str | None, list[Item]](list)
    for item in held:
        by_class[item.label].append(item)
        idle.append(item.id)
    table = catalogue.codes()
    taught = set(table.labels[~np.isin(table.ids, idle)].tolist())
    needed = list[int]()
    for label, items in by_class.items():
        if label is not None and catalogue.classes.index(label) not in taught:
            first = min(item.sha256 or "" for item in items)
            needed += [item.id for item in items if (item.sha256 or "") == first]
    return needed


def near_copies(catalogue: Catalogue) -> NDArray[np.int64]:
    """The ids (n,) of what nearly is a held-out query."""
    return near_copies_of_queries(catalogue, turned, within=SAME, plain=PLAIN)
