import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from index.artifact import (
    CATALOGUE,
    ENCODER,
    MANIFEST,
    ORIGINALS,
    QUERIES,
    ArtifactError,
    in_service,
    publish,
)
from index.catalogue import Catalogue
from index.items import Identity
from index.originals import Originals
from index.verify import faults, sweep
from tests.index.catalogues import read_only
from tests.index.test_artifact import stage
from tests.index.test_backup import hash_of, send
from tests.samples import build_artifact


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound artifact with images that were sent."""
    path = build_artifact(tmp_path).path
    with closing(sqlite3.connect(path / CATALOGUE)) as connection:
        (bits,) = connection.execute("SELECT value FROM meta WHERE key = 'bits'").fetchone()
    assert bits == "256"
    return path


def found(path: Path) -> list[str]:
    return [str(fault) for fault in faults(path)]


def keep(path: Path, content: bytes) -> Path:
    originals = Originals(path / ORIGINALS)
    originals.keep(hash_of(content), content)
    return originals.path(hash_of(content))


def edit(statement: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with closing(sqlite3.connect(path / CATALOGUE)) as connection, connection:
            assert connection.execute(statement).rowcount

    return apply


def test_a_sound_artifact_has_no_faults(path: Path) -> None:
    assert found(path) == []
    assert sweep(path) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: (path / ENCODER).unlink(), "encoder.safetensors: is missing"),
        (lambda path: (path / ENCODER).write_bytes(b"x"), "encoder.safetensors: is not the file"),
        (lambda path: (path / QUERIES).write_bytes(b"x"), "queries.npz: is not the file"),
        (lambda path: (path / MANIFEST).write_text("{"), "manifest.json: Expecting property name"),
        (lambda path: (path / CATALOGUE).unlink(), "catalogue.sqlite: is missing"),
        (
            lambda path: (path / CATALOGUE).write_bytes(b"x" * 5000),
            "catalogue.sqlite: file is not a database",
        ),
        (edit("UPDATE codes SET code = zeroblob(32) WHERE item_id = 1"), "do not match their digest"),
        (edit("DELETE FROM thumbnails WHERE item_id = 3"), "catalogue.sqlite: image 3 has no thumbnail"),
        (edit("UPDATE thumbnails SET image = x'00'"), "image 1 has a thumbnail that is no WebP"),
        (edit("INSERT INTO thumbnails VALUES (999, x'00')"), "row 999 of thumbnails names no row of items"),
        (edit("INSERT INTO codes SELECT 64, code FROM codes LIMIT 1"), "do not match their digest"),
        (
            edit("UPDATE items SET split = 'query', label = 0 WHERE id = 5"),
            "image 5 is held out and has a code",
        ),
        (edit("UPDATE items SET label = 1 WHERE id = 64"), "queries.npz: query 64 has another label there"),
        (edit("DELETE FROM items WHERE id = 64"), "queries.npz: query 64 is none of the catalogue's"),
        (
            edit("INSERT INTO items (path, split, width, height) VALUES ('new', 'query', 1, 1)"),
            "queries.npz: query 76 is held out in the catalogue and not here",
        ),
        (
            edit("INSERT INTO items (path, split, width, height) VALUES ('new', 'database', 1, 1)"),
            "catalogue.sqlite: image 76 has no code",
        ),
    ],
)
def test_each_fault_is_named(path: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(path)
    assert words in "\n".join(found(path))


def test_an_embedding_that_is_gone_is_named_and_none_at_all_is_no_fault(path: Path) -> None:
    with Catalogue.open(path / CATALOGUE) as catalogue:
        ids = [item.id for item in catalogue.every_item()]
        catalogue.embed((id_, np.ones(4, np.float16)) for id_ in ids)
    assert found(path) == []
    edit("DELETE FROM embeddings WHERE item_id IN (5, 64)")(path)
    assert [line.partition(": ")[2] for line in found(path)] == [
        "2 images have no embedding, such as image 5"
    ]
    edit("DELETE FROM embeddings")(path)
    assert found(path) == []


LONGER = "image = CAST(image || x'00' AS BLOB)"


@pytest.mark.long
def test_no_flipped_byte_goes_unnoticed_and_none_ends_it(tmp_path: Path) -> None:
    """Of all bytes that are not 0, one of 23."""
    path = publish(tmp_path / "staging", tmp_path / "artifact", stage(tmp_path / "staging")).path
    for content in (b"one", b"two", b"three"):
        send(path, content)
    with Catalogue.open(path / CATALOGUE) as catalogue:
        catalogue.change(2, label="new", metadata={"camera": "left"})
        catalogue.remove([1, 3])
        catalogue.bury([Identity(b"x" * 32, "path/gone.png", "folder")])
    assert [fault.what for fault in faults(path) if not fault.orphan] == []
    sound, stored, wrong = (path / CATALOGUE).read_bytes(), contents(path), list[str]()
    for at in [place for place, byte in enumerate(sound) if byte][::23]:
        flipped = bytearray(sound)
        flipped[at] ^= (255, 1, 32)[at % 3]
        (path / CATALOGUE).write_bytes(flipped)
        try:
            named = [fault.what for fault in faults(path) if not fault.orphan]
        except Exception as error:
            wrong.append(f"byte {at}: ends in {error!r}")
        else:
            if not named and contents(path) != stored:
                wrong.append(f"byte {at}: is not noticed")
        for log in path.glob(f"{CATALOGUE}-*"):  # of the file that is to be replaced
            log.unlink()
    assert wrong == []


def contents(path: Path) -> list[object] | None:
    """All rows of all tables; None where they cannot be read."""
    tables = ("meta", "classes", "items", "codes", "thumbnails", "removed")
    address = f"file:{path / CATALOGUE}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True)) as connection, suppress(sqlite3.Error, ValueError):
        connection.text_factory = bytes
        return [connection.execute(f"SELECT rowid, * FROM {table}").fetchall() for table in tables]
    return None


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (f"UPDATE thumbnails SET {LONGER} WHERE item_id = 7", "the thumbnail of image 7"),
        ("UPDATE items SET path = 'other' WHERE id = 7", "what is known of image 7"),
        ("UPDATE items SET width = width + 1 WHERE id = 64", "what is known of image 64"),
        ("UPDATE items SET metadata = '{' WHERE id = 7", "what is known of image 7"),
        ("UPDATE items SET path = CAST(x'ff' AS TEXT) WHERE id = 7", "what is known of image 7"),
        ("UPDATE meta SET value = '9' WHERE key = 'built'", "what it notes of itself"),
        ("UPDATE meta SET value = x'ff' WHERE key = 'built'", "what it notes of itself"),
        ("INSERT INTO meta VALUES ('taken over', '3')", "what it notes of itself"),
    ],
)
def test_what_does_not_match_its_checksum_is_named(path: Path, statement: str, words: str) -> None:
    edit(statement)(path)
    assert f"{path / CATALOGUE}: {words} does not match its checksum" in found(path)


def test_checksums_follow_every_change(tmp_path: Path) -> None:
    path = publish(tmp_path / "staging", tmp_path / "artifact", stage(tmp_path / "staging")).path
    with Catalogue.open(path / CATALOGUE) as catalogue:
        ids = [send(path, content) for content in (b"one", b"two")]
        catalogue.change(ids[0], label="new", metadata={"is": "new"})
        catalogue.change(1, label="new")
        catalogue.remove([ids[1], 1])
        catalogue.bury([Identity(None, "x", None), Identity(b"y" * 32, "y", "")])
        catalogue.note("predecessor", "another")
    assert [fault.what for fault in faults(path) if not fault.orphan] == []


def test_an_artifact_of_a_version_without_checksums_gets_them(path: Path) -> None:
    for statement in ("DELETE FROM checksums", "UPDATE meta SET value = '3' WHERE key = 'schema'"):
        edit(statement)(path)
    assert found(path) == []
    edit(f"UPDATE thumbnails SET {LONGER} WHERE item_id = 7")(path)
    assert found(path) == [f"{path / CATALOGUE}: the thumbnail of image 7 does not match its checksum"]


def test_one_without_checksums_is_read_as_it_is_where_nothing_can_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for statement in ("DROP TABLE checksums", "UPDATE meta SET value = '3' WHERE key = 'schema'"):
        with closing(sqlite3.connect(path / CATALOGUE)) as connection, connection:
            connection.execute(statement)
            connection.execute("DELETE FROM meta WHERE key = 'checksum'")
    before = (path / CATALOGUE).read_bytes()
    read_only(monkeypatch)
    assert found(path) == []
    assert (path / CATALOGUE).read_bytes() == before


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("schema", "is damaged (its note 'schema' is no text)"),
        ("successor", "what it notes of itself does not match its checksum"),
    ],
)
def test_notes_that_are_no_text_are_named(path: Path, key: str, words: str) -> None:
    edit(f"INSERT OR REPLACE INTO meta VALUES ('{key}', x'00ff')")(path)
    assert words in "\n".join(found(path))
    assert in_service(path) == path.resolve()


def test_nothing_is_swept_that_a_damaged_catalogue_may_need(path: Path) -> None:
    kept = keep(path, b"content")
    edit("UPDATE items SET sha256 = x'00' WHERE id = 7")(path)
    with pytest.raises(ArtifactError, match=r"image 7 .*; nothing was removed"):
        sweep(path)
    assert kept.exists()


def test_copies_that_were_not_finished_are_swept_and_those_under_way_are_not(path: Path) -> None:
    from index.staging import PREFIX, staging

    left = path.parent / f"{PREFIX}abandoned"
    (left / "copy").mkdir(parents=True)
    (left / "copy" / CATALOGUE).write_bytes(b"half")
    others = path.parent / ".of-somebody-else"
    others.mkdir()
    with staging(path.parent / "copy") as under_way:
        under_way.mkdir()
        assert found(path) == [f"{left}: is a copy that was not finished"]
        assert sweep(path) == [left]
        assert under_way.exists() and others.exists() and not left.exists()
    assert found(path) == []


def test_all_faults_are_named_together(path: Path) -> None:
    edit("DELETE FROM thumbnails WHERE item_id IN (3, 4)")(path)
    (path / QUERIES).write_bytes(b"x")
    lines = found(path)
    assert len(lines) == 3
    for words in ("queries.npz", "image 3", "image 4"):
        assert words in "\n".join(lines)


def test_kept_files_are_read(path: Path) -> None:
    damaged = keep(path, b"content")
    damaged.write_bytes(b"other content")
    assert f"{damaged}: is damaged: its SHA-256 is not its name" in found(path)


def test_what_no_image_needs_is_swept_and_nothing_else(tmp_path: Path) -> None:
    path = publish(tmp_path / "staging", tmp_path / "artifact", stage(tmp_path / "staging")).path
    send(path, b"needed")
    orphan = keep(path, b"orphan")
    stray = orphan.parent / ".tmp123"
    stray.write_bytes(b"half")
    named = [fault for fault in faults(path) if fault.orphan]
    assert {(fault.path, fault.what) for fault in named} == {
        (orphan, "belongs to no image"),
        (stray, "was not written to its end"),
    }
    assert set(sweep(path)) == {orphan, stray}
    assert not orphan.exists() and not stray.exists()
    assert Originals(path / ORIGINALS).path(hash_of(b"needed")).exists()
    assert sweep(path) == []


def test_a_folder_that_is_no_artifact(tmp_path: Path) -> None:
    assert found(tmp_path) == [f"{tmp_path / MANIFEST}: is missing; name a folder that hebbsearch build made"]
    with pytest.raises(ArtifactError, match="is missing"):
        sweep(tmp_path)
