"""How large a body may be, and how long it may take to come."""

from anyio import current_time, fail_after, move_on_after
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.library import too_large
from service.web.headers import route_path

READING, PAUSE = 300.0, 20.0  # seconds for a whole body, and in which there must be more of it
TOO_SLOW = (
    f"the body had not come after {READING:g} seconds, or no more of it for {PAUSE:g}; send it again, or less"
)
JSON_LIMIT = 262_144  # bytes of a body that is read as JSON before anything else is known of it
FORM_OVERHEAD = 65_536  # bytes around the image in a form: boundaries, headers, other fields
LINGER = 2.0  # seconds that a client may go on sending after a refusal, so that it comes to read it


def too_many(limit: int) -> str:
    """The detail of a 413 for many images."""
    return f"the images have more than {limit:,} bytes together; send fewer at a time"


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
