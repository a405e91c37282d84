"""Thousands of images, and a million codes, by the whole path to services that share a server."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index.artifact import Artifact
from index.catalogue import Catalogue
from index.engines import fill, ranked
from index.hamming import FaissEngine
from index.items import NewItem
from index.postgres import PostgresRanker
from index.remote import RemoteEngine
from service.command import main
from service.core.artifacts.encoding import Worker
from tests import forking, postgresql
from tests.service.command.test_encoding import killed_after_a_line
from tests.service.core.artifacts.shards import bare, contents, encode, load
from tests.service.reloading import add, answer, png, served

pytestmark = pytest.mark.process

IMAGES, IN_A_TAR = 50_000, 5_000
FEWER, IN_A_PART = 3_000, 100
CODES, TOGETHER = 1_000_000, 50_000
K = 10


@pytest.fixture
def url() -> Iterator[str]:
    with postgresql.server() as server:
        yield server.new_schema()


def draw_tars(folder: Path, images: int, each: int) -> None:
    """Blocks of colours, of ten labels."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for first in range(0, images, each):
        with tarfile.open(folder / f"{first:05}.tar", "w") as tar:
            for number in range(first, first + each):
                blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                file = io.BytesIO()
                Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(file, "WEBP", quality=60)
                for name, content in (("webp", file.getvalue()), ("cls", b"%d" % (number % 10))):
                    entry = tarfile.TarInfo(f"{number:05}.{name}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


@pytest.mark.cluster
def test_three_thousand_images_by_processes_that_are_killed(
    own: Artifact, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shard is whole or not there, and so is each image in the catalogue, whoever ends the work."""
    data, whole, shards = (tmp_path / name for name in ("tars", "whole", "shards"))
    monkeypatch.setattr(forking, "FORKS", False)  # what Milvus's environment loads begins threads
    draw_tars(data, FEWER, IN_A_PART)
    encode(data, own.path, whole, part_size=IN_A_PART)
    command = ["encode", "--data", str(data), "--encoder", str(own.path), "--out", str(shards)]
    command += ["--part-size", str(IN_A_PART)]
    for rank in range(2):
        killed_after_a_line(command, RANK=str(rank), WORLD_SIZE="2")
    assert 2 < len(contents(shards)) < FEWER // IN_A_PART
    encode(data, own.path, shards, *(Worker(rank, 3) for rank in range(3)), part_size=IN_A_PART)
    assert contents(shards) == contents(whole)

    target = bare(own, tmp_path / "shared")
    command = ["load", str(shards), "--artifact", str(target), "--catalogue", url]
    killed_after_a_line(command)
    with Catalogue.open(url) as catalogue:
        assert 0 < len(catalogue.codes().ids) < FEWER
    assert main(command) == 0
    settings = {"catalogue": url, "engine": "catalogue"}
    with served(target, **settings) as one, served(target, **settings) as other:
        for http in (one, other):
            stats = answer(http.get("/stats"))
            assert (stats["items"], stats["labelled"], stats["stale"]) == (FEWER, FEWER, 0)


@pytest.mark.slow
def test_fifty_thousand_images(own: Artifact, url: str, tmp_path: Path) -> None:
    draw_tars(tmp_path / "tars", IMAGES, IN_A_TAR)
    encode(tmp_path / "tars", own.path, tmp_path / "shards")
    target = bare(own, tmp_path / "shared")
    load(tmp_path / "shards", target, url)
    settings = {"catalogue": url, "engine": "catalogue"}
    with served(target, **settings) as one, served(target, **settings) as other:
        for http in (one, other):
            stats = answer(http.get("/stats"))
            assert (stats["items"], stats["labelled"], stats["stale"]) == (IMAGES, IMAGES, 0)
        with Catalogue.open(url) as catalogue:
            exact = FaissEngine(catalogue.bits)
            exact.apply(catalogue.changes(-1))
            for id_ in np.random.default_rng(1).choice(catalogue.codes().ids, 100).tolist():
                distances, ids = exact.search(catalogue.code(id_), K + 1)
                wanted = [
                    pair
                    for pair in zip(ids[0].tolist(), distances[0].tolist(), strict=True)
                    if pair[0] != id_
                ]
                found = answer(one.get(f"/images/{id_}/similar", params={"k": K}))["results"]
                assert [(each["id"], each["distance"]) for each in found] == wanted[:K]
        sent = add(one, png(1), label="3")
        assert answer(other.post("/search", content=png(1)))["results"][0]["id"] == sent
        answer(other.delete(f"/images/{sent}"), 204)
        near = answer(one.post("/search", content=png(1), params={"k": 100}))["results"]
        assert sent not in [each["id"] for each in near]


@pytest.mark.slow
def test_a_million_codes(url: str) -> None:
    rng = np.random.default_rng(0)
    with Catalogue.create(url, encoder_id="00ff", bits=256, classes=["a", "b"]) as catalogue:
        for first in range(0, CODES, TOGETHER):
            codes = rng.integers(0, 256, (TOGETHER, 32), dtype=np.uint8)
            catalogue.add(
                NewItem(f"{first + row}.png", row % 2, "database", 32, 32, b"", code)
                for row, code in enumerate(codes)
            )
        ranker = PostgresRanker(url, bits=256, encoder_id="00ff")
        assert sum(fill(ranker, catalogue)) == ranked(ranker) == CODES
        exact, remote = FaissEngine(256), RemoteEngine(ranker)
        for engine in (exact, remote):
            engine.apply(catalogue.changes(-1))
        ids = catalogue.codes().ids
        gone = rng.choice(ids, 1000, replace=False).tolist()
        for step in range(3):
            before = catalogue.revision
            catalogue.remove(gone[step::3])
            for engine in (exact, remote):
                engine.apply(catalogue.changes(before))
            queries = rng.integers(0, 256, (5, 32), dtype=np.uint8)
            for labels in (None, [1]):
                for here, there in zip(
                    exact.search(queries, 100, labels=labels),
                    remote.search(queries, 100, labels=labels),
                    strict=True,
                ):
                    assert (here == there).all()
        remote.close()
