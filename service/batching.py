"""Micro-batches: what arrives while one batch is being answered is the next batch.

Nobody ever waits for a batch to fill: a lone question is answered at once, and the busier the service is,
the larger the batches become.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Question, Answer]):
    """Answers the questions of many threads in one thread of its own, at most `largest` at a time."""

    def __init__(self, answer: Callable[[Sequence[Question]], Sequence[Answer]], *, largest: int) -> None:
        self._answer = answer
        self._largest = largest
        self._waiting: SimpleQueue[tuple[Question, Future[Answer]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def ask(self, question: Question) -> Future[Answer]:
        """The answer to come; cancelled before its turn, the question is never looked at."""
        future: Future[Answer] = Future()
        self._waiting.put((question, future))
        return future

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_for_more = True
        while open_for_more:
            batch, open_for_more = self._next_batch()
            self._settle([(question, future) for question, future in batch if _begins(future)])

    def _next_batch(self) -> tuple[list[tuple[Question, Future[Answer]]], bool]:
        """The first that waits and all that wait behind it; False after `close`."""
        batch: list[tuple[Question, Future[Answer]]] = []
        while len(batch) < self._largest:
            try:
                entry = self._waiting.get(block=not batch)
            except Empty:
                break
            if entry is None:
                return batch, False
            batch.append(entry)
        return batch, True

    def _settle(self, batch: list[tuple[Question, Future[Answer]]]) -> None:
        if not batch:
            return
        try:
            answers = self._answer([question for question, _ in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} questions")
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:  # only whoever asked what cannot be answered shall hear of it
                for entry in batch:
                    self._settle([entry])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)


def _begins(future: Future[Answer]) -> bool:
    """Whether the answer is still wanted; from now on it cannot be cancelled."""
    return future.set_running_or_notify_cancel()
