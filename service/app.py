"""The application: settings, lifespan, limits, headers, and every error as a problem that says what to do.

Run it with `uvicorn --factory service.app:create_app`.
"""

import asyncio
import gc
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from anyio import CapacityLimiter
from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from index.artifact import ArtifactError, in_service
from index.database import CatalogueAway, CatalogueBusy, CatalogueError, Followed
from index.engine import EngineError
from index.schemas import in_service_at
from service.core.jobs import Jobs
from service.core.live import ANSWERING, Live, opened
from service.core.pictures import decoding
from service.core.pictures.previews import Previews
from service.core.searcher import Searcher
from service.routes import about, admin, changes, evaluation, health, images, jobs, labels, search, trash
from service.schemas.problem import problems
from service.settings import PREFIX, Settings, mistyped, split
from service.web.asking import Shared
from service.web.forms import GIVEN_TWICE, parameters_once
from service.web.headers import DefaultHeaders, HeadAsGet, OtherOrigins
from service.web.limits import BodyLimit
from service.web.metrics import Metrics
from service.web.places import Places, Turns
from service.web.problems import REFUSALS, failed, on_disconnect, on_http_error, on_invalid, on_refusal
from service.web.watching import Watching, configure_logging

log = logging.getLogger("hebbsearch")

STATIC = Path(__file__).parent / "static"
TAGS = (
    (health.router, "health"),
    (search.router, "search"),
    (images.router, "images"),
    (evaluation.router, "evaluation"),
    (about.router, "about"),
    (labels.router, "labels"),
    (changes.router, "images"),
    (trash.router, "trash"),
    (admin.router, "admin"),
    (jobs.router, "jobs"),
    (jobs.changing, "jobs"),
)
# Seconds for a small image, which takes milliseconds; then it is one of the large ones. So long it holds a
# thread that answers others.
PATIENCE = 0.25
HOUR = 3600  # seconds
FOLLOWED = 1.0  # seconds between two looks at who has the place of what is served


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service for an artifact; without `settings` they come from the environment.

    What cannot be served raises ArtifactError or EngineError; where nobody passed settings, as under uvicorn,
    it ends the process with one line that names the fault.
    """
    if settings is None:
        try:
            settings = _settings_from_environment()
            configure_logging(settings.log)
            for variable, meant in mistyped(os.environ).items():
                log.warning("%s is no setting and nobody reads it; is %s meant?", variable, meant)
            return create_app(settings)
        except (ArtifactError, EngineError, OSError) as error:
            raise SystemExit(str(error)) from None
    decoding.prepare()  # loads while the artifact is opened
    opened = [_searcher(settings)]  # until it is served: what takes its place shall free it
    metrics = Metrics({name.replace("-", "_"): value for name, value in about.versions().items()})
    app = FastAPIOffline(  # its /docs brings its scripts along instead of asking another host
        title="hebbsearch",
        summary="Image search that learned from unlabelled pictures.",
        version=version("hebbsearch"),
        lifespan=lambda _: _running(settings, opened, metrics),
        redoc_url=None,
        # Stable, for programs that are made from the document: the name of the function, and no path.
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.opened = opened
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    for refusal in REFUSALS:
        app.add_exception_handler(refusal, on_refusal)
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimit, image_limit=settings.max_image_bytes, batch_limit=settings.max_batch_bytes)
    app.add_middleware(Watching, metrics=metrics, failed=failed)
    if origins := split(settings.cors_origins):  # outside of all that may fail: a page shall read why
        app.add_middleware(OtherOrigins, origins=origins)
    app.add_middleware(DefaultHeaders)
    for routes, tag in TAGS:
        app.include_router(
            routes,
            tags=[tag],
            dependencies=[Depends(parameters_once)],
            responses=problems({422: GIVEN_TWICE.format("k")}),
        )
    app.add_api_route("/", _page, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


@asynccontextmanager
async def _running(
    settings: Settings, opened: list[Searcher], metrics: Metrics
) -> AsyncIterator[dict[str, Shared]]:
    """What all requests share, from the start of the service to its end."""
    small, large = (
        decoding.Pool(workers, seconds=seconds, memory=settings.decoding_memory, least=least)
        for workers, seconds, least in (
            (ANSWERING + 1, PATIENCE, PATIENCE / 4),  # one for whoever asks how we are
            # A third each for images that are searched with, that are added, and that are looked at.
            (3 * settings.concurrency, settings.decoding_seconds, None),
        )
    )
    live = Live(opened.pop(), settings, counting=metrics.counting, decode=large.decode)
    work = Jobs(settings.artifact.resolve(), settings.catalogue_url)
    with live.lease() as generation:
        await work.resume(generation.searcher.artifact)
    tasks = [asyncio.create_task(_tidy(live))]
    if settings.catalogue_url is not None:
        tasks += [asyncio.create_task(_follow(live)), asyncio.create_task(_go_on(live, work))]
    # What exists now stays: looking through it for garbage would stop all searches for 0.2 s.
    gc.collect()
    gc.freeze()
    try:
        yield {
            "shared": Shared(
                settings=settings,
                metrics=metrics,
                started=time.monotonic(),
                live=live,
                small=small,
                large=large,
                jobs=work,
                previews=Previews(large.decode, max_pixels=settings.max_pixels),
                places=Places(CapacityLimiter(settings.queue), CapacityLimiter(settings.concurrency)),
                turns=Turns(
                    prepare=CapacityLimiter(settings.concurrency),
                    preview=CapacityLimiter(settings.concurrency),
                ),
            )
        }
    finally:
        gc.unfreeze()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await work.close()
        await live.close()
        small.close()
        large.close()


async def _tidy(live: Live) -> None:
    """Empty the trash of what has lain there long enough, now and every hour."""
    while True:
        try:
            if forgotten := await live.tidy():
                log.info("%s images left the trash for good", f"{forgotten:,}")
        except (CatalogueError, OSError):  # a disk that is full, another process that serves a successor
            log.exception("the trash could not be emptied of what is old; it is tried again in an hour")
        await asyncio.sleep(HOUR)


async def _go_on(live: Live, work: Jobs) -> None:
    """Learn what another service on the same catalogue was learning when it ended."""
    while True:
        await asyncio.sleep(FOLLOWED)
        with live.lease() as generation:
            served = generation.searcher.artifact
        try:
            await work.resume(served, at_once=False)
        except Exception:
            log.exception("what another service was learning is not gone on with")


async def _follow(live: Live) -> None:
    """Serve what another service on the same catalogue had take the place of what is served. Where that
    fails, it is tried less and less often."""
    failed = 0
    while True:
        await asyncio.sleep(FOLLOWED * 2 ** min(failed, 6))
        try:
            await live.follow()
            failed = 0
        except (CatalogueAway, CatalogueBusy):  # which searches say
            pass
        except (ArtifactError, CatalogueError, EngineError, OSError) as error:
            failed += 1
            log.error("what took the place of this artifact cannot be served: %s", error)
        except Exception:
            failed += 1
            log.exception("what took the place of this artifact cannot be served")


def _searcher(settings: Settings) -> Searcher:
    """Of the artifact that was asked for, or of the one that took its place."""
    url = settings.catalogue_url
    asked = settings.artifact
    path, url = (in_service(asked), None) if url is None else in_service_at(asked, url)
    if path != asked.resolve():
        log.warning("%s took the place of %s and is served", path, asked)
    searcher = opened(path, settings, url=url)
    if url is None:
        return searcher
    try:
        searcher.catalogue.check_in_place()
    except Followed:  # while it was opened
        searcher.close()
        return _searcher(settings)
    return searcher


def _settings_from_environment() -> Settings:
    try:
        return Settings()  # type: ignore[call-arg]  # the environment has the artifact
    except ValidationError as error:
        faults = (
            f"{PREFIX}{str(fault['loc'][0]).upper()}: "
            + (
                "is not set; name a folder that hebbsearch build made"
                if fault["type"] == "missing"
                else fault["msg"].removeprefix("Value error, ")
                + ("" if _is_secret(fault) else f", not {fault['input']!r}")
            )
            for fault in error.errors()
        )
        raise SystemExit("; ".join(faults)) from None


def _is_secret(fault: ErrorDetails) -> bool:
    return Settings.model_fields[str(fault["loc"][0])].annotation is SecretStr


async def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html")


# --- errors ----------------------------------------------------------------------------------------


# --- middleware ------------------------------------------------------------------------------------
