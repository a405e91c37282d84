"""The one walk through a folder: what is in it, in what order, and links that lead anywhere."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from index.walking import DataError, walk


def put(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(root: Path, without: Path | None = None) -> list[str]:
    return [path.as_posix() for path in walk(root, without).files]


def test_files_come_in_the_order_of_their_parts(tmp_path: Path) -> None:
    for name in ("b.png", "a/2.png", "a-b/1.png", "a/deep/1.png", "Z.png", "a/10.png", "é.png"):
        put(tmp_path / name)
    assert names(tmp_path) == ["Z.png", "a/10.png", "a/2.png", "a/deep/1.png", "a-b/1.png", "b.png", "é.png"]


@pytest.mark.parametrize("backwards", [False, True])
def test_the_real_path_wins_whatever_the_order_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    put(tmp_path / "dogs" / "1.png")
    for alias in ("cats", "zebras"):
        (tmp_path / alias).symlink_to("dogs")
    for alias in ("0.png", "dogs/0.png", "dogs/2.png"):
        (tmp_path / alias).symlink_to(tmp_path / "dogs" / "1.png")
    scan = os.scandir

    @contextmanager
    def scandir(path: str) -> Iterator[list[os.DirEntry[str]]]:
        with scan(path) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=backwards)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(tmp_path) == ["dogs/1.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("x.png", ".x.png", ".git/x.png", "a/.b/x.png", "a/.DS_Store", "a/x.y.png"):
        put(tmp_path / name)
    assert names(tmp_path) == ["a/x.y.png", "x.png"]


def test_a_hidden_root_is_walked(tmp_path: Path) -> None:
    put(tmp_path / ".album" / "x.png")
    assert names(tmp_path / ".album") == ["x.png"]


def test_nothing_is_in_empty_folders(tmp_path: Path) -> None:
    assert names(tmp_path) == []
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert names(tmp_path) == []


def test_one_file_is_left_out_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = put(tmp_path / "all" / "labels.csv")
    put(tmp_path / "all" / "sub" / "labels.csv")
    elsewhere = put(tmp_path / "elsewhere.csv")
    (tmp_path / "link.csv").symlink_to(labels)
    root = tmp_path / "all"
    monkeypatch.chdir(root)
    for without in (labels, Path("labels.csv"), root / "sub" / ".." / "labels.csv", tmp_path / "link.csv"):
        assert names(root, without) == ["sub/labels.csv"]
    assert names(root, elsewhere) == names(root, tmp_path / "gone.csv") == ["labels.csv", "sub/labels.csv"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "all"
    put(root / "dog" / "1.png")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "again").symlink_to(root)  # leads back to where the walk began
    (root / "dog" / "itself").symlink_to(root / "dog")
    (root / "cats").symlink_to(tmp_path / "elsewhere")  # the same folder once more
    (root / "1.png").symlink_to(root / "dog" / "1.png")  # of a file that is there already
    assert names(root) == ["cat/1.png", "dog/1.png"]


def test_links_to_files_elsewhere_are_files_each_once(tmp_path: Path) -> None:
    one = put(tmp_path / "elsewhere" / "1.png")
    hidden = put(tmp_path / "all" / ".hidden.png")
    put(tmp_path / "all" / ".git" / "2.png")
    root = tmp_path / "all"
    for name, target in (
        ("b.png", one),
        ("a.png", one),
        ("c.png", hidden),
        ("d.png", root / ".git" / "2.png"),
    ):
        (root / name).symlink_to(target)
    (root / "hard.png").hardlink_to(one)  # a file of its own: who made it wanted two
    assert names(root) == ["a.png", "c.png", "d.png", "hard.png"]


def test_a_folder_that_a_link_leads_into_is_there_once(tmp_path: Path) -> None:
    put(tmp_path / "disk" / "deep" / "1.png")
    put(tmp_path / "disk" / "2.png")
    root = tmp_path / "all"
    root.mkdir()
    (root / "b").symlink_to(tmp_path / "disk")
    (root / "c").symlink_to(tmp_path / "disk" / "2.png")
    (root / "a").symlink_to(tmp_path / "disk" / "deep")
    assert names(root) == ["a/1.png", "b/2.png"]


def test_two_folders_outside_that_lead_to_each_other_end(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        put(tmp_path / one / f"{one}.png")
        (tmp_path / one / "next").symlink_to(tmp_path / other)
    assert names(tmp_path / "a") == ["a.png", "next/b.png"]


def test_what_cannot_be_opened_is_listed_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # whoever opened it would wait for ever
    put(tmp_path / "x.png").chmod(0)
    assert names(tmp_path) == ["pipe.png", "x.png"]


def test_links_that_lead_nowhere_are_named_and_hide_what_was_there(tmp_path: Path) -> None:
    put(tmp_path / "x.png")
    (tmp_path / "album").symlink_to(tmp_path / "disk that is away")
    (tmp_path / "self").symlink_to("self")
    walked = walk(tmp_path)
    assert walked.files == [Path("x.png")]
    assert walked.unreadable == {
        Path("album"): "the link leads nowhere",
        Path("self"): "the link cannot be followed (Too many levels of symbolic links)",
    }


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))).touch()
    assert [os.fsencode(path) for path in walk(tmp_path).files] == [b"\xff.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cats", "dogs"):
        put(tmp_path / name / "1.png")
    scan = os.scandir

    def scandir(path: str) -> object:  # permissions do not hold for root
        if str(path).endswith("dogs"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    walked = walk(tmp_path)
    assert walked.files == [Path("cats/1.png")]
    assert walked.unreadable == {Path("dogs"): "the folder cannot be read (Permission denied)"}


def test_a_root_that_is_not_there_or_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: the folder cannot be read \(No such file"):
        walk(tmp_path / "gone")
    with pytest.raises(DataError, match=r"x\.png: the folder cannot be read \(Not a directory"):
        walk(put(tmp_path / "x.png"))
