"""The same picture is found, whatever was done to it, and copies are grouped."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageDraw, ImageOps

from index.artifact import CATALOGUE
from tests.samples import build_artifact, scene
from tests.service.reloading import add, answer, served
from training.nets.pdq import SAME

pytestmark = pytest.mark.process

SCENES = 8


def sent(image: Image.Image, kind: str = "PNG", **how: int) -> bytes:
    file = BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def written(image: Image.Image) -> Image.Image:
    draw = ImageDraw.Draw(image)
    draw.text((10, 70), "FOR SALE, NEW", fill="white", font_size=14)
    return image


EDITS: dict[str, Callable[[Image.Image], bytes]] = {
    "as it is": sent,
    "half as large": lambda image: sent(image.resize((120, 80))),
    "saved badly": lambda image: sent(image, "JPEG", quality=30),
    "mirrored": lambda image: sent(ImageOps.mirror(image)),
    "turned": lambda image: sent(image.transpose(Image.Transpose.ROTATE_90)),
    "grey": lambda image: sent(image.convert("L")),
    "with a text": lambda image: sent(written(image)),
    "cropped": lambda image: sent(image.crop((25, 5, 233, 144))),
    "a border": lambda image: sent(ImageOps.expand(image, 24, "white")),
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, list[int]]]:
    """A service that has some scenes among its drawings, and their ids. Not to be changed."""
    with served(build_artifact(tmp_path_factory.mktemp("copies")).path) as http:
        yield http, [add(http, sent(scene(seed)), f"{seed}.png") for seed in range(SCENES)]


@pytest.mark.parametrize("edit", EDITS)
def test_the_same_picture_comes_first(there: tuple[httpx.Client, list[int]], edit: str) -> None:
    http, ids = there
    for seed in (0, 3):
        image = EDITS[edit](scene(seed))
        found = answer(http.post("/search?by=picture&k=3", content=image))
        first, second, _ = found["results"]
        assert first["id"] == ids[seed] and first["distance"] < second["distance"], edit
        assert first["distance"] <= {"cropped": 80, "a border": 60}.get(edit, SAME)
        assert first["similarity"] == 1 - first["distance"] / 256
        assert found["exact"] is False and len(found["code"]) == 64
        batch = answer(http.post("/search/batch?by=picture&k=3", files=[("image", image), ("image", b"no")]))
        assert batch["answers"][0]["answer"] == found and batch["answers"][1]["error"]["status"] == 415


def test_an_indexed_picture_is_asked_with_by_its_hash(there: tuple[httpx.Client, list[int]]) -> None:
    http, ids = there
    found = answer(http.get(f"/images/{ids[2]}/similar?by=picture&k=100"))["results"]
    assert ids[2] not in [each["id"] for each in found]
    assert [(each["distance"], each["id"]) for each in found] == sorted(
        (each["distance"], each["id"]) for each in found
    )
    assert min(each["distance"] for each in found) > SAME
    nearest = answer(http.get(f"/images/{ids[2]}/similar?by=picture&max_distance={SAME}"))
    assert nearest["results"] == [] and nearest["ties_at_cut"] == 0
    some = answer(http.get(f"/images/{ids[2]}/similar?by=picture&label=circle&k=100"))["results"]
    assert {each["label"] for each in some} == {"circle"}
    assert http.get("/images/12345/similar?by=picture").status_code == 404
    assert http.get(f"/images/{ids[2]}/similar?by=sound").status_code == 422


def test_a_picture_without_detail_is_called_plain(there: tuple[httpx.Client, list[int]]) -> None:
    http, ids = there
    assert answer(http.post("/search?by=picture", content=sent(Image.new("RGB", (90, 60), "red"))))["plain"]
    assert not answer(http.post("/search?by=picture", content=sent(scene(0))))["plain"]
    assert not answer(http.get(f"/images/{ids[0]}/similar?by=picture"))["plain"]
    assert not answer(http.post("/search", content=sent(Image.new("RGB", (90, 60), "red"))))["plain"]


def test_copies_are_grouped_and_the_largest_is_the_best(http: httpx.Client) -> None:
    small = add(http, sent(scene(1).resize((120, 80))), "small.png", label="circle")
    large = add(http, sent(scene(1)), "large.png")
    twin = add(http, sent(scene(1), "BMP"), "twin.bmp", label="square")
    other = add(http, sent(scene(2)), "other.png")
    groups = answer(http.get("/duplicates?by=picture&limit=100"))
    assert groups["radius"] == SAME and groups["plain"] > 0  # of the drawings
    (group,) = [each for each in groups["found"] if large in [image["id"] for image in each["images"]]]
    assert [image["id"] for image in group["images"]] == [small, large, twin]
    assert [(image["width"], image["height"]) for image in group["images"]] == [(120, 80)] + [(240, 160)] * 2
    assert (group["best"], group["labels"]) == (twin, 2)  # as large as the other, and has a label
    assert other not in [image["id"] for each in groups["found"] for image in each["images"]]
    answer(http.delete(f"/images/{twin}"), 204)
    groups = answer(http.get("/duplicates?by=picture&limit=100"))["found"]
    assert large in [each["best"] for each in groups]


def test_mirrored_and_turned_copies_are_in_one_group(http: httpx.Client) -> None:
    """Of a label each, so that the answer says that they differ."""
    image = scene(3, (480, 320))
    large = add(http, sent(image), "large.png", label="circle")
    mirrored = add(http, sent(ImageOps.mirror(image).resize((240, 160))), "mirrored.png", label="square")
    turned = add(http, sent(image.transpose(Image.Transpose.ROTATE_90)), "turned.png")
    add(http, sent(scene(2, (480, 320))), "other.png")
    found = answer(http.get("/duplicates?by=picture&limit=100"))["found"]
    (group,) = [each for each in found if large in [image["id"] for image in each["images"]]]
    assert [image["id"] for image in group["images"]] == [large, mirrored, turned]
    assert [image["width"] for image in group["images"]] == [480, 240, 320]
    assert (group["size"], group["best"], group["labels"]) == (3, large, 2)


def test_an_index_of_an_earlier_version_says_what_it_lacks(mine: Path) -> None:
    with closing(sqlite3.connect(mine / CATALOGUE)) as connection, connection:
        connection.execute("DELETE FROM pictures WHERE item_id < 6")
    with served(mine) as http:
        image = sent(scene(0))
        requests = [
            lambda: http.post("/search?by=picture", content=image),
            lambda: http.post("/search/batch?by=picture", files=[("image", image)]),
            lambda: http.get("/images/7/similar?by=picture"),
            lambda: http.get("/duplicates?by=picture"),
        ]
        for request in requests:
            assert answer(request(), 409)["detail"] == (
                "5 images come from an earlier version and have no hash of their pixels, by which copies are "
                "found; run: hebbsearch upgrade ARTIFACT"
            )
        answer(http.post("/search", content=image))  # by content as ever
        answer(http.get("/duplicates"))


def test_what_comes_and_goes_is_followed(http: httpx.Client) -> None:
    def nearest() -> list[tuple[int, int]]:
        found = answer(http.post("/search?by=picture&k=1000&max_distance=31", content=sent(scene(5))))
        return [(each["distance"], each["id"]) for each in found["results"]]

    assert nearest() == []
    id_ = add(http, sent(scene(5)), "new.png")
    assert nearest() == [(0, id_)]
    answer(http.delete(f"/images/{id_}"), 204)
    assert nearest() == []
    answer(http.post("/trash/restore", json={"ids": [id_]}))
    assert nearest() == [(0, id_)]
