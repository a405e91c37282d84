"""Another artifact takes the place of the one that is served, over real HTTP."""

import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from index.artifact import PREDECESSOR, Artifact
from index.catalogue import Catalogue
from service.app import create_app
from service.core.artifacts.carrying import Carried
from service.core.live import Generation, Live
from service.core.searcher import Answer, Question, Searcher
from service.settings import Settings
from tests import forking
from tests.samples import (
    command,
    environment,
    free_port,
    serve,
    serve_here,
    wait_until_ready,
)
from tests.service.reloading import add, answer, encoder, images, png, reload, served

pytestmark = pytest.mark.process


def test_what_people_did_goes_along(both: Path) -> None:
    with served(both / "first") as http:
        before = images(http)
        kept = add(http, png(1), label="new label", metadata='{"by": "me"}')
        add(http, png(2), "another.png")
        about = answer(http.get(f"/images/{kept}"))
        answer(http.delete(f"/images/{before['class0/000.png']['id']}"), 204)
        answer(http.patch(f"/images/{before['class1/001.png']['id']}", json={"label": "circle"}))
        first = encoder(http)
        was = answer(http.post("/search", content=png(1)))["code"]

        told = reload(http, force=True)
        assert told["before"] == "first" and told["after"] == "second"
        assert told["carried_over"] == {"added": 2, "changed": 1, "removed": 1}
        assert encoder(http) != first

        after = images(http)
        assert "class0/000.png" not in after and len(after) == len(before) + 1
        assert after["class1/001.png"]["label"] == "circle"
        new = after["new.png"]
        assert new["metadata"] == {"by": "me"}
        for name in ("label", "sha256", "width", "added", "path"):
            assert new[name] == about[name]
        assert http.get(new["original"]).content == png(1)
        found = answer(http.post("/search", content=png(1)))
        assert found["code"] != was
        assert (found["results"][0]["id"], found["results"][0]["distance"]) == (new["id"], 0)


def test_after_a_restart_the_same_artifact_is_served_and_can_be_taken_back(both: Path) -> None:
    with serve(both / "first") as address, httpx.Client(base_url=address, timeout=60) as http:
        first = encoder(http)
        reload(http, force=True)
        second = encoder(http)
        kept = add(http, png(3), label="square")
        answer(http.delete(f"/images/{images(http)['class2/000.png']['id']}"), 204)
    with serve(both / "first") as address, httpx.Client(base_url=address, timeout=60) as http:
        assert encoder(http) == second
        assert answer(http.get(f"/images/{kept}"))["label"] == "square"
        told = answer(http.post("/admin/rollback"))
        assert (told["before"], told["after"]) == ("second", "first")
        assert told["carried_over"] == {"added": 1, "changed": 0, "removed": 1}
        assert encoder(http) == first
        assert "class2/000.png" not in images(http)
        assert answer(http.post("/search", content=png(3)))["results"][0]["distance"] == 0
        assert answer(http.post("/admin/rollback"))["after"] == "second"  # which it was taken back from
        answer(http.post("/admin/rollback"))
    with serve(both / "first") as address, httpx.Client(base_url=address, timeout=60) as http:
        assert encoder(http) == first


def test_one_that_answers_worse_is_refused_unless_it_is_forced(both: Path) -> None:
    with served(both / "first", reload_margin=0) as http:
        first = encoder(http)
        better = answer(http.get("/eval/map"))["map"]
    with served(both / "second", reload_margin=0) as http:
        worse, name = answer(http.get("/eval/map"))["map"], "first"
        if worse > better:
            name = "second"
    assert worse != better
    good, bad = ("first", "second") if name == "first" else ("second", "first")
    with served(both / good, reload_margin=0) as http:
        first = encoder(http)
        detail = reload(http, bad, status=409)["detail"]
        assert detail.startswith(
            f"on the 12 images that both hold out {bad} reaches a mAP of {min(worse, better):.4f}"
        )
        assert encoder(http) == first
        compared = reload(http, bad, force=True)["compared"]
        assert compared["queries"] == 12
        assert [compared["map_before"], compared["map_after"]] == pytest.approx(
            sorted([better, worse], reverse=True)
        )
        assert reload(http, good)["after"] == good  # the better one needs no force


def test_images_whose_files_are_not_kept_cannot_go_along(both: Path) -> None:
    with served(both / "first", keep_originals=False) as http:
        first = encoder(http)
        added = [add(http, png(seed)) for seed in range(3)]
        detail = reload(http, force=True, status=409)["detail"]
        assert detail.startswith("the files of 3 images that were sent to first are not kept")
        assert encoder(http) == first
        for id_ in added:
            answer(http.delete(f"/images/{id_}"), 204)
        assert reload(http, force=True)["after"] == "second"


