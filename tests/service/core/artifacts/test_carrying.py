"""What people did to one artifact is done to the next, image by image."""

import json
import shutil
import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from index.artifact import CATALOGUE, LEARNED, MANIFEST, save_learned
from index.catalogue import Catalogue
from tests.labels import rename_labels
from tests.service.reloading import add, answer, images, png, reload, served

pytestmark = pytest.mark.process


def test_what_was_deleted_does_not_come_back_from_a_third_artifact(both: Path) -> None:
    shutil.copytree(both / "second", both / "third")
    with served(both / "first") as http:
        add(http, png(60), "gone.png")
        reload(http, "second", force=True)
        answer(http.delete(f"/images/{images(http)['gone.png']['id']}"), 204)
        reload(http, "third", force=True)  # which never had it
        reload(http, "first", force=True)  # which still has it
        assert "gone.png" not in images(http)


def test_going_back_from_a_copy_leaves_what_was_done_before_it(both: Path) -> None:
    with served(both / "first") as http:
        kept = add(http, png(61), "x.png")
        answer(http.delete(f"/images/{kept}"), 204)
        answer(http.post("/admin/snapshot", json={"name": "monday"}), 201)
        add(http, png(61), "x.png", label="again")
        reload(http, "monday", as_it_is=True)
        add(http, png(62), "y.png")
        told = answer(http.post("/admin/rollback"))
        assert told["carried_over"] == {"added": 1, "changed": 0, "removed": 0}
        assert images(http)["x.png"]["label"] == "again" and "y.png" in images(http)


def give_hashes(artifact: Path, *, same: tuple[str, ...] = ()) -> None:
    """As a later version builds it: each image with the SHA-256 of its file, `same` with one together."""
    with closing(sqlite3.connect(artifact / "catalogue.sqlite")) as connection, connection:
        for (path,) in connection.execute("SELECT path FROM items").fetchall():
            digest = sha256(("same" if path in same else path).encode()).digest()
            connection.execute("UPDATE items SET sha256 = ? WHERE path = ?", (digest, path))


def teach(artifact: Path, *paths: str) -> None:
    """As a build does that learned from the labels of these images."""
    save_learned(artifact / LEARNED, (sha256(path.encode()).hexdigest() for path in paths))
    about = json.loads((artifact / MANIFEST).read_text())
    about["files"][LEARNED] = sha256((artifact / LEARNED).read_bytes()).hexdigest()
    (artifact / MANIFEST).write_text(json.dumps(about))


def test_what_the_next_artifact_learned_from_is_held_out_no_more(both: Path) -> None:
    for name in ("first", "second"):
        give_hashes(both / name)
    teach(both / "second", "class0/000.png", "class0/001.png")
    with Catalogue.open(both / "first" / CATALOGUE) as catalogue:
        held = [1, 2, 3, 4]
        catalogue.label_all(dict.fromkeys(held, ("another", "given")))
        catalogue.hold_out(held)
        catalogue.throw([2, 4])
    with served(both / "first") as http:
        reload(http, "second", force=True)
        found = {number: answer(http.get(f"/images/{number}", params={"trashed": True})) for number in held}
        assert [found[number]["label"] for number in held] == ["another"] * 4
        assert [number for number in held if found[number]["held_out"]] == [3, 4]


def test_that_somebody_looked_at_a_label_of_a_group_is_carried(both: Path) -> None:
    def label_owls(http: httpx.Client, source: str) -> None:
        ids = [each["id"] for path, each in images(http).items() if path in owls]
        answer(http.patch("/images", json={"ids": ids, "label": "owl", "source": source}))

    with served(both / "second") as http:  # as one that learned from them
        owls = sorted(images(http))[:3]
        label_owls(http, "group")
    with served(both / "first") as http:
        label_owls(http, "group")
        label_owls(http, "given")
        assert reload(http, "second")["carried_over"]["changed"] == 3
        assert {images(http)[path]["source"] for path in owls} == {"given"}
        assert reload(http, "first", force=True)["carried_over"]["changed"] == 0  # which knows it too


def test_images_of_equal_bytes_are_carried_one_by_one(both: Path) -> None:
    same = tuple(f"class0/{number:03}.png" for number in range(4))
    for name in ("first", "second"):
        give_hashes(both / name, same=same)
    with served(both / "first") as http:
        before = images(http)
        answer(http.patch(f"/images/{before[same[1]]['id']}", json={"label": "square"}))
        answer(http.delete(f"/images/{before[same[2]]['id']}"), 204)
        assert reload(http, force=True)["carried_over"] == {"added": 0, "changed": 1, "removed": 1}
        after = images(http)
        assert [after[path]["label"] if path in after else None for path in same] == [
            *("circle", "square", None, "circle")
        ]
        for path in (same[0], same[1], same[3]):
            answer(http.delete(f"/images/{after[path]['id']}"), 204)
        assert answer(http.post("/admin/rollback"))["carried_over"]["removed"] == 3
        assert not set(same) & images(http).keys()


