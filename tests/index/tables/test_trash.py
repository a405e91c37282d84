"""What is deleted and comes back, what is done and undone; compared with a plain dictionary."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index.catalogue import Catalogue
from index.items import File, Item
from index.tables import history
from tests.index.catalogues import Place, change, in_a_file, new_item, read_only


def seen(catalogue: Catalogue) -> dict[int, Item]:
    """All that can be found."""
    return {item.id: item for item in catalogue.page(count=1000)}


def whole(catalogue: Catalogue) -> bool:
    """Whether nothing is wrong, and the digest is that of what is there."""
    with Catalogue.open(catalogue.path) as again:
        wrong = [fault for fault in again.faults() if "no WebP" not in fault]  # thumbnails here are none
        return not wrong and seen(again) == seen(catalogue)


@pytest.fixture
def catalogue(filled: Place) -> Iterator[Catalogue]:
    with Catalogue.open(filled) as opened:
        yield opened


def test_what_is_thrown_away_is_found_no_more_and_comes_back_as_it_was(catalogue: Catalogue) -> None:
    before, codes, revision = seen(catalogue), catalogue.codes(), catalogue.revision
    assert catalogue.throw([2, 3, 3, 999], since=5) == [2, 3]
    assert seen(catalogue).keys() == before.keys() - {2, 3}
    assert catalogue.changes(revision).removed.tolist() == [2, 3]
    assert catalogue.counts()["database"] == len(before) - 2
    assert catalogue.counts()["trash"] == catalogue.trash.count() == 2
    assert [item.trashed for item in catalogue.trash.page(count=9)] == [5, 5]
    assert catalogue.get(2) == replace(before[2], split="trash", trashed=5)
    with pytest.raises(KeyError):
        catalogue.code(2)
    with pytest.raises(KeyError):
        catalogue.thumbnail(2, thrown=False)
    assert whole(catalogue)

    revision = catalogue.revision
    assert catalogue.take_out([3, 2, 4]) == [2, 3]
    assert seen(catalogue) == before
    again = catalogue.codes()
    assert np.array_equal(again.ids, codes.ids) and np.array_equal(again.codes, codes.codes)
    assert catalogue.changes(revision).table.ids.tolist() == [2, 3]
    assert whole(catalogue)


def test_held_out_queries_are_never_thrown_away(catalogue: Catalogue) -> None:
    queries = list(catalogue.held_out())
    assert catalogue.throw(queries) == []
    assert catalogue.remove(queries) == []
    assert list(catalogue.held_out()) == queries


def test_what_lies_in_the_trash_can_be_forgotten_for_good(catalogue: Catalogue) -> None:
    catalogue.throw([2, 3], batch="one")
    assert catalogue.remove([2]) == [2]
    assert catalogue.trash.ids() == [3]
    with pytest.raises(KeyError):
        catalogue.get(2)
    assert catalogue.history.named("one").ids == (3,)
    assert whole(catalogue)
    catalogue.remove([3])
    assert catalogue.history.latest(9) == []


def test_only_what_lies_in_the_trash_for_so_long_is_forgotten(catalogue: Catalogue) -> None:
    catalogue.throw([2, 3], since=5)
    catalogue.throw([4], since=9)
    catalogue.take_out([3])  # by somebody else, after it was looked what lies there
    assert catalogue.remove([2, 3, 4], thrown_until=8) == [2]
    assert catalogue.get(3).split == "database"
    assert catalogue.trash.ids() == [4]
    assert whole(catalogue)


def test_what_lies_in_the_trash_becomes_known_as_elsewhere(catalogue: Catalogue) -> None:
    catalogue.throw([2], since=5)
    other = replace(catalogue.get(2), label="dog", source="group", metadata={"a": 1}, trashed=8)
    catalogue.rewrite_thrown(2, other)
    assert catalogue.get(2) == other
    assert whole(catalogue)
    with pytest.raises(KeyError):
        catalogue.rewrite_thrown(3, other)


def test_undoing_metadata_leaves_what_is_held_out(catalogue: Catalogue) -> None:
    catalogue.change(2, metadata={"a": 1}, batch="one")
    catalogue.hold_out([2])
    catalogue.undo(catalogue.history.named("one"))
    assert (catalogue.get(2).held_out, catalogue.get(2).metadata) == (True, {})


def test_the_same_bytes_come_out_of_the_trash(catalogue: Catalogue) -> None:
    sent = new_item(50, file=File(b"5" * 32, ""), label="cat", metadata={"of": "her"})
    ((id_, arrival),) = catalogue.add_unknown([sent])
    assert arrival == "added"
    catalogue.throw([id_])
    came = [replace(sent, label="dog", metadata={}), new_item(51, file=File(b"6" * 32, "")), sent]
    answers = catalogue.add_unknown(came)
    assert [arrival for _, arrival in answers] == ["restored", "added", "exists"]
    assert [answers[0][0], answers[2][0]] == [id_, id_]
    assert (catalogue.get(id_).label, catalogue.get(id_).metadata) == ("cat", {"of": "her"})
    assert whole(catalogue)


def test_one_without_a_label_gets_the_one_it_is_sent_with(catalogue: Catalogue) -> None:
    sent = new_item(49, file=File(b"5" * 32, ""))
    ((id_, _),) = catalogue.add_unknown([sent])
    catalogue.throw([id_])
    catalogue.add_unknown([replace(sent, label="new")], batch="back")
    assert catalogue.get(id_).label == "new"
    catalogue.undo(catalogue.history.named("back"))
    assert (catalogue.get(id_).label, catalogue.get(id_).split) == (None, "trash")
    assert whole(catalogue)


def test_of_two_with_the_same_bytes_the_one_in_the_trash_stays_there(catalogue: Catalogue) -> None:
    file = File(b"5" * 32, "")
    kept, thrown = catalogue.add([new_item(50, file=file), new_item(51, file=file)])
    catalogue.throw([thrown])
    assert catalogue.add_unknown([new_item(52, file=file)]) == [(kept, "exists")]
    assert catalogue.trash.ids() == [thrown]


def test_undoing_labels_gives_back_the_label_how_it_came_and_what_was_held_out(catalogue: Catalogue) -> None:
    catalogue.label_all({2: ("cat", "accepted")})
    catalogue.label_all({3: ("dog", "given")})
    catalogue.hold_out([3])
    catalogue.change(4, metadata={"a": 1})
    before = seen(catalogue)
    catalogue.label_all({2: ("new", "group"), 3: ("new", "group"), 4: ("new", "group")}, batch="one")
    assert {catalogue.get(id_).label for id_ in (2, 3, 4)} == {"new"}
    assert not catalogue.get(3).held_out
    assert catalogue.undo(catalogue.history.named("one"), name="two") == [2, 3, 4]
    assert seen(catalogue) == before
    assert whole(catalogue)
    catalogue.undo(catalogue.history.named("two"))
    assert [catalogue.get(id_).label for id_ in (2, 3, 4)] == ["new"] * 3
    assert [catalogue.get(id_).source for id_ in (2, 3, 4)] == ["group"] * 3
    assert whole(catalogue)


def test_a_label_that_was_looked_at_is_one_of_a_group_again(catalogue: Catalogue) -> None:
    catalogue.label_all({2: ("new", "group"), 3: ("new", "accepted")})
    before = seen(catalogue)
    catalogue.label_all({2: ("new", "given"), 3: ("new", "given")}, batch="one")
    looked_at = seen(catalogue)
    assert (looked_at[2].source, looked_at[3].source) == ("given", "accepted")
    catalogue.undo(catalogue.history.named("one"), name="two")
    assert seen(catalogue) == before
    assert whole(catalogue)
    catalogue.undo(catalogue.history.named("two"))
    assert seen(catalogue) == looked_at
    assert whole(catalogue)


PIECE = ("work.1", "work.2", "work.3", "work.4")


def worked(catalogue: Catalogue) -> int:
    """One piece of work that changes items more than once; the id of one that came with it."""
    ((new, _),) = catalogue.add_unknown([new_item(50, file=File(b"5" * 32, ""))], batch=PIECE[0])
    catalogue.label_all({new: ("cat", "given"), 2: ("new", "given")}, batch=PIECE[1])
    catalogue.label_all({2: ("other", "given"), 3: ("other", "given")}, batch=PIECE[2])
    catalogue.throw([2, 4], batch=PIECE[3])
    return new


def undo_all(catalogue: Catalogue, names: tuple[str, ...], by: str) -> tuple[str, ...]:
    """The latest first, as the page and the command do; the names of what that is."""
    made = tuple(f"{by}.{number}" for number in range(len(names)))
    for name, each in zip(reversed(names), made, strict=True):
        catalogue.undo(catalogue.history.named(name), name=each)
    return made


def test_a_piece_of_work_is_undone_whole_though_it_changed_an_item_twice(catalogue: Catalogue) -> None:
    before = seen(catalogue)
    new = worked(catalogue)
    after = seen(catalogue)
    undone = undo_all(catalogue, PIECE, "back")
    assert seen(catalogue) == before
    assert catalogue.trash.ids() == [new]
    assert whole(catalogue)
    undo_all(catalogue, undone, "again")
    assert seen(catalogue) == after
    assert catalogue.trash.ids() == [2, 4]
    assert whole(catalogue)


def test_what_others_changed_within_a_piece_of_work_stays(catalogue: Catalogue) -> None:
    catalogue.label_all({2: ("new", "given"), 3: ("new", "given")}, batch=PIECE[0])
    catalogue.change(2, label="theirs", batch="theirs.1")
    catalogue.change(3, metadata={"a": 1})  # of which nothing is remembered
    catalogue.label_all({2: ("other", "given"), 3: ("last", "given")}, batch=PIECE[1])
    first = catalogue.history.named(PIECE[0])
    assert catalogue.history.undoable(first, "back.1").keys() == {3}
    undo_all(catalogue, PIECE[:2], "back")
    assert (catalogue.get(2).label, catalogue.get(3).label) == ("theirs", "cat")


def test_another_piece_of_work_does_not_go_on_with_an_undoing(catalogue: Catalogue) -> None:
    catalogue.label_all({2: ("new", "given")}, batch=PIECE[0])
    catalogue.label_all({2: ("other", "given")}, batch=PIECE[1])
    catalogue.undo(catalogue.history.named(PIECE[1]), name="back.1")
    assert catalogue.undo(catalogue.history.named(PIECE[0]), name="elsewhere.1") == []
    assert catalogue.undo(catalogue.history.named(PIECE[0])) == []
    assert catalogue.undo(catalogue.history.named(PIECE[0]), name="back.2") == [2]


def test_what_somebody_changed_since_stays(catalogue: Catalogue) -> None:
    catalogue.label_all({2: ("new", "given"), 3: ("new", "given")}, batch="one")
    catalogue.change(3, label="mine")
    batch = catalogue.history.named("one")
    assert (batch.counts, batch.ids, batch.undoable) == ({"changed": 2}, (2, 3), 1)
    assert catalogue.undo(batch) == [2]
    assert catalogue.get(3).label == "mine"
    assert catalogue.undo(catalogue.history.named("one")) == []


def test_undoing_what_came_throws_it_away_and_redoing_brings_it_back(catalogue: Catalogue) -> None:
    ((id_, _),) = catalogue.add_unknown([new_item(50, file=File(b"5" * 32, ""))], batch="one")
    item = catalogue.get(id_)
    catalogue.undo(catalogue.history.named("one"), name="two")
    assert catalogue.trash.ids() == [id_]
    catalogue.undo(catalogue.history.named("two"))
    assert catalogue.get(id_) == item
    assert whole(catalogue)


def test_only_the_latest_changes_can_be_undone(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    for number in range(5):
        catalogue.change(2, label=f"label {number}", batch=str(number))
    assert [batch.name for batch in catalogue.history.latest(9)] == ["4", "3", "2"]
    assert [batch.undoable for batch in catalogue.history.latest(9)] == [1, 0, 0]
    assert [batch.name for batch in catalogue.history.latest(1)] == ["4"]
    with pytest.raises(KeyError):
        catalogue.history.named("1")
    assert whole(catalogue)


def test_of_another_encoder_what_lies_in_the_trash_has_no_code_until_it_is_made(
    catalogue: Catalogue,
) -> None:
    catalogue.throw([2, 3], since=5)
    ids, queries = catalogue.codes().ids.tolist(), list(catalogue.held_out())
    catalogue.recode("beef", 16, ((id_, np.full(2, id_ % 256, np.uint8), None) for id_ in ids + queries))
    assert catalogue.trash.uncoded([2, 3, 4]) == [2, 3]
    assert catalogue.take_out([2, 3]) == []
    assert catalogue.take_out([2, 3], {2: (np.array([7, 7], np.uint8), None)}) == [2]
    assert catalogue.code(2).tolist() == [[7, 7]]
    assert catalogue.trash.ids() == [3]
    assert whole(catalogue)


def test_what_never_was_here_can_lie_in_the_trash(catalogue: Catalogue) -> None:
    thrown = new_item(50, split="trash", code=None, file=File(b"5" * 32, ""))
    catalogue.throw_new([(thrown, 77, None)])
    (id_,) = catalogue.trash.ids(until=77)
    assert catalogue.trash.ids(until=76) == []
    assert (catalogue.get(id_).label, catalogue.get(id_).trashed) == ("cat", 77)
    assert catalogue.hashes() == {b"5" * 32} and catalogue.has_file(b"5" * 32)
    assert whole(catalogue)


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE trash SET since = 6", "what the trash knows of image 2 does not match its checksum"),
        ("UPDATE trash SET code = x'00000000'", "what the trash knows of image 2"),
        ("DELETE FROM trash", "image 2 is in the trash, which does not know it"),
        ("INSERT INTO trash VALUES (3, NULL, 1, 1)", "image 3 is not in the trash, which knows it"),
        ("INSERT INTO codes VALUES (2, x'00000000')", "image 2 is in the trash and can be found"),
        ("UPDATE history SET label = 1 - label", "of what was changed does not match its checksum"),
    ],
)
def test_damage_is_named(catalogue: Catalogue, statement: str, fault: str) -> None:
    catalogue.throw([2], since=5, batch="one")
    catalogue.change(4, label="dog", batch="two")
    change(catalogue.path, statement)
    assert any(fault in found for found in catalogue.faults())


@in_a_file
def test_an_index_of_the_version_before_gets_a_trash(catalogue: Catalogue) -> None:
    before = seen(catalogue)
    catalogue.close()
    with closing(sqlite3.connect(catalogue.path)) as connection, connection:
        for table in ("history", "batches", "trash"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE meta SET value = '5' WHERE key = 'schema'")
    with Catalogue.open(catalogue.path) as upgraded:
        assert seen(upgraded) == before
        assert upgraded.throw([2], batch="one") == [2]
        upgraded.undo(upgraded.history.named("one"))
        assert seen(upgraded) == before


@in_a_file
def test_one_that_cannot_be_upgraded_keeps_what_it_knows(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.embed([(2, np.ones(3, np.float16))])
    catalogue.label_all({3: ("dog", "group")})
    catalogue.close()
    with closing(sqlite3.connect(catalogue.path)) as connection, connection:
        for table in ("history", "batches", "trash"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE meta SET value = '5' WHERE key = 'schema'")
        connection.execute("PRAGMA journal_mode=DELETE")
    read_only(monkeypatch)
    with Catalogue.open(catalogue.path) as opened:
        assert opened.has_embeddings()
        assert opened.get(3).source == "group"
        assert (opened.trash.ids(), opened.history.latest(3)) == ([], [])


# --- against a plain dictionary --------------------------------------------------------------------


@dataclass
class Model:
    """What a catalogue holds, kept by hand."""

    there: dict[int, str | None]  # labels by id
    thrown: dict[int, str | None]
    last: dict[int, int]  # number of the step that changed each
    steps: list[tuple[str, dict[int, Any]]]  # what each did, and to what, as it was before

    def did(self, what: str, before: dict[int, Any]) -> None:
        self.steps.append((what, before))
        self.last |= dict.fromkeys(before, len(self.steps))

    def throw(self, ids: list[int]) -> None:
        self.did("thrown", {id_: None for id_ in ids if id_ in self.there})
        self.thrown |= {id_: self.there.pop(id_) for id_ in ids if id_ in self.there}

    def restore(self, ids: list[int]) -> None:
        self.did("restored", {id_: None for id_ in ids if id_ in self.thrown})
        self.there |= {id_: self.thrown.pop(id_) for id_ in ids if id_ in self.thrown}

    def label(self, ids: list[int], label: str) -> None:
        some = [id_ for id_ in ids if id_ in self.there]
        self.did("labelled", {id_: self.there[id_] for id_ in some})
        self.there |= dict.fromkeys(some, label)

    def undo(self, number: int) -> None:
        what, before = self.steps[number]
        free = [id_ for id_ in before if self.last[id_] == number + 1]
        if what == "thrown":
            self.restore(free)
        elif what == "restored":
            self.throw(free)
        else:
            self.did("labelled", {id_: self.there[id_] for id_ in free})
            self.there |= {id_: before[id_] for id_ in free}


IDS = st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("throw"), IDS),
    st.tuples(st.just("restore"), IDS),
    st.tuples(st.just("label"), IDS, st.sampled_from(["cat", "dog", "new"])),
    st.tuples(st.just("undo"), st.integers(0, 7)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=8))
def test_any_steps_and_undoings_give_what_a_dictionary_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.mktemp("steps") / "catalogue.sqlite"
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=["cat", "dog"]) as catalogue:
        catalogue.add([new_item(number) for number in range(1, 7)])
        model = Model({id_: item.label for id_, item in seen(catalogue).items()}, {}, {}, [])
        for what, *arguments in steps:
            name = str(len(model.steps))
            if what == "throw":
                catalogue.throw(*arguments, batch=name)
                model.throw(*arguments)
            elif what == "restore":
                catalogue.take_out(*arguments, batch=name)
                model.restore(*arguments)
            elif what == "label":
                ids, label = arguments
                labels = {id_: (label, "given") for id_ in ids if id_ in model.there}
                catalogue.label_all(labels, batch=name)
                model.label(ids, label)
            elif arguments[0] < len(model.steps) and model.steps[arguments[0]][1]:
                catalogue.undo(catalogue.history.named(str(arguments[0])), name=name)
                model.undo(arguments[0])
            assert {id_: item.label for id_, item in seen(catalogue).items()} == model.there
            assert set(catalogue.trash.ids()) == model.thrown.keys()
        assert whole(catalogue)
