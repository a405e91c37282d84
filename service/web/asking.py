"""What the routes ask of: the artifact that is served, and all that requests share."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Path, Request
from starlette.exceptions import HTTPException

from service.core.jobs import Jobs
from service.core.live import Generation, Live
from service.core.pictures.decoding import Pool
from service.core.pictures.previews import Previews
from service.core.searcher import Searcher
from service.settings import Settings
from service.web.limits import TOO_SLOW
from service.web.metrics import Metrics
from service.web.places import Places, Turns

T = TypeVar("T")

UNKNOWN_ID = {404: "there is no image 123456", 422: "item_id: Input should be a valid integer, not 'x'"}
UNREADABLE_JSON = {
    400: "the body cannot be read as JSON; send it in UTF-8, as /docs shows",
    408: TOO_SLOW,
    413: "the body has more than 262,144 bytes; send less at a time",
}


@dataclass(frozen=True)
class Shared:
    """What all requests to a running service share. Made when it starts, within the event loop."""

    settings: Settings
    metrics: Metrics
    started: float  # by time.monotonic
    live: Live
    small: Pool  # decodes images that take milliseconds
    large: Pool  # and all others
    previews: Previews
    jobs: Jobs
    places: Places
    turns: Turns


def shared(request: Request) -> Shared:
    """That of the service which was asked."""
    its: Shared = request.state.shared
    return its


def lease(request: Request) -> AbstractContextManager[Generation]:
    """What is served now; it stays open until the request is answered."""
    return shared(request).live.lease()


async def _searcher(request: Request) -> AsyncIterator[Searcher]:
    with lease(request) as generation:
        yield generation.searcher


Service = Annotated[Searcher, Depends(_searcher)]
ItemId = Annotated[int, Path(description="An image's `id`, as searches and lists name it.", examples=[17])]


def address(request: Request, item_id: int, what: str) -> str:
    """Where something of an image can be had."""
    return f"{request.scope.get('root_path', '')}/images/{item_id}/{what}"


def found(look_up: Callable[[int], T], item_id: int) -> T:
    """What is looked up. HTTPException, 404, for an unknown id."""
    try:
        return look_up(item_id)
    except KeyError:
        raise no_image(item_id) from None


def no_image(item_id: int) -> HTTPException:
    """The refusal of an unknown id."""
    return HTTPException(404, f"there is no image {str(item_id)[:20]}")
