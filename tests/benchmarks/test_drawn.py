"""A smaller set that is drawn from a larger one."""

from pathlib import Path

import pytest

from tests.benchmarks.drawn import draw, main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for name in ("a", "b", "c"):
            folder = tmp_path / "all" / part / name
            folder.mkdir(parents=True)
            for number in range(8):
                (folder / f"{part}{number}.png").write_text(f"{part} {name} {number}")
    return tmp_path / "all"


def drawn(data: Path, out: Path, *more: str) -> dict[str, str]:
    main(["--data", str(data), "--out", str(out), "--images", "13", "--queries", "6", *more])
    return {str(path.relative_to(out)): path.read_text() for path in out.rglob("*.png")}


def test_it_takes_of_each_class_and_nothing_twice(data: Path, tmp_path: Path) -> None:
    found = drawn(data, tmp_path / "one")
    parts = [name.split("/")[:2] for name in found]
    counts = {(part, label): parts.count([part, label]) for part in ("train", "test") for label in "abc"}
    assert [*counts.values()] == [5, 4, 4, 2, 2, 2]
    assert len(set(found.values())) == 19
    assert all(text.startswith("train") for text in found.values()), "no test image is looked at"


def test_the_seed_decides(data: Path, tmp_path: Path) -> None:
    first, again, other = (
        drawn(data, tmp_path / name, "--seed", seed) for name, seed in (("1", "1"), ("2", "1"), ("3", "2"))
    )
    assert first == again != other


def test_too_few_images_are_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 8 images, wanted 10"):
        draw(data / "train", tmp_path / "out", 24, 6, 0)
