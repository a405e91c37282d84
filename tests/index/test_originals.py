"""Kept files: whole or not there, each once."""

from hashlib import sha256
from pathlib import Path
from threading import Thread

import pytest

from index.originals import Originals


def test_a_file_is_kept_once_and_forgotten(tmp_path: Path) -> None:
    originals, content = Originals(tmp_path / "originals"), b"some bytes"
    name = sha256(content).digest()
    assert not originals.path(name).exists()
    assert originals.keep(name, content)
    before = originals.path(name).stat()
    assert not originals.keep(name, content)
    assert originals.path(name).read_bytes() == content
    assert originals.path(name).stat().st_ino == before.st_ino
    assert originals.path(name) == tmp_path / "originals" / name.hex()[:2] / name.hex()
    originals.forget(name)
    originals.forget(name)
    assert not originals.path(name).exists()


def test_a_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = Originals(tmp_path / "originals")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("index.originals.sync", full)
    with pytest.raises(OSError, match="No space"):
        originals.keep(b"\1" * 32, b"content")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_it_is_on_the_disk_when_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it gets its name, then every folder that may have got a new entry."""
    synced: list[str] = []
    monkeypatch.setattr(
        "index.originals.sync", lambda path: synced.append(path.relative_to(tmp_path).as_posix())
    )
    Originals(tmp_path / "originals").keep(b"\1" * 32, b"content")
    temporary, *folders = synced
    assert temporary.startswith("originals/01/.")
    assert folders == ["originals/01", "originals", "."]


def test_one_thread_or_process_at_a_time(tmp_path: Path) -> None:
    one, other = (Originals(tmp_path / "originals") for _ in range(2))  # as in two processes
    entered: list[bool] = []

    def enter() -> None:
        with other.alone(make=True):
            entered.append(True)

    with one.alone(make=True):
        thread = Thread(target=enter)
        thread.start()
        thread.join(0.2)
        assert not entered
    thread.join(10)
    assert entered
    with Originals(tmp_path / "none").alone():  # nothing to wait for, nothing is made
        assert not (tmp_path / "none").exists()
