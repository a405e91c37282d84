"""Limits, errors, start and headers: what surrounds the routes."""

import contextlib
import gc
import logging
import re
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import httpx
import pytest

from index.artifact import Artifact, ArtifactError
from service.app import create_app
from service.core.searcher import Answer, Question, Searcher
from service.settings import Settings, mistyped
from service.web.headers import route_path
from tests import forking
from tests.samples import build_artifact, command, environment, serve_here
from tests.service.sockets import connect, until_closed
from training.nets.encoder import Encoder

LIMIT = 10_000_000
OPERATIONS = {  # by their tags; whoever made a program of the document needs them as they are
    "health": ["live", "ready"],
    "search": ["search", "search_batch", "search_codes", "similar"],
    "images": [
        "add",
        "change",
        "folders",
        "image",
        "images",
        "original",
        "preview",
        "relabel",
        "remove",
        "thumbnail",
    ],
    "evaluation": ["eval_codes", "eval_confusion", "eval_curve", "eval_map", "eval_queries"],
    "about": ["duplicates", "export", "metrics", "stats"],
    "admin": ["reload", "rollback", "snapshot"],
    "labels": ["as_csv", "doubtful", "predictions", "suggested"],
    "trash": ["changed", "empty", "restore", "throw", "trash", "undo"],
    "jobs": ["all_jobs", "end_job", "job", "learn"],
}
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server) as client:
        yield client


@pytest.fixture
def picture(artifact: Artifact) -> bytes:
    return (Path(artifact.manifest.data["root"]) / "class1" / "004.png").read_bytes()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces its size and breaks off where its pixels begin."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


