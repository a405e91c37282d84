"""What asks another program for a ranking, beside one that is behind, ahead, or away."""

from collections.abc import Collection

import numpy as np
import pytest

from index.codes import Codes
from index.engine import Behind, Counts, EngineAway, EngineError
from index.hamming import FaissEngine
from index.items import Changes, CodeTable
from index.order import Distances, Ids
from index.remote import RemoteEngine
from tests.index.test_engine import changes

CODE = np.zeros((1, 1), np.uint8)


class Kept:
    """A ranker that stays when its engine goes, and that can be away."""

    name, bits, exact = "there", 8, True

    def __init__(self) -> None:
        self.engine = FaissEngine(8)
        self.away = self.closed = False
        self.asked = list[int]()

    def revision(self) -> int:
        return self.engine.revision

    def write(self, changes: Changes, since: int, *, patience: float) -> None:
        if self.away:
            raise EngineAway("there: does not answer")
        self.engine.apply(changes)

    def clear(self) -> None:
        self.engine = FaissEngine(self.bits)

    def nearest(self, codes: Codes, k: int, labels: Collection[int] | None) -> tuple[Distances, Ids]:
        self.asked.append(k)
        return self.engine.search(codes, k, labels=labels)

    def within(
        self, codes: Codes, radius: int, labels: Collection[int] | None
    ) -> list[tuple[Distances, Ids]]:
        return self.engine.range_search(codes, radius, labels=labels)

    def count(self, codes: Codes, radii: Distances, labels: Collection[int] | None) -> Counts:
        return self.engine.count(codes, radii, labels=labels)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kept() -> Kept:
    return Kept()


def ids(engine: RemoteEngine, k: int = 99, labels: Collection[int] | None = None) -> list[int]:
    return engine.search(CODE, k, labels=labels)[1][0].tolist()


def test_a_restart_writes_nothing_that_is_there(kept: Kept) -> None:
    RemoteEngine(kept).apply(changes(3, [1, 2]))
    kept.away = True
    engine = RemoteEngine(kept)
    engine.apply(changes(3, [1, 2]))
    assert (engine.revision, engine.behind, ids(engine)) == (3, 0, [1, 2])


def test_after_a_restart_it_takes_what_it_lacks_as_changes_since_its_revision(kept: Kept) -> None:
    RemoteEngine(kept).apply(changes(3, [1, 2, 3]))
    engine = RemoteEngine(kept)
    engine.apply(changes(5, [1, 3, 4]))  # all that there is: two is not
    assert engine.revision == 3, "what was removed is not told by all that there is"
    assert ids(engine) == [1, 3], "yet it is not found"
    engine.apply(changes(5, [4], removed=[2]))
    assert (engine.revision, ids(engine), len(kept.engine)) == (5, [1, 3, 4], 3)


def test_one_that_is_away_is_behind_and_goes_on_where_it_was(kept: Kept) -> None:
    engine = RemoteEngine(kept)
    engine.apply(changes(0, [1, 2, 3], labels=[0, 0, 1]))
    kept.away = True
    with pytest.raises(EngineAway):
        engine.apply(changes(1, [2, 4], labels=[1, 0], removed=[1]))
    assert (engine.revision, engine.behind) == (0, 3)
    assert ids(engine) == [2, 3], "neither what was removed nor what it lacks"
    assert ids(engine, labels=[0]) == [], "what has another label now"
    assert engine.count(CODE, np.array([8])).tolist() == [2]
    assert [found.tolist() for _, found in engine.range_search(CODE, 8)] == [[2, 3]]
    with pytest.raises(Behind):
        engine.search(CODE, 1, at_least=1)
    kept.away = False
    engine.apply(changes(2, [2, 4, 5], labels=[1, 0, 0], removed=[1]))  # since its revision
    assert (engine.revision, engine.behind, ids(engine)) == (2, 0, [2, 3, 4, 5])
    assert ids(engine, labels=[1]) == [2, 3]


def test_what_another_process_brought_is_not_found_before_it_is_known_here(kept: Kept) -> None:
    engine = RemoteEngine(kept)
    engine.apply(changes(0, range(10, 20)))
    kept.engine.apply(changes(1, range(1, 10), removed=[10]))  # nine that are nearer, by their ids
    assert ids(engine, k=3) == [11, 12, 13]
    assert kept.asked == [3, 6, 12], "more is asked for, until there are enough"
    assert ids(engine, k=99) == [*range(11, 20)]
    engine.apply(changes(1, range(1, 10), removed=[10]))
    assert ids(engine, k=3) == [1, 2, 3]


def test_rows_that_lose_different_ones_are_as_long_as_each_other(kept: Kept) -> None:
    engine = RemoteEngine(kept)
    table = CodeTable(
        np.arange(1, 9), np.zeros(8, np.int64), np.repeat(np.array([[0], [255]], np.uint8), 4, 0)
    )
    engine.apply(Changes(0, table, np.empty(0, np.int64), ()))
    kept.engine.apply(changes(1, [1], np.array([[7]], np.uint8)))
    kept.engine.apply(changes(2, [0, 30], np.array([[0], [255]], np.uint8)))
    queries = np.array([[0], [255]], np.uint8)
    distances, found = engine.search(queries, 3)
    assert found.tolist() == [[2, 3, 4], [5, 6, 7]]
    assert distances.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_codes_of_a_later_catalogue_are_refused(kept: Kept) -> None:
    RemoteEngine(kept).apply(changes(7, [1]))
    engine = RemoteEngine(kept)
    with pytest.raises(EngineError, match=r"^there: has revision 7 of a catalogue that is at 5: .* --anew"):
        engine.check_follows(5)
    engine.check_follows(7)
    assert engine.revision < 0


def test_another_process_may_have_brought_more_than_was_read_at_the_start(kept: Kept) -> None:
    RemoteEngine(kept).apply(changes(7, [1, 2]))
    engine = RemoteEngine(kept)
    engine.apply(changes(5, [1]))  # read before
    assert ids(engine) == [1]
    engine.apply(changes(7, [2]))
    assert (engine.revision, ids(engine)) == (7, [1, 2])


def test_closing_lets_go_of_the_ranker(kept: Kept) -> None:
    RemoteEngine(kept).close()
    assert kept.closed
