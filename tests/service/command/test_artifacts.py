"""Artifacts are copied, served, verified and moved."""

import json
from pathlib import Path

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
