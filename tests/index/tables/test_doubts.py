"""How doubtful labels are, in the catalogue: of those that images had when somebody looked."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from index.catalogue import Catalogue
from index.database import CatalogueError
from index.items import UNLABELLED
from index.tables.doubts import Doubt
from index.tables.rows import BATCH
from tests.index.catalogues import CLASSES, Place, in_a_file, new_item, read_only

CAT, DOG = 0, 1


def doubt(catalogue: Catalogue, item_id: int) -> tuple[str | None, float | None]:
    item = catalogue.get(item_id)
    return item.rival, item.doubt


@pytest.fixture
def labelled(path: Place) -> Place:
    """Four cats, the third of which is not one to the other three."""
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add(new_item(n, label=CAT) for n in range(1, 5))
        catalogue.doubts.keep([Doubt(3, CAT, DOG, 0.5), Doubt(1, CAT, DOG, -0.75)])
    return path


def test_a_doubt_counts_while_the_item_has_the_label_that_was_looked_at(labelled: Place) -> None:
    with Catalogue.open(labelled) as catalogue:
        assert [doubt(catalogue, n) for n in (1, 2, 3)] == [("dog", -0.75), (None, None), ("dog", 0.5)]
        catalogue.change(3, label="dog")
        assert doubt(catalogue, 3) == (None, None)
        catalogue.change(3, label="cat")
        assert doubt(catalogue, 3) == ("dog", 0.5)
        catalogue.label_all({3: (None, "given")})
        assert doubt(catalogue, 3) == (None, None)
        assert list(catalogue.faults(thumbnails=False)) == []


def test_new_ones_take_the_place_of_all(labelled: Place) -> None:
    with Catalogue.open(labelled) as catalogue:
        revision = catalogue.revision
        catalogue.doubts.keep([Doubt(2, CAT, UNLABELLED, -1)])
        assert [doubt(catalogue, n) for n in (1, 2, 3)] == [(None, None), (None, -1), (None, None)]
        assert catalogue.revision == revision  # nobody who follows it has to look again
        catalogue.doubts.keep([])
        assert not catalogue.doubts.known()


def test_all_or_none_are_kept(labelled: Place) -> None:
    with Catalogue.open(labelled) as catalogue:
        with pytest.raises(CatalogueError):
            catalogue.doubts.keep([Doubt(2, CAT, DOG, 0.1), Doubt(99, CAT, DOG, 0.1)])
        assert [doubt(catalogue, n) for n in (2, 3)] == [(None, None), ("dog", 0.5)]


def test_more_than_are_written_at_a_time(path: Place) -> None:
    count = 2 * BATCH + 1
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add(new_item(n, label=DOG) for n in range(1, count + 1))
        catalogue.doubts.keep(Doubt(n, DOG, CAT, n / count) for n in range(1, count + 1))
        assert doubt(catalogue, count) == ("cat", 1)


def test_they_go_with_their_items_and_with_the_encoder(labelled: Place) -> None:
    with Catalogue.open(labelled) as catalogue:
        catalogue.remove([3])
        assert list(catalogue.faults(thumbnails=False)) == []
        assert doubt(catalogue, 1) == ("dog", -0.75)
        codes = catalogue.codes()
        catalogue.recode(
            "11ff", 32, [(id_, code, None) for id_, code in zip(codes.ids.tolist(), codes.codes, strict=True)]
        )
        assert not catalogue.doubts.known()


@in_a_file
def test_a_catalogue_of_version_7_knows_of_none(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(labelled)) as connection, connection:
        connection.execute("DROP TABLE doubts")
        connection.execute("UPDATE meta SET value = '7' WHERE key = 'schema'")
    with monkeypatch.context() as patch:
        read_only(patch)
        with Catalogue.open(labelled) as catalogue:
            assert (catalogue.writable, catalogue.doubts.known(), doubt(catalogue, 3)) == (
                False, False, (None, None),
            )  # fmt: skip
    with Catalogue.open(labelled) as catalogue:
        assert not catalogue.doubts.known()
        catalogue.doubts.keep([Doubt(3, CAT, DOG, 0.5)])
        assert doubt(catalogue, 3) == ("dog", 0.5)
        assert list(catalogue.faults(thumbnails=False)) == []
