"""PostgreSQL ranks: what is its own beside the contract in test_engine.py."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from index.engine import EngineAway, EngineError
from index.items import Changes, CodeTable
from index.postgres import PostgresRanker
from index.remote import Emptied, RemoteEngine
from tests import postgresql
from tests.index.test_engine import changes

pytestmark = pytest.mark.process


@pytest.fixture
def url(postgresql_server: postgresql.Server) -> str:
    return postgresql_server.new_schema()


def ranker(url: str, *, bits: int = 8, encoder_id: str = "00ff") -> PostgresRanker:
    return PostgresRanker(url, bits=bits, encoder_id=encoder_id)


def write(one: PostgresRanker, changes: Changes) -> None:
    """By who knows how far it is."""
    one.write(changes, one.revision(), patience=60)


@pytest.fixture
def opened(url: str) -> Iterator[PostgresRanker]:
    made = ranker(url)
    yield made
    made.close()


def test_codes_stay_there_when_the_process_ends(url: str) -> None:
    engine = RemoteEngine(ranker(url))
    engine.apply(changes(4, [3, 1], np.array([[1], [3]], np.uint8), [0, 2]))
    engine.close()
    again = ranker(url)
    assert again.revision() == 4
    distances, ids = again.nearest(np.zeros((1, 1), np.uint8), 9, None)
    assert (distances.tolist(), ids.tolist()) == ([[1, 2]], [[3, 1]])
    assert again.nearest(np.zeros((1, 1), np.uint8), 9, [2])[1].tolist() == [[1]]
    again.close()


def test_many_writers_of_the_same_changes_write_them_once(url: str, opened: PostgresRanker) -> None:
    others = [ranker(url) for _ in range(3)]
    feed = [changes(number, [number, number + 1], removed=[number - 2]) for number in range(20)]

    def follow(one: PostgresRanker) -> None:
        for each in feed:
            write(one, each)

    threads = [threading.Thread(target=follow, args=[each]) for each in (opened, *others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened.revision() == 19
    assert opened.nearest(np.zeros((1, 1), np.uint8), 99, None)[1].tolist() == [[18, 19, 20]]
    for each in others:
        each.close()


def test_what_is_written_is_all_there_or_nothing_is(url: str, opened: PostgresRanker) -> None:
    write(opened, changes(0, [1, 2]))
    table = CodeTable(np.array([3, 4]), np.array([0, 2**40]), np.zeros((2, 1), np.uint8))  # no such label
    with pytest.raises(EngineError):
        write(opened, Changes(1, table, np.array([1]), ()))
    assert opened.revision() == 0
    assert opened.nearest(np.zeros((1, 1), np.uint8), 9, None)[1].tolist() == [[1, 2]]


def test_changes_are_refused_where_those_before_are_lacking(opened: PostgresRanker) -> None:
    write(opened, changes(5, [1]))
    opened.clear()
    with pytest.raises(Emptied, match="is at revision -1 again"):
        opened.write(changes(6, [2]), 5, patience=60)
    assert opened.revision() == -1
    engine = RemoteEngine(opened)
    engine.apply(changes(5, [1]))
    opened.clear()
    with pytest.raises(Emptied):
        engine.apply(changes(6, [2]))
    assert engine.revision == -1
    engine.apply(changes(6, [1, 2]))  # since then
    assert engine.search(np.zeros((1, 1), np.uint8), 9, at_least=6)[1].tolist() == [[1, 2]]


def test_many_that_start_at_once_make_one(url: str) -> None:
    for number in range(5):
        place = f"{url}_{number}"  # a schema of its own
        with ThreadPoolExecutor(6) as threads:
            for made in [each.result() for each in [threads.submit(ranker, place) for _ in range(6)]]:
                made.close()
        assert postgresql.execute(place, "SELECT revision, bits FROM ranking") == [(-1, 8)]


def test_who_waits_for_another_writer_waits_no_longer_than_said(url: str, opened: PostgresRanker) -> None:
    with postgresql.connected(url) as other:
        other.execute("LOCK TABLE ranking IN EXCLUSIVE MODE")
        with pytest.raises(EngineAway, match="others use it, try again"):
            opened.write(changes(0, [1]), -1, patience=0.01)
    write(opened, changes(0, [1]))


def test_clearing_leaves_nothing(opened: PostgresRanker) -> None:
    write(opened, changes(5, [1]))
    opened.clear()
    assert opened.revision() == -1
    assert opened.nearest(np.zeros((1, 1), np.uint8), 9, None)[1].shape == (1, 0)
    write(opened, changes(3, [2]))
    assert opened.revision() == 3


@pytest.mark.parametrize(("bits", "encoder_id"), [(16, "00ff"), (8, "ff00")])
def test_codes_of_another_encoder_are_refused(
    url: str, opened: PostgresRanker, bits: int, encoder_id: str
) -> None:
    write(opened, changes(0, [1]))
    with pytest.raises(EngineError, match=r"ranks 8-bit codes of encoder 00ff, .* name another schema$"):
        ranker(url, bits=bits, encoder_id=encoder_id)
    assert opened.revision() == 0


def test_an_older_server_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.postgres.OLDEST", 990_000)
    with pytest.raises(EngineError, match="newer counts bits"):
        ranker(url)
    assert postgresql.execute(url, "SELECT to_regclass('ranked')") == [(None,)]


def test_a_server_that_is_not_there_is_away_and_no_password_is_shown() -> None:
    with pytest.raises(EngineAway) as caught:
        ranker("postgresql+psycopg://me:hidden@127.0.0.1:1/db?schema=a")
    assert "hidden" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)
    with pytest.raises(EngineError, match="no URL of PostgreSQL"):
        ranker("http://127.0.0.1")


def test_a_server_that_is_killed_loses_nothing_and_the_engine_goes_on() -> None:
    with postgresql.server() as server:
        engine = RemoteEngine(ranker(server.new_schema()))
        engine.apply(changes(0, [1, 2, 3]))
        server.kill()
        with pytest.raises(EngineAway):
            engine.apply(changes(1, [4], removed=[2]))
        with pytest.raises(EngineAway):
            engine.search(np.zeros((1, 1), np.uint8), 9)
        server.start()
        for _ in range(100):  # it is not asked again at once
            try:
                engine.apply(changes(1, [4], removed=[2]))
                break
            except EngineAway:
                threading.Event().wait(0.1)
        assert engine.search(np.zeros((1, 1), np.uint8), 9, at_least=1)[1].tolist() == [[1, 3, 4]]
        engine.close()
