import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from index.artifact import CATALOGUE, ENCODER, MANIFEST, ORIGINALS, QUERIES, ArtifactError
from index.originals import Originals
from index.verify import faults, sweep
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
    from index.artifact import publish
    from tests.index.test_artifact import stage

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
