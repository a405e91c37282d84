from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from index.catalogue import Catalogue
from index.engine import Engine
from index.milvus import MilvusRanker
from index.postgres import PostgresRanker
from index.remote import RemoteEngine
from tests import milvus, postgresql
from tests.index.catalogues import CLASSES, Place, new_item, new_query
from tests.index.milvus_collections import exists, ranker


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """One PostgreSQL for all tests that only need it to be there. It forgets what a power cut would take."""
    with postgresql.server("-c", "fsync=off", "-c", "synchronous_commit=off") as started:
        yield started


@pytest.fixture
def postgresql_engines(postgresql_server: postgresql.Server) -> Iterator[Callable[[int], RemoteEngine]]:
    """What makes engines that PostgreSQL ranks for, each in a schema of its own."""
    made = list[PostgresRanker]()

    def make(bits: int) -> RemoteEngine:
        for each in made:  # one that is used again connects again: a server has few connections
            each.close()
        made.append(PostgresRanker(postgresql_server.new_schema(), bits=bits, encoder_id="00ff"))
        return RemoteEngine(made[-1])

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def milvus_server() -> Iterator[milvus.Server]:
    """One Milvus for all tests that only need it to be there."""
    with milvus.server() as started:
        yield started


@pytest.fixture
def in_milvus(milvus_server: milvus.Server) -> Iterator[Callable[[int], Engine]]:
    """What makes engines of so many bits, each in a collection of its own."""
    rankers = list[MilvusRanker]()

    def make(bits: int) -> Engine:
        rankers.append(MilvusRanker(milvus_server.new_collection(), bits=bits, encoder_id="00ff"))
        return RemoteEngine(rankers[-1])

    yield make
    for made in rankers:
        made.drop()
        made.close()


@pytest.fixture
def mortal_milvus(monkeypatch: pytest.MonkeyPatch) -> Iterator[milvus.Server]:
    """One of the test alone, which may be killed, and is looked for often."""
    monkeypatch.setattr("index.milvus_server.RETRY", 0.1)
    with milvus.server() as started:
        yield started


@pytest.fixture
def place(milvus_server: milvus.Server) -> Iterator[str]:
    """A collection's URL, which goes with the test."""
    url = milvus_server.new_collection()
    yield url
    if exists(url):
        last = ranker(url)
        last.drop()
        last.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.process)])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Place]:
    """Where catalogues can be made: each time a file, or a schema, that is not there yet."""
    if request.param == "postgresql":
        started: postgresql.Server = request.getfixturevalue("postgresql_server")
        return started.new_schema
    names = iter(["with space % #?.sqlite", *(f"{number}.sqlite" for number in range(2, 1000))])
    return lambda: tmp_path / next(names)


@pytest.fixture
def path(places: Callable[[], Place]) -> Place:
    return places()


@pytest.fixture
def catalogue(path: Place) -> Iterator[Catalogue]:
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        yield catalogue


@pytest.fixture
def filled(path: Place) -> Place:
    """A closed catalogue of twenty items and two queries."""
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add([new_item(number) for number in range(20)])
        catalogue.add([new_query(20), new_query(21)])
    return path
