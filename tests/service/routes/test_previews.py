"""Pictures large enough to look at, over real HTTP."""

from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFilter
from PIL.Image import Exif, Transpose

from service.app import create_app
from service.core.pictures import previews
from service.core.pictures.decoding import decode
from service.core.pictures.previews import Previews, Source
from service.settings import Settings
from tests.samples import serve_here
from tests.service.hostile import saved
from training.nets.images import NotAnImage


def photograph(seed: int, width: int = 1600, height: int = 900) -> Image.Image:
    """Soft, as photographs are next to noise."""
    values = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height)).filter(ImageFilter.GaussianBlur(3))


def shown(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content)).convert("RGB")


def added(http: httpx.Client, content: bytes) -> int:
    (one,) = http.post("/images", content=content).raise_for_status().json()["images"]
    return int(one["image"]["id"])


def test_a_preview_is_the_upright_picture_without_what_the_file_says(http: httpx.Client) -> None:
    exif = Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    exif[0x010E] = "taken at home"
    picture = photograph(1)
    item_id = added(http, saved(picture, "JPEG", exif=exif.tobytes(), quality=95))
    answered = http.get(f"/images/{item_id}/preview")
    assert answered.headers["content-type"] == "image/webp"
    assert b"taken at home" not in answered.content
    assert not Image.open(BytesIO(answered.content)).getexif()
    preview = shown(answered.content)
    assert preview.size == (576, 1024)
    expected = picture.transpose(Transpose.ROTATE_270).resize(preview.size)
    assert max(most for _, most in ImageChops.difference(preview, expected).getextrema()) < 40
    assert http.get(f"/images/{item_id}").json()["preview"] == f"/images/{item_id}/preview"


def test_a_small_picture_keeps_its_pixels_and_a_held_out_query_has_one_too(http: httpx.Client) -> None:
    (query, *_) = http.get("/images", params={"split": "query"}).raise_for_status().json()["images"]
    preview = shown(http.get(query["preview"]).content)
    original = shown(http.get(query["original"]).content)
    assert preview.tobytes() == original.tobytes()


def test_a_preview_that_is_known_is_not_sent_again_until_its_file_changes(
    http: httpx.Client, mine: Path
) -> None:
    item_id = added(http, saved(photograph(2)))
    first = http.get(f"/images/{item_id}/preview")
    known = {"If-None-Match": first.headers["etag"]}
    assert http.get(f"/images/{item_id}/preview", headers=known).status_code == 304
    assert first.headers["cache-control"] == "no-cache"
    sha256 = http.get(f"/images/{item_id}").json()["sha256"]
    (file,) = (mine / "originals").rglob(sha256)
    file.write_bytes(saved(photograph(3, 800, 600)))
    again = http.get(f"/images/{item_id}/preview", headers=known)
    assert (again.status_code, shown(again.content).size) == (200, (800, 600))


@pytest.mark.parametrize("gone", ["file", "picture"])
def test_of_a_file_that_is_gone_the_thumbnail_is_shown(http: httpx.Client, mine: Path, gone: str) -> None:
    item_id = added(http, saved(photograph(4), "JPEG"))
    image = http.get(f"/images/{item_id}").json()
    (file,) = (mine / "originals").rglob(image["sha256"])
    if gone == "file":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:2000])
    answered = http.get(image["preview"])
    assert answered.status_code == 200
    assert answered.content == http.get(image["thumbnail"]).content
    assert len(http.post("/search?k=3", content=saved(photograph(5))).json()["results"]) == 3  # goes on


@pytest.mark.process
def test_whoever_may_read_sees_previews_and_no_files(mine: Path) -> None:
    settings = Settings(artifact=mine, originals_to="nobody")
    with serve_here(create_app(settings)) as address, httpx.Client(base_url=address) as http:
        assert http.get("/images/1/original").status_code == 403
        assert http.get("/images/1/preview").headers["content-type"] == "image/webp"
        assert http.get("/images/999999/preview").status_code == 404


def source(folder: Path, seed: int) -> Source:
    path = folder / f"{seed}.png"
    path.write_bytes(saved(photograph(seed, 200, 150)))
    return Source(str(seed), path, b"thumbnail")


def test_the_latest_are_kept_up_to_a_limit(tmp_path: Path) -> None:
    size = len(Previews(decode, max_pixels=10**6).make(source(tmp_path, 0)))
    few = Previews(decode, max_pixels=10**6, room=int(3.5 * size))
    sources = [Source(str(number), tmp_path / "0.png", b"thumbnail") for number in range(4)]
    for each in sources[:3]:
        few.make(each)
    assert few.kept(sources[0]) is not None  # asked for last now
    few.make(sources[3])
    assert [few.kept(each) is not None for each in sources] == [True, False, True, True]


def test_what_is_larger_than_all_the_room_is_made_and_not_kept(tmp_path: Path) -> None:
    none = Previews(decode, max_pixels=10**6, room=10)
    one = source(tmp_path, 0)
    assert shown(none.make(one)).size == (200, 150)
    assert none.kept(one) is None


def test_what_cannot_be_decoded_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(content: bytes, **_: object) -> None:
        asked.append(content)
        raise NotAnImage("no")

    made = Previews(refuse, max_pixels=10**6)  # type: ignore[arg-type]
    one = source(tmp_path, 0)
    assert [made.make(one), made.make(one)] == [b"thumbnail"] * 2
    assert len(asked) == 1
    monkeypatch.setattr(previews, "LARGEST", 10)
    assert Previews(decode, max_pixels=10**6).make(one) == b"thumbnail"
