"""Metrics, request ids and the log."""

import base64
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from index.artifact import Artifact
from service.app import create_app
from service.settings import Settings
from tests import forking
from tests.samples import environment, free_port, serve_here, served, wait_until_ready
from training.nets.encoder import Encoder

KEY = "k" * 16
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def png(colour: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def http(own: Artifact) -> Iterator[httpx.Client]:
    with served(own.path) as client:
        yield client


def samples(http: httpx.Client) -> Samples:
    response = http.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name.removeprefix("hebbsearch_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def settled(http: httpx.Client, requests: int) -> Samples:
    """The metrics once so many other requests are counted, which happens after they are answered."""
    for _ in range(200):
        found = samples(http)
        counted = [
            value
            for (name, labels), value in found.items()
            if name == "requests_total" and ("route", "/metrics") not in labels
        ]
        if sum(counted) == requests:
            return found
        time.sleep(0.02)
    pytest.fail(f"{sum(counted)} requests are counted, not {requests}")


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_what_happens_is_counted(http: httpx.Client) -> None:
    before = samples(http)
    assert before[key("images_total", outcome="added")] == 0
    for _ in range(3):
        http.post("/search", content=png(9)).raise_for_status()
    http.post("/search", content=b"no image")
    http.post("/search/batch", files=[("image", png(1)), ("image", b"x")]).raise_for_status()
    http.get("/images/1/similar").raise_for_status()
    files = [("image", png(colour)) for colour in (1, 2, 1)] + [("image", b"x")]
    (one, *_) = http.post("/images", files=files).json()["images"]
    http.delete(f"/images/{one['image']['id']}").raise_for_status()
    http.delete(f"/images/{one['image']['id']}?forever=true").raise_for_status()
    after = settled(http, 9)
    requests = {
        (labels["method"], labels["route"], labels["status"]): value
        for (name, pairs), value in after.items()
        if name == "requests_total" and (labels := dict(pairs))["route"] != "/metrics"
    }
    assert requests == {
        ("POST", "/search", "200"): 3,
        ("POST", "/search", "415"): 1,
        ("POST", "/search/batch", "200"): 1,
        ("GET", "/images/{item_id}/similar", "200"): 1,
        ("POST", "/images", "201"): 1,
        ("DELETE", "/images/{item_id}", "204"): 2,
    }
    assert after[key("request_seconds_count", route="/search")] == 4
    assert after[key("request_seconds_bucket", route="/search", le="+Inf")] == 4
    assert after[key("searches_total", by="image", space="content")] == after[key("batch_size_sum")] == 4
    assert after[key("searches_total", by="code", space="content")] == 1
    outcomes = {
        outcome: after[key("images_total", outcome=outcome)]
        for outcome in ("added", "exists", "refused", "trashed", "restored", "removed")
    }
    assert outcomes == {"added": 2, "exists": 1, "refused": 1, "trashed": 1, "restored": 0, "removed": 1}
    assert after[key("items")] == before[key("items")] + 1
    assert (after[key("places", of="search")], after[key("places_taken", of="search")]) == (128, 0)
    assert after[key("process_resident_memory_bytes")] > 10**7
    assert "process_cpu_seconds_total" in [name for name, _ in after]
    assert [labels for name, labels in after if name == "build_info"]


def test_who_leaves_in_mid_upload_is_counted_as_gone(http: httpx.Client) -> None:
    form = b"Content-Type: multipart/form-data; boundary=b\r\n"
    asked = [
        (b"POST /search", b""),
        (b"POST /search", form),
        (b"POST /search/batch", form),
        (b"POST /images", b""),
        (b"POST /images", form),
        (b"POST /search/codes", b"Content-Type: application/json\r\n"),
        (b"PATCH /images/1", b"Content-Type: application/json\r\n"),
    ]
    address = (http.base_url.host, http.base_url.port)
    for begin, kind in asked:
        with socket.create_connection(address, timeout=60) as connection:
            head = b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n" + kind
            connection.sendall(begin + head + b"\r\n--b\r\n")
    found = settled(http, len(asked))
    statuses = {
        dict(labels)["status"]
        for name, labels in found
        if name == "requests_total" and ("route", "/metrics") not in labels
    }
    assert statuses == {"499"}


def test_head_is_counted_as_what_it_is(http: httpx.Client) -> None:
    assert http.head("/images/1").status_code == 200
    counted = key("requests_total", method="HEAD", route="/images/{item_id}", status="200")
    assert settled(http, 1)[counted] == 1


def test_no_address_makes_a_series_of_its_own(http: httpx.Client) -> None:
    http.get("/images/1").raise_for_status()
    paths = ["/nowhere", "/nowhere/else", "/images/1/2/3", "/static/none.js", "/static/app.js", "/images/x"]
    for path in paths:
        http.get(path)
    for path in ("/", "/docs", "/openapi.json"):
        http.get(path).raise_for_status()
    http.request("BREW", "/images/2")
    http.request("PROPFIND", "/images/2")
    http.put("/search")
    found = settled(http, 13)
    series = Counter(
        (labels["method"], labels["route"])
        for name, pairs in found
        if name == "requests_total" and (labels := dict(pairs))["route"] != "/metrics"
    )
    assert set(series) <= {
        *(("GET", route) for route in ("(none)", "/static", "/images/{item_id}", "/", "/docs")),
        *(("GET", "/openapi.json"), ("other", "/images/{item_id}"), ("PUT", "/search"), ("other", "(none)")),
    }
    assert ("GET", "/images/{item_id}") in series
    assert ("PUT", "/search") in series


@pytest.mark.process
def test_metrics_need_a_read_key_where_there_are_any(artifact: Artifact) -> None:
    settings = Settings(artifact=artifact.path, read_keys=KEY)  # type: ignore[arg-type]
    with serve_here(create_app(settings)) as address:
        assert httpx.get(f"{address}/metrics").status_code == 401
        given = httpx.get(f"{address}/metrics", headers={"Authorization": f"Bearer {KEY}"})
        assert given.status_code == 200


def test_a_request_keeps_its_id_if_it_is_harmless(http: httpx.Client) -> None:
    def named(given: str | bytes) -> str:
        name: str = http.get("/health/live", headers={"X-Request-ID": given}).headers["x-request-id"]
        return name

    assert named("job-7.image_3") == "job-7.image_3"
    made = {named(given) for given in ("", "a b", "a" * 65, 'x"y', "ä".encode(), "<b>", "1\t2")}
    assert len(made) == 7
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in made)
    assert http.get("/nowhere", headers={"X-Request-ID": "lost"}).headers["x-request-id"] == "lost"


# --- the log ---------------------------------------------------------------------------------------


def ask_some(client: httpx.Client) -> None:
    headers = {"X-Request-ID": "mine", "Authorization": "Bearer secret-key-of-somebody"}
    client.post("/search?k=3&label=circle", content=png(1), headers=headers).raise_for_status()
    client.get("/images/17", headers={"X-Request-ID": "17th"}).raise_for_status()
    client.get("/nowhere/at/all?password=secret")
    client.get("/eval/map", headers={"X-Request-ID": "failure"})


def logged(
    own: Artifact,
    *options: str,
    app: str = "service.app:create_app",
    ask: Callable[[httpx.Client], None] = ask_some,
    **settings: str,
) -> list[str]:
    """What the service writes while it starts, is asked, and stops."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", app, "--port", str(port), *options]
    with forking.Popen(
        command, env=environment(own.path, **settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(address, process)
            with httpx.Client(base_url=address, timeout=60) as client:
                ask(client)
        finally:
            process.terminate()
            output, _ = process.communicate(timeout=20)
    return output.decode(errors="surrogateescape").splitlines()


def failing_app() -> Any:
    """The service with a bug in its evaluation, and one in how it adds images with a certain label."""
    from service.core.library import Library, Outcome, Prepared
    from service.core.searcher import Searcher
    from service.routes import evaluation

    put = Library.put

    def fail_for_some(self: Library, prepared: Prepared, **more: Any) -> list[Outcome]:
        if any(item.label == "failing" for item in prepared.items.values()):
            raise ZeroDivisionError("a bug")
        return put(self, prepared, **more)

    def fail(self: Searcher, **_: Any) -> None:
        raise ZeroDivisionError("a bug")

    evaluation.measure = fail  # type: ignore[assignment]
    Library.put = fail_for_some  # type: ignore[method-assign]
    return create_app()


@pytest.mark.process
def test_each_request_is_one_line_of_json(own: Artifact) -> None:
    lines = [json.loads(line) for line in logged(own, app="tests.service.web.test_watching:failing_app")]
    assert "Started server process" in lines[0]["message"]
    requests = [line for line in lines if "route" in line and not line["route"].startswith("/health")]
    search, image, nowhere, failure = requests
    assert search.keys() == {
        *("time", "level", "logger", "request_id"),
        *("method", "route", "status", "ms", "bytes", "client"),
    }
    assert (search["request_id"], search["method"], search["route"]) == ("mine", "POST", "/search")
    assert (search["status"], search["client"]) == (200, "127.0.0.1")
    assert search["ms"] > 0
    assert search["bytes"] > 100
    assert (image["route"], image["request_id"]) == ("/images/{item_id}", "17th")
    assert (nowhere["route"], nowhere["status"], len(nowhere["request_id"])) == ("(none)", 404, 16)
    assert (failure["level"], failure["status"], failure["request_id"]) == ("error", 500, "failure")
    assert "ZeroDivisionError: a bug" in failure["exception"]
    assert sum("ZeroDivisionError: a bug" in json.dumps(line) for line in lines) == 1, "said once"
    assert "secret" not in json.dumps(lines)


RUN = 12  # bytes that occur by chance in no log; so many are whole groups of base64 too


def written_as(part: bytes) -> set[str]:
    """What some bytes of a file look like in a log: as they are, escaped, or encoded as people do."""
    latin = part.decode("latin-1")
    return {
        part.decode(errors="surrogateescape"),
        latin,
        repr(part)[2:-1],
        repr(latin)[1:-1],
        json.dumps(latin)[1:-1],
        json.dumps(latin, ensure_ascii=False)[1:-1],
        part.hex(),
        base64.b64encode(part).decode(),
        base64.urlsafe_b64encode(part).decode(),
    }


def found_in(log: str, content: bytes) -> list[bytes]:
    """The runs of the content's bytes that the log shows, whichever way."""
    parts = {content[at : at + RUN] for at in range(len(content) - RUN + 1)}
    return [part for part in parts if any(form in log for form in written_as(part))]


@pytest.mark.process
def test_no_bytes_of_an_image_are_logged(own: Artifact) -> None:
    random = np.random.default_rng(7)
    file = BytesIO()
    Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)).save(file, "PNG")
    picture, strange = file.getvalue(), random.bytes(2000)

    def ask(client: httpx.Client) -> None:
        came = [
            client.post(path, **body).status_code  # type: ignore[arg-type]
            for path in ("/search", "/images?label=failing", "/images")
            for content in (picture, picture[:-600], strange)
            for body in ({"content": content}, {"files": {"image": ("a.png", content)}})
        ]
        assert came == [
            200,
            200,
            422,
            422,
            415,
            415,
            500,
            500,
            422,
            422,
            415,
            415,
            201,
            200,
            422,
            422,
            415,
            415,
        ]
        several = [("image", picture), ("image", strange)]
        assert client.post("/search/batch", files=several).status_code == 200
        as_json = {"content": strange, "headers": {"content-type": "application/json"}}
        assert client.post("/search/codes", **as_json).status_code == 400  # type: ignore[arg-type]
        assert client.post("/search?k=x", content=picture).status_code == 422

    lines = logged(own, "--log-level", "debug", app="tests.service.web.test_watching:failing_app", ask=ask)
    log = "\n".join(lines)
    for content in (picture, strange):
        assert found_in(log, content) == []
        for form in written_as(content):
            assert found_in(f"x{form}x", content), "else this check sees nothing"
    exceptions = [json.loads(line).pop("exception", "") for line in lines]
    assert sum(map(bool, exceptions)) == 2
    for line, exception in zip(lines, exceptions, strict=True):
        assert len(line) - len(json.dumps(exception)) < 400
        assert all(len(each) < 200 for each in exception.splitlines())


