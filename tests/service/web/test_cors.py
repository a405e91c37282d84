"""Pages of other origins, as a browser asks for them."""

from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from index.artifact import Artifact
from service.app import create_app
from service.settings import Settings
from tests.samples import serve_here
from training.nets.encoder import Encoder

OURS, ALSO_OURS, FOREIGN = "https://gallery.example", "http://localhost:3000", "https://elsewhere.example"
KEY = {"Authorization": f"Bearer {'r' * 16}"}


def asks(origin: str, method: str = "POST", headers: str = "authorization,content-type") -> dict[str, str]:
    """What a browser sends before a request that only pages of the service's own origin may send unasked."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


def cors(response: httpx.Response) -> dict[str, str]:
    return {
        name: value for name, value in response.headers.items() if name.startswith("access-control-allow")
    }


def test_by_default_no_page_of_another_origin_may_read(server: str) -> None:
    for origin in (OURS, server, "null"):
        for answer in (
            httpx.get(f"{server}/images", headers={"Origin": origin}),
            httpx.options(f"{server}/search", headers=asks(origin)),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.status_code == 405


@pytest.mark.process
def test_pages_of_the_named_origins_may_and_no_others(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = (Path(artifact.manifest.data["root"]) / "class1/004.png").read_bytes()
    settings = Settings(
        artifact=artifact.path,
        max_image_bytes=10_000,
        cors_origins=f"{OURS}, {ALSO_OURS}",
        read_keys="r" * 16,  # type: ignore[arg-type]
    )
    with serve_here(create_app(settings)) as address, httpx.Client(base_url=address, timeout=60) as http:
        for origin in (OURS, ALSO_OURS):
            for method in ("GET", "POST", "PATCH", "DELETE"):
                preflight = http.options("/images/1", headers=asks(origin, method))  # browsers send no key
                assert (preflight.status_code, cors(preflight)["access-control-allow-origin"]) == (
                    200,
                    origin,
                )
                assert method in preflight.headers["access-control-allow-methods"]
            assert preflight.headers["x-content-type-options"] == "nosniff"
            found = http.post("/search", content=picture, headers=KEY | {"Origin": origin})
            assert (found.status_code, cors(found)) == (200, {"access-control-allow-origin": origin})
            assert "X-Request-ID" in found.headers["access-control-expose-headers"]
            assert found.headers["vary"] == "Origin"
            for status, answer in (  # a page can read why
                (401, http.get("/images", headers={"Origin": origin})),
                (415, http.post("/search", content=b"no image", headers=KEY | {"Origin": origin})),
                (413, http.post("/search", content=bytes(100_000), headers=KEY | {"Origin": origin})),
            ):
                assert (answer.status_code, cors(answer)) == (status, cors(found))
        for origin in (FOREIGN, "null", f"{OURS}.{FOREIGN[8:]}", OURS.replace("https", "http"), f"{OURS}:1"):
            refused = http.options("/search", headers=asks(origin))
            assert (refused.status_code, cors(refused)) == (400, {})
            assert "HEBBSEARCH_CORS_ORIGINS names the origins" in refused.json()["detail"]
            assert cors(http.get("/images", headers=KEY | {"Origin": origin})) == {}
        assert http.options("/search", headers=asks(OURS, "PUT")).status_code == 400
        assert http.options("/search", headers=asks(OURS, headers="cookie")).status_code == 400
        assert "access-control-allow-origin" not in http.get("/images", headers=KEY).headers
        monkeypatch.setattr(Encoder, "encode", lambda *_: 1 / 0)
        failed = http.post("/search", content=picture, headers=KEY | {"Origin": OURS})
        assert (failed.status_code, cors(failed)) == (500, {"access-control-allow-origin": OURS})


@pytest.mark.process
def test_a_named_origin_changes_nothing_without_a_key(artifact: Artifact) -> None:
    settings = Settings(artifact=artifact.path, cors_origins=OURS)
    with serve_here(create_app(settings)) as address:
        refused = httpx.patch(f"{address}/images/1", json={"label": "x"}, headers={"Origin": OURS})
        assert (refused.status_code, cors(refused)) == (403, {"access-control-allow-origin": OURS})
        assert httpx.get(f"{address}/images/1", headers={"Origin": OURS}).json()["label"] != "x"


@pytest.mark.parametrize(
    "origins", ["*", "null", "example.org", f"{OURS}/", f"{OURS}, https://A.example", f"{OURS}/page", "a b"]
)
def test_what_is_no_origin_is_refused(artifact: Artifact, origins: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(artifact=artifact.path, cors_origins=origins)
    Settings(artifact=artifact.path, cors_origins=f" {OURS} ,, http://[::1]:8000, app://x")
