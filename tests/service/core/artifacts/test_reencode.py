"""An artifact moved to another encoder answers as if it had been built with it."""

import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index.artifact import ENCODER, ArtifactError, open_artifact
from index.catalogue import Catalogue
from index.items import Item
from index.verify import faults
from service.core.artifacts.reencode import reencode
from service.core.library import Library, Upload
from service.core.searcher import Searcher
from service.routes.evaluation import evaluate
from service.schemas.evaluation import EvaluationParameters
from tests.samples import build_artifact
from tests.service.reloading import png

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two artifacts of the same images and different encoders. Not to be changed."""
    folder = tmp_path_factory.mktemp("pair")
    for seed, name in enumerate(("first", "second")):
        build_artifact(folder / f"work-{name}", seed=seed).path.rename(folder / name)
    return folder


@pytest.fixture
def both(pair: Path, tmp_path: Path) -> Path:
    """The same, of the test alone."""
    shutil.copytree(pair, tmp_path / "artifacts")
    return tmp_path / "artifacts"


def opened(path: Path) -> Searcher:
    return Searcher.open(path, max_pixels=10**6)


def test_codes_are_those_of_the_other_encoder_and_all_else_stays(both: Path) -> None:
    searcher = opened(both / "first")
    library = Library(searcher, max_bytes=10**6, max_pixels=10**6, keep=True)
    (sent,) = library.add([Upload("sent.png", png(1), "mine", {"by": "me"})])
    library.forget([searcher.catalogue.get(3)])
    library.change(5, label="square")
    before = searcher.catalogue.page(count=1000)
    searcher.close()

    shown: list[int] = []

    def progress(items: Iterable[Item], total: int) -> Iterable[Item]:
        shown.append(total)
        return items

    made = reencode(both / "first", both / "second", both / "third", progress=progress)
    assert shown == [63 + 12]
    assert list(faults(made.path)) == []
    assert (made.path / ENCODER).read_bytes() == (both / "second" / ENCODER).read_bytes()
    assert not list(both.glob("*.reencoding*"))
    searcher, second = opened(made.path), opened(both / "second")
    assert searcher.catalogue.page(count=1000) == before
    assert searcher.catalogue.changed(int(searcher.catalogue.noted("built") or 0), count=9)[-1].id == sent.id
    answer = searcher.search(png(1), k=1)
    assert (answer.matches[0].id, answer.matches[0].distance) == (sent.id, 0)
    for id_ in (1, 70):  # an item and a held-out query: their own images
        assert (
            searcher.similar(id_, searcher.wanted(5)).code.tolist()
            == second.similar(id_, second.wanted(5)).code.tolist()
        )
    ours, theirs = made.queries(), open_artifact(both / "second").queries()
    assert ours is not None and theirs is not None
    assert np.array_equal(ours.codes, theirs.codes) and np.array_equal(ours.ids, theirs.ids)
    searcher.close()
    second.close()


@pytest.mark.process
def test_queries_that_the_encoder_may_have_learned_from_are_said(both: Path) -> None:
    """The other artifact holds out nothing of what this one does."""
    with Catalogue.open(both / "second" / "catalogue.sqlite") as catalogue:
        held_out = catalogue.get(70)
    with closing(sqlite3.connect(both / "second" / "catalogue.sqlite")) as connection, connection:
        connection.execute("UPDATE items SET path = ? WHERE id = 2", (held_out.path,))
    made = reencode(both / "first", both / "second", both / "third")
    assert made.manifest.data["queries_seen"] == 1
    searcher = opened(made.path)
    assert (
        "may have learned from 1 of the queries" in evaluate(searcher, EvaluationParameters()).definition.text
    )
    searcher.close()


def test_what_cannot_be_moved_is_named_and_leaves_nothing(both: Path, pair: Path) -> None:
    with pytest.raises(ArtifactError, match="second: exists already"):
        reencode(both / "first", both / "second", both / "second")
    with pytest.raises(ArtifactError, match=r"nothing/manifest.json: is missing"):
        reencode(both / "first", both / "nothing", both / "third")
    root = pair / "work-first" / "images"
    root.rename(root.with_name("away"))
    try:
        with pytest.raises(
            ArtifactError, match=r"the files of 75 images are not there, such as class0/000.png"
        ):
            reencode(both / "first", both / "second", both / "third")
    finally:
        root.with_name("away").rename(root)
    picture = root / "class0" / "001.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:60])
    try:
        with pytest.raises(ArtifactError, match=r"class0/001.png: .*; put it back as it was"):
            reencode(both / "first", both / "second", both / "third")
    finally:
        picture.write_bytes(content)
    assert sorted(path.name for path in both.iterdir()) == ["first", "second", "work-first", "work-second"]
