"""One label for many images over real HTTP, and the predicted labels that can be taken so."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from index.artifact import CATALOGUE, Artifact
from index.catalogue import Catalogue
from index.items import Item
from index.verify import faults
from service.app import create_app
from service.client import Client
from service.core.library import Library
from service.core.searcher import Searcher
from service.settings import Settings
from tests.samples import serve_here, served

WITHOUT = [61, 62, 63]  # a label; "circle" is predicted for them


@pytest.fixture
def http(by_hand: Artifact) -> Iterator[httpx.Client]:
    with served(by_hand.path) as client:
        yield client


def relabel(http: httpx.Client, status: int = 200, **body: Any) -> Any:
    response = http.patch("/images", json=body)
    assert response.status_code == status, response.text
    return response.json()


def known(http: httpx.Client, *ids: int) -> list[tuple[str | None, str | None]]:
    found = [http.get(f"/images/{item_id}").raise_for_status().json() for item_id in ids]
    return [(image["label"], image["source"]) for image in found]


def test_many_get_a_label_in_one_step(http: httpx.Client, own: Artifact) -> None:
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        before = catalogue.revision
    assert relabel(http, ids=[3, 1, 3, 62], label=" new owl") == {"changed": 3, "left": []}
    assert known(http, 1, 3, 62) == [("new owl", "given")] * 3
    assert len(http.get("/images?label=new owl").json()["images"]) == 3
    assert relabel(http, ids=[1, 62], label=None) == {"changed": 2, "left": []}
    assert known(http, 1, 3, 62) == [(None, None), ("new owl", "given"), (None, None)]
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        assert catalogue.revision == before + 2  # each time one transaction


def test_a_search_sees_it(http: httpx.Client) -> None:
    relabel(http, ids=[5, 6], label="owl")
    found = http.get("/images/1/similar", params={"k": 9, "label": "owl"}).json()["results"]
    assert sorted(each["id"] for each in found) == [5, 6]


def test_what_cannot_have_it_is_left_and_named(http: httpx.Client, own: Artifact) -> None:
    queries = own.queries()
    assert queries is not None
    asked = int(queries.ids[0])
    http.delete("/images/63")
    http.delete("/images/60", params={"forever": True})
    relabel(http, ids=[62], label="theirs")
    answer = relabel(http, ids=[asked, 61, 60, 62, 63, 1, 2**63 - 1], label="circle", source="group", was="")
    assert answer["changed"] == 1
    assert {each["id"]: each["reason"] for each in answer["left"]} == {
        asked: f"image {asked} is held out to measure the answers and must stay as it is",
        62: "image 62 has the label 'theirs' by now; look at it again",
        60: "there is no image 60",
        63: "image 63 lies in the trash; restore it first",
        1: "image 1 has the label 'circle' by now; look at it again",
        2**63 - 1: f"there is no image {2**63 - 1}",
    }
    assert known(http, 61, 62, 1) == [("circle", "group"), ("theirs", "given"), ("circle", "given")]


def test_labels_that_nobody_looked_at_are_no_right_answers(http: httpx.Client) -> None:
    paths = ("/eval/map", "/eval/map?k=1", "/eval/curve", "/eval/confusion", "/eval/queries?limit=100")
    before = {path: http.get(path).raise_for_status().json() for path in paths}
    relabel(http, ids=WITHOUT, label="circle", source="group", was="")
    after = {path: http.get(path).raise_for_status().json() for path in paths}
    for path in paths[:2]:
        was, now = before[path]["definition"], after[path]["definition"]
        assert (was.pop("grouped_items"), now.pop("grouped_items")) == (0, 3)
        assert was.pop("unlabelled_items") == now.pop("unlabelled_items") + 3
        assert (
            "3 indexed images have labels that were accepted in groups and are not ranked here."
            in now["text"]
        )
        del was["text"], now["text"]
    assert after == before
    relabel(http, ids=WITHOUT, label="circle")  # somebody looked at each
    definition = http.get("/eval/map").json()["definition"]
    assert (definition["grouped_items"], definition["items"]) == (
        0,
        before[paths[0]]["definition"]["items"] + 3,
    )


def test_of_groups_alone_nothing_is_measured(http: httpx.Client, own: Artifact) -> None:
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        every = [item.id for item in catalogue.page(count=1000)]
    relabel(http, ids=every, label="new", source="group")
    answer = http.get("/eval/map")
    assert answer.status_code == 409
    assert answer.json()["detail"] == (
        "all labels of indexed images were accepted in groups, so that nobody knows which answers are right; "
        "give those of some images again once you have looked at them"
    )


def test_where_all_are_left_nothing_changes(http: httpx.Client, own: Artifact) -> None:
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        before = catalogue.revision, catalogue.classes
    assert relabel(http, ids=[1, 2], label="new", was="square")["changed"] == 0
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        assert (catalogue.revision, catalogue.classes) == before


def test_was_is_compared_as_labels_are(http: httpx.Client) -> None:
    relabel(http, ids=[1, 2], label="caf\u00e9")
    assert relabel(http, ids=[1, 2, 3], label=None, was=" cafe\u0301")["changed"] == 2
    assert relabel(http, ids=[1, 2], label="owl", was=" ")["changed"] == 2  # white space is no label


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"label": "a"}, "ids: "),
        ({"ids": [1]}, "label: "),  # to take labels away it must be said
        ({"ids": [], "label": "a"}, "at least 1 item"),
        ({"ids": list(range(1, 10_002)), "label": "a"}, "at most 10000 items"),
        *(
            ({"ids": [1, bad], "label": "a"}, "ids.1: ")
            for bad in ("2", "x", -1, 0, 2**63, 1.0, True, None, [2])
        ),
        ({"ids": 1, "label": "a"}, "ids: "),
        ({"ids": [1], "label": ""}, "label: "),
        ({"ids": [1], "label": " \t"}, "nothing but white space"),
        ({"ids": [1], "label": "o\x07l"}, "a control character (U+0007) at position 2"),
        ({"ids": [1], "label": "o" * 201}, "201 characters"),
        ({"ids": [1], "label": 5}, "label: "),
        ({"ids": [1], "label": "a", "source": "guess"}, "source: "),
        ({"ids": [1], "label": None, "source": "group"}, "source: says how a label came; give the label too"),
        ({"ids": [1], "label": "a", "was": 5}, "was: "),
        ({"ids": [1], "label": "a", "metadata": {}}, "metadata: there is no such parameter"),
    ],
)
def test_what_makes_no_sense_is_refused(http: httpx.Client, body: dict[str, Any], says: str) -> None:
    assert says in relabel(http, 422, **body)["detail"]
    assert known(http, 1) == [("circle", "given")]


@pytest.mark.parametrize(
    ("content", "how", "says"),
    [
        (
            b'{"ids": [1], "label": "owl"}',
            {},
            "the body was not sent as JSON: give it the header Content-Type",
        ),
        (
            b"{'ids': [1]}",
            {"Content-Type": "application/json"},
            "the body is no JSON (Expecting property name",
        ),
    ],
)
def test_a_body_that_is_no_json_is_told(
    http: httpx.Client, content: bytes, how: dict[str, str], says: str
) -> None:
    answer = http.patch("/images", content=content, headers=how)
    assert answer.status_code == 422 and answer.json()["detail"].startswith(says)


def test_as_many_as_may_be_with_the_longest_ids_fit(http: httpx.Client) -> None:
    answer = relabel(http, ids=[1, *range(2**63 - 9_999, 2**63)], label="owl", source="group", was="circle")
    assert (answer["changed"], len(answer["left"])) == (1, 9_999)


@pytest.mark.process
def test_who_may_not_write_is_told(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"ids": [1], "label": "owl"}
    with serve_here(create_app(Settings(artifact=own.path, write_keys="a-key-that-writes-1"))) as address:
        assert httpx.patch(f"{address}/images", json=body).status_code == 401
    monkeypatch.setattr("index.sqlite.os.access", lambda path, mode: False)
    with serve_here(create_app(Settings(artifact=own.path))) as address:
        answer = httpx.patch(f"{address}/images", json=body)
        assert (answer.status_code, "readonly database" in answer.text) == (409, True)


def test_two_take_the_same_group_at_once(http: httpx.Client, own: Artifact) -> None:
    def take(label: str) -> dict[str, Any]:
        answer: dict[str, Any] = relabel(http, ids=WITHOUT, label=label, source="group", was="")
        return answer

    with ThreadPoolExecutor(2) as people:
        both = list(people.map(take, ("circle", "square")))
    assert sorted(each["changed"] for each in both) == [0, 3]
    (loser,) = [each for each in both if each["changed"] == 0]
    assert [each["id"] for each in loser["left"]] == WITHOUT
    assert len(set(known(http, *WITHOUT))) == 1
    assert [fault for fault in faults(own.path) if "label" in str(fault)] == []


def test_what_another_process_removes_at_that_moment_is_left(
    own: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Searcher.open(own.path, max_pixels=10**6)
    with closing(opened) as searcher, Catalogue.open(own.path / CATALOGUE) as other:
        library = Library(searcher, max_bytes=10**6, max_pixels=10**6, keep=False)
        look_up = searcher.catalogue.there

        def there(ids: Sequence[int]) -> dict[int, Item]:
            found = look_up(ids)
            other.remove([2])
            return found

        monkeypatch.setattr(searcher.catalogue, "there", there)
        assert library.relabel([1, 2, 3], "owl") == (2, {2: "there is no image 2"})
        assert [item.label for item in searcher.catalogue.get_many([1, 3])] == ["owl", "owl"]


def test_predicted_labels_are_counted(http: httpx.Client) -> None:
    everything = {"predictions": [{"label": "circle", "images": 3}], "unlabelled": 3}
    nothing = {"predictions": [], "unlabelled": 3}
    for asked, wanted in (
        ({}, everything),
        ({"min_confidence": 0.3}, everything),
        ({"min_confidence": 0.31}, nothing),
    ):
        assert http.get("/labels/predictions", params=asked).json() == wanted
    relabel(http, ids=WITHOUT[:2], label="circle", source="group", was="")
    left = {"predictions": [{"label": "circle", "images": 1}], "unlabelled": 1}
    assert http.get("/labels/predictions").json() == left


@pytest.mark.parametrize("value", ["nan", "inf", -0.1, 1.1, "x", ""])
def test_how_sure_is_a_share(http: httpx.Client, value: object) -> None:
    answer = http.get("/labels/predictions", params={"min_confidence": value})
    assert answer.status_code == 422
    assert "min_confidence: " in answer.json()["detail"]


def test_without_embeddings_nothing_is_predicted(server: str) -> None:
    assert httpx.get(f"{server}/labels/predictions").json() == {"predictions": [], "unlabelled": 3}


def test_the_client_takes_a_group(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        (group,) = client.predictions(min_confidence=0.2).predictions
        ids = [image.id for image in client.images(predicted=[group.label], min_confidence=0.2)]
        answer = client.relabel(ids[1:], group.label, source="group", was="")
        assert (answer.changed, answer.left) == (2, [])
        assert client.relabel(ids, None, was=group.label).changed == 2
        assert client.predictions().unlabelled == 3
