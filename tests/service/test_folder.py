"""What is to be done for a folder, also while another artifact takes the place of the one that was asked."""

import os
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from index.walking import walk
from service import folder as folders
from service.client import Client
from tests.service.reloading import add, answer, png, reload, served


def test_what_links_lead_to_is_sent_and_what_is_no_file_refused(tmp_path: Path) -> None:
    album = tmp_path / "album"
    for file in (album / "a.png", tmp_path / "elsewhere" / "b.png"):
        file.parent.mkdir()
        file.write_bytes(png(1))
    (album / "more").symlink_to(tmp_path / "elsewhere")
    (album / "broken.png").symlink_to("gone.png")
    os.mkfifo(album / "pipe.png")
    there = SimpleNamespace(id=1, path="gone.png", label=None, sha256="00" * 32)
    for known in ([], [there]):  # where any image is known, files are read
        plan = folders.compare(album, walk(album), known, lambda path: path[:1])
        assert [(each.path, each.label) for each in plan.send] == [("a.png", "a"), ("more/b.png", "m")]
        assert plan.refused == {"broken.png": "the link leads nowhere", "pipe.png": "not a regular file"}
        assert plan.gone == known


def test_labels_are_compared_by_their_normal_form_and_those_that_contradict_are_named(tmp_path: Path) -> None:
    album = tmp_path / "album"
    for name, seed in (("a", 1), ("b", 2), ("c", 2), ("d", 2), ("e", 3)):
        (album / name).mkdir(parents=True)
        (album / name / "x.png").write_bytes(png(seed))
    known = [
        SimpleNamespace(id=seed, path=path, label=label, metadata={}, sha256=sha256(png(seed)).hexdigest())
        for seed, path, label in ((1, "a/x.png", "cafe\u0301 "), (2, "gone.png", None), (3, "e/x.png", "eel"))
    ]
    given = {"a/x.png": "café", "b/x.png": None, "c/x.png": "owl", "d/x.png": "eel", "e/x.png": None}
    plan = folders.compare(album, walk(album), known, given.__getitem__)
    assert [(each.image.id, each.label) for each in plan.relabel] == [(2, "owl")]
    assert plan.kept == {"d/x.png": "it is the same image as c/x.png, whose label is 'owl', not 'eel'"}
    assert (plan.send, plan.refused, plan.gone) == ([], {}, [])


@pytest.mark.parametrize("away", ["disk", "unreadable"])
def test_what_lies_where_nobody_can_look_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    album, disk = tmp_path / "album", tmp_path / "disk"
    for folder in (album, disk / "deep"):
        folder.mkdir(parents=True)
    (album / "here.png").write_bytes(png(1))
    (album / "2024").symlink_to(disk)
    if away == "disk":
        disk.rename(tmp_path / "away")
    else:  # permissions do not hold for root
        scan = os.scandir

        def scandir(path: str) -> object:
            if str(path) == str(album / "2024"):
                raise PermissionError(13, "Permission denied", path)
            return scan(path)

        monkeypatch.setattr(os, "scandir", scandir)
    paths = ("2024/1.png", "2024/deep/2.png", "2024", "2025/3.png")
    known = [
        SimpleNamespace(id=number, path=path, label=None, sha256=f"{number:02}" * 32, metadata={})
        for number, path in enumerate(paths)
    ]
    plan = folders.compare(album, walk(album), known, lambda _: None)
    assert [image.path for image in plan.gone] == ["2025/3.png"]
    reason = "the link leads nowhere" if away == "disk" else "the folder cannot be read (Permission denied)"
    assert plan.refused == {"2024": reason}


