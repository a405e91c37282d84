"""Folders are sent, and sent again."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from index.walking import DataError
from service.client import Client, ServiceError
from service.command import parser, sending
from service.folder import Sent, Source
from tests import forking
from tests.samples import environment
from tests.service.command.commands import Run, added, hash_seed
from tests.service.test_kill import png


def test_what_one_command_did_is_undone_as_a_whole(hebbsearch: Run, folder: Path) -> None:
    """By requests of at most eight images each, and one for each image that is removed or relabelled."""
    before = hebbsearch("list").stdout
    added(hebbsearch, folder)
    first = hebbsearch("list").stdout
    for number in (2, 6, 10):
        (folder / "one" / f"{number}.png").unlink()
    (folder / "one" / "0.png").write_bytes(png(77_000_500))
    changed = added(hebbsearch, folder, "--label-folders", "--remove-gone")
    assert (changed["changed"], changed["relabelled"], changed["removed"]) == (1, 16, 3)
    added(hebbsearch, folder, "--label-folders")  # nothing is new: no change
    lines = [line.split("  ") for line in hebbsearch("undo", "--list").stdout.splitlines()[:2]]
    assert [done for _, _, done, _ in lines] == ["1 added, 16 changed, 4 trashed", "20 added"]
    second = hebbsearch("list").stdout

    for undone in (
        "21 undone (1 added, 16 changed, 4 trashed, 20",
        "21 undone (16 changed, 1 trashed, 4 restored, 20",
    ):
        assert hebbsearch("undo").stdout.startswith(undone)
    assert hebbsearch("list").stdout == second  # the same command takes it back
    hebbsearch("undo")
    assert hebbsearch("list").stdout == first
    (addition, _) = [name for name, *_ in lines][::-1]
    assert hebbsearch("undo", addition, code=3).stdout.startswith("0 undone")  # all were changed since
    hebbsearch("remove", *(str(each["id"]) for each in json.loads(hebbsearch("list", "--json").stdout)[-20:]))
    assert hebbsearch("list").stdout == before
    assert hebbsearch("undo").stdout.startswith("20 undone (20 trashed, ")
    assert hebbsearch("list").stdout == first


def test_of_two_copies_with_one_label_none_stays_when_they_are_taken_back(
    hebbsearch: Run, tmp_path: Path
) -> None:
    """The one at the top has no label; the other one, in a request of its own, gives it one."""
    folder = tmp_path / "album"
    for name in ["a.png", *(f"b/{number}.png" for number in range(12)), "owl/z.png"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        same = name in {"a.png", "owl/z.png"}
        (folder / name).write_bytes(png(77_000_600 if same else 77_000_601 + int(name[2:-4])))
    before = hebbsearch("list").stdout
    hebbsearch("add", str(folder), "--label-folders")
    after = hebbsearch("list").stdout
    assert "owl" in after and after.count("\n") > before.count("\n") + 2
    hebbsearch("undo")
    assert hebbsearch("list").stdout == before
    hebbsearch("undo")
    assert hebbsearch("list").stdout == after


def test_a_folder_is_synchronised(hebbsearch: Run, folder: Path, address: str) -> None:
    first = added(hebbsearch, folder, "--label-folders")
    assert first["added"] == 20 and first["unchanged"] == 0
    assert set(first["refused"]) == {"notes.txt", "one/half.png"}
    assert "not an image" in first["refused"]["notes.txt"]
    listed = json.loads(hebbsearch("list", "--folder", folder.name, "--json").stdout)
    assert {(each["path"], each["label"]) for each in listed} == {
        (f"{name}/{number}.png", name) for number in range(20) for name in [("one", "two words")[number % 2]]
    }

    again = added(hebbsearch, folder, "--label-folders")
    assert (again["added"], again["exists"], again["changed"], again["unchanged"]) == (0, 0, 0, 20)

    (folder / "one" / "0.png").write_bytes(png(77_000_000))
    (folder / "one" / "2.png").unlink()
    (folder / "one" / "4.png").rename(folder / "moved.png")
    (folder / "new.png").write_bytes(png(77_000_001))
    changed = added(hebbsearch, folder)
    assert (changed["added"], changed["changed"], changed["unchanged"]) == (1, 1, 18)
    assert changed["gone"] == ["one/2.png"] and changed["removed"] == 0
    (now,) = [
        each
        for each in json.loads(hebbsearch("list", "--folder", folder.name, "--json").stdout)
        if each["path"] == "one/0.png"
    ]
    assert now["label"] == "one"  # of the image before
    assert httpx.get(address + now["original"]).content == png(77_000_000)

    shutil.copyfile(folder / "one" / "6.png", folder / "one" / "8.png")  # the image of 8 is nowhere now
    swept = added(hebbsearch, folder, "--remove-gone")
    assert (swept["added"], swept["changed"], swept["removed"], swept["gone"]) == (0, 0, 2, [])
    assert len(json.loads(hebbsearch("list", "--folder", folder.name, "--json").stdout)) == 19


def test_labels_that_the_folder_gives_anew_are_given(hebbsearch: Run, folder: Path) -> None:
    def labels() -> dict[str, str | None]:
        listed = json.loads(hebbsearch("list", "--folder", folder.name, "--json").stdout)
        return {each["path"]: each["label"] for each in listed}

    added(hebbsearch, folder)
    assert set(labels().values()) == {None}
    (folder / "labels.csv").write_text("path,label\none/0.png,cat\none/2.png,dog\n")
    again = added(hebbsearch, folder, "--labels", str(folder / "labels.csv"))
    assert (again["added"], again["relabelled"], again["unchanged"]) == (0, 2, 18)
    assert "labels.csv" not in again["refused"]  # it is no image of the folder
    given = {path: label for path, label in labels().items() if label}
    assert given == {"one/0.png": "cat", "one/2.png": "dog"}

    assert added(hebbsearch, folder)["relabelled"] == 0  # who gives none takes none away
    (folder / "one" / "0.png").rename(folder / "two words" / "moved.png")
    assert added(hebbsearch, folder, "--label-folders")["relabelled"] == 20
    assert {labels()["one/0.png"], labels()["one/2.png"]} == {"two words", "one"}

    shutil.copyfile(folder / "one" / "2.png", folder / "two words" / "again.png")
    twice = added(hebbsearch, folder, "--label-folders")
    assert (twice["relabelled"], labels()["one/2.png"]) == (0, "one")  # the file at the image's path says it


def test_a_terminal_shows_how_far_it_is(address: str, folder: Path) -> None:
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    command = [sys.executable, "-m", "service.command", "add", str(folder), "--url", address]
    with forking.Popen(command, env=environment(None), stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # what Linux says of a terminal that nobody has open any more
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        assert process.stdout is not None and b"20 added" in process.stdout.read()
    assert process.returncode == 3
    assert b"22/22" in shown and b"100%" in shown, shown


def test_nothing_is_removed_for_a_folder_that_is_empty_by_mistake(hebbsearch: Run, folder: Path) -> None:
    added(hebbsearch, folder)
    shutil.rmtree(folder)
    folder.mkdir()
    refused = hebbsearch("add", str(folder), "--remove-gone", code=1)
    assert "holds none of the images of" in refused.stderr
    assert len(json.loads(hebbsearch("list", "--folder", folder.name, "--json").stdout)) == 20


def test_labels_from_a_file_and_names_for_people(hebbsearch: Run, folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("Label, Path\npremière, ./one/0.png\n")
    done = hebbsearch("add", str(folder), "--labels", str(labels), "--name", "an album", code=3)
    assert done.stdout.startswith("an album: 20 added, 0 changed, 0 relabelled, 0 unchanged")
    assert "left out: notes.txt: " in done.stderr and "left out: one/half.png: " in done.stderr
    listed = hebbsearch("list", "--label", "première").stdout
    assert re.fullmatch(r" +\d+  première  an album/one/0.png\n", listed)
    for lines, fault in (
        ("file;label", "the first line must be 'path,label'"),
        ("path,label\ntwo words/1.png,", "two words/1.png has an empty label"),
        (
            "path,label\ntwo words/1.png,o\x07l",
            "two words/1.png: label 'o\\x07l': there is a control character",
        ),
    ):
        labels.write_text(lines)
        refused = hebbsearch("add", str(folder), "--labels", str(labels), code=1).stderr
        assert refused.startswith(f"hebbsearch: {labels}: ") and fault in refused


def test_labels_of_files_that_are_not_there_are_said_and_the_others_given(
    hebbsearch: Run, folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    lines = [
        *("Path,Label,who", "./one/0.png,cafe\u0301,me", " one/2.png , owl ,", "two words\\1.png,eel,"),
        *("ONE/4.png,owl,", "gone.png,owl,"),
    ]
    table.write_text("\n".join(lines))
    first = added(hebbsearch, folder, "--labels", str(table))
    assert set(first["refused"]) == {"notes.txt", "one/half.png", "ONE/4.png", "gone.png"}
    assert "has a label for it, and there is no such file" in first["refused"]["gone.png"]
    for name in ("notes.txt", "one/half.png"):
        (folder / name).unlink()
    (folder / "one" / "6.png").unlink()
    again = added(hebbsearch, folder, "--labels", str(table), "--remove-gone", code=3)
    assert (again["relabelled"], again["removed"], len(again["refused"])) == (0, 1, 2)
    listed = json.loads(hebbsearch("list", "--folder", folder.name, "--json").stdout)
    assert {each["path"]: each["label"] for each in listed if each["label"]} == {
        "one/0.png": "café",
        "one/2.png": "owl",
        "two words/1.png": "eel",
    }


def test_labels_of_images_that_are_there_under_another_name_are_given_or_refused_aloud(
    hebbsearch: Run, folder: Path, tmp_path: Path
) -> None:
    for name in ("notes.txt", "one/half.png"):
        (folder / name).unlink()
    shutil.copytree(folder, tmp_path / "copy")
    hebbsearch("add", str(folder))
    assert added(hebbsearch, tmp_path / "copy", "--label-folders", code=0)["exists"] == 20
    (tmp_path / "copy" / "one").rename(tmp_path / "copy" / "three")
    other = added(hebbsearch, tmp_path / "copy", "--label-folders")
    assert other["exists"] == 20 and len(other["refused"]) == 10
    assert "there already with the label 'one', not 'three'" in other["refused"]["three/0.png"]
    listed = json.loads(hebbsearch("list", "--folder", folder.name, "--json").stdout)
    assert [each["label"] for each in listed] == [Path(each["path"]).parts[0] for each in listed]

    shutil.copyfile(folder / "one" / "0.png", folder / "two words" / "0.png")
    twice = added(hebbsearch, folder, "--label-folders")
    assert twice["refused"] == {
        "two words/0.png": "it is the same image as one/0.png, whose label is 'one', not 'two words'"
    }
    (folder / "two words" / "0.png").unlink()
    for name in ("one", "two words"):
        (folder / name / "new.png").write_bytes(png(hash_seed("new")))
    both = added(hebbsearch, folder, "--label-folders")
    assert (both["added"], both["exists"], len(both["refused"])) == (1, 1, 1)  # whichever came first
    assert set(both["refused"]) < {"one/new.png", "two words/new.png"}
    (folder / "one" / "2.png").unlink()  # what a label is refused for is there: it hides nothing that is gone
    assert added(hebbsearch, folder, "--label-folders", "--remove-gone")["removed"] == 1


def test_folders_are_labels_as_everywhere(hebbsearch: Run, folder: Path) -> None:
    for name in ("notes.txt", "one/half.png"):
        (folder / name).unlink()
    (folder / "one").rename(folder / "می\u200cخواهم ")
    (folder / "two words").rename(folder / ("o" * 210))
    said = added(hebbsearch, folder, "--label-folders")
    assert (said["added"], len(said["refused"])) == (10, 10)
    assert "it has 210 characters, at most 200" in said["refused"]["o" * 210 + "/1.png"]
    listed = json.loads(hebbsearch("list", "--folder", folder.name, "--json").stdout)
    assert {each["label"] for each in listed} == {"می\u200cخواهم"}
    for wrong, says in (("o\x07l", "control character (U+0007) at position 2"), (" ", "--label is empty")):
        assert says in hebbsearch("add", str(folder), "--label", wrong, code=1).stderr


def test_a_label_that_the_service_has_is_taken_whatever_it_is(tmp_path: Path) -> None:
    odd = "o" * 210
    client = SimpleNamespace(stats=lambda: SimpleNamespace(classes=[SimpleNamespace(label=odd)]))
    for given in (["--label", odd], ["--label-folders"]):
        options = parser().parse_args(["add", str(tmp_path), *given])
        label_of, strays = sending.labels_of_paths(options, cast(Client, client), tmp_path, [])
        assert (label_of(f"{odd} /1.png"), strays) == (odd, {})
    with pytest.raises(DataError, match="at most 200"):
        label_of("i" * 210 + "/1.png")
    (tmp_path / "labels.csv").write_text(f"path,label\nx.png,{odd}\n")
    options = parser().parse_args(["add", str(tmp_path), "--labels", str(tmp_path / "labels.csv")])
    label_of, _ = sending.labels_of_paths(options, cast(Client, client), tmp_path, [Path("x.png")])
    assert label_of("x.png") == odd
    options = parser().parse_args(["add", str(tmp_path), "--label", "caf\udce9"])
    with pytest.raises(DataError, match="half of a surrogate pair"):
        sending.labels_of_paths(options, cast(Client, client), tmp_path, [])


def test_a_service_that_goes_away_meanwhile_is_told_with_what_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def send(_: Client, __: str, sources: list[Source]) -> Iterator[Sent]:
        yield from (Sent(source, "added") for source in sources[:7])
        raise ServiceError("it cannot be reached")

    monkeypatch.setattr("service.folder.send", send)
    empty = cast(Client, SimpleNamespace(images=lambda **_: [], one_change=contextlib.nullcontext))
    with pytest.raises(ServiceError, match="reached"):
        sending.add(parser().parse_args(["add", str(folder)]), empty)
    said = f"{folder.name}: 7 or more of 22 files are there; the same command goes on with the others\n"
    assert capsys.readouterr().err == said


def test_one_that_was_killed_goes_on(address: str, hebbsearch: Run, folder: Path) -> None:
    process = forking.Popen(
        [sys.executable, "-m", "service.command", "add", str(folder), "--url", address],
        env=environment(None),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        if httpx.get(f"{address}/images", params={"folder": folder.name}).json()["images"]:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    process.wait()
    rest = added(hebbsearch, folder)
    assert rest["added"] + rest["exists"] + rest["unchanged"] == 20
    assert len(json.loads(hebbsearch("list", "--folder", folder.name, "--json").stdout)) == 20


ODD_NAMES = {
    b"caf\xe9.png": "caf\ufffd.png",
    b"caf\xe8.png": "caf\ufffd.png",
    "soft\u00ad \u200emark \ue000 \U0001fae9.png".encode(): "soft\u00ad \u200emark \ue000 \U0001fae9.png",
    b'100%22 "a" \\b.png': '100%22 "a" \\b.png',
    b"line\nbreak \x1b[31m.png": "line\nbreak \x1b[31m.png",
    "turned \u202e.png".encode(): "turned \u202e.png",
    b"=?utf-8?q?no_word?=.png": "=?utf-8?q?no_word?=.png",
    "cafe\u0301.png".encode(): "cafe\u0301.png",
    "café.png".encode(): "café.png",
    240 * b"x" + b".png": 240 * "x" + ".png",
}


def test_a_folder_with_names_of_any_kind_is_synchronised(hebbsearch: Run, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/any \xff name"
    os.mkdir(folder)
    for number, name in enumerate(ODD_NAMES):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(png(88_000_000 + number))
    Path(os.fsdecode(folder + b"/no image \xff")).write_bytes(b"no image")

    def add(*more: str) -> dict[str, Any]:
        return added(hebbsearch, Path(os.fsdecode(folder)), *more)

    first = add("--label", "odd")
    assert (first["added"], first["folder"]) == (len(ODD_NAMES), "any \ufffd name")
    assert list(first["refused"]) == ["no image \ufffd"]
    listed = json.loads(hebbsearch("list", "--folder", "any \ufffd name", "--json").stdout)
    assert sorted(each["path"] for each in listed) == sorted(ODD_NAMES.values())
    lines = hebbsearch("list", "--folder", "any \ufffd name").stdout.splitlines()
    assert len(lines) == len(ODD_NAMES)
    assert not any(letter in line for line in lines for letter in "\x1b\u202e")
    assert add()["unchanged"] == len(ODD_NAMES)

    for number, name in enumerate(ODD_NAMES):  # each takes the place of what lay at its own name
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(png(89_000_000 + number))
    changed = add("--remove-gone")
    assert (changed["changed"], changed["added"], changed["gone"]) == (len(ODD_NAMES), 0, [])
    listed = json.loads(hebbsearch("list", "--folder", "any \ufffd name", "--json").stdout)
    assert sorted(each["path"] for each in listed) == sorted(ODD_NAMES.values())
    assert {each["label"] for each in listed} == {"odd"}


def test_a_folder_that_comes_from_a_mac_is_the_same(hebbsearch: Run, tmp_path: Path) -> None:
    folder = tmp_path / "été"
    folder.mkdir()
    (folder / "é.png").write_bytes(png(90_000_000))
    assert added(hebbsearch, folder, code=0)["added"] == 1
    folder = folder.rename(tmp_path / "e\u0301te\u0301")
    (folder / "é.png").unlink()
    (folder / "e\u0301.png").write_bytes(png(90_000_001))
    assert added(hebbsearch, folder, code=0)["changed"] == 1
    listed = json.loads(hebbsearch("list", "--folder", "été", "--json").stdout)
    assert [each["path"] for each in listed] == ["e\u0301.png"]
