"""The application: settings, lifespan, limits, headers, and every error as a problem that says what to do.

Run it with `uvicorn --factory service.app:create_app`.
"""

import gc
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, current_time, fail_after, move_on_after
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from index.artifact import ArtifactError, in_service
from index.space import no_space
from service import admin, api, changes, decoding, insight
from service.carrying import CannotCarry
from service.library import HeldOut, OtherBytes
from service.live import ANSWERING, Live, NotReplaced
from service.metrics import Metrics
from service.schemas import (
    PAUSE,
    PROBLEM_MEDIA_TYPE,
    READING,
    TOO_SLOW,
    problem,
    problems,
    too_large,
    too_many,
)
from service.searcher import NothingToMeasure, Searcher, UnknownLabel
from service.settings import PREFIX, Settings, split
from service.watching import Watching, configure_logging

log = logging.getLogger("hebbsearch")

STATIC = Path(__file__).parent / "static"
JSON_LIMIT = 262_144  # bytes of a body that is read as JSON before anything else is known of it
FORM_OVERHEAD = 65_536  # bytes around the image in a form: boundaries, headers, other fields
# What the searcher and the library refuse wherever it is asked; their messages say what to do.
REFUSALS: dict[type[Exception], int] = {
    UnknownLabel: 422,
    NothingToMeasure: 409,
    HeldOut: 409,
    OtherBytes: 409,
    CannotCarry: 409,
    NotReplaced: 409,
    ArtifactError: 422,
}
EXPLAINED = 5  # faults that one refusal explains
# Seconds for a small image, which takes milliseconds; then it is one of the large ones. So long it holds a
# thread that answers others.
PATIENCE = 0.25
LINGER = 2.0  # seconds that a client may go on sending after a refusal, so that it comes to read it

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",  # blob: the chosen image; data: the icon
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
# FastAPI's own page starts itself from a script inside it.
DOCS_POLICY = CONTENT_SECURITY_POLICY.replace(
    "script-src 'self'; style-src 'self'",
    "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'",
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service for an artifact; without `settings` they come from the environment.

    An artifact that cannot be served raises ArtifactError; where nobody passed settings, as under
    uvicorn, it ends the process with one line that names the fault.
    """
    if settings is None:
        try:
            settings = _settings_from_environment()
            configure_logging(settings.log)
            return create_app(settings)
        except (ArtifactError, OSError) as error:
            raise SystemExit(str(error)) from None
    decoding.prepare()  # loads while the artifact is opened
    opened = _searcher(settings)
    metrics = Metrics({name.replace("-", "_"): value for name, value in insight.versions().items()})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        small, large = (
            decoding.Pool(workers, seconds=seconds, memory=settings.decoding_memory)
            for workers, seconds in (
                (ANSWERING + 1, min(PATIENCE, settings.decoding_seconds)),  # one for whoever asks how we are
                (2 * settings.concurrency, settings.decoding_seconds),  # half for images that are added
            )
        )
        live = Live(app.state.opened.pop(), settings, counting=metrics.counting, decode=large.decode)
        # What exists now stays: looking through it for garbage would stop all searches for 0.2 s.
        gc.collect()
        gc.freeze()
        try:
            yield {
                "live": live,
                "places": CapacityLimiter(settings.queue),
                "searching_many": CapacityLimiter(api.BATCHES),
                "abreast": CapacityLimiter(api.ABREAST),
                "small": small,
                "large": large,
                "decoding": CapacityLimiter(settings.concurrency),
                # Who waits for one of these must not hold threads that others need.
                "evaluating": CapacityLimiter(1),
                "counting": CapacityLimiter(1),
                "grouping": CapacityLimiter(1),
                "grouping_places": CapacityLimiter(insight.GROUPING),
                "exporting": CapacityLimiter(1),
                "exporting_places": CapacityLimiter(insight.EXPORTING),
                "adding": CapacityLimiter(changes.ADDING),
                "preparing": CapacityLimiter(settings.concurrency),
                "changing": CapacityLimiter(changes.CHANGING),
                "probing": CapacityLimiter(1),
            }
        finally:
            gc.unfreeze()
            await live.close()
            small.close()
            large.close()

    app = FastAPIOffline(  # its /docs brings its scripts along instead of asking another host
        title="hebbsearch",
        summary="Image search that learned from unlabelled pictures.",
        version=version("hebbsearch"),
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.opened = [opened]  # until it is served: what takes its place shall free it
    app.state.settings = settings
    app.state.started = time.monotonic()
    app.state.metrics = metrics
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    for refusal in REFUSALS:
        app.add_exception_handler(refusal, _on_refusal)
    app.add_middleware(BodyLimit, image_limit=settings.max_image_bytes, batch_limit=settings.max_batch_bytes)
    app.add_middleware(Watching, metrics=metrics, failed=_failed)
    if origins := split(settings.cors_origins):  # outside of all that may fail: a page shall read why
        app.add_middleware(OtherOrigins, origins=origins)
    app.add_middleware(DefaultHeaders)
    for routes in (api.router, api.reading, insight.router, changes.router, admin.router):
        app.include_router(
            routes,
            dependencies=[Depends(api.parameters_once)],
            responses=problems({422: api.GIVEN_TWICE.format("k")}),
        )
    app.add_api_route("/", _page, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


def _searcher(settings: Settings) -> Searcher:
    """Of the artifact that was asked for, or of the one that took its place."""
    path = in_service(settings.artifact)
    if path != settings.artifact.resolve():
        log.warning("%s took the place of %s and is served", path, settings.artifact)
    return Searcher.open(path, max_pixels=settings.max_pixels)


def _settings_from_environment() -> Settings:
    try:
        return Settings()  # type: ignore[call-arg]  # the environment has the artifact
    except ValidationError as error:
        faults = (
            f"{PREFIX}{str(fault['loc'][0]).upper()}: "
            + (
                "is not set; name a folder that build_index.py made"
                if fault["type"] == "missing"
                else fault["msg"] + ("" if _is_secret(fault) else f", not {fault['input']!r}")
            )
            for fault in error.errors()
        )
        raise SystemExit("; ".join(faults)) from None


def _is_secret(fault: ErrorDetails) -> bool:
    return str(fault["loc"][0]).endswith("_keys")


async def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html")


# --- errors ----------------------------------------------------------------------------------------


def _problem(status: int, detail: str, headers: Any = None) -> Response:
    return JSONResponse(problem(status, detail).model_dump(), status, headers, PROBLEM_MEDIA_TYPE)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if detail == HTTPStatus(error.status_code).phrase:  # the router's own words say too little
        detail = {
            404: "there is nothing at this address; /docs lists the addresses there are",
            405: f"{request.method} is not possible here, only {(error.headers or {}).get('Allow')}",
        }.get(error.status_code, detail)
    elif detail == "There was an error parsing the body":  # FastAPI's
        detail = "the body cannot be read as JSON; send it in UTF-8, as /docs shows"
    return _problem(error.status_code, detail, error.headers)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    more = f"; and {len(faults) - EXPLAINED} more" if len(faults) > EXPLAINED else ""
    return _problem(422, "; ".join(_explained(fault) for fault in faults[:EXPLAINED]) + more)


def _explained(fault: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in fault["loc"][1:])
    if fault["type"] == "extra_forbidden":
        return f"{name[:80]}: there is no such parameter; /docs lists those there are"
    return f"{name}: {fault['msg']}, not {str(fault['input'])[:80]!r}"


async def _on_refusal(_: Request, error: Exception) -> Response:
    return _problem(507 if no_space(error) else REFUSALS[type(error)], str(error))


async def _on_disconnect(_: Request, __: Exception) -> Response:
    return _problem(400, "the connection ended before the whole image had arrived")


def _failed() -> Response:
    return _problem(
        500, "the service failed at this request and its log says why; other requests are answered"
    )


# --- middleware ------------------------------------------------------------------------------------


def route_path(scope: Scope) -> str:
    """The path as the routes know it, without the prefix that a proxy adds."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class DefaultHeaders:
    """Headers for every response that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("Cache-Control", "no-cache")  # always asked again, often answered 304
                policy = DOCS_POLICY if route_path(scope) == "/docs" else CONTENT_SECURITY_POLICY
                headers.setdefault("Content-Security-Policy", policy)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class OtherOrigins(CORSMiddleware):
    """Lets the pages of the allowed origins ask; that others may not is said as any other error is."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "PATCH", "DELETE"),
            allow_headers=("Authorization", "X-Request-ID"),  # a key is sent so, never as a cookie
            expose_headers=("X-Request-ID", "Retry-After", "Content-Disposition"),
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == HTTPStatus.OK:
            return response
        reason = bytes(response.body).decode()
        detail = f"{reason}; {PREFIX}CORS_ORIGINS names the origins whose pages may ask"
        return _problem(400, detail, {"Vary": response.headers["Vary"]})


class BodyLimit:
    """Refuses a body that is larger than the image limit and a form around it, or that does not come in time.

    Its announced length decides first; without one, the bytes are counted as they come in. The refusal
    is an exception inside the application, which answers it like any other. The answer goes out at
    once; then, of one that is too large, a bounded part of the rest is read and thrown away before the
    connection closes, because closing on a client that still sends would lose the answer on its way.
    """

    def __init__(self, app: ASGIApp, image_limit: int, batch_limit: int) -> None:
        self.app = app
        self.image_limit = image_limit
        self.batch_limit = batch_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "0")
        limit, detail = self._limit(route_path(scope), headers.get("content-type", ""))
        received = 0
        refused = whole = False
        latest = current_time() + READING

        async def receive_limited() -> Message:
            nonlocal received, refused, whole
            refused = int(announced) > limit
            if not refused:
                message = await receive() if whole else await _in_time(receive, latest)
                received += len(message.get("body", b""))
                refused, whole = received > limit, not message.get("more_body", False)
            if refused:
                raise HTTPException(413, detail, {"Connection": "close"})
            return message

        async def send_and_linger(message: Message) -> None:
            if refused and message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                await self._discard(receive, 2 * limit)
                message = {"type": "http.response.body"}
            await send(message)

        return await self.app(scope, receive_limited, send_and_linger)

    def _limit(self, path: str, kind: str) -> tuple[int, str]:
        """How many bytes may come, and what is said of more."""
        plain = kind.partition(";")[0].strip().lower()
        if plain == "application/json" or plain.endswith("+json"):  # what FastAPI parses
            return JSON_LIMIT, f"the body has more than {JSON_LIMIT:,} bytes; send less at a time"
        if path in ("/images", "/search/batch") and kind.lower().startswith("multipart/"):
            return self.batch_limit + FORM_OVERHEAD, too_many(self.batch_limit)
        return self.image_limit + FORM_OVERHEAD, too_large(self.image_limit)

    async def _discard(self, receive: Receive, most: int) -> None:
        discarded = 0
        with move_on_after(LINGER):
            while discarded < most:
                message = await receive()
                if not message.get("more_body", False):
                    return
                discarded += len(message["body"])


async def _in_time(receive: Receive, latest: float) -> Message:
    """The next part of a body. HTTPException when it has not come at `latest` or after PAUSE seconds."""
    try:
        with fail_after(min(PAUSE, latest - current_time())):
            return await receive()
    except TimeoutError:
        raise HTTPException(408, TOO_SLOW, {"Connection": "close"}) from None
