"""HTTP/1.1 on one connection: uvicorn's protocol over httptools, with bounds on all that it waits for.

`uvicorn --http service.web.wire:Wire` takes it; `hebbsearch serve` does by itself.
"""

import asyncio
import socket
import struct
from asyncio import TimerHandle
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.web import limits
from service.web.limits import (
    ADDRESS,
    ADDRESS_TOO_LONG,
    AFTERWARDS,
    HEADERS,
    HEADERS_TOO_LONG,
    HEADERS_TOO_SLOW,
    REFUSAL,
    UNREADABLE,
    Refusal,
)

UNKNOWN = "unknown"  # the method of what is no request
FRAMING = (b"connection", b"content-length", b"transfer-encoding")  # where a request ends, and what then


class Wire(HttpToolsProtocol):
    """One connection.

    Headers and address are counted while they come. A request whose headers are refused is handed to the
    application as far as it was understood, with `limits.REFUSAL` in its state: so it is answered, named,
    counted and logged as any other.

    An offer to go on in another protocol, such as HTTP/2 or WebSocket, is not taken up (RFC 9110, 7.8).
    httptools ends with the headers of such a request; a new parser reads its body.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._unread = 0  # bytes that have become neither headers nor body yet
        self.url = b""
        self._no_request: TimerHandle | None = None  # runs while a request's headers are awaited
        self._not_taken: TimerHandle | None = None  # and this while an answer waits to be taken
        self._running: RequestResponseCycle | None = None  # `cycle` may be one that waits for it

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._no_request = self.loop.call_later(limits.IDLE, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting_for_a_request()
        self._stop_waiting_for_a_taker()
        self.pipeline.clear()  # nobody is there to be answered
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._unread += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            reason = error.__context__
            return self._refuse(reason.refusal if isinstance(reason, _Refused) else UNREADABLE)
        if self._unread > ADDRESS and len(self.url) > ADDRESS:
            return self._refuse(ADDRESS_TOO_LONG)
        if self._unread > HEADERS:
            return self._refuse(HEADERS_TOO_LONG)
        if self._no_request is None and self._is_idle():  # a part of the next request, or the rest of a body
            self._no_request = self.loop.call_later(limits.IDLE, self._give_up)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_waiting_for_a_taker()
        self._not_taken = self.loop.call_later(limits.IDLE, self._drop)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting_for_a_taker()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._close()

    # --- the parser ---

    def on_headers_complete(self) -> None:
        self._unread = 0
        if len(self.url) > ADDRESS:
            raise _Refused(ADDRESS_TOO_LONG)
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEADERS:
            raise _Refused(HEADERS_TOO_LONG)
        self._stop_waiting_for_a_request()
        super().on_headers_complete()
        self.url = b""
        self.headers = []  # what a body in chunks has at its end is no header of the request (RFC 9110, 6.5)

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        if not self.parser.should_upgrade():  # else the body comes yet
            super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return False

    def _parse(self, data: bytes) -> None:
        try:
            return self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            rest = memoryview(data)[offer.args[0] :]
        while True:
            self._read_on()
            try:
                return self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]

    def _read_on(self) -> None:
        """Let a new parser take up the request where its headers end: those that say how the body comes are
        all that it needs to know."""
        headers = b"".join(
            name + b": " + value + b"\r\n" for name, value in self.scope["headers"] if name in FRAMING
        )
        version = self.scope["http_version"].encode()
        self.parser = httptools.HttpRequestParser(_AfterHeaders(self))
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.parser.feed_data(b"POST / HTTP/" + version + b"\r\n" + headers + b"\r\n")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # --- waiting, and refusals ---

    def _stop_waiting_for_a_request(self) -> None:
        if self._no_request is not None:
            self._no_request.cancel()
            self._no_request = None

    def _stop_waiting_for_a_taker(self) -> None:
        if self._not_taken is not None:
            self._not_taken.cancel()
            self._not_taken = None

    def _is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        """Nobody asked in time."""
        self._no_request = None
        if self.transport.is_closing() or not self._is_idle():
            return
        if self._unread:
            self._refuse(HEADERS_TOO_SLOW)
        else:
            self.transport.close()
            self._close()

    def _close(self) -> None:
        """See to it that a connection that is closed is gone soon, though nobody takes the last answer."""
        if self.transport.get_write_buffer_size():
            self.loop.call_later(limits.IDLE, self._drop)

    def _drop(self) -> None:
        """Let go of the connection and of what the system has of an answer that nobody takes."""
        at_once = struct.pack("ii", 1, 0)
        with suppress(OSError, AttributeError):  # it is gone
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer and close; read no more than a little, so that whoever still sends comes to read why."""
        if self.transport.is_closing():
            return
        if not self._is_idle() and self.cycle.more_body:  # in the midst of a body: who reads it finds nobody
            if self.cycle.response_started:
                return self.transport.close()
            return self.send_400_response(refusal.detail)
        understood = bool(self.url)
        self.on_message_begin()
        self.url = b"/"
        self.scope["state"][REFUSAL] = refusal
        self._stop_waiting_for_a_request()
        super().on_headers_complete()
        self.scope["http_version"] = "1.1"  # it may not have been read yet
        if not understood:
            self.scope["method"] = UNKNOWN
        self.cycle.keep_alive = False
        reading = not self.flow.read_paused
        self.flow.pause_reading()
        self.transport.set_protocol(_Rest(self))
        if reading:
            self.flow.resume_reading()


class _Refused(Exception):
    """What a parser's callback raises."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


class _AfterHeaders:
    """What a parser calls that begins with headers which are known already; then it is as any other."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._known = True
        self.on_body, self.on_message_complete = wire.on_body, wire.on_message_complete

    def on_message_begin(self) -> None:
        self._unless_known(self._wire.on_message_begin)

    def on_url(self, url: bytes) -> None:
        self._unless_known(self._wire.on_url, url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unless_known(self._wire.on_header, name, value)

    def on_headers_complete(self) -> None:
        self._unless_known(self._wire.on_headers_complete)
        self._known = False

    def _unless_known(self, call: Callable[..., None], *what: bytes) -> None:
        if not self._known:
            call(*what)


class _Rest(asyncio.BufferedProtocol):
    """Throws away what comes after a refusal, and reads no more of it than `limits.AFTERWARDS` bytes."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._left = AFTERWARDS
        self._space = memoryview(bytearray(16_384))
        self.connection_lost = wire.connection_lost  # type: ignore[method-assign]
        self.pause_writing = wire.pause_writing  # type: ignore[method-assign]
        self.resume_writing = wire.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._space[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        self._left -= nbytes
        if not self._left:  # for the application the body is at its end
            self._wire.transport.pause_reading()
            self._wire.cycle.more_body = False
            self._wire.cycle.message_event.set()
