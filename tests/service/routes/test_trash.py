"""What is deleted comes back, what is done is undone, over real HTTP."""

import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from index.artifact import Artifact
from index.backup import copy_artifact
from index.items import Item
from index.originals import Originals
from index.tables.checksums import of_row
from index.verify import faults
from service.core.artifacts.carrying import carry
from service.core.library import Library, Upload
from service.core.pictures.decoding import decode
from service.core.searcher import Searcher
from service.core.trash import Trash
from tests import forking
from tests.samples import command, environment, free_port, wait_until_ready
from tests.service.reloading import add, answer, images, png, reload, served

pytestmark = pytest.mark.process

READER, WRITER = "r" * 16, "w" * 16


@pytest.fixture
def http(own: Artifact) -> Iterator[httpx.Client]:
    with served(own.path) as client:
        yield client


def refusal(response: httpx.Response, status: int) -> str:
    detail: str = answer(response, status)["detail"]
    return detail


def trash(http: httpx.Client) -> list[int]:
    return [image["id"] for image in answer(http.get("/trash"))["images"]]


def files(path: Path) -> list[str]:
    """The names of the files that are kept."""
    return sorted(each.hex() for each in Originals(path / "originals").hashes())


def undo(http: httpx.Client, response: httpx.Response) -> Any:
    return answer(http.post(f"/changes/{response.headers['X-Batch']}/undo"))


def test_what_is_deleted_is_nowhere_and_comes_back_as_it_was(http: httpx.Client) -> None:
    kept = add(http, png(1), "mine.png", label="mine", metadata='{"a": 1}')
    before, stats = images(http)["mine.png"], answer(http.get("/stats"))
    deleted = http.delete(f"/images/{kept}")
    answer(deleted, 204)

    assert "mine.png" not in images(http)
    refusal(http.get(f"/images/{kept}"), 404)
    refusal(http.get(f"/images/{kept}/similar"), 404)
    refusal(http.delete(f"/images/{kept}"), 404)
    assert "restore it first" in refusal(http.patch(f"/images/{kept}", json={"label": "x"}), 409)
    results = answer(http.post("/search", content=png(1), params={"k": 1000}))["results"]
    assert kept not in [result["id"] for result in results]
    now = answer(http.get("/stats"))
    assert (now["items"], now["labelled"], now["trash"]) == (stats["items"] - 1, stats["labelled"] - 1, 1)
    assert "mine.png" not in http.get("/labels.csv").text

    page = answer(http.get("/trash"))
    (thrown,) = page["images"]
    assert page["days"] == 30
    assert thrown == before | {"split": "trash", "trashed": thrown["trashed"]}
    assert answer(http.get(f"/images/{kept}", params={"trashed": True})) == thrown
    assert answer(http.get("/images", params={"trashed": True}))["images"] == [thrown]
    for what in ("thumbnail", "preview", "original"):
        assert http.get(thrown[what]).status_code == 200

    restored = http.post("/trash/restore", json={"ids": [kept, 1, 10**6]})
    assert answer(restored)["changed"] == 1
    assert {each["id"]: each["reason"] for each in answer(restored)["left"]} == {
        1: "it does not lie in the trash",
        10**6: "there is no such image",
    }
    assert images(http)["mine.png"] == before
    assert trash(http) == []
    assert undo(http, restored) == {"changed": 1, "left": []}
    assert trash(http) == [kept]


def test_many_are_deleted_at_once_and_come_back_at_once(http: httpx.Client) -> None:
    before = images(http)
    held_out = answer(http.get("/images", params={"split": "query"}))["images"][0]["id"]
    thrown = http.post("/trash", json={"ids": [1, 2, 2, 3, held_out, 10**6]})
    told = answer(thrown)
    assert told["changed"] == 3
    assert [each["id"] for each in told["left"]] == sorted([held_out, 10**6])
    assert sorted(trash(http)) == [1, 2, 3]
    (change,) = answer(http.get("/changes"))["changes"]
    assert change["batch"] == thrown.headers["X-Batch"]
    assert (change["counts"], change["images"], change["undoable"]) == ({"trashed": 3}, [1, 2, 3], 3)
    assert undo(http, thrown)["changed"] == 3
    assert images(http) == before


