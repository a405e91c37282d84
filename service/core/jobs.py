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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from anyio.to_thread import run_sync

from index.artifact import CATALOGUE, PREDECESSOR, Artifact, ArtifactError, in_service, leave_out
from index.catalogue import Catalogue
from index.database import CatalogueAway, CatalogueError
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


FIELDS = {field.name for field in fields(Job)}


@dataclass
class Book:
    """What the ledger says."""

    last: int  # id that was given
    jobs: dict[int, Job]  # by id

    @classmethod
    def parsed(cls, text: str | None) -> Self:
        """Empty where there is none. ValueError for what nobody understands; what a later version knows of a
        job beside is left out."""
        try:
            noted = json.loads(text or '{"last": 0, "jobs": []}')
            known = [{key: each[key] for key in each.keys() & FIELDS} for each in noted["jobs"]]
            return cls(int(noted["last"]), {each["id"]: Job(**each) for each in known})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(str(error)) from error

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
        self._artifact = artifact
        self._parent = artifact.parent
        self._base = artifact.name
        self._misread: str | None = None  # told already

    def target(self, job: Job) -> Path:
        """The folder of what it makes."""
        return self._parent / job.target

    def book(self) -> Book:
        """What is noted."""
        return self._parsed(self.ledger.read())

    def _parsed(self, text: str | None) -> Book:
        try:
            return Book.parsed(text)
        except ValueError as error:
            if text != self._misread:
                log.warning("the jobs of %s cannot be read (%s); they are forgotten", self._base, error)
            self._misread = text
            return Book(0, {})

    def entered(self, name: str, size: int) -> list[Job]:
        """A new job to learn from the artifact of this name, and all before it. NoRoom."""
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
            # Of a number that never was given: an artifact may note its name as what took its place.
            number = book.last + 1
            while (self._parent / (target := f"{self._base}-learned-{number}")).exists():
                number += 1
            book.note(Job(number, "running", time.time(), name, target))
        return book.latest_first()

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
            book = self._parsed(draft.text)
            yield book
            draft.text = book.text()

    def step(self, job: Job, step: str) -> None:
        """What this try to do it does now."""
        with self.writing() as book:
            if (now := book.same_try(job)) is not None:
                book.note(replace(now, step=step))

    def settled(self, job: Job, result: dict[str, Any] | None, error: str | None) -> None:
        """How this try to do it ended. What it made goes where it failed, or nobody wants it any more."""
        with self.writing() as book:
            now = book.jobs.get(job.id)
            unwanted = now is None or now.status == "cancelled"
            if unwanted or (error is not None and book.same_try(job)):
                with suppress(*UNREACHABLE):
                    self._delete(job)
            if now is not None and book.same_try(job):
                status: Status = "done" if error is None else "failed"
                book.note(replace(now, status=status, ended=time.time(), result=result, error=error))
                if error is not None:
                    log.warning("job %d failed: %s", job.id, error)
            # Before anybody can see that it ended, and begin another one. Where this cannot be written, it is
            # tried again without the place.
            self.ledger.let_go()

    def cancelled(self, number: int) -> Job:
        """The job as it was; if it was under way it is cancelled now. KeyError."""
        with self.writing() as book:
            job = book.jobs[number]
            if job.status == "running":
                book.note(replace(job, status="cancelled", ended=time.time()))
        return job

    def forget(self, job: Job, in_use: Iterable[str]) -> None:
        """With the artifact that it made. JobError where that is `in_use`, or may be."""
        if self.is_brought(job):
            raise JobError(
                f"{job.target} was served from PostgreSQL, where other services may use it: once none does, "
                f"remove its folder and its schema by hand"
            )
        if job.target in {*in_use, *self._served()}:
            raise JobError(f"{job.target} is served, or kept to go back to; serve another artifact first")
        with self.writing() as book:
            book.jobs.pop(job.id, None)
        if job.status in ("done", "cancelled"):  # else there is none, or it is somebody's own
            try:
                self._delete(job)
            except UNREACHABLE:
                with suppress(*UNREACHABLE), self.writing() as book:
                    book.jobs.setdefault(job.id, job)
                raise

    def _delete(self, job: Job) -> None:
        """What it made, if nobody may use it."""
        if not self.is_brought(job) and job.target not in self._served():
            _delete(self.target(job))

    def _served(self) -> set[str]:
        """What a start would serve, and what that would go back to: another service on the same file may have
        taken it."""
        if self._is_shared:
            return set()
        try:
            path = in_service(self._artifact)
            return {path.name, Catalogue.read_note(path / CATALOGUE, PREDECESSOR) or path.name}
        except (ArtifactError, CatalogueError):  # such as none: a start would say so
            return set()

    def is_brought(self, job: Job) -> bool:
        """Whether other services may use what it made, of which this one does not know."""
        return self._is_shared and _is_brought(self.target(job))


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
        self._missed = 0  # looks in a row at which nobody did what is under way
        self._running: asyncio.Task[None] | None = None
        self._runs = 0  # the job that does
        self._child: Child | None = None  # of that job, until it is gone
        self._fault: str | None = None  # why it was not, at the last look
        self._closing = False

    async def all(self) -> list[Job]:
        """The latest first; none where they cannot be read."""
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
        except CatalogueAway:  # which searches say
            pass
        except UNREACHABLE as error:
            fault = str(error)
            if fault != self._fault:
                log.warning("whether a job was cut off cannot be told: %s", fault)
        self._fault = fault

    async def learn(self, served: Artifact, size: int) -> list[Job]:
        """Begin to learn from the labels of the artifact that is served, whose catalogue takes so many bytes.
        The new job, and all before it. Raises JobError where something is being learned, and NoRoom."""
        if self._running is not None and self._child is None:  # what it did is told already, or cannot be
            await asyncio.wait([self._running], timeout=LOOKED)
        if not self._follows:
            await self._resume(served, at_once=True)
        async with self._beginning:
            if self._running is not None or not await run_sync(self._ledger.hold):
                raise JobError(_busy(await self.all()))
            async with self._free_unless_begun():
                known = await run_sync(self._records.entered, served.path.resolve().name, size)
                self._begin(known[0], served)
            return known

    async def end(self, number: int, in_use: Iterable[str]) -> None:
        """Cancel what runs; of what is done, delete the artifact that was made, unless it is `in_use`. Raises
        KeyError and JobError."""
        job = await run_sync(self._records.cancelled, number)
        if job.status in ("running", "cancelled"):  # until now, or it may be ending still
            await self._stop(number)
        if job.status != "running":
            await run_sync(self._records.forget, job, in_use)

    async def tidy(self, in_use: Iterable[str]) -> None:
        """Delete what was learned before and is neither served nor kept to go back to. The latest waits for
        somebody to decide. What cannot be deleted is tried again after the next one."""
        try:
            done = [job for job in await self.all() if job.status == "done"]
            for job in done[1:]:
                with suppress(JobError):
                    await run_sync(self._records.forget, job, in_use)
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
            async with self._free_unless_begun():
                self._missed += 1
                if at_once or self._missed > MISSED:
                    job = await run_sync(self._records.taken_over, served.path.resolve().name)
                    if job is not None:
                        log.info("job %d was cut off and begins again", job.id)
                        self._begin(job, served)

    @asynccontextmanager
    async def _free_unless_begun(self) -> AsyncIterator[None]:
        """Whoever has the place and begins nothing lets it go."""
        try:
            yield
        finally:
            if self._running is None:
                await run_sync(self._ledger.let_go)

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
            error = None if status == 0 and result is not None else _reason(said, status)
        except (OSError, ValueError) as fault:
            result, error = None, _reason(str(fault), 1)
        except Exception as fault:
            log.exception("job %d", job.id)
            result, error = None, f"{type(fault).__name__}: {fault}"
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            self._child = None
        try:
            await self._settle(job, result, error)
        finally:
            await run_sync(self._ledger.let_go)  # where that ended before it did
            self._running = None

    async def _step(self, job: Job, step: str) -> None:
        with suppress(*UNREACHABLE):  # the next one tells more
            await run_sync(self._records.step, job, step)

    async def _watch(self, job: Job, child: "Child") -> None:
        """End the child once the job was cancelled by another service, or begun again there."""
        while True:
            await asyncio.sleep(LOOKED)
            with suppress(*UNREACHABLE):
                await run_sync(self._ledger.hold_on)
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
        await asyncio.wait([running], timeout=None if self._closing else 2 * PATIENCE)
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
        try:
            said, result = await asyncio.gather(process.stderr.read(), _result(process.stdout, on_step))
        except BaseException:  # such as a line without an end: nobody would hear what it makes
            self._signal(signal.SIGKILL)
            raise
        finally:
            await process.wait()
        return said.decode(errors="replace"), result, process.returncode or 0

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
        match told:
            case {"progress": str(step)}:
                await on_step(step)
            case {"artifact": str(path)}:
                result = {**told, "artifact": Path(path).name}
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
    return "what was learned last has not ended yet; try again in a second"


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
