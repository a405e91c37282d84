"""Groups of codes that lie near each other: what is there twice, or nearly."""

import numpy as np
from numpy.typing import NDArray

from index.code_statistics import same_code
from index.codes import Codes, check_codes, unpack
from index.hamming import CELLS, all_distances

ROWS = 1024  # of distances at a time, at most

Places = NDArray[np.intp]


class TooManyPairs(ValueError):
    """Comparing them would not end in time; the message says how many pairs there are."""


def groups_within(codes: Codes, radius: int, *, most: int) -> list[Places]:
    """Groups of two and more codes of (n, bits/8), each as places (m,) in ascending order.

    Single linkage: two codes are in one group if steps of at most `radius` bits lead from one to the other;
    the groups are the connected components. Largest first, then by their first place. Equal codes are
    found by sorting. Otherwise each pair of different codes whose numbers of ones differ by no more than the
    radius is compared: TooManyPairs if these are more than `most`. ValueError for a negative radius.
    """
    codes = check_codes(codes)
    if radius < 0:
        raise ValueError(f"radius is {radius}; wanted at least 0")
    order, starts = same_code(codes)
    sizes = np.diff(starts, append=len(order))
    group_of = np.empty(len(codes), np.intp)
    group_of[order] = np.repeat(_components(codes[order[starts]], radius, most), sizes)
    by_group = np.argsort(group_of, kind="stable")
    bounds = np.flatnonzero(np.diff(group_of[by_group])) + 1
    groups = [group for group in np.split(by_group, bounds) if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def _components(codes: Codes, radius: int, most: int) -> Places:
    """For each of the codes (n, bits/8), all different, which component it is in (n,)."""
    n = len(codes)
    parent = np.arange(n)
    if radius == 0 or n == 0:
        return parent
    ones = np.concatenate([unpack(part).sum(axis=1) for part in np.array_split(codes, 1 + n // CELLS)])
    by_ones = np.argsort(ones, kind="stable")
    codes, ones = np.ascontiguousarray(codes[by_ones]), ones[by_ones]
    ends = np.searchsorted(ones, ones + radius, "right")  # nothing from here on can be near
    pairs = int((ends - np.arange(n) - 1).sum())
    if pairs > most:
        raise TooManyPairs(f"{pairs:,} pairs of codes would have to be compared, at most {most:,} are")
    start = 0
    while start < n:
        widths = ends[start : start + ROWS] - start
        cells = np.arange(1, len(widths) + 1) * widths  # of so many rows
        stop = start + max(1, int(np.searchsorted(cells, CELLS, "right")))
        near = all_distances(codes[start:stop], codes[start : ends[stop - 1]]) <= radius
        rows, columns = np.nonzero(near)
        rows, columns = rows + start, columns + start
        after = columns > rows
        rows, columns = rows[after], columns[after]
        begins = np.flatnonzero(np.diff(rows, prepend=-1))
        for row, others in zip(rows[begins], np.split(columns, begins[1:]), strict=False):
            _join(parent, np.append(others, row))
        start = stop
    component = np.empty(n, np.intp)
    component[by_ones] = _roots(parent, np.arange(n))
    return component


def _join(parent: Places, members: Places) -> None:
    """Make one tree of those that the members are in; the lowest root is that of all."""
    roots = _roots(parent, members)
    parent[roots] = parent[members] = roots.min()


def _roots(parent: Places, members: Places) -> Places:
    """The root of each member (m,), whose way there becomes shorter each time that it is gone."""
    while True:
        above = parent[members]
        further = parent[above]
        if (above == further).all():
            return above
        parent[members] = further
        members = further
