"""Which indexed pictures nearly are one that is asked with: mirrored, turned, saved anew, smaller.

Where nearly the same picture asks and stands in the index, it finds itself: that flatters a measurement.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from index.catalogue import Catalogue
from index.codes import Codes
from index.hamming import CELLS, all_distances

KEEP, LEAVE_OUT = "keep", "leave_out"  # what a build may do with them in its measurements
ASKED = 4096  # queries that are compared at a time, at most


def near_copies_of_queries(
    catalogue: Catalogue, turned: Callable[[Codes], Codes], *, within: int, plain: int
) -> NDArray[np.int64]:
    """The ids (n,), ascending, of pictures whose hash lies `within` so many bits of that of a held-out one,
    as it is or `turned`. Both have a quality of `plain` or more, for others look like many. Not those that
    are held out themselves, nor copies byte for byte, which `Catalogue.copies_of_queries` tells."""
    table = catalogue.pictures.changes(-1)[0].table
    later = [id_ for id_, (_, held_out) in catalogue.sources().items() if held_out]
    telling = catalogue.pictures.detailed(table.ids, plain)
    held = np.isin(table.ids, later)
    hashes = [each.hash for each in catalogue.pictures.held_out().values() if each.quality >= plain]
    asked = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, table.codes.shape[1])
    asked = turned(np.concatenate([asked, table.codes[telling & held]]))
    others = table.rows(telling & ~held & ~np.isin(table.ids, catalogue.copies_of_queries()))
    return np.sort(others.ids[lie_within(others.codes, asked, within)])


def lie_within(codes: Codes, others: Codes, radius: int) -> NDArray[np.bool_]:
    """Which of the codes (n, bits/8) lie within a radius of any of the others (m, bits/8): (n,)."""
    others = np.unique(others, axis=0)
    near = np.zeros(len(codes), np.bool_)
    for first in range(0, len(others), ASKED):
        some = others[first : first + ASKED]
        rows = max(1, CELLS // len(some))
        for start in range(0, len(codes), rows):
            here = np.ascontiguousarray(codes[start : start + rows])
            near[start : start + rows] |= all_distances(here, some).min(axis=1) <= radius
    return near
