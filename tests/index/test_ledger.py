"""What several processes keep together, in a file and in a schema of PostgreSQL."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from index.catalogue import Catalogue, copy_to_file, is_there, move
from index.database import CatalogueAway, CatalogueBusy, CatalogueError
from index.ledger import Ledger, LedgerTable, ledger_of
from index.postgres_catalogue import PostgreSQL
from tests import postgresql
from tests.index.catalogues import CLASSES, new_item

Opening = Callable[[], Ledger]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.process)])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opening]:
    """What opens the ledger of one artifact, as each service does."""
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_server").new_schema()
        Catalogue.create(url, encoder_id="00ff", bits=32, classes=CLASSES).close()
    opened = list[Ledger]()

    def open_one() -> Ledger:
        opened.append(ledger_of(tmp_path / "mine", url))
        return opened[-1]

    yield open_one
    for ledger in opened:
        ledger.close()


def soon(hold: Callable[[], bool]) -> None:
    """Once the server has heard that a connection ended, which nobody is told."""
    deadline = time.monotonic() + 60
    while not hold():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def write(ledger: Ledger, text: str) -> None:
    with ledger.writing() as draft:
        draft.text = text


def test_what_one_writes_all_read(opening: Opening) -> None:
    one, other = opening(), opening()
    assert one.read() is other.read() is None
    with one.writing() as draft:
        assert draft.text is None  # and stays so
    assert other.read() is None
    write(one, "a zero \\u0000, a half of a pair \\ud800, é")
    assert other.read() == "a zero \\u0000, a half of a pair \\ud800, é"
    write(other, "b")
    assert (one.read(), opening().read()) == ("b", "b")


def test_what_is_not_finished_is_not_written(opening: Opening) -> None:
    ledger = opening()
    write(ledger, "a")
    with pytest.raises(KeyError), ledger.writing() as draft:
        draft.text = "half"
        raise KeyError
    assert ledger.read() == "a"
    write(ledger, "b")  # and nobody is kept out
    assert ledger.read() == "b"


def test_nobody_writes_over_what_another_one_writes(opening: Opening) -> None:
    """Each adds to what it finds: of many that do at once, none is lost."""
    ledgers = [opening() for _ in range(4)]

    def add(number: int) -> None:
        with ledgers[number % 4].writing() as draft:
            draft.text = f"{draft.text or ''}{chr(65 + number)}"

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(24)))
    assert sorted(ledgers[0].read() or "") == [chr(65 + number) for number in range(24)]


def test_one_has_the_place_at_a_time(opening: Opening) -> None:
    one, other = opening(), opening()
    assert one.hold()
    assert one.hold()  # still
    assert not other.hold()
    write(other, "who has no place writes all the same")
    one.let_go()
    one.let_go()
    soon(other.hold)
    assert not one.hold()
    other.close()  # as the end of its process does
    soon(one.hold)


def test_what_was_let_go_is_not_had_again_by_the_way(opening: Opening) -> None:
    one, other = opening(), opening()
    one.hold_on()  # who never had it
    assert other.hold()
    other.hold_on()
    other.let_go()
    other.hold_on()  # who looked when it was let go
    soon(one.hold)


def test_who_writes_for_long_is_waited_for_only_so_long(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.ledger.WAIT", 0.1)
    one, other = opening(), opening()
    write(one, "a")
    with one.writing() as draft:
        with pytest.raises(CatalogueBusy, match=r"end that one, or try again|others use it, try again"):
            write(other, "b")
        assert other.read() == "a"  # who reads does not wait
        draft.text = "c"
    write(other, f"{other.read()}d")
    assert one.read() == "cd"


@pytest.fixture
def url(postgresql_server: postgresql.Server) -> str:
    url = postgresql_server.new_schema()
    with Catalogue.create(url, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add([new_item(1)])
    return url


def ended(url: str) -> None:
    """All connections to the server but this one are."""
    postgresql.execute(
        url,
        "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE application_name = 'hebbsearch'",
    )


@pytest.mark.process
def test_a_place_that_the_server_forgot_is_taken_again_unless_another_one_has_it(url: str) -> None:
    with closing(ledger_of(Path("mine"), url)) as one, closing(ledger_of(Path("mine"), url)) as other:
        assert one.hold()
        ended(url)
        one.hold_on()
        assert not other.hold()
        ended(url)
        assert other.hold()
        one.hold_on()
        assert not one.hold()
        other.let_go()
        soon(one.hold)


@pytest.mark.process
def test_a_place_is_let_go_though_the_server_does_not_answer(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.ledger.WAIT", 0.05)
    with closing(LedgerTable(url)) as one, closing(LedgerTable(url)) as other:
        assert one.hold()
        with one._turn:  # as one who waits for the server has it
            one.let_go()
        assert not other.hold()
        one.hold_on()  # once it answers
        soon(other.hold)


@pytest.mark.process
def test_no_copy_takes_it_along_and_other_schemas_have_their_own(
    url: str, postgresql_server: postgresql.Server, tmp_path: Path
) -> None:
    with closing(ledger_of(Path("mine"), url)) as ledger:
        write(ledger, "a")
        assert ledger.hold()
        copy_to_file(url, tmp_path / "copy", threading.Lock())
        there = postgresql_server.new_schema()
        with Catalogue.open(tmp_path / "copy") as copy:
            move(copy, there)
        with Catalogue.open(url) as catalogue:
            assert list(catalogue.faults(thumbnails=False)) == []
        with closing(ledger_of(Path("mine"), there)) as other:
            assert other.read() is None
            assert other.hold()
        assert is_there(there)
        assert ledger.read() == "a"


@pytest.mark.process
def test_what_somebody_uses_when_it_is_closed_ends_when_it_is_given_back(url: str) -> None:
    database = PostgreSQL.there(url)
    with database.engine.connect() as used:
        driver: Any = used.connection.dbapi_connection
        database.close()  # as a service does while a thread of it still asks
        assert used.exec_driver_sql("SELECT 1").scalar_one() == 1
    assert driver.closed


@pytest.mark.process
def test_who_may_only_read_reads(url: str) -> None:
    with closing(ledger_of(Path("mine"), url)) as ledger:
        write(ledger, "a")
    reader = f"{url}&options=-c%20default_transaction_read_only%3Don"
    with closing(ledger_of(Path("mine"), reader)) as ledger:
        assert ledger.read() == "a"
        with pytest.raises(CatalogueError, match="make it writable"):
            write(ledger, "b")
        assert ledger.read() == "a"
        assert ledger.hold()


@pytest.mark.process
def test_who_was_granted_what_was_there_before_reads_no_jobs_and_gets_no_error(url: str) -> None:
    schema = url.partition("schema=")[2]
    postgresql.execute(url, f"CREATE ROLE {schema} LOGIN")
    postgresql.execute(url, f"GRANT USAGE ON SCHEMA {schema} TO {schema}")
    postgresql.execute(url, f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {schema}")
    theirs = url.replace("hebbsearch@", f"{schema}@")
    with closing(ledger_of(Path("mine"), theirs)) as reader, closing(ledger_of(Path("mine"), url)) as ledger:
        with pytest.raises(CatalogueError, match="permission denied for schema"):
            write(reader, "a")
        assert reader.read() is None
        write(ledger, "a")
        assert reader.read() is None


@pytest.mark.process
def test_a_server_that_is_away_is_said(postgresql_server: postgresql.Server) -> None:
    address = postgresql_server.new_schema().replace(str(postgresql_server.port), "1")
    with closing(ledger_of(Path("mine"), address)) as ledger:
        for ask in (ledger.read, ledger.hold, lambda: write(ledger, "a")):
            with pytest.raises(CatalogueAway, match="once it answers, all goes on by itself"):
                ask()
