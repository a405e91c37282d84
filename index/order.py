"""Ids and the orders that all engines share: items by ascending id, results by (distance, id)."""

import numpy as np
from numpy.typing import NDArray

from index.codes import check_codes
from index.items import CodeTable

Distances = NDArray[np.int32]
Ids = NDArray[np.int64]


def check_ids(ids: Ids) -> Ids:
    """Ids (n,) as a copy in 64 bits. ValueError for what are none."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(f"ids have type {ids.dtype} and shape {ids.shape}; wanted integers (n,)")
    return ids.astype(np.int64)


def by_id(items: CodeTable, *, bits: int) -> CodeTable:
    """The items by ascending id. ValueError for what does not fit together, and for an id twice."""
    ids, codes = check_ids(items.ids), check_codes(items.codes, bits=bits)
    if len(ids) != len(codes):
        raise ValueError(f"{len(ids)} ids for {len(codes)} codes")
    table = CodeTable(ids, items.labels, codes)
    if (ids[1:] < ids[:-1]).any():  # a copy of millions in order would be for nothing
        table = table.rows(np.argsort(ids, kind="stable"))
    twice = table.ids[1:][table.ids[1:] == table.ids[:-1]]
    if len(twice):
        raise ValueError(f"id {twice[0]} is given twice")
    return table


def are_in(wanted: Ids, ids: Ids) -> NDArray[np.bool_]:
    """Which of `wanted` are among `ids`, which are in order."""
    places = np.searchsorted(ids, wanted)
    there: NDArray[np.bool_] = places < len(ids)
    there[there] = ids[places[there]] == wanted[there]
    return there


def places_of(wanted: Ids, ids: Ids) -> NDArray[np.intp]:
    """Where in `ids`, which are in order, those of `wanted` are that are there."""
    return np.searchsorted(ids, wanted[are_in(wanted, ids)])


def in_order(distances: Distances, ids: Ids) -> tuple[Distances, Ids]:
    """Both sorted by (distance, id)."""
    order = np.lexsort((ids, distances))
    return distances[order], ids[order]
