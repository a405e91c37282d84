"""Artifacts are copied, served, verified and moved."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from index.artifact import CATALOGUE
from tests.samples import build_artifact, serve
from tests.service.command.commands import Run


def test_an_artifact_is_copied_served_verified_and_moved(hebbsearch: Run, tmp_path: Path) -> None:
    artifact = build_artifact(tmp_path)
    with serve(artifact.path) as address:
        where = ["--url", address]
        assert hebbsearch("snapshot", "monday", *where).stdout == "monday: 63 images\n"
        told = json.loads(hebbsearch("reload", "monday", "--json", *where).stdout)
        assert (told["before"], told["after"], told["compared"]["queries"]) == ("artifact", "monday", 12)
        assert "artifact takes the place of monday" in hebbsearch("rollback", *where).stdout
        assert "is what is served" in hebbsearch("reload", "artifact", *where, code=1).stderr
    copy = tmp_path / "monday"
    assert hebbsearch("verify", str(copy)).stdout == f"{copy}: no fault\n"
    stray = copy / "originals" / "00" / "half"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"half")
    assert "was not written to its end" in hebbsearch("verify", str(copy), code=1).stdout
    assert json.loads(hebbsearch("verify", str(copy), "--sweep", "--json").stdout) == {
        "artifact": str(copy),
        "faults": [],
        "swept": [str(stray)],
    }
    moved = tmp_path / "moved"
    to = ["--encoder-of", str(artifact.path), "--out", str(moved)]
    assert json.loads(hebbsearch("reencode", str(copy), *to, "--json").stdout)["artifact"] == str(moved)
    assert "exists already" in hebbsearch("reencode", str(copy), *to, code=1).stderr


def test_an_artifact_of_an_earlier_version_is_upgraded_and_copies_are_found_in_it(
    hebbsearch: Run, tmp_path: Path
) -> None:
    artifact = build_artifact(tmp_path)
    image = str(next(Path(artifact.manifest.data["root"]).rglob("*.png")))
    with closing(sqlite3.connect(artifact.path / CATALOGUE)) as connection, connection:
        connection.execute("DELETE FROM pictures")
    with serve(artifact.path) as address:
        where = ["--url", address]
        for asked in (["search", image, "--by", "picture"], ["copies"]):
            assert "run: hebbsearch upgrade ARTIFACT" in hebbsearch(*asked, *where, code=1).stderr
        told = json.loads(hebbsearch("upgrade", str(artifact.path), "--json").stdout)
        assert told == {"artifact": str(artifact.path), "of_files": 75, "of_thumbnails": 0, "labels": 0}
        assert hebbsearch("upgrade", str(artifact.path)).stdout == f"{artifact.path}: lacks nothing\n"
        (best, *_) = json.loads(
            hebbsearch("search", image, "--by", "picture", "-k", "1", "--json", *where).stdout
        )["results"]
        assert best["distance"] == 0
        said = hebbsearch("copies", *where)
        groups = json.loads(hebbsearch("copies", "--json", *where).stdout)
        count = sum(group["size"] for group in groups)
        assert f"{len(groups)} groups of {count} images; " in said.stderr
        assert "too little detail" in said.stderr
        assert len(groups) > 1
        for group, line in zip(groups, said.stdout.splitlines(), strict=True):
            rest = [str(each["id"]) for each in group["images"] if each["id"] != group["best"]]
            assert line == f"{group['best']}  {' '.join(rest)}"
    assert "is missing" in hebbsearch("upgrade", str(tmp_path / "nothing"), code=1).stderr
