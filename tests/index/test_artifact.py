import json
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.artifact import (
    BUILT,
    CATALOGUE,
    ENCODER,
    FORMAT,
    LEARNED,
    MANIFEST,
    QUERIES,
    SUCCESSOR,
    Artifact,
    ArtifactError,
    Manifest,
    Queries,
    encoder_id,
    in_service,
    load_learned,
    load_queries,
    open_artifact,
    publish,
    save_learned,
    save_queries,
)
from index.backup import copy_artifact
from index.catalogue import Catalogue
from index.items import NewItem
from tests.index.catalogues import read_only

CLASSES = ("cat", "dög")


def held_out(n: int = 3) -> Queries:
    return Queries(np.full((n, 4), 7, np.uint8), np.arange(n) % 2, np.arange(n) + 10)


def stage(folder: Path, *, queries: Queries | None = None) -> Manifest:
    """A folder to publish, with one item."""
    folder.mkdir()
    (folder / ENCODER).write_bytes(b"weights" * 1000)
    name = encoder_id(folder / ENCODER)
    with Catalogue.create(folder / CATALOGUE, encoder_id=name, bits=32, classes=CLASSES) as catalogue:
        catalogue.add([NewItem("a.png", 0, "database", 8, 8, b"thumb", np.zeros(4, np.uint8))])
    if queries:
        save_queries(folder / QUERIES, queries)
    return Manifest(
        format=FORMAT,
        created="2024-05-06T07:08:09Z",
        encoder_id=name,
        bits=32,
        classes=CLASSES,
        config={"backbone": "conv6", "seed": 0},
        preprocessing={"mean": [0.5]},
        versions={"numpy": "2"},
        data={"name": "digits", "root": None},
        metrics={"map": 0.5},
    )


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "artifact"


@pytest.fixture
def artifact(staging: Path, target: Path) -> Artifact:
    return publish(staging, target, stage(staging, queries=held_out()))


def test_what_was_published_opens(artifact: Artifact, staging: Path, target: Path) -> None:
    assert not staging.exists()
    opened = open_artifact(target)
    assert opened == artifact
    assert sorted(os.listdir(target)) == sorted([MANIFEST, ENCODER, CATALOGUE, QUERIES])
    assert set(opened.manifest.files) == {ENCODER, QUERIES}
    assert opened.encoder_path.read_bytes() == b"weights" * 1000
    assert opened.manifest.encoder_id == encoder_id(opened.encoder_path)
    with opened.open_catalogue() as catalogue:
        assert catalogue.counts()["database"] == 1
    queries = opened.queries()
    assert queries is not None
    for got, given in zip(vars(queries).values(), vars(held_out()).values(), strict=True):
        assert got.dtype == given.dtype
        assert np.array_equal(got, given)


@pytest.mark.parametrize(
    ("noted", "labels"),
    [
        ({"training_labels": 54, "validation_labels": 6}, 60),
        ({"training_labels": 0, "validation_labels": 0}, 0),
        ({"training_labels": 54, "validation_labels": None}, None),
        ({"training_labels": 54}, None),
        ({}, None),
    ],
)
def test_what_codes_learned_from_is_known_where_it_was_noted(
    artifact: Artifact, noted: dict[str, int | None], labels: int | None
) -> None:
    assert replace(artifact.manifest, data=noted).learned_from == labels


def test_without_labels_there_are_no_queries(staging: Path, target: Path) -> None:
    publish(staging, target, stage(staging))
    assert open_artifact(target).queries() is None


def test_the_manifest_survives_json(artifact: Artifact) -> None:
    text = artifact.manifest.to_json()
    assert Manifest.from_json(text) == artifact.manifest
    assert "dög" in text


def test_a_changing_catalogue_keeps_the_artifact_valid(artifact: Artifact) -> None:
    with artifact.open_catalogue() as catalogue:
        catalogue.add([NewItem("b.png", 1, "database", 8, 8, b"thumb", np.ones(4, np.uint8))])
    with open_artifact(artifact.path).open_catalogue() as catalogue:
        assert catalogue.counts()["database"] == 2


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: (path.mkdir(), (path / "x").touch())])
def test_an_existing_target_is_refused(staging: Path, target: Path, make: Callable[[Path], object]) -> None:
    manifest = stage(staging)
    make(target)
    with pytest.raises(ArtifactError, match="exists already; choose another folder"):
        publish(staging, target, manifest)
    assert sorted(os.listdir(staging)) == [CATALOGUE, ENCODER]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"encoder_id": "0" * 16}, "encoder id 0000000000000000 is not "),
        ({"bits": 64}, "bits"),
        ({"classes": ("cat", "fox")}, "its classes is"),
        ({"classes": ("cat", "dog", "fox")}, "its classes is"),
        ({"format": 2}, "has format 2, this version reads 1"),
    ],
)
def test_what_does_not_belong_together_is_not_published(
    staging: Path, target: Path, change: dict[str, object], fault: str
) -> None:
    manifest = replace(stage(staging, queries=held_out()), **change)
    with pytest.raises(ArtifactError, match=fault):
        publish(staging, target, manifest)
    assert not target.exists()


