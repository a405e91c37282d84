"""The routes of work that takes minutes."""

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
    try:
        job = shared(request).jobs.learn(served, size)
    except OSError as error:  # nothing can be written beside the artifact
        text = f"{error.filename or served.path.resolve().parent}: {error.strerror}; nothing was begun"
        raise HTTPException(507 if no_space(error) else 409, text) from None
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/jobs/{job.id}"
    return await _described(request, job)


@router.get("/jobs", summary="What is being learned, and what was")
async def all_jobs(request: Request) -> JobList:
    """The latest first."""
    kept, used = shared(request).jobs, await shared(request).live.in_use()
    return JobList(jobs=[_told(kept, job, used) for job in kept.all()])


@router.get("/jobs/{job_id}", summary="How far a job is, or what came of it", responses=problems(UNKNOWN))
async def job(job_id: JobId, request: Request) -> Job:
    """Its `result` says how good the answers were before and are now."""
    return await _described(request, _found(request, job_id))


@changing.delete(
    "/jobs/{job_id}",
    status_code=204,
    summary="Cancel a job, or let go what it made",
    responses=problems({**UNKNOWN, 409: IN_USE}),
)
async def end_job(job_id: JobId, request: Request) -> None:
    """A running one is cancelled, and nothing is left of it but its line. One that ended is forgotten, with
    the artifact that it made."""
    _found(request, job_id)
    await shared(request).jobs.end(job_id, await shared(request).live.in_use())


def _found(request: Request, job_id: int) -> jobs.Job:
    try:
        return shared(request).jobs.get(job_id)
    except KeyError:
        raise HTTPException(404, f"there is no job {str(job_id)[:20]}") from None


async def _described(request: Request, job: jobs.Job) -> Job:
    return _told(shared(request).jobs, job, await shared(request).live.in_use())


def _told(kept: jobs.Jobs, job: jobs.Job, in_use: set[str]) -> Job:
    return Job(**vars(job), seconds_left=kept.seconds_left(job), in_use=job.target in in_use)
