"""What a label is over HTTP, what becomes of one that is given, and those that were there before the rule."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.artifact import Artifact
from index.labels import given_labels, match, read_labels
from tests.labels import FAMILY, REFUSED, TAKEN, rename_labels
from tests.samples import CLASSES, served
from tests.service.routes.test_changes import answer, png, refusal


@pytest.fixture
def http(own: Artifact) -> Iterator[httpx.Client]:
    with served(own.path) as client:
        yield client


def add(http: httpx.Client, seed: int, status: int = 201, **more: Any) -> Any:
    """What is told of the one image that is sent."""
    (added,) = answer(http.post("/images", files={"image": png(seed)}, **more), status)["images"]
    return added


def stats(http: httpx.Client) -> dict[str, int]:
    return {each["label"]: each["items"] for each in answer(http.get("/stats"))["classes"]}


def test_a_text_is_one_label_wherever_it_is_given(http: httpx.Client) -> None:
    for seed, (text, label) in enumerate(TAKEN):
        image = add(http, seed, data={"label": text})["image"]
        assert image["label"] == label
        ids = {each["id"] for each in answer(http.get("/images", params={"label": text}))["images"]}
        assert image["id"] in ids
        found = answer(http.post("/search", content=png(seed), params={"label": text}))["results"]
        assert {each["label"] for each in found} == {label}
        answer(http.patch(f"/images/{image['id']}", json={"label": None}))
        assert answer(http.patch(f"/images/{image['id']}", json={"label": text}))["label"] == label
        (again,) = answer(http.post("/images", content=png(seed), params={"label": text}))["images"]
        assert (again["status"], again["image"]["label"], again["error"]) == ("exists", label, None)
    assert set(stats(http)) == {*CLASSES, *(label for _, label in TAKEN)}


def test_what_is_no_label_is_refused_wherever_it_is_given(http: httpx.Client) -> None:
    for text, what, where in REFUSED:
        for said in (
            refusal(http.post("/images", files={"image": png(1)}, data={"label": text}), 422),
            refusal(http.post("/images", content=png(1), params={"label": text}), 422),
            refusal(http.patch("/images/1", json={"label": text}), 422),
        ):
            assert said.startswith("label ") and what in said and where in said, said
    for blank in (" ", "\u00a0\n", "\u2028"):
        assert "white space" in refusal(http.patch("/images/1", json={"label": blank}), 422)
    assert set(stats(http)) == set(CLASSES)
    assert answer(http.get("/images/1"))["label"] == CLASSES[0]


def test_two_forms_of_one_label_agree(http: httpx.Client) -> None:
    both = {"params": {"label": "caf\u00e9"}, "data": {"label": " cafe\u0301"}}
    assert add(http, 1, **both)["image"]["label"] == "café"


def test_a_label_that_is_given_for_an_image_that_is_there_is_set_or_refused_aloud(http: httpx.Client) -> None:
    first = add(http, 1, data={"folder": "one"})["image"]
    known = answer(http.get("/stats"))["revision"]
    assert add(http, 1, 200, data={"folder": "two"})["image"] == first
    assert answer(http.get("/stats"))["revision"] == known  # nothing was given

    added = add(http, 1, 200, data={"label": "cafe\u0301", "folder": "two"})
    assert (added["status"], added["error"]) == ("exists", None)
    assert (
        added["image"]
        == answer(http.get(f"/images/{first['id']}"))
        == first | {"label": "café", "source": "given"}
    )
    found = answer(http.post("/search", content=png(1), params={"label": "café"}))["results"]
    assert [each["id"] for each in found] == [first["id"]]

    known = answer(http.get("/stats"))["revision"]
    for same in ("café", "cafe\u0301", " café "):
        assert add(http, 1, 200, data={"label": same})["error"] is None
    other = add(http, 1, 200, data={"label": "tea"})
    assert (other["status"], other["image"]["label"]) == ("exists", "café")
    assert "with the label 'café', not 'tea'" in other["error"]
    assert f"change it on image {first['id']}" in other["error"]
    more = add(http, 1, 200, data={"metadata": '{"camera": "left"}'})
    assert (more["image"], "there already with other metadata" in more["error"]) == (other["image"], True)
    assert answer(http.get("/stats"))["revision"] == known and "tea" not in stats(http)


def test_of_many_images_each_gets_the_label(http: httpx.Client) -> None:
    there = [add(http, seed)["image"]["id"] for seed in (1, 2)]
    add(http, 3, data={"label": "owl"})
    files = [("image", (f"{seed}.png", png(seed))) for seed in (1, 4, 3, 2, 1, 4)]
    told = answer(http.post("/images", files=files, data={"label": "eel"}), 201)["images"]
    assert [each["status"] for each in told] == ["exists", "added", *["exists"] * 4]
    assert [each["image"]["label"] for each in told] == ["eel", "eel", "owl", "eel", "eel", "eel"]
    assert [each["error"] is None for each in told] == [True, True, False, True, True, True]
    assert {each["id"] for each in answer(http.get("/images?label=eel"))["images"]} >= set(there)


OLD = ("cafe\u0301 ", "o" * 300, "two\nlines")


@pytest.mark.process
def test_labels_that_an_artifact_has_stay_and_are_found_and_accepted(own: Artifact) -> None:
    assert len(CLASSES) == len(OLD)
    rename_labels(own.path, dict(zip(CLASSES, OLD, strict=True)))
    with served(own.path) as http:
        before = stats(http)
        assert set(before) == set(OLD)
        for old, way in zip(OLD, ("café", "o" * 300 + " ", "\u3000two\nlines"), strict=True):
            for text in (old, way):
                found = answer(http.get("/images", params={"label": text, "limit": 1000}))["images"]
                assert len(found) == before[old] and {each["label"] for each in found} == {old}
                assert answer(http.patch("/images/61", json={"label": text}))["label"] == old
                assert answer(http.patch("/images/61", json={"label": None}))["label"] is None
        assert add(http, 1, data={"label": "café"})["image"]["label"] == OLD[0]
        assert set(stats(http)) == set(OLD)
        refusal(http.patch("/images/61", json={"label": "o" * 301}), 422)


@pytest.mark.process
def test_two_that_differ_only_so_stay_two_until_somebody_merges_them(own: Artifact) -> None:
    rename_labels(own.path, {CLASSES[0]: "caf\u00e9", CLASSES[1]: "cafe\u0301"})
    with served(own.path) as http:
        before = stats(http)
        assert {"caf\u00e9", "cafe\u0301"} <= set(before)
        both = answer(http.get("/images", params={"label": "café", "limit": 1000}))["images"]
        assert len(both) == before["caf\u00e9"] + before["cafe\u0301"]
        for each in both:
            answer(http.patch(f"/images/{each['id']}", json={"label": "caf\u00e9"}))
        after = stats(http)
        assert (after["caf\u00e9"], after.get("cafe\u0301", 0)) == (len(both), 0)


def test_keys_of_metadata_follow_the_same_rule(http: httpx.Client) -> None:
    given = {" cafe\u0301 ": {"\u212b": [{"a\u200cb": 1, "\ttab": " kept as it is "}]}, FAMILY: None}
    kept = {"café": {"Å": [{"a\u200cb": 1, "tab": " kept as it is "}]}, FAMILY: None}
    image = add(http, 1, data={"metadata": json.dumps(given)})["image"]
    assert image["metadata"] == kept
    assert answer(http.patch("/images/1", json={"metadata": given}))["metadata"] == kept
    for wrong, says in (
        ({"a\x07": 1}, "key 'a\\x07': there is a control character (U+0007) at position 2"),
        ({"deep": [{"o" * 201: 1}]}, "it has 201 characters, at most 200"),
        ({"": 1}, "a key is empty"),
        ({"deep": {" ": 1}}, "a key is empty"),
        ({"caf\u00e9": 1, "cafe\u0301": 2}, "the key 'café' is there twice"),
    ):
        assert says in refusal(http.patch("/images/1", json={"metadata": wrong}), 422)
        form = {"metadata": json.dumps(wrong)}
        assert says in refusal(http.post("/images", files={"image": png(2)}, data=form), 422)
    assert answer(http.get("/images/1"))["metadata"] == kept


def test_of_two_who_label_one_image_the_second_is_told(http: httpx.Client) -> None:
    answer(http.patch("/images/61?was=", json={"label": "cafe\u0301"}))
    said = refusal(http.patch("/images/61?was=", json={"label": "owl"}), 409)
    assert said == "image 61 has the label 'caf\u00e9' by now; look at it again"
    assert answer(http.get("/images/61"))["label"] == "caf\u00e9"
    answer(http.patch("/images/61", params={"was": "cafe\u0301"}, json={"label": None}))
    said = refusal(http.patch("/images/61?was=owl", json={"metadata": {"a": 1}}), 409)
    assert said == "image 61 has no label by now; look at it again"
    assert answer(http.patch("/images/61", json={"label": "owl"}))["label"] == "owl"  # who does not ask


# --- all labels as a file ---------------------------------------------------------------------------


def test_all_labels_come_out_as_a_file_and_go_in_again(
    http: httpx.Client, own: Artifact, tmp_path: Path
) -> None:
    odd = 'a, "b"\u00e4'
    sent = {"label": odd, "folder": "an album"}
    http.post("/images", files={"image": ("one/a, b.png", png(1))}, data=sent).raise_for_status()
    answer(http.patch("/images/1", json={"label": "fox", "source": "group"}))
    response = http.get("/labels.csv")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert 'filename="labels.csv"' in response.headers["content-disposition"]
    file = tmp_path / "labels.csv"
    file.write_bytes(response.content)

    given = given_labels(file)
    images = [
        image
        for split in ("database", "query")
        for image in answer(http.get("/images", params={"limit": 1000, "split": split}))["images"]
    ]
    labelled = [image for image in images if image["label"] is not None]
    assert [(each.path, each.label, each.folder, each.sha256, each.source) for each in given] == [
        tuple(image[name] or "" for name in ("path", "label", "folder", "sha256", "source"))
        for image in labelled
    ]
    assert {odd, "fox"} < {each.label for each in given}
    assert any(image["split"] == "query" for image in labelled)

    with own.open_catalogue() as catalogue:  # what `hebbsearch label` makes of it
        found, strays = match(given, catalogue.every_item())
        assert {id_: each.label for id_, each in found.items()} == {
            image["id"]: image["label"] for image in labelled
        }
        assert strays == []
    # What a build of these pictures and of those that were sent makes of it.
    root = Path(shutil.copytree(own.manifest.data["root"], tmp_path / "root"))
    (root / "moved.png").write_bytes(png(1))
    there = [Path("moved.png"), *(Path(image["path"]) for image in labelled if image["folder"] is None)]
    read = read_labels(file, root, there)
    assert read.labels == {
        Path("moved.png") if image["folder"] else Path(image["path"]): image["label"] for image in labelled
    }
    assert (read.strays, read.elsewhere) == ([], [])


def test_predicted_labels_come_out_only_if_asked_for_and_never_go_in(
    http: httpx.Client, own: Artifact, tmp_path: Path
) -> None:
    with own.open_catalogue() as catalogue:
        catalogue.predict([(61, 0, 0.9)])
    assert b"predicted" not in http.get("/labels.csv").content
    (tmp_path / "all.csv").write_bytes(http.get("/labels.csv", params={"predicted": True}).content)
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as lines:
        (predicted,) = [row for row in csv.DictReader(lines) if row["source"] == "predicted"]
    assert (predicted["label"], predicted["path"]) == (CLASSES[0], answer(http.get("/images/61"))["path"])
    assert predicted["path"] not in {each.path for each in given_labels(tmp_path / "all.csv")}
