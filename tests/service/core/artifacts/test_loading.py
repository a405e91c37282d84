"""Shards become a part of an artifact, once, whatever came between."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index import shards
from index.artifact import CATALOGUE, Artifact, ArtifactError, open_artifact
from index.catalogue import Catalogue
from index.items import NewItem
from index.shards import Plan, ShardError
from index.verify import faults
from tests.samples import served
from tests.service.core.artifacts.shards import bare, encode, images_in, known, load
from tests.service.reloading import answer, png

pytestmark = pytest.mark.long

COUNT, PARTS = 20, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that the artifact does not have, in two classes, of which it knows one. Not to be changed."""
    root = tmp_path_factory.mktemp("data") / "more"
    for number in range(COUNT):
        path = root / ("circle", "new")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, label=number % 2))
    return root


@pytest.fixture(scope="module")
def made(artifact: Artifact, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their shards. Not to be changed."""
    out = tmp_path_factory.mktemp("made") / "shards"
    assert len(encode(data, artifact.path, out)) == PARTS
    return out


@pytest.mark.process
def test_a_service_finds_what_is_loaded_while_it_runs(own: Artifact, data: Path, made: Path) -> None:
    with served(own.path) as http:
        before = answer(http.get("/eval/map"))
        load(made, own.path)
        listed = answer(http.get("/images", params={"folder": "more"}))["images"]
        assert {each["path"]: each["label"] for each in listed} == {
            path.relative_to(data).as_posix(): path.parent.name for path in data.rglob("*.png")
        }
        wanted = next(each for each in listed if each["path"] == "new/01.png")
        file = {"image": ("q.png", (data / "new" / "01.png").read_bytes())}
        for by in ("content", "picture"):
            found = answer(http.post("/search", files=file, params={"by": by, "k": 1}))["results"]
            assert (found[0]["id"], found[0]["distance"]) == (wanted["id"], 0)
        shown = http.get(wanted["thumbnail"])
        assert shown.status_code == 200 and shown.content[8:12] == b"WEBP"
        after = answer(http.get("/eval/map"))
        assert (after["definition"]["queries"], before["definition"]["queries"]) == (12, 12)
        new = answer(http.get("/images", params={"folder": "more", "label": "new"}))["images"]
        assert len(new) == COUNT // 2
    assert list(faults(own.path)) == []
    queries = own.queries()
    assert queries is not None and len(queries.ids) == 12


def test_twice_is_as_once(own: Artifact, made: Path) -> None:
    first = load(made, own.path)
    assert sum(each.arrivals["added"] for each in first if each.arrivals is not None) == COUNT
    before = known(own.path, "more")
    with own.open_catalogue() as catalogue:
        revision = catalogue.revision
    assert [each.arrivals for each in load(made, own.path)] == [None] * PARTS
    with own.open_catalogue() as catalogue:
        assert catalogue.revision == revision
    assert known(own.path, "more") == before


def test_what_was_deleted_since_does_not_come_back(own: Artifact, made: Path) -> None:
    load(made, own.path)
    with own.open_catalogue() as catalogue:
        first, second, *_ = (item.id for item in catalogue.page(count=1000) if item.folder == "more")
        catalogue.throw([first])
        catalogue.remove([second])
    load(made, own.path)
    assert len(known(own.path, "more")) == COUNT - 2


def test_images_are_known_by_their_bytes(own: Artifact, data: Path, made: Path, tmp_path: Path) -> None:
    """Under another name, without labels, in other parts; and labels come to what has none."""
    other = tmp_path / "other"
    other.mkdir()
    for path in data.rglob("*.png"):
        shutil.copyfile(path, other / path.name)
    encode(other, own.path, tmp_path / "out", part_size=4)
    arrivals = [each.arrivals for each in load(tmp_path / "out", own.path)]
    assert sum(each["added"] for each in arrivals if each is not None) == COUNT
    assert {each[0] for each in known(own.path, "other").values()} == {None}
    arrivals = [each.arrivals for each in load(made, own.path)]
    assert sum(each["exists"] for each in arrivals if each is not None) == COUNT
    assert known(own.path, "more") == {}
    assert {each[0] for each in known(own.path, "other").values()} == {"circle", "new"}


@pytest.mark.parametrize("batches", [0, 1, 2, 4])
def test_what_ends_it_in_the_middle_costs_nothing(
    own: Artifact, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    shutil.copytree(own.path, tmp_path / "whole")
    monkeypatch.setattr(shards, "TOGETHER", 4)
    load(made, tmp_path / "whole")
    add, left = Catalogue.add_unknown, batches

    def failing(self: Catalogue, items: Sequence[NewItem], *more: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return add(self, items, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "add_unknown", failing)
        with pytest.raises(KeyboardInterrupt):
            load(made, own.path)
    assert len(known(own.path, "more")) == sum((4, 3, 4, 3)[:batches])  # of parts of seven
    load(made, own.path)
    assert known(own.path, "more") == known(tmp_path / "whole", "more")
    assert list(faults(own.path)) == []


def test_no_more_is_in_memory_than_some_rows(
    own: Artifact, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "TOGETHER", 3)
    add, sizes = Catalogue.add_unknown, list[int]()

    def counting(self: Catalogue, items: Sequence[NewItem], *more: Any, **named: Any) -> Any:
        sizes.append(len(items))
        return add(self, items, *more, **named)

    monkeypatch.setattr(Catalogue, "add_unknown", counting)
    load(made, own.path)
    assert max(sizes) == 3 and sum(sizes) == COUNT


def test_parts_that_come_later_are_loaded_later(
    own: Artifact, data: Path, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    shards.path_of(out, 1).unlink()
    assert [each.number for each in load(out, own.path)] == [0, 2]
    encode(data, own.path, out)
    assert [(each.number, each.arrivals is None) for each in load(out, own.path)] == [
        (0, True), (1, False), (2, True),
    ]  # fmt: skip
    assert len(known(own.path, "more")) == COUNT


@pytest.mark.process
def test_manifest_and_encoder_become_an_artifact(own: Artifact, made: Path, tmp_path: Path) -> None:
    target = bare(own, tmp_path / "new")
    load(made, target)
    assert images_in(target) == COUNT
    assert open_artifact(target).manifest.encoder_id == own.manifest.encoder_id
    with served(target) as http:
        found = answer(http.post("/search", files={"image": ("q.png", png(3, label=1))}, params={"k": 1}))
        assert found["results"][0]["distance"] == 0 and found["results"][0]["label"] == "new"
    assert list(faults(target)) == []


def test_held_out_images_do_not_become_lost_without_a_word(own: Artifact, made: Path) -> None:
    (own.path / CATALOGUE).unlink()
    with pytest.raises(
        ArtifactError, match=r"catalogue.sqlite: no catalogue is there, and with it .* held out"
    ):
        load(made, own.path)
    assert not (own.path / CATALOGUE).exists()


def test_what_does_not_fit_is_said_and_changes_nothing(
    own: Artifact, data: Path, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    last = shards.path_of(out, PARTS - 1)
    content = last.read_bytes()
    before = (own.path / CATALOGUE).read_bytes()

    def refused(what: str, folder: Path = out, artifact: Path = own.path) -> None:
        with pytest.raises((ShardError, ArtifactError), match=what):
            load(folder, artifact)
        assert (own.path / CATALOGUE).read_bytes() == before

    last.write_bytes(content[: len(content) // 2])
    refused(r"part-000002.parquet: is damaged or not whole")
    plan = Plan.read(out)
    shards.write(out, replace(plan, encoder_id="f" * 16), PARTS - 1, [])
    refused(r"part-000002.parquet: is of encoder f+, not [0-9a-f]+")
    refused(r"nothing/shards.json: is missing", folder=tmp_path / "nothing")
    refused(r"nothing/manifest.json: is missing", artifact=tmp_path / "nothing")
    for number in range(PARTS):
        shards.path_of(out, number).unlink()
    refused("none of its 3 parts is there")
    (out / shards.PLAN).unlink()
    replace(plan, encoder_id="e" * 16).settle(out)
    refused(r"its codes are of encoder e+, and those of .* of [0-9a-f]+; encode the images")


def test_a_byte_that_changed_keeps_its_part_out(own: Artifact, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    path = shards.path_of(out, 1)
    content = bytearray(path.read_bytes())
    content[content.index(b"WEBP") + 30] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"part-000001.parquet: is damaged"):
        load(out, own.path)
    assert len(known(own.path, "more")) == 7  # of the part before
    shutil.copyfile(shards.path_of(made, 1), path)
    load(out, own.path)
    assert len(known(own.path, "more")) == COUNT


def test_an_artifact_that_may_not_be_written_to_is_said(
    own: Artifact, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_catalogue = Artifact.open_catalogue

    def readable(self: Artifact) -> Catalogue:
        catalogue = load_catalogue(self)
        catalogue.writable = False
        return catalogue

    monkeypatch.setattr(Artifact, "open_catalogue", readable)
    with pytest.raises(ArtifactError, match="cannot be written to"):
        load(made, own.path)
