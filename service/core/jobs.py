"""Learning from labels while the service answers: in a process of its own, one at a time.

What is under way and what came of it is on the disk beside the artifact, so that a restart begins again what
it cut off. The artifact that is made lies there too, until somebody has it served or lets it go.
"""

import asyncio
import errno
import json
import logging
import os
import shutil
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from index.artifact import Artifact, leave_out, sync
from index.database import CatalogueError
from index.locking import locked
from index.names import shown
from index.schemas import is_brought
from service.settings import PREFIX

Status = Literal["running", "done", "failed", "cancelled"]

LABEL = (sys.executable, "-P", "-m", "training.label")  # what learns
KEPT = 20  # jobs that are remembered
ROOM = 1.3  # times what the catalogue takes now: its copy, and what is written while codes change
PATIENCE = 15.0  # seconds for a child to end by itself
NICENESS = 10
ENDED = "the service that learned has ended; learn again"
LONGEST_LINE = 2**20  # bytes of what the child says
# All of the machine is for those who search.
SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

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


class Jobs:
    """Those of one service. Made and used within the event loop.

    Of several services on one folder the first one keeps the jobs, and the next one once that has ended. The
    others know what is noted.
    """

    def __init__(self, artifact: Path, url: str | None = None) -> None:
        """`artifact`: the folder that the service was asked to serve; what is made lies beside it. `url`: of
        its catalogue, where that lies in PostgreSQL."""
        self._url = url
        self._ledger = Ledger(artifact)
        self._parent = artifact.parent
        self._base = artifact.name
        self._last, self._jobs = 0, dict[int, Job]()
        self._running: asyncio.Task[None] | None = None
        self._runs = 0  # the job that does
        self._process: Process | None = None
        self._closing = False

    def all(self) -> list[Job]:
        """The latest first."""
        if not self._ledger.held:  # another service may have noted something
            self._know()
        return sorted(self._jobs.values(), key=lambda job: -job.id)

    def get(self, number: int) -> Job:
        """Raises KeyError."""
        if not self._ledger.held:  # another service may have noted something
            self._know()
        return self._jobs[number]

    def seconds_left(self, job: Job) -> float | None:
        """By how long the last one took; None where nobody knows."""
        took = [other.ended - other.started for other in self.all() if other.status == "done" and other.ended]
        if job.status != "running" or not took:
            return None
        return max(0.0, took[0] - (time.time() - job.started))

    def resume(self, served: Artifact) -> None:
        """Begin again what a restart cut off."""
        if not self._ledger.path.exists() or not self._ledger.hold():
            return
        self._know()
        name = served.path.resolve().name
        for job in self.all():
            if job.status == "running" and job.target == name:  # somebody was faster than the note of it
                self._note(replace(job, status="done", ended=time.time()))
            elif job.status == "running":
                log.info("job %d was cut off and begins again", job.id)
                self._begin(replace(job, artifact=name, started=time.time(), step=""), served)
                return

    def learn(self, served: Artifact, size: int) -> Job:
        """Begin to learn from the labels of the artifact that is served, whose catalogue takes so many bytes.
        Raises JobError where something is being learned, and NoRoom."""
        self._check_keeps()
        if self._running is not None:
            running = [job.id for job in self.all() if job.status == "running"]
            if not running:
                raise JobError("what was cancelled has not ended yet; try again in a second")
            raise JobError(f"job {running[0]} is learning already; wait for it, or cancel it")
        needed = int(ROOM * size)
        free = shutil.disk_usage(self._parent).free
        if free < needed:
            raise NoRoom(
                f"another artifact takes some {needed:,} bytes beside this one, {free:,} are free; free "
                "space on that disk, or let go what was learned before"
            )
        name = served.path.resolve().name
        job = Job(self._last + 1, "running", time.time(), name, self._free_name())
        self._begin(job, served)
        return job

    async def end(self, number: int, in_use: Iterable[str]) -> None:
        """Cancel what runs; of what is done, delete the artifact that was made, unless it is `in_use`. Raises
        KeyError and JobError."""
        self._check_keeps()
        job = self.get(number)
        if job.status == "running":
            self._note(replace(job, status="cancelled", ended=time.time()))
            await self._stop(number)
            return
        if await asyncio.to_thread(self._is_brought, job):
            raise JobError(
                f"{job.target} was served from PostgreSQL, where other services may use it: once none does, "
                f"remove its folder and its schema by hand"
            )
        if job.status == "cancelled":
            await self._stop(number)  # it may be ending still
        if job.status == "done" and job.target in in_use:
            raise JobError(f"{job.target} is served, or kept to go back to; serve another artifact first")
        await asyncio.to_thread(_delete, self._parent / job.target)
        self._jobs.pop(number, None)
        self._write()

    async def tidy(self, in_use: Iterable[str]) -> None:
        """Delete what was learned before and is neither served nor kept to go back to. The latest waits for
        somebody to decide."""
        if not self._keeps():
            return
        wanted = set(in_use)
        done = [job for job in self.all() if job.status == "done"]
        for job in done[1:]:
            if job.target not in wanted and not await asyncio.to_thread(self._is_brought, job):
                try:
                    await asyncio.to_thread(_delete, self._parent / job.target)
                except CatalogueError as error:  # it is tried again after the next one
                    log.warning("%s stays: %s", job.target, error)
                    continue
                self._jobs.pop(job.id, None)
                self._write()

    async def close(self) -> None:
        """Stop what runs; the next start begins it again."""
        self._closing = True
        await self._stop()
        self._ledger.let_go()

    def _begin(self, job: Job, served: Artifact) -> None:
        self._note(job)
        self._runs = job.id
        self._running = asyncio.create_task(self._run(job, served))

    async def _run(self, job: Job, served: Artifact) -> None:
        try:
            # What an earlier try has made whole is of labels that were there then.
            await asyncio.to_thread(_delete, self._parent / job.target)
            said, result, status = await self._learned(job, served)
        except (OSError, ValueError) as error:
            said, result, status = str(error), None, -1
        finally:
            self._process = self._running = None
        job = self._jobs.get(job.id, job)
        if self._closing or job.status != "running":
            return
        if status == 0 and result is not None:
            self._note(replace(job, status="done", ended=time.time(), result=result))
            return
        reason = said.strip().splitlines()[-1:] or [_in_words(status)]
        log.warning("job %d failed: %s", job.id, reason[0])
        with suppress(OSError):
            await asyncio.to_thread(_delete, self._parent / job.target)
        error_text = shown(reason[0].removeprefix("hebbsearch label: "))
        self._note(replace(job, status="failed", ended=time.time(), error=error_text))

    async def _learned(self, job: Job, served: Artifact) -> tuple[str, dict[str, Any] | None, int]:
        """What the child says on its standard error, its result, and its status."""
        source, target = served.path.resolve(), self._parent / job.target
        where = {f"{PREFIX}CATALOGUE": served.url or ""}  # other users can read a command line
        self._process = await asyncio.create_subprocess_exec(
            *LABEL, str(source), "--out", str(target), "--json", "--while-read",
            stdin=PIPE, stdout=PIPE, stderr=PIPE, env=os.environ | SINGLE | where, limit=LONGEST_LINE,
        )  # fmt: skip
        with suppress(OSError):  # it is gone already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
        if self._closing or self._jobs[job.id].status != "running":  # while it was started
            self._signal(signal.SIGINT)
        said, result = await asyncio.gather(_all(self._process.stderr), self._follow(job.id))
        return said, result, await self._process.wait()

    async def _follow(self, number: int) -> dict[str, Any] | None:
        """Note each step that the child tells of; its result."""
        result = None
        assert self._process is not None and self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                told = json.loads(line)
            except ValueError:  # a library's own words
                continue
            if "progress" not in told:
                result = {**told, "artifact": Path(told["artifact"]).name}
            elif (job := self._jobs[number]).status == "running":
                self._jobs[number] = replace(job, step=told["progress"])  # not worth a write
        return result

    async def _stop(self, number: int | None = None) -> None:
        """End the child, which removes what it began, and wait until it is gone; of this job alone, if there
        is a number."""
        running = self._running
        if running is None or number not in (None, self._runs):
            return
        self._signal(signal.SIGINT)
        try:
            await asyncio.wait_for(asyncio.shield(running), PATIENCE)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await running

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _free_name(self) -> str:
        """One that was never given before: an artifact may note it as what took its place."""
        number = self._last + 1
        while (self._parent / (name := f"{self._base}-learned-{number}")).exists():
            number += 1
        return name

    def _is_brought(self, job: Job) -> bool:
        """Whether other services may use what it made, of which this one does not know."""
        return self._url is not None and _is_brought(self._parent / job.target)

    def _keeps(self) -> bool:
        """Whether there are jobs and this service keeps them."""
        return self._ledger.path.exists() and self._holds()

    def _holds(self) -> bool:
        if not self._ledger.held and self._ledger.hold():
            self._know()
            for job in self.all():
                if job.status == "running":  # of a service that has ended
                    self._note(replace(job, status="failed", ended=time.time(), error=ENDED))
        return self._ledger.held

    def _check_keeps(self) -> None:
        if not self._holds():
            raise JobError("another service on this folder keeps its jobs; ask that one")

    def _know(self) -> None:
        self._last, kept = self._ledger.read()
        self._jobs = {job.id: job for job in kept}

    def _note(self, job: Job) -> None:
        before = self._last, dict(self._jobs)
        self._last = max(self._last, job.id)
        self._jobs[job.id] = job
        for old in self.all()[KEPT:]:
            if old.status != "done":  # else its artifact would be nobody's
                del self._jobs[old.id]
        try:
            self._write()
        except OSError as error:
            if job.id > before[0]:  # it is not begun
                self._last, self._jobs = before
                raise
            log.warning(
                "%s: cannot be written (%s); a restart begins job %d again", self._ledger.path, error, job.id
            )

    def _write(self) -> None:
        self._ledger.write(self._last, self.all())


