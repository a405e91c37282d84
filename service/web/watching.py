"""Every request is counted, timed, named and logged: one line each, without what it was about."""

import json
import logging
import os
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.web.metrics import Metrics

HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")
NOWHERE = "(none)"  # the route of an address that leads nowhere
ENDED = 499  # nobody was there to be answered, as nginx writes it
LONGEST = 64  # letters of a client's name

requests = logging.getLogger("hebbsearch.requests")
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class Watching:
    """Counts, times and logs requests, and answers those that failed with `failed()`.

    A request's id is the one that it brings as X-Request-ID, if that is harmless, or a new one. It is in
    the answer's header and in every line that is logged for the request.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, failed: Callable[[], Response]) -> None:
        self.app = app
        self.metrics = metrics
        self.failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begin = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if HARMLESS.fullmatch(given) else os.urandom(8).hex()
        request_id.set(name)
        status, sent = 0, 0
        left = False

        async def heard() -> Message:
            nonlocal left
            message = await receive()
            left = left or (message["type"] == "http.disconnect" and not status)
            return message

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = name
            else:
                sent += len(message.get("body", b""))
            await send(message)

        error: Exception | None = None
        try:
            await self.app(scope, heard, watched)
        except Exception as failure:
            error = failure
            if status:  # the answer has begun: all that is left is to break it off
                raise
            await self.failed()(scope, heard, watched)
        finally:
            seconds = time.perf_counter() - begin
            route = route_of(scope)
            status = ENDED if left or not status else status
            self.metrics.answered(scope["method"], route, status, seconds)
            level = logging.ERROR if error else logging.INFO
            if requests.isEnabledFor(level):
                facts = {
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "ms": round(1e3 * seconds, 2),
                    "bytes": sent,
                    "client": str((scope.get("client") or ("",))[0])[:LONGEST],
                }
                requests.log(level, "%s", _Facts(facts), exc_info=error, extra={"facts": facts})


def route_of(scope: Scope) -> str:
    """The template of the route that took the request; whatever addresses are tried, there are few."""
    path = getattr(scope.get("route"), "path", None)
    if path is not None:
        return str(path)
    return "/static" if scope.get("root_path", "").endswith("/static") else NOWHERE


class _Facts:
    """What is known of a request, as text; made only where it is written."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    def __str__(self) -> str:
        return "{client} {method} {route} {status} {ms:g} ms {bytes} bytes".format_map(self._facts)


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, Any] | None = getattr(record, "facts", None)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **({"message": record.getMessage()} if facts is None else facts),
        }
        if (name := request_id.get()) is not None:
            line["request_id"] = name
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextLines(logging.Formatter):
    """A record as a line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        name = request_id.get()
        return super().formatMessage(record) + (f" [{name}]" if name else "")


def configure_logging(form: Literal["json", "text"]) -> None:
    """Log to standard error, requests in place of uvicorn's access log; uvicorn's own lines too where they
    are JSON, and what libraries say, unless somebody else has made a log of that. What uvicorn was told with
    --log-level and --no-access-log holds for both."""
    server, access = logging.getLogger("uvicorn.error"), logging.getLogger("uvicorn.access")
    ours, formatter = logging.getLogger("hebbsearch"), JsonLines() if form == "json" else TextLines()
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    ours.setLevel(server.level or logging.INFO)
    if not (ours.handlers or access.handlers or access.propagate):  # --no-access-log
        requests.setLevel(max(ours.level, logging.ERROR))  # what fails is still said
    ours.handlers, ours.propagate = [handler], False
    if not (others := logging.getLogger()).handlers:
        others.addHandler(handler)
        logging.captureWarnings(True)
    access.handlers, access.propagate = [], False
    if form == "json":
        for each in logging.getLogger("uvicorn").handlers:
            each.setFormatter(formatter)
