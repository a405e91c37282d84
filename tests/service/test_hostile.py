"""Every file of the kit is answered as it says, and whoever comes next is answered as ever."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from index.artifact import Artifact
from service.settings import Settings
from tests.samples import build_artifact, serve
from tests.service.hostile import KIT, Hostile

NAMES = [name for name, _ in sorted(KIT.items(), key=lambda entry: entry[1].same_as is not None)]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact to which the kit is added."""
    return build_artifact(tmp_path_factory.mktemp("grown"))


@pytest.fixture(scope="module")
def http(grown: Artifact) -> Iterator[httpx.Client]:
    with serve(grown.path) as address, httpx.Client(base_url=address, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def codes() -> dict[str, str]:
    """Of the images so far."""
    return {}


@pytest.fixture
def good(grown: Artifact) -> bytes:
    return (Path(grown.manifest.data["root"]) / "class1" / "004.png").read_bytes()


def expect(response: httpx.Response, hostile: Hostile, status: int) -> None:
    assert response.status_code == status, response.text
    if status >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        assert hostile.says in response.json()["detail"]
        assert "Traceback" not in response.text


def answered_as_ever(http: httpx.Client, good: bytes) -> None:
    """Within half of the time for which a bad image may hold its decoder."""
    limit = Settings.model_fields["decoding_seconds"].default / 2
    assert len(http.post("/search", content=good, timeout=limit).json()["results"]) == 10


@pytest.mark.parametrize("name", NAMES)
def test_file(http: httpx.Client, codes: dict[str, str], good: bytes, name: str) -> None:
    hostile = KIT[name]
    content = hostile.make()
    found = http.post("/search?k=1", files={"image": ("x.png", content)})
    expect(found, hostile, hostile.status)
    answered_as_ever(http, good)

    added = http.post("/images", files={"image": ("x.png", content)})
    if hostile.status == 200:
        codes[name] = found.json()["code"]
        assert codes[name] == codes[hostile.same_as or name]
        assert added.status_code in (200, 201), added.text  # 200: another file of the kit has these bytes
        (image,) = added.json()["images"]
        assert http.get(image["image"]["thumbnail"]).content[8:12] == b"WEBP"
        assert http.get(f"/images/{image['image']['id']}/similar?k=1").status_code == 200
    else:
        expect(added, hostile, hostile.status)
    answered_as_ever(http, good)


def test_the_kit_is_large() -> None:
    assert len(KIT) >= 60
