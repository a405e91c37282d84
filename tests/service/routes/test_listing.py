"""Lists of images over real HTTP: filters, orders, places to jump to."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from index.artifact import CATALOGUE, Artifact
from index.catalogue import Catalogue
from index.items import UNLABELLED
from index.tables.listing import Listing
from tests.samples import build_artifact, served

CIRCLES, SQUARES = 0.3, 0.9


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of 63 images three have no label: a circle is predicted of two, not surely, and surely a square."""
    own: Artifact = build_artifact(tmp_path_factory.mktemp("listing"))
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        one, two, three = catalogue.page(Listing(labels=[UNLABELLED]), count=9)
        catalogue.predict([(one.id, 0, CIRCLES), (two.id, 1, SQUARES), (three.id, 0, CIRCLES)])
    with served(own.path) as client:
        yield client


def listed(http: httpx.Client, **asked: Any) -> dict[str, Any]:
    page: dict[str, Any] = http.get("/images", params=asked).raise_for_status().json()
    return page


def ids(page: dict[str, Any]) -> list[int]:
    return [image["id"] for image in page["images"]]


def test_without_anything_new_all_is_as_it_was(http: httpx.Client) -> None:
    first = listed(http, limit=40)
    assert (ids(first), first["next"], first["total"]) == (list(range(1, 41)), 40, None)
    last = listed(http, limit=40, after=40, sort="id", descending=False)
    assert (ids(last), last["next"], last["total"]) == (list(range(41, 64)), None, None)


def test_to_jump_anywhere_and_know_how_many_there_are(http: httpx.Client) -> None:
    everything = listed(http, limit=1000)["images"]
    for offset in (0, 50, 60, 63, 2**63 - 1):
        page = listed(http, offset=offset, limit=7)
        assert page == {"images": everything[offset : offset + 7], "next": None, "total": 63}
    assert listed(http, offset=1, limit=1, unlabelled=True)["total"] == 3


def test_in_another_order(http: httpx.Client) -> None:
    everything = listed(http, limit=1000)["images"]
    by_name = sorted(everything, key=lambda image: (image["path"], image["id"]))
    page = listed(http, sort="name", limit=1000)
    assert page == {"images": by_name, "next": None, "total": None}
    assert listed(http, sort="name", descending=True, offset=3, limit=5)["images"] == by_name[::-1][3:8]
    assert ids(listed(http, descending=True, limit=3)) == [63, 62, 61]
    surest = listed(http, sort="confidence", limit=4)["images"]
    assert [image["confidence"] for image in surest] == [SQUARES, CIRCLES, CIRCLES, None]


def test_by_name_and_by_what_is_predicted(http: httpx.Client) -> None:
    assert len(ids(listed(http, name="CLASS1/00"))) == 10
    assert ids(listed(http, name="%")) == []
    circles = listed(http, predicted="circle")["images"]
    assert [image["predicted"] for image in circles] == ["circle"] * 2
    assert [image["confidence"] for image in listed(http, min_confidence=0.5)["images"]] == [SQUARES]
    assert ids(listed(http, predicted=["circle", "square"], min_confidence=SQUARES, offset=0)) == [62]
    assert ids(listed(http, predicted="<b>cross</b>")) == []
    assert ids(listed(http, predicted="circle", label="circle")) == []


def test_folders_are_named_and_looked_into(http: httpx.Client) -> None:
    page = http.get("/folders").raise_for_status().json()
    expected = [
        {"name": name, "path": name, "images": images, "folders": 0}
        for name, images in (("class0", 20), ("class1", 20), ("class2", 20), ("new", 3))
    ]
    assert page == {"folders": expected, "total": 4, "next": None}
    first = http.get("/folders", params={"limit": 3}).json()
    assert (first["folders"], first["total"], first["next"]) == (expected[:3], 4, "class2")
    assert http.get("/folders", params={"after": "class2"}).json()["folders"] == expected[3:]
    assert http.get("/folders", params={"under": "new"}).json() == {"folders": [], "total": 0, "next": None}
    assert ids(listed(http, under="class1")) == list(range(21, 41))
    assert listed(http, under="new", label="circle", offset=0)["total"] == 0
    assert listed(http, under="held-out", split="query", offset=0)["total"] == 12


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("under=", "under: "),
        ("under=%00", "under: "),
        ("under=" + "x" * 401, "under: "),
        *((f"after=3&{other}", "use offset instead") for other in ("offset=3", "sort=name", "descending=1")),
        ("after=0&sort=time&offset=0", "use offset instead"),
        ("predicted=hexagon", "'hexagon' is unknown; known are"),
        ("name=", "name: "),
        ("name=" + "x" * 256, "name: "),
        ("name=%00", "name: "),
        *((f"min_confidence={value}", "min_confidence: ") for value in ("nan", "inf", "-0.1", "1.1", "x")),
        *((f"offset={value}", "offset: ") for value in (-1, 2**63, "x", 1.5)),
        ("sort=doubts", "sort: "),
        ("sort=", "sort: "),
        ("descending=perhaps", "descending: "),
        ("&".join(f"predicted={number}" for number in range(101)), "predicted: "),
        ("offset=1&offset=2", "offset is given more than once"),
    ],
)
def test_what_makes_no_sense_is_refused(http: httpx.Client, query: str, says: str) -> None:
    answer = http.get(f"/images?{query}")
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["detail"]
