"""Micro-batches: what waits when a thread becomes free is answered together.

Nobody ever waits for a batch to fill: a lone question is answered at once, and the busier the service is,
the larger the batches become.
"""

import asyncio
from asyncio import Future
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")
Question = TypeVar("Question")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Failure:
    """What was raised instead of a result."""

    error: BaseException


class Batcher(Generic[Question, Answer]):
    """Answers questions in `threads` threads, each its share of those under way, at most `largest` together.

    Made and closed within the event loop whose tasks ask.
    """

    def __init__(
        self, answer: Callable[[Sequence[Question]], Sequence[Answer]], *, largest: int, threads: int
    ) -> None:
        self._answer = answer
        self._largest = largest
        self._loop = asyncio.get_running_loop()
        self._under_way = 0  # asked and not answered yet
        self._waiting: SimpleQueue[tuple[Callable[[], Question], Future[Answer]] | None] = SimpleQueue()
        self._threads = [Thread(target=self._run, name="answer", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    async def ask(self, prepare: Callable[[], Question]) -> Answer:
        """The answer to the question that `prepare` makes, or what was raised. Cancelled in time, nothing
        is done for it."""
        future: Future[Answer] = self._loop.create_future()
        self._under_way += 1
        try:
            self._waiting.put((prepare, future))
            return await future
        finally:
            self._under_way -= 1

    def close(self) -> None:
        """Answer what waits, then stop."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (entry := self._waiting.get()) is not None:
            batch = [entry]
            # A thread that took all that wait would leave the others idle.
            share = min(self._largest, -(-self._under_way // len(self._threads)))
            while len(batch) < share:
                try:
                    entry = self._waiting.get_nowait()
                except Empty:
                    break
                if entry is None:  # the last batch
                    self._waiting.put(None)
                    break
                batch.append(entry)
            wanted = [(prepare, future) for prepare, future in batch if not future.done()]
            try:
                outcomes = self._outcomes(wanted)
            except BaseException as error:  # the thread must live on, and nobody wait in vain
                outcomes = [(future, Failure(error)) for _, future in wanted]
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_deliver, outcomes)

    def _outcomes(
        self, batch: Sequence[tuple[Callable[[], Question], Future[Answer]]]
    ) -> list[tuple[Future[Answer], Answer | Failure]]:
        prepared = [_attempt(prepare) for prepare, _ in batch]
        answers = iter(self._answers([each for each in prepared if not isinstance(each, Failure)]))
        return [
            (future, question if isinstance(question, Failure) else next(answers))
            for (_, future), question in zip(batch, prepared, strict=True)
        ]

    def _answers(self, questions: Sequence[Question]) -> Sequence[Answer | Failure]:
        if not questions:
            return []
        try:
            answers = self._answer(questions)
            if len(answers) != len(questions):
                raise RuntimeError(f"{len(answers)} answers to {len(questions)} questions")
            return answers
        except BaseException as error:
            if len(questions) == 1:
                return [Failure(error)]
        # Only whoever asked what cannot be answered shall hear of it.
        return [answer for question in questions for answer in self._answers([question])]


def _attempt(work: Callable[[], T]) -> T | Failure:
    try:
        return work()
    except BaseException as error:  # whatever it is, somebody waits for it
        return Failure(error)


def _deliver(outcomes: Sequence[tuple[Future[Answer], Answer | Failure]]) -> None:
    """In the event loop: one wake-up of it for a whole batch."""
    for future, outcome in outcomes:
        if future.done():  # cancelled meanwhile
            continue
        if isinstance(outcome, Failure):
            error = outcome.error
            # a future takes any exception but this one
            future.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)
        else:
            future.set_result(outcome)
