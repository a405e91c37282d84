"""Micro-batches: what arrives while one batch is being answered is the next batch.

Nobody ever waits for a batch to fill: a lone question is answered at once, and the busier the service is,
the larger the batches become.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Question, Answer]):
    """Prepares questions in `threads` threads and answers in one, at most `largest` together.

    One thread only: OpenMP keeps a team of threads for each thread that ever computed.
    """

    def __init__(
        self, answer: Callable[[Sequence[Question]], Sequence[Answer]], *, largest: int, threads: int
    ) -> None:
        self._answer = answer
        self._largest = largest
        self._prepared: SimpleQueue[tuple[Question, Future[Answer]] | None] = SimpleQueue()
        self._preparing = ThreadPoolExecutor(threads, "prepare")
        self._answering = Thread(target=self._run, name="answer", daemon=True)
        self._answering.start()

    def ask(self, prepare: Callable[[], Question]) -> Future[Answer]:
        """The answer to come, or what `prepare` raised. Cancelled in time, nothing is done for it."""
        future: Future[Answer] = Future()
        self._preparing.submit(self._prepare, prepare, future)
        return future

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._preparing.shutdown()
        self._prepared.put(None)
        self._answering.join()

    def _prepare(self, prepare: Callable[[], Question], future: Future[Answer]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            self._prepared.put((prepare(), future))
        except BaseException as error:  # whatever it is, somebody waits for it
            future.set_exception(error)

    def _run(self) -> None:
        while (entry := self._prepared.get()) is not None:
            batch = [entry]
            while len(batch) < self._largest:
                try:
                    entry = self._prepared.get_nowait()
                except Empty:
                    break
                if entry is None:  # the last batch
                    self._prepared.put(None)
                    break
                batch.append(entry)
            self._settle(batch)

    def _settle(self, batch: list[tuple[Question, Future[Answer]]]) -> None:
        try:
            answers = self._answer([question for question, _ in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} questions")
        except BaseException as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:  # only whoever asked what cannot be answered shall hear of it
                for entry in batch:
                    self._settle([entry])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)
