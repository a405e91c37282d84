"""The routes of work that takes minutes."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from anyio import to_thread
from fastapi import Path, Request, Response
from starlette.exceptions import HTTPException

from index.database import CatalogueError
from index.space import no_space
from service.core import jobs
from service.schemas.jobs import Job, JobList
from service.schemas.problem import problems
from service.web.access import NO_KEY, NO_KEYS_SET, Access, guarded_router, reading_router
from service.web.asking import lease, shared
from service.web.problems import unwritable

router = reading_router()
changing = guarded_router(Access.WRITE, responses=problems({401: NO_KEY, 403: NO_KEYS_SET}))

LEARNING = "job 3 is learning already; wait for it, or cancel it"
NO_ROOM = "another artifact takes some 90,000,000 bytes beside this one, 1,000,000 are free; free space on …"
IN_USE = "run-001-learned-3 is served, or kept to go back to; serve another artifact first"
UNKNOWN = {404: "there is no job 4", 422: "job_id: Input should be a valid integer, not 'x'"}
JobId = Annotated[int, Path(description="A job's `id`.", examples=[3])]


@changing.post(
    "/labels/learn",
    status_code=202,
    summary="Learn from all labels that there are now",
    responses=problems({409: LEARNING, 507: NO_ROOM}),
)
async def learn(request: Request, response: Response) -> Job:
    """In a process of its own, of low priority and one thread. The artifact that is served stays as it is.
    The one that is made lies beside it until POST /admin/reload takes it, or DELETE /jobs/{job_id} lets it
    go."""
    with lease(request) as generation:
        served = generation.searcher.artifact
        size = await to_thread.run_sync(generation.searcher.catalogue.file_bytes)
    async with _told(request, "nothing was begun"):
        begun, *before = await shared(request).jobs.learn(served, size)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/jobs/{begun.id}"
    return _described(begun, before, in_use=[])


@router.get("/jobs", summary="What is being learned, and what was")
async def all_jobs(request: Request) -> JobList:
    """The latest first."""
    return JobList(jobs=await _all(request))


@router.get("/jobs/{job_id}", summary="How far a job is, or what came of it", responses=problems(UNKNOWN))
async def job(job_id: JobId, request: Request) -> Job:
    """Its `result` says how good the answers were before and are now."""
    for each in await _all(request):
        if each.id == job_id:
            return each
    raise _unknown(job_id)


@changing.delete(
    "/jobs/{job_id}",
    status_code=204,
    summary="Cancel a job, or let go what it made",
    responses=problems({**UNKNOWN, 409: IN_USE, 507: NO_ROOM}),
)
async def end_job(job_id: JobId, request: Request) -> None:
    """A running one is cancelled, and nothing is left of it but its line. One that ended is forgotten, with
    the artifact that it made."""
    kept, live = shared(request).jobs, shared(request).live
    async with _told(request, "nothing was deleted"):
        if job_id not in [each.id for each in await kept.all()]:
            raise _unknown(job_id)
        try:
            await kept.end(job_id, await live.in_use())
        except KeyError:  # meanwhile
            raise _unknown(job_id) from None


async def _all(request: Request) -> list[Job]:
    async with _told(request, "look again"):
        kept, in_use = await shared(request).jobs.all(), await shared(request).live.in_use()
    return [_described(job, kept, in_use) for job in kept]


def _described(job: jobs.Job, kept: Sequence[jobs.Job], in_use: Collection[str]) -> Job:
    return Job(**vars(job), seconds_left=jobs.seconds_left(job, kept), in_use=job.target in in_use)


@asynccontextmanager
async def _told(request: Request, outcome: str) -> AsyncIterator[None]:
    """What disk or server refuse, in words."""
    try:
        yield
    except CatalogueError as error:
        raise unwritable(error) from None
    except OSError as error:
        where = error.filename or shared(request).settings.artifact.resolve().parent
        text = f"{where}: {error.strerror}; {outcome}"
        raise HTTPException(507 if no_space(error) else 409, text) from None


def _unknown(job_id: int) -> HTTPException:
    return HTTPException(404, f"there is no job {str(job_id)[:20]}")