def test_one_of_equal_bytes_that_lies_elsewhere_is_still_the_same(both: Path) -> None:
    for name, path in (("first", "class0/000.png"), ("second", "class0/001.png")):
        give_hashes(both / name, same=(path,))
        with closing(sqlite3.connect(both / name / "catalogue.sqlite")) as connection, connection:
            connection.execute("UPDATE items SET path = 'moved.png' WHERE path = 'class0/002.png'")
    with served(both / "first") as http:
        before = images(http)
        answer(http.patch(f"/images/{before['class0/000.png']['id']}", json={"label": "square"}))
        answer(http.delete(f"/images/{before['moved.png']['id']}"), 204)
        assert reload(http, force=True)["carried_over"] == {"added": 0, "changed": 1, "removed": 1}
        after = images(http)
        assert after["class0/001.png"]["label"] == "square" and "moved.png" not in after
        assert after["class0/000.png"]["label"] == "circle"  # whose bytes first never had


@pytest.mark.parametrize("hashed", ["first", "second"])
def test_images_that_only_one_artifact_has_hashes_of_are_known_by_their_paths(
    both: Path, hashed: str
) -> None:
    give_hashes(both / hashed)
    with served(both / "first", reload_margin=1) as http:
        before = images(http)
        answer(http.patch(f"/images/{before['class1/001.png']['id']}", json={"label": "circle"}))
        answer(http.delete(f"/images/{before['class0/000.png']['id']}"), 204)
        add(http, png(80), "class2/000.png", folder="another folder", label="mine")
        told = reload(http)
        assert told["carried_over"] == {"added": 1, "changed": 1, "removed": 1}
        assert told["compared"]["queries"] == 12
        listed = answer(http.get("/images", params={"limit": 1000}))["images"]
        assert len(listed) == len(before)
        labels = {(each["folder"], each["path"]): each["label"] for each in listed}
        assert labels[None, "class1/001.png"] == "circle" and (None, "class0/000.png") not in labels
        assert labels[None, "class2/000.png"] == "<b>cross</b>"
        assert labels["another folder", "class2/000.png"] == "mine"
        assert answer(http.post("/admin/rollback"))["carried_over"] == {
            "added": 0,
            "changed": 0,
            "removed": 0,
        }


def test_an_image_that_the_next_artifact_holds_out_can_still_be_found(both: Path, pair: Path) -> None:
    held_out = (pair / "work-first" / "images" / "held-out" / "0-0.png").read_bytes()
    with closing(sqlite3.connect(both / "second" / "catalogue.sqlite")) as connection, connection:
        path = "held-out/0-0.png"
        connection.execute("UPDATE items SET sha256 = ? WHERE path = ?", (sha256(held_out).digest(), path))
    with served(both / "first") as http:
        add(http, held_out, "mine.png", label="mine")
        assert reload(http, force=True)["carried_over"]["added"] == 1
        assert images(http)["mine.png"]["label"] == "mine"


def test_labels_are_carried_to_those_of_the_same_normal_form_and_stay_as_they_are(both: Path) -> None:
    old, odd = "cafe\u0301 ", "o" * 300
    rename_labels(both / "first", {"circle": old, "square": odd})
    rename_labels(both / "second", {"circle": "caf\u00e9"})
    with served(both / "first") as http:
        add(http, png(63), "new.png", label="café")
        add(http, png(64), "odd.png", label=odd)
        before = images(http)
        (one, other), square = (
            [path for path, image in before.items() if image["label"] == label][:2] for label in (old, odd)
        )
        answer(http.patch(f"/images/{before[one]['id']}", json={"label": "café"}))  # which it has
        answer(http.patch(f"/images/{before[other]['id']}", json={"metadata": {"seen": 1}}))
        answer(http.patch(f"/images/{before[square[0]]['id']}", json={"label": "café"}))
        assert reload(http, force=True)["carried_over"] == {"added": 2, "changed": 2, "removed": 0}
        after = images(http)
        assert {after[path]["label"] for path in ("new.png", one, other, square[0])} == {"caf\u00e9"}
        assert (after["odd.png"]["label"], after[square[1]]["label"]) == (odd, "square")


def test_an_image_is_known_however_the_letters_of_its_name_are_written(both: Path) -> None:
    """Its folder was on a Mac for one of the two artifacts; nobody hashed the files."""
    for name, path in (("first", "café.png"), ("second", "cafe\u0301.png")):
        with closing(sqlite3.connect(both / name / "catalogue.sqlite")) as connection, connection:
            connection.execute("UPDATE items SET path = ? WHERE path = 'class0/000.png'", (path,))
    with served(both / "first") as http:
        answer(http.patch(f"/images/{images(http)['café.png']['id']}", json={"label": "square"}))
        assert reload(http, force=True)["carried_over"] == {"added": 0, "changed": 1, "removed": 0}
        assert images(http)["cafe\u0301.png"]["label"] == "square"


def test_an_artifact_whose_name_is_no_utf_8_is_served_and_replaced(both: Path) -> None:
    odd = both / "caf\udce9"
    (both / "first").rename(odd)
    with served(odd) as http:
        assert answer(http.get("/stats"))["artifact"] == "caf\ufffd"
        assert answer(http.get("/eval/map"))["definition"]["artifact"] == "caf\ufffd"
        assert http.get("/metrics").status_code == 200
        told = reload(http, "second", force=True)
        assert (told["before"], told["after"]) == ("caf\ufffd", "second")
        told = answer(http.post("/admin/rollback"))
        assert (told["before"], told["after"]) == ("second", "caf\ufffd")