def test_requests_of_one_piece_of_work_are_named_alike(http: httpx.Client) -> None:
    together = {"X-Batch": "work-1"}
    sent = http.post("/images", files={"image": ("a.png", png(1))}, headers=together)
    (added,) = answer(sent, 201)["images"]
    id_ = added["image"]["id"]
    said = [
        sent,
        http.patch(f"/images/{id_}", json={"label": "new"}, headers=together),
        http.patch("/images", json={"ids": [1], "label": "new"}, headers=together),
        http.delete("/images/2", headers=together),
        http.post("/trash", json={"ids": [3]}, headers=together),
        http.post("/trash/restore", json={"ids": [3]}, headers=together),
    ]
    said.append(http.post(f"/changes/{said[3].headers['X-Batch']}/undo", headers=together))
    names = [response.headers["X-Batch"] for response in said]
    assert len(set(names)) == 7 and all(name.startswith("work-1.") for name in names)
    alone = http.delete("/images/4")
    told = {each["batch"]: each["together"] for each in answer(http.get("/changes"))["changes"]}
    # Of what was changed again since, nothing is left to undo, and it is not listed where images are gone.
    assert told == dict.fromkeys(names, "work-1") | {alone.headers["X-Batch"]: None}
    for wrong in ("", "a.b", "a b", "x" * 33):
        refusal(http.delete("/images/5", headers={"X-Batch": wrong}), 422)
    assert answer(http.get("/images/5"))["id"] == 5


def test_one_label_for_many_is_undone_at_once(http: httpx.Client) -> None:
    before = images(http)
    answer(http.delete("/images/3"), 204)
    labelled = http.patch("/images", json={"ids": [1, 2, 3], "label": "new", "source": "group"})
    told = answer(labelled)
    assert (told["changed"], told["left"][0]["id"]) == (2, 3)
    assert "restore it first" in told["left"][0]["reason"]
    assert answer(http.get("/changes"))["changes"][0]["counts"] == {"changed": 2}
    assert undo(http, labelled)["changed"] == 2
    answer(http.post("/trash/restore", json={"ids": [3]}))
    assert images(http) == before


def test_labels_and_images_that_came_are_undone(http: httpx.Client) -> None:
    added = http.post("/images", files={"image": ("a.png", png(1))}, data={"label": "one"})
    (image,) = answer(added, 201)["images"]
    labelled = http.patch(f"/images/{image['image']['id']}", json={"label": "two", "metadata": {"a": 1}})
    answer(labelled)
    left = undo(http, added)
    assert left == {"changed": 0, "left": [{"id": image["image"]["id"], "reason": "it was changed since"}]}
    back = http.post(f"/changes/{labelled.headers['X-Batch']}/undo")
    assert answer(back)["changed"] == 1
    assert images(http)["a.png"] == image["image"]
    assert undo(http, back)["changed"] == 1
    assert (images(http)["a.png"]["label"], images(http)["a.png"]["metadata"]) == ("two", {"a": 1})
    assert "can be undone" in refusal(http.post("/changes/nothing/undo"), 404)


def test_bytes_that_are_sent_again_come_out_of_the_trash(http: httpx.Client, own: Artifact) -> None:
    kept = add(http, png(1), "mine.png", label="mine", metadata='{"a": 1}')
    before = images(http)["mine.png"]
    answer(http.delete(f"/images/{kept}"), 204)
    sent = http.post("/images", files={"image": ("other.png", png(1))}, data={"label": "other"})
    (again,) = answer(sent, 201)["images"]
    assert (again["status"], again["image"]) == ("restored", before)
    assert "keeps" not in again and "the label 'mine', not 'other'" in again["error"]
    assert undo(http, sent)["changed"] == 1
    assert trash(http) == [kept]
    assert len(files(own.path)) == 1


