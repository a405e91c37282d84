"""What a connection may send, and how long the service waits for it: with real sockets."""

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from index.artifact import Artifact
from service.app import create_app
from service.settings import Settings
from service.web import limits
from tests.samples import serve_here
from tests.service.sockets import connect, until_closed

pytestmark = pytest.mark.process

MEGABYTE = 2**20
HOST = b"Host: localhost\r\n"


@pytest.fixture
def picture(artifact: Artifact) -> bytes:
    return (Path(artifact.manifest.data["root"]) / "class1" / "004.png").read_bytes()


def asked(address: str, sent: bytes) -> bytes:
    """What comes of these bytes, until the server closes."""
    with connect(address) as connection:
        with suppress(ConnectionError):  # it may close while we send
            connection.sendall(sent)
        return until_closed(connection)


def endless(address: str, begin: bytes, again: bytes, most: int = 64 * MEGABYTE) -> tuple[bytes, int]:
    """What comes of bytes that never end, and how many of them could be sent."""
    sent = 0
    with connect(address) as connection, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(until_closed, connection)
        with suppress(ConnectionError):
            connection.sendall(begin)
            while sent < most:
                connection.sendall(again)
                sent += len(again)
            connection.shutdown(socket.SHUT_WR)
        return answer.result(), sent


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:99]
    return int(answer[9:12])


