"""Batches under real threads."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import pytest

from service.batching import Batcher


class Doubling:
    """Doubles numbers, but not before `gate` opens; refuses 13; keeps what it was asked."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.began = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.began.set()
        assert self.gate.wait(10)
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


class Unprepared(Exception):
    """Raised instead of preparing a question."""


def number(value: int) -> Callable[[], int]:
    return lambda: value


def nothing() -> int:
    raise Unprepared


@pytest.fixture
def doubling() -> Doubling:
    return Doubling()


@pytest.fixture
def batcher(doubling: Doubling) -> Iterator[Batcher[int, int]]:
    """Already busy with 0. One thread prepares, so that questions wait in the order they were asked."""
    batcher = Batcher(doubling, largest=4, threads=1)
    batcher.ask(number(0))
    assert doubling.began.wait(10)
    yield batcher
    doubling.gate.set()
    batcher.close()


def all_wait(batcher: Batcher[int, int]) -> None:
    """Return when all that was asked so far is prepared: one thread does that, in order."""
    with pytest.raises(Unprepared):
        batcher.ask(nothing).result(10)


def test_what_waits_is_answered_together(batcher: Batcher[int, int], doubling: Doubling) -> None:
    futures = [batcher.ask(number(value)) for value in range(1, 8)]
    all_wait(batcher)
    doubling.gate.set()
    assert [future.result(10) for future in futures] == [2, 4, 6, 8, 10, 12, 14]
    assert doubling.batches == [[0], [1, 2, 3, 4], [5, 6, 7]], "never more than four, in their order"


def test_a_lone_question_waits_for_nobody(batcher: Batcher[int, int], doubling: Doubling) -> None:
    doubling.gate.set()
    for value in range(20, 70):
        assert batcher.ask(number(value)).result(10) == 2 * value


def test_only_the_question_at_fault_fails(batcher: Batcher[int, int], doubling: Doubling) -> None:
    good, bad, other = (batcher.ask(number(value)) for value in (1, 13, 3))
    all_wait(batcher)
    doubling.gate.set()
    assert (good.result(10), other.result(10)) == (2, 6)
    with pytest.raises(ValueError, match="13"):
        bad.result(10)
    assert doubling.batches[:2] == [[0], [1, 13, 3]]
    assert batcher.ask(number(5)).result(10) == 10, "the next is answered"


def test_a_question_that_nobody_waits_for_is_not_prepared(
    batcher: Batcher[int, int], doubling: Doubling
) -> None:
    hold, prepared = threading.Event(), list[int]()
    busy = batcher.ask(lambda: hold.wait(10) and 1)
    unwanted = batcher.ask(lambda: prepared.append(2) or 2)
    assert unwanted.cancel()
    hold.set()
    doubling.gate.set()
    assert busy.result(10) == 2
    all_wait(batcher)
    assert prepared == []


def test_none_is_lost_between_many_threads(doubling: Doubling) -> None:
    doubling.gate.set()
    batcher = Batcher(doubling, largest=5, threads=8)
    answers: list[Future[int]] = []
    askers = [
        threading.Thread(target=lambda: answers.extend(batcher.ask(number(7)) for _ in range(500)))
        for _ in range(4)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert [answer.result(10) for answer in answers] == [14] * 2000
    assert max(map(len, doubling.batches)) <= 5
    batcher.close()


def test_close_answers_what_waits(doubling: Doubling) -> None:
    batcher = Batcher(doubling, largest=4, threads=2)
    futures = [batcher.ask(number(value)) for value in range(9)]
    opener = threading.Timer(0.2, doubling.gate.set)
    opener.start()
    batcher.close()
    opener.join()
    assert [future.result(0) for future in futures] == [2 * value for value in range(9)]


def test_a_missing_answer_is_an_error_and_not_a_wait() -> None:
    forgetful: Batcher[int, int] = Batcher(lambda numbers: [], largest=4, threads=1)
    with pytest.raises(RuntimeError, match="0 answers to 1 questions"):
        forgetful.ask(number(1)).result(10)
    forgetful.close()