def test_forever_is_for_good_with_its_file(http: httpx.Client, own: Artifact) -> None:
    first, second, third = (add(http, png(number), f"{number}.png") for number in range(3))
    gone = http.delete(f"/images/{first}", params={"forever": True})
    answer(gone, 204)
    assert "X-Batch" not in gone.headers
    assert len(files(own.path)) == 2
    answer(http.post("/trash", json={"ids": [second, third, 1]}))
    assert len(files(own.path)) == 2  # they can come back
    answer(http.delete(f"/images/{second}", params={"forever": True}), 204)
    assert len(files(own.path)) == 1
    assert answer(http.delete("/trash", params={"id": [third, 2]}))["changed"] == 1
    assert files(own.path) == []
    assert trash(http) == [1]
    assert answer(http.delete("/trash"))["changed"] == 1
    assert trash(http) == []
    refusal(http.get("/images/1/thumbnail"), 404)
    assert not list(faults(own.path))


def test_without_a_trash_images_are_gone_at_once(own: Artifact) -> None:
    with served(own.path, trash_days=0) as http:
        kept = add(http, png(1), "mine.png")
        deleted = http.delete(f"/images/{kept}")
        assert (deleted.status_code, "X-Batch" in deleted.headers) == (204, False)
        assert (trash(http), files(own.path)) == ([], [])
        many = http.post("/trash", json={"ids": [1, 2]})
        assert (answer(many)["changed"], "X-Batch" in many.headers) == (2, False)
        assert trash(http) == []
        added = http.post("/images", files={"image": ("b.png", png(2))})
        assert undo(http, added)["changed"] == 1
        assert (trash(http), files(own.path)) == ([], [])


def test_the_trash_is_for_writers(own: Artifact) -> None:
    with served(own.path, read_keys=READER, write_keys=WRITER, originals_to="readers") as http:
        reader, writer = ({"Authorization": f"Bearer {key}"} for key in (READER, WRITER))
        answer(http.delete("/images/1", headers=writer), 204)
        for what in ("thumbnail", "preview", "original"):
            refusal(http.get(f"/images/1/{what}", headers=reader), 404)
            assert http.get(f"/images/1/{what}", headers=writer).status_code == 200
            assert http.get(f"/images/2/{what}", headers=reader).status_code == 200
        refusal(http.get("/images/1", params={"trashed": True}, headers=reader), 404)
        refusal(http.get("/images", params={"trashed": True}, headers=reader), 403)
        for what in ("/export", "/export?format=parquet", "/labels.csv"):
            assert http.get(what, headers=reader).status_code == 200
            refusal(http.get(what, params={"trashed": True}, headers=reader), 403)
            assert http.get(what, params={"trashed": True}, headers=writer).status_code == 200
        for method, address in (("GET", "/trash"), ("DELETE", "/trash"), ("GET", "/changes")):
            refusal(http.request(method, address, headers=reader), 403)
            refusal(http.request(method, address), 401)
        refusal(http.post("/trash/restore", json={"ids": [1]}, headers=reader), 403)
        refusal(http.post("/changes/x/undo", headers=reader), 403)


@pytest.mark.parametrize("ids", [None, [], ["x"], [0], [2**63], [1] * 10_001])
def test_what_cannot_be_meant_is_refused(http: httpx.Client, ids: Any) -> None:
    body = {} if ids is None else {"ids": ids}
    refusal(http.post("/trash", json=body), 422)
    refusal(http.post("/trash/restore", json=body), 422)
    assert trash(http) == []


def test_what_lay_there_for_all_its_days_goes_by_itself(own: Artifact) -> None:
    with served(own.path) as http:
        old = add(http, png(1), "old.png")
        answer(http.post("/trash", json={"ids": [old, 1, 2]}))
    with closing(sqlite3.connect(own.path / "catalogue.sqlite")) as connection, connection:
        connection.execute("UPDATE trash SET since = 1000 WHERE item_id != 2")
    with served(own.path) as http:
        left = threading.Event()
        while not left.wait(0.05):
            if trash(http) == [2]:
                left.set()
        assert files(own.path) == []


