"""Micro-batches: what arrives while one batch is being answered is the next batch.

Nobody ever waits for a batch to fill: a lone question is answered at once, and the busier the service is,
the larger the batches become.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, Semaphore
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Question, Answer]):
    """Prepares questions, `threads` at the same time, and answers together those that are ready.

    No thread is set apart for answering: whoever has prepared a question and finds that nobody answers
    does so for all that wait, as long as any do. A lone question so stays in one thread.
    """

    def __init__(
        self, answer: Callable[[Sequence[Question]], Sequence[Answer]], *, largest: int, threads: int
    ) -> None:
        self._answer = answer
        self._largest = largest
        self._waiting: deque[tuple[Question, Future[Answer]]] = deque()
        self._preparing = Semaphore(threads)
        self._answering = Lock()
        self._pool = ThreadPoolExecutor(threads + 1, "search")  # one answers, the others prepare

    def ask(self, prepare: Callable[[], Question]) -> Future[Answer]:
        """The answer to come, or what `prepare` raised. Cancelled in time, nothing is done for it."""
        future: Future[Answer] = Future()
        self._pool.submit(self._work, prepare, future)
        return future

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._pool.shutdown()

    def _work(self, prepare: Callable[[], Question], future: Future[Answer]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            with self._preparing:
                question = prepare()
        except Exception as error:
            future.set_exception(error)
            return
        self._waiting.append((question, future))
        # Looking again after letting go: whoever came in between has left its question to this thread.
        while self._waiting and self._answering.acquire(blocking=False):
            try:
                self._settle([self._waiting.popleft() for _ in range(self._largest) if self._waiting])
            finally:
                self._answering.release()

    def _settle(self, batch: list[tuple[Question, Future[Answer]]]) -> None:
        if not batch:  # somebody else was faster
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
