"""Learning, copies and a change of artifacts where the catalogue lies in PostgreSQL, for all who share it."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection

from index.artifact import CATALOGUE, Artifact, ArtifactError, open_artifact
from index.backup import copy_artifact
from index.catalogue import Catalogue, is_there
from index.database import Followed
from index.postgres_catalogue import beside
from index.schemas import alone, in_service_at, is_brought
from index.verify import faults
from service.app import create_app
from service.core import jobs
from service.settings import Settings
from tests import forking, postgresql
from tests.samples import command, environment, free_port, wait_until_ready
from tests.service.reloading import add, answer, images, move, png, reload, served
from tests.service.routes.test_jobs import COPYING, QUICK, WAITING, child, learn, mine, once, truth, until
from training.label import relearn

pytestmark = pytest.mark.process
__all__ = ["mine", "once"]  # fixtures


def schemas(url: str) -> set[str]:
    """Those of catalogues whose names begin as this one's."""
    stem = url.partition("schema=")[2]
    named = f"SELECT nspname FROM pg_namespace WHERE nspname ~ '^{stem}(__[0-9]+)?$'"
    return {name for (name,) in postgresql.execute(url, named)}


def serves(http: httpx.Client, name: str) -> None:
    """Wait until it does. Each answer on the way is one, or says to try again."""
    deadline = time.monotonic() + 60
    while True:
        response = http.get("/health/ready")
        if response.status_code == 200 and answer(http.get("/stats"))["artifact"] == name:
            return
        assert response.status_code in (200, 503), response.text
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def found(http: httpx.Client, content: bytes) -> list[dict[str, Any]] | None:
    """All that is near, the nearest first; None: it is to be asked again."""
    response = http.post("/search", content=content, params={"k": 100})
    if response.status_code == 503:
        assert "is served within seconds; try again" in response.json()["detail"]
        return None
    results: list[dict[str, Any]] = answer(response)["results"]
    return results


def test_a_copy_has_its_catalogue_in_a_file(own: Artifact, url: str) -> None:
    move(own.path, url)
    assert [str(fault) for fault in faults(own.path, url)] == []
    with served(own.path, catalogue=url) as http:
        kept = add(http, png(1), label="square")
        thrown = add(http, png(2))
        answer(http.delete(f"/images/{thrown}"), 204)
        answer(http.post("/admin/snapshot", json={"name": "copy"}), 201)
        paths = ("/images?limit=1000", "/trash", "/eval/map", "/labels.csv")
        before = [http.get(path).content for path in paths]
    copy = own.path.with_name("copy")
    assert [str(fault) for fault in faults(copy) if "no image" not in str(fault)] == []
    with served(copy) as http:
        after = [http.get(path).content.replace(b'"copy"', b'"artifact"') for path in paths]
        assert after == before
        assert http.get(f"/images/{kept}/original").content == png(1)
        assert add(http, png(3)) > thrown
    with served(own.path, catalogue=url) as http:
        assert len(images(http)) == 64


def test_labels_on_a_server_teach_and_all_who_share_it_serve_what_was_learned(
    mine: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, QUICK)
    with Catalogue.open(mine / CATALOGUE) as catalogue:
        given = {item.id: truth(item.path) for item in catalogue.page(count=999)}
        catalogue.label_all({id_: (label, "given") for id_, label in given.items()})
    move(mine, url)
    settings = {"catalogue": url, "engine": "catalogue"}
    with served(mine, **settings) as one, served(mine, **settings) as other:
        first, job = encoder_of(one), learn(one)
        said = answer(other.post("/labels/learn"), 409)["detail"]
        assert said == "job 1 is learning already; wait for it, or cancel it"
        done = until(other, job["id"], "done")
        assert answer(one.get("/jobs")) == answer(other.get("/jobs")) == {"jobs": [done]}
        assert done["result"]["after"]["map"] > 0.9
        sent = add(other, png(1), label="late")

        told = reload(one, job["target"], force=True)
        assert told["carried_over"]["added"] == 1
        (gone,) = (each["id"] for each in images(one).values() if each["path"] == "new.png")
        answer(one.delete(f"/images/{gone}"), 204)
        # From then on nobody finds it, whichever artifact the other one serves.
        while (near := found(other, png(1))) is None:
            threading.Event().wait(0.02)
        assert gone not in [each["id"] for each in near] and sent not in [each["id"] for each in near]
        serves(other, job["target"])
        assert encoder_of(other) == encoder_of(one) != first
        assert answer(other.get("/eval/map"))["definition"]["queries"] == done["result"]["held_out"]
        assert len(schemas(url)) == 2

        add(other, png(2), label="kept")
        told = answer(other.post("/admin/rollback"))
        assert (told["before"], told["after"]) == (job["target"], "mine")
        serves(one, "mine")
        assert encoder_of(one) == first
        assert [each["label"] for each in images(one).values() if each["path"] == "new.png"] == ["kept"]

        reload(one, job["target"], force=True)
        serves(other, job["target"])
    with served(mine, **settings) as http:  # and after a restart, by the address of the first
        assert answer(http.get("/stats"))["artifact"] == job["target"]
        assert [each["label"] for each in images(http).values() if each["path"] == "new.png"] == ["kept"]