def test_what_lies_in_the_trash_measures_nothing(http: httpx.Client) -> None:
    before = answer(http.get("/eval/map"))
    answer(http.post("/trash", json={"ids": [1, 2, 3]}))
    assert answer(http.get("/eval/map"))["definition"]["items"] == before["definition"]["items"] - 3
    answer(http.post("/trash/restore", json={"ids": [1, 2, 3]}))
    assert answer(http.get("/eval/map"))["map"] == before["map"]


# --- with other artifacts --------------------------------------------------------------------------


def test_the_trash_comes_along_to_another_artifact_and_back(both: Path) -> None:
    with served(both / "first") as http:
        sent = add(http, png(70), "sent.png", label="mine")
        path = "class0/000.png"
        thrown = [sent, images(http)[path]["id"]]
        answer(http.patch(f"/images/{thrown[1]}", json={"label": "square"}))
        answer(http.post("/trash", json={"ids": thrown}))
        told = {image["path"]: image for image in answer(http.get("/trash"))["images"]}
        assert reload(http, force=True)["carried_over"] == {"added": 0, "changed": 0, "removed": 1}
        there = {image["path"]: image for image in answer(http.get("/trash"))["images"]}
        assert there.keys() == told.keys()
        for name, image in there.items():
            assert (image["label"], image["trashed"]) == (told[name]["label"], told[name]["trashed"])
        assert http.get(there["sent.png"]["original"]).content == png(70)
        restored = answer(http.post("/trash/restore", json={"ids": [each["id"] for each in there.values()]}))
        assert restored == {"changed": 2, "left": []}
        results = answer(http.post("/search", content=png(70), params={"max_distance": 0}))["results"]
        assert images(http)["sent.png"]["id"] in [result["id"] for result in results]
        assert answer(http.post("/admin/rollback"))["carried_over"]["added"] == 2
        assert trash(http) == []
        assert images(http)["sent.png"]["label"] == "mine"
        assert images(http)[path]["label"] == "square"


def test_of_equal_bytes_the_one_in_the_trash_stays_there_in_the_next_artifact(both: Path) -> None:
    paths = ("class0/000.png", "class0/001.png")
    for name in ("first", "second"):
        with closing(sqlite3.connect(both / name / "catalogue.sqlite")) as connection, connection:
            connection.execute(f"UPDATE items SET sha256 = x'{'aa' * 32}' WHERE path IN {paths}")
    with served(both / "first") as http:
        one, other = (images(http)[path]["id"] for path in paths)
        answer(http.delete(f"/images/{one}"), 204)
        answer(http.delete(f"/images/{other}", params={"forever": True}), 204)
        reload(http, "second", force=True)
        assert [image["path"] for image in answer(http.get("/trash"))["images"]] == [paths[0]]
        assert not set(paths) & images(http).keys()


def test_what_lies_in_both_is_known_as_it_was_deleted_last(both: Path) -> None:
    with served(both / "first") as http:
        kept = add(http, png(70), "kept.png", label="old")
        answer(http.delete(f"/images/{kept}"), 204)
        with closing(sqlite3.connect(both / "first" / "catalogue.sqlite")) as connection, connection:
            (row,) = connection.execute("SELECT item_id, code FROM trash").fetchall()
            made = of_row([*row, 1000])  # as if long ago
            connection.execute("UPDATE trash SET since = 1000, checksum = ?", (made,))
        reload(http, "second", force=True)
        answer(http.post("/admin/rollback"))
        answer(http.post("/trash/restore", json={"ids": [kept]}))
        answer(http.patch(f"/images/{kept}", json={"label": "new"}))
        answer(http.delete(f"/images/{kept}"), 204)
        (before,) = answer(http.get("/trash"))["images"]
        reload(http, "second", force=True)
        (after,) = answer(http.get("/trash"))["images"]
        assert (after["label"], after["trashed"]) == ("new", before["trashed"])
        assert before["trashed"] > 1000


