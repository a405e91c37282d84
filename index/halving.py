"""Exact rankings from a program that names only so many items, and those at one distance in no order.

It is asked for more until the last item lies beyond what is wanted. Where it names no more at a time, it is
asked for the items with low ids and for those with high ids apart.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from index.codes import Codes
from index.engine import Counts
from index.order import Distances, Ids, in_order

GROWTH = 8  # how many times as many are asked for when they were too few
FIRST = 256  # items asked for where nobody knows how many there are
SPARE = 32  # and beyond those that are wanted, as the last of them may share its distance with others

Found = tuple[Distances, Ids]  # of one code


class Span(NamedTuple):
    """Ids from `low` on and below `high`; None: without end."""

    low: int | None = None
    high: int | None = None

    def halves(self, middle: int) -> tuple["Span", "Span"]:
        """Those below it, and the others."""
        return Span(self.low, middle), Span(middle, self.high)


class Ask(Protocol):
    """What the program names, for each code (q, bits/8): the `limit` nearest items whose ids the span has, by
    ascending distance; all of them where they are fewer than `limit`."""

    def __call__(self, codes: Codes, limit: int, span: Span) -> Sequence[Found]: ...


class Answer(NamedTuple):
    """What was named for one code."""

    distances: Distances  # (n,) ascending
    ids: Ids  # (n,)
    whole: bool  # there are no others

    def reaches(self, radius: int) -> bool:
        """Whether all items at distance <= radius are here."""
        return self.whole or bool(self.distances[-1] > radius)

    def nearer(self, limit: int) -> Found:
        """Those at distance < limit."""
        near = self.distances < limit
        return self.distances[near], self.ids[near]


def nearest(ask: Ask, codes: Codes, k: int, most: int) -> list[Found]:
    """The k nearest of each code, all where they are fewer, by (distance, id). The program names at most
    `most` at a time."""
    first = min(most, max(2 * k, k + SPARE))
    answers = _until(ask, codes, first, most, lambda row, answer: _settles(answer, k))
    return [_nearest(ask, code, k, most, Span(), each) for code, each in _each(codes, answers)]


def within(ask: Ask, codes: Codes, radius: int, most: int) -> list[Found]:
    """All at distance <= radius of each code, by (distance, id)."""
    answers = _until(ask, codes, min(most, FIRST), most, lambda row, answer: answer.reaches(radius))
    found = list[Found]()
    for code, answer in _each(codes, answers):
        parts = [each.nearer(radius + 1) for each in _parts(ask, code, radius, most, answer)]
        distances, ids = (np.concatenate(each) for each in zip(*parts, strict=True))
        found.append(in_order(distances, ids))
    return found


def count(ask: Ask, codes: Codes, radii: Distances, most: int) -> Counts:
    """How many lie at distance <= its radius (q,) of each code: (q,). What is held at a time does not grow
    with them."""
    answers = _until(ask, codes, min(most, FIRST), most, lambda row, answer: answer.reaches(radii[row]))
    counts = np.zeros(len(codes), np.int64)
    for row, (code, answer) in enumerate(_each(codes, answers)):
        for part in _parts(ask, code, radii[row], most, answer):
            counts[row] += np.count_nonzero(part.distances <= radii[row])
    return counts


def _each(codes: Codes, answers: Sequence[Answer]) -> Iterator[tuple[Codes, Answer]]:
    for row, answer in enumerate(answers):
        yield codes[row : row + 1], answer


def _asked(ask: Ask, codes: Codes, limit: int, span: Span) -> list[Answer]:
    return [Answer(distances, ids, len(ids) < limit) for distances, ids in ask(codes, limit, span)]


def _until(
    ask: Ask, codes: Codes, limit: int, most: int, enough: Callable[[int, Answer], bool]
) -> list[Answer]:
    """An answer for each code that is enough, or has the most that are named."""
    answers = _asked(ask, codes, limit, Span())
    while limit < most:
        short = [row for row, answer in enumerate(answers) if not enough(row, answer)]
        if not short:
            break
        limit = min(most, GROWTH * limit)
        for row, answer in zip(short, _asked(ask, codes[short], limit, Span()), strict=True):
            answers[row] = answer
    return answers


def _settles(answer: Answer, k: int) -> bool:
    """Whether the k nearest are here, with all that share the distance of the last."""
    return answer.whole or (k < len(answer.ids) and answer.reaches(int(answer.distances[k - 1])))


def _nearest(ask: Ask, code: Codes, k: int, most: int, span: Span, answer: Answer) -> Found:
    if _settles(answer, k):
        return _first(k, (answer.distances, answer.ids))
    middle = _middle(answer.ids)
    low, high = span.halves(middle)
    left = _nearest(ask, code, k, most, low, *_asked(ask, code, most, low))
    if len(left[1]) == k and answer.reaches(int(left[0][-1]) - 1):
        # Of the higher ids only what is nearer comes before these, and all of that is known.
        distances, ids = answer.nearer(int(left[0][-1]))
        right = distances[ids >= middle], ids[ids >= middle]
    else:
        right = _nearest(ask, code, k, most, high, *_asked(ask, code, most, high))
    return _first(k, left, right)


def _first(k: int, *parts: Found) -> Found:
    distances, ids = in_order(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    return distances[:k], ids[:k]


def _parts(ask: Ask, code: Codes, radius: int, most: int, answer: Answer) -> Iterator[Answer]:
    """Answers that have, together, all items at distance <= radius, each of them once."""
    pending = [(Span(), answer)]
    while pending:
        span, answer = pending.pop()
        if answer.reaches(radius):
            yield answer
        else:
            for half in span.halves(_middle(answer.ids)):
                pending += [(half, each) for each in _asked(ask, code, most, half)]


def _middle(ids: Ids) -> int:
    """An id that about half of these are below."""
    return int(np.partition(ids, len(ids) // 2)[len(ids) // 2])
