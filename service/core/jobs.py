"""Learning from labels while the service answers: in a process of its own, one at a time.

What is under way and what came of it is on the disk beside the artifact, so that a restart begins again what
it cut off. The artifact that is made lies there too, until somebody has it served or lets it go.
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
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from index.artifact import CATALOGUE, sync
from index.names import shown

Status = Literal["running", "done", "failed", "cancelled"]

LABEL = (sys.executable, "-P", "-m", "training.label")  # what learns
KEPT = 20  # jobs that are remembered
ROOM = 1.3  # times what the catalogue takes now: its copy, and what is written while codes change
PATIENCE = 15.0  # seconds for a child to end by itself
NICENESS = 10
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
    """Those of one service. Made and used within the event loop."""

    def __init__(self, artifact: Path) -> None:
        """`artifact`: the folder that the service was asked to serve; what is made lies beside it."""
        self._parent = artifact.parent
        self._base = artifact.name
        self._file = artifact.parent / f".{artifact.name}.jobs.json"
        self._last, kept = self._read()
        self._jobs = {job.id: job for job in kept}
        self._running: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._closing = False

    def all(self) -> list[Job]:
        """The latest first."""
        return sorted(self._jobs.values(), key=lambda job: -job.id)

    def get(self, number: int) -> Job:
        """Raises KeyError."""
        return self._jobs[number]

    def seconds_left(self, job: Job) -> float | None:
        """By how long the last one took; None where nobody knows."""
        took = [other.ended - other.started for other in self.all() if other.status == "done" and other.ended]
        if job.status != "running" or not took:
            return None
        return max(0.0, took[0] - (time.time() - job.started))

    def resume(self, served: Path) -> None:
        """Begin again what a restart cut off."""
        for job in self.all():
            if (
                job.status == "running" and job.target == served.name
            ):  # somebody was faster than the note of it
                self._note(replace(job, status="done", ended=time.time()))
            elif job.status == "running":
                log.info("job %d was cut off and begins again", job.id)
                self._begin(replace(job, artifact=served.name, started=time.time(), step=""), served)
                return

    def learn(self, served: Path) -> Job:
        """Begin to learn from the labels of the artifact that is served. Raises JobError where something is
        being learned, and NoRoom."""
        if self._running is not None:
            running = [job.id for job in self.all() if job.status == "running"]
            if not running:
                raise JobError("what was cancelled has not ended yet; try again in a second")
            raise JobError(f"job {running[0]} is learning already; wait for it, or cancel it")
        needed = int(ROOM * (served / CATALOGUE).stat().st_size)
        free = shutil.disk_usage(self._parent).free
        if free < needed:
            raise NoRoom(
                f"another artifact takes some {needed:,} bytes beside this one, {free:,} are free; free "
                "space on that disk, or let go what was learned before"
            )
        job = Job(self._last + 1, "running", time.time(), served.name, self._free_name())
        self._begin(job, served)
        return job

    async def end(self, number: int, in_use: Iterable[str]) -> None:
        """Cancel what runs; of what is done, delete the artifact that was made, unless it is `in_use`. Raises
        KeyError and JobError."""
        job = self.get(number)
        if job.status == "running":
            self._note(replace(job, status="cancelled", ended=time.time()))
            await self._stop()
            return
        if job.status == "cancelled":
            await self._stop()  # it may be ending still
        if job.status == "done" and job.target in in_use:
            raise JobError(f"{job.target} is served, or kept to go back to; serve another artifact first")
        await asyncio.to_thread(self._delete, job)
        self._jobs.pop(number, None)
        self._write()

    async def tidy(self, in_use: Iterable[str]) -> None:
        """Delete what was learned before and is neither served nor kept to go back to. The latest waits for
        somebody to decide."""
        wanted = set(in_use)
        done = [job for job in self.all() if job.status == "done"]
        for job in done[1:]:
            if job.target not in wanted:
                await asyncio.to_thread(self._delete, job)
                self._jobs.pop(job.id, None)
                self._write()

    async def close(self) -> None:
        """Stop what runs; the next start begins it again."""
        self._closing = True
        await self._stop()

    def _begin(self, job: Job, served: Path) -> None:
        self._note(job)
        self._running = asyncio.create_task(self._run(job, served))

    async def _run(self, job: Job, served: Path) -> None:
        try:
            # What an earlier try has made whole is of labels that were there then.
            await asyncio.to_thread(self._delete, job)
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
            await asyncio.to_thread(self._delete, job)
        error_text = shown(reason[0].removeprefix("hebbsearch label: "))
        self._note(replace(job, status="failed", ended=time.time(), error=error_text))

    async def _learned(self, job: Job, served: Path) -> tuple[str, dict[str, Any] | None, int]:
        """What the child says on its standard error, its result, and its status."""
        self._process = await asyncio.create_subprocess_exec(
            *LABEL, str(served), "--out", str(self._parent / job.target), "--json", "--while-read",
            stdin=PIPE, stdout=PIPE, stderr=PIPE, env=os.environ | SINGLE, limit=LONGEST_LINE,
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

    async def _stop(self) -> None:
        """End the child, which removes what it began, and wait until it is gone."""
        running = self._running
        if running is None:
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
        number = 1
        while (self._parent / f"{self._base}-learned-{number}").exists() or any(
            job.target == f"{self._base}-learned-{number}" for job in self.all()
        ):
            number += 1
        return f"{self._base}-learned-{number}"

    def _delete(self, job: Job) -> None:
        """Rename first, so that no half of an artifact lies under its name."""
        gone = self._parent / f".{job.target}.gone"
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(FileNotFoundError):
            shutil.rmtree((self._parent / job.target).rename(gone), ignore_errors=True)

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
                "%s: cannot be written (%s); a restart begins job %d again", self._file, error, job.id
            )

    def _write(self) -> None:
        draft = self._file.with_suffix(".draft")
        noted = {"last": self._last, "jobs": [asdict(job) for job in self.all()]}
        draft.write_text(json.dumps(noted), encoding="utf-8")
        sync(draft)  # what is acknowledged survives the machine
        draft.replace(self._file)
        sync(self._file.parent)

    def _read(self) -> tuple[int, list[Job]]:
        """The last id that was given, and the jobs that are remembered."""
        try:
            noted = json.loads(self._file.read_text(encoding="utf-8"))
            return int(noted["last"]), [Job(**each) for each in noted["jobs"]]
        except FileNotFoundError:
            return 0, []
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s: cannot be read (%s); earlier jobs are forgotten", self._file, error)
            return 0, []


async def _all(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    return (await stream.read()).decode(errors="replace")


def _in_words(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
