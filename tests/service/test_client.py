"""The client, in both forms, against a server in a process of its own."""

import asyncio
import inspect
import pydoc
import re
import threading
import tomllib
from collections.abc import Iterator
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest

from index.artifact import Artifact
from service.client import AsyncClient, Call, Client, Refused, Route, Routes, ServiceError, Unreachable
from service.schemas.search import SearchAnswer
from tests.samples import CLASSES, build_artifact, draw, free_port, serve
from tests.test_layers import loaded_after

KEY = "k" * 16
ROOT = Path(__file__).parents[2]
TOPS = ("index", "service", "training")
ARGUMENTS: dict[str, Any] = {  # of the methods that need some
    "image": b"x",
    "images": [b"x"],
    "codes": ["00"],
    "encoder_id": "x",
    "item_id": 1,
    "job_id": 1,
    "ids": [1],
    "batch": "9f86d081884c7d65",
    "label": "x",
    "name": "x",
}
WITHOUT_A_METHOD: set[tuple[str, str]] = set()  # routes
WITHOUT_AN_ARGUMENT = {
    ("POST", "/images", "name"),  # of a raw body; the client sends forms, with file names
    ("DELETE", "/trash", "id"),  # `ids` here, as of the others
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    own = build_artifact(tmp_path_factory.mktemp("client"))
    with serve(own.path, write_keys=KEY) as address:
        yield address


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    draw(1, 77_000).save(tmp_path / "mine.png")
    return tmp_path / "mine.png"


def test_everything_once(address: str, picture: Path) -> None:
    with Client(address, KEY) as client:
        assert client.live().status == "live"
        items = client.ready().items
        (added,) = client.add(picture, label="fox", metadata={"a": 1}).images
        assert added.status == "added"
        image = added.image
        assert image is not None
        assert client.ready().items == items + 1
        assert client.image(image.id) == image
        assert client.original(image.id) == picture.read_bytes()
        assert client.thumbnail(image.id)[8:12] == b"WEBP"
        found = client.search(picture, k=3, label=["fox"])
        assert [(result.id, result.distance) for result in found.results] == [(image.id, 0)]
        assert client.search(picture.read_bytes(), k=3, label=["fox"]) == found
        encoder = client.evaluate(k=5, denominator="retrieved").definition.encoder_id
        assert client.search_codes([found.code], encoder, k=3, label=["fox"]).answers == [found]
        assert image.id not in [result.id for result in client.similar(image.id, k=1000).results]
        assert len(client.curve().radius) == 257
        assert client.change(image.id, label="owl").metadata == {"a": 1}
        assert client.change(image.id, unlabel=True, metadata={}).label is None
        client.remove(image.id, forever=True)
        with pytest.raises(Refused, match=f"there is no image {image.id}") as refused:
            client.image(image.id)
        assert refused.value.status == 404


def test_what_the_index_tells_of_itself(address: str, picture: Path) -> None:
    with Client(address) as client:
        items = client.ready().items
        found, refused = client.search_batch([picture, b"no image"], k=2, label=CLASSES[:1]).answers
        assert found.answer == client.search(picture, k=2, label=CLASSES[:1])
        assert refused.error is not None and refused.error.status == 415
        worst = client.queries(k=5, limit=3)
        assert [each.aps for each in worst.queries] == sorted(each.aps for each in worst.queries)
        assert len(client.queries(k=5, after=worst.next).queries) == 9
        assert client.queries(order="best").queries[0].aps == max(
            each.aps for each in client.queries().queries
        )
        assert sum(each.queries for each in client.confusion().nearest) == pytest.approx(12)
        assert len(client.codes().bits) == 256
        groups = client.duplicates(radius=16, limit=1, members=2)
        assert groups.radius == 16 and len(groups.found[0].images) == 2
        assert client.duplicates(radius=16, after=groups.next).found[0] != groups.found[0]
        with np.load(BytesIO(client.export())) as arrays:
            assert len(arrays["ids"]) == items == client.stats().items
        assert client.export(format="parquet")[:4] == b"PAR1"
        assert f"hebbsearch_items {items:.1f}\n" in client.metrics()


def described(route: Route[..., Any]) -> tuple[set[str], Call[Any]]:
    """The names of a method's arguments, and the call that it makes."""
    describe = route.__get__(None)
    arguments = inspect.signature(describe).parameters.values()
    groups = [each for each in arguments if each.kind is each.VAR_KEYWORD]  # Unpack of a TypedDict
    names = {each.name for each in arguments if each not in groups}
    needed = [each.name for each in arguments if each.default is each.empty and each not in groups]
    names |= {name for each in groups for name in get_args(each.annotation)[0].__annotations__}
    return names, describe(**{name: ARGUMENTS[name] for name in needed})


def test_every_route_and_each_of_its_parameters_can_be_asked(address: str) -> None:
    asked: dict[tuple[str, str], set[str]] = {}
    for route in vars(Routes).values():
        if isinstance(route, Route):
            arguments, call = described(route)
            asked[
                call.method,
                re.sub(r"^/(image|job)s/1\b", r"/\1s/{\1_id}", call.path)
                .replace("{image_id", "{item_id")
                .replace(ARGUMENTS["batch"], "{batch}"),
            ] = arguments
    document = httpx.get(f"{address}/openapi.json").json()
    routes = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert asked.keys() == routes.keys() - WITHOUT_A_METHOD
    missing = {
        (*route, each["name"])
        for route, operation in routes.items()
        for each in operation.get("parameters", ())
        if each["in"] != "header" and each["name"] not in asked[route]
    }
    assert missing == WITHOUT_AN_ARGUMENT


@pytest.mark.process
def test_what_belongs_together_has_one_name(own: Artifact) -> None:
    async def thrown(address: str) -> str:
        async with AsyncClient(address) as client:
            with client.one_change() as name:
                await client.throw([3])
            return name

    with serve(own.path) as address, Client(address) as client:
        with client.one_change() as name:
            client.throw([1])
            client.relabel([2], "new")
        client.throw([4])
        last = asyncio.run(thrown(address))
        assert [each.together for each in client.changes().changes] == [last, None, name, name]


def test_images_walks_all_pages(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.PAGE", 7)

    async def ids() -> list[int]:
        async with AsyncClient(address) as client:
            return [image.id async for image in client.images()]

    with Client(address) as client:
        listed = [image.id for image in client.images()]
        assert len(listed) == client.ready().items
        assert {image.label for image in client.images(label=CLASSES[:1])} == {CLASSES[0]}
        paths = [image.path for image in client.images(sort="name", descending=True, name="CLASS")]
        assert len(paths) == 60
        assert paths == sorted(paths, reverse=True)
        assert client.page(offset=5, limit=2, sort="id").total == len(listed)
    assert listed == sorted(set(listed)) == asyncio.run(ids())


def test_awaited(address: str, picture: Path) -> None:
    async def work() -> None:
        async with AsyncClient(address, KEY) as client:
            ready, found = await asyncio.gather(client.ready(), client.search(picture, k=2))
            assert ready.items > 2
            assert len(found.results) == 2
            with pytest.raises(Refused, match="no image 99999"):
                await client.image(99999)

    asyncio.run(work())


class Watched(PathLike[str]):
    """A path that notes which threads ask what it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.threads = set[int]()

    def __fspath__(self) -> str:
        self.threads.add(threading.get_ident())
        return fspath(self.path)


def test_files_are_read_beside_the_event_loop(address: str, picture: Path) -> None:
    watched = Watched(picture)

    async def work() -> None:
        async with AsyncClient(address, KEY) as client:
            (added,) = (await client.add(watched)).images
            assert added.image is not None
            await asyncio.create_task(client.remove(added.image.id, forever=True))
            await client.search(watched)
            await client.search_batch([watched])

    asyncio.run(work())
    assert watched.threads and threading.get_ident() not in watched.threads


def test_each_package_is_installed_and_says_that_it_is_typed() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {file.parent.relative_to(ROOT) for top in TOPS for file in (ROOT / top).rglob("__init__.py")}
    assert set(tools["packages"]) == {".".join(folder.parts) for folder in there}
    assert "py.typed" in tools["package-data"]["*"]
    for package in tools["packages"]:
        assert (ROOT / package.replace(".", "/") / "py.typed").is_file()


def test_a_folder_and_paths_in_it_are_kept(address: str, picture: Path) -> None:
    content = picture.read_bytes()
    names = ['rome/12" and \u202f.png', "rome/ü.png"]
    with Client(address, KEY) as client:
        answer = client.add([(names[0], content), (names[1], content)], folder="scans").images
        assert [(each.name, each.status) for each in answer] == [(names[0], "added"), (names[1], "exists")]
        (image,) = client.images(folder="scans")
        assert (image.path, image.folder) == (names[0], "scans")
        assert client.original(image.id) == content
        assert list(client.images(folder="elsewhere")) == []
        client.remove(image.id, forever=True)


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../x.png", "a//x.png", "./x.png"])
def test_a_path_that_leads_elsewhere_is_refused(address: str, picture: Path, name: str) -> None:
    with Client(address, KEY) as client:
        with pytest.raises(Refused, match=r"image .*path") as refused:
            client.add((name, picture), folder="scans")
        assert refused.value.status == 422
        assert list(client.images(folder="scans")) == []


def test_refusals_and_dead_addresses_are_one_line(address: str, picture: Path) -> None:
    for key, status in ((None, 401), ("x" * 16, 401)):
        with Client(address, key) as client, pytest.raises(Refused) as refused:
            client.add(picture)
        assert refused.value.status == status
    nobody = f"http://127.0.0.1:{free_port()}"
    with Client(nobody) as client, pytest.raises(Unreachable, match=rf"^{nobody} cannot be reached [^\n]*$"):
        client.ready()
    with Client("nonsense") as client, pytest.raises(Unreachable, match="nonsense is no address"):
        client.ready()
    with pytest.raises(ServiceError, match="the key has characters"):
        Client(address, "schlüssel")


@pytest.mark.process
def test_it_loads_no_torch_and_no_faiss() -> None:
    loaded = {name.split(".")[0] for name in loaded_after("import service.client")}
    assert not loaded & {"torch", "faiss", "numpy", "fastapi", "training"}


def test_help_tells_what_a_method_takes_and_gives() -> None:
    with Client("http://127.0.0.1:9") as client:
        search = inspect.signature(client.search)
        assert search.parameters.keys() == {"image", "how"}
        assert search.return_annotation is SearchAnswer
        assert client.search.__name__ == "search"  # type: ignore[attr-defined]
        text = pydoc.plain(pydoc.render_doc(client.change))
        assert "change(item_id: int, *, label: str | None = None" in text
        assert "-> service.schemas.images.Image" in text