class Ledger:
    """The file of the jobs, which several services may read, and one at a time writes."""

    def __init__(self, artifact: Path) -> None:
        self.path = artifact.parent / f".{artifact.name}.jobs.json"
        self.held = False
        self._holding = ExitStack()

    def hold(self) -> bool:
        """Whether this service writes it, from now on; the first one that asks does."""
        if not self.held:
            try:
                self._holding.enter_context(locked(self.path.with_suffix(".lock")))
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):  # such as no locks there
                    log.warning("%s: cannot be locked (%s)", self.path, error)
                    return False
            self.held = True
        return True

    def let_go(self) -> None:
        """Another service may write it."""
        self._holding.close()
        self.held = False

    def write(self, last: int, jobs: Iterable[Job]) -> None:
        """The last id that was given, and the jobs that are remembered. What is acknowledged survives the
        machine."""
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps({"last": last, "jobs": [asdict(job) for job in jobs]}), encoding="utf-8")
        sync(draft)
        draft.replace(self.path)
        sync(self.path.parent)

    def read(self) -> tuple[int, list[Job]]:
        """What was written."""
        try:
            noted = json.loads(self.path.read_text(encoding="utf-8"))
            return int(noted["last"]), [Job(**each) for each in noted["jobs"]]
        except FileNotFoundError:
            return 0, []
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s: cannot be read (%s); earlier jobs are forgotten", self.path, error)
            return 0, []


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


async def _all(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    return (await stream.read()).decode(errors="replace")


def _in_words(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