def problem(answer: bytes) -> dict[str, object]:
    """The error that was answered, which looks as any other."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head and b"x-request-id: " in head
    assert b"connection: close" in head.lower() and b"x-content-type-options: nosniff" in head
    found: dict[str, object] = json.loads(body)
    assert found["status"] == status(answer)
    return found


def lines(count: int, length: int) -> bytes:
    """So many headers of so many bytes."""
    return b"".join(b"X-%06d: " % number + b"a" * (length - 12) + b"\r\n" for number in range(count))


# --- how much --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "again", "expected"),
    [
        (b"GET / HTTP/1.1\r\n" + HOST, lines(1000, 100), 431),
        (b"GET / HTTP/1.1\r\n" + HOST, b"a:\r\n" * 10_000, 431),
        (b"GET / HTTP/1.1\r\nX-Long: ", b"a" * 100_000, 431),
        (b"GET / HTTP/1.1\r\n", b"x" * 100_000, 431),  # a name
        (b"GET /?", b"a=b&" * 25_000, 414),
        (b"", b"\r\n" * 50_000, 431),  # before a request
    ],
)
def test_headers_without_end_are_refused_while_they_come(
    server: str, begin: bytes, again: bytes, expected: int
) -> None:
    answer, sent = endless(server, begin, again)
    assert sent < 32 * MEGABYTE  # what lies in the buffers of the system is none of the service's
    assert status(answer) == expected
    assert "send" in str(problem(answer)["detail"]) or "ask" in str(problem(answer)["detail"])


@pytest.mark.parametrize("size", [66_000, 250_000, 2 * MEGABYTE])
def test_headers_that_are_too_long_and_whole_are_refused(server: str, size: int) -> None:
    answer = asked(server, b"GET /health/live HTTP/1.1\r\n" + HOST + lines(size // 100, 100) + b"\r\n")
    assert (status(answer), problem(answer)["detail"]) == (
        431,
        "the headers have more than 65,536 bytes; send fewer or shorter ones",
    )
    address = b"/?" + b"a" * size
    assert status(asked(server, b"GET " + address + b" HTTP/1.1\r\n" + HOST + b"\r\n")) == 414


def test_what_is_within_the_limits_is_answered(server: str) -> None:
    headers = {f"x-{number}": "a" * 1000 for number in range(60)}
    assert httpx.get(f"{server}/health/live", headers=headers).status_code == 200
    address = f"{server}/images?" + "&".join(f"label={number:0100}" for number in range(99))
    assert httpx.get(address).status_code == 422  # read, and no such labels are known
    assert httpx.get(f"{server}/images?folder={'a' * 16_000}").status_code in (200, 422)


@pytest.mark.parametrize("path", ["/search", "/search/batch", "/search/codes", "/images"])
def test_a_content_type_without_end_is_refused(server: str, path: str) -> None:
    parameters = ";".join(f"a{number}=b" for number in range(5_000))
    for kind in ("multipart/form-data; boundary=x;", "application/json;", ""):
        answer = httpx.post(f"{server}{path}", content=b"x" * 99, headers={"content-type": kind + parameters})
        assert (answer.status_code, "Content-Type" in answer.json()["detail"]) == (431, True)


def test_a_boundary_is_bounded(server: str, picture: bytes) -> None:
    def search(boundary: str) -> httpx.Response:
        part = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        body = part.encode() + picture + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return httpx.post(f"{server}/search", content=body, headers={"content-type": kind})

    assert search("b" * 70).status_code == 200
    for length in (71, 250, 900):
        answer = search("b" * length)
        assert (answer.status_code, "boundary" in answer.text) == (431, True)


def test_what_follows_a_body_is_bounded_and_no_header(server: str, picture: bytes) -> None:
    head = b"POST /search HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    body = b"%x\r\n%b\r\n0\r\n" % (len(picture), picture)
    last = b"GET /health/live HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    answers = asked(server, head + body + b"X-Request-ID: late\r\n\r\n" + last)
    assert (answers.count(b"HTTP/1.1 200 OK"), b"late" in answers) == (2, False)
    answer, sent = endless(server, head + body, lines(1000, 100))
    assert status(answer) == 400 and sent < 32 * MEGABYTE
    answer, sent = endless(server, head + b"1;", b"a=b;" * 25_000)  # an extension of a chunk
    assert status(answer) == 400 and sent < 32 * MEGABYTE


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/1.1\r\na b: c\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_said_to_be_none(server: str, sent: bytes) -> None:
    answer = asked(server, sent)
    assert (status(answer), problem(answer)["detail"]) == (400, "the request cannot be read as HTTP/1.1")


def test_a_refusal_waits_for_the_answer_before_it(server: str, picture: bytes) -> None:
    first = b"POST /search HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(picture) + picture
    answers = asked(server, first + b"GET / HTTP/1.1\r\n" + lines(700, 100) + b"\r\n")
    assert answers.startswith(b"HTTP/1.1 200") and answers.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 431" in answers


def test_who_sends_all_before_reading_gets_the_refusal_too(server: str) -> None:
    assert status(asked(server, b"GET / HTTP/1.1\r\n" + HOST + lines(3_000, 100) + b"\r\n")) == 431


# --- other protocols -------------------------------------------------------------------------------

OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "tls": b"Upgrade: TLS/1.0\r\nConnection: upgrade\r\n",
    "many": b"Upgrade: foo/2, h2c, IRC/6.9\r\nConnection: Upgrade\r\n",
}


def in_one(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


def in_chunks(body: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:5], body[5:]))
    return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("framed", [in_one, in_chunks])
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_of_another_protocol_is_passed_over(
    server: str, picture: bytes, offer: str, framed: Callable[[bytes], bytes]
) -> None:
    sent = b"POST /search HTTP/1.1\r\n" + HOST + OFFERS[offer] + framed(picture)
    last = b"GET /health/live HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    answers = asked(server, sent + sent + last)  # one after the other on one connection
    assert answers.count(b"HTTP/1.1 200 OK") == 3 and b"HTTP/1.1 101" not in answers
    assert answers.count(b'"results"') == 2
    with connect(server) as connection:  # and byte by byte, the headers apart
        head, _, body = sent.partition(b"\r\n\r\n")
        for part in (head, b"\r\n\r\n", body[:1], body[1:40], body[40:]):
            connection.sendall(part)
        assert status(connection.recv(65_536)) == 200
    with connect(server) as connection:  # nothing of a body
        connection.sendall(b"GET /health/live HTTP/1.1\r\n" + HOST + OFFERS[offer] + b"\r\n" + last)
        assert until_closed(connection).count(b"HTTP/1.1 200 OK") == 2


def test_many_offers_at_once_are_answered(server: str) -> None:
    one = b"GET /health/live HTTP/1.1\r\n" + HOST + OFFERS["tls"] + b"\r\n"
    last = b"GET /health/live HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    assert asked(server, 1_200 * one + last).count(b"HTTP/1.1 200 OK") == 1_201


def test_an_offer_waits_for_leave_to_send(server: str, picture: bytes) -> None:
    head = b"POST /search HTTP/1.1\r\n" + HOST + OFFERS["h2c"] + b"Expect: 100-continue\r\n"
    with connect(server) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(picture))
        assert status(connection.recv(25)) == 100
        connection.sendall(picture)
        assert status(connection.recv(65_536)) == 200


def test_a_tunnel_is_refused(server: str) -> None:
    assert status(asked(server, b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")) == 400


# --- how long --------------------------------------------------------------------------------------


@contextmanager
def waiting(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, *, queue: int = 128, **seconds: float
) -> Iterator[str]:
    """The address of a service that waits for so long."""
    for name, value in seconds.items():
        monkeypatch.setattr(limits, name, value)
    with serve_here(create_app(Settings(artifact=artifact.path, queue=queue))) as address:
        yield address


@contextmanager
def dripping(connection: socket.socket) -> Iterator[None]:
    """One byte after the other, until the server closes."""
    over = threading.Event()

    def drip() -> None:
        with suppress(ConnectionError):
            while not over.wait(0.01):
                connection.sendall(b"x")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(drip)
        try:
            yield
        finally:
            over.set()


def test_who_asks_nothing_is_sent_away(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with waiting(artifact, monkeypatch, IDLE=0.2) as address:
        assert asked(address, b"") == b""
        assert httpx.get(f"{address}/health/live").status_code == 200


HALVES = (b"G", b"GET / HTTP/1.1\r\nHost: local", b"GET / HTTP/1.1\r\nX-Long: ", b"\r\n")


@pytest.mark.parametrize("begin", HALVES)
def test_who_asks_half_is_sent_away(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    with waiting(artifact, monkeypatch, IDLE=0.2, LINGER=0.1) as address:
        assert status(answer := asked(address, begin)) == 408
        assert "the headers had not come after" in str(problem(answer)["detail"])


def test_who_asks_byte_by_byte_is_sent_away(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with waiting(artifact, monkeypatch, IDLE=0.3) as address, connect(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"X-Long: ")
        with dripping(connection):
            assert status(until_closed(connection)) == 408


def test_a_body_that_nobody_wants_does_not_keep_a_connection(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting(artifact, monkeypatch, IDLE=0.3) as address, connect(address) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n")
        with dripping(connection):
            assert status(until_closed(connection)) == 404


def test_who_never_takes_the_answer_is_cut_off(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with waiting(artifact, monkeypatch, IDLE=0.5) as address, connect(address) as connection:
        connection.sendall(500 * (b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"))
        gone = select.poll()
        gone.register(connection, 0)  # only for its end
        assert gone.poll(60_000), "the connection is open still"


def test_who_takes_the_answer_slowly_gets_it(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with waiting(artifact, monkeypatch, IDLE=30.0) as address, connect(address) as connection:
        connection.sendall(100 * (b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"))
        connection.sendall(b"GET /health/live HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        assert until_closed(connection).count(b"HTTP/1.1 200 OK") == 101


def test_bodies_that_come_too_slowly_leave_their_places_to_others(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, picture: bytes
) -> None:
    head = b"POST /search HTTP/1.1\r\n" + HOST + b"Content-Length: 5000\r\n\r\n"
    with waiting(artifact, monkeypatch, queue=2, GRACE=1.0, SLOWEST=10**9, PAUSE=60.0) as address:
        with connect(address) as one, connect(address) as other:
            for connection in (one, other):
                connection.sendall(head)
            with dripping(one), dripping(other):
                for connection in (one, other):
                    assert status(until_closed(connection)) == 408
        assert httpx.post(f"{address}/search", content=picture).status_code == 200