@pytest.mark.process
def test_what_libraries_say_is_json_too(own: Artifact) -> None:
    def ask(client: httpx.Client) -> None:
        form = {"content-type": "multipart/form-data; boundary=b"}
        assert client.post("/images", content=b"no boundary", headers=form).status_code == 400
        file = BytesIO()
        Image.new("L", (8, 8)).save(file, "TIFF", tiffinfo={277: 9})  # samples a pixel
        assert client.post("/search", content=file.getvalue()).status_code == 422

    lines = logged(own, ask=ask)
    assert [line for line in lines if not line.startswith("{")] == []
    said = [
        line for line in map(json.loads, lines) if not line["logger"].startswith(("uvicorn", "hebbsearch"))
    ]
    assert [(line["level"], line["logger"]) for line in said] == [("warning", "python_multipart.multipart")]


@pytest.mark.slow
def test_the_log_is_text_if_that_is_asked_for(own: Artifact) -> None:
    (line,) = [line for line in logged(own, log="text") if "/search" in line]
    assert " INFO 127.0.0.1 POST /search 200 " in line
    assert line.endswith(" bytes [mine]")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--no-access-log",), ("--log-level", "warning")])
def test_uvicorns_options_hold(own: Artifact, options: tuple[str, ...]) -> None:
    assert not [line for line in logged(own, *options) if "/search" in line]


@pytest.mark.process
def test_a_failure_has_an_id_and_the_usual_headers(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "encode", lambda *_: 1 / 0)
    picture = (Path(artifact.manifest.data["root"]) / "class1/004.png").read_bytes()
    with serve_here(create_app(Settings(artifact=artifact.path))) as address:
        failed = httpx.post(f"{address}/search", content=picture, headers={"X-Request-ID": "bad"})
    assert failed.status_code == 500
    assert failed.headers["x-request-id"] == "bad"
    assert failed.headers["x-content-type-options"] == "nosniff"
