"""What is so of a catalogue in PostgreSQL alone: how it is reached, and what can be wrong with a server."""

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from string import ascii_lowercase

import psycopg
import pytest

from index import postgres_catalogue
from index.catalogue import Catalogue
from index.database import CatalogueAway, CatalogueBusy, CatalogueError, CatalogueUnavailable
from index.postgres_catalogue import without_password
from index.space import no_space
from index.tables import schema
from tests import postgresql
from tests.index.catalogues import CLASSES, ask, change, new_item, on_a_server

pytestmark = pytest.mark.process
FULL = """
    CREATE FUNCTION {schema}.full() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER full_disk BEFORE INSERT ON items EXECUTE FUNCTION {schema}.full()
"""


@pytest.fixture
def away() -> Iterator[str]:
    """The address of nobody."""
    with socket.socket() as taken:  # and nobody listens there
        taken.bind(("127.0.0.1", 0))
        yield f"postgresql+psycopg://me:secret@127.0.0.1:{taken.getsockname()[1]}/db?schema=a"


@on_a_server
def test_codes_are_bit_strings_of_their_length(path: str) -> None:
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add([new_item(258)])
        assert ask(path, "SELECT code::text FROM codes") == [(f"{258:032b}",)]
        kind = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{}'::regclass"
        for table in ("codes", "trash"):
            assert ("bit(32)",) in ask(path, kind.format(table))
        with pytest.raises(psycopg.errors.StringDataLengthMismatch):
            change(path, "UPDATE codes SET code = B'0101'")


@on_a_server
def test_a_name_that_no_index_takes_is_refused(catalogue: Catalogue) -> None:
    """PostgreSQL's take a third of a page of 8,192 bytes, once what repeats is left out."""
    drawn = random.Random(0).choices(ascii_lowercase, k=4000)
    long, repeated = "".join(drawn), "ab/" * 1000
    for refused in (lambda: catalogue.add([new_item(1, path=long)]), lambda: catalogue.change(1, label=long)):
        catalogue.add([new_item(1, path=repeated)])
        with pytest.raises(CatalogueError, match=r"more than the 2,700 bytes .* give it a shorter name"):
            refused()
    assert [item.path for item in catalogue.page(count=9)] == [repeated] * 2


@on_a_server
def test_a_server_keeps_what_sqlite_would_lose(filled: str) -> None:
    for statement in (
        "DELETE FROM items WHERE id = 5",
        "UPDATE codes SET item_id = 1000 WHERE item_id = 5",
        "UPDATE items SET label = 7 WHERE id = 5",
    ):
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            change(filled, statement)


