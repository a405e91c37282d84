"""The one walk through a folder: what is in it, in what order, and links that lead anywhere."""

import os
from pathlib import Path

import pytest

from index.walking import DataError, files_in


def put(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(root: Path, without: Path | None = None) -> list[str]:
    return [path.as_posix() for path in files_in(root, without)]


def test_files_come_in_the_order_of_their_parts(tmp_path: Path) -> None:
    for name in ("b.png", "a/2.png", "a-b/1.png", "a/deep/1.png", "Z.png", "a/10.png", "é.png"):
        put(tmp_path / name)
    assert names(tmp_path) == ["Z.png", "a/10.png", "a/2.png", "a/deep/1.png", "a-b/1.png", "b.png", "é.png"]


@pytest.mark.parametrize("backwards", [False, True])
def test_the_order_of_the_file_system_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    put(tmp_path / "dogs" / "1.png")
    (tmp_path / "cats").symlink_to("dogs")
    scan = os.scandir

    class Listing(list[os.DirEntry[str]]):
        """Entries in an order of our own, with what `os.walk` needs of a listing."""

        def __enter__(self) -> "Listing":
            return self

        def __exit__(self, *_: object) -> None: ...

        def close(self) -> None: ...

        def __next__(self) -> os.DirEntry[str]:
            if not self:
                raise StopIteration
            return self.pop(0)

    def scandir(path: str) -> Listing:
        with scan(path) as entries:
            return Listing(sorted(entries, key=lambda entry: entry.name, reverse=backwards))

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(tmp_path) == ["cats/1.png"]  # one folder, found by two names: the first of them


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
    (root / "1.png").symlink_to(root / "dog" / "1.png")  # of a file: another name, another file
    assert names(root) == ["1.png", "cat/1.png", "dog/1.png"]


def test_two_folders_outside_that_lead_to_each_other_end(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        put(tmp_path / one / f"{one}.png")
        (tmp_path / one / "next").symlink_to(tmp_path / other)
    assert names(tmp_path / "a") == ["a.png", "next/b.png"]


def test_what_cannot_be_opened_is_listed_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "broken.png").symlink_to("gone.png")
    (tmp_path / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "pipe.png")  # whoever opened it would wait for ever
    put(tmp_path / "x.png").chmod(0)
    assert names(tmp_path) == ["broken.png", "pipe.png", "self.png", "x.png"]


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))).touch()
    assert [os.fsencode(path) for path in files_in(tmp_path)] == [b"\xff.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cats", "dogs"):
        put(tmp_path / name / "1.png")
    scan = os.scandir

    def scandir(path: str) -> object:  # permissions do not hold for root
        if str(path).endswith("dogs"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"dogs: the folder cannot be read \(Permission denied\); allow it"):
        files_in(tmp_path)


def test_a_root_that_is_not_there_or_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: the folder cannot be read \(No such file"):
        files_in(tmp_path / "gone")
    with pytest.raises(DataError, match=r"x\.png: the folder cannot be read \(Not a directory"):
        files_in(put(tmp_path / "x.png"))
