"""What the service has is searched, listed and measured."""

import argparse
import json
import re
from pathlib import Path

import pytest

from service.client import Client
from service.command import asking
from tests.service.command.commands import Run, added
from tests.service.test_kill import png


def test_images_are_listed_by_name_in_an_order(hebbsearch: Run, folder: Path) -> None:
    added(hebbsearch, folder)
    listed = json.loads(hebbsearch("list", "--folder", folder.name, "--json").stdout)
    asked = ("--folder", folder.name, "--name", "ONE/1", "--sort", "name", "--descending")
    paths = [each["path"] for each in json.loads(hebbsearch("list", *asked, "--json").stdout)]
    assert paths == sorted((each["path"] for each in listed if "one/1" in each["path"]), reverse=True)
    assert len(paths) > 1
    assert hebbsearch("list", "--predicted", "circle", "--min-confidence", "0.5").stdout == ""


def test_folders_are_named_and_images_listed_under_them(hebbsearch: Run, folder: Path) -> None:
    added(hebbsearch, folder)
    name = folder.name
    top = hebbsearch("folders").stdout.splitlines()
    assert f"      20  {name}/" in top
    assert hebbsearch("folders", name).stdout == f"      10  {name}/one\n      10  {name}/two words\n"
    told = json.loads(hebbsearch("folders", name, "--json").stdout)
    assert told[1] == {"name": "two words", "path": f"{name}/two words", "images": 10, "folders": 0}
    assert hebbsearch("folders", f"{name}/one").stdout == hebbsearch("folders", "nowhere").stdout == ""
    for under in (name, f"{name}/two words"):
        listed = json.loads(hebbsearch("list", "--under", under, "--json").stdout)
        paths = {f"{each['folder']}/{each['path']}" for each in listed}
        assert len(paths) == (20 if under == name else 10)
        assert all(path.startswith(f"{under}/") for path in paths)
    assert hebbsearch("list", "--under", "nowhere").stdout == ""


def test_folders_are_asked_for_page_by_page(
    hebbsearch: Run,
    folder: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    added(hebbsearch, folder)
    monkeypatch.setattr(asking, "FOLDERS", 1)
    with Client(address) as client:
        assert asking.folders(argparse.Namespace(under=folder.name, json=False), client) == 0
    assert capsys.readouterr().out.split() == [
        "10",
        f"{folder.name}/one",
        "10",
        f"{folder.name}/two",
        "words",
    ]


def test_search_evaluate_count_and_remove(hebbsearch: Run, folder: Path) -> None:
    added(hebbsearch, folder, "--label", "mine")
    image = folder / "one" / "0.png"
    found = json.loads(hebbsearch("search", str(image), "-k", "3", "--json").stdout)["results"]
    assert len(found) == 3 and (found[0]["distance"], found[0]["label"]) == (0, "mine")
    assert found[0]["folder"] == folder.name and found[0]["path"] == "one/0.png"
    assert (
        f"   0  {found[0]['id']:8d}  mine  {folder.name}/one/0.png" in hebbsearch("search", str(image)).stdout
    )
    assert "label 'nobody' is unknown" in hebbsearch("search", str(image), "--label", "nobody", code=1).stderr
    assert "No such file" in hebbsearch("search", "nothing.png", code=1).stderr

    evaluation = hebbsearch("eval").stdout
    assert re.match(
        r"mAP 0\.\d{4} \(0\.\d{4} to \d\.\d{4} as the queries are drawn, 0\.\d{4} at random\)\n", evaluation
    )
    assert "circle" in evaluation
    assert json.loads(hebbsearch("eval", "-k", "5", "--json").stdout)["definition"]["k"] == 5
    assert json.loads(hebbsearch("stats", "--json").stdout)["queries"] == 12

    deleted = str(found[0]["id"])
    assert hebbsearch("remove", deleted).stdout.startswith("1 deleted; hebbsearch trash")
    assert "there is no image" in hebbsearch("remove", deleted, code=3).stderr
    half = hebbsearch("remove", "99999", str(found[1]["id"]), deleted, code=3)
    assert half.stdout.startswith("1 deleted") and half.stderr.count("left: there is no image") == 2
    hebbsearch("trash", "--restore", str(found[1]["id"]))
    assert f"{folder.name}/one/0.png" in hebbsearch("trash").stdout
    for asked in (("trash", "--restore", deleted), ("undo",), ("undo",)):
        told = hebbsearch(*asked).stdout
        assert told == "1 restored\n" or re.match(r"1 undone \(1 (restored|trashed), 20\d\d-", told)
    assert "not lie in the trash" in hebbsearch("trash", "--restore", deleted, code=3).stderr
    assert "1 restored  (1 can be undone)" in hebbsearch("undo", "--list").stdout.splitlines()[0]
    hebbsearch("remove", "--forever", deleted)
    assert "can be undone" in hebbsearch("undo", "nothing", code=1).stderr


def test_labels_are_written_and_taken_back(hebbsearch: Run, folder: Path, tmp_path: Path) -> None:
    hebbsearch("add", str(folder), "--label-folders", code=3)
    out = hebbsearch("labels").stdout
    assert out.startswith("path,label,folder,sha256,source\n")
    lines = json.loads(hebbsearch("labels", "--predicted", "--json").stdout)
    mine = [line for line in lines if line["folder"] == folder.name]
    assert mine and {line["label"] for line in mine} == {line["path"].split("/")[0] for line in mine}
    (tmp_path / "labels.csv").write_text(out, newline="")
    again = hebbsearch("add", str(folder), "--labels", str(tmp_path / "labels.csv"), code=3)
    assert "0 added, 0 changed, 0 relabelled" in again.stdout


def test_an_image_whose_name_is_no_utf_8_is_searched_with(hebbsearch: Run, tmp_path: Path) -> None:
    Path(tmp_path / "caf\udce9.png").write_bytes(png(91_000_000))
    assert len(hebbsearch("search", str(tmp_path / "caf\udce9.png"), "-k", "3").stdout.splitlines()) == 3
