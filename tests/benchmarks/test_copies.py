"""The benchmark at a tiny size: each edit is what it says, and what is counted is right."""

from pathlib import Path

import pytest
from PIL import Image

from index.artifact import Artifact
from tests.benchmarks.copies import EDITS, Chance, main, photographs
from tests.service.core.pictures.patches import picture

SIZES = {
    "turned by a quarter": (90, 120),
    "a border of 10 %": (144, 114),
    "a quarter of the area cut off": (104, 78),
    "half of the area cut off": (85, 64),
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures, and one of them again, smaller."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(6):
        picture(seed, 120, 90).save(folder / f"{seed}.png")
    picture(3, 120, 90).resize((100, 75)).save(folder / "again.jpg")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def test_the_same_photograph_counts_once(photos: Path) -> None:
    assert len(photographs([photos, photos])) == 6


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_changes_the_picture(edit: str) -> None:
    image = Image.merge("RGB", [picture(seed, 120, 90) for seed in range(3)])
    changed = EDITS[edit](image, Chance(0))
    assert changed.mode == "RGB"
    if edit == "a quarter cut off on one side":
        assert changed.size in [(90, 90), (120, 68)]
    else:
        assert changed.size == SIZES.get(edit, (120, 90))
    assert changed.tobytes() != image.tobytes()
    assert EDITS[edit](image, Chance(0)).tobytes() == changed.tobytes()


def test_it_tells_a_table(photos: Path, artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--artifact", artifact.path, "--data", photos, "--others", artifact.path.parent]
    main([*map(str, folders), "--items", "20", "--edited", "4"])
    said = capsys.readouterr().out
    assert "6 photographs, 14 others; seed 0" in said
    rows = {
        row[1].strip(): row[2:5] for row in (line.split("|") for line in said.splitlines()) if len(row) > 4
    }
    assert rows["edit, of 4 photographs"] == [" code ", " hash ", " hash and parts "]
    for edit in ("mirrored", "turned by a quarter", "grey", "JPEG of quality 30"):
        assert [int(count) for count in rows[edit][1:]] == [4, 4]
    assert int(rows["a quarter of the area cut off"][2]) == 4
    assert "search by picture" in said