def test_with_the_same_encoder_codes_go_along_without_files(both: Path) -> None:
    shutil.rmtree(both / "second")
    shutil.copytree(both / "first", both / "second")
    with served(both / "first", keep_originals=False) as http:
        add(http, png(4), label="mine")
        assert reload(http)["carried_over"] == {"added": 1, "changed": 0, "removed": 0}
        assert answer(http.post("/search", content=png(4)))["results"][0] == {
            **answer(http.post("/search", content=png(4)))["results"][0],
            "label": "mine",
            "distance": 0,
        }


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("first", 409, "first is what is served"),
        ("third", 422, "third/manifest.json: is missing"),
        ("../first", 422, "wanted the name of a folder beside"),
        ("", 422, "wanted the name of a folder beside"),
        ("a\0b", 422, "wanted the name of a folder beside"),
        ("broken", 422, "encoder.safetensors: is not the file the artifact was made with"),
    ],
)
def test_what_cannot_be_served_changes_nothing(both: Path, name: str, status: int, words: str) -> None:
    shutil.copytree(both / "second", both / "broken")
    (both / "broken" / "encoder.safetensors").write_bytes(b"nothing")
    with served(both / "first") as http:
        first = encoder(http)
        assert words in reload(http, name, status=status)["detail"]
        assert encoder(http) == first


def test_there_is_nothing_to_go_back_to_at_first(both: Path) -> None:
    with served(both / "first") as http:
        assert "took no other artifact's place" in answer(http.post("/admin/rollback"), 409)["detail"]


def test_without_a_name_the_setting_is_followed_again(both: Path) -> None:
    current = both / "current"
    current.symlink_to("first")
    with served(current) as http:
        current.unlink()
        current.symlink_to("second")
        told = answer(http.post("/admin/reload", json={"force": True}))
        assert (told["before"], told["after"]) == ("first", "second")


def test_only_administrators_may(both: Path) -> None:
    keys = {"write_keys": "w" * 16, "admin_keys": "a" * 16}
    with served(both / "first", **keys) as http:
        assert answer(http.post("/admin/rollback"), 401)
        weak = http.post("/admin/rollback", headers={"Authorization": f"Bearer {'w' * 16}"})
        assert "admin key" in answer(weak, 403)["detail"]
        strong = http.post("/admin/rollback", headers={"Authorization": f"Bearer {'a' * 16}"})
        assert answer(strong, 409)


def test_requests_go_on_while_artifacts_change(both: Path) -> None:
    """Searches, additions and deletions all the while: every one succeeds, and nothing of it is lost."""
    failures: list[str] = []
    added: list[int] = []
    another, done = threading.Event(), threading.Event()

    def searching(address: str) -> None:
        with httpx.Client(base_url=address, timeout=60) as http:
            while not done.is_set():
                response = http.post("/search", content=png(5))
                if response.status_code != 200:
                    failures.append(response.text)

    def adding(address: str) -> None:
        with httpx.Client(base_url=address, timeout=60) as http:
            seed = 100
            while not done.is_set():
                response = http.post("/images", content=png(seed), params={"label": "mine"})
                if response.status_code != 201:
                    failures.append(response.text)
                else:
                    added.append(seed)
                    another.set()
                seed += 1

    with serve_here(create_app(Settings(artifact=both / "first"))) as address:
        threads = [threading.Thread(target=each, args=(address,)) for each in (searching, searching, adding)]
        for thread in threads:
            thread.start()
        try:
            with httpx.Client(base_url=address, timeout=60) as http:
                for name in ("second", "first", "second"):
                    another.clear()
                    assert another.wait(60)  # one at least between two reloads, however slow this machine is
                    reload(http, name, force=True)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert not failures
        assert len(added) >= 3
        with httpx.Client(base_url=address, timeout=60) as http:
            mine = answer(http.get("/images", params={"label": "mine", "limit": 1000}))["images"]
            assert len(mine) == len(added)
            for seed in added:
                nearest = answer(http.post("/search", content=png(seed)))["results"][0]
                assert nearest["distance"] == 0