def encoder_of(http: httpx.Client) -> str:
    identity: str = answer(http.get("/stats"))["encoder_id"]
    return identity


def test_after_many_rounds_a_restart_finds_what_is_served(
    mine: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, COPYING)
    move(mine, url)
    with served(mine, catalogue=url) as http:
        for number in (1, 2, 3):
            until(http, learn(http)["id"], "done")
            reload(http, f"mine-learned-{number}", force=True)
        add(http, png(1), "late.png")
        let_go = learn(http)
        until(http, let_go["id"], "done")
        answer(http.delete(f"/jobs/{let_go['id']}"), 204)  # nobody else can have served it
        said = answer(http.delete("/jobs/1"), 409)["detail"]
        assert "other services may use it" in said
    assert len(schemas(url)) == 4
    with served(mine, catalogue=url) as http:
        assert answer(http.get("/stats"))["artifact"] == "mine-learned-3"
        assert "late.png" in images(http)


def test_what_is_refused_may_be_tried_again(both: Path, url: str) -> None:
    move(both / "first", url)
    with served(both / "first", catalogue=url, reload_margin=0) as http:
        with Catalogue.open(both / "second" / CATALOGUE) as catalogue:
            ids = catalogue.codes().ids.tolist()
            catalogue.label_all({id_: ("square", "given") for id_ in ids})  # it answers worse
        for _ in range(2):
            assert "more than 0 less is refused" in reload(http, "second", status=409)["detail"]
        assert len(schemas(url)) == 1
        assert not is_brought(both / "second"), "what is refused stays the file that it is"
        assert answer(http.get("/stats"))["artifact"] == "first"
        add(http, png(1))
        assert "hebbsearch build made" in reload(http, "nothing", status=422)["detail"]
        reload(http, "second", force=True)
        assert "new.png" in images(http)


def test_what_was_moved_to_another_database_is_not_taken_for_one_of_this(both: Path, url: str) -> None:
    postgresql.execute(url, "CREATE SCHEMA IF NOT EXISTS elsewhere")
    move(both / "first", url)
    with Catalogue.open(both / "second" / CATALOGUE) as catalogue:
        catalogue.note("moved", "postgresql+psycopg://somebody@another/postgres?schema=test_1")
    with served(both / "first", catalogue=url) as http:
        assert "which is another database" in reload(http, "second", status=409, force=True)["detail"]


def test_one_of_two_services_changes_the_artifact(both: Path, url: str) -> None:
    move(both / "first", url)
    with served(both / "first", catalogue=url) as one, served(both / "first", catalogue=url) as other:
        gone = add(one, png(1))
        with alone(url) as mine:
            assert mine
            assert "is being replaced" in reload(other, force=True, status=409)["detail"]
        answer(one.delete(f"/images/{gone}", params={"forever": True}), 204)
        with ThreadPoolExecutor(2) as threads:
            asked = {"artifact": "second", "force": True}
            said = [*threads.map(lambda http: http.post("/admin/reload", json=asked), (one, other))]
        assert sorted(each.status_code for each in said) in ([200, 409], [200, 503])
        for http in (one, other):
            serves(http, "second")
            assert "new.png" not in images(http)
            assert len(images(http)) == 63