def test_a_catalogue_of_another_encoder_is_not_published(staging: Path, target: Path) -> None:
    manifest = stage(staging)
    (staging / ENCODER).write_bytes(b"retrained")
    manifest = replace(manifest, encoder_id=encoder_id(staging / ENCODER))
    with pytest.raises(ArtifactError, match=rf"{CATALOGUE}: its encoder_id is"):
        publish(staging, target, manifest)
    assert not target.exists()


def test_numbers_that_are_none_are_not_published(staging: Path, target: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        publish(staging, target, replace(stage(staging), metrics={"map": float("nan")}))
    assert not target.exists()


@pytest.mark.parametrize("name", [ENCODER, CATALOGUE, QUERIES, MANIFEST])
def test_a_missing_file_is_named(artifact: Artifact, name: str) -> None:
    (artifact.path / name).unlink()
    refused(artifact.path, f"{artifact.path / name}: is missing")


@pytest.mark.parametrize("name", [ENCODER, QUERIES])
def test_a_changed_file_is_named(artifact: Artifact, name: str) -> None:
    file = artifact.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(artifact.path, f"{file}: is not the file the artifact was made with")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", f"{tmp_path / 'nowhere' / MANIFEST}: is missing")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", "Expecting"),
        (b"[]", "is not a JSON object"),
        (b"\xff", "decode"),
        (b'{"format": 7}', "has format 7, this version reads 1"),
        (b'{"format": 1}', "has no 'created' of JSON type str"),
    ],
)
def test_a_manifest_that_is_none(artifact: Artifact, content: bytes, fault: str) -> None:
    (artifact.path / MANIFEST).write_bytes(content)
    refused(artifact.path, fault)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"files": {}}, "lists files []"),
        ({"files": {ENCODER: "0", "../../etc/passwd": "0"}}, "lists files"),
        ({"files": {ENCODER: "0"}}, "its SHA-256 differs"),
        ({"encoder_id": "0123456789abcdef"}, "encoder id 0123456789abcdef is not "),
        ({"encoder_id": ""}, f", that of {ENCODER}"),
        ({"bits": "32"}, "has no 'bits' of JSON type int"),
    ],
)
def test_an_edited_manifest_is_refused(artifact: Artifact, change: dict[str, object], fault: str) -> None:
    file = artifact.path / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(artifact.path, fault)


def refused(path: Path, fault: str) -> None:
    with pytest.raises(ArtifactError) as error:
        open_artifact(path)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("index.artifact.sha256_of", denied)
    refused(artifact.path, f"{ENCODER}: Permission denied")


def test_another_catalogue_is_refused(artifact: Artifact) -> None:
    file = artifact.path / CATALOGUE
    file.unlink()
    Catalogue.create(file, encoder_id="ab", bits=32, classes=CLASSES).close()
    with pytest.raises(ArtifactError, match=f"{CATALOGUE}: its encoder_id is ab"):
        open_artifact(artifact.path).open_catalogue()
    file.write_bytes(b"no database" * 500)
    with pytest.raises(ArtifactError, match=f"{CATALOGUE}: file is not a database; build the index again"):
        open_artifact(artifact.path).open_catalogue()


def opening_says(artifact: Artifact) -> str:
    """What the refused catalogue is refused with."""
    with pytest.raises(ArtifactError) as error:
        open_artifact(artifact.path).open_catalogue()
    return str(error.value)


