"""What the service tells of its index, over real HTTP."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from index.artifact import CATALOGUE, Artifact
from index.catalogue import Catalogue
from index.duplicates import groups_within
from index.evaluation import average_precision
from index.ivf import Recall
from service.app import create_app
from service.core.searcher import Searcher
from service.routes import about
from service.settings import Settings
from tests.samples import CLASSES, PER_CLASS, QUERIES_PER_CLASS, UNLABELLED_ITEMS, serve_here, served

ITEMS = len(CLASSES) * PER_CLASS + UNLABELLED_ITEMS
HELD_OUT = len(CLASSES) * QUERIES_PER_CLASS


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server) as client:
        yield client


@pytest.fixture
def changing(own: Artifact) -> Iterator[httpx.Client]:
    """A service of the test's own, which may be changed."""
    with served(own.path) as client:
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
    assert (stats["exact"], stats["recall"]) == (True, None)
    assert stats["versions"]["hebbsearch"] == "0.1.0"
    assert answer(http.get("/stats"))["uptime"] > stats["uptime"] > 0


def test_stats_and_metrics_say_how_inexact_searches_are(
    changing: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "hebbsearch_recall 1.0\n" in changing.get("/metrics").text
    monkeypatch.setattr(Searcher, "exact", False)
    assert answer(changing.get("/stats"))["recall"] is None
    assert "hebbsearch_recall" not in changing.get("/metrics").text  # nothing was measured yet
    monkeypatch.setattr(Searcher, "recall", Recall(cells=64, searched=3, at_10=0.97, queries=200))
    stats = answer(changing.get("/stats"))
    assert stats["recall"] == {"cells": 64, "searched": 3, "at_10": 0.97, "queries": 200}
    assert not stats["exact"]
    assert "hebbsearch_recall 0.97\n" in changing.get("/metrics").text


def test_stats_do_not_wait_for_an_evaluation(changing: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any, **more: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return average_precision(*arguments, **more)

    monkeypatch.setattr("service.core.measuring.average_precision", slow)
    with ThreadPoolExecutor(1) as elsewhere:
        evaluation = elsewhere.submit(changing.get, "/eval/map")
        assert begun.wait(30)
        assert answer(changing.get("/stats"))["items"] == ITEMS
        go_on.set()
        assert answer(evaluation.result())["definition"]["items"] == ITEMS - UNLABELLED_ITEMS


def test_stats_follow_the_index(changing: httpx.Client, artifact: Artifact) -> None:
    before = answer(changing.get("/stats"))
    picture = (Path(artifact.manifest.data["root"]) / "held-out/0-0.png").read_bytes()
    answer(changing.post("/images?label=new", content=picture), 201)
    changing.delete("/images/1").raise_for_status()
    after = answer(changing.get("/stats"))
    assert (after["items"], after["trash"]) == (before["items"], 1)
    assert after["revision"] > before["revision"]
    assert [each["items"] for each in after["classes"]] == [PER_CLASS - 1, PER_CLASS, PER_CLASS, 1]
    assert after["bytes"]["originals"] == len(picture)
    used = after["bytes"]["catalogue"] + len(picture)
    assert after["bytes"]["per_image"] == pytest.approx(used / (ITEMS + 1 + HELD_OUT))


@pytest.mark.process
def test_stats_of_an_index_without_labels(unlabelled_artifact: Artifact) -> None:
    with serve_here(create_app(Settings(artifact=unlabelled_artifact.path))) as address:
        stats = answer(httpx.get(f"{address}/stats"))
    assert (stats["classes"], stats["queries"], stats["unlabelled"]) == ([], 0, ITEMS)


# --- how good it is ----------------------------------------------------------------------------------


def test_queries_are_listed_by_their_score(http: httpx.Client, artifact: Artifact) -> None:
    queries = artifact.queries()
    assert queries is not None
    labels = dict(zip(queries.ids.tolist(), queries.labels.tolist(), strict=True))
    for asked in ({}, {"k": 5, "ties": "order", "denominator": "retrieved"}):
        whole = answer(http.get("/eval/queries", params={"limit": 1000} | asked))
        listed = whole["queries"]
        assert whole["next"] is None
        assert {each["id"]: CLASSES.index(each["label"]) for each in listed} == labels
        order = [(each["aps"], each["id"]) for each in listed]
        assert order == sorted(order)
        mean = sum(each["aps"] for each in listed) / len(listed)
        assert mean == pytest.approx(answer(http.get("/eval/map", params=asked))["map"])
        best = answer(http.get("/eval/queries", params={"limit": 1000, "order": "best"} | asked))["queries"]
        assert best == sorted(listed, key=lambda each: (-each["aps"], each["id"]))
        for order_, all_ in (("worst", listed), ("best", best)):
            found, page = [], {"next": ""}
            while page["next"] is not None:
                after = {"after": page["next"]} if page["next"] else {}
                page = answer(http.get("/eval/queries", params={"limit": 5, "order": order_} | after | asked))
                found += page["queries"]
            assert found == all_
    assert http.get(listed[0]["thumbnail"]).headers["content-type"] == "image/webp"


@pytest.mark.parametrize("after", ["x", "0.5", "nan:1", "0.5:-1", "0.5:" + "9" * 30, "1e999:1"])
def test_a_strange_place_to_go_on_is_refused(http: httpx.Client, after: str) -> None:
    assert "after: " in refusal(http.get("/eval/queries", params={"after": after}), 422)


def test_the_confusion_is_that_of_single_searches(http: httpx.Client, artifact: Artifact) -> None:
    queries = artifact.queries()
    assert queries is not None
    confusion = answer(http.get("/eval/confusion"))
    expected: dict[tuple[str, str], float] = {}
    for id_, label in zip(queries.ids.tolist(), queries.labels.tolist(), strict=True):
        results = answer(http.get(f"/images/{id_}/similar?k=1000"))["results"]
        labelled = [result for result in results if result["label"] is not None]
        near = [each["label"] for each in labelled if each["distance"] == labelled[0]["distance"]]
        for name in near:
            key = CLASSES[label], name
            expected[key] = expected.get(key, 0) + 1 / len(near)
    found = {(each["label"], each["nearest"]): each["queries"] for each in confusion["nearest"]}
    assert found == pytest.approx(expected)
    right = sum(queries for (label, nearest), queries in expected.items() if label == nearest)
    assert confusion["accuracy"] == pytest.approx(right / HELD_OUT)


@pytest.mark.process
def test_without_labels_nothing_is_measured(unlabelled_artifact: Artifact) -> None:
    with serve_here(create_app(Settings(artifact=unlabelled_artifact.path))) as address:
        for path in ("queries", "confusion"):
            assert "without labels" in refusal(httpx.get(f"{address}/eval/{path}"), 409)


def test_the_state_of_the_codes(http: httpx.Client, artifact: Artifact) -> None:
    with Catalogue.open(artifact.path / CATALOGUE) as catalogue:
        table = catalogue.codes()
    bits = np.unpackbits(table.codes, axis=1)
    report = answer(http.get("/eval/codes"))
    assert report["items"] == ITEMS
    assert [each["balance"] for each in report["bits"]] == pytest.approx(bits.mean(0).tolist())
    assert report["dead"] == np.flatnonzero(bits.std(0) == 0).tolist()
    for pair in report["most_correlated"]:
        first, second = bits[:, pair["first"]], bits[:, pair["second"]]
        assert pair["correlation"] == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert 1 <= report["effective_bits"] <= 256 - len(report["dead"])
    groups: dict[str, list[int]] = {}
    for id_, code in zip(table.ids.tolist(), table.codes, strict=True):
        groups.setdefault(code.tobytes().hex(), []).append(id_)
    assert report["distinct"] == len(groups)
    shared = {code: ids for code, ids in groups.items() if len(ids) > 1}
    assert report["colliding"] == sum(map(len, shared.values()))
    for each in report["collisions"]:
        assert (each["size"], each["ids"]) == (len(shared[each["code"]]), shared[each["code"]][:10])
    sizes = sorted(map(len, shared.values()), reverse=True)[:20]
    assert [each["size"] for each in report["collisions"]] == sizes


def test_equal_codes_collide_and_no_codes_are_said(changing: httpx.Client, artifact: Artifact) -> None:
    picture = (Path(artifact.manifest.data["root"]) / "class1/004.png").read_bytes()
    for more in (b"", b"1"):  # another file with the same pixels
        answer(changing.post("/images", content=picture + more), 201)
    report = answer(changing.get("/eval/codes"))
    assert {25, ITEMS + HELD_OUT + 1, ITEMS + HELD_OUT + 2} in [
        set(each["ids"]) for each in report["collisions"]
    ]
    ids = [image["id"] for image in answer(changing.get("/images?limit=1000"))["images"]]
    for id_ in ids:
        changing.delete(f"/images/{id_}").raise_for_status()
    assert "no image is indexed" in refusal(changing.get("/eval/codes"), 409)
    assert answer(changing.get("/stats"))["items"] == 0


# --- duplicates --------------------------------------------------------------------------------------


def test_duplicates_are_those_of_index_page_by_page(http: httpx.Client, artifact: Artifact) -> None:
    with Catalogue.open(artifact.path / CATALOGUE) as catalogue:
        table = catalogue.codes()
    for radius in (0, 3, 16):
        groups = groups_within(table.codes, radius, most=10**9)
        whole = answer(http.get("/duplicates", params={"radius": radius, "limit": 100, "members": 1000}))
        assert (whole["radius"], whole["groups"], whole["next"]) == (radius, len(groups), None)
        assert whole["images"] == sum(map(len, groups))
        listed = [[image["id"] for image in group["images"]] for group in whole["found"]]
        assert listed == [table.ids[group].tolist() for group in groups]
        names = [None if label < 0 else CLASSES[label] for label in table.labels.tolist()]
        for group, places in zip(whole["found"], groups, strict=True):
            assert [image["label"] for image in group["images"]] == [names[place] for place in places]
            assert group["labels"] == len({names[place] for place in places} - {None})
            first = group["images"][0]
            assert first["path"] == answer(http.get(f"/images/{first['id']}"))["path"]
        found, asked = [], {"radius": radius, "limit": 1, "members": 2}
        while asked.get("after", "") is not None:
            page = answer(http.get("/duplicates", params=asked))
            found += page["found"]
            asked["after"] = page["next"]
        assert [group["images"] for group in found] == [group["images"][:2] for group in whole["found"]]
        assert [group["size"] for group in found] == [group["size"] for group in whole["found"]]
    assert whole["found"]
    assert http.get(whole["found"][0]["images"][0]["thumbnail"]).status_code == 200


def test_duplicates_follow_the_index(changing: httpx.Client, artifact: Artifact) -> None:
    before = answer(changing.get("/duplicates"))["images"]
    picture = (Path(artifact.manifest.data["root"]) / "class1/004.png").read_bytes()
    (added,) = answer(changing.post("/images", content=picture), 201)["images"]
    found = answer(changing.get("/duplicates?members=1000"))
    assert found["images"] > before
    assert added["image"]["id"] in [image["id"] for group in found["found"] for image in group["images"]]


def test_what_would_not_end_is_refused(
    http: httpx.Client, own: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(about, "MOST_PAIRS", 5)
    with serve_here(create_app(Settings(artifact=own.path))) as address:
        assert "0 is always possible" in refusal(httpx.get(f"{address}/duplicates?radius=9"), 422)
        answer(httpx.get(f"{address}/duplicates"))
    for asked in ("radius=32", "radius=-1", "limit=0", "members=0", "after=3", "after=a:b", "odd=1"):
        refusal(http.get(f"/duplicates?{asked}"), 422)
