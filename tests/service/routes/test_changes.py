"""Images come, change and go over real HTTP."""

import errno
import json
import os
import re
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from index.artifact import Artifact
from service.app import create_app
from service.core.pictures.decoding import Decoded, Pool
from service.settings import Settings
from tests import forking
from tests.samples import CLASSES, command, draw, environment, free_port, serve_here, served, wait_until_ready


def png(seed: int, label: int = 0) -> bytes:
    """A picture that the collection does not have."""
    file = BytesIO()
    draw(label, 10_000 + seed).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def http(own: Artifact) -> Iterator[httpx.Client]:
    with served(own.path) as client:
        yield client


def kept(artifact: Artifact) -> list[str]:
    """The names of the files that are kept."""
    files = [path for path in (artifact.path / "originals").rglob("*") if path.is_file()]
    return sorted(path.name for path in files if path.name != ".lock")


def answer(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def refusal(response: httpx.Response, status: int) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    detail: str = answer(response, status)["detail"]
    return detail


def test_an_image_is_added_found_changed_and_removed(http: httpx.Client) -> None:
    picture = png(1, label=2)
    (added,) = answer(http.post("/images?label=new+label&name=mine.png", content=picture), 201)["images"]
    image = added["image"]
    assert (added["status"], added["name"], added["error"]) == ("added", "mine.png", None)
    assert (image["label"], image["path"], image["width"]) == ("new label", "mine.png", 24)
    assert http.get(image["original"]).content == picture
    assert http.get(image["original"]).headers["content-type"] == "image/png"
    assert http.get(image["thumbnail"]).headers["content-type"] == "image/webp"

    def found(**asked: Any) -> list[tuple[int, str | None]]:
        results = answer(http.post("/search", content=picture, params={"max_distance": 0} | asked))["results"]
        return [(result["id"], result["label"]) for result in results]

    assert (image["id"], "new label") in found()
    assert found(label="new label") == [(image["id"], "new label")]
    assert answer(http.get("/images?label=new+label"))["images"] == [image]

    more = {"camera": "left", "tags": ["a", 1]}
    changed = answer(http.patch(f"/images/{image['id']}", json={"label": CLASSES[2], "metadata": more}))
    assert changed == image | {"label": CLASSES[2], "metadata": more}
    assert found(label=CLASSES[2])[-1] == (image["id"], CLASSES[2])
    assert answer(http.patch(f"/images/{image['id']}", json={"label": None}))["label"] is None
    assert answer(http.get(f"/images/{image['id']}")) == changed | {"label": None, "source": None}

    assert http.delete(f"/images/{image['id']}", params={"forever": True}).status_code == 204
    assert image["id"] not in [item_id for item_id, _ in found(k=1000)]
    for path in ("", "/thumbnail", "/original", "/similar"):
        refusal(http.get(f"/images/{image['id']}{path}"), 404)
    refusal(http.delete(f"/images/{image['id']}"), 404)
    refusal(http.patch(f"/images/{image['id']}", json={}), 404)


@pytest.mark.process
def test_queries_that_are_sent_are_found_but_flatter_no_measure(own: Artifact) -> None:
    held_out = sorted(Path(own.manifest.data["root"]).glob("held-out/*.png"))
    with closing(sqlite3.connect(own.path / "catalogue.sqlite")) as connection, connection:
        for path in held_out:
            known = sha256(path.read_bytes()).digest(), f"held-out/{path.name}"
            assert connection.execute("UPDATE items SET sha256 = ? WHERE path = ?", known).rowcount == 1
    files = [("image", (path.name, path.read_bytes())) for path in held_out]
    with (
        serve_here(create_app(Settings(artifact=own.path))) as address,
        httpx.Client(base_url=address, timeout=30) as http,
    ):
        paths = ("/eval/map", "/eval/map?k=1", "/eval/curve", "/eval/confusion", "/eval/queries?limit=100")
        before = {path: answer(http.get(path)) for path in paths}
        for label, name in enumerate(CLASSES):
            some = [file for file in files if file[1][0].startswith(f"{label}-")]
            added = answer(http.post("/images", params={"label": name}, files=some), 201)["images"]
            assert {each["status"] for each in added} == {"added"}
        (nearest, *_) = answer(http.post("/search", content=held_out[0].read_bytes()))["results"]
        found = answer(http.get(f"/images/{nearest['id']}"))
        assert (nearest["distance"], found["path"]) == (0, held_out[0].name)
        after = {path: answer(http.get(path)) for path in paths}
    for path in paths[:2]:
        definition = after[path]["definition"]
        assert (definition.pop("copies_of_queries"), definition["unlabelled_items"]) == (12, 3)
        text = " 12 indexed images are copies of queries and are not ranked here."
        assert text in definition["text"]
        definition["text"] = definition["text"].replace(text, "")
        assert before[path]["definition"].pop("copies_of_queries") == 0
    assert after == before


@pytest.mark.process
def test_what_was_changed_is_there_after_a_restart(own: Artifact) -> None:
    with serve_here(create_app(Settings(artifact=own.path))) as address:
        (added,) = answer(httpx.post(f"{address}/images?label=fox", content=png(1)), 201)["images"]
        httpx.delete(f"{address}/images/1").raise_for_status()
    with serve_here(create_app(Settings(artifact=own.path))) as address:
        assert answer(httpx.get(f"{address}/images/{added['image']['id']}")) == added["image"]
        assert httpx.get(f"{address}/images/1").status_code == 404
        assert (
            answer(httpx.post(f"{address}/search?label=fox", content=png(1)))["results"][0]["distance"] == 0
        )


def test_many_are_added_and_bad_ones_are_named(http: httpx.Client, own: Artifact) -> None:
    cut = png(3)[:100]
    files = [
        ("image", ("folder/one.png", png(1))),
        ("image", ("notes.txt", b"no image at all")),
        ("image", ("two.png", png(2))),
        ("image", ("cut.png", cut)),
        ("image", ("../../again.png", png(1))),
        ("image", ("C:\\\\photos\\\\four.png", png(4))),
        ("image", ("empty.png", b"")),
    ]
    form = {"label": "square", "metadata": json.dumps({"batch": 7})}
    images = answer(http.post("/images", files=files, data=form), 201)["images"]
    assert [(image["name"], image["status"]) for image in images] == [
        *(("one.png", "added"), ("notes.txt", "refused"), ("two.png", "added"), ("cut.png", "refused")),
        *(("again.png", "exists"), ("four.png", "added"), ("empty.png", "refused")),
    ]
    assert images[6]["error"] == "the file is empty"
    assert "known format" in images[1]["error"]
    assert "truncated or damaged" in images[3]["error"]
    assert images[4]["image"] == images[0]["image"]
    assert images[2]["image"]["label"] == "square"
    assert images[2]["image"]["metadata"] == {"batch": 7}
    assert len(list((own.path / "originals").rglob("*"))) >= 3
    again = answer(http.post("/images", files=files[:1]), 200)["images"]
    assert [(image["status"], image["image"]["id"]) for image in again] == [
        ("exists", images[0]["image"]["id"])
    ]


def test_what_is_left_empty_is_not_given(http: httpx.Client) -> None:
    empty = {"label": "", "metadata": "", "folder": ""}
    sent = http.post("/images", files={"image": ("a.png", png(1))}, data=empty)
    assert sent.status_code == 201, sent.text
    image = sent.json()["images"][0]["image"]
    assert (image["label"], image["metadata"], image["path"]) == (None, {}, "a.png")
    sent = http.post("/images", content=png(2), params={"label": "", "metadata": ""})
    assert sent.status_code == 201 and sent.json()["images"][0]["image"]["label"] is None
    sent = http.post("/images", files={"image": png(3)}, data=empty, params={"label": "circle"})
    assert sent.json()["images"][0]["image"]["label"] == "circle"


def test_label_and_metadata_may_stand_in_the_address(http: httpx.Client) -> None:
    given = {"label": "owl", "metadata": '{"camera": "left"}'}
    forms: list[dict[str, Any]] = [
        {"content": png(1), "params": given},
        {"files": {"image": png(2)}, "params": given},
        {"files": {"image": png(3)}, "params": {"label": "owl"}, "data": {"metadata": given["metadata"]}},
        {"files": {"image": png(4)}, "params": given, "data": {"metadata": '{"camera":"left"}'}},  # the same
    ]
    for form in forms:
        (added,) = answer(http.post("/images", **form), 201)["images"]
        image = added["image"]
        assert (image["label"], image["metadata"]) == ("owl", {"camera": "left"})


ONE = {"files": {"image": png(1)}}


@pytest.mark.parametrize(
    ("request_of", "status", "says"),
    [
        (lambda: {"content": b"no image at all"}, 415, "image: not an image in a known format"),
        (lambda: {"content": png(1)[:60]}, 422, "image: the image is truncated"),
        (lambda: {"content": b""}, 422, "there is no image"),
        (lambda: {"files": [("image", ("a", b"x" * 20))] * 7}, 415, "; and 2 more"),
        (lambda: {"files": {"picture": png(1)}}, 422, "picture: there is no such field"),
        (lambda: {"data": {"label": "cat"}, "files": {"label": b"x"}}, 422, "must be a file"),
        (lambda: {**ONE, "data": {"label": ["a", "b"]}}, 422, "label: give one"),
        (lambda: {**ONE, "data": {"label": " \u00a0"}}, 422, "label: .*nothing but white space"),
        (lambda: {**ONE, "data": {"label": "a\x00"}}, 422, "label .*control character.* position 2"),
        (
            lambda: {"content": png(1), "params": {"label": "a\nb"}},
            422,
            "label .*control character.* position 2",
        ),
        (lambda: {**ONE, "data": {"metadata": "{"}}, 422, "metadata is no JSON"),
        (lambda: {**ONE, "data": {"metadata": "[1]"}}, 422, "metadata: .*dictionary"),
        (lambda: {**ONE, "data": {"metadata": "[" * 50_000}}, 422, "metadata"),
        (lambda: {**ONE, "data": {"metadata": '{"a": NaN}'}}, 422, "metadata: .*JSON"),
        (lambda: {**ONE, "data": {"metadata": '{"a": "\\ud800"}'}}, 422, "metadata: .*cannot be written"),
        (lambda: {**ONE, "data": {"metadata": '{"a":' + "[" * 30 + "]" * 30 + "}"}}, 422, "20 levels deep"),
        (lambda: {**ONE, "data": {"metadata": '{"a":' + "[" * 500 + "]" * 500 + "}"}}, 422, "20 levels deep"),
        (lambda: {**ONE, "data": {"folder": "a\x00"}}, 422, "folder: .*U.0000"),
        (
            lambda: {**ONE, "data": {"metadata": json.dumps({"a": "x" * 20_000})}},
            422,
            "metadata: .*at most 16,384",
        ),
        (
            lambda: {**ONE, "data": {"label": "a"}, "params": {"label": "b"}},
            422,
            "give one",
        ),
        (
            lambda: {**ONE, "data": {"metadata": '{"a": 1}'}, "params": {"metadata": '{"a": 2}'}},
            422,
            "metadata is one in the address and another in the form; give one",
        ),
        (lambda: {"content": png(1), "params": {"metadata": "{"}}, 422, "metadata is no JSON"),
        (lambda: {"content": png(1), "params": {"metadata": "[1]"}}, 422, "metadata: .*dictionary"),
        (lambda: {"files": [("image", png(number)) for number in range(65)]}, 400, "Too many files"),
    ],
)
def test_bad_additions_add_nothing(
    http: httpx.Client, own: Artifact, request_of: Any, status: int, says: str
) -> None:
    before = answer(http.get("/images?limit=1000"))
    assert re.search(says, refusal(http.post("/images", **request_of()), status))
    assert answer(http.get("/images?limit=1000")) == before
    assert not (own.path / "originals").exists()
    assert answer(http.post("/images", content=png(1)), 201)


def test_bad_changes(http: httpx.Client, own: Artifact) -> None:
    queries = own.queries()
    assert queries is not None
    held_out = int(queries.ids[0])
    for call in (
        lambda: http.delete(f"/images/{held_out}"),
        lambda: http.patch(f"/images/{held_out}", json={}),
    ):
        assert "held out to measure" in refusal(call(), 409)
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    for change in (
        {"label": ""},
        {"label": 5},
        {"metadata": {"a": deep}},
        {"metadata": [1]},
        {"path": "x"},
        [],
    ):
        refusal(http.patch("/images/1", json=change), 422)
    surrogate = b'{"metadata": {"\\ud800": 1}}'
    refusal(http.patch("/images/1", content=surrogate, headers={"content-type": "application/json"}), 422)
    assert answer(http.get("/images/1"))["metadata"] == {}
    for unknown in ("0", "-1", str(2**80), "99999"):
        refusal(http.delete(f"/images/{unknown}"), 404)


@pytest.mark.process
def test_limits(own: Artifact) -> None:
    settings = Settings(artifact=own.path, max_image_bytes=2000, max_batch_bytes=4000, max_batch=2)
    noise = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(noise, "PNG")
    with serve_here(create_app(settings)) as address:
        assert "2,000 bytes" in refusal(httpx.post(f"{address}/images", content=noise.getvalue()), 413)
        files = [("image", noise.getvalue())] * 6
        assert "4,000 bytes together" in refusal(httpx.post(f"{address}/images", files=files), 413)
        files = [("image", png(number)) for number in range(3)]
        assert "Too many files" in refusal(httpx.post(f"{address}/images", files=files), 400)
        assert answer(httpx.post(f"{address}/images", files=files[:2]), 201)


@pytest.mark.process
def test_originals_are_kept_only_if_wanted(own: Artifact) -> None:
    with serve_here(create_app(Settings(artifact=own.path, keep_originals=False))) as address:
        (added,) = answer(httpx.post(f"{address}/images", content=png(1)), 201)["images"]
        assert added["image"]["original"] is None
        assert "is not kept" in refusal(httpx.get(f"{address}/images/{added['image']['id']}/original"), 404)
    assert not (own.path / "originals").exists()


def test_a_file_goes_with_its_image(http: httpx.Client, own: Artifact) -> None:
    (added,) = answer(http.post("/images", content=png(1)), 201)["images"]
    assert kept(own) == [added["image"]["sha256"]]
    http.delete(f"/images/{added['image']['id']}", params={"forever": True})
    assert kept(own) == []


@pytest.mark.process
def test_a_read_only_index_says_so_and_goes_on(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.sqlite.os.access", lambda path, mode: False)
    with serve_here(create_app(Settings(artifact=own.path, keep_originals=False))) as address:
        assert "readonly database" in refusal(httpx.post(f"{address}/images", content=png(1)), 409)
        assert "readonly database" in refusal(httpx.delete(f"{address}/images/1"), 409)
        assert "readonly database" in refusal(httpx.patch(f"{address}/images/1", json={"label": "a"}), 409)
        assert answer(httpx.post(f"{address}/search", content=png(1)))


@pytest.mark.process
def test_words_in_a_path_do_not_decide_what_is_answered(
    own: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(own.path, tmp_path / "locked; try again" / "artifact"))
    monkeypatch.setattr("index.sqlite.os.access", lambda path, mode: False)
    with serve_here(create_app(Settings(artifact=path, keep_originals=False))) as address:
        assert "readonly database" in refusal(httpx.patch(f"{address}/images/1", json={"label": "a"}), 409)


@pytest.mark.process
def test_who_waits_too_long_for_others_may_try_again(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the lock."""
    monkeypatch.setattr("index.sqlite.PATIENCE", 0.1)
    with serve_here(create_app(Settings(artifact=own.path))) as address:
        other = sqlite3.connect(own.path / "catalogue.sqlite", isolation_level=None)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")
            assert "locked" in refusal(httpx.patch(f"{address}/images/1", json={"label": "a"}), 503)
            other.execute("ROLLBACK")
        assert answer(httpx.patch(f"{address}/images/1", json={"label": "a"}))["label"] == "a"


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EROFS, 409), (errno.EACCES, 409)])
def test_a_file_that_cannot_be_kept_adds_nothing(
    http: httpx.Client, own: Artifact, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as broken:
        broken.setattr("index.originals.sync", fail)
        assert os.strerror(number) in refusal(http.post("/images?label=ghost", content=png(1)), status)
    assert [
        path for path in (own.path / "originals").rglob("*") if path.is_file() and path.name != ".lock"
    ] == []
    assert "unknown" in refusal(http.get("/images?label=ghost"), 422)
    assert answer(http.post("/images?label=ghost", content=png(1)), 201)


@pytest.mark.process
def test_an_item_that_cannot_be_stored_leaves_no_file(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.sqlite.os.access", lambda path, mode: False)
    with serve_here(create_app(Settings(artifact=own.path))) as address:
        assert "readonly database" in refusal(httpx.post(f"{address}/images", content=png(1)), 409)
    assert [
        path for path in (own.path / "originals").rglob("*") if path.is_file() and path.name != ".lock"
    ] == []


def test_many_clients_change_while_others_search(http: httpx.Client) -> None:
    """Nothing that was acknowledged is lost, nothing that is gone is found."""
    address = str(http.base_url)

    def work(number: int) -> int:
        with httpx.Client(base_url=address, timeout=60) as client:
            picture = png(number)
            (added,) = answer(client.post("/images?label=" + "abc"[number % 3], content=picture), 201)[
                "images"
            ]
            item_id: int = added["image"]["id"]
            search = {"max_distance": 0, "k": 1000}
            for gone in (False, True):
                results = answer(client.post("/search", content=picture, params=search))["results"]
                assert (item_id in [result["id"] for result in results]) != gone
                if number % 2 and not gone:
                    assert client.delete(f"/images/{item_id}").status_code == 204
                elif not gone:
                    return item_id
        return 0

    with ThreadPoolExecutor(6) as threads:
        stay = {item_id for item_id in threads.map(work, range(48)) if item_id}
    assert len(stay) == 24
    listed = answer(http.get("/images?limit=1000&label=a&label=b&label=c"))["images"]
    assert {image["id"] for image in listed} == stay


@pytest.mark.process
def test_what_was_acknowledged_survives_a_kill(own: Artifact) -> None:
    """The whole kill test, with more rounds, belongs to durability; this is one of it."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    kept: set[int] = set()
    gone: set[int] = set()
    for turn in range(3):
        process = forking.Popen(command(port), env=environment(own.path))
        try:
            wait_until_ready(address, process)
            for number in range(8):
                (added,) = answer(httpx.post(f"{address}/images", content=png(100 * turn + number)), 201)[
                    "images"
                ]
                kept.add(added["image"]["id"])
                if number % 3 == 0:
                    item_id = kept.pop()
                    assert httpx.delete(f"{address}/images/{item_id}").status_code == 204
                    gone.add(item_id)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    with serve_here(create_app(Settings(artifact=own.path))) as address:
        for item_id in kept:
            image = answer(httpx.get(f"{address}/images/{item_id}"))
            assert httpx.get(f"{address}{image['original']}").status_code == 200
        assert {httpx.get(f"{address}/images/{item_id}").status_code for item_id in gone} == {404}


@pytest.mark.process
def test_an_image_that_takes_long_holds_up_no_other_writer(
    own: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding, go_on = threading.Event(), threading.Event()
    decode = Pool.decode

    def slow(self: Pool, content: bytes, **how: Any) -> Decoded:
        if content == png(1):
            decoding.set()
            assert go_on.wait(60)
        return decode(self, content, **how)

    monkeypatch.setattr(Pool, "decode", slow)
    with (
        serve_here(create_app(Settings(artifact=own.path, concurrency=2))) as address,
        httpx.Client(base_url=address, timeout=60) as http,
        ThreadPoolExecutor(1) as others,
    ):
        waiting = others.submit(httpx.post, f"{address}/images", content=png(1), timeout=60)
        try:
            assert decoding.wait(60)
            answer(http.patch("/images/1", json={"label": "square"}))
            assert answer(http.post("/images", content=png(2)), 201)
            assert http.delete("/images/2").status_code == 204
            assert not waiting.done()
        finally:
            go_on.set()
        assert answer(waiting.result(), 201)


@pytest.mark.parametrize("depth", [19, 20, 100, 300, 400, 500, 700, 900, 5_000, 100_000])
@pytest.mark.parametrize(("opening", "end"), [("[", "]"), ('{"a":', "1}")])
def test_what_is_nested_without_end_is_refused(
    http: httpx.Client, depth: int, opening: str, end: str
) -> None:
    nested = opening * depth + ("]" * depth if end == "]" else "1" + "}" * depth)
    kind = {"content-type": "application/json"}
    for body, fine in (
        (f'{{"metadata": {{"a": {nested}}}}}', depth == 19 and opening == "["),
        (f'{{"label": {nested}}}', False),
        (f'{{"strange": {nested}}}', False),
    ):
        response = http.patch("/images/1", content=body, headers=kind)
        assert response.status_code in ((200,) if fine else (400, 413, 422)), response.text
