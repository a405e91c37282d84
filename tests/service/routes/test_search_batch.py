"""Many images in one search, over real HTTP."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.artifact import Artifact
from service.app import create_app
from service.core.batching import Batcher
from service.core.searcher import Answer, Question, Searcher
from service.schemas.search import BatchAnswer
from service.settings import Settings
from service.web.places import ABREAST
from tests.samples import serve_here


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server) as client:
        yield client


@pytest.fixture(scope="module")
def pictures(artifact: Artifact) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(artifact.manifest.data["root"]).rglob("*.png"))]


def fields(images: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [("image", image) for image in images]


def test_each_image_is_answered_as_alone(http: httpx.Client, pictures: list[bytes]) -> None:
    asked = {"k": 3, "label": ["circle", "square"], "max_distance": 90}
    response = http.post("/search/batch", files=fields(pictures[:20]), params=asked)
    assert response.status_code == 200, response.text
    answers = response.json()["answers"]
    alone = [http.post("/search", content=picture, params=asked).json() for picture in pictures[:20]]
    assert answers == [{"answer": answer, "error": None} for answer in alone]
    again = http.post("/search/batch", files=fields(pictures[:20]), data=asked)
    assert again.content == response.content
    assert (
        BatchAnswer.model_validate_json(again.content, strict=True).model_dump_json().encode()
        == again.content
    )


def test_what_cannot_be_read_has_an_error_of_its_own(http: httpx.Client, pictures: list[bytes]) -> None:
    bad = [b"no image", pictures[0][:60], b"", b"x" * 10_000_001]
    images = [pictures[0], *bad, pictures[1]]
    answers = http.post("/search/batch", files=fields(images), params={"k": 1}).json()["answers"]
    assert [each["error"] and each["error"]["status"] for each in answers] == [None, 415, 422, 422, 413, None]
    for image, each in zip(bad, answers[1:-1], strict=True):
        assert each == {"answer": None, "error": http.post("/search", files={"image": image}).json()}
    assert [answers[at]["answer"]["results"][0]["distance"] for at in (0, -1)] == [0, 0]


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        (lambda some: {"files": fields(some * 2)}, 400, "Maximum number of files is 64"),
        (lambda some: {"files": fields(some[:1]), "params": {"label": "cat"}}, 422, "label 'cat' is unknown"),
        (lambda some: {"files": fields(some[:1]), "params": {"k": 0}}, 422, "k: "),
        (
            lambda some: {"files": fields(some[:1]), "data": {"k": 5}, "params": {"k": 6}},
            422,
            "k is 6 in the",
        ),
        (lambda some: {"files": fields(some[:1]), "data": {"image": "text"}}, 422, "must be a file"),
        (lambda some: {"content": some[0]}, 422, "multipart fields 'image'"),
        (lambda some: {"files": {"image": b"x" * 100_100_000}}, 413, "100,000,000 bytes together"),
    ],
)
def test_a_bad_request_is_refused_whole(
    http: httpx.Client, pictures: list[bytes], sent: Callable[[list[bytes]], Any], status: int, says: str
) -> None:
    response = http.post("/search/batch", **sent(pictures))
    assert response.status_code == status, response.text
    assert says in response.json()["detail"]


@pytest.mark.process
def test_a_single_search_waits_for_few_of_many(
    artifact: Artifact, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 images that came before it, 8 wait before it; and many more are refused. The other thread may
    answer some that came later while it is prepared."""
    gate, arrived, answered = threading.Event(), list[None](), list[int]()
    ask, answer = Batcher.ask, Searcher.answer

    async def counted(self: Batcher[Question, Answer], prepare: Callable[[], Question]) -> Answer:
        arrived.append(None)
        return await ask(self, prepare)

    def gated(self: Searcher, questions: Sequence[Question]) -> list[Answer]:
        assert gate.wait(20)
        answered.extend(question.wanted.k for question in questions)
        return answer(self, questions)

    def wait_for(count: int) -> None:
        for _ in range(2000):
            if len(arrived) == count:
                return
            time.sleep(0.01)
        pytest.fail(f"{len(arrived)} have arrived, not {count}")

    monkeypatch.setattr(Batcher, "ask", counted)
    monkeypatch.setattr(Searcher, "answer", gated)
    monkeypatch.setattr("service.web.places.BATCHES", 1)
    with (
        serve_here(create_app(Settings(artifact=artifact.path))) as address,
        ThreadPoolExecutor(2) as clients,
    ):
        many = clients.submit(httpx.post, f"{address}/search/batch", files=fields(pictures[:40]), timeout=30)
        wait_for(ABREAST)
        refused = httpx.post(f"{address}/search/batch", files=fields(pictures[:1]))
        single = clients.submit(httpx.post, f"{address}/search?k=3", content=pictures[0], timeout=30)
        wait_for(ABREAST + 1)
        gate.set()
        assert single.result().status_code == many.result().status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "1 searches of many images" in refused.json()["detail"]
    assert len(many.result().json()["answers"]) == 40
    assert answered.index(3) <= 2 * ABREAST
    assert sorted(answered) == [3] + [10] * 40
