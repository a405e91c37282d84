"""Groups of codes that lie near each other: what is there twice, or nearly."""

import numpy as np

from index.code_statistics import same_code
from index.codes import Codes, check_codes
from index.engine import check_radius
from index.near_pairs import Places, Ways, all_ways, near_pairs


def groups_within(codes: Codes, radius: int, *, most: int, ways: Ways | None = None) -> list[Places]:
    """Groups of two and more codes of (n, bits/8), each as places (m,) in ascending order.

    Single linkage: two codes are in one group if steps of at most `radius` bits lead from one to the other;
    the groups are the connected components. Largest first, then by their first place. With `ways`, as
    `all_ways` has them, a step leads also to what is near in another way. Equal codes are found by sorting;
    of the others `near_pairs` looks at some or all: TooManyPairs if these are more than `most`. ValueError
    for a negative radius.
    """
    codes = check_codes(codes)
    check_radius(radius)
    if radius == 0 and ways is not None:
        codes = _least(all_ways(codes, ways))
    order, starts = same_code(codes)
    different = codes[order[starts]]
    parent = np.arange(len(different))
    if radius > 0:
        for rows, others in near_pairs(different, radius, most=most, ways=ways):
            _join(parent, rows, others)
    group_of = np.empty(len(codes), np.intp)
    group_of[order] = np.repeat(_roots(parent, np.arange(len(parent))), np.diff(starts, append=len(order)))
    by_group = np.argsort(group_of, kind="stable")
    bounds = np.flatnonzero(np.diff(group_of[by_group])) + 1
    groups = [group for group in np.split(by_group, bounds) if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def _least(asked: Codes) -> Codes:
    """Of each code's ways (w, n, bits/8) the least (n, bits/8), which those have in common that are equal in
    some way."""
    width = asked.shape[2]
    strings = np.sort(asked.view(f"S{width}")[:, :, 0], axis=0)[0]
    least: Codes = strings.view(np.uint8).reshape(-1, width)
    return least


def _join(parent: Places, rows: Places, others: Places) -> None:
    """Make one tree of those that a pair leads from and to; the lowest root is that of all."""
    while True:
        roots = np.stack([_roots(parent, rows), _roots(parent, others)])
        apart = roots[0] != roots[1]
        if not apart.any():
            return
        rows, others, roots = rows[apart], others[apart], roots[:, apart]
        np.minimum.at(parent, roots.max(axis=0), roots.min(axis=0))


def _roots(parent: Places, members: Places) -> Places:
    """The root of each member (m,), whose way there becomes shorter each time that it is gone."""
    while True:
        above = parent[members]
        further = parent[above]
        if (above == further).all():
            return above
        parent[members] = further
        members = further
