"""Folders, tars and object storage list and give the same images."""

import io
import os
import sys
import tarfile
from pathlib import Path

import fsspec
import pytest

from index import stores
from index.stores import (
    Folder,
    Listed,
    Store,
    Unreadable,
    digest_of,
    divided,
    images_of,
    labels_by_folder,
    store_of,
)
from index.walking import DataError


def tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def told(store: Store, *, labels: bool = True) -> list[tuple[str, str | None, str, str | None]]:
    """Of each image its path, label, content or why there is none, and what is wrong with its label."""
    files = store.listed()
    by_folder = labels_by_folder(files) if labels else None
    found = [image for part in divided(files, 2) for image in images_of(store, part, by_folder)]
    answers = list[tuple[str, str | None, str, str | None]]()
    for each in found:
        try:
            content = each.read().decode()
        except Unreadable as error:
            content = f"! {error}"
        answers.append((each.path, each.label, content, each.fault))
    return answers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name in ("b/2.png", "a/1.png", "a/ä/3.png", "0.png", ".hidden.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_a_folder_has_its_files_in_order_with_their_labels(folder: Path) -> None:
    assert told(store_of(str(folder))) == [
        ("0.png", None, "0.png", None),
        ("a/1.png", "a", "a/1.png", None),
        ("a/ä/3.png", "a", "a/ä/3.png", None),
        ("b/2.png", "b", "b/2.png", None),
    ]
    assert {label for _, label, _, _ in told(store_of(str(folder)), labels=False)} == {None}
    assert store_of(str(folder)).name == "pictures"


def test_train_and_test_are_no_classes(tmp_path: Path) -> None:
    files = [Listed(path) for path in ("test/cat/1.png", "Train/dog/2.png", "train/3.png", "x.png")]
    assert list(labels_by_folder(files).values()) == ["cat", "dog", None, None]
    assert list(labels_by_folder(files[1:3]).values()) == ["Train", "train"]


def test_a_folder_whose_name_is_no_label_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"label .*; rename that folder, or leave labels out with --no-labels"
    ):
        labels_by_folder([Listed("a\nb/1.png")])


def test_what_cannot_be_read_is_in_the_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("nowhere.png")
    store = store_of(str(folder))
    part = store.listed()
    (folder / "b" / "2.png").unlink()
    monkeypatch.setattr(stores, "LARGEST", 7)
    reasons = dict[str, str]()
    for image in images_of(store, part, {}):
        try:
            image.read()
        except Unreadable as error:
            reasons[image.path] = str(error)
    assert reasons == {
        "a/ä/3.png": "it has more than 7 bytes",
        "b/2.png": "No such file or directory",
        "link.png": "the link leads nowhere",
        "pipe.png": "not a regular file",
    }


def test_a_disk_that_fails_is_no_fault_of_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Folder, "open", fails)
    store = store_of(str(folder))
    with pytest.raises(OSError, match="Input/output error"):
        next(images_of(store, store.listed(), {})).read()


SAMPLES = [
    ("./a/0001.jpg", b"one"),
    ("./a/0001.cls", b"7\n"),
    ("a/0002.json", b'{"label": "dog", "width": 3}'),
    ("a/0002.seg.PNG", b"two"),
    ("a/0002.jpg", b"three"),
    ("__meta__/x.jpg", b"of the tar"),
    ("README", b"no sample"),
    ("._0003.png", b"of a Mac"),
    ("b/0003.webp", b"four"),
    ("b/0003.txt", b"two\nlines"),
    ("b/0003.npy", b"numbers"),
    ("b/0004.txt", b"no image"),
    ("b/0005.png", b"five"),
    ("b/0005.json", b'{"caption": "none"}'),
    ("b/0006.png", b"six"),
    ("b/0006.json", b"{"),
]


def test_a_tar_has_samples_as_webdataset_names_them(tmp_path: Path) -> None:
    tar(tmp_path / "x" / "000.tar", SAMPLES)
    found = told(store_of(str(tmp_path / "x")))
    assert [each[:3] for each in found] == [
        ("000.tar/a/0001.jpg", "7", "one"),
        ("000.tar/a/0002.seg.PNG", "dog", "two"),
        ("000.tar/a/0002.jpg", "dog", "three"),
        ("000.tar/b/0003.webp", None, "four"),
        ("000.tar/b/0004", None, "! there is no image of this name, only txt"),
        ("000.tar/b/0005.png", None, "five"),
        ("000.tar/b/0006.png", None, "six"),
    ]
    faults = {path: fault for path, _, _, fault in found if fault}
    assert faults.keys() == {"000.tar/b/0003.webp", "000.tar/b/0006.png"}
    assert (
        "there is a line break" in faults["000.tar/b/0003.webp"] or "control" in faults["000.tar/b/0003.webp"]
    )
    assert all(fault.startswith("it is there without a label: ") for fault in faults.values())
    unlabelled = told(store_of(str(tmp_path / "x")), labels=False)
    assert [each[1::2] for each in unlabelled] == [(None, None)] * len(found)