@pytest.mark.process
def test_what_was_planned_before_another_artifact_came_concerns_the_same_images(
    both: Path, tmp_path: Path
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for number, name in enumerate(("a", "b", "c", "d")):
        (album / f"{name}.png").write_bytes(png(300 + number))
    with served(both / "first") as http, closing(Client(str(http.base_url))) as client:
        answer(
            http.delete(f"/images/{add(http, png(99))}?forever=true"), 204
        )  # so that ids differ in the next artifact
        list(folders.send(client, "album", folders.compare(album, walk(album), [], lambda _: None).send))
        known = {image.path: image for image in client.images(folder="album")}

        (album / "a.png").unlink()
        (album / "b.png").write_bytes(png(310))
        plan = folders.compare(album, walk(album), list(known.values()), lambda _: None)
        reload(http, force=True)
        assert {image.path: image.id for image in client.images(folder="album")} != {
            path: image.id for path, image in known.items()
        }
        (sent,) = folders.send(client, "album", plan.send)
        assert sent.status == "added"
        assert [image.path for image in folders.remove(client, plan.gone)] == ["a.png"]
        now = {image.path: image.sha256 for image in client.images(folder="album")}
        assert now == {path.name: folders.sha256_of(path) for path in album.iterdir()}

        assert list(folders.remove(client, plan.gone)) == plan.gone  # gone already, which is fine


@pytest.mark.process
def test_an_image_is_changed_on_condition_of_its_bytes_and_found_by_them(both: Path) -> None:
    with served(both / "first") as http:
        kept, other = add(http, png(1), "one.png"), add(http, png(2), "two.png")
        digest = sha256(png(2)).hexdigest()
        refused = http.delete(f"/images/{kept}", params={"sha256": digest})
        assert f"image {kept} has other bytes" in answer(refused, 409)["detail"]
        change = {"url": f"/images/{kept}", "json": {"label": "cat"}}
        assert answer(http.patch(**change, params={"sha256": digest}), 409)
        assert answer(http.get(f"/images/{kept}"))["label"] is None
        changed = http.patch(**change, params={"sha256": sha256(png(1)).hexdigest().upper()})
        assert answer(changed)["label"] == "cat"
        assert answer(http.delete("/images/1", params={"sha256": digest}), 409)  # was never hashed
        for odd in ("", "00", "x" * 64, digest + "0"):
            for ask in (
                http.get("/images", params={"sha256": odd}),
                http.delete("/images/1?sha256=" + odd),
                http.patch("/images/1?sha256=" + odd, json={"label": "cat"}),
            ):
                assert "sha256: String should match pattern" in answer(ask, 422)["detail"]
        found = answer(http.get("/images", params={"sha256": digest.upper()}))
        assert [image["id"] for image in found["images"]] == [other]
        answer(http.delete(f"/images/{other}", params={"sha256": digest}), 204)
        assert answer(http.get("/images", params={"sha256": digest})) == {
            "images": [],
            "next": None,
            "total": None,
        }
        assert answer(http.get(f"/images/{kept}"))


def test_names_that_read_alike_take_each_a_place_of_its_own(tmp_path: Path) -> None:
    """Of the service comes what is shown, where each byte that is no UTF-8 reads �."""
    album = tmp_path / "album"
    (album / "a\udcff").mkdir(parents=True)
    for name in ("a\udce8.png", "a\udce9.png", "é.png", "a\udcff/pipe.png"):
        (album / name).write_bytes(png(1)) if "pipe" not in name else os.mkfifo(album / name)
    known = [
        SimpleNamespace(id=number, path=path, label=None, sha256=f"{number:02}" * 32, metadata={})
        for number, path in enumerate(("a\ufffd.png", "a\ufffd.png", "e\u0301.png", "a\ufffd/pipe.png"))
    ]
    plan = folders.compare(album, walk(album), known, lambda _: None)
    assert [(source.path, [image.id for image in source.instead_of]) for source in plan.send] == [
        ("a\udce8.png", [0]),
        ("a\udce9.png", [1]),
        ("é.png", [2]),
    ]
    assert plan.gone == [] and plan.refused == {"a\udcff/pipe.png": "not a regular file"}


def test_names_that_are_written_alike_come_first(tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for name in ("é.png", "e\u0301.png"):
        (album / name).write_bytes(png(1))
    known = [
        SimpleNamespace(id=number, path=path, label=None, sha256=f"{number:02}" * 32, metadata={})
        for number, path in enumerate(("é.png", "e\u0301.png"))
    ]
    plan = folders.compare(album, walk(album), known, lambda _: None)
    assert {source.path: [image.id for image in source.instead_of] for source in plan.send} == {
        "é.png": [0],
        "e\u0301.png": [1],
    }
