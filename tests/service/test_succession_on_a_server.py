"""Learning, copies and a change of artifacts where the catalogue lies in PostgreSQL, for all who share it."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.artifact import CATALOGUE, Artifact, ArtifactError, open_artifact
from index.catalogue import Catalogue, is_there
from index.database import Followed
from index.postgres_catalogue import beside
from index.verify import faults
from service.app import create_app
from service.command import main
from service.settings import Settings
from tests import postgresql
from tests.service.reloading import add, answer, encoder, images, png, reload, served
from tests.service.routes.test_jobs import COPYING, QUICK, child, learn, mine, once, truth, until

pytestmark = pytest.mark.process
__all__ = ["mine", "once"]  # fixtures


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[postgresql.Server]:
    with postgresql.server("-c", "fsync=off") as started:
        yield started


@pytest.fixture
def url(postgresql_server: postgresql.Server) -> str:
    return postgresql_server.new_schema()


def move(path: Path, url: str) -> None:
    assert main(["move", str(path), "--catalogue", url]) == 0


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
        assert "another service on this folder keeps its jobs" in said
        done = until(one, job["id"], "done")
        assert answer(other.get(f"/jobs/{job['id']}"))["status"] == "done"
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

        kept = add(other, png(2), label="kept")
        told = answer(other.post("/admin/rollback"))
        assert (told["before"], told["after"]) == (job["target"], "mine")
        serves(one, "mine")
        assert encoder_of(one) == first
        assert [each["label"] for each in images(one).values() if each["path"] == "new.png"] == ["kept"]
        assert kept

        reload(one, job["target"], force=True)
        serves(other, job["target"])
    with served(mine, **settings) as http:  # and after a restart, by the address of the first
        assert answer(http.get("/stats"))["artifact"] == job["target"]
        assert [each["label"] for each in images(http).values() if each["path"] == "new.png"] == ["kept"]


def encoder_of(http: httpx.Client) -> str:
    identity: str = answer(http.get("/stats"))["encoder_id"]
    return identity


def test_what_is_no_longer_needed_leaves_the_server_too(
    mine: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, COPYING)
    move(mine, url)
    with served(mine, catalogue=url) as http:
        for number in (1, 2, 3):
            until(http, learn(http)["id"], "done")
            reload(http, f"mine-learned-{number}", force=True)
        assert len(schemas(url)) == 3  # the first, the one before, and what is served
        let_go = learn(http)
        until(http, let_go["id"], "done")
        answer(http.delete(f"/jobs/{let_go['id']}"), 204)
        assert len(schemas(url)) == 3
        assert len(images(http)) == 240


def test_what_is_refused_is_a_file_again(both: Path, url: str) -> None:
    move(both / "first", url)
    with served(both / "first", catalogue=url, reload_margin=0) as http:
        with Catalogue.open(both / "second" / CATALOGUE) as catalogue:
            ids = catalogue.codes().ids.tolist()
            catalogue.label_all({id_: ("square", "given") for id_ in ids})  # it answers worse
        assert "more than 0 less is refused" in reload(http, "second", status=409)["detail"]
        assert schemas(url) == {url.partition("schema=")[2]}
        assert answer(http.get("/stats"))["artifact"] == "first"
        add(http, png(1))
    assert list(faults(both / "second")) == []
    open_artifact(both / "second").open_catalogue().close()


def test_who_takes_a_place_that_is_taken_is_told(both: Path, url: str) -> None:
    shutil.copytree(both / "second", both / "third")
    move(both / "first", url)
    with served(both / "first", catalogue=url) as one, served(both / "first", catalogue=url) as other:
        first = encoder(one)
        reload(one, force=True)
        told = other.post("/admin/reload", json={"artifact": "third", "force": True})
        assert told.status_code in (200, 409, 503)  # it may have followed by then
        serves(other, "third" if told.status_code == 200 else "second")
        assert encoder(one) != first or told.status_code == 200


def test_a_catalogue_whose_place_is_taken_takes_no_changes(both: Path, url: str) -> None:
    move(both / "first", url)
    with Catalogue.open(url) as stays:
        with served(both / "first", catalogue=url) as http:
            reload(http, force=True)
        with pytest.raises(Followed, match="second took the place of this artifact and is served within"):
            stays.remove([1])


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