def test_going_back_that_is_cut_off_at_its_end_changes_nothing(
    both: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(both / "first", url)

    def cut_off(catalogue: Catalogue, *given: Any, within: Connection, **named: Any) -> None:
        take_over(catalogue, *given, within=within, **named)
        process = within.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        postgresql.execute(url, f"SELECT pg_terminate_backend({process})")

    take_over = Catalogue.take_over
    with served(both / "first", catalogue=url) as one, served(both / "first", catalogue=url) as other:
        reload(one, "second", force=True)
        serves(other, "second")
        with monkeypatch.context() as patch:
            patch.setattr(Catalogue, "take_over", cut_off)
            assert "what was served is still served" in answer(one.post("/admin/rollback"), 409)["detail"]
        assert in_service_at(both / "first", url)[0].name == "second", "as who starts now would serve"
        add(other, png(1))
        serves(one, "second")
        answer(one.post("/admin/rollback"))
        for http in (one, other):
            serves(http, "first")
            assert "new.png" in images(http)


def test_what_is_deleted_right_after_is_found_by_nobody_who_was_asking(
    both: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another artifact takes the place while a service reads what has changed."""
    monkeypatch.setattr("service.app.FOLLOWED", 3600)
    move(both / "first", url)
    with served(both / "first", catalogue=url) as one, served(both / "first", catalogue=url) as other:
        add(one, png(1))
        changes, meanwhile = Catalogue.changes, threading.Event()

        def read(catalogue: Catalogue, since: int, **more: Any) -> Any:
            if since > 0 and not meanwhile.is_set():
                meanwhile.set()
                reload(one, force=True)
                (sent,) = (each["id"] for each in images(one).values() if each["path"] == "new.png")
                answer(one.delete(f"/images/{sent}"), 204)
            return changes(catalogue, since, **more)

        monkeypatch.setattr(Catalogue, "changes", read)
        for _ in range(3):
            assert found(other, png(1)) is None
        assert meanwhile.is_set()


def test_a_job_is_cancelled_by_whichever_service_is_asked(
    mine: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, WAITING)
    monkeypatch.setattr(jobs, "LOOKED", 0.05)
    move(mine, url)
    with served(mine, catalogue=url) as one, served(mine, catalogue=url) as other:
        first = learn(one)
        until(other, first["id"], "running", "waiting")
        answer(other.delete(f"/jobs/{first['id']}"), 204)
        assert until(one, first["id"], "cancelled")["ended"] is not None
        second = begun(other)  # as soon as that of the first one is gone
        assert second["id"] == first["id"] + 1
        until(one, second["id"], "running", "waiting")
        answer(one.delete(f"/jobs/{first['id']}"), 204)  # its line
        assert [each["status"] for each in answer(other.get("/jobs"))["jobs"]] == ["running"]
        answer(one.delete(f"/jobs/{second['id']}"), 204)
        child(monkeypatch, COPYING)
        third = begun(one)
        assert until(other, third["id"], "done")["target"] == "mine-learned-3"
        answer(other.delete(f"/jobs/{third['id']}"), 204)
        assert not (mine.parent / third["target"]).exists()
        answer(one.get(f"/jobs/{third['id']}"), 404)


def begun(http: httpx.Client) -> dict[str, Any]:
    """A job, as soon as what was cancelled has ended."""
    while (response := http.post("/labels/learn")).status_code == 409:
        assert "has not ended yet" in response.json()["detail"]
    job: dict[str, Any] = answer(response, 202)
    return job


def test_what_a_service_that_ended_was_learning_another_one_learns(
    mine: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, WAITING)
    monkeypatch.setattr("service.app.FOLLOWED", 0.05)
    move(mine, url)
    with served(mine, catalogue=url) as other:
        with served(mine, catalogue=url) as one:
            job = learn(one)
            until(other, job["id"], "running", "waiting")
            child(monkeypatch, COPYING)
        done = until(other, job["id"], "done")
    assert done["target"] == job["target"] == "mine-learned-1"
    assert done["started"] > job["started"]
    assert list(faults(mine.parent / job["target"])) == []


def test_one_of_two_services_is_killed_while_it_learns_and_the_other_learns_on(
    own: Artifact, url: str
) -> None:
    """Real processes, and what really learns."""
    mine = own.path
    move(mine, url)
    ports = [free_port(), free_port()]
    one, other = (
        forking.Popen(command(port), env=environment(mine, catalogue=url), stderr=subprocess.DEVNULL)
        for port in ports
    )
    addresses = [f"http://127.0.0.1:{port}" for port in ports]
    try:
        for address, process in zip(addresses, (one, other), strict=True):
            wait_until_ready(address, process)
        with (
            httpx.Client(base_url=addresses[0], timeout=60) as http,
            httpx.Client(base_url=addresses[1], timeout=60) as left,
        ):
            job = learn(http)
            while not list(mine.parent.glob(".unfinished-*")):  # the child is at work
                assert answer(left.get(f"/jobs/{job['id']}"))["status"] == "running"
                threading.Event().wait(0.02)
            one.send_signal(signal.SIGKILL)
            one.wait()
            while (again := answer(left.get(f"/jobs/{job['id']}")))["started"] == job["started"]:
                assert again["status"] == "running"
                threading.Event().wait(0.1)
            answer(left.delete(f"/jobs/{job['id']}"), 204)
            while list(mine.parent.glob(".unfinished-*")):
                threading.Event().wait(0.02)
    finally:
        for process in (one, other):
            process.kill()
            process.wait()


@contextmanager
def recorded(mine: Path, url: str) -> Iterator[jobs.Records]:
    """What another service knows of jobs."""
    records = jobs.Records(mine, url)
    yield records
    records.ledger.close()


def test_requests_do_not_make_a_job_one_that_was_cut_off(
    mine: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ended had forgotten for a moment who learns."""
    monkeypatch.setattr("service.app.FOLLOWED", 3600)
    child(monkeypatch, COPYING)
    move(mine, url)
    with served(mine, catalogue=url) as http, recorded(mine, url) as records:
        (job,) = records.entered("mine", 0)
        for _ in range(2 * jobs.MISSED):
            said = answer(http.post("/labels/learn"), 409)["detail"]
            assert said == "job 1 is learning already; wait for it, or cancel it"
        assert answer(http.get("/jobs/1"))["started"] == job.started


def test_a_service_that_is_frozen_while_it_writes_holds_no_other_up(
    mine: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.ledger.WAIT", 0.1)
    child(monkeypatch, COPYING)
    move(mine, url)
    with served(mine, catalogue=url) as http:
        until(http, learn(http)["id"], "done")
        with recorded(mine, url) as records, records.writing():
            for ask in (http.post, http.delete):
                path = "/labels/learn" if ask == http.post else "/jobs/1"
                assert "others use it, try again" in answer(ask(path), 503)["detail"]
            assert answer(http.get("/jobs/1"))["status"] == "done"
            assert len(images(http)) > 200
        answer(http.delete("/jobs/1"), 204)


def test_who_may_only_read_deletes_nothing_and_is_told(
    mine: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, COPYING)
    move(mine, url)
    with served(mine, catalogue=url) as http:
        done = until(http, learn(http)["id"], "done")
    with served(mine, catalogue=f"{url}&options=-c%20default_transaction_read_only%3Don") as http:
        assert answer(http.get("/jobs")) == {"jobs": [done]}
        for response in (http.post("/labels/learn"), http.delete("/jobs/1")):
            assert "make it writable" in answer(response, 409)["detail"]
    assert (mine.parent / done["target"]).exists()


def test_one_that_lost_its_job_to_another_service_leaves_it_alone(
    mine: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server had ended, and another one was faster to be there again."""
    child(monkeypatch, WAITING)
    monkeypatch.setattr(jobs, "LOOKED", 0.05)
    move(mine, url)
    with served(mine, catalogue=url) as one, recorded(mine, url) as records:
        job = learn(one)
        until(one, job["id"], "running", "waiting")
        child(monkeypatch, COPYING)
        again = records.taken_over("mine")
        assert again is not None and again.id == job["id"]
        copy_artifact(mine, mine.parent / again.target, url)
        none = dict.fromkeys(["before", "after", "network_labels"])
        records.settled(again, {"artifact": again.target, "learned_from": 1, "held_out": 0, **none}, None)
        second = begun(one)  # as soon as its own has ended
        until(one, second["id"], "done")
        assert answer(one.get(f"/jobs/{job['id']}"))["status"] == "done"
        assert list(faults(mine.parent / again.target)) == []


def test_what_ends_while_the_server_is_away_is_noted_once_it_is_back(
    mine: Path, durable: postgresql.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = mine.parent / "gate"
    os.mkfifo(gate)
    shut = f"print(json.dumps({{'progress': 'copied'}}), flush=True); open({str(gate)!r}).read()\nprint(json"
    child(monkeypatch, COPYING.replace("print(json", shut, 1))
    monkeypatch.setattr(jobs, "LOOKED", 0.05)
    url = durable.new_schema()
    move(mine, url)
    with served(mine, catalogue=url) as http:
        job = learn(http)
        until(http, job["id"], "running", "copied")
        durable.kill()
        gate.write_text("")  # now it goes on to its end
        for ask in (http.get, http.delete):
            assert "once it answers" in answer(ask(f"/jobs/{job['id']}"), 503)["detail"]
        assert "once it answers" in answer(http.post("/labels/learn"), 503)["detail"]
        durable.start()
        while http.get("/jobs").status_code == 503:
            threading.Event().wait(0.05)
        assert until(http, job["id"], "done")["result"]["artifact"] == job["target"]
        assert list(faults(mine.parent / job["target"])) == []
        second = begun(http)
        until(http, second["id"], "running", "copied")
        answer(http.delete(f"/jobs/{second['id']}"), 204)


def test_a_catalogue_whose_place_is_taken_takes_no_changes(both: Path, url: str) -> None:
    move(both / "first", url)
    with Catalogue.open(url) as stays:
        with served(both / "first", catalogue=url) as http:
            reload(http, force=True)
        with pytest.raises(Followed, match="second took the place of this artifact and is served within"):
            stays.remove([1])


def test_what_was_moved_is_not_learned_from_where_it_was(both: Path, url: str) -> None:
    """The file keeps the labels of then: what is learned from it looks finished, and lacks all later ones."""
    move(both / "first", url)
    for make in (
        lambda out: relearn(both / "first", None, out),
        lambda out: copy_artifact(both / "first", out),
    ):
        with pytest.raises(
            ArtifactError, match=r"first/catalogue\.sqlite: its catalogue was moved to .*; set"
        ):
            make(both / "new")
        assert not (both / "new").exists()


def test_the_schema_of_another_artifact_is_refused_also_where_it_has_a_successor(
    both: Path, url: str
) -> None:
    """Else one index would be served, and changed, for another one."""
    copy_artifact(both / "second", both / "other")
    move(both / "first", url)
    with served(both / "first", catalogue=url) as http:
        reload(http, "second", force=True)
        for name in ("first", "second"):
            assert in_service_at(both / name, url)[0] == both / "second"
        copy_artifact(both / "other", both / "third")
        reload(http, "third", force=True)
    for name in ("first", "second", "third"):
        assert in_service_at(both / name, url)[0] == both / "third"
    with pytest.raises(ArtifactError, match=r"its encoder_id is .*, .*/other/manifest.json says .*; name"):
        in_service_at(both / "other", url)


def test_what_gave_its_place_before_the_move_leads_there(both: Path, url: str) -> None:
    with served(both / "first") as http:
        reload(http, "second", force=True)
    move(both / "second", url)
    with served(both / "first", catalogue=url) as http:
        assert answer(http.get("/stats"))["artifact"] == "second"
        reload(http, "first", force=True)  # which notes in its file what took its place
        assert answer(http.get("/stats"))["artifact"] == "first"
    assert in_service_at(both / "first", url)[0] == both / "first"


def test_a_successor_that_is_missing_here_ends_the_start_with_one_line(both: Path, url: str) -> None:
    move(both / "first", url)
    with served(both / "first", catalogue=url) as http:
        reload(http, force=True)
    (both / "second").rename(both / "elsewhere")
    with pytest.raises(ArtifactError, match="took the place of another artifact and is missing here"):
        create_app(Settings(artifact=both / "first", catalogue=url))
    assert is_there(beside(url, schemas(url).difference([url.partition("schema=")[2]]).pop()))


def test_the_command_learns_from_a_server(
    mine: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import label

    with Catalogue.open(mine / CATALOGUE) as catalogue:
        given = {item.id: truth(item.path) for item in catalogue.page(count=999)}
    move(mine, url)
    with Catalogue.open(url) as catalogue:
        catalogue.label_all({id_: (name, "given") for id_, name in given.items()})
    monkeypatch.setattr(label, "set_up_process", lambda _: None)
    label.run_command([str(mine), "--out", str(tmp_path / "learned"), "--catalogue", url])
    assert list(faults(tmp_path / "learned")) == []
    with open_artifact(tmp_path / "learned").open_catalogue() as catalogue:
        assert catalogue.counts()["database"] == 240
        assert len(catalogue.classes) == 2
