"""Files' names as browsers and libraries send them in forms, over real HTTP."""

import base64
from typing import Any

import httpx
import pytest

from index.catalogue import Catalogue
from tests.service.reloading import answer, png

pytestmark = pytest.mark.process

BOUNDARY = b"----of-this-form"
# A new emoji is no letter yet for a Python that does not know Unicode 16.
ODD = "soft\u00ad \u200emark \ue000 \U0001fae9 \u0007 \u202e.png"


def sent(http: httpx.Client, parameters: bytes, *, folder: str | None = "names") -> dict[str, Any]:
    """What became of an image whose form says these parameters of its file."""
    of_folder = b'form-data; name="folder"\r\n\r\n' + folder.encode() if folder else None
    of_image = b'form-data; name="image"; ' + parameters + b"\r\n\r\n" + png(1)
    parts = [part for part in (of_folder, of_image) if part is not None]
    body = b"".join(b"--" + BOUNDARY + b"\r\nContent-Disposition: " + part + b"\r\n" for part in parts)
    kind = {"Content-Type": "multipart/form-data; boundary=" + BOUNDARY.decode()}
    response = http.post("/images", content=body + b"--" + BOUNDARY + b"--\r\n", headers=kind)
    (image,) = answer(response, 201)["images"]
    return dict(image)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b"filename*=UTF-8''caf%C3%A9.png", "café.png"),  # urllib3 before 2, aiohttp
        (b"filename*=utf-8''a%3Bb%27c.png", "a;b'c.png"),
        (b"filename=\"x.png\"; filename*=utf-8'en'caf%C3%A9.png", "café.png"),
        (b"FileName*=iso-8859-1''caf%E9.png", "café.png"),
        (b"filename*=utf-8''caf%E9.png", "caf\ufffd.png"),
        (b"filename*=no-charset''caf%E9.png", "caf\ufffd.png"),
        (b'filename="=?utf-8?B?Y2Fmw6kucG5n?="', "café.png"),  # .NET, Java
        (b'filename="=?ISO-8859-1?Q?caf=E9=2Epng?="', "café.png"),
        (b'filename="=?utf-8?q?caf=C3?= =?utf-8?q?=A9.png?="', "café.png"),
        (b'filename="=?utf-8?B?!!!?="', "=?utf-8?B?!!!?="),
        (b'filename="a%22b%0Ac%0d.png"', 'a"b\nc\r.png'),  # browsers
        (b'filename="100% %41.png"', "100% %41.png"),
        (b'filename="a\\"b.png"', 'a"b.png'),  # curl with --form-escape
        (b'filename="a;b=c.png"', "a;b=c.png"),
        (b"filename=a.png", "a.png"),
        (f'filename="{ODD}"'.encode(), ODD),
        (b'filename="caf\xe9.png"', "caf\ufffd.png"),
        (b"filename*=utf-8''a%00b.png", "a\ufffdb.png"),
        (b'filename="' + 250 * b"x" + b'.png"', 250 * "x" + ".png"),
    ],
)
def test_a_file_has_the_name_that_was_meant(http: httpx.Client, parameters: bytes, name: str) -> None:
    image = sent(http, parameters)
    assert (image["name"], image["image"]["path"], image["image"]["folder"]) == (name, name, "names")
    answer(http.delete(f"/images/{image['image']['id']}?forever=true"), 204)
    alone = sent(http, parameters, folder=None)
    assert (alone["image"]["path"], alone["image"]["folder"]) == (name, None)


def test_of_a_file_that_is_sent_alone_the_folders_are_left_out(http: httpx.Client) -> None:
    for parameters, name in (
        (b"filename*=utf-8''..%2F..%2Fa.png", "a.png"),
        (b'filename="C:\\photos\\b.png"', "b.png"),
        (b'filename="c\\d.png"', "c\\d.png"),
        (b'filename="/"', "image"),
    ):
        image = sent(http, parameters, folder=None)["image"]
        assert image["path"] == name
        answer(http.delete(f"/images/{image['id']}?forever=true"), 204)


def test_a_name_that_is_no_utf_8_is_stored_as_it_is(http: httpx.Client, mine: Any) -> None:
    image = sent(http, b'filename="a/caf\xe9.png"')["image"]
    with Catalogue.open(mine / "catalogue.sqlite") as catalogue:
        assert catalogue.get(image["id"]).path == "a/caf\udce9.png"
    words = base64.b64encode(b"a/caf\xe8.png").decode()
    answer(http.delete(f"/images/{image['id']}?forever=true"), 204)
    image = sent(http, f'filename="=?unknown-8bit?B?{words}?="'.encode())["image"]
    with Catalogue.open(mine / "catalogue.sqlite") as catalogue:
        assert catalogue.get(image["id"]).path == "a/caf\udce8.png"


def test_a_folder_is_one_however_its_name_is_written(http: httpx.Client) -> None:
    image = sent(http, b"filename=a.png", folder="cafe\u0301 \u00ad\U0001fae9")["image"]
    for name in ("café \u00ad\U0001fae9", "cafe\u0301 \u00ad\U0001fae9"):
        listed = answer(http.get("/images", params={"folder": name}))["images"]
        assert [each["id"] for each in listed] == [image["id"]]
    assert answer(http.get("/images", params={"folder": "cafe"}))["images"] == []
    assert image["folder"] == "café \u00ad\U0001fae9"


def test_one_image_for_a_search_may_have_any_name(http: httpx.Client) -> None:
    part = b"Content-Disposition: form-data; name=\"image\"; filename*=UTF-8''caf%C3%A9.png\r\n\r\n" + png(1)
    body = b"--" + BOUNDARY + b"\r\n" + part + b"\r\n--" + BOUNDARY + b"--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=" + BOUNDARY.decode()}
    assert answer(http.post("/search?k=3", content=body, headers=kind))["results"]
