"""How large a request may be, and how long it may take to come."""

from typing import NamedTuple

from anyio import current_time, fail_after, move_on_after
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.library import too_large
from service.web.headers import route_path
from service.web.problems import as_response

HEADERS = 65_536  # bytes of the request line and all header lines, or of what follows a body in chunks
ADDRESS = 16_384  # bytes; RFC 9112 (3) asks for at least 8,000 of the request line
CONTENT_TYPE, BOUNDARY = 1_024, 70  # bytes; the second by RFC 2046 (5.1.1)
AFTERWARDS = 262_144  # bytes that are taken and thrown away after such a refusal
IDLE = 30.0  # seconds for a request's headers to come, and in which some of an answer must be taken
READING, PAUSE = 300.0, 20.0  # seconds for a whole body, and in which there must be more of it
WAITING = 30.0  # seconds that a search with a large image waits for its turn
SLOWEST, GRACE = 4_096, 10.0  # bytes of a body a second on average, and seconds that it may be late
TOO_SLOW = (
    f"the body had not come after {READING:g} seconds, or no more of it for {PAUSE:g}, or less than "
    f"{SLOWEST:,} bytes a second; send it again, or less"
)
JSON_LIMIT = 262_144  # bytes of a body that is read as JSON before anything else is known of it
FORM_OVERHEAD = 65_536  # bytes around the image in a form: boundaries, headers, other fields
LINGER = 2.0  # seconds that a client may go on sending after a refusal, so that it comes to read it
REFUSAL = "refusal"  # in the state of a request: why its headers were not read to their end


class Refusal(NamedTuple):
    """Of a request whose headers cannot be taken, whatever its body is."""

    status: int
    detail: str


ADDRESS_TOO_LONG = Refusal(414, f"the address has more than {ADDRESS:,} bytes; ask for less at a time")
HEADERS_TOO_LONG = Refusal(431, f"the headers have more than {HEADERS:,} bytes; send fewer or shorter ones")
TYPE_TOO_LONG = Refusal(
    431, f"the header Content-Type has more than {CONTENT_TYPE:,} bytes; send the type alone, and a boundary"
)
BOUNDARY_TOO_LONG = Refusal(431, f"the boundary has more than {BOUNDARY} bytes; choose a shorter one")
HEADERS_TOO_SLOW = Refusal(408, f"the headers had not come after {IDLE:g} seconds; send them again")
UNREADABLE = Refusal(400, "the request cannot be read as HTTP/1.1")


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
        announced, kind = headers.get("content-length", "0"), headers.get("content-type", "")
        limit, detail = self._limit(route_path(scope), kind)
        received = 0
        refusal: Refusal | None = scope.get("state", {}).get(REFUSAL)
        if refusal is None and len(kind) > CONTENT_TYPE:  # parsing it takes time
            refusal = TYPE_TOO_LONG
        refused = refusal is not None
        whole = False
        begin = current_time()

        async def receive_limited() -> Message:
            nonlocal received, refused, whole
            refused = int(announced) > limit
            if not refused:
                latest = begin + min(READING, GRACE + received / SLOWEST)
                message = await receive() if whole else await _in_time(receive, latest)
                received += len(message.get("body", b""))
                refused, whole = received > limit, not message.get("more_body", False)
            if refused:
                raise HTTPException(413, detail, {"Connection": "close"})
            return message

        async def send_and_linger(message: Message) -> None:
            if refused and message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                await self._discard(receive, 2 * limit if refusal is None else AFTERWARDS)
                message = {"type": "http.response.body"}
            await send(message)

        if refusal is not None:
            answer = as_response(refusal.status, refusal.detail, {"Connection": "close"})
            return await answer(scope, receive_limited, send_and_linger)
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
