"""All pairs of codes that lie near each other, exactly, without comparing most of the others.

A code is a ring of m parts of 16 bits. If two codes differ in at most r bits, then there is a part to begin
at from which any l parts differ in at most l · r / m bits: otherwise all of them would differ in more. So it
is enough to look where at most r / m bits of one part differ, which a table of that part's values finds, and
to go on only where the first four parts differ in at most 4 · r / m.

Qin and Xiao, "Pigeonring: a principle for faster thresholded similarity search", PVLDB 2018. FAISS's
IndexBinaryMultiHash has the tables without the ring, and takes ten times as long.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, unpack
from index.hamming import CELLS, all_distances

ROWS = 1024  # of distances at a time, at most
FEW = 10**7  # pairs: to compare them all takes no longer than to ask how many a table would leave
PART = 16  # bits; a table of all values has 2^16 places
WORD = 4  # parts that are compared in one step, 64 bits
LOOKED_AT = 2**18  # pairs at a time
CODES = 2**14  # of which all ways are made at a time

Places = NDArray[np.intp]
Pairs = tuple[Places, Places]  # (m,) and (m,)
Words = NDArray[np.uint64]
Ways = Callable[[Codes], Codes]


class TooManyPairs(ValueError):
    """Comparing them would not end in time; the message says how many pairs there are."""


def near_pairs(codes: Codes, radius: int, *, most: int, ways: Ways | None = None) -> Iterator[Pairs]:
    """Places of the codes (n, bits/8) that lie within a radius of each other: each pair once or more, some at
    a time.

    `ways` as `all_ways` has them: near are two if any way of the one is near the other. TooManyPairs, before
    the first, if more than `most` would have to be compared.
    """
    asked = codes[None] if ways is None else all_ways(codes, ways)
    order, ends = _in_reach(codes, radius) if ways is None else (np.arange(len(codes)), None)
    last = np.full(len(codes), len(codes)) if ends is None else ends
    pairs = len(asked) * int((last - np.arange(len(codes)) - 1).sum())
    looked_at = _looked_at(codes, asked, radius) if pairs > FEW and _has_tables(codes, radius) else pairs
    if min(pairs, looked_at) > most:
        raise TooManyPairs(
            f"{min(pairs, looked_at):,} pairs of codes would have to be compared, at most {most:,} are"
        )
    if looked_at < pairs:
        return _by_parts(codes, asked, radius)
    return _by_all(codes, asked, radius, order, last)


def all_ways(codes: Codes, ways: Ways) -> Codes:
    """The codes (n, bits/8) in each of w ways (w, n, bits/8), the first as they are. `ways` gives (n · w,
    bits/8), all ways of a code together. They exchange and negate bits, and form a group: then two codes are
    as near whichever of them is asked with."""
    if not len(codes):
        return codes[None]
    some = [ways(codes[start : start + CODES]) for start in range(0, len(codes), CODES)]
    together = np.concatenate(some).reshape(len(codes), -1, codes.shape[1])
    return np.ascontiguousarray(together.transpose(1, 0, 2))


# --- each with all others --------------------------------------------------------------------------


def _in_reach(codes: Codes, radius: int) -> tuple[Places, Places]:
    """An order (n,) by the number of ones, and for each of it the place there from which on none can be near
    (n,)."""
    some = np.array_split(codes, 1 + len(codes) // CELLS)
    ones = np.concatenate([unpack(each).sum(axis=1) for each in some])
    order = np.argsort(ones, kind="stable")
    return order, np.searchsorted(ones[order], ones[order] + radius, "right")


def _by_all(codes: Codes, asked: Codes, radius: int, order: Places, ends: Places) -> Iterator[Pairs]:
    """Each code of an order (n,) is compared with those after it, up to its end (n,)."""
    codes, asked, start = codes[order], asked[:, order], 0
    while start < len(codes):
        widths = ends[start : start + ROWS] - start
        cells = np.arange(1, len(widths) + 1) * widths  # of so many rows
        stop = start + max(1, int(np.searchsorted(cells, CELLS, "right")))
        others = codes[start : ends[stop - 1]]
        near = np.zeros((stop - start, len(others)), np.bool_)
        for way in asked:
            near |= all_distances(np.ascontiguousarray(way[start:stop]), others) <= radius
        rows, columns = np.nonzero(near)
        after = columns > rows
        yield order[rows[after] + start], order[columns[after] + start]
        start = stop


# --- with those that share a part, or nearly -------------------------------------------------------


def _has_tables(codes: Codes, radius: int) -> bool:
    """Whether codes are cut into such parts, of which one bit may differ: two are tried in 137 ways."""
    bits = 8 * int(codes.shape[1])
    return bits % (WORD * PART) == 0 and radius < 2 * (bits // PART)


def _flips(parts: int, radius: int) -> Places:
    """With what a part is changed to have all values that lie near it."""
    return np.array([0, *(1 << bit for bit in range(PART))][: 1 if radius < parts else None])


def _parts(codes: Codes) -> NDArray[np.uint16]:
    return codes.view("<u2")


def _words(parts: NDArray[np.uint16], part: int) -> Words:
    """(n,): four parts of each code, from this one on."""
    ring = np.arange(part, part + WORD) % parts.shape[1]
    return np.ascontiguousarray(parts[:, ring]).view("<u8")[:, 0]


def _looked_at(codes: Codes, asked: Codes, radius: int) -> int:
    """How many pairs `_by_parts` looks at."""
    parts, values, total = _parts(codes), np.arange(2**PART), 0
    flips = _flips(parts.shape[1], radius)
    for part in range(parts.shape[1]):
        here = np.bincount(parts[:, part], minlength=len(values))
        near = np.sum([here[values ^ flip] for flip in flips], axis=0)
        total += sum(int(near[_parts(way)[:, part]].sum()) for way in asked)
    return total


def _by_parts(codes: Codes, asked: Codes, radius: int) -> Iterator[Pairs]:
    parts = _parts(codes)
    flips, bound = _flips(parts.shape[1], radius), WORD * radius // parts.shape[1]
    for part in range(parts.shape[1]):
        table = _Table.of(parts, part)
        for way in asked:
            # Neighbours ask for what lies together: a third faster than in no order.
            order = np.argsort(_parts(way)[:, part], kind="stable")
            values, words = _parts(way)[order, part].astype(np.intp), _words(_parts(way), part)[order]
            for flip in flips:
                for rows, others in table.alike(values ^ flip, words, bound):
                    rows = order[rows]
                    apart = np.bitwise_count(way.view("<u8")[rows] ^ codes.view("<u8")[others]).sum(axis=1)
                    near = (apart <= radius) & (rows != others)
                    yield rows[near], others[near]


@dataclass(frozen=True)
class _Table:
    """Codes by the value of one of their parts."""

    order: Places  # (n,) places of the codes
    starts: Places  # (2^16 + 1,) where in it a value begins
    words: Words  # (n,) in this order

    @classmethod
    def of(cls, parts: NDArray[np.uint16], part: int) -> Self:
        order = np.argsort(parts[:, part], kind="stable")
        counts = np.bincount(parts[:, part], minlength=2**PART)
        return cls(order, np.concatenate([[0], np.cumsum(counts)]), _words(parts, part)[order])

    def alike(self, values: Places, words: Words, bound: int) -> Iterator[Pairs]:
        """Which of those that ask (q,), with a value and a word each, meet which codes of that value whose
        words differ in at most so many bits."""
        begins = self.starts[values]
        counts = self.starts[values + 1] - begins
        ends = np.cumsum(counts)
        first = 0
        while first < len(values):
            before = int(ends[first] - counts[first])
            last = max(first + 1, int(np.searchsorted(ends, before + LOOKED_AT, "right")))
            some = slice(first, last)
            shifts = np.repeat(begins[some] - ends[some] + counts[some], counts[some])
            columns = shifts + np.arange(before, ends[last - 1])
            apart = np.bitwise_count(np.repeat(words[some], counts[some]) ^ self.words[columns])
            near = np.flatnonzero(apart <= bound)
            yield np.searchsorted(ends, before + near, "right"), self.order[columns[near]]
            first = last
