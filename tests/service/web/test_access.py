"""Who may do what, over real HTTP where the way in matters."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from index.artifact import Artifact
from service.app import create_app
from service.settings import Settings
from service.web.access import Access, allowed_by, from_this_machine, is_loopback, keys
from tests import forking
from tests.samples import command, environment, serve_here

READ, WRITE, ADMIN = ("r" * 16, "w" * 16, "a" * 16)


@pytest.fixture
def guarded(own: Artifact) -> Iterator[httpx.Client]:
    settings = Settings(
        artifact=own.path, read_keys=READ, write_keys=f"{WRITE}, {'x' * 16}", admin_keys=ADMIN
    )
    with serve_here(create_app(settings)) as address, httpx.Client(base_url=address) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("to", "allowed"),
    [
        ("readers", {READ: True, WRITE: True, ADMIN: True}),
        ("writers", {READ: False, WRITE: True, ADMIN: True}),
        ("nobody", {READ: False, WRITE: False, ADMIN: False}),
    ],
)
def test_files_themselves_are_for_those_who_may_have_them(
    own: Artifact, to: Literal["readers", "writers", "nobody"], allowed: dict[str, bool]
) -> None:
    settings = Settings(
        artifact=own.path, read_keys=READ, write_keys=WRITE, admin_keys=ADMIN, originals_to=to
    )
    with serve_here(create_app(settings)) as address, httpx.Client(base_url=address) as http:
        for key, given in allowed.items():
            assert http.get("/images/1/thumbnail", headers=bearer(key)).status_code == 200
            assert (http.get("/images/1", headers=bearer(key)).json()["original"] is not None) == given
            answer = http.get("/images/1/original", headers=bearer(key))
            assert answer.status_code == (200 if given else 403)
            assert given or "HEBBSEARCH_ORIGINALS_TO" in answer.json()["detail"]


@pytest.mark.process
def test_without_keys_files_themselves_stay_on_this_machine(own: Artifact) -> None:
    with serve_here(create_app(Settings(artifact=own.path))) as address:
        for headers, status in (({}, 200), ({"X-Forwarded-For": "192.0.2.1"}, 403)):
            assert httpx.get(f"{address}/images/1/thumbnail", headers=headers).status_code == 200
            assert httpx.get(f"{address}/images/1/original", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("key", "reads", "writes"),
    [
        (None, 401, 401),
        ("unknown" * 4, 401, 401),
        (READ[:-1], 401, 401),
        (READ, 200, 403),
        (WRITE, 200, 200),
        ("x" * 16, 200, 200),
        (ADMIN, 200, 200),
    ],
)
def test_a_key_allows_what_it_is_for(guarded: httpx.Client, key: str | None, reads: int, writes: int) -> None:
    headers = {} if key is None else bearer(key)
    for path in ("/eval/map", "/images", "/images/1", "/images/1/thumbnail", "/images/1/similar"):
        assert guarded.get(path, headers=headers).status_code == reads
    answer = guarded.patch("/images/1", json={"metadata": {}}, headers=headers)
    assert answer.status_code == writes
    if writes == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "key" in answer.json()["detail"]
    assert guarded.get("/health/live").status_code == guarded.get("/health/ready").status_code == 200


def test_odd_credentials_are_no_key(guarded: httpx.Client) -> None:
    for value in ("Bearer", f"Basic {WRITE}", WRITE, "Bearer \xff\xfe", f"Bearer {WRITE} {WRITE}"):
        headers = [(b"Authorization", value.encode("latin-1"))]
        assert guarded.patch("/images/1", json={}, headers=headers).status_code == 401


# What nobody needs a key for, and Mounts of files.
OPEN = {"/", "/health/live", "/health/ready", "/docs", "/docs/oauth2-redirect", "/openapi.json"}


@pytest.mark.process
def test_the_key_is_asked_for_before_anything_of_the_body(own: Artifact) -> None:
    """On each route: with a wrong key, nobody waits for a body, reads it, or looks at the parameters."""
    app = create_app(Settings(artifact=own.path, read_keys=READ, write_keys=WRITE, admin_keys=ADMIN))
    guarded = [
        (method, path.replace("{item_id}", "not-a-number"))
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
        if (path := route.path or "") not in OPEN
    ]
    assert len(guarded) > 20
    assert {"POST", "PATCH", "DELETE", "GET"} <= {method for method, _ in guarded}
    kinds = ("application/json", "application/x+json", "multipart/form-data; boundary=x", "image/png")
    with serve_here(app) as address:
        host = urlsplit(address)
        for method, path in guarded:
            for kind in kinds:
                for key in ("", f"Authorization: Bearer {'u' * 16}\r\n"):
                    head = (
                        f"{method} {path}?k=x&strange=1 HTTP/1.1\r\nHost: {host.netloc}\r\n{key}"
                        f"Content-Type: {kind}\r\nContent-Length: 999999999\r\n\r\n"
                    )
                    with socket.create_connection((host.hostname, host.port), timeout=20) as connection:
                        connection.sendall(head.encode() + b'{"a":')
                        assert connection.recv(100).startswith(b"HTTP/1.1 401 "), (method, path, kind)


@pytest.mark.process
def test_without_read_keys_everyone_reads(own: Artifact) -> None:
    with serve_here(create_app(Settings(artifact=own.path, write_keys=WRITE))) as address:
        assert httpx.get(f"{address}/images/1").status_code == 200
        assert httpx.patch(f"{address}/images/1", json={}).status_code == 401
        assert httpx.patch(f"{address}/images/1", json={}, headers=bearer(WRITE)).status_code == 200


@pytest.mark.process
def test_without_keys_this_machine_writes_and_no_foreign_page(own: Artifact) -> None:
    with serve_here(create_app(Settings(artifact=own.path))) as address:
        port = address.rpartition(":")[2]

        def status(**headers: str) -> int:
            return httpx.patch(f"{address}/images/1", json={}, headers=headers).status_code

        assert status() == 200
        assert status(origin=address) == 200
        assert status(host=f"localhost:{port}", origin=f"http://localhost:{port}") == 200
        for foreign in ("http://evil.example", "null", f"http://localhost:{port}", "http://127.0.0.1:1"):
            assert status(origin=foreign) == 403
        assert status(host=f"evil.example:{port}") == 403  # a name that was made to point here
        assert status(host=f"evil.example:{port}", origin=f"http://evil.example:{port}") == 403
        assert status(origin="http://[") == status(host="[") == 403
        for proxied in ("forwarded", "x-forwarded-for", "x-real-ip"):
            assert status(**{proxied: "for=127.0.0.1"}) == 403


def request_from(client: str | None, **headers: str) -> Request:
    scope: dict[str, Any] = {"type": "http", "client": client and (client, 5), "headers": []}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request(scope)


def test_others_are_not_this_machine() -> None:
    assert from_this_machine(request_from("127.0.0.1", host="127.0.0.1:8000"))
    assert from_this_machine(request_from("::1", host="[::1]:8000"))
    for client in ("10.0.0.7", "testclient", None):
        assert not from_this_machine(request_from(client, host="localhost"))
    assert from_this_machine(request_from("::ffff:127.0.0.1", host="localhost."))
    assert all(map(is_loopback, ("127.9.9.9", "localhost", "::1", "::ffff:127.0.0.1")))
    others = (
        "",
        ".",
        "localhost.evil.example",
        "8.8.8.8",
        "127.0.0.1.nip.io",
        "127.0.0.1%x",
        "::ffff:8.8.8.8",
        "::",
    )
    assert not any(map(is_loopback, others))


@pytest.mark.process
@pytest.mark.parametrize(
    "own_address", ["192.168.1.5", "[2001:db8::5]", "[fe80::5%eth0]", "[::ffff:192.168.1.5]"]
)
def test_a_name_that_was_made_to_point_to_an_own_address_cannot_read(own: Artifact, own_address: str) -> None:
    """A browser of this machine asks by the address that the network knows (HOST=0.0.0.0)."""
    served = Between(create_app(Settings(artifact=own.path)), own_address.strip("[]"))
    with serve_here(served) as address, httpx.Client(base_url=address) as http:  # type: ignore[arg-type]
        for host in ("evil.example", "evil.example:8000", "192.168.1.6", "[2001:db8::6]", "", "0.0.0.0"):
            assert http.get("/images", headers={"host": host}).status_code == 403
        own_name = own_address.replace("%eth0", "")
        for host in (own_name, f"{own_name}:8000", "localhost:8000", "127.0.0.1"):
            assert http.get("/images", headers={"host": host}).status_code == 200
            assert http.delete("/images/1", headers={"host": host}).status_code == 403
        served.client = "192.168.1.77"  # another machine of the network: it may call this one as it likes
        assert http.get("/images", headers={"host": "search.example"}).status_code == 200


@pytest.mark.process
def test_loopback_is_this_machine_however_it_is_written(own: Artifact) -> None:
    """A socket of IPv6 that takes IPv4 too names it so."""
    served = Between(create_app(Settings(artifact=own.path)), "::ffff:127.0.0.1")
    with serve_here(served) as address, httpx.Client(base_url=address) as http:  # type: ignore[arg-type]
        assert http.get("/images", headers={"host": "evil.example"}).status_code == 403
        assert http.delete("/images/1", headers={"host": "evil.example"}).status_code == 403
        assert http.delete("/images/1", headers={"host": "127.0.0.1"}).status_code == 204


class Between:
    """What a socket would say: who asks, and by which address of this machine."""

    def __init__(self, app: ASGIApp, address: str) -> None:
        self.app = app
        self.server = self.client = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope |= {"client": (self.client, 50_000), "server": (self.server, 8000)}
        await self.app(scope, receive, send)


def test_the_highest_level_of_a_key_counts_and_each_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    known = keys(
        Settings(artifact=Path(), read_keys=f"{READ},{ADMIN},", write_keys=f" {WRITE} ", admin_keys=ADMIN)
    )
    assert [allowed_by(key, known) for key in (READ, WRITE, ADMIN, "")] == [
        Access.READ, Access.WRITE, Access.ADMIN, Access.NONE,
    ]  # fmt: skip
    compared = []
    monkeypatch.setattr(
        "service.web.access.hmac.compare_digest", lambda one, other: compared.append(one) or False
    )
    assert allowed_by(READ, known) == Access.NONE
    assert len(compared) == 4


@pytest.mark.process
def test_a_short_key_is_refused_and_no_key_is_ever_shown(artifact: Artifact) -> None:
    with pytest.raises(ValidationError, match="fewer than 16 characters"):
        Settings(artifact=artifact.path, write_keys="secret123")
    assert WRITE not in repr(Settings(artifact=artifact.path, write_keys=WRITE))
    run = forking.run(command(1), env=environment(artifact.path, write_keys="secret123"))
    assert run.returncode != 0
    assert "HEBBSEARCH_WRITE_KEYS: a key has fewer than 16 characters" in run.stderr
    assert "secret123" not in run.stderr


@pytest.mark.process
def test_a_name_that_was_made_to_point_here_cannot_read(own: Artifact) -> None:
    with (
        serve_here(create_app(Settings(artifact=own.path))) as address,
        httpx.Client(base_url=address) as http,
    ):
        refused = http.get("/images", headers={"host": "evil.example"})
        assert refused.status_code == 403
        assert "not asked for as 'evil.example'; HEBBSEARCH_HOSTS names" in refused.json()["detail"]
        for host in ("", ".", "[", "localhost.evil.example", "localhost..", ".localhost"):
            assert http.get("/images", headers={"host": host}).status_code == 403
        for host in ("localhost", "localhost:1", "localhost.", "LocalHost.:1", "127.0.0.1", "[::1]:8000"):
            assert http.get("/images", headers={"host": host}).status_code == 200
        proxied = {"host": "search.example", "x-forwarded-for": "192.0.2.7"}  # anybody can say so
        assert http.get("/images", headers=proxied).status_code == 403
        assert http.get("/health/ready", headers={"host": "anything"}).status_code == 200


@pytest.mark.process
def test_where_names_are_given_others_are_refused(own: Artifact) -> None:
    settings = Settings(artifact=own.path, hosts="Search.example, 127.0.0.1, photos.example.")
    with serve_here(create_app(settings)) as address, httpx.Client(base_url=address) as http:
        for host, status in (
            ("search.example:443", 200),
            ("search.example.", 200),
            ("photos.example", 200),
            ("127.0.0.1", 200),
            ("localhost", 403),
            ("x.y", 403),
        ):
            proxied = {"host": host, "x-forwarded-for": "192.0.2.7"}
            assert http.get("/images", headers=proxied).status_code == status
            assert http.get("/images", headers={"host": host}).status_code == status


@pytest.mark.parametrize("name", ["read_keys", "write_keys", "admin_keys"])
@pytest.mark.parametrize(
    "key", ["schlüssel" * 3, "キー" * 10, "a" * 15 + "\u00a0", f"{'a' * 16}, {'b' * 9}\t{'b' * 9}"]
)
def test_a_key_that_no_header_carries_is_refused_at_the_start(own: Artifact, name: str, key: str) -> None:
    with pytest.raises(
        ValidationError, match="a character that is not sent in a header; use English letters"
    ):
        Settings(artifact=own.path, **{name: key + "c"})