def test_a_deleted_image_does_not_come_back_from_a_third_artifact(both: Path) -> None:
    path = "class0/000.png"
    shutil.copytree(both / "second", both / "third")
    with served(both / "second") as http:  # which is to know nothing of it
        answer(http.delete(f"/images/{images(http)[path]['id']}", params={"forever": True}), 204)
    with closing(sqlite3.connect(both / "second" / "catalogue.sqlite")) as connection, connection:
        connection.execute("DELETE FROM checksums WHERE id IN (SELECT item_id FROM removed)")
        connection.execute("DELETE FROM removed")
    with served(both / "first") as http:
        answer(http.delete(f"/images/{images(http)[path]['id']}"), 204)
        reload(http, "second", force=True)
        assert [image["path"] for image in answer(http.get("/trash"))["images"]] == [path]
        reload(http, "third", force=True)
        assert path not in images(http)


def test_with_the_same_encoder_the_code_comes_along(own: Artifact) -> None:
    with closing(Searcher.open(own.path, max_pixels=10**6)) as searcher:
        library = Library(searcher, max_bytes=10**6, max_pixels=10**6, keep=False)
        (sent,) = library.add([Upload("a.png", png(1))])
        assert sent.id is not None
        code = searcher.catalogue.code(sent.id)
    other = own.path.with_name("other")
    copy_artifact(own.path, other)
    with (
        closing(Searcher.open(own.path, max_pixels=10**6)) as source,
        closing(Searcher.open(other, max_pixels=10**6)) as target,
    ):
        target.catalogue.remove([sent.id])
        source.catalogue.throw([sent.id])
        into = Library(target, max_bytes=10**6, max_pixels=10**6, keep=False)
        carry(source, into, 0)
        carry(source, into, 0)  # again: nothing more
        (thrown,) = target.catalogue.trash.ids()
        assert target.catalogue.take_out([thrown]) == [thrown]
        assert np.array_equal(target.catalogue.code(thrown), code)


def test_what_is_gone_for_good_goes_from_the_trash_of_the_next_artifact_too(both: Path) -> None:
    with served(both / "first") as http:
        kept, sent = add(http, png(70), "kept.png"), add(http, png(71), "sent.png")
        answer(http.post("/trash", json={"ids": [kept, sent]}))
        reload(http, "second", force=True)
        by_path = {image["path"]: image["id"] for image in answer(http.get("/trash"))["images"]}
        answer(http.delete("/trash", params={"id": by_path["sent.png"]}))
        answer(http.post("/admin/rollback"))
        assert [image["path"] for image in answer(http.get("/trash"))["images"]] == ["kept.png"]
    assert len(files(both / "first")) == 1


def test_a_change_of_another_artifact_is_not_undone(both: Path) -> None:
    with served(both / "first") as http:
        changed = http.patch("/images/1", json={"label": "square"})
        reload(http, force=True)
        refusal(http.post(f"/changes/{changed.headers['X-Batch']}/undo"), 404)
        assert answer(http.get("/changes"))["changes"] == []


def test_a_copy_has_the_trash_and_what_can_be_undone(both: Path) -> None:
    with served(both / "first") as http:
        thrown = http.delete("/images/1")
        answer(http.post("/admin/snapshot", json={"name": "monday"}), 201)
    with served(both / "monday") as http:
        assert trash(http) == [1]
        assert undo(http, thrown)["changed"] == 1
        assert 1 in [image["id"] for image in images(http).values()]


# --- at the same moment -----------------------------------------------------------------------------


@pytest.fixture
def library(own: Artifact) -> Iterator[Library]:
    with closing(Searcher.open(own.path, max_pixels=10**6)) as searcher:
        yield Library(searcher, max_bytes=10**6, max_pixels=10**6, keep=True)


