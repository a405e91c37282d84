"""The routes of work that takes minutes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from anyio import to_thread
from fastapi import Path, Request, Response
from starlette.exceptions import HTTPException

from index.space import no_space
from service.core import jobs
from service.schemas.jobs import Job, JobList
from service.schemas.problem import problems
from service.web.access import NO_KEY, NO_KEYS_SET, Access, guarded_router, reading_router
from service.web.asking import lease, shared

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
    async with _noted(request):
        begun = await shared(request).jobs.learn(served, size)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/jobs/{begun.id}"
    return await _described(request, begun.id)


@router.get("/jobs", summary="What is being learned, and what was")
async def all_jobs(request: Request) -> JobList:
    """The latest first."""
    return JobList(jobs=await _all(request))


@router.get("/jobs/{job_id}", summary="How far a job is, or what came of it", responses=problems(UNKNOWN))
async def job(job_id: JobId, request: Request) -> Job:
    """Its `result` says how good the answers were before and are now."""
    return await _described(request, job_id)


@changing.delete(
    "/jobs/{job_id}",
    status_code=204,
    summary="Cancel a job, or let go what it made",
    responses=problems({**UNKNOWN, 409: IN_USE}),
)
async def end_job(job_id: JobId, request: Request) -> None:
    """A running one is cancelled, and nothing is left of it but its line. One that ended is forgotten, with
    the artifact that it made."""
    await _described(request, job_id)  # or there is none
    in_use = await shared(request).live.in_use()
    try:
        async with _noted(request):
            await shared(request).jobs.end(job_id, in_use)
    except KeyError:  # meanwhile
        raise _unknown(job_id) from None


async def _described(request: Request, job_id: int) -> Job:
    for job in await _all(request):
        if job.id == job_id:
            return job
    raise _unknown(job_id)


async def _all(request: Request) -> list[Job]:
    kept, used = await shared(request).jobs.all(), await shared(request).live.in_use()
    return [
        Job(**vars(job), seconds_left=jobs.seconds_left(job, kept), in_use=job.target in used) for job in kept
    ]


@asynccontextmanager
async def _noted(request: Request) -> AsyncIterator[None]:
    """What nobody can write down is not done."""
    try:
        yield
    except OSError as error:
        where = error.filename or shared(request).settings.artifact.resolve().parent
        text = f"{where}: {error.strerror}; nothing was changed"
        raise HTTPException(507 if no_space(error) else 409, text) from None


def _unknown(job_id: int) -> HTTPException:
    return HTTPException(404, f"there is no job {str(job_id)[:20]}")
