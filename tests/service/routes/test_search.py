"""The routes over real HTTP."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Query
from PIL import Image

from index.artifact import Artifact
from index.codes import from_hex
from index.items import UNLABELLED, NewItem
from service.app import create_app
from service.core.searcher import Searcher
from service.schemas.evaluation import Evaluation
from service.schemas.search import ImageSearchParameters, SearchAnswer
from service.settings import Settings
from tests.samples import CLASSES, PER_CLASS, UNLABELLED_ITEMS, serve_here

ITEMS = len(CLASSES) * PER_CLASS + UNLABELLED_ITEMS


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server) as client:
        yield client


@pytest.fixture
def picture(artifact: Artifact) -> bytes:
    return (Path(artifact.manifest.data["root"]) / "class1" / "004.png").read_bytes()


def answer(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def refusal(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem.keys() == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    detail: str = problem["detail"]
    return detail


def test_search(http: httpx.Client, picture: bytes) -> None:
    found = answer(http.post("/search", files={"image": picture}))
    assert found.keys() == {
        "code", "results", "exact", "ties_at_cut", "predicted", "confidence", "plain",
        "stale",
    }  # fmt: skip
    assert from_hex(found["code"], 256).shape == (1, 32)
    assert found["exact"] is True
    assert len(found["results"]) == 10
    for result in found["results"]:
        assert result.keys() == {"id", "path", "folder", "label", "distance", "similarity", "thumbnail"}
        known = http.get(f"/images/{result['id']}").json()
        assert (result["path"], result["folder"]) == (known["path"], known["folder"])
        assert result["similarity"] == pytest.approx(1 - result["distance"] / 256)
        assert http.get(result["thumbnail"]).headers["content-type"] == "image/webp"
    order = [(result["distance"], result["id"]) for result in found["results"]]
    assert order == sorted(order)
    assert (0, 25) in order, "the indexed file itself"


def test_the_answer_is_what_openapi_promises_to_the_byte(http: httpx.Client, picture: bytes) -> None:
    """The body is not made from the model; everything the model knows must be there, and nothing else."""
    for parameters in ({}, {"k": 1000}, {"max_distance": 0, "label": ["<b>cross</b>"]}):
        body = http.post("/search", content=picture, params=parameters).content
        assert SearchAnswer.model_validate_json(body, strict=True).model_dump_json().encode() == body


def test_form_raw_body_and_query_parameters_agree(http: httpx.Client, picture: bytes) -> None:
    fields = {"k": "5", "max_distance": "30", "label": ["square", "circle"]}
    form = http.post("/search", files={"image": picture}, data=fields)
    query = http.post("/search", files={"image": ("x", picture, "text/html")}, params=fields)
    both = http.post("/search", files={"image": picture}, data={"k": 5}, params=fields)
    raw = http.post("/search", content=picture, params=fields)
    # What curl --data-binary sends unless told otherwise.
    curl = {"content-type": "application/x-www-form-urlencoded"}
    bare = http.post("/search", content=picture, params=fields, headers=curl)
    assert answer(form) == answer(query) == answer(both) == answer(raw) == answer(bare)
    results = answer(form)["results"]
    assert len(results) == 5
    assert {result["label"] for result in results} <= {"square", "circle"}
    assert all(result["distance"] <= 30 for result in results)


def test_unlabelled_items_are_found(http: httpx.Client, picture: bytes) -> None:
    results = answer(http.post("/search?k=1000", content=picture))["results"]
    assert len(results) == ITEMS
    assert sum(result["label"] is None for result in results) == UNLABELLED_ITEMS


def test_nothing_near_enough(http: httpx.Client) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    file = BytesIO()
    noise.save(file, "PNG")
    found = answer(http.post("/search?max_distance=0", content=file.getvalue()))
    assert (found["results"], found["ties_at_cut"]) == ([], 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (300, 200)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_any_image_is_a_query(http: httpx.Client, size: tuple[int, int], mode: str) -> None:
    file = BytesIO()
    Image.new("L", size, 77).convert(mode).save(file, "TIFF")
    assert len(answer(http.post("/search?k=1", content=file.getvalue()))["results"]) == 1


def test_a_large_image_is_answered_like_a_small_one(http: httpx.Client) -> None:
    """It is decoded apart from its batch: same limits, same errors, same answer."""
    small = Image.fromarray(np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    files = [BytesIO(), BytesIO()]
    for side, file in zip((500, 600), files, strict=True):  # on either side of what is decoded at once
        small.resize((side, side), Image.Resampling.NEAREST).save(file, "PNG")
    one, other = (answer(http.post("/search", content=file.getvalue())) for file in files)
    assert [result["id"] for result in one["results"]][:3] == [result["id"] for result in other["results"]][
        :3
    ]
    detail = refusal(http.post("/search", content=files[1].getvalue()[:2000]), 422)
    assert "truncated or damaged" in detail
    assert "unknown" in refusal(http.post("/search?label=hexagon", content=files[1].getvalue()), 422)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"k": "0"}, "k: Input should be greater than or equal to 1"),
        ({"k": "1001"}, "k: Input should be less than or equal to 1000"),
        ({"k": "ten"}, "k: .*integer.*'ten'"),
        ({"max_distance": "-1"}, "max_distance: "),
        ({"max_distance": "257"}, "max_distance: .*256"),
        ({"label": "hexagon"}, "'hexagon' is unknown; known are circle, square"),
        ({"limit": "5"}, "limit: there is no such parameter"),
    ],
)
def test_bad_parameters(http: httpx.Client, picture: bytes, parameters: dict[str, str], says: str) -> None:
    in_query = refusal(http.post("/search", content=picture, params=parameters), 422)
    in_form = refusal(http.post("/search", files={"image": picture}, data=parameters), 422)
    for detail in (in_query, in_form):
        assert re.search(says, detail), detail


def test_openapi_has_the_parameters_that_fastapi_makes_of_the_model(http: httpx.Client) -> None:
    app = FastAPI()

    @app.post("/search")
    def search(query: Annotated[ImageSearchParameters, Query()]) -> None: ...

    made = app.openapi()["paths"]["/search"]["post"]["parameters"]
    assert answer(http.get("/openapi.json"))["paths"]["/search"]["post"]["parameters"] == made


def test_parameters_that_contradict(http: httpx.Client, picture: bytes) -> None:
    for name, one, other in (("k", "3", "4"), ("max_distance", "3", "4"), ("label", "circle", "square")):
        response = http.post("/search", files={"image": picture}, data={name: one}, params={name: other})
        assert f"{name} is " in refusal(response, 422)


def test_what_is_left_empty_is_not_given(http: httpx.Client, picture: bytes) -> None:
    plain = answer(http.post("/search", files={"image": picture}))
    empty = {"k": "", "max_distance": "", "label": ""}
    for given in ({"data": empty}, {"params": empty}, {"data": empty, "params": empty}):
        assert answer(http.post("/search", files={"image": picture}, **given)) == plain
    assert answer(http.post("/search", content=picture, params=empty)) == plain
    batch = answer(http.post("/search/batch", files=[("image", picture)], data=empty))
    assert batch["answers"][0]["answer"] == plain
    two = answer(http.post("/search", files={"image": picture}, data={"label": ["", "circle"], "k": "2"}))
    assert [result["label"] for result in two["results"]] == ["circle", "circle"]
    both = http.post("/search", files={"image": picture}, data={"k": ""}, params={"k": "3"})
    assert len(answer(both)["results"]) == 3
    assert "k: " in refusal(http.post("/search", files={"image": picture}, data={"k": " "}), 422)


def test_similar_images(http: httpx.Client, picture: bytes) -> None:
    """What the image itself finds, without itself."""
    for parameters in (
        {},
        {"k": 1000},
        {"max_distance": 40, "k": 3},
        {"label": ["square", "circle"], "k": 7},
    ):
        asked = parameters | {"k": parameters.get("k", 10) + 1}
        by_image = answer(http.post("/search", content=picture, params=asked | {"k": min(asked["k"], 1000)}))
        found = answer(http.get("/images/25/similar", params=parameters))
        others = [result for result in by_image["results"] if result["id"] != 25]
        assert found["results"] == others[: parameters.get("k", 10)]
        assert found["code"] == by_image["code"]
    assert "unknown" in refusal(http.get("/images/25/similar?label=hexagon"), 422)
    assert "no such parameter" in refusal(http.get("/images/25/similar?limit=3"), 422)
    for unknown in ("999", "0", str(2**70)):
        assert "there is no image" in refusal(http.get(f"/images/{unknown}/similar"), 404)


def test_ties_of_similar_images_leave_the_image_out(http: httpx.Client) -> None:
    (only,) = answer(http.get("/images/25/similar?k=1"))["results"]
    tied = answer(http.get(f"/images/25/similar?k=1000&max_distance={only['distance']}"))["results"]
    assert answer(http.get("/images/25/similar?k=1"))["ties_at_cut"] == len(tied)


def test_a_held_out_query_has_similar_images_too(http: httpx.Client, artifact: Artifact) -> None:
    queries = artifact.queries()
    assert queries is not None
    query = int(queries.ids[0])
    found = answer(http.get(f"/images/{query}/similar?k=5"))
    assert found["code"] == queries.codes[0].tobytes().hex()
    assert query not in [result["id"] for result in found["results"]]


def test_codes_are_searched(http: httpx.Client, artifact: Artifact, picture: bytes) -> None:
    by_image = answer(http.post("/search?k=7", content=picture))
    other = answer(http.get("/images/3/similar?k=7"))
    asked = {
        "encoder_id": artifact.manifest.encoder_id,
        "codes": [by_image["code"], other["code"].upper(), by_image["code"]],
        "k": 7,
    }
    one, two, three = answer(http.post("/search/codes", json=asked))["answers"]
    assert one == three == by_image
    assert two["results"][0]["distance"] == 0
    near = answer(http.post("/search/codes", json=asked | {"max_distance": 0, "label": ["square"]}))
    assert [match["id"] for match in near["answers"][0]["results"]] == [25]


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"encoder_id": "feedbeef"}, 409, "the codes are of encoder feedbeef, this index is of encoder "),
        (
            {"encoder_id": "half \ud800"},
            409,
            "the codes are of encoder half \ufffd, this index is of encoder ",
        ),
        ({"\udfff": 1}, 422, "valid string"),
        ({"codes": ["\ud800"]}, 422, "codes.0: "),
        ({"label": ["\ud800"]}, 422, "unknown"),
        ({"k": "\ud800"}, 422, "k: "),
        ({"encoder_id": None}, 422, "encoder_id: "),
        ({"codes": ["00"]}, 422, r"codes\.0: a 256-bit code has 64 hexadecimal digits, not 2"),
        ({"codes": ["00" * 32, "zz" * 32]}, 422, r"codes\.1: .* hexadecimal digits; found 'z'"),
        ({"codes": []}, 422, "codes: .*at least 1"),
        ({"codes": ["00" * 32] * 65}, 422, "codes: .*at most 64"),
        ({"label": ["hexagon"]}, 422, "'hexagon' is unknown"),
        ({"limit": 3}, 422, "limit: there is no such parameter"),
        ({"k": 0}, 422, "k: "),
    ],
)
def test_bad_codes(
    http: httpx.Client, artifact: Artifact, change: dict[str, Any], status: int, says: str
) -> None:
    good = {"encoder_id": artifact.manifest.encoder_id, "codes": ["00" * 32]}
    assert len(answer(http.post("/search/codes", json=good))["answers"]) == 1
    body = {"content": json.dumps(good | change), "headers": {"content-type": "application/json"}}
    assert re.search(says, refusal(http.post("/search/codes", **body), status))


def test_what_a_request_of_codes_is_not(http: httpx.Client) -> None:
    for content, status in ((b"", 422), (b"{", 422), (b"[]", 422), (b"null", 422), (b"\xff", 400)):
        headers = {"content-type": "application/json"}
        refusal(http.post("/search/codes", content=content, headers=headers), status)


def test_images_are_listed_page_by_page(http: httpx.Client, artifact: Artifact) -> None:
    seen, after = [], 0
    while after is not None:
        page = answer(http.get("/images", params={"after": after, "limit": 20}))
        assert len(page["images"]) == 20 or page["next"] is None
        seen += page["images"]
        after = page["next"]
    assert len(seen) == ITEMS
    assert [image["id"] for image in seen] == sorted({image["id"] for image in seen})
    assert seen[24] == answer(http.get("/images/25"))
    assert answer(http.get(f"/images?limit={ITEMS}"))["next"] is None
    queries = artifact.queries()
    assert queries is not None
    held_out = answer(http.get("/images?split=query"))["images"]
    assert [image["id"] for image in held_out] == queries.ids.tolist()


def test_images_are_listed_by_label(http: httpx.Client) -> None:
    def labels(query: str) -> list[str | None]:
        return [image["label"] for image in answer(http.get(f"/images?{query}"))["images"]]

    assert labels("label=square") == ["square"] * PER_CLASS
    assert set(labels("label=square&label=circle")) == {"square", "circle"}
    assert labels("unlabelled=true") == [None] * UNLABELLED_ITEMS
    assert len(labels("unlabelled=true&label=square")) == PER_CLASS + UNLABELLED_ITEMS
    assert "'hexagon' is unknown" in refusal(http.get("/images?label=hexagon"), 422)
    assert "limit: " in refusal(http.get("/images?limit=1001"), 422)
    assert "after: " in refusal(http.get(f"/images?after={2**63}"), 422)


def test_eval_curve(http: httpx.Client, artifact: Artifact) -> None:
    curve = answer(http.get("/eval/curve"))
    queries, table = artifact.queries(), Searcher(artifact, max_pixels=10**6).catalogue.codes()
    assert queries is not None
    assert curve["radius"] == list(range(257))
    labelled = table.labels >= 0
    codes, labels = table.codes[labelled], table.labels[labelled]
    distances = np.bitwise_count(queries.codes[:, None] ^ codes[None]).sum(2)
    relevant = queries.labels[:, None] == labels[None]
    for radius in (0, 5, 60, 256):
        near = distances <= radius
        hits = (near & relevant).sum(1)
        assert curve["precision"][radius] == pytest.approx((hits / np.maximum(near.sum(1), 1)).mean())
        assert curve["recall"][radius] == pytest.approx((hits / relevant.sum(1)).mean())
    assert curve["precision_at"] == sorted(curve["precision_at"], reverse=True)
    pairs = (distances[..., None] == np.arange(257)).sum((0, 1))
    assert curve["same_class"] == np.bincount(distances[relevant], minlength=257).tolist()
    assert curve["other_class"] == np.bincount(distances[~relevant], minlength=257).tolist()
    total = np.dot(curve["precision_at"], pairs)  # pooling keeps the number of relevant pairs
    assert total == pytest.approx(relevant.sum())


def test_eval_map(http: httpx.Client) -> None:
    found = answer(http.get("/eval/map"))
    assert found.keys() == {"map", "interval", "chance", "aps", "per_class", "definition"}
    assert 0 < found["interval"]["low"] < found["map"] < found["interval"]["high"] < 1
    assert 1 / 3 < found["chance"] < 0.4  # of three classes with 20 images each
    assert found["aps"].keys() == {"mean", "std", "p10", "median", "p90"}
    assert [each["label"] for each in found["per_class"]] == list(CLASSES)
    assert found["definition"].keys() == {
        *(
            "text",
            "queries",
            "dropped_queries",
            "later_queries",
            "items",
            "unlabelled_items",
            "copies_of_queries",
            "grouped_items",
        ),
        *("k", "ties", "denominator"),
        *("encoder_id", "artifact", "rule", "backbone", "labels", "dataset", "bits", "created"),
    }
    assert answer(http.get("/eval/map")) == found
    other = answer(http.get("/eval/map?k=3&ties=order&denominator=retrieved"))
    definition = other["definition"]
    assert (definition["k"], definition["ties"], definition["denominator"]) == (3, "order", "retrieved")
    assert other["map"] != found["map"]


@pytest.mark.parametrize("query", ["k=0", "k=-3", "k=x", "ties=random", "denominator=max", "top=3"])
def test_bad_eval_parameters(http: httpx.Client, query: str) -> None:
    assert query.partition("=")[0] in refusal(http.get(f"/eval/map?{query}"), 422)


@pytest.mark.process
def test_no_labels_no_map(unlabelled_artifact: Artifact, picture: bytes) -> None:
    with serve_here(create_app(Settings(artifact=unlabelled_artifact.path))) as address:
        assert "without labels" in refusal(httpx.get(f"{address}/eval/map"), 409)
        assert answer(httpx.get(f"{address}/health/ready"))["items"] == ITEMS
        results = answer(httpx.post(f"{address}/search", content=picture))["results"]
        assert {result["label"] for result in results} == {None}


def test_image(http: httpx.Client, artifact: Artifact) -> None:
    found = answer(http.get("/images/25"))
    assert abs(found.pop("added") - time.time()) < 10_000
    assert found == {
        "id": 25,
        "path": "class1/004.png",
        "folder": None,
        "label": "square",
        "source": "given",
        "held_out": False,
        "predicted": None,
        "confidence": None,
        "rival": None,
        "doubt": None,
        "split": "database",
        "width": 24,
        "height": 24,
        "sha256": None,
        "metadata": {},
        "trashed": None,
        "thumbnail": "/images/25/thumbnail",
        "preview": "/images/25/preview",
        "original": "/images/25/original",
    }
    queries = artifact.queries()
    assert queries is not None
    assert answer(http.get(f"/images/{queries.ids[0]}"))["split"] == "query"
    assert answer(http.get("/images/61"))["label"] is None


@pytest.mark.parametrize("what", ["", "/thumbnail", "/preview", "/original"])
def test_unknown_image(http: httpx.Client, what: str) -> None:
    for item_id in (0, -1, 99_999, 2**63, 10**30):
        assert "there is no image" in refusal(http.get(f"/images/{item_id}{what}"), 404)
    assert "item_id" in refusal(http.get(f"/images/x{what}"), 422)
    assert refusal(http.get(f"/images/..%2f..%2fetc%2fpasswd{what}"), 404)


def test_thumbnail_is_cached_until_it_changes(http: httpx.Client) -> None:
    first = http.get("/images/25/thumbnail")
    assert Image.open(BytesIO(first.content)).size == (24, 24)
    assert first.headers["cache-control"] == "no-cache"
    again = http.get("/images/25/thumbnail", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = http.get("/images/26/thumbnail", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200


def test_original(http: httpx.Client, picture: bytes) -> None:
    response = http.get("/images/25/original")
    assert (response.content, response.headers["content-type"]) == (picture, "image/png")
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.process
def test_original_of_an_odd_type_is_a_download(
    own: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>alert(1)</script>")
    monkeypatch.setattr(Searcher, "original_of", lambda *_: page)
    with own.open_catalogue() as catalogue:
        item = NewItem("page.html", UNLABELLED, "database", 1, 1, b"", np.zeros(32, np.uint8))
        (item_id,) = catalogue.add([item])
    with serve_here(create_app(Settings(artifact=own.path))) as address:
        headers = httpx.get(f"{address}/images/{item_id}/original").headers
        assert headers["content-type"] == "application/octet-stream"
        assert headers["content-disposition"].startswith("attachment")


@pytest.mark.process
def test_missing_original(unlabelled_artifact: Artifact) -> None:
    file = Path(unlabelled_artifact.manifest.data["root"]) / "class0" / "000.png"
    file.rename(file.with_suffix(".away"))
    try:
        with serve_here(create_app(Settings(artifact=unlabelled_artifact.path))) as address:
            assert answer(httpx.get(f"{address}/images/1"))["original"] is None
            assert "no longer there" in refusal(httpx.get(f"{address}/images/1/original"), 404)
            assert httpx.get(f"{address}/images/1/thumbnail").status_code == 200
    finally:
        file.with_suffix(".away").rename(file)


def test_health(http: httpx.Client) -> None:
    assert answer(http.get("/health/live")) == {"status": "live"}
    ready = {"status": "ready", "items": ITEMS, "catalogue": None, "engine": None, "stale": 0}
    assert answer(http.get("/health/ready")) == ready


def test_documentation_has_examples(http: httpx.Client) -> None:
    assert http.get("/docs").status_code == 200
    document = answer(http.get("/openapi.json"))
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            for status, response in operation["responses"].items():
                for kind, content in response.get("content", {}).items():
                    name = content["schema"].get("$ref", "").rpartition("/")[2]
                    binary = content["schema"].get("format") == "binary"
                    assert binary or "example" in content or schemas[name]["examples"], (path, status, kind)
    for content in document["paths"]["/search"]["post"]["requestBody"]["content"].values():
        assert content["example"]


@pytest.mark.process
def test_nothing_blocks_the_event_loop(
    artifact: Artifact, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = set()

    def watched(name: str) -> None:
        method = getattr(Searcher, name)

        def watching(*args: Any, **kwargs: Any) -> Any:
            with pytest.raises(RuntimeError):  # there is no loop in a worker thread
                asyncio.get_running_loop()
            called.add(name)
            return method(*args, **kwargs)

        monkeypatch.setattr(Searcher, name, watching)

    app = create_app(Settings(artifact=artifact.path))
    names = {"prepare", "answer", "contents", "once", "check", "original_of", "nearest", "similar"}
    for name in names:
        watched(name)
    with serve_here(app) as address:
        answer(httpx.post(f"{address}/search", content=picture))
        for path in ("eval/map", "eval/curve", "health/ready", "images/1", "images/1/similar"):
            answer(httpx.get(f"{address}/{path}"))
    assert called == names


def test_example_in_the_schema_is_a_valid_answer() -> None:
    for model in (SearchAnswer, Evaluation):
        (example,) = model.model_json_schema()["examples"]
        assert json.loads(model.model_validate(example).model_dump_json()) == example
