"""A service whose catalogue lies in PostgreSQL: it does what it does, and outlives its server."""

import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.artifact import Artifact, ArtifactError, open_artifact
from index.catalogue import Catalogue, is_there
from index.engine import EngineError
from index.engines import ranked
from index.postgres import PostgresRanker
from index.verify import faults
from service.app import create_app
from service.command import main
from service.settings import Settings
from tests import forking, postgresql
from tests.samples import command, environment, free_port, wait_until_ready
from tests.service.core.artifacts.shards import bare, encode, known, load
from tests.service.reloading import add, answer, images, move, png, served

pytestmark = pytest.mark.process


def contents(http: httpx.Client) -> Any:
    return answer(http.get("/images", params={"limit": 1000}))


# --- shards --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [True, False])
def test_shards_are_loaded_as_into_a_file(
    own: Artifact, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], moved: bool
) -> None:
    """Into a catalogue that was moved there, and into one that is made there."""
    data, made = tmp_path / "more", tmp_path / "shards"
    data.mkdir()
    for number in range(9):
        (data / f"{number}.png").write_bytes(png(number))
    encode(data, own.path, made)
    target = own.path if moved else bare(own, tmp_path / "bare")
    if moved:
        shutil.copytree(own.path, tmp_path / "file")
        move(own.path, url)
    else:
        shutil.copytree(target, tmp_path / "file")
    load(made, tmp_path / "file")
    for added in (9, 0):
        capsys.readouterr()
        assert main(["load", str(made), "--artifact", str(target), "--catalogue", url]) == 0
        assert f"{added} added" in capsys.readouterr().out
    loaded = known(target, "more", url)
    assert len(loaded) == 9
    assert loaded == known(tmp_path / "file", "more")
    assert list(faults(target, url)) == []


def test_shards_without_the_held_out_images_are_refused(
    own: Artifact, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "1.png").write_bytes(png(1))
    encode(tmp_path / "more", own.path, tmp_path / "shards")
    asked = ["load", str(tmp_path / "shards"), "--artifact", str(own.path), "--catalogue", url]
    assert main(asked) == 1
    said = capsys.readouterr().err
    assert "bring them there with hebbsearch move" in said
    assert said.count("\n") == 1
    assert not is_there(url)


# --- moving --------------------------------------------------------------------------------------------


