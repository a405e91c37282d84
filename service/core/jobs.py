"""Learning from labels while the service answers: in a process of its own, one at a time.

What is under way and what came of it lies in a ledger beside the catalogue, which all services on it share:
each of them begins, shows and ends jobs, and begins again what one that has ended left. The artifact that is
made lies beside the one that is served, until somebody has it served or lets it go.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from anyio.to_thread import run_sync

from index.artifact import Artifact, leave_out
from index.database import CatalogueError
from index.ledger import ledger_of
from index.names import shown
from index.schemas import is_brought
from service.settings import PREFIX

Status = Literal["running", "done", "failed", "cancelled"]

LABEL = (sys.executable, "-P", "-m", "training.label")  # what learns
KEPT = 20  # jobs that are remembered
ROOM = 1.3  # times what the catalogue takes now: its copy, and what is written while codes change
PATIENCE = 15.0  # seconds for a child to end by itself
LOOKED = 1.0  # seconds between two looks at what other services wrote
MISSED = 5  # looks after which who worked has ended, and did not just lose its server for a moment
NICENESS = 10
LONGEST_LINE = 2**20  # bytes of what the child says
# All of the machine is for those who search.
SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
UNREACHABLE = (CatalogueError, OSError)  # what a ledger raises

log = logging.getLogger("hebbsearch")


class JobError(ValueError):
    """The job cannot be begun or ended as things are; the message says why."""


class NoRoom(ValueError):
    """The disk has too little space for another artifact; the message says how much is needed."""


@dataclass(frozen=True)
class Job:
    """Learning from all labels that there were when it began."""

    id: int
    status: Status
    started: float  # seconds since 1970
    artifact: str  # name of the folder that is learned from
    target: str  # and of the one that is made
    step: str = ""  # what it does, or did last
    ended: float | None = None
    result: dict[str, Any] | None = None  # as `hebbsearch label --json` says it
    error: str | None = None


@dataclass
class Book:
    """What the ledger says."""

    last: int  # id that was given
    jobs: dict[int, Job]  # by id

    @classmethod
    def parsed(cls, text: str | None) -> Self:
        """Empty where there is none, and where nobody understands it."""
        try:
            noted = json.loads(text or '{"last": 0, "jobs": []}')
            return cls(int(noted["last"]), {each["id"]: Job(**each) for each in noted["jobs"]})
        except (ValueError, TypeError, KeyError) as error:
            log.warning("what is noted of jobs cannot be read (%s); earlier ones are forgotten", error)
            return cls(0, {})

    def text(self) -> str:
        """As `parsed` takes it."""
        return json.dumps({"last": self.last, "jobs": [asdict(job) for job in self.latest_first()]})

    def note(self, job: Job) -> None:
        """In place of what was noted of it; the oldest that ended are forgotten."""
        self.last = max(self.last, job.id)
        self.jobs[job.id] = job
        for old in self.latest_first()[KEPT:]:
            if old.status != "done":  # else its artifact would be nobody's
                del self.jobs[old.id]

    def latest_first(self) -> list[Job]:
        """All of them."""
        return sorted(self.jobs.values(), key=lambda job: -job.id)

    def same_try(self, job: Job) -> Job | None:
        """The job as it is noted, if this try to do it is still the one that counts: nobody ended it or began
        it again."""
        now = self.jobs.get(job.id)
        return now if now and (now.status, now.started) == ("running", job.started) else None


class Records:
    """What all services know of their jobs, and the artifacts that those made.

    All of it waits for the disk or a server, so it is for threads. It raises OSError and CatalogueError.
    """

    def __init__(self, artifact: Path, url: str | None) -> None:
        """As `Jobs`."""
        self.ledger = ledger_of(artifact, url)
        self._is_shared = url is not None
        self._parent = artifact.parent
        self._base = artifact.name

    def target(self, job: Job) -> Path:
        """The folder of what it makes."""
        return self._parent / job.target

    def book(self) -> Book:
        """What is noted."""
        return Book.parsed(self.ledger.read())

    def entered(self, name: str, size: int) -> Job:
        """A new job to learn from the artifact of this name. NoRoom."""
        needed = int(ROOM * size)
        free = shutil.disk_usage(self._parent).free
        if free < needed:
            raise NoRoom(
                f"another artifact takes some {needed:,} bytes beside this one, {free:,} are free; free "
                "space on that disk, or let go what was learned before"
            )
        with self.writing() as book:
            if any(each.status == "running" for each in book.jobs.values()):
                raise JobError(_busy(book.latest_first()))
            number = book.last + 1
            job = Job(number, "running", time.time(), name, self._free_name(number))
            book.note(job)
        return job

    def taken_over(self, name: str) -> Job | None:
        """What was cut off and is to be begun again, by learning from the artifact of this name."""
        with self.writing() as book:
            for job in book.latest_first():
                if job.status == "running" and job.target == name:  # it was served before it was noted
                    book.note(replace(job, status="done", ended=time.time()))
                elif job.status == "running":
                    again = replace(job, artifact=name, started=time.time(), step="")
                    book.note(again)
                    return again
        return None

    @contextmanager
    def writing(self) -> Iterator[Book]:
        """Nobody else writes within; at the end it is written."""
        with self.ledger.writing() as draft:
            book = Book.parsed(draft.text)
            yield book
            draft.text = book.text()

    def step(self, job: Job, step: str) -> None:
        """What this try to do it does now."""
        with self.writing() as book:
            if (now := book.same_try(job)) is not None:
                book.note(replace(now, step=step))

    def settled(self, job: Job, result: dict[str, Any] | None, error: str | None) -> None:
        """How this try to do it ended; what it made goes where it failed, or nobody knows of the job."""
        with self.writing() as book:
            now, ours = book.jobs.get(job.id), book.same_try(job)
            if now is not None and now.started != job.started:
                return  # its target is that of another service, which began it again
            if now is None or (ours is not None and error is not None):
                with suppress(*UNREACHABLE):
                    _delete(self.target(job))
            if ours is not None:
                status: Status = "done" if error is None else "failed"
                book.note(replace(ours, status=status, ended=time.time(), result=result, error=error))
                if error is not None:
                    log.warning("job %d failed: %s", job.id, error)
            self.ledger.let_go()  # before anybody can see that it ended, and begin another one

    def cancelled(self, number: int) -> Job:
        """The job as it was; if it was under way it is cancelled now. KeyError."""
        with self.writing() as book:
            job = book.jobs[number]
            if job.status == "running":
                book.note(replace(job, status="cancelled", ended=time.time()))
        return job

    def forget(self, job: Job) -> None:
        """With the artifact that it made."""
        with self.writing() as book:
            _delete(self.target(job))
            book.jobs.pop(job.id, None)

    def is_brought(self, job: Job) -> bool:
        """Whether other services may use what it made, of which this one does not know."""
        return self._is_shared and _is_brought(self.target(job))

    def _free_name(self, number: int) -> str:
        """One that was never given before: an artifact may note it as what took its place."""
        while (self._parent / (name := f"{self._base}-learned-{number}")).exists():
            number += 1
        return name


class Jobs:
    """Those of all services on one catalogue. Made and used within the event loop.

    Whatever reads or writes the ledger raises OSError and CatalogueError.
    """

    def __init__(self, artifact: Path, url: str | None = None) -> None:
        """`artifact`: the folder that the service was asked to serve; what is made lies beside it. `url`: of
        its catalogue, where that lies in PostgreSQL. CatalogueError."""
        self._records = Records(artifact, url)
        self._ledger = self._records.ledger
        self._follows = url is not None  # it looks every second whether there is something to go on with
        self._beginning = asyncio.Lock()
        self._missed = 0  # looks at which nobody did what is under way
        self._running: asyncio.Task[None] | None = None
        self._runs = 0  # the job that does
        self._child: Child | None = None  # of that job, until it is gone
        self._fault: str | None = None  # why it was not, at the last look
        self._closing = False

    async def all(self) -> list[Job]:
        """The latest first."""
        try:
            return (await run_sync(self._records.book)).latest_first()
        except OSError as error:
            log.warning("what is noted of jobs cannot be read (%s)", error)
            return []

    async def resume(self, served: Artifact, *, at_once: bool = True) -> None:
        """Begin again what was cut off with the service that did it; not `at_once`: if it was so at some
        looks before, too. What hinders is told in the log, once."""
        fault = None
        try:
            await self._resume(served, at_once)
        except UNREACHABLE as error:
            fault = str(error)
            if fault != self._fault:
                log.warning("what was being learned is not begun again yet: %s", fault)
        self._fault = fault

    async def learn(self, served: Artifact, size: int) -> Job:
        """Begin to learn from the labels of the artifact that is served, whose catalogue takes so many bytes.
        Raises JobError where something is being learned, and NoRoom."""
        if self._running is not None and self._child is None:  # what it did is told already
            await asyncio.wait([self._running])
        await self._resume(served, at_once=not self._follows)
        async with self._beginning:
            if self._running is not None or not await run_sync(self._ledger.hold):
                raise JobError(_busy(await self.all()))
            with self._free_unless_begun():
                job = await run_sync(self._records.entered, served.path.resolve().name, size)
                self._begin(job, served)
            return job

    async def end(self, number: int, in_use: Iterable[str]) -> None:
        """Cancel what runs; of what is done, delete the artifact that was made, unless it is `in_use`. Raises
        KeyError and JobError."""
        job = await run_sync(self._records.cancelled, number)
        if job.status == "running":  # until now
            await self._stop(number)
            return
        if await run_sync(self._records.is_brought, job):
            raise JobError(
                f"{job.target} was served from PostgreSQL, where other services may use it: once none does, "
                f"remove its folder and its schema by hand"
            )
        if job.status == "cancelled":
            await self._stop(number)  # it may be ending still
        if job.target in in_use:
            raise JobError(f"{job.target} is served, or kept to go back to; serve another artifact first")
        await run_sync(self._records.forget, job)

    async def tidy(self, in_use: Iterable[str]) -> None:
        """Delete what was learned before and is neither served nor kept to go back to. The latest waits for
        somebody to decide. What cannot be deleted is tried again after the next one."""
        wanted = set(in_use)
        try:
            done = [job for job in await self.all() if job.status == "done"]
            for job in done[1:]:
                if job.target not in wanted and not await run_sync(self._records.is_brought, job):
                    await run_sync(self._records.forget, job)
        except UNREACHABLE as error:
            log.warning("what was learned before stays: %s", error)

    async def close(self) -> None:
        """Stop what runs; the next start begins it again, or another service does."""
        self._closing = True
        await self._stop()
        await run_sync(self._ledger.close)

    # --- beginning ---------------------------------------------------------------------------------

    async def _resume(self, served: Artifact, at_once: bool) -> None:
        async with self._beginning:
            if self._running is not None:
                return
            under_way = [job for job in await self.all() if job.status == "running"]
            if not under_way or not await run_sync(self._ledger.hold):
                self._missed = 0
                return
            with self._free_unless_begun():
                self._missed += 1
                if at_once or self._missed > MISSED:
                    job = await run_sync(self._records.taken_over, served.path.resolve().name)
                    if job is not None:
                        log.info("job %d was cut off and begins again", job.id)
                        self._begin(job, served)

    @contextmanager
    def _free_unless_begun(self) -> Iterator[None]:
        """Whoever has the place and begins nothing lets it go."""
        try:
            yield
        finally:
            if self._running is None:
                self._ledger.let_go()

    def _begin(self, job: Job, served: Artifact) -> None:
        self._runs, self._missed, self._child = job.id, 0, Child()
        self._running = asyncio.create_task(self._run(job, served))

    # --- doing it ----------------------------------------------------------------------------------

    async def _run(self, job: Job, served: Artifact) -> None:
        child, target = self._child, self._records.target(job)
        assert child is not None
        watching = asyncio.create_task(self._watch(job, child))
        try:
            # What an earlier try has made whole is of labels that were there then.
            await run_sync(_delete, target)
            said, result, status = await child.learned(served, target, partial(self._step, job))
        except (OSError, ValueError) as error:
            said, result, status = str(error), None, -1
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            self._child = None
        try:
            await self._settle(
                job, result, None if status == 0 and result is not None else _reason(said, status)
            )
        finally:
            await run_sync(self._ledger.let_go)
            self._running = None

    async def _step(self, job: Job, step: str) -> None:
        with suppress(*UNREACHABLE):  # the next one tells more
            await run_sync(self._records.step, job, step)

    async def _watch(self, job: Job, child: "Child") -> None:
        """End the child once the job was cancelled by another service, or begun again there."""
        while True:
            await asyncio.sleep(LOOKED)
            with suppress(*UNREACHABLE):
                await run_sync(
                    self._ledger.hold
                )  # the server may have ended, and forgotten who has the place
                if (await run_sync(self._records.book)).same_try(job) is None:
                    break
        await child.end()

    async def _settle(self, job: Job, result: dict[str, Any] | None, error: str | None) -> None:
        """Note how the try ended, as soon as that can be written."""
        told = False
        while not self._closing:
            try:
                await run_sync(self._records.settled, job, result, error)
                return
            except UNREACHABLE as fault:
                if not told:
                    log.warning("how job %d ended cannot be noted yet: %s", job.id, fault)
                told = True
                await asyncio.sleep(LOOKED)

    async def _stop(self, number: int | None = None) -> None:
        """End the child, which removes what it began, and wait until it is gone; of this job alone, if there
        is a number."""
        running = self._running
        if running is None or number not in (None, self._runs):
            return
        ending = asyncio.create_task(self._child.end()) if self._child is not None else None
        await asyncio.wait([running])
        if ending is not None:
            ending.cancel()


class Child:
    """One process that learns."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._ending = False

    async def learned(
        self, served: Artifact, target: Path, on_step: Callable[[str], Awaitable[None]]
    ) -> tuple[str, dict[str, Any] | None, int]:
        """Learn from an artifact and make another: what it says on its standard error, its result, and its
        status. It tells `on_step` what it does. OSError and ValueError."""
        where = {f"{PREFIX}CATALOGUE": served.url or ""}  # other users can read a command line
        self._process = process = await asyncio.create_subprocess_exec(
            *LABEL, str(served.path.resolve()), "--out", str(target), "--json", "--while-read",
            stdin=PIPE, stdout=PIPE, stderr=PIPE, env=os.environ | SINGLE | where, limit=LONGEST_LINE,
        )  # fmt: skip
        with suppress(OSError):  # it is gone already
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        if self._ending:  # while it was started
            self._signal(signal.SIGINT)
        assert process.stdout is not None and process.stderr is not None
        said, result = await asyncio.gather(process.stderr.read(), _result(process.stdout, on_step))
        return said.decode(errors="replace"), result, await process.wait()

    async def end(self) -> None:
        """By itself, which removes what it began, or after some patience at once."""
        self._ending = True
        self._signal(signal.SIGINT)
        await asyncio.sleep(PATIENCE)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