def test_what_another_process_restores_is_not_forgotten(library: Library) -> None:
    bin_ = Trash(library, days=30, decode=decode)
    bin_.throw([1, 2])
    forget = library.forget

    def restored_before(items: Sequence[Item], **how: Any) -> list[int]:
        bin_.restore([1])
        return forget(items, **how)

    library.forget = restored_before  # type: ignore[method-assign]
    assert bin_.empty([1, 2]) == 1
    assert library.searcher.catalogue.get(1).split == "database"


def test_what_is_deleted_while_it_is_sent_again_comes_back(library: Library) -> None:
    (sent,) = library.add([Upload("a.png", png(1))])
    assert sent.id is not None
    prepared = library.prepare([Upload("b.png", png(1))])
    assert not library.is_stale(prepared)
    Trash(library, days=30, decode=decode).throw([sent.id])
    assert library.is_stale(prepared)
    (again,) = library.add([Upload("b.png", png(1))])
    assert (again.id, again.arrival) == (sent.id, "restored")


def test_a_file_that_cannot_be_removed_is_removed_later(
    library: Library, own: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sent,) = library.add([Upload("a.png", png(1))])
    assert sent.id is not None

    def denied(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(Originals, "forget", denied)
        library.forget([library.searcher.catalogue.get(sent.id)])
    assert len(files(own.path)) == 1
    library.finish_forgetting()
    assert files(own.path) == []


def test_where_nothing_changes_there_is_nothing_to_undo(http: httpx.Client) -> None:
    revision = answer(http.get("/stats"))["revision"]
    for response in (
        http.post("/trash", json={"ids": [10**6]}),
        http.post("/trash/restore", json={"ids": [1]}),
        http.patch("/images", json={"ids": [10**6], "label": "x"}),
        http.delete("/trash"),
    ):
        assert (answer(response)["changed"], "X-Batch" in response.headers) == (0, False)
    assert answer(http.get("/stats"))["revision"] == revision


# --- killed ----------------------------------------------------------------------------------------


def test_files_that_a_kill_left_go_at_the_next_start(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Searcher.open(own.path, max_pixels=10**6)) as searcher:
        library = Library(searcher, max_bytes=10**6, max_pixels=10**6, keep=True)
        bin_ = Trash(library, days=30, decode=pytest.fail)  # type: ignore[arg-type]  # nothing is decoded
        sent = [outcome.id for outcome in library.add([Upload("a.png", png(1)), Upload("b.png", png(2))])]
        bin_.throw([id_ for id_ in sent if id_])

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(Originals, "forget", killed)
            bin_.empty([id_ for id_ in sent if id_])
        assert len(files(own.path)) == 2
    with served(own.path) as http:
        done = threading.Event()
        while not done.wait(0.05):
            if not files(own.path):
                done.set()
        assert trash(http) == []
    assert not list(faults(own.path))


def test_killed_while_the_trash_is_emptied_each_image_is_there_or_gone_as_a_whole(own: Artifact) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = forking.Popen(command(port), env=environment(own.path))
    try:
        wait_until_ready(address, process)
        with httpx.Client(base_url=address, timeout=60) as http:
            sent = [add(http, png(number), f"{number}.png") for number in range(20)]
            answer(http.post("/trash", json={"ids": sent}))

        def empty() -> None:
            with suppress(httpx.HTTPError):
                for id_ in sent:  # one after the other: the kill comes between, or within
                    httpx.delete(f"{address}/trash", params={"id": id_})

        emptying = threading.Thread(target=empty)
        emptying.start()
        while len(files(own.path)) > 15:
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        emptying.join()
    finally:
        process.kill()
        process.wait()
    with served(own.path) as http:
        kept = trash(http)
        assert 0 < len(kept) <= 16
        done = threading.Event()
        while not done.wait(0.05):
            if len(files(own.path)) == len(kept):
                done.set()
        assert answer(http.post("/trash/restore", json={"ids": kept}))["changed"] == len(kept)
        for id_ in kept:
            assert http.get(f"/images/{id_}/original").status_code == 200
    assert not list(faults(own.path))
