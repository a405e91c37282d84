"""Services whose codes a Milvus ranks, beside a catalogue in a file and one in PostgreSQL."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from index.artifact import Artifact
from index.engine import EngineError
from service.app import create_app
from service.command import main
from service.settings import Settings
from tests import milvus, postgresql
from tests.samples import free_port
from tests.service.reloading import add, answer, move, png, served

pytestmark = [*milvus.CLUSTER]


@pytest.fixture(scope="module")
def milvus_server() -> Iterator[milvus.Server]:
    with milvus.server() as started:
        yield started


def until(good: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not good():
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)


def nearest(http: httpx.Client, seed: int, **more: Any) -> Any:
    return answer(http.post("/search", content=png(seed), params={"k": 20, **more}))


def test_it_answers_as_the_service_does(
    own: Artifact, milvus_server: milvus.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    place, answers = milvus_server.new_collection(), list[Any]()
    assert main(["sync", str(own.path), "--engine", place]) == 0
    assert "63 codes at revision" in capsys.readouterr().out
    for engine in ("flat", place):
        with served(own.path, engine=engine) as http:
            asked = [{}, {"label": "square"}, {"max_distance": 100}]
            answers.append([nearest(http, seed, **more) for seed in range(3) for more in asked])
            assert answer(http.get("/stats"))["engine"] == engine
    assert answers[0] == answers[1]
    with served(own.path, engine=place) as http:
        sent = add(http, png(1), label="new")
        assert nearest(http, 1, label="new")["results"][0]["id"] == sent
        answer(http.delete(f"/images/{sent}"), 204)
        assert sent not in [each["id"] for each in nearest(http, 1, k=100)["results"]]
    assert main(["sync", str(own.path), "--engine", place, "--anew"]) == 0
    assert "63 codes at revision" in capsys.readouterr().out


def test_services_on_one_catalogue_and_each_server_in_turn_killed(
    own: Artifact, durable: postgresql.Server
) -> None:
    """Nothing that was acknowledged is lost, and nothing that was deleted is found."""
    url = durable.new_schema()
    move(own.path, url)
    with milvus.server() as mortal:
        shared = {"catalogue": url, "engine": mortal.new_collection()}
        with served(own.path, **shared) as one, served(own.path, **shared) as other:
            kept, gone = list[int](), list[int]()
            for seed, server in enumerate([None, mortal, durable]):
                if server is not None:
                    server.kill()
                    response = other.post("/search", content=png(seed))
                    assert response.status_code == (503 if server is mortal else 200), response.text
                if server is not durable:  # which takes the changes
                    kept.append(add(one, png(2 * seed)))
                    gone.append(add(other, png(2 * seed + 1)))
                    answer(one.delete(f"/images/{gone[-1]}"), 204)
                if server is not None:
                    server.start()
                for http in (one, other):
                    until(lambda http=http: http.get("/health/ready").status_code == 200)  # type: ignore[misc]
                    until(lambda http=http: not answer(http.get("/health/ready"))["stale"])  # type: ignore[misc]
                    found = [each["id"] for each in nearest(http, 2 * seed, k=100)["results"]]
                    assert set(kept) <= set(found) and not set(gone) & set(found)
                    assert len(found) == 63 + len(kept)


def test_one_that_is_not_there_ends_the_start_with_one_line(own: Artifact) -> None:
    nobody = f"milvus+http://me:secret@127.0.0.1:{free_port()}/codes"
    with pytest.raises(EngineError, match="start it, or look at the network") as told:
        create_app(Settings(artifact=own.path, engine=nobody))
    assert "secret" not in str(told.value) and "\n" not in str(told.value)