async def _result(
    lines: asyncio.StreamReader, on_step: Callable[[str], Awaitable[None]]
) -> dict[str, Any] | None:
    """What a child tells last, after the steps that it tells of."""
    result = None
    async for line in lines:
        try:
            told = json.loads(line)
        except ValueError:  # a library's own words
            continue
        if "progress" in told:
            await on_step(told["progress"])
        else:
            result = {**told, "artifact": Path(told["artifact"]).name}
    return result


def seconds_left(job: Job, jobs: Sequence[Job]) -> float | None:
    """By how long the last of all jobs took; None where nobody knows."""
    took = [other.ended - other.started for other in jobs if other.status == "done" and other.ended]
    if job.status != "running" or not took:
        return None
    return max(0.0, took[0] - (time.time() - job.started))


def _busy(jobs: Sequence[Job]) -> str:
    """Why none can be begun."""
    for job in jobs:
        if job.status == "running":
            return f"job {job.id} is learning already; wait for it, or cancel it"
    return "what was cancelled has not ended yet; try again in a second"


def _reason(said: str, status: int) -> str:
    """Why a child failed, in its own last line or by its status."""
    last = said.strip().splitlines()[-1:] or [_in_words(status)]
    return shown(last[0].removeprefix("hebbsearch label: "))


def _is_brought(target: Path) -> bool:
    try:
        return is_brought(target)
    except CatalogueError:  # it is gone, or no artifact yet
        return False


def _delete(target: Path) -> None:
    """Rename first, so that no half of an artifact lies under its name. CatalogueError and OSError."""
    if target.exists():
        leave_out(target)
    gone = target.parent / f".{target.name}.gone"
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(target.rename(gone), ignore_errors=True)


def _in_words(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
