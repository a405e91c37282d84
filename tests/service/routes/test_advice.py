"""Which labels to give, and which to look at again, over real HTTP on a graph made by hand."""

from collections.abc import Iterator

import httpx
import pytest

from index.artifact import Artifact
from service.client import Client
from service.core.artifacts.upgrading import upgrade
from tests.samples import served


@pytest.fixture
def http(by_hand: Artifact) -> Iterator[httpx.Client]:
    with served(by_hand.path) as client:
        yield client


def of_kind(http: httpx.Client, **which: object) -> list[dict]:
    return http.get("/images", params={"limit": 1000, **which}).json()["images"]


def test_suggestions_are_of_images_without_a_label_one_of_each_kind(http: httpx.Client) -> None:
    unlabelled = [image["id"] for image in of_kind(http, unlabelled=True)]
    assert len(unlabelled) == 3
    images = http.get("/labels/suggestions", params={"limit": 2}).json()["images"]
    assert len(images) == 2
    assert images[0]["id"] in unlabelled[1:], "two are alike: a label of one of them teaches more"
    assert images[1]["id"] == unlabelled[0]
    assert images[0]["predicted"] == "circle"
    assert images[0]["confidence"] == 0.3
    assert images[0]["label"] is images[0]["source"] is None
    everything = http.get("/labels/suggestions").json()["images"]
    assert sorted(image["id"] for image in everything) == unlabelled


def test_a_label_that_was_given_is_suggested_no_more(http: httpx.Client) -> None:
    first = http.get("/labels/suggestions").json()["images"][0]["id"]
    changed = http.patch(f"/images/{first}", json={"label": "square", "source": "accepted"}).json()
    assert (changed["label"], changed["source"], changed["predicted"]) == ("square", "accepted", None)
    left = [image["id"] for image in http.get("/labels/suggestions").json()["images"]]
    assert len(left) == 2
    assert first not in left


def test_doubtful_is_what_the_other_labels_contradict(http: httpx.Client) -> None:
    assert http.get("/labels/doubtful").json() == {"found": []}
    circles = [image["id"] for image in of_kind(http, label="circle")]
    http.patch(f"/images/{circles[3]}", json={"label": "square"})
    (doubt,) = http.get("/labels/doubtful").json()["found"]
    assert doubt["image"]["id"] == circles[3]
    assert doubt["image"]["label"] == "square"
    assert doubt["rival"] == "circle"
    assert 0.2 < doubt["doubt"] <= 1


def test_images_are_listed_by_how_doubtful_their_labels_were(http: httpx.Client, by_hand: Artifact) -> None:
    refused = http.get("/images", params={"sort": "doubt"})
    assert refused.status_code == 409
    assert "hebbsearch upgrade ARTIFACT" in refused.json()["detail"]
    circles = [image["id"] for image in of_kind(http, label="circle")]
    http.patch(f"/images/{circles[3]}", json={"label": "square"})
    upgrade(by_hand.path)  # a service may run
    first, *others = of_kind(http, sort="doubt")
    assert (first["id"], first["label"], first["rival"]) == (circles[3], "square", "circle")
    (doubtful,) = http.get("/labels/doubtful").json()["found"]
    assert first["doubt"] == pytest.approx(doubtful["doubt"], abs=1e-4)
    known = [image["doubt"] for image in others if image["doubt"] is not None]
    assert known == sorted(known, reverse=True)
    assert [image["label"] for image in others[len(known) :]] == [None] * 3
    http.patch(f"/images/{circles[3]}", json={"label": "circle"})
    last = of_kind(http, sort="doubt")[len(known) :]
    assert [image["doubt"] for image in last] == [None] * 4
    assert last[0]["id"] == circles[3], "what was found of a square does not count for a circle"


def test_the_client_asks_for_both(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        assert len(client.suggestions(limit=2).images) == 2
        assert client.doubtful().found == []


def test_where_nothing_can_be_looked_at_the_list_says_so(server: str) -> None:
    answer = httpx.get(server + "/images", params={"sort": "doubt"})
    assert answer.status_code == 409
    assert "hebbsearch label ARTIFACT --out NEW" in answer.json()["detail"]


@pytest.mark.parametrize("route", ["/labels/suggestions", "/labels/doubtful"])
def test_an_index_without_embeddings_says_what_to_do(server: str, route: str) -> None:
    answer = httpx.get(server + route)
    assert answer.status_code == 409
    assert "hebbsearch label ARTIFACT --out NEW" in answer.json()["detail"]


@pytest.mark.parametrize("limit", [0, 201, "x"])
def test_limits_are_checked(server: str, limit: object) -> None:
    assert httpx.get(server + "/labels/suggestions", params={"limit": limit}).status_code == 422


def test_a_source_that_is_none_is_refused(http: httpx.Client) -> None:
    for body in ({"label": "square", "source": "guess"}, {"source": "accepted"}):
        assert http.patch("/images/1", json=body).status_code == 422