FORM = {"content-type": "multipart/form-data; boundary=b"}
BAD: dict[str, tuple[int, str, Callable[[httpx.Client, bytes], httpx.Response]]] = {
    "text": (415, "not an image", lambda http, _: http.post("/search", content=b"hello" * 99)),
    "script": (
        415,
        "not an image",
        lambda http, _: http.post("/search", content=b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    ),
    "pickle": (415, "not an image", lambda http, _: http.post("/search", files={"image": b"\x80\x04K\x01."})),
    "truncated": (422, "truncated", lambda http, good: http.post("/search", content=good[:-40])),
    "header only": (422, "", lambda http, good: http.post("/search", content=good[:20])),
    "garbled": (422, "", lambda http, good: http.post("/search", content=good[:60] + b"x" * 60)),
    "no pixels": (422, "", lambda http, _: http.post("/search", content=png_header(8, 8))),
    "huge": (422, "50,000,000", lambda http, _: http.post("/search", content=png_header(60_000, 60_000))),
    "no body": (422, "no image", lambda http, _: http.post("/search")),
    "empty file": (422, "empty", lambda http, _: http.post("/search", files={"image": b""})),
    "other field": (422, "no fields 'image'", lambda http, good: http.post("/search", files={"photo": good})),
    "text field": (
        422,
        "not a file",
        lambda http, _: http.post("/search", data={"image": "x"}, files={"a": b""}),
    ),
    "two images": (
        400,
        "cannot be read",
        lambda http, good: http.post("/search", files=[("image", good)] * 2),
    ),
    "no boundary": (
        *(400, "oundary"),
        lambda http, _: http.post("/search", content=b"x", headers={"content-type": "multipart/form-data"}),
    ),
    "unknown charset": (
        400,
        "cannot be read",
        lambda http, _: http.post(
            "/search",
            content=b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\n5\r\n--b--\r\n',
            headers={"content-type": "multipart/form-data; boundary=b; charset=undefined"},
        ),
    ),
    "k twice": (422, "more than once", lambda http, good: http.post("/search?k=3&k=5", content=good)),
    "two labels for one image": (
        *(422, "label is given more than once"),
        lambda http, good: http.post("/images?label=a&label=b", content=good),
    ),
    "two limits": (422, "limit is given more than once", lambda http, _: http.get("/images?limit=1&limit=2")),
    "k twice, to be measured with": (
        *(422, "k is given more than once"),
        lambda http, _: http.get("/eval/map?k=1&k=2"),
    ),
    "k twice in the form": (
        422,
        "more than once",
        lambda http, good: http.post("/search", files={"image": good}, data={"k": ["3", "5"]}),
    ),
    "no form": (400, "cannot be read", lambda http, _: http.post("/search", content=b"x", headers=FORM)),
    "cut form": (422, "no fields", lambda http, _: http.post("/search", content=b"--b\r\n", headers=FORM)),
    "odd field": (
        *(422, "no such parameter"),
        lambda http, good: http.post("/search", files={"image": good}, data={"../../etc": "\0"}),
    ),
    "too large": (413, "10,000,000", lambda http, _: http.post("/search", content=b"x" * (LIMIT + 1))),
    "far too large": (413, "10,000,000", lambda http, _: http.post("/search", content=b"x" * (3 * LIMIT))),
    "too large in a form": (
        *(413, "10,000,000"),
        lambda http, _: http.post("/search", files={"image": b"x" * (LIMIT + 1)}),
    ),
    "too large, length unknown": (
        *(413, "10,000,000"),
        lambda http, _: http.post("/search", content=(bytes(MEGABYTE) for _ in range(12))),
    ),
    "wrong method": (405, "GET is not possible here, only POST", lambda http, _: http.get("/search")),
    "no such address": (404, "/docs", lambda http, _: http.get("/favicon.ico")),
    "no such file": (404, "/docs", lambda http, _: http.get("/static/..%2fapp.py")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_the_next_request_answered(
    http: httpx.Client, picture: bytes, name: str
) -> None:
    status, says, send = BAD[name]
    response = send(http, picture)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert says in problem["detail"]
    assert "Traceback" not in response.text
    assert len(http.post("/search", content=picture).json()["results"]) == 10


def test_an_image_of_exactly_the_limit_is_read(http: httpx.Client, picture: bytes) -> None:
    full = picture + bytes(LIMIT - len(picture))  # decoders stop at the end of the image
    assert http.post("/search", content=full).status_code == 200
    assert http.post("/search", files={"image": full}).status_code == 200


@pytest.mark.process
def test_a_full_service_says_so_and_recovers(
    artifact: Artifact, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, answer = threading.Event(), Searcher.answer

    def gated(self: Searcher, questions: Sequence[Question]) -> list[Answer]:
        assert gate.wait(20)
        return answer(self, questions)

    monkeypatch.setattr(Searcher, "answer", gated)
    app = create_app(Settings(artifact=artifact.path, queue=3))
    with serve_here(app) as address, ThreadPoolExecutor(8) as clients:
        url = f"{address}/search"
        sent = [clients.submit(httpx.post, url, content=picture, timeout=30) for _ in range(8)]
        refused = [future.result() for future in islice(as_completed(sent), 5)]
        gate.set()
        answered = [future.result() for future in sent]
        for response in refused:
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert "3 searches are under way" in response.json()["detail"]
        assert sorted(response.status_code for response in answered) == [200] * 3 + [503] * 5
        assert httpx.post(url, content=b"no image").status_code == 415
        assert [httpx.post(url, content=picture).status_code for _ in range(4)] == [200] * 4


@pytest.mark.process
@pytest.mark.usefixtures("garbage")
def test_what_exists_at_the_start_is_no_garbage_to_look_through(artifact: Artifact) -> None:
    with serve_here(create_app(Settings(artifact=artifact.path))):
        assert gc.get_freeze_count() > 100_000
    assert gc.get_freeze_count() == 0, "who runs the service within another program gets its garbage back"


def test_many_clients_get_the_answers_of_one(http: httpx.Client, artifact: Artifact) -> None:
    pictures = sorted(Path(artifact.manifest.data["root"]).rglob("*.png"))[:40]
    files = [picture.read_bytes() for picture in pictures]
    alone = [http.post("/search", content=file).json() for file in files]
    with ThreadPoolExecutor(16) as clients:
        together = list(clients.map(lambda file: http.post("/search", content=file).json(), files * 3))
    assert together == alone * 3


def test_an_announced_gigabyte_is_refused_unread(server: str) -> None:
    with connect(server) as connection:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\nx")
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer


def test_who_sends_everything_before_reading_gets_the_refusal_too(server: str) -> None:
    with connect(server) as connection:
        head = f"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {3 * LIMIT // 2}\r\n\r\n"
        connection.sendall(head.encode() + bytes(3 * LIMIT // 2))
        assert until_closed(connection).startswith(b"HTTP/1.1 413")


def test_an_endless_body_is_cut_off(server: str) -> None:
    chunk = b"100000\r\n" + bytes(MEGABYTE) + b"\r\n"
    sent = 0
    with connect(server) as connection:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while sent < 200:
                connection.sendall(chunk)
                sent += 1
        except OSError:  # closed by the server, while we were still sending
            pass
    assert sent < 100


@pytest.mark.process
@pytest.mark.parametrize("path", ["/search", "/images", "/search/batch", "/search/codes"])
def test_a_body_that_does_not_go_on_is_given_up(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    kind = {"/search/batch": FORM["content-type"], "/search/codes": "application/json"}.get(path, "image/png")
    monkeypatch.setattr("service.web.limits.PAUSE", 0.2)
    with serve_here(create_app(Settings(artifact=artifact.path))) as address, connect(address) as connection:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 99\r\n\r\n"
        )
        connection.sendall(head.encode() + b"--b\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 408")


@pytest.mark.process
def test_a_body_that_never_ends_is_given_up(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.web.limits.READING", 0.5)
    monkeypatch.setattr("service.web.limits.PAUSE", 60.0)
    with serve_here(create_app(Settings(artifact=artifact.path))) as address, connect(address) as connection:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n")
        over = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):  # closed
                while not over.wait(0.02):
                    connection.sendall(b"x")

        with ThreadPoolExecutor(1) as pool:
            pool.submit(drip)
            try:
                assert until_closed(connection).startswith(b"HTTP/1.1 408")
            finally:
                over.set()


@pytest.mark.process
def test_who_sends_an_image_holds_a_place(artifact: Artifact, picture: bytes) -> None:
    head = f"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(picture)}\r\n\r\n"
    with serve_here(create_app(Settings(artifact=artifact.path, queue=2))) as address:
        url = f"{address}/search"
        with connect(address) as one, connect(address) as other:
            for connection in (one, other):
                connection.sendall(head.encode() + picture[:9])
            while 'places_taken{of="search"} 2' not in httpx.get(f"{address}/metrics").text:
                pass
            assert httpx.post(url, content=picture).status_code == 503
            one.sendall(picture[9:])
            assert one.recv(99).startswith(b"HTTP/1.1 200")
            assert httpx.post(url, content=picture).status_code == 200
        while 'places_taken{of="search"} 0' not in httpx.get(f"{address}/metrics").text:
            pass  # who left while sending holds none


@pytest.mark.process
def test_bodies_are_limited_by_what_they_are(artifact: Artifact) -> None:
    settings = Settings(artifact=artifact.path, max_image_bytes=1000, max_batch_bytes=500_000)
    form = {"content-type": "multipart/form-data; boundary=x"}
    json = {"content-type": "application/json"}
    with serve_here(create_app(settings)) as address:

        def status(path: str, size: int, **headers: str) -> int:
            return httpx.post(f"{address}{path}", content=b"x" * size, headers=headers).status_code

        for headers, size in ((form, 600_000), (json, 300_000), ({}, 100_000)):
            assert status("/images", size, **headers) == 413
            assert status("/search/codes", size, **headers) == 413
        for kind in ("application/vnd.api+json", "Application/JSON; charset=utf-8"):
            assert status("/search/codes", 300_000, **{"content-type": kind}) == 413
            assert status("/search/codes", 200_000, **{"content-type": kind}) == 422  # parsed
        assert status("/images", 400_000, **form) == 400  # read, and found to be no form
        assert status("/search", 400_000, **form) == 413


def test_a_prefix_of_a_proxy_is_no_part_of_the_path() -> None:
    scope = {"path": "/api/images", "root_path": "/api"}
    assert route_path(scope) == route_path({"path": "/images"}) == "/images"


def test_a_form_in_another_charset_is_refused(http: httpx.Client) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="k"\r\n\r\n-' + b"a" * 60_000 + b"\r\n--x--\r\n"
    for charset in ("punycode", "unicode_escape", "latin-1"):
        headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
        for path in ("/search", "/images"):
            answer = http.post(path, content=body, headers=headers)
            assert (answer.status_code, "send it in UTF-8" in answer.text) == (400, True)


def test_many_faults_are_counted(http: httpx.Client) -> None:
    asked = {"encoder_id": "a", "codes": ["00"], **{f"strange{number}": 1 for number in range(1000)}}
    answer = http.post("/search/codes", json=asked)
    assert answer.status_code == 422
    assert answer.json()["detail"].endswith("; and 995 more")
    assert "at most 100" in http.post("/search/codes", json=asked | {"label": ["a"] * 101}).text


def test_a_client_that_leaves_harms_nobody(server: str, http: httpx.Client, picture: bytes) -> None:
    for head in (
        b"Content-Length: 5000",
        b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000",
    ):
        with connect(server) as connection:
            connection.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n--b\r\n")
    assert http.post("/search", content=picture).status_code == 200


@pytest.mark.process
def test_limits_can_be_set(artifact: Artifact, picture: bytes) -> None:
    settings = Settings(artifact=artifact.path, max_image_bytes=len(picture), max_pixels=24 * 24)
    with serve_here(create_app(settings)) as address:
        assert httpx.post(f"{address}/search", content=picture).status_code == 200
        assert httpx.post(f"{address}/search", content=picture + b"x").status_code == 413
        tall = httpx.post(f"{address}/search", content=png_header(24, 25))
        assert tall.status_code == 422
        assert "limit of 576" in tall.json()["detail"]


@pytest.mark.process
def test_a_bug_shows_no_inside(artifact: Artifact, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_here(create_app(Settings(artifact=artifact.path))) as address:
        with monkeypatch.context() as patch:
            patch.setattr(Encoder, "encode", lambda *_: 1 / 0)
            for response, status in (
                (httpx.post(f"{address}/search", content=picture), 500),
                (httpx.get(f"{address}/health/ready"), 503),
            ):
                assert response.status_code == status
                assert response.headers["content-type"] == "application/problem+json"
                assert "ZeroDivision" not in response.text
                assert "its log says why" in response.json()["detail"]
        assert httpx.post(f"{address}/search", content=picture).status_code == 200


def test_headers(http: httpx.Client) -> None:
    page = http.get("/").headers
    assert page["content-type"].startswith("text/html")
    assert "default-src 'none'" in page["content-security-policy"]
    assert "unsafe" not in page["content-security-policy"]
    for path in ("/", "/static/app.js", "/images/1", "/images/1/thumbnail", "/nowhere"):
        assert http.get(path).headers["x-content-type-options"] == "nosniff"


def test_head_is_get_without_the_body_on_every_route(http: httpx.Client) -> None:
    """RFC 9110, 9.1: a server answers both."""
    paths = http.get("/openapi.json").json()["paths"]
    asked = [path.replace("{item_id}", "1") for path, methods in paths.items() if "get" in methods]
    assert {"/health/ready", "/metrics", "/images/1/thumbnail", "/images/1/original"} <= set(asked)
    changing = ("date", "x-request-id", "content-length")  # of /metrics the length too
    for path in [*asked, "/", "/docs", "/static/app.js", "/nowhere", "/images/0", "/images/x"]:
        whole, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        assert [pair for pair in head.headers.items() if pair[0] not in changing] == [
            pair for pair in whole.headers.items() if pair[0] not in changing
        ], path
        assert ("content-length" in head.headers) == ("content-length" in whole.headers), path
    for path in ("/search", "/admin/reload"):
        assert http.head(path).status_code == 405


def test_programs_find_each_operation_by_a_stable_name(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"].values()
    operations = [operation for methods in paths for operation in methods.values()]
    named: dict[str, list[str]] = {}
    for operation in operations:
        (tag,) = operation["tags"]
        named.setdefault(tag, []).append(operation["operationId"])
    assert {tag: sorted(names) for tag, names in named.items()} == OPERATIONS


def test_each_element_of_the_page_has_an_id_of_its_own() -> None:
    page = (Path(__file__).parents[2] / "service" / "static" / "index.html").read_text()
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert [name for name in set(ids) if ids.count(name) > 1] == []


def test_the_page_asks_no_other_host() -> None:
    static = Path(__file__).parents[2] / "service" / "static"
    for file in (path for path in static.iterdir() if path.is_file()):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", ""), file.name
    page = (static / "index.html").read_text()
    assert "<style" not in page
    assert " style=" not in page
    assert re.search(r"\son[a-z]+\s*=", page) is None  # no handler of an event
    for script in static.glob("*.js"):
        for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert way_in not in script.read_text(), script.name


# --- start -----------------------------------------------------------------------------------------


def start(path: Path | None, **settings: str) -> subprocess.CompletedProcess[str]:
    """Start the service that cannot start."""
    return forking.run(command(0), env=environment(path, **settings))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    artifact = build_artifact(tmp_path)
    with (artifact.path / "queries.npz").open("ab") as file:
        file.write(b"x")
    return artifact.path


@pytest.mark.process
def test_does_not_start_without_a_whole_artifact(damaged: Path, tmp_path: Path) -> None:
    for run, says in (
        (start(None), "HEBBSEARCH_ARTIFACT: is not set"),
        (start(tmp_path / "nowhere"), str(tmp_path / "nowhere" / "manifest.json")),
        (start(damaged), str(damaged / "queries.npz")),
        (start(damaged, max_pixels="many"), "HEBBSEARCH_MAX_PIXELS: "),
    ):
        assert run.returncode != 0
        assert says in run.stderr
        assert len(run.stderr.strip().splitlines()) == 1, run.stderr


def test_explicit_settings_raise(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"queries\.npz"):
        create_app(Settings(artifact=damaged))
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        create_app(Settings(artifact=tmp_path))


def test_settings_with_a_slip_of_the_pen_are_told(
    own: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a service whose key is not read answers everybody, and nobody knows."""
    monkeypatch.setattr("service.app.configure_logging", lambda _: None)  # of the tests that follow too
    monkeypatch.setenv("HEBBSEARCH_ARTIFACT", str(own.path))
    monkeypatch.setenv("HEBBSEARCH_READ_KEY", "k" * 16)
    for of_others in ("HEBBSEARCH_PORT", "HEBBSEARCH_SERVICE_HOST", "HEBBSEARCH_KEY", "hebbsearch_log"):
        monkeypatch.setenv(of_others, "text")  # as Kubernetes, and our own commands, have some
    (opened,) = create_app().state.opened
    opened.close()
    (told,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert told == "HEBBSEARCH_READ_KEY is no setting and nobody reads it; is HEBBSEARCH_READ_KEYS meant?"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HEBBSEARCH_CATALOG", "HEBBSEARCH_CATALOGUE"),
        ("HEBBSEARCH_TRASHDAYS", "HEBBSEARCH_TRASH_DAYS"),
        ("hebbsearch_host", "HEBBSEARCH_HOSTS"),
        ("HEBBSEARCH_MAX_IMAGE_SIZE", "HEBBSEARCH_MAX_IMAGE_BYTES"),
        ("HEBBSEARCH_PORT_8000_TCP", None),
        ("HEBBSEARCH_VERSION", None),
        ("SEARCH_HOST", None),
    ],
)
def test_which_setting_may_be_meant(name: str, meant: str | None) -> None:
    assert mistyped([name]).get(name) == meant