def test_a_log_left_behind_in_a_read_only_artifact_is_to_be_taken_in(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent lies in the log: building again would lose it, opening where one may write does not."""
    file, log = artifact.path / CATALOGUE, artifact.path / f"{CATALOGUE}-wal"
    before = file.read_bytes()
    with closing(sqlite3.connect(file, isolation_level=None)) as crashed:  # who never closes it
        crashed.execute("PRAGMA wal_autocheckpoint=0")
        crashed.execute("UPDATE items SET path = 'sent.png'")
        after, left = file.read_bytes(), log.read_bytes()
    assert after == before
    file.write_bytes(before)
    log.write_bytes(left)
    with monkeypatch.context() as patch:
        read_only(patch)
        says = opening_says(artifact)
    assert re.search(rf"{CATALOGUE}: was not closed, .*{log.name} .*the file and its folder writable", says)
    assert "build" not in says
    with open_artifact(artifact.path).open_catalogue() as catalogue:
        assert [item.path for item in catalogue.page(count=9)] == ["sent.png"]
    read_only(monkeypatch)
    with open_artifact(artifact.path).open_catalogue() as catalogue:
        assert [item.path for item in catalogue.page(count=9)] == ["sent.png"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SQLITE_BUSY", "busy"),
        ("SQLITE_BUSY_RECOVERY", "busy"),
        ("SQLITE_CANTOPEN", "readable"),
        ("SQLITE_READONLY_DIRECTORY", "writable"),
        ("SQLITE_IOERR_READ", "its disk"),
        ("SQLITE_FULL", "free space"),
    ],
)
def test_what_the_system_refuses_is_no_damage(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("busy or refused")
        error.sqlite_errorname = name
        raise error

    monkeypatch.setattr("index.sqlite.sqlite3.connect", refuse)
    line = opening_says(artifact)
    assert says in line
    assert "build" not in line


@pytest.mark.parametrize(("schema", "says"), [("1", "can be written to"), ("99", "use a newer version")])
def test_another_schema_is_no_damage(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, schema: str, says: str
) -> None:
    with closing(sqlite3.connect(artifact.path / CATALOGUE, isolation_level=None)) as other:
        other.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (schema,))
    read_only(monkeypatch)
    line = opening_says(artifact)
    assert says in line
    assert "build" not in line


@pytest.mark.parametrize(
    "arrays",
    [
        {"codes": held_out().codes, "labels": held_out().labels},
        {**vars(held_out()), "labels": held_out().labels[1:]},
        {**vars(held_out()), "ids": np.array([1.0, 2.0, 3.0])},
        {**vars(held_out()), "codes": held_out().codes[:, :2]},
        {**vars(held_out()), "labels": np.array([{}, {}, {}], dtype=object)},
    ],
)
def test_queries_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / QUERIES, **arrays)
    with pytest.raises(ArtifactError, match=f"{QUERIES}: no readable queries"):
        load_queries(tmp_path / QUERIES, bits=32)


@pytest.mark.parametrize("content", [b"", b"PK no archive", b"\x80\x04N."])
def test_a_file_without_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / QUERIES).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{QUERIES}: no readable queries"):
        load_queries(tmp_path / QUERIES, bits=32)


def test_what_it_learned_from_is_kept_and_copied(staging: Path, target: Path, tmp_path: Path) -> None:
    manifest, hashes = stage(staging), {"ab" * 32, "00" * 32, "cd" * 31 + "00"}
    save_learned(staging / LEARNED, [*hashes, None, "ab" * 32])
    assert publish(staging, target, manifest).learned() == hashes
    copy_artifact(target, tmp_path / "copy")
    assert open_artifact(tmp_path / "copy").learned() == hashes
    (tmp_path / "copy" / LEARNED).write_bytes(b"x")
    with pytest.raises(ArtifactError, match=f"{LEARNED}: is not the file"):
        open_artifact(tmp_path / "copy")


def test_without_known_labels_nothing_is_kept(staging: Path, target: Path) -> None:
    manifest = stage(staging)
    save_learned(staging / LEARNED, [None])
    made = publish(staging, target, manifest)
    assert LEARNED not in made.manifest.files and made.learned() == frozenset()


@pytest.mark.parametrize("array", [np.zeros((2, 31), np.uint8), np.zeros(32, np.uint8), np.zeros((1, 32))])
def test_hashes_that_are_none_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / LEARNED, array)
    with pytest.raises(ArtifactError, match=f"{LEARNED}: no readable hashes"):
        load_learned(tmp_path / LEARNED)


def test_queries_that_do_not_fit_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels have"):
        save_queries(tmp_path / QUERIES, replace(held_out(), labels=np.zeros(1, np.int64)))
    assert not (tmp_path / QUERIES).exists()


def test_a_published_artifact_knows_what_came_later(artifact: Artifact) -> None:
    with artifact.open_catalogue() as catalogue:
        assert catalogue.noted(BUILT) == str(catalogue.revision)
        catalogue.change(1, label=1)
        assert [item.id for item in catalogue.changed(int(catalogue.noted(BUILT) or 0), count=2)] == [1]


def note_successor(path: Path, name: str | None) -> None:
    with open_artifact(path).open_catalogue() as catalogue:
        catalogue.note(SUCCESSOR, name)


def test_an_artifact_leads_to_those_that_took_its_place(tmp_path: Path) -> None:
    first, second, third = (
        publish(tmp_path / "staging", tmp_path / name, stage(tmp_path / "staging")).path for name in "abc"
    )
    assert in_service(first) == first
    note_successor(first, "b")
    note_successor(second, "c")
    link = tmp_path / "current"
    link.symlink_to(first)
    assert in_service(first) == in_service(link) == in_service(third) == third
    note_successor(third, "a")
    with pytest.raises(ArtifactError, match="circle"):
        in_service(first)
    for damaged in ("../b", "", "b\0"):
        note_successor(third, damaged)
        with pytest.raises(ArtifactError, match=r"c/catalogue\.sqlite: is damaged: its successor"):
            in_service(first)
    note_successor(third, "d")
    with pytest.raises(ArtifactError, match="/d: took the place of c and is missing; put it back"):
        in_service(first)
    assert in_service(tmp_path / "nothing") == tmp_path / "nothing"
