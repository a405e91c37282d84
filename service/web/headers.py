"""Headers of every response, and pages of other origins."""

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.schemas.trash import BATCH
from service.settings import PREFIX
from service.web.problems import as_response

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


class HeadAsGet:
    """Answers HEAD as GET, without the body (RFC 9110, 9.3.2), on every route; the server sends none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)
        asked = {**scope, "method": "GET"}
        try:
            await self.app(asked, receive, send)
        finally:
            scope.update({**asked, "method": "HEAD"})  # what became known of the route


class OtherOrigins(CORSMiddleware):
    """Lets the pages of the allowed origins ask; that others may not is said as any other error is."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "PATCH", "DELETE"),
            allow_headers=("Authorization", BATCH, "X-Request-ID"),  # a key is sent so, never as a cookie
            expose_headers=("X-Request-ID", BATCH, "Retry-After", "Content-Disposition"),
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == HTTPStatus.OK:
            return response
        reason = bytes(response.body).decode()
        detail = f"{reason}; {PREFIX}CORS_ORIGINS names the origins whose pages may ask"
        return as_response(400, detail, {"Vary": response.headers["Vary"]})
