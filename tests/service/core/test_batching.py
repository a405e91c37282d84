"""Batches under real threads."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from service.core.batching import Batcher

Numbers = Batcher[int, int]


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


def within_a_loop(
    doubling: Doubling, test: Callable[[Numbers], Coroutine[Any, Any, None]], *, threads: int = 1
) -> None:
    """Run a test whose batcher has `threads` threads, each already busy with 0."""

    async def run() -> None:
        batcher: Numbers = Batcher(doubling, largest=4, threads=threads)
        busy = []
        for _ in range(threads):
            doubling.began.clear()
            busy.append(asyncio.create_task(batcher.ask(number(0))))
            await asyncio.sleep(0)
            assert doubling.began.wait(10)
        try:
            await asyncio.wait_for(test(batcher), 20)
        finally:
            doubling.gate.set()
            await asyncio.gather(*busy)
            batcher.close()

    asyncio.run(run())


async def asked(batcher: Numbers, *questions: Callable[[], int]) -> list[asyncio.Task[int]]:
    """All of them wait, in this order."""
    tasks = [asyncio.create_task(batcher.ask(question)) for question in questions]
    await asyncio.sleep(0)
    return tasks


def test_what_waits_is_answered_together(doubling: Doubling) -> None:
    async def test(batcher: Numbers) -> None:
        tasks = await asked(batcher, *map(number, range(1, 8)))
        doubling.gate.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10, 12, 14]
        assert doubling.batches == [[0], [1, 2, 3, 4], [5, 6, 7]], "never more than four, in their order"

    within_a_loop(doubling, test)


def test_a_thread_takes_its_share_and_leaves_the_rest_to_the_others(doubling: Doubling) -> None:
    async def test(batcher: Numbers) -> None:
        tasks = await asked(batcher, *map(number, range(1, 5)))
        doubling.gate.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
        assert max(map(len, doubling.batches)) <= 3, "half of the six under way: two of them were busy"

    within_a_loop(doubling, test, threads=2)


def test_no_exception_leaves_the_others_waiting(doubling: Doubling) -> None:
    def exhausted() -> int:
        raise StopIteration

    async def test(batcher: Numbers) -> None:
        tasks = await asked(batcher, number(1), exhausted, number(2))
        doubling.gate.set()
        one, failure, two = await asyncio.gather(*tasks, return_exceptions=True)
        assert (one, two) == (2, 4)
        assert isinstance(failure, RuntimeError)

    within_a_loop(doubling, test)


def test_a_thread_outlives_what_goes_wrong_with_a_batch(
    doubling: Doubling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(self: Numbers, batch: object) -> None:
        monkeypatch.undo()
        raise MemoryError

    async def test(batcher: Numbers) -> None:
        monkeypatch.setattr(Batcher, "_outcomes", out_of_memory)
        tasks = await asked(batcher, number(1), number(2))
        doubling.gate.set()
        assert all(
            isinstance(each, MemoryError) for each in await asyncio.gather(*tasks, return_exceptions=True)
        )
        assert await batcher.ask(number(3)) == 6

    within_a_loop(doubling, test)


def test_a_lone_question_waits_for_nobody(doubling: Doubling) -> None:
    async def test(batcher: Numbers) -> None:
        doubling.gate.set()
        for value in range(20, 70):
            assert await batcher.ask(number(value)) == 2 * value

    within_a_loop(doubling, test)


def test_while_one_is_answered_another_thread_answers(doubling: Doubling) -> None:
    async def test(batcher: Numbers) -> None:
        assert doubling.batches == [[0], [0]], "both have begun and neither has ended"

    within_a_loop(doubling, test, threads=2)


def test_only_the_question_at_fault_fails(doubling: Doubling) -> None:
    async def test(batcher: Numbers) -> None:
        good, bad, unprepared, other = await asked(batcher, number(1), number(13), nothing, number(3))
        doubling.gate.set()
        assert await asyncio.gather(good, other) == [2, 6]
        with pytest.raises(ValueError, match="13"):
            await bad
        with pytest.raises(Unprepared):
            await unprepared
        assert doubling.batches[:2] == [[0], [1, 13, 3]]
        assert await batcher.ask(number(5)) == 10, "the next is answered"

    within_a_loop(doubling, test)


def test_a_question_that_nobody_waits_for_is_not_prepared(doubling: Doubling) -> None:
    async def test(batcher: Numbers) -> None:
        prepared = list[int]()
        (unwanted,) = await asked(batcher, lambda: prepared.append(2) or 2)
        unwanted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unwanted
        doubling.gate.set()
        assert await batcher.ask(number(3)) == 6
        assert prepared == []

    within_a_loop(doubling, test)


def test_who_leaves_while_being_answered_takes_nothing_from_the_others(doubling: Doubling) -> None:
    async def test(batcher: Numbers) -> None:
        began, hold = threading.Event(), threading.Event()
        tasks = await asked(batcher, lambda: began.set() or 1, lambda: hold.wait(10) and 2, number(3))
        doubling.gate.set()
        assert await asyncio.to_thread(began.wait, 10)
        tasks[0].cancel()
        await asyncio.sleep(0)
        hold.set()
        assert await asyncio.gather(*tasks[1:]) == [4, 6]

    within_a_loop(doubling, test)


def test_none_is_lost_between_many_threads(doubling: Doubling) -> None:
    async def test(batcher: Numbers) -> None:
        doubling.gate.set()
        assert await asyncio.gather(*(batcher.ask(number(7)) for _ in range(2000))) == [14] * 2000
        assert max(map(len, doubling.batches)) <= 4

    within_a_loop(doubling, test, threads=8)


def test_close_answers_what_waits(doubling: Doubling) -> None:
    async def run() -> None:
        batcher: Numbers = Batcher(doubling, largest=4, threads=2)
        tasks = await asked(batcher, *map(number, range(9)))
        opener = threading.Timer(0.2, doubling.gate.set)
        opener.start()
        batcher.close()
        opener.join()
        assert await asyncio.gather(*tasks) == [2 * value for value in range(9)]

    asyncio.run(run())


def test_a_missing_answer_is_an_error_and_not_a_wait() -> None:
    async def run() -> None:
        forgetful: Numbers = Batcher(lambda numbers: [], largest=4, threads=1)
        with pytest.raises(RuntimeError, match="0 answers to 1 questions"):
            await asyncio.wait_for(forgetful.ask(number(1)), 10)
        forgetful.close()

    asyncio.run(run())