@on_a_server
def test_two_schemas_change_places_at_once_or_not_at_all(
    places: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody ever sees one half: who starts between would serve another one than those who run."""
    monkeypatch.setattr(postgres_catalogue, "PATIENCE", 0.2)
    first, second = places(), places()
    for url in (first, second):
        with Catalogue.create(url, encoder_id="00ff", bits=32, classes=CLASSES) as made:
            made.add([new_item(1)])
    with Catalogue.open(first) as old, Catalogue.open(second) as new, Catalogue.open(second) as other:

        def noted() -> list[str | None]:
            return [old.noted("successor"), other.noted("successor"), other.noted("whom")]

        new.note("successor", "a")  # as it was the predecessor of the one that it is to come back from
        new.come_back()
        for whole in (False, True):
            with suppress(RuntimeError), old.handing_over("b") as transaction:
                assert transaction is not None
                revision = new.revision
                new.change(1, label=int(whole))  # what is carried over meanwhile
                new.take_over({"whom": "a"}, since="then", within=transaction)
                with pytest.raises(CatalogueBusy):  # neither may be changed until both are
                    new.change(1, label=0)
                assert noted() == [None, "a", None]
                if not whole:
                    raise RuntimeError
            new.come_back()
        assert noted() == ["b", None, "a"]
        assert (other.noted("then"), new.revision) == (str(revision + 2), revision + 2)
        assert [*old.faults(thumbnails=False), *new.faults(thumbnails=False)] == []
        with pytest.raises(CatalogueError, match="b took the place"):
            old.change(1, label=0)
        new.change(1, label=0)


@on_a_server
def test_text_with_a_nul_is_refused_and_nothing_is_stored(catalogue: Catalogue) -> None:
    for item in (new_item(2, path="a\0b.png"), new_item(2, label="c\0d")):
        with pytest.raises(CatalogueError, match=r"test_\d+: .*NUL.*PostgreSQL keeps no text with"):
            catalogue.add([new_item(1), item])
    assert catalogue.counts()["database"] == 0
    (item_id,) = catalogue.add([new_item(1, metadata={"a": "b\0c"})])  # JSON has a word for it
    assert catalogue.get(item_id).metadata == {"a": "b\0c"}


@on_a_server
def test_who_waits_to_write_keeps_nobody_from_reading(filled: str) -> None:
    writers = 40  # more than there are connections
    begun = threading.Barrier(writers + 1)
    with Catalogue.open(filled) as catalogue, ThreadPoolExecutor(writers) as threads, locked(filled) as end:

        def write() -> None:
            begun.wait()
            catalogue.change(1, label=0)

        waiting = [threads.submit(write) for _ in range(writers)]
        begun.wait()
        for item_id in range(1, 20):
            catalogue.get(item_id)
        assert not any(each.done() for each in waiting)  # nobody had to give up first
        end()
        for each in waiting:
            each.result()


@contextmanager
def locked(url: str) -> Iterator[Callable[[], None]]:
    """Another process writes, until what this gives is called."""
    with postgresql.connected(url) as other:
        other.execute("LOCK TABLE meta IN EXCLUSIVE MODE")
        yield other.rollback


@on_a_server
def test_who_waits_too_long_to_write_is_told(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("index.tables.connections", "index.postgres_catalogue"):
        monkeypatch.setattr(f"{module}.PATIENCE", 0.2)
    with Catalogue.open(filled) as catalogue, ThreadPoolExecutor(8) as threads, locked(filled) as end:
        waiting = [threads.submit(catalogue.change, 1, label=0) for _ in range(8)]
        faults = [each.exception() for each in waiting]
        assert all(isinstance(fault, CatalogueBusy) for fault in faults)
        assert all("try again" in str(fault) for fault in faults)
        assert any("lock timeout" in str(fault) for fault in faults)
        with pytest.raises(CatalogueBusy):  # who only notes something waits too
            catalogue.note("a", "b")
        end()
        catalogue.change(1, label=0)


@on_a_server
def test_a_reader_sees_one_state(filled: str) -> None:
    with Catalogue.open(filled) as one, Catalogue.open(filled) as other:
        reading = one.stored()
        first = next(reading)
        other.remove([1])
        other.change(2, label="new")
        items = [item for some in (first, *reading) for item, _ in some]
        assert [item.id for item in items] == list(range(1, 21))
        assert items[1].label != "new"
        assert [item.id for some in one.stored() for item, _ in some] == list(range(2, 21))


@on_a_server
def test_a_full_disk_is_told_and_nothing_is_stored(filled: str) -> None:
    with Catalogue.open(filled) as catalogue:
        before = catalogue.revision
        change(filled, FULL.format(schema=filled.partition("schema=")[2]))
        with pytest.raises(CatalogueUnavailable, match=r"could not extend file.*free space") as full:
            catalogue.add([new_item(50)])
        assert no_space(full.value)
        assert catalogue.revision == before
        change(filled, "DROP TRIGGER full_disk ON items")
        catalogue.add([new_item(50)])


@on_a_server
def test_who_may_only_read_does(filled: str) -> None:
    name = filled.partition("schema=")[2]
    change(filled, f"CREATE ROLE {name}_reader LOGIN")
    change(filled, f"GRANT USAGE ON SCHEMA {name} TO {name}_reader")
    change(filled, f"GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO {name}_reader")
    with Catalogue.open(filled.replace("//hebbsearch@", f"//{name}_reader@")) as catalogue:
        assert not catalogue.writable
        assert catalogue.counts()["database"] == 20
        with pytest.raises(CatalogueUnavailable, match=r"permission denied.*grant it"):
            catalogue.add([new_item(70)])
    change(filled, f"ALTER ROLE {name}_reader SET default_transaction_read_only = on")
    change(filled, f"GRANT ALL ON ALL TABLES IN SCHEMA {name} TO {name}_reader")
    with Catalogue.open(filled.replace("//hebbsearch@", f"//{name}_reader@")) as catalogue:
        assert not catalogue.writable
        with pytest.raises(CatalogueUnavailable, match=r"read-only.*make it writable"):
            catalogue.add([new_item(70)])
    with Catalogue.open(filled) as catalogue:
        assert catalogue.counts()["database"] == 20


@on_a_server
def test_what_is_not_there_and_what_is(filled: str, places: Callable[[], str]) -> None:
    with pytest.raises(CatalogueError, match=r"schema=test_\d+: no such catalogue"):
        Catalogue.open(places())
    with pytest.raises(CatalogueError, match=r"exists already; name another schema"):
        Catalogue.create(filled, encoder_id="00ff", bits=32, classes=[])
    with pytest.raises(CatalogueUnavailable, match="make the database first"):
        Catalogue.open(filled.replace("/postgres?", "/nowhere?"))
    with pytest.raises(CatalogueUnavailable, match="does not exist; look at user and password"):
        Catalogue.open(filled.replace("//hebbsearch@", "//nobody:secret@"))


@on_a_server
def test_of_two_that_make_the_same_one_one_does(path: str) -> None:
    def make(_: int) -> str:
        try:
            Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES).close()
            return "made"
        except CatalogueError as error:
            return str(error)

    with ThreadPoolExecutor(4) as threads:
        said = sorted(threads.map(make, range(4)))
    assert [each for each in said if "exists already" not in each] == ["made"]


@on_a_server
def test_a_database_in_another_encoding_is_refused(path: str) -> None:
    with postgresql.connected(path) as connection:
        connection.autocommit = True
        connection.execute(
            "CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LOCALE 'C' LOCALE_PROVIDER libc"
        )
    with pytest.raises(CatalogueError, match="encoded in LATIN1; make one with createdb -E UTF8"):
        Catalogue.create(path.replace("/postgres?", "/latin?"), encoder_id="0", bits=32, classes=[])


@on_a_server
def test_an_upgrade_makes_the_same_of_both(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    new = ("CREATE TABLE shapes (item_id INTEGER NOT NULL, outline BLOB, sure FLOAT, PRIMARY KEY (item_id))",)
    for module in ("schema", "checking"):
        monkeypatch.setattr(f"index.tables.{module}.SCHEMA", 9)
    monkeypatch.setitem(schema.UPGRADES, 9, new)
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(Catalogue.open, [filled] * 4))
    for catalogue in opened:
        assert not [fault for fault in catalogue.faults() if "no WebP" not in fault]
        catalogue.close()
    assert ask(filled, "SELECT value FROM meta WHERE key = 'schema'") == [("9",)]
    assert ask(filled, "SELECT outline, sure FROM shapes") == []


@on_a_server
def test_ids_that_would_be_given_again_are_a_fault(filled: str) -> None:
    change(filled, "ALTER SEQUENCE items_id_seq RESTART WITH 5")
    with Catalogue.open(filled) as catalogue:
        assert "would give the ids after 4 again, and 22 was given" in catalogue.faults()


@on_a_server
def test_its_size_is_that_of_its_tables(filled: str) -> None:
    with Catalogue.open(filled) as catalogue:
        before = catalogue.file_bytes()
        catalogue.add(new_item(n, thumbnail=os.urandom(10_000)) for n in range(100))
        assert catalogue.file_bytes() > before + 1_000_000 > 1_000_000


# --- servers that come and go --------------------------------------------------------------------------


def test_nobody_there_is_told_without_the_password(away: str) -> None:
    with pytest.raises(CatalogueAway, match="start it, or look at the network") as told:
        Catalogue.open(away)
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)
    assert str(told.value).startswith(without_password(away))


def test_killed_and_started_again_it_has_all_that_was_acknowledged(durable: postgresql.Server) -> None:
    with Catalogue.create(durable.new_schema(), encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        added = list[int]()
        enough = threading.Event()

        def add() -> CatalogueError:
            for number in range(100_000):
                try:
                    added.extend(catalogue.add([new_item(number % 200)]))
                except CatalogueError as error:
                    return error
                if len(added) >= 20:
                    enough.set()
            raise AssertionError

        with ThreadPoolExecutor(1) as threads:
            adding = threads.submit(add)
            assert enough.wait(60)
            durable.kill()
            assert isinstance(adding.result(), CatalogueAway)
        for attempt in (
            lambda: catalogue.revision,
            lambda: catalogue.get(1),
            lambda: catalogue.note("a", "b"),
        ):
            with pytest.raises(CatalogueAway) as told:
                attempt()
            assert "\n" not in str(told.value)
        durable.start()
        assert eventually(catalogue)
        ids = catalogue.codes().ids.tolist()
        assert set(added) <= set(ids) and len(ids) - len(added) in (0, 1)  # one may have been on its way
        catalogue.add([new_item(3)])
        assert not [fault for fault in catalogue.faults() if "no WebP" not in fault]


def eventually(catalogue: Catalogue) -> bool:
    """It answers again, once it is looked for again."""
    while True:
        try:
            return catalogue.revision > 0
        except CatalogueAway:
            threading.Event().wait(postgres_catalogue.RETRY / 10)


def test_where_it_is_away_one_looks_for_it_and_the_others_are_told(
    away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[int]()
    door = postgres_catalogue._Door()

    class Dialect:
        loaded_dbapi = psycopg

        def connect(self) -> None:
            tried.append(1)
            raise psycopg.OperationalError("nobody")

    with pytest.raises(psycopg.OperationalError):
        door(Dialect(), None, [], {})
    with pytest.raises(postgres_catalogue.Closed, match="nobody"):
        door(Dialect(), None, [], {})
    assert len(tried) == 1
    monkeypatch.setattr(postgres_catalogue.time, "monotonic", lambda: 1e12)
    with pytest.raises(psycopg.OperationalError):
        door(Dialect(), None, [], {})
    assert len(tried) == 2


# --- addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgresql+psycopg://me:secret@h/db", "its schema is ''"),
        ("postgresql+psycopg://me:secret@h/db?schema=", "its schema is ''"),
        ("postgresql+psycopg://me:secret@h/db?schema=Big", "small letters"),
        ('postgresql+psycopg://me:secret@h/db?schema=a";drop', "small letters"),
        ("postgresql+psycopg://me:secret@h/db?schema=pg_toast", "its schema is 'pg_toast'"),
        ("postgresql+psycopg://me:secret@h/db?schema=a&schema=b", "its schema is"),
        ("postgresql+psycopg://me:secret@h:port/db?schema=a", "is no URL"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/db?schema=a&colour=red", "colour"),
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(url: str, fault: str) -> None:
    for make in (Catalogue.open, lambda url: Catalogue.create(url, encoder_id="0", bits=8, classes=[])):
        with pytest.raises(CatalogueError, match=fault) as told:
            make(url)
        assert "secret" not in str(told.value)


@pytest.mark.parametrize("address", ["mysql://me:secret@h/db?schema=a", "/catalogue.sqlite", "secret"])
def test_another_kind_of_place_is_no_address(address: str) -> None:
    with pytest.raises(CatalogueError, match="no URL of PostgreSQL; wanted such as") as told:
        without_password(address)
    assert "secret" not in str(told.value)


def test_a_password_is_written_nowhere() -> None:
    for scheme in ("postgresql+psycopg", "postgresql", "postgres"):
        url = f"{scheme}://me:secret@h:5/db?schema=a&password=secret&sslmode=require"
        assert without_password(url) == "postgresql+psycopg://me@h:5/db?schema=a&sslmode=require"


def test_without_the_driver_one_line_names_the_extra() -> None:
    script = """
import sys
sys.modules["psycopg"] = None
from index.catalogue import Catalogue
from index.database import CatalogueUnavailable
try:
    Catalogue.open("postgresql+psycopg://me:secret@h/db?schema=a")
except CatalogueUnavailable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "pip install 'hebbsearch[postgres]'" in done.stdout
    assert "secret" not in done.stdout and done.stdout.count("\n") == 1
