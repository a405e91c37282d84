"""Whether the service is well: open to all."""

import logging

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException

from index.database import CatalogueError
from index.engine import EngineError
from service.core.pictures.decoding import NoDecoder
from service.schemas.admin import Health, Readiness
from service.schemas.problem import problems
from service.web.asking import Service, shared
from training.nets.images import ImageError

router = APIRouter()

log = logging.getLogger("hebbsearch")
NOT_READY = "a search that was tried with a tiny image is not answered now:"


@router.get("/health/live", summary="The process answers")
async def live() -> Health:
    """Whether to leave the process running."""
    return Health()


@router.get(
    "/health/ready",
    summary="Queries are answered",
    responses=problems({503: f"{NOT_READY} decoding the image took longer than 0.25 seconds, the limit"}),
)
async def ready(request: Request, searcher: Service) -> Readiness:
    """Decodes a tiny image and searches with it, past all that wait: whether to send requests here."""

    def work() -> Readiness:
        items = searcher.check(decode=shared(request).small.decode)
        following = searcher.following
        return Readiness(
            items=items,
            catalogue=following.catalogue_absence.reason,
            engine=following.engine_absence.reason,
            stale=following.behind,
        )

    try:
        return await to_thread.run_sync(work, limiter=shared(request).turns.probe)
    except (ImageError, CatalogueError, EngineError, NoDecoder) as error:
        reason, _, _ = str(error).partition(";")  # what follows is for whoever sent an image
    except Exception:
        log.exception("the search that tells whether the service is ready failed")
        reason = "its log says why"
    raise HTTPException(503, f"{NOT_READY} {reason}", {"Retry-After": "1"})
