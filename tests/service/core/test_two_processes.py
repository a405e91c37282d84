"""Two processes serve one artifact, and one of them goes over to another, over real HTTP."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.core import live
from service.core.artifacts.carrying import Carried
from tests.service.reloading import add, answer, images, png, reload, served

pytestmark = pytest.mark.process


def refused(response: httpx.Response) -> None:
    detail = answer(response, 409)["detail"]
    assert "second took the place of this artifact; restart this service" in detail


def test_what_another_process_was_told_is_in_what_a_restart_serves(both: Path) -> None:
    """It adds before, during and after a reload."""
    there, stop, told = threading.Event(), threading.Event(), dict[str, int]()

    def adding(http: httpx.Client) -> None:
        for seed in range(1000, 1400):
            told[f"{seed}.png"] = http.post(
                "/images", files={"image": (f"{seed}.png", png(seed))}
            ).status_code
            there.set()
            if stop.is_set():
                return

    with served(both / "first") as http, served(both / "first") as other, ThreadPoolExecutor(1) as one:
        writing = one.submit(adding, other)
        try:
            assert there.wait(60)
            reload(http, force=True)
        finally:
            stop.set()
        writing.result()
        told["last.png"] = other.post("/images", files={"image": ("last.png", png(1500))}).status_code
        acknowledged = {name for name, status in told.items() if status == 201}
        assert acknowledged
        assert acknowledged - images(http).keys() == set()
        assert told["last.png"] == 409
    with served(both / "first") as http:
        assert acknowledged - images(http).keys() == set()


def test_what_comes_between_the_last_look_and_the_note_is_not_acknowledged(
    both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for waits in ("index.sqlite", "index.tables.connections"):
        monkeypatch.setattr(f"{waits}.PATIENCE", 1)
    told = list[int]()
    carry = live.carry

    with served(both / "first") as http, served(both / "first") as other:

        def carried(*arguments: Any, **more: Any) -> tuple[int, Carried]:
            done = carry(*arguments, **more)
            told.append(other.post("/images", content=png(2000 + len(told))).status_code)
            return done

        monkeypatch.setattr(live, "carry", carried)
        reload(http, force=True)
        assert told == [201, 503]
        assert len(images(http)) == 64


def test_a_process_whose_artifact_was_left_acknowledges_nothing(both: Path) -> None:
    with served(both / "first") as http, served(both / "first") as other:
        sent = add(other, png(1))
        before = images(other)
        add(http, png(2), "seen by both.png")
        reload(http, force=True)
        refused(other.post("/images", content=png(3)))
        refused(other.post("/images", content=png(1)))  # there already: that, too, might be true no more
        refused(other.post("/images", files=[("image", ("a.png", png(1))), ("image", ("b.png", png(4)))]))
        refused(other.patch(f"/images/{sent}", json={"label": "square"}))
        refused(other.patch(f"/images/{sent}", json={}))
        refused(other.delete(f"/images/{sent}"))
        refused(other.delete("/images/99999"))
        for name, body in (
            ("reload", {"artifact": "second"}),
            ("rollback", None),
            ("snapshot", {"name": "c"}),
        ):
            refused(other.post(f"/admin/{name}", json=body))
        assert images(other).keys() == before.keys() | {"seen by both.png"}  # whoever only reads may go on
        assert images(http).keys() == images(other).keys()
        assert set(os.listdir(both)) == {"first", "second", "work-first", "work-second"}


def test_two_processes_go_on_where_nobody_left(both: Path) -> None:
    with served(both / "first") as http, served(both / "first") as other:
        sent = add(other, png(1))
        answer(http.patch(f"/images/{sent}", json={"label": "square"}))
        answer(other.post("/admin/snapshot", json={"name": "copy"}), 201)
        reload(http, force=True)
        answer(http.post("/admin/rollback"))
        kept = add(other, png(2), "after it came back.png")
        assert answer(http.get(f"/images/{kept}"))["path"] == "after it came back.png"
        answer(http.delete(f"/images/{kept}"), 204)
        assert other.get(f"/images/{kept}").status_code == 404
        told = reload(other, force=True)
        assert told["carried_over"]["added"] == 0
        refused(http.post("/images", content=png(3)))


def test_one_that_was_left_can_be_served_again_with_what_was_done_since(both: Path) -> None:
    """It has a successor while it is given what its successor has."""
    with served(both / "first") as http:
        reload(http, force=True)
        add(http, png(1), "since.png")
        assert reload(http, "first", force=True)["carried_over"]["added"] == 1
        add(http, png(2), "later.png")
        assert {"since.png", "later.png"} <= images(http).keys()
        reload(http, force=True, as_it_is=True)
        add(http, png(3), "last.png")
        assert "last.png" in images(http)
