"""Artifacts of one test alone, and services over them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from index.artifact import Artifact
from tests import postgresql
from tests.samples import build_pair, served
from tests.service.embedded import embed_by_hand


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[postgresql.Server]:
    """That forgets what a power cut would take."""
    with postgresql.server("-c", "fsync=off") as started:
        yield started


@pytest.fixture
def url(postgresql_server: postgresql.Server) -> str:
    """Of a schema that is not there yet."""
    return postgresql_server.new_schema()


@pytest.fixture
def picture(artifact: Artifact) -> Path:
    return Path(artifact.manifest.data["root"]) / "class2" / "007.png"


@pytest.fixture
def mine(artifact: Artifact, tmp_path: Path) -> Path:
    """A copy of the collection, of the test alone; the images stay where they are."""
    return Path(shutil.copytree(artifact.path, tmp_path / "artifact"))


@pytest.fixture
def http(mine: Path) -> Iterator[httpx.Client]:
    """A service over a collection of the test alone."""
    with served(mine) as client:
        yield client


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return build_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def both(pair: Path, tmp_path: Path) -> Path:
    """The same, of the test alone."""
    shutil.copytree(pair, tmp_path / "artifacts")
    return tmp_path / "artifacts"


@pytest.fixture
def by_hand(own: Artifact) -> Artifact:
    """The collection of the test alone, with embeddings made by hand."""
    embed_by_hand(own)
    return own