def test_a_request_under_way_is_answered_by_the_artifact_that_it_began_with(
    both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding, held, go_on = (threading.Event() for _ in range(3))
    ungated = Searcher.answer

    def gated(self: Searcher, questions: Sequence[Question]) -> list[Answer]:
        if holding.is_set() and not held.is_set():
            held.set()
            assert go_on.wait(60)
        return ungated(self, questions)

    monkeypatch.setattr(Searcher, "answer", gated)
    with served(both / "first") as http, ThreadPoolExecutor(1) as others:
        old = answer(http.post("/search", content=png(5)))
        holding.set()
        under_way = others.submit(http.post, "/search", content=png(5))
        try:
            assert held.wait(60)
            assert reload(http, force=True)["after"] == "second"  # waits for nobody who searches
            new = answer(http.post("/search", content=png(5)))
            assert not under_way.done()
        finally:
            go_on.set()
        assert answer(under_way.result()) == old
        assert new["code"] != old["code"]  # of the other encoder
        assert answer(http.post("/search", content=png(5))) == new


def test_an_artifact_without_labels_has_nothing_to_compare(both: Path, unlabelled_artifact: Artifact) -> None:
    shutil.copytree(unlabelled_artifact.path, both / "third")
    with served(both / "first") as http:
        detail = reload(http, "third", status=409)["detail"]
        assert "no image is held out by both first and third" in detail
        assert reload(http, "third", force=True)["compared"] is None
        assert reload(http, "first")["compared"] is None


@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 20), marks=pytest.mark.slow)])
def test_killed_while_artifacts_change_nothing_is_lost(both: Path, seed: int | range) -> None:
    """At any moment a restart serves one that has all that was acknowledged."""
    added = 0
    for each in [seed] if isinstance(seed, int) else seed:
        port = free_port()
        process = forking.Popen(command(port), env=environment(both / "first"))
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", process)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                check_all(http, added)
                for _ in range(3):
                    add(http, png(1000 + added), label="mine")
                    added += 1
                served = answer(http.get("/eval/map"))["definition"]["artifact"]
                other = "first" if served == "second" else "second"
                reloading = threading.Thread(target=ignoring, args=(http, other))
                reloading.start()
                time.sleep(np.random.default_rng(each).uniform(0, 0.6))
                process.kill()
                reloading.join()
        finally:
            process.kill()
            process.wait()
    with serve(both / "first") as address, httpx.Client(base_url=address, timeout=60) as http:
        check_all(http, added)


def ignoring(http: httpx.Client, name: str) -> None:
    """Reload; the server may be killed meanwhile."""
    with suppress(httpx.TransportError):
        reload(http, name, force=True)


def check_all(http: httpx.Client, added: int) -> None:
    """Each of the images is there once and is found."""
    mine = answer(http.get("/images", params={"split": "database", "limit": 1000}))["images"]
    assert sum(each["label"] == "mine" for each in mine) == added
    for seed in range(added):
        nearest = answer(http.post("/search", content=png(1000 + seed)))["results"][0]
        assert (nearest["label"], nearest["distance"]) == ("mine", 0)


@pytest.mark.slow
def test_memory_returns_after_reloads(both: Path) -> None:
    """Twenty of them cost no more than the first few, but for what an allocator keeps."""

    def resident(process: int) -> int:
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0]) * 1024

    port = free_port()
    process = forking.Popen(command(port), env=environment(both / "first"))
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            sizes = []
            for number in range(23):
                reload(http, ("second", "first")[number % 2], force=True)
                answer(http.post("/search", content=png(1)))
                time.sleep(0.5)  # what was served before is closed after the answer
                sizes.append(resident(process.pid))
            assert max(sizes[-3:]) < 1.05 * max(sizes[:3]), sizes
    finally:
        process.kill()
        process.wait()


def test_a_copy_is_made_and_comes_back(both: Path) -> None:
    with served(both / "first") as http:
        kept = add(http, png(50), label="mine")
        made = answer(http.post("/admin/snapshot", json={"name": "monday"}), 201)
        assert made == {"name": "monday", "items": 64, "encoder_id": encoder(http)}
        answer(http.delete(f"/images/{kept}"), 204)
        add(http, png(51), label="later")
        told = reload(http, "monday", as_it_is=True)
        assert told == {
            "before": "first",
            "after": "monday",
            "carried_over": {"added": 0, "changed": 0, "removed": 0},
            "compared": None,
        }
        there = answer(http.get(f"/images/{kept}"))
        assert there["label"] == "mine"
        assert http.get(there["original"]).content == png(50)
        assert len(images(http)) == 64
        detail = answer(http.post("/admin/snapshot", json={"name": "first"}), 422)["detail"]
        assert "exists already; choose another name" in detail
        detail = answer(http.post("/admin/snapshot", json={"name": "a/b"}), 422)["detail"]
        assert "wanted the name of a folder" in detail


