import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Catalogue
from index.database import CatalogueError
from index.items import UNLABELLED, File, Identity, Item, NewItem
from index.tables.listing import Listing
from tests.index.catalogues import CLASSES, Place, ask, change, in_a_file, new_item, new_query


def test_what_was_added_comes_back(catalogue: Catalogue) -> None:
    ids = catalogue.add([new_item(1), new_item(7), new_query(4)])
    assert ids == sorted(set(ids))
    expected = [
        Item(ids[0], "a/1.png", "dog", "database", 2, 20, source="given"),
        Item(ids[1], "a/7.png", None, "database", 8, 20),
        Item(ids[2], "a/4.png", "cat", "query", 5, 20, source="given"),
    ]
    found = [catalogue.get(item_id) for item_id in ids]
    assert all(item.added is not None and abs(item.added - time.time()) < 100 for item in found)
    assert [replace(item, added=None) for item in found] == expected
    assert catalogue.get_many([ids[2], ids[0], ids[2]]) == [found[2], found[0], found[2]]
    assert catalogue.get_many([]) == []
    assert [catalogue.thumbnail(item_id) for item_id in ids] == [b"thumb 1", b"thumb 7", b"thumb 4"]


def test_more_items_than_fit_a_statement(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("rows", "changing"):
        monkeypatch.setattr(f"index.tables.{module}.BATCH", 10)
    monkeypatch.setattr("index.tables.rows.READ", 7)
    ids = catalogue.add(new_item(number) for number in range(25))
    table = catalogue.codes()
    assert ids == table.ids.tolist() == sorted(set(ids))
    assert catalogue.paths([*ids, 10**6]) == {id_: (catalogue.get(id_).path, None) for id_ in ids}
    backwards = [item.path for item in catalogue.get_many(reversed(ids))]
    assert backwards == [f"a/{number}.png" for number in reversed(range(25))]
    assert table.codes.tolist() == [new_item(number).code.tolist() for number in range(25)]
    assert table.labels.tolist() == [new_item(number).label for number in range(25)]


def test_codes_are_those_of_the_database_split(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        table = catalogue.codes()
    assert [array.dtype for array in (table.ids, table.labels, table.codes)] == [np.int64, np.int64, np.uint8]
    assert (len(table.ids), table.labels.shape, table.codes.shape) == (20, (20,), (20, 4))
    assert table.labels[0] == UNLABELLED


def test_an_empty_catalogue(catalogue: Catalogue) -> None:
    assert catalogue.codes().codes.shape == (0, 4)
    assert set(catalogue.counts().values()) == {0}
    assert catalogue.add([]) == []


def test_counts(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        assert catalogue.counts() == {
            "database": 20,
            "labelled": 17,
            "unlabelled": 3,
            "queries": 2,
            "trash": 0,
        }


def test_description_and_revision_survive(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        assert (catalogue.encoder_id, catalogue.bits, catalogue.classes) == ("00ff", 32, ("cat", "dog"))
        before = catalogue.revision
        catalogue.add([new_item(30)])
        after = catalogue.revision
    assert after > before > 0
    with Catalogue.open(filled) as catalogue:
        assert catalogue.revision == after


def test_a_catalogue_without_classes(path: Place) -> None:
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=[]) as catalogue:
        catalogue.add([new_item(7)])
        with pytest.raises(ValueError, match=r"a/1\.png: label is 1"):
            catalogue.add([new_item(1)])
    with Catalogue.open(path) as catalogue:
        assert catalogue.classes == ()
        assert catalogue.counts()["unlabelled"] == 1


@pytest.mark.parametrize("unknown", [0, -1, 10**6, 2**63, 10**30])
def test_an_unknown_id_is_a_key_error(filled: Place, unknown: int) -> None:
    with Catalogue.open(filled) as catalogue:
        for call in (catalogue.get, catalogue.thumbnail, lambda item_id: catalogue.get_many([1, item_id])):
            with pytest.raises(KeyError, match=str(unknown)):
                call(unknown)


def test_ids_may_be_numpy_integers(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        ids = catalogue.codes().ids[:2]
        assert [item.id for item in catalogue.get_many(ids)] == ids.tolist()
        assert catalogue.thumbnail(ids[0]) == b"thumb 0"


@pytest.mark.parametrize(
    ("off", "fault"),
    [
        (new_item(5, label=2), "a/5.png: label is 2; wanted -1 or 0 to 1"),
        (new_item(5, label=-2), "label is -2"),
        (new_item(5, code=np.zeros(5, np.uint8)), "40-bit code; wanted 32 bits"),
        (new_item(5, code=np.zeros(4)), "code"),
        (new_item(5, code=None), "a/5.png: database items"),
        (new_item(5, split="query"), "a/5.png: database items"),
        (new_item(5, split="train"), "split is 'train'"),
        (new_item(5, path="half of a pair \ud83d.png"), "surrogates"),
    ],
)
def test_all_items_are_stored_or_none(catalogue: Catalogue, off: NewItem, fault: str) -> None:
    catalogue.add([new_item(1)])
    before = catalogue.counts(), catalogue.revision
    with pytest.raises(ValueError, match=fault):
        catalogue.add([new_item(2), off, new_item(3)])
    assert (catalogue.counts(), catalogue.revision) == before
    catalogue.add([new_item(4)])
    catalogue.close()
    Catalogue.open(catalogue.path).close()


def test_an_error_while_items_are_made_stores_none(catalogue: Catalogue) -> None:
    def items() -> Iterator[NewItem]:
        yield new_item(1)
        raise RuntimeError("camera on fire")

    with pytest.raises(RuntimeError, match="fire"):
        catalogue.add(items())
    assert catalogue.counts()["database"] == 0


def test_an_id_is_never_given_twice(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        last = max(catalogue.add([new_query(50)]))
    for table, key in (("thumbnails", "item_id"), ("items", "id")):
        change(filled, f"DELETE FROM {table} WHERE {key} = {last}")
    with Catalogue.open(filled) as catalogue:
        assert min(catalogue.add([new_item(51)])) > last


@in_a_file
@pytest.mark.parametrize("size", [700, 2200, 5000])
def test_thumbnails_take_little_more_than_their_bytes(path: Path, size: int) -> None:
    thumbnails = [os.urandom(size) for _ in range(400)]
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add([new_item(number, thumbnail=each) for number, each in enumerate(thumbnails)])
    others = 150 * len(thumbnails) + 3 * 2**17  # rows, indexes, and the pages that a table has at least
    assert path.stat().st_size < 1.25 * size * len(thumbnails) + others


@in_a_file
def test_missing_and_existing_files_are_named(filled: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"none\.sqlite: no such catalogue"):
        Catalogue.open(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(CatalogueError, match="exists already"):
        Catalogue.create(filled, encoder_id="00ff", bits=32, classes=[])
    with pytest.raises(CatalogueError, match="unable to open"):
        Catalogue.create(tmp_path / "no folder" / "c.sqlite", encoder_id="00ff", bits=32, classes=[])


def test_create_refuses_what_makes_no_catalogue(path: Place) -> None:
    with pytest.raises(ValueError, match="bits is 12"):
        Catalogue.create(path, encoder_id="00ff", bits=12, classes=[])
    with pytest.raises(ValueError, match="each name once"):
        Catalogue.create(path, encoder_id="00ff", bits=8, classes=["cat", "cat"])
    with pytest.raises(CatalogueError, match="no such catalogue"):
        Catalogue.open(path)


def test_copies_of_queries_are_known(catalogue: Catalogue) -> None:
    def file(number: int, folder: str | None) -> File:
        return File(bytes([number]) * 32, folder)

    catalogue.add([new_item(1, file=file(1, None)), new_item(2, file=file(2, "")), new_item(3)])
    catalogue.add([replace(new_query(4), file=file(9, None)), new_query(5)])
    assert catalogue.copies_of_queries().tolist() == []
    copies = catalogue.add([new_item(6, file=file(9, "")), new_item(7, file=file(9, "photos"))])
    copies += catalogue.add([new_item(8, file=file(9, None))])  # as it lay in the folder
    assert catalogue.copies_of_queries().tolist() == copies


# --- changes -----------------------------------------------------------------------------------------


def test_what_else_is_known_of_an_item_comes_back(catalogue: Catalogue) -> None:
    file = File(b"\x01" * 32, "/photos", 1234, 1_700_000_000_123_456_789)
    more = {"camera": "Leica \u2713", "nested": {"iso": [100, 200]}}
    (item_id,) = catalogue.add([new_item(1, file=file, metadata=more)])
    item = catalogue.get(item_id)
    assert (item.sha256, item.metadata) == ("01" * 32, more)
    assert catalogue.page(Listing(folder="/photos"), count=9) == [item]
    assert catalogue.page(Listing(folder="/elsewhere"), count=9) == []
    with pytest.raises(ValueError, match="JSON"):
        catalogue.add([new_item(2, metadata={"a": float("nan")})])


def test_what_was_removed_is_gone(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        assert catalogue.remove([3, 20, 3, 4, 21, 10**9]) == [3, 4, 20]  # 21 is a query, 10⁹ unknown
        for item_id in (3, 4, 20):
            for call in (catalogue.get, catalogue.thumbnail):
                with pytest.raises(KeyError):
                    call(item_id)
        assert catalogue.codes().ids.tolist() == [1, 2, *range(5, 20)]
        assert catalogue.counts()["queries"] == 2
        assert catalogue.remove([3]) == []
    with Catalogue.open(filled) as catalogue:  # the digest took it in
        assert min(catalogue.add([new_item(1)])) > 22
    for table in ("codes", "thumbnails"):
        assert ask(filled, f"SELECT count(*) FROM {table} WHERE item_id IN (3, 4, 20)") == [(0,)]


def test_more_items_than_fit_a_statement_are_removed(filled: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("rows", "changing"):
        monkeypatch.setattr(f"index.tables.{module}.BATCH", 3)
    with Catalogue.open(filled) as catalogue:
        assert catalogue.remove(range(1, 18)) == list(range(1, 18))
    with Catalogue.open(filled) as catalogue:
        assert catalogue.codes().ids.tolist() == [18, 19, 20]


def test_an_item_is_changed(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        assert catalogue.get(1).label is None
        catalogue.change(1, label=1)
        catalogue.change(2, label=UNLABELLED, metadata={"seen": True})
        catalogue.change(3, metadata={"seen": False})
        catalogue.change(3, metadata={})
        for item_id, label, metadata in ((1, "dog", {}), (2, None, {"seen": True}), (3, "cat", {})):
            item = catalogue.get(item_id)
            assert (item.label, item.metadata) == (label, metadata)
        before = catalogue.revision
        for unknown in (21, 99):  # a query; nothing
            with pytest.raises(KeyError):
                catalogue.change(unknown, label=0)
        with pytest.raises(ValueError, match="item 1: label is 2; wanted -1 or 0 to 1"):
            catalogue.change(1, label=2)
        assert catalogue.revision == before
    with Catalogue.open(filled) as catalogue:  # the digest took it in
        assert catalogue.codes().labels[:3].tolist() == [1, UNLABELLED, 0]


def test_a_file_is_stored_once(catalogue: Catalogue) -> None:
    def item(number: int, byte: int) -> NewItem:
        return new_item(number, file=File(bytes([byte]) * 32))

    held_out = new_query(9, file=File(bytes([3]) * 32))
    query, first = catalogue.add([held_out, item(1, 1)])
    answers = catalogue.add_unknown(
        [item(2, 2), item(3, 1), new_item(4), item(5, 2), new_item(4), item(6, 3)]
    )
    ids, new = zip(*answers, strict=True)
    # Of a query's file there may be an item too.
    assert new == ("added", "exists", "added", "exists", "added", "added")
    assert ids[1] == first
    assert ids[3] == ids[0]
    assert len({*ids, query}) == 6
    assert catalogue.counts()["database"] == 5
    assert catalogue.with_hash(bytes([2]) * 32) == ids[0]
    assert catalogue.with_hash(bytes([7]) * 32) is None
    assert catalogue.add_unknown([]) == []


def test_a_label_that_is_given_for_a_file_that_is_there_is_its_label_if_it_has_none(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        items = [new_item(n, label=n - 31, file=File(bytes([n]) * 32)) for n in (30, 31, 32)]
        bare, cat, dog = catalogue.add(items)
        again = [replace(item, label="fox") for item in items]
        assert catalogue.add_unknown(again) == [(bare, "exists"), (cat, "exists"), (dog, "exists")]
        assert [item.label for item in catalogue.get_many([bare, cat, dog])] == ["fox", "cat", "dog"]
        query = catalogue.add([new_query(33, label=UNLABELLED)])[0]
        catalogue.add_unknown([], {1: "owl", 2: "owl", query: "owl", 99: "owl"})
        assert [item.label for item in catalogue.get_many([1, 2, query])] == ["owl", "dog", None]
    with Catalogue.open(filled) as catalogue:  # the digest took it in
        assert catalogue.get(bare).label == "fox"


def test_labels_are_one_by_their_normal_form(filled: Place) -> None:
    with Catalogue.open(filled) as one, Catalogue.open(filled) as other:
        for catalogue, name in (
            (one, "cafe\u0301 "),
            (other, "caf\u00e9"),
            (one, "cafe\u0301"),
            (one, "dog "),
        ):
            catalogue.change(1, label=name)
        assert one.classes == ("cat", "dog", "cafe\u0301 ")  # it stays as it came
        assert one.get(1).label == "dog"


def test_labels_may_be_new(filled: Place) -> None:
    with Catalogue.open(filled) as one, Catalogue.open(filled) as other:
        for catalogue, name in ((one, "dog"), (one, "fox"), (other, "owl"), (other, "fox"), (other, "owl")):
            catalogue.change(1, label=name)
        assert one.changes(0).table.labels[0] == 3
        assert one.classes == ("cat", "dog", "fox", "owl")
        assert one.get(1).label == "owl"


def test_pages(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        assert [item.id for item in catalogue.page(count=3)] == [1, 2, 3]
        assert [item.id for item in catalogue.page(after=18, count=9)] == [19, 20]
        assert [item.id for item in catalogue.page(Listing(split="query"), count=9)] == [21, 22]
        assert [item.id for item in catalogue.page(Listing(labels=[UNLABELLED]), count=9)] == [1, 8, 15]
        both = catalogue.page(Listing(labels=[UNLABELLED, 1]), count=4)
        assert [item.label for item in both] == [None, "dog", "dog", "dog"]
        assert catalogue.page(Listing(labels=[]), count=9) == []


def test_classes_are_never_forgotten(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        catalogue._learn(["cat", "dog", "fox"])
        catalogue._learn(["cat", "dog"])  # what a thread read before that
        assert catalogue.classes == ("cat", "dog", "fox")


def test_a_new_label_comes_with_its_item_or_not_at_all(catalogue: Catalogue) -> None:
    (item_id,) = catalogue.add([new_item(1, label="fox")])
    assert catalogue.get(item_id).label == "fox"
    assert catalogue.codes().labels.tolist() == [2]
    with pytest.raises(ValueError, match="split"):
        catalogue.add([new_item(2, label="owl"), new_item(3, split="train")])
    assert catalogue.classes == ("cat", "dog", "fox")
    catalogue.change(item_id, label="elk")
    catalogue.close()
    with Catalogue.open(catalogue.path) as again:  # the digest took it in
        assert again.classes == ("cat", "dog", "fox", "elk")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3))])
def test_changes_turn_an_earlier_state_into_the_present_one(filled: Place, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with Catalogue.open(filled) as catalogue:
        revision, table = catalogue.revision, catalogue.codes()
        state = dict(zip(table.ids.tolist(), zip(table.labels, table.codes, strict=True), strict=True))
        for step in range(60):
            ids = catalogue.codes().ids
            match rng.integers(3):
                case 0:
                    catalogue.add([new_item(int(number)) for number in rng.integers(100, 200, 3)])
                case 1 if len(ids):
                    catalogue.change(int(rng.choice(ids)), label=int(rng.integers(-1, 2)))
                case 2 if len(ids):
                    catalogue.remove(rng.choice(ids, 2).tolist())
            if step % 7 == 0:
                changes = catalogue.changes(revision)
                for item_id in changes.removed.tolist():
                    state.pop(item_id, None)
                new = zip(changes.table.labels, changes.table.codes, strict=True)
                state |= dict(zip(changes.table.ids.tolist(), new, strict=True))
                revision, table = changes.revision, catalogue.codes()
                assert sorted(state) == table.ids.tolist()
                for item_id, label, code in zip(table.ids.tolist(), table.labels, table.codes, strict=True):
                    assert state[item_id][0] == label
                    assert (state[item_id][1] == code).all()
        assert catalogue.changes(revision).revision == catalogue.revision


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_changes_come_step_by_step_too(filled: Place, most: int) -> None:
    """To who follows from the first, and to who has an earlier state."""
    with Catalogue.open(filled) as catalogue:
        early = catalogue.revision
        ids = catalogue.add([new_item(number) for number in range(100, 104)])
        catalogue.change(ids[0], label=1)
        catalogue.change(ids[2], label=0)
        catalogue.throw(ids[1:2])
        catalogue.remove([1, 2, ids[3]])
        catalogue.take_out(ids[1:2])
        for since in (-1, early):
            state = {} if since < 0 else {id_: None for id_ in range(1, 21)}
            steps = 0
            while since < catalogue.revision:
                changes = catalogue.changes(since, most=most)
                assert changes.revision > since
                since, steps = changes.revision, steps + 1
                for item_id in changes.removed.tolist():
                    state.pop(item_id, None)
                state |= dict.fromkeys(changes.table.ids.tolist())
            assert sorted(state) == catalogue.codes().ids.tolist()
            assert {1: steps > 1, 3: True, 1000: steps == 1}[most]


def test_notes_are_kept_and_taken_back(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        before = catalogue.revision
        assert catalogue.noted("successor") is None
        catalogue.note("successor", "run-2")
        catalogue.note("successor", "run-3")
        assert catalogue.revision == before
    assert Catalogue.read_note(filled, "successor") == "run-3"
    with Catalogue.open(filled) as catalogue:
        catalogue.note("successor", None)
    assert Catalogue.read_note(filled, "successor") is None


def test_what_came_or_changed_since_a_revision(filled: Place) -> None:
    with Catalogue.open(filled) as catalogue:
        since = catalogue.revision
        catalogue.change(5, metadata={"seen": True})
        (new,) = catalogue.add([new_item(30, added=17)])
        catalogue.add([new_query(31)])
        assert [item.id for item in catalogue.changed(since, count=10)] == [5, new]
        assert [item.id for item in catalogue.changed(since, after=5, count=10)] == [new]
        assert [item.id for item in catalogue.changed(since, count=1)] == [5]
        assert catalogue.get(new).added == 17
        assert catalogue.changed(catalogue.revision, count=10) == []


def test_what_is_gone_is_known_by_its_bytes_or_else_by_its_path(filled: Place) -> None:
    def hashed(number: int) -> NewItem:
        return new_item(number, file=File(bytes([number]) * 32, folder=""))

    with Catalogue.open(filled) as catalogue:
        since = catalogue.revision
        ids = catalogue.add([hashed(40), hashed(41), hashed(40)])
        catalogue.remove([1, 2, *ids[:2]])
        assert set(catalogue.gone(since)) == {
            Identity(None, "a/0.png"),
            Identity(None, "a/1.png"),
            Identity(bytes([41]) * 32, "a/41.png", ""),  # 40 is there once more
        }
        catalogue.add([new_item(1), hashed(41)])
        assert catalogue.gone(since) == [Identity(None, "a/0.png")]
        assert catalogue.gone(catalogue.revision) == []


def test_items_are_known_in_both_splits(filled: Place) -> None:
    file = File(b"\1" * 32, folder="")
    with Catalogue.open(filled) as catalogue:
        ids = catalogue.add(
            [new_item(40, file=file), new_query(41, file=file), new_item(42, file=File(b"2" * 32))]
        )
        asked = [
            Identity(file.sha256, "elsewhere.png"),
            Identity(None, "a/3.png"),
            Identity(None, "a/20.png"),
            Identity(None, "a/42.png"),  # the bytes of one of them are not known: so by the path
            Identity(b"3" * 32, "a/3.png"),
            Identity(b"3" * 32, "a/42.png"),  # other bytes
            Identity(b"3" * 32, "a/3.png", "another folder"),
            Identity(b"3" * 32, "a/3.png", ""),
        ]
        known = catalogue.known_as(asked)
    assert [[item.id for item in known[each]] for each in asked] == [
        *(ids[:2], [4], [21], [ids[2]], [4], [], [], [])
    ]


def test_more_than_fit_a_statement_are_known(filled: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.tables.rows.BATCH", 6)
    with Catalogue.open(filled) as catalogue:
        known = catalogue.known_as([Identity(None, f"a/{number}.png") for number in range(20)])
        assert [item.id for items in known.values() for item in items] == list(range(1, 21))


def test_what_another_took_the_place_of_is_changed_no_more(filled: Place) -> None:
    attempts: list[Callable[[Catalogue], object]] = [
        lambda catalogue: catalogue.add([new_item(50)]),
        lambda catalogue: catalogue.add_unknown([new_item(50)]),
        lambda catalogue: catalogue.change(1, label=0),
        lambda catalogue: catalogue.remove([1]),
        lambda catalogue: catalogue.bury([Identity(None, "x", "")]),
    ]
    with Catalogue.open(filled) as one, Catalogue.open(filled) as other:
        one.change(2, label=0)
        other.change(2, label=1)
        one.note("successor", "run-2")
        revision, before = other.revision, [item.label for item in other.page(count=100)]
        for attempt in attempts:
            with pytest.raises(
                CatalogueError, match=r": run-2 took the place of .* (restart this|try again)"
            ):
                attempt(other)
        assert (other.revision, [item.label for item in other.page(count=100)]) == (revision, before)
        one.note("successor", None)
        for attempt in attempts:
            attempt(other)
        assert other.revision > revision


def test_a_place_is_handed_over_whole_or_not_at_all(filled: Place) -> None:
    with Catalogue.open(filled) as one, Catalogue.open(filled) as other:
        with pytest.raises(RuntimeError), one.handing_over("run-2"):
            raise RuntimeError
        other.change(1, label=0)
        with one.handing_over("run-2"):
            assert other.noted("successor") is None
        with pytest.raises(CatalogueError, match="took the place"), other.handing_over("run-3"):
            pass
        other.come_back()
        other.change(1, label=1)
        one.note("successor", "run-3")
        with pytest.raises(CatalogueError, match="took the place"):
            other.take_over({"whom": "run-2"}, since="then")
        other.come_back()
        had = other.take_over({"whom": "run-3"}, since="then")
        assert had == {"then": None, "whom": None, "successor": "run-3", "successor_at": None}
        assert [one.noted(key) for key in ("then", "whom")] == [str(one.revision), "run-3"]
        one.change(1, label=0)


def test_a_name_that_is_no_utf_8_comes_back_as_it_is(catalogue: Catalogue) -> None:
    path, other = "caf\udce9/\udce8.png", "caf\udce8/\udce8.png"
    first, second = catalogue.add([new_item(1, path=path), new_item(2, path=other)])
    assert catalogue.get(first).path == path
    assert catalogue.paths([second, first]) == {first: (path, None), second: (other, None)}
    assert [item.path for item in catalogue.page(count=9)] == [path, other]
    asked = Identity(None, path)
    assert catalogue.known_as([asked]) == {asked: [catalogue.get(first)]}
    before = catalogue.revision
    catalogue.remove([second])
    catalogue.bury([Identity(None, "\udcff.png"), Identity(None, other)])
    assert set(catalogue.gone(before)) == {Identity(None, other), Identity(None, "\udcff.png")}
    catalogue.note("successor", "caf\udce9")
    assert catalogue.noted("successor") == "caf\udce9"


def test_a_name_is_known_however_its_letters_are_written(catalogue: Catalogue) -> None:
    composed, decomposed, both = catalogue.add(
        new_item(number, path=path) for number, path in enumerate(("é.png", "o\u0308.png", "ö.png"))
    )
    for path, ids in (("e\u0301.png", [composed]), ("é.png", [composed]), ("ö.png", [both]), ("e.png", [])):
        (found,) = catalogue.known_as([Identity(None, path)]).values()
        assert [item.id for item in found] == ids
    assert catalogue.get(decomposed).path == "o\u0308.png"  # two files of one folder are two images
