"""What the tests of a change of artifacts do over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx

from service.app import create_app
from service.command import main
from service.settings import Settings
from tests.samples import (
    draw,
    serve_here,
)


@contextmanager
def served(path: Path, **settings: Any) -> Iterator[httpx.Client]:
    with (
        serve_here(create_app(Settings(artifact=path, **settings))) as address,
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        yield http


def png(seed: int, label: int = 0) -> bytes:
    file = BytesIO()
    draw(label, 20_000 + seed).save(file, "PNG")
    return file.getvalue()


def answer(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json() if response.content else None


def add(http: httpx.Client, content: bytes, name: str = "new.png", **fields: str) -> int:
    (added,) = answer(http.post("/images", files={"image": (name, content)}, data=fields), 201)["images"]
    id_: int = added["image"]["id"]
    return id_


def images(http: httpx.Client) -> dict[str, dict[str, Any]]:
    """All that is indexed, by path."""
    return {each["path"]: each for each in answer(http.get("/images", params={"limit": 1000}))["images"]}


def encoder(http: httpx.Client) -> str:
    identity: str = answer(http.get("/eval/map"))["definition"]["encoder_id"]
    return identity


def reload(http: httpx.Client, name: str = "second", *, status: int = 200, **more: Any) -> Any:
    return answer(http.post("/admin/reload", json={"artifact": name, **more}), status)


def move(path: Path, url: str) -> None:
    """Its catalogue, into a schema of PostgreSQL."""
    assert main(["move", str(path), "--catalogue", url]) == 0
