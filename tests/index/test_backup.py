import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from index.artifact import ORIGINALS, SUCCESSOR, ArtifactError, publish
from index.backup import copy_artifact
from index.catalogue import Catalogue
from index.items import File, NewItem
from index.originals import Originals
from tests.index.test_artifact import held_out, stage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An artifact with one item, and two more that were sent."""
    artifact = publish(
        tmp_path / "staging", tmp_path / "artifact", stage(tmp_path / "staging", queries=held_out())
    )
    for content in (b"one", b"two"):
        send(artifact.path, content)
    return artifact.path


def hash_of(content: bytes) -> bytes:
    return sha256(content).digest()


def send(path: Path, content: bytes) -> int:
    originals = Originals(path / ORIGINALS)
    with Catalogue.open(path / "catalogue.sqlite") as catalogue, originals.alone(make=True):
        originals.keep(hash_of(content), content)
        item = NewItem("x.png", 0, "database", 8, 8, b"RIFF....WEBP", np.ones(4, np.uint8))
        file = File(hash_of(content), folder="", size=len(content))
        ((id_, _),) = catalogue.add_unknown([NewItem(**{**vars(item), "file": file})])
        return id_


def files(path: Path) -> list[str]:
    kept = Originals(path / ORIGINALS)
    return sorted(kept.path(name).read_bytes().decode() for name in kept.hashes())


def test_a_copy_is_the_same_and_apart(path: Path, tmp_path: Path) -> None:
    with Catalogue.open(path / "catalogue.sqlite") as catalogue:
        catalogue.note(SUCCESSOR, "another")
        copy = copy_artifact(path, tmp_path / "copy")
        catalogue.note(SUCCESSOR, None)
        send(path, b"three")
        catalogue.remove([1])
        with copy.open_catalogue() as copied:
            assert copied.counts()["database"] == 3
            assert copied.noted(SUCCESSOR) is None
            assert copied.noted("built") == catalogue.noted("built")
    assert files(copy.path) == ["one", "two"]
    assert files(path) == ["one", "three", "two"]
    assert copy.manifest.encoder_id in (copy.path / "manifest.json").read_text()
    shutil.rmtree(path)
    assert files(copy.path) == ["one", "two"]
    assert sorted(os.listdir(tmp_path)) == ["copy"]


def test_files_that_no_item_needs_stay_behind(path: Path, tmp_path: Path) -> None:
    Originals(path / ORIGINALS).keep(hash_of(b"orphan"), b"orphan")
    assert files(copy_artifact(path, tmp_path / "copy").path) == ["one", "two"]


def test_where_links_cannot_be_made_files_are_copied(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refused)
    assert files(copy_artifact(path, tmp_path / "copy").path) == ["one", "two"]


def test_copies_of_what_changes_are_whole(path: Path, tmp_path: Path) -> None:
    """Each image of a copy has its file, and each file its image, whenever it was made."""
    done = threading.Event()

    def changing() -> None:
        number = 0
        while not done.is_set():
            content = b"%d" % number
            id_ = send(path, content)
            if number % 2:
                originals = Originals(path / ORIGINALS)
                with Catalogue.open(path / "catalogue.sqlite") as catalogue:
                    catalogue.remove([id_])
                    with originals.alone():
                        originals.forget(hash_of(content))
            number += 1

    thread = threading.Thread(target=changing)
    thread.start()
    try:
        copies = [copy_artifact(path, tmp_path / f"copy-{number}") for number in range(5)]
    finally:
        done.set()
        thread.join()
    for copy in copies:
        with copy.open_catalogue() as catalogue:
            assert set(Originals(copy.path / ORIGINALS).hashes()) == catalogue.hashes()
    assert len(files(copies[-1].path)) > 2


def test_what_cannot_be_copied_leaves_nothing(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="copy: exists already; choose another name"):
        (tmp_path / "copy").mkdir()
        copy_artifact(path, tmp_path / "copy")
    (path / "encoder.safetensors").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="is not the file the artifact was made with"):
        copy_artifact(path, tmp_path / "second")
    with pytest.raises(ArtifactError, match="nowhere/third: cannot be made"):
        copy_artifact(path, tmp_path / "nowhere" / "third")
    assert sorted(os.listdir(tmp_path)) == ["artifact", "copy"]


FIXED = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && echo fixed && shift && exec "$@"'


@pytest.mark.process
@pytest.mark.parametrize("fixed", ["artifact", "."])
def test_what_lies_on_a_file_system_that_takes_nothing_is_copied(
    path: Path, tmp_path: Path, fixed: str
) -> None:
    """As a mount of the artifact, or of the folder around it, that may only be read."""
    place = tmp_path if fixed == "artifact" else tmp_path.parent / f"{tmp_path.name}-elsewhere"
    place.mkdir(exist_ok=True)
    (path / ORIGINALS / ".lock").touch()
    code = "import sys; from pathlib import Path; from index.backup import copy_artifact"
    code += "; copy_artifact(*map(Path, sys.argv[1:]))"
    copying = [sys.executable, "-c", code, str(path), str(place / "copy")]
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", FIXED, "sh", str(tmp_path / fixed), *copying],
        capture_output=True,
        text=True,
    )
    if not done.stdout:
        pytest.skip(f"no file system can be mounted here ({done.stderr.strip()})")
    assert done.returncode == 0, done.stderr
    assert files(place / "copy") == ["one", "two"]
    send(place / "copy", b"three")
    assert files(place / "copy") == ["one", "three", "two"]
    assert os.listdir(place).count("copy") == 1 and not [name for name in os.listdir(place) if name[0] == "."]


def test_a_copy_of_what_nobody_may_write_to_is_written_to(path: Path, tmp_path: Path) -> None:
    path.chmod(0o555)
    copy = copy_artifact(path, tmp_path / "copy").path
    path.chmod(0o755)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o755


def test_where_nothing_can_be_written_beside_it_another_way_is_named(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    with pytest.raises(ArtifactError, match=r"Read-only file system.*; copy its folder to another place"):
        copy_artifact(path, tmp_path / "copy")
