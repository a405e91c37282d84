from collections.abc import Iterator
from pathlib import Path

import pytest

from index.catalogue import Catalogue
from tests.index.catalogues import CLASSES, new_item, new_query


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "with space % #?.sqlite"


@pytest.fixture
def catalogue(path: Path) -> Iterator[Catalogue]:
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        yield catalogue


@pytest.fixture
def filled(path: Path) -> Path:
    """A closed catalogue of twenty items and two queries."""
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add([new_item(number) for number in range(20)])
        catalogue.add([new_query(20), new_query(21)])
    return path