@pytest.mark.parametrize(("name", "mode"), [("1.tar", "w"), ("1.tgz", "w:gz"), ("1.tar.gz", "w:gz")])
def test_one_tar_alone_packed_or_not(tmp_path: Path, name: str, mode: str) -> None:
    path = tar(tmp_path / name, SAMPLES[:2], mode)
    (tmp_path / "other.png").write_text("not asked for")
    store = store_of(str(path))
    assert told(store) == [(f"{name}/a/0001.jpg", "7", "one", None)]
    assert store.name == name


@pytest.mark.parametrize("where", ["header", "content", "packed"])
def test_a_damaged_tar_is_a_line_of_the_list_and_not_the_end(tmp_path: Path, where: str) -> None:
    packed = where == "packed"
    name, mode = ("0.tgz", "w:gz") if packed else ("0.tar", "w")
    path = tar(tmp_path / "x" / name, [(f"{n}.png", bytes([65 + n]) * 600) for n in range(3)], mode)
    content = bytearray(path.read_bytes())
    if where == "header":
        content[512 + 1024 + 1] ^= 255
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2 if packed else 512 + 1024 + 512 + 100])
    tar(tmp_path / "x" / "1.tar", [("9.png", b"whole")])
    *before, damaged, last = told(store_of(str(tmp_path / "x")))
    assert damaged[0] == name and "the tar is damaged or not whole" in damaged[2]
    assert last == ("1.tar/9.png", None, "whole", None)
    assert len(before) == (0 if packed else 1)


def test_a_tar_is_a_part_and_images_are_counted(tmp_path: Path) -> None:
    files = [Listed("1.tar", 9), *(Listed(f"{n}.png", n) for n in range(5)), Listed("2.TAR", 9)]
    assert [[file.path for file in part] for part in divided(files, 2)] == [
        ["0.png", "1.png"], ["2.png", "3.png"], ["4.png"], ["1.tar"], ["2.TAR"],
    ]  # fmt: skip
    assert divided([], 2) == []


def test_a_digest_names_files_by_paths_and_sizes() -> None:
    files = [Listed("a\udcff", 1), Listed("b", 2)]
    others = [[], files[:1], files[::-1], [*files[:1], Listed("b", 3)], [*files[:1], Listed("b", 2, "gone")]]
    digests = {digest_of(each) for each in (files, *others)} | {digest_of(files, "more")}
    assert len(digests) == 7
    assert digest_of(files) == digest_of(list(files))


def test_what_is_neither_folder_nor_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("x")
    for name in ("a.png", "nothing"):
        with pytest.raises(DataError, match="is neither a folder nor a tar"):
            store_of(str(tmp_path / name))


def test_a_folder_knows_what_lies_in_it(folder: Path, tmp_path: Path) -> None:
    store = Folder(folder)
    assert store.holds(folder / "out") and store.holds(folder / "a" / ".." / "out") and store.holds(folder)
    assert not store.holds(tmp_path / "out")


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_object_storage_gives_what_a_folder_gives(folder: Path, kind: str, tmp_path: Path) -> None:
    tar(folder / "c" / "0.tar", SAMPLES)
    address = f"file://{folder}"
    if kind == "memory":
        address = f"memory://{tmp_path.name}/pictures"
        files = fsspec.filesystem("memory")
        for path in folder.rglob("*"):
            if path.is_file():
                files.pipe_file(f"{tmp_path.name}/pictures/{path.relative_to(folder)}", path.read_bytes())
    store = store_of(address)
    assert told(store) == told(store_of(str(folder)))
    assert [*map(str, store.listed())] == [*map(str, store_of(str(folder)).listed())]
    assert store.name == "pictures"
    (only,) = told(store_of(f"{address}/a/1.png"))
    assert only == ("1.png", None, "a/1.png", None)


def test_a_network_that_fails_is_no_fault_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise RuntimeError("the connection was lost")

    files = fsspec.filesystem("memory")
    files.pipe_file(f"{tmp_path.name}/1.png", b"one")
    files.pipe_file(f"{tmp_path.name}/2.tar", b"two")
    store = store_of(f"memory://{tmp_path.name}")
    image, packed = store.listed()
    monkeypatch.setattr(type(files), "_open", lambda *_, **__: Failing())
    with pytest.raises(OSError, match="RuntimeError: the connection was lost"):
        next(images_of(store, [image], {})).read()
    with pytest.raises(OSError, match="RuntimeError: the connection was lost"):
        list(images_of(store, [packed], {}))


def test_what_object_storage_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"nonsense://x: .*nonsense"):
        store_of("nonsense://x")
    assert store_of("memory://nothing-here").listed() == []
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(DataError, match=r"s3://b/x: fsspec is needed .*'hebbsearch\[shards\]'"):
        store_of("s3://b/x")
