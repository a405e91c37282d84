"""What learning from labels needs and leaves in the catalogue: embeddings, sources of labels, predictions."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import create_engine

from index.catalogue import Catalogue
from index.database import CatalogueError
from index.items import File
from index.tables.checksums import seal_notes
from tests.index.catalogues import Place, change, in_a_file, new_item, new_query, read_only


def vector(number: int) -> NDArray[np.float16]:
    return np.random.default_rng(number).standard_normal(6).astype(np.float16)


@pytest.fixture
def embedded(path: Place) -> Place:
    """Twenty items and three held-out queries, each with an embedding but for item 5."""
    catalogue = Catalogue.create(path, encoder_id="00ff", bits=32, classes=["cat", "dog"])
    with catalogue:
        catalogue.add(new_item(n, embedding=None if n == 5 else vector(n)) for n in range(1, 21))
        catalogue.add(new_query(n, embedding=vector(n)) for n in range(21, 24))
    return path


def faults(path: Place) -> list[str]:
    with Catalogue.open(path) as catalogue:
        return list(catalogue.faults(thumbnails=False))


def test_embeddings_come_back_by_split(embedded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.tables.rows.READ", 7)
    with Catalogue.open(embedded) as catalogue:
        ids, vectors = catalogue.embeddings()
        queries, asked = catalogue.embeddings("query")
        assert catalogue.without_embedding().tolist() == [5]
    wanted = [n for n in range(1, 21) if n != 5]
    assert ids.tolist() == wanted
    assert vectors.dtype == np.float16
    assert np.array_equal(vectors, np.stack([vector(n) for n in wanted]))
    assert queries.tolist() == [21, 22, 23]
    assert np.array_equal(asked, np.stack([vector(n) for n in range(21, 24)]))


def test_a_catalogue_without_embeddings(catalogue: Catalogue) -> None:
    ids, vectors = catalogue.embeddings()
    assert ids.shape == (0,)
    assert vectors.shape == (0, 0)


def test_an_embedding_goes_with_its_image_and_can_be_made_anew(embedded: Place) -> None:
    with Catalogue.open(embedded) as catalogue:
        catalogue.remove([3])
        catalogue.embed([(5, vector(50)), (6, vector(60))])
        ids, vectors = catalogue.embeddings()
    assert 3 not in ids
    assert np.array_equal(vectors[ids == 5][0], vector(50))
    assert np.array_equal(vectors[ids == 6][0], vector(60))
    assert faults(embedded) == []


@pytest.mark.parametrize("wrong", [np.zeros(6, np.float32), np.zeros((1, 6), np.float16)])
def test_an_embedding_of_another_type_or_shape_is_refused(
    catalogue: Catalogue, wrong: NDArray[np.floating]
) -> None:
    with pytest.raises(ValueError, match="an embedding of type"):
        catalogue.add([new_item(1, embedding=wrong)])
    assert catalogue.counts()["database"] == 0


def test_embeddings_of_different_lengths_are_a_fault(embedded: Place) -> None:
    with Catalogue.open(embedded) as catalogue:
        catalogue.embed([(5, np.zeros(7, np.float16))])
        with pytest.raises(CatalogueError, match="different lengths"):
            catalogue.embeddings()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE embeddings SET vector = substr(vector, 1, 8) WHERE item_id = 4",
            "the embedding of image 4",
        ),
        ("UPDATE embeddings SET checksum = 7 WHERE item_id = 4", "the embedding of image 4"),
        ("UPDATE sources SET held_out = NOT held_out WHERE item_id = 2", "the source of the label of 2"),
        ("UPDATE sources SET source = 'given' WHERE item_id = 9", "the source of the label of 9"),
    ],
)
def test_damage_is_found(embedded: Place, statement: str, words: str) -> None:
    with Catalogue.open(embedded) as catalogue:
        catalogue.hold_out([2])
        catalogue.change(9, label="cat", source="group")
    assert faults(embedded) == []
    change(embedded, statement)
    assert faults(embedded) == [f"{words} does not match its checksum"]


@in_a_file
@pytest.mark.parametrize("vector", ["'text'", "7", "x'000102'"])
def test_what_is_no_embedding_is_a_fault_too(embedded: Place, vector: str) -> None:
    change(embedded, f"UPDATE embeddings SET vector = {vector} WHERE item_id = 1")
    with Catalogue.open(embedded) as catalogue, pytest.raises(CatalogueError, match="or what is none"):
        catalogue.embeddings()


def test_copies_of_what_is_held_out_are_known(path: Place) -> None:
    """Of three equal files one is held out: the others would find it at once, and teach it."""
    same = File(b"\x07" * 32)
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=["cat", "dog"]) as catalogue:
        catalogue.add([new_item(n, file=same) for n in (1, 2, 3)] + [new_item(4, file=File(b"\x08" * 32))])
        assert catalogue.copies_of_queries().tolist() == []
        catalogue.hold_out([2])
        assert catalogue.copies_of_queries().tolist() == [1, 3]
        catalogue.hold_out([3])
        assert catalogue.copies_of_queries().tolist() == [1]
        catalogue.add([new_query(5, file=File(b"\x08" * 32))])
        assert catalogue.copies_of_queries().tolist() == [1, 4]


def test_labels_have_a_source(embedded: Place) -> None:
    with Catalogue.open(embedded) as catalogue:
        assert catalogue.get(1).source == "given"
        assert catalogue.get(7).source is None  # it has no label
        catalogue.change(7, label="cat", source="accepted")
        catalogue.label_all({8: ("dog", "given"), 9: ("fox", "group")})
        assert [catalogue.get(n).source for n in (7, 8, 9)] == ["accepted", "given", "group"]
        assert catalogue.get(9).label == "fox"
        catalogue.label_all({8: ("dog", "group"), 9: ("fox", "accepted")})  # somebody looked at the latter
        assert [catalogue.get(n).source for n in (8, 9)] == ["given", "accepted"]
        catalogue.label_all({9: ("eel", "group")})
        catalogue.change(7, label=-1)
        assert catalogue.get(7).source is None
        catalogue.change(7, label="cat")
        assert catalogue.get(7).source == "given"
        catalogue.change(9, metadata={"a": 1})
        assert catalogue.get(9).source == "group"


def test_many_labels_are_given_all_or_none(embedded: Place) -> None:
    with Catalogue.open(embedded) as catalogue:
        before, revision = catalogue.get(8).label, catalogue.revision
        with pytest.raises(KeyError):
            catalogue.label_all(dict.fromkeys((8, 99), ("fox", "given")))
        assert catalogue.get(8).label == before
        catalogue.label_all(dict.fromkeys((8, 10), ("fox", "given")))
        assert catalogue.revision == revision + 1
        assert catalogue.changes(revision).table.ids.tolist() == [8, 10]
        catalogue.label_all({8: (None, "given"), 10: ("owl", "group")})
        found = [(catalogue.get(n).label, catalogue.get(n).source) for n in (8, 10)]
        assert found == [(None, None), ("owl", "group")]
    assert faults(embedded) == []


def test_more_labels_than_are_written_at_a_time_are_all_or_none_too(
    embedded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.tables.changing.BATCH", 3)
    with Catalogue.open(embedded) as catalogue:
        before = [item for item in catalogue.every_item()]
        catalogue.hold_out([1, 2])
        same, other = [next(item.id for item in before if item.label == name) for name in ("cat", "dog")]
        catalogue.hold_out([same, other])
        with pytest.raises(KeyError, match="99"):
            catalogue.label_all(dict.fromkeys((1, 2, 3, 4, 5, 6, 99), ("fox", "group")))
        assert [item.label for item in catalogue.every_item()] == [item.label for item in before]
        catalogue.label_all(
            {n: ("cat" if n % 4 else "owl", "group" if n % 2 else "given") for n in range(1, 21)}
        )
        items = [item for item in catalogue.every_item() if item.split == "database"]
    assert [item.label for item in items] == ["cat" if n % 4 else "owl" for n in range(1, 21)]
    for item, old in zip(items, before, strict=False):
        if item.label == old.label:  # the same again: as it was
            assert (item.source, item.held_out) == (old.source, item.id in (1, 2, same, other))
        else:
            assert (item.source, item.held_out) == ("group" if item.id % 2 else "given", False)
    assert faults(embedded) == []


def test_what_is_held_out_is_so_until_its_label_changes(embedded: Place) -> None:
    with Catalogue.open(embedded) as catalogue:
        catalogue.change(4, label="dog", source="accepted")
        catalogue.hold_out([2, 4, 6])
        assert catalogue.sources() == {2: ("given", True), 4: ("accepted", True), 6: ("given", True)}
        catalogue.change(2, label=catalogue.get(2).label)  # the same again
        catalogue.change(4, label="cat")
        catalogue.remove([6])
        assert catalogue.sources() == {2: ("given", True)}
        assert [catalogue.get(n).held_out for n in (2, 4)] == [True, False]


def test_predictions_are_of_images_without_a_label(embedded: Place) -> None:
    with Catalogue.open(embedded) as catalogue:
        revision = catalogue.revision
        catalogue.predict([(7, 1, 0.75), (8, 0, 0.5)])
        assert catalogue.revision == revision  # nothing that is searched changed
        item = catalogue.get(7)
        assert (item.predicted, item.confidence) == ("dog", 0.75)
        assert catalogue.get(8).predicted is None  # it has one
        catalogue.predict([(14, 0, 0.25)])
        assert catalogue.get(7).predicted is None
        assert catalogue.get(14).predicted == "cat"
        catalogue.change(14, label="dog")
        assert catalogue.get(14).predicted is None
        catalogue.remove([14])
    assert faults(embedded) == []


def as_version_4(path: Path) -> None:
    for table in ("embeddings", "sources", "predictions"):
        change(path, f"DROP TABLE {table}")
    change(path, "UPDATE meta SET value = '4' WHERE key = 'schema'")
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(path))
    with closing(engine.connect()) as connection, connection.begin():
        seal_notes(connection)
    engine.dispose()


@in_a_file
def test_one_of_version_4_becomes_one_of_this_version(filled: Path) -> None:
    as_version_4(filled)
    with Catalogue.open(filled) as catalogue:
        assert catalogue.get(1).source is None
        assert catalogue.get(2).source == "given"
        assert len(catalogue.without_embedding()) == 22
        catalogue.embed([(2, vector(2))])
        catalogue.hold_out([2])
    assert faults(filled) == []


@in_a_file
def test_the_upgrade_from_version_4_does_not_hide_a_damaged_note(filled: Path) -> None:
    as_version_4(filled)
    change(filled, "UPDATE meta SET value = '1234' WHERE key = 'checksum'")
    with Catalogue.open(filled):
        pass
    assert faults(filled) == ["what it notes of itself does not match its checksum"]


@in_a_file
def test_one_of_version_4_that_cannot_be_written_to_is_read_as_it_is(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_version_4(filled)
    before = filled.read_bytes()
    read_only(monkeypatch)
    with Catalogue.open(filled) as catalogue:
        assert catalogue.get(2).source == "given"
        assert len(catalogue.page(count=100)) == 20
        assert catalogue.sources() == {}
        assert catalogue.embeddings()[1].shape == (0, 0)
        assert list(catalogue.stored())
    assert filled.read_bytes() == before
