"""Batches under real threads."""

import threading
from collections.abc import Iterator, Sequence

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


@pytest.fixture
def doubling() -> Doubling:
    return Doubling()


@pytest.fixture
def batcher(doubling: Doubling) -> Iterator[Batcher[int, int]]:
    batcher = Batcher(doubling, largest=4)
    yield batcher
    doubling.gate.set()
    batcher.close()


def test_what_waits_is_answered_together(batcher: Batcher[int, int], doubling: Doubling) -> None:
    first = batcher.ask(0)
    assert doubling.began.wait(10)
    others = [batcher.ask(number) for number in range(1, 8)]
    doubling.gate.set()
    assert [future.result(10) for future in (first, *others)] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert doubling.batches == [[0], [1, 2, 3, 4], [5, 6, 7]], "never more than four, in their order"


def test_a_lone_question_waits_for_nobody(batcher: Batcher[int, int], doubling: Doubling) -> None:
    doubling.gate.set()
    assert batcher.ask(21).result(10) == 42


def test_only_the_question_at_fault_fails(batcher: Batcher[int, int], doubling: Doubling) -> None:
    batcher.ask(0)
    assert doubling.began.wait(10)
    good, bad, other = (batcher.ask(number) for number in (1, 13, 3))
    doubling.gate.set()
    assert (good.result(10), other.result(10)) == (2, 6)
    with pytest.raises(ValueError, match="13"):
        bad.result(10)
    assert batcher.ask(5).result(10) == 10, "the thread goes on"


def test_a_question_that_nobody_waits_for_is_not_looked_at(
    batcher: Batcher[int, int], doubling: Doubling
) -> None:
    batcher.ask(0)
    assert doubling.began.wait(10)
    unwanted, wanted = batcher.ask(1), batcher.ask(2)
    assert unwanted.cancel()
    doubling.gate.set()
    assert wanted.result(10) == 4
    assert doubling.batches == [[0], [2]]


def test_close_answers_what_waits(doubling: Doubling) -> None:
    batcher = Batcher(doubling, largest=4)
    futures = [batcher.ask(number) for number in range(9)]
    doubling.gate.set()
    batcher.close()
    assert [future.result(0) for future in futures] == [2 * number for number in range(9)]


def test_a_missing_answer_is_an_error_and_not_a_wait() -> None:
    forgetful: Batcher[int, int] = Batcher(lambda numbers: [], largest=4)
    with pytest.raises(RuntimeError, match="0 answers to 1 questions"):
        forgetful.ask(1).result(10)
    forgetful.close()