def test_what_was_moved_answers_as_it_did(
    own: Artifact, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(own.path) as http:
        sent = add(http, png(1), label="sent")
        thrown, gone = (add(http, png(seed)) for seed in (2, 3))
        answer(http.delete(f"/images/{thrown}"), 204)
        answer(http.delete(f"/images/{gone}", params={"forever": True}), 204)
        answer(http.patch(f"/images/{sent}", json={"metadata": {"a": [1, None]}}))
        paths = ("/images?limit=1000", "/trash", "/eval/map", "/eval/codes", "/labels.csv", "/changes")
        before = {path: http.get(path).content for path in paths}
        found = answer(http.post("/search", content=png(1)))["results"]
        thumbnail = http.get(f"/images/{sent}/thumbnail").content
    move(own.path, url)
    assert "compared row by row" in capsys.readouterr().out
    with served(own.path, catalogue=url) as http:
        for path in paths:
            assert http.get(path).content == before[path], path
        assert answer(http.post("/search", content=png(1)))["results"] == found
        assert http.get(f"/images/{sent}/thumbnail").content == thumbnail
        # And it goes on: an id is never given twice, also not that of what went for good.
        assert add(http, png(4)) > gone
        answer(http.post("/trash/restore", json={"ids": [thrown]}))
        answer(http.get("/stats"))
    assert [str(fault) for fault in faults(own.path, url) if "no image" not in str(fault)] == []


def test_what_was_moved_is_served_from_there_alone(own: Artifact, url: str) -> None:
    with own.open_catalogue() as open_before:
        move(own.path, url)
        with pytest.raises(ValueError, match=r"was moved to .*; set HEBBSEARCH_CATALOGUE to this"):
            open_before.remove([1])
    with pytest.raises(ArtifactError, match="was moved to"):
        create_app(Settings(artifact=own.path))
    with pytest.raises(ArtifactError, match="was moved to"):
        own.open_catalogue()
    (own.path / "catalogue.sqlite").unlink()
    with pytest.raises(ArtifactError, match=r"is missing; .* or set HEBBSEARCH_CATALOGUE"):
        create_app(Settings(artifact=own.path))
    with served(own.path, catalogue=url) as http:
        assert len(images(http)) == 63


def test_a_move_that_cannot_be_changes_nothing(
    own: Artifact, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["move", str(own.path), *arguments]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "secret" not in said
        return said

    Catalogue.create(url, encoder_id="00ff", bits=32, classes=[]).close()
    assert "exists already; name another schema" in refused("--catalogue", url)
    assert "where to? name it" in refused()
    assert "small letters" in refused("--catalogue", "postgresql+psycopg://me:secret@h/db?schema=A")
    nobody = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/db?schema=a"
    assert "start it, or look at the network" in refused("--catalogue", nobody)
    with own.open_catalogue() as catalogue:
        catalogue.add_unknown([])
        assert catalogue.noted("moved") is None
    with pytest.raises(ArtifactError, match="was not moved to PostgreSQL; hebbsearch move does that"):
        open_artifact(own.path, url).open_catalogue()
    move(own.path, other := url + "_other")
    assert f"its catalogue was moved to {other}" in refused("--catalogue", url + "_third")
    with pytest.raises(ArtifactError, match=r"its encoder_id is 00ff, .*name the schema of this artifact"):
        open_artifact(own.path, url).open_catalogue()


def test_damage_is_not_moved(own: Artifact, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.index.catalogues import change

    change(own.path / "catalogue.sqlite", "UPDATE thumbnails SET image = x'00' WHERE item_id = 3")
    assert main(["move", str(own.path), "--catalogue", url]) == 1
    assert (
        "the thumbnail of image 3 does not match its checksum, and nothing was moved"
        in capsys.readouterr().err
    )
    with pytest.raises(ValueError, match="no such catalogue"):
        Catalogue.open(url)


def test_what_copies_the_folder_is_refused_with_the_way_out(own: Artifact, url: str) -> None:
    move(own.path, url)
    copy = own.path.with_name("copy")
    assert main(["reencode", str(own.path), "--encoder-of", str(own.path), "--out", str(copy)]) == 1
    assert not copy.exists()


def test_what_one_service_acknowledged_the_others_find(own: Artifact, url: str) -> None:
    move(own.path, url)
    with served(own.path, catalogue=url) as one, served(own.path, catalogue=url) as other:
        for seed, (told, asked) in enumerate([(one, other), (other, one), (one, other)]):
            sent = add(told, png(seed))
            assert answer(asked.post("/search", content=png(seed)))["results"][0]["id"] == sent
            answer(told.delete(f"/images/{sent}"), 204)
            found = answer(asked.post("/search", content=png(seed), params={"k": 100}))["results"]
            assert sent not in [each["id"] for each in found]

        def send(http: httpx.Client) -> list[int]:
            said = [http.post("/images", content=png(seed)).raise_for_status() for seed in range(50, 56)]
            return [each.json()["images"][0]["image"]["id"] for each in said]

        with ThreadPoolExecutor(2) as threads:
            first, second = threads.map(send, (one, other))
        assert first == second  # the same bytes are the same image, whoever takes them
        assert images(one) == images(other)


# --- what ranks there ----------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [True, False])
def test_postgresql_ranks_as_the_service_does(own: Artifact, url: str, moved: bool) -> None:
    """Beside its catalogue there, in one schema, and beside one in a file."""
    if moved:
        move(own.path, url)
    catalogue = url if moved else ""
    answers = list[Any]()
    for engine in ("flat", url):
        with served(own.path, catalogue=catalogue, engine=engine) as http:
            found = [
                answer(http.post("/search", content=png(seed), params={"k": 20, **more}))
                for seed in range(3)
                for more in ({}, {"label": "square"}, {"max_distance": 100})
            ]
            answers.append([*found, answer(http.get("/eval/map"))])
            assert answer(http.get("/stats"))["engine"] == engine
            ready = answer(http.get("/health/ready"))
            assert (ready["engine"], ready["stale"]) == (None, 0)
    assert answers[0] == answers[1]


def test_services_that_share_a_ranking_find_what_each_acknowledged(own: Artifact, url: str) -> None:
    move(own.path, url)
    shared = {"catalogue": url, "engine": url}
    with served(own.path, **shared) as one, served(own.path, **shared) as other:
        for seed, (told, asked) in enumerate([(one, other), (other, one)]):
            sent = add(told, png(seed), label="new")
            params = {"k": 3, "label": "new"}
            assert answer(asked.post("/search", content=png(seed), params=params))["results"][0]["id"] == sent
            answer(told.patch(f"/images/{sent}", json={"label": "square"}))
            found = answer(asked.post("/search", content=png(seed), params=params))["results"]
            assert sent not in [each["id"] for each in found]
            answer(told.delete(f"/images/{sent}"), 204)
            found = answer(asked.post("/search", content=png(seed), params={"k": 100}))["results"]
            assert sent not in [each["id"] for each in found]
            assert len(found) == 63


def test_another_artifact_needs_another_place(own: Artifact, url: str) -> None:
    shutil.copytree(own.path, own.path.with_name("second"))
    with served(own.path, engine=url) as http:
        detail = answer(http.post("/admin/reload", json={"artifact": "second"}), 409)["detail"]
        assert "restart the service with other HEBBSEARCH_ARTIFACT and HEBBSEARCH_ENGINE" in detail
        answer(http.post("/admin/snapshot", json={"name": "copy"}), 201)


def test_it_goes_on_when_the_ranking_is_away(own: Artifact, durable: postgresql.Server) -> None:
    with served(own.path, engine=durable.new_schema()) as http:
        kept = add(http, png(1))
        durable.kill()
        added = add(http, png(2))
        answer(http.delete(f"/images/{kept}"), 204)
        for response in (http.post("/search", content=png(1)), http.get("/health/ready")):
            detail = answer(response, 503)["detail"]
            assert "start it, or look at the network" in detail or "Connection refused" in detail
            assert "\n" not in detail
        assert answer(http.get("/stats"))["stale"] == 2
        durable.start()
        deadline = time.monotonic() + 60
        while http.get("/health/ready").status_code != 200 or answer(http.get("/health/ready"))["stale"]:
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        found = answer(http.post("/search", content=png(2), params={"k": 100}))
        assert found["results"][0]["id"] == added
        assert kept not in [each["id"] for each in found["results"]]
        assert found["stale"] == 0


def test_what_takes_no_changes_answers_with_what_it_has(own: Artifact, url: str) -> None:
    with served(own.path, engine=url) as http:
        kept = add(http, png(1))
        postgresql.execute(url, "ALTER TABLE ranked RENAME COLUMN label TO other")  # no write fits it
        added = add(http, png(2))
        answer(http.delete(f"/images/{kept}"), 204)
        found = answer(http.post("/search", content=png(2), params={"k": 100}))
        ids = [each["id"] for each in found["results"]]
        assert added not in ids and kept not in ids
        assert (len(ids), found["stale"]) == (63, 2)
        assert "label" in answer(http.get("/health/ready"))["engine"]
        postgresql.execute(url, "ALTER TABLE ranked RENAME COLUMN other TO label")
        deadline = time.monotonic() + 60
        while answer(http.get("/health/ready"))["stale"]:
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        assert answer(http.post("/search", content=png(2)))["results"][0]["id"] == added


def test_the_command_brings_it_up_to_date(
    own: Artifact, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def sync(*more: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["sync", str(own.path), *more]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    assert "63 codes at revision" in (said := sync("--engine", url))
    assert "63 changes were brought" in said
    assert "0 changes were brought" in sync("--engine", url)
    postgresql.execute(url, "DELETE FROM ranked WHERE id < 4")
    assert "has 60 codes of 63; hebbsearch sync --anew fills it again" in sync("--engine", url, code=1)
    assert "63 codes at revision" in sync("--engine", url, "--anew")
    assert "flat ranks in the service; name an --engine" in sync(code=1)
    assert "is a file, beside which nothing ranks" in sync("--engine", "catalogue", code=1)
    assert "there is no such engine" in sync("--engine", "mysql://me:secret@h", code=1)
    postgresql.execute(url, "UPDATE ranking SET revision = 10000")
    with pytest.raises(EngineError, match=r"has revision 10,000 of a catalogue that is at .* sync --anew"):
        create_app(Settings(artifact=own.path, engine=url))
    postgresql.execute(url, "UPDATE ranking SET encoder_id = 'other'")
    with pytest.raises(EngineError, match="ranks 256-bit codes of encoder other"):
        create_app(Settings(artifact=own.path, engine=url))


def test_the_command_fills_beside_the_catalogue(
    own: Artifact, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    move(own.path, url)
    assert main(["sync", str(own.path), "--engine", "catalogue", "--catalogue", url]) == 0
    assert "63 codes at revision" in capsys.readouterr().out


def test_a_ranking_that_is_filled_anew_beside_a_service_has_everything(own: Artifact, url: str) -> None:
    with served(own.path, engine=url) as http:
        ranker = PostgresRanker(url, bits=256, encoder_id=answer(http.get("/stats"))["encoder_id"])
        ranker.clear()  # as sync --anew begins
        add(http, png(1))
        deadline = time.monotonic() + 60
        while len(answer(http.post("/search", content=png(1), params={"k": 100}))["results"]) < 64:
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        assert ranked(ranker) == 64
        ranker.close()


def test_a_ranking_that_is_away_at_the_start_ends_it_with_one_line(
    own: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.app.configure_logging", lambda _: None)  # of the tests that follow too
    monkeypatch.setenv("HEBBSEARCH_ARTIFACT", str(own.path))
    monkeypatch.setenv(
        "HEBBSEARCH_ENGINE", f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/db?schema=a"
    )
    with pytest.raises(SystemExit, match="start it, or look at the network") as told:
        create_app()
    assert "secret" not in str(told.value) and "\n" not in str(told.value)
    monkeypatch.setenv("HEBBSEARCH_ENGINE", "mysql://me:secret@h/db")
    with pytest.raises(
        SystemExit, match=r"HEBBSEARCH_ENGINE: .*wanted flat, ivf, catalogue, or an address"
    ) as told:
        create_app()
    assert "secret" not in str(told.value)


# --- servers and services that are killed --------------------------------------------------------------


def run(path: Path, url: str) -> tuple[Any, str]:
    port = free_port()
    process = forking.Popen(command(port), env=environment(path, catalogue=url))
    address = f"http://127.0.0.1:{port}"
    wait_until_ready(address, process)
    return process, address


def test_a_killed_service_has_lost_nothing_that_it_acknowledged(
    own: Artifact, durable: postgresql.Server
) -> None:
    move(own.path, url := durable.new_schema())
    acknowledged = list[int]()
    for round_ in range(2):
        process, address = run(own.path, url)
        enough = threading.Event()

        def adding(round_: int = round_, address: str = address, enough: threading.Event = enough) -> None:
            with httpx.Client(base_url=address, timeout=60) as http:
                for seed in range(1000 * round_, 1000 * round_ + 500):
                    try:
                        acknowledged.append(add(http, png(seed)))
                    except httpx.TransportError:
                        return
                    if len(acknowledged) % 8 == 0:
                        enough.set()

        with ThreadPoolExecutor(1) as threads:
            done = threads.submit(adding)
            assert enough.wait(60)
            os.kill(process.pid, signal.SIGKILL)
            done.result()
        process.wait()
    assert len(acknowledged) >= 16
    with Catalogue.open(url) as catalogue:
        assert set(acknowledged) <= set(catalogue.codes().ids.tolist())
    wrong = [fault for fault in faults(own.path, url) if not fault.orphan]
    assert wrong == []


def test_it_outlives_its_server(own: Artifact, durable: postgresql.Server) -> None:
    move(own.path, url := durable.new_schema())
    with served(own.path, catalogue=url) as http:
        added = add(http, png(1))
        before = answer(http.post("/search", content=png(1)))
        assert answer(http.get("/health/ready"))["catalogue"] is None
        durable.kill()
        for _ in range(3):
            during = answer(http.post("/search", content=png(1)))
            assert [(each["id"], each["distance"]) for each in during["results"]] == [
                (each["id"], each["distance"]) for each in before["results"]
            ]
            for response in (
                http.post("/images", files={"image": ("a.png", png(2))}),
                http.patch(f"/images/{added}", json={"label": "a"}),
                http.delete(f"/images/{added}"),
                http.get(f"/images/{added}"),
            ):
                detail = answer(response, 503)["detail"]
                assert "start it, or look at the network" in detail and "\n" not in detail
        assert "start it" in answer(http.get("/health/ready"))["catalogue"]
        durable.start()
        deadline = time.monotonic() + 60
        while answer(http.get("/health/ready"))["catalogue"] is not None:
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        assert answer(http.post("/search", content=png(1))) == before
        assert add(http, png(2)) > added


@pytest.mark.parametrize("url", ["mysql://me:secret@h/db", "postgresql://me:secret@h/db"])
def test_an_address_that_is_none_ends_the_start_with_one_line(
    own: Artifact, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEBBSEARCH_ARTIFACT", str(own.path))
    monkeypatch.setenv("HEBBSEARCH_CATALOGUE", url)
    with pytest.raises(SystemExit, match=r"HEBBSEARCH_CATALOGUE: .*schema=name") as told:
        create_app()
    assert "secret" not in str(told.value) and "\n" not in str(told.value)


def test_a_server_that_does_not_answer_at_the_start_is_told(own: Artifact, url: str) -> None:
    move(own.path, url)
    _, _, schema = url.partition("?")
    nobody = f"postgresql+psycopg://hebbsearch@127.0.0.1:{free_port()}/postgres?{schema}"
    with pytest.raises(ArtifactError, match=r"Connection refused.*start it, or look at the network"):
        create_app(Settings(artifact=own.path, catalogue=nobody))
