"""What the service tells of its index, over real HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.artifact import Artifact
from service.app import create_app
from service.settings import Settings
from tests.conftest import CLASSES, PER_CLASS, QUERIES_PER_CLASS, UNLABELLED_ITEMS, serve_here

ITEMS = len(CLASSES) * PER_CLASS + UNLABELLED_ITEMS
HELD_OUT = len(CLASSES) * QUERIES_PER_CLASS


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server) as client:
        yield client


@pytest.fixture
def changing(own: Artifact) -> Iterator[httpx.Client]:
    """A service of the test's own, which may be changed."""
    with (
        serve_here(create_app(Settings(artifact=own.path))) as address,
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        yield client


def answer(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def refusal(response: httpx.Response, status: int) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    detail: str = answer(response, status)["detail"]
    return detail


# --- what there is -----------------------------------------------------------------------------------


def test_stats(http: httpx.Client, artifact: Artifact) -> None:
    stats = answer(http.get("/stats"))
    counts = (stats["items"], stats["labelled"], stats["unlabelled"], stats["queries"])
    assert counts == (ITEMS, ITEMS - UNLABELLED_ITEMS, UNLABELLED_ITEMS, HELD_OUT)
    assert stats["classes"] == [
        {"label": name, "items": PER_CLASS, "queries": QUERIES_PER_CLASS} for name in CLASSES
    ]
    assert stats["bytes"]["codes"] == 32 * ITEMS
    thumbnails = [len(http.get(f"/images/{id_}/thumbnail").content) for id_ in range(1, ITEMS + HELD_OUT + 1)]
    assert stats["bytes"]["thumbnails"] == sum(thumbnails)
    assert stats["bytes"]["catalogue"] >= (artifact.path / "catalogue.sqlite").stat().st_size
    assert stats["bytes"]["originals"] == 0
    assert stats["encoder_id"] == artifact.manifest.encoder_id
    assert stats["versions"]["hebbsearch"] == "0.1.0"
    assert answer(http.get("/stats"))["uptime"] > stats["uptime"] > 0


def test_stats_follow_the_index(changing: httpx.Client, artifact: Artifact) -> None:
    before = answer(changing.get("/stats"))
    picture = (Path(artifact.manifest.data["root"]) / "held-out/0-0.png").read_bytes()
    answer(changing.post("/images?label=new", content=picture), 201)
    changing.delete("/images/1").raise_for_status()
    after = answer(changing.get("/stats"))
    assert after["items"] == before["items"]
    assert after["revision"] > before["revision"]
    assert [each["items"] for each in after["classes"]] == [PER_CLASS - 1, PER_CLASS, PER_CLASS, 1]
    assert after["bytes"]["originals"] == len(picture)
    used = after["bytes"]["catalogue"] + len(picture)
    assert after["bytes"]["per_image"] == pytest.approx(used / (ITEMS + HELD_OUT))


def test_stats_of_an_index_without_labels(unlabelled_artifact: Artifact) -> None:
    with serve_here(create_app(Settings(artifact=unlabelled_artifact.path))) as address:
        stats = answer(httpx.get(f"{address}/stats"))
    assert (stats["classes"], stats["queries"], stats["unlabelled"]) == ([], 0, ITEMS)