def test_ids_of_the_artifact_before_touch_nothing_in_the_next(both: Path) -> None:
    """Who waits to delete while another artifact comes must not delete what has the id there."""
    carrying, go_on = threading.Event(), threading.Event()
    served_by: list[Live] = []

    class Slow(Live):
        def _carry(self, before: Generation, after: Generation, since: int) -> tuple[int, Carried]:
            if self.writing.borrowed_tokens:  # the last of it, while who writes waits
                served_by.append(self)
                carrying.set()
                assert go_on.wait(60)
            return super()._carry(before, after, since)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as others:
        patch.setattr("service.app.Live", Slow)
        with served(both / "first") as http:
            reloading = others.submit(reload, http, force=True)
            assert carrying.wait(60)
            deleting = others.submit(http.delete, "/images/7")
            while not served_by[0].writing.statistics().tasks_waiting:  # for its turn
                time.sleep(0.005)
            go_on.set()
            reloading.result()
            assert "has other ids; look for the image again" in answer(deleting.result(), 409)["detail"]
            assert answer(http.get("/images/7"))["id"] == 7


def notes(artifact: Path) -> dict[str, str]:
    """What the catalogue in this folder notes."""
    with closing(sqlite3.connect(artifact / "catalogue.sqlite")) as connection:
        return dict(connection.execute("SELECT key, value FROM meta"))


@pytest.mark.parametrize("fixed", [("first",), ("second",), ("first", "second")])
def test_what_cannot_be_written_to_is_neither_left_nor_served(
    both: Path, monkeypatch: pytest.MonkeyPatch, fixed: tuple[str, ...]
) -> None:
    before = {name: notes(both / name) for name in ("first", "second")}

    def access(path: Path, mode: int) -> bool:
        """What a read-only mount answers; permission bits do not stop a root user."""
        return mode != os.W_OK or not any(Path(path).is_relative_to(both / name) for name in fixed)

    monkeypatch.setattr("index.sqlite.os.access", access)
    with served(both / "first") as http:
        first = encoder(http)
        if "first" not in fixed:
            add(http, png(70))
        for force in (False, True):
            detail = reload(http, force=force, status=409)["detail"]
            assert f"{both / fixed[0]}/catalogue.sqlite: cannot be written to" in detail
            assert f"restart the service with HEBBSEARCH_ARTIFACT={both / 'second'}" in detail
        assert "cannot be written to" in reload(http, as_it_is=True, status=409)["detail"]
        assert encoder(http) == first
        assert len(answer(http.post("/search", content=png(70)))["results"]) == 10
    after = {name: notes(both / name) for name in ("first", "second")}
    assert after["second"] == before["second"]
    assert after["first"].keys() == before["first"].keys()


def test_one_that_cannot_note_its_successor_leaves_no_trace_in_it(
    both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for waits in ("index.sqlite", "index.tables.connections"):
        monkeypatch.setattr(f"{waits}.PATIENCE", 1)
    with served(both / "first") as http:
        first, before = encoder(http), notes(both / "second")
        with closing(sqlite3.connect(both / "first" / "catalogue.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert "database is locked" in reload(http, force=True, status=409)["detail"]
        assert encoder(http) == first
        assert notes(both / "second") == before
        assert reload(http, force=True)["after"] == "second"


def test_going_back_shuts_others_out_from_its_first_step(both: Path) -> None:
    """Else it would go back to whom another swap had made the predecessor of somebody else."""
    shutil.copytree(both / "second", both / "third")
    looking, go_on, noted = threading.Event(), threading.Event(), Catalogue.noted

    def slowly(catalogue: Catalogue, key: str) -> str | None:
        found = noted(catalogue, key)
        if key == PREDECESSOR:
            looking.set()
            assert go_on.wait(60)
        return found

    with served(both / "first") as http, pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as one:
        reload(http, "second", force=True)
        patch.setattr(Catalogue, "noted", slowly)
        try:
            going_back = one.submit(http.post, "/admin/rollback")
            assert looking.wait(60)
            assert "at this moment" in reload(http, "third", force=True, status=409)["detail"]
            assert "at this moment" in answer(http.post("/admin/rollback"), 409)["detail"]
        finally:
            go_on.set()
        told = answer(going_back.result())
        assert (told["before"], told["after"]) == ("second", "first")
