"""An engine beside its catalogue, when either of them is away."""

import logging
from collections.abc import Iterator

import numpy as np
import pytest

from index import following
from index.catalogue import Catalogue
from index.database import CatalogueAway
from index.engine import EngineAway
from index.following import Following
from index.hamming import FaissEngine
from index.items import Changes
from index.remote import RemoteEngine
from tests.index.catalogues import Place, in_a_file, new_item
from tests.index.test_remote import Kept

pytestmark = in_a_file
CODE = np.zeros((1, 4), np.uint8)


class Kept32(Kept):
    bits = 32

    def __init__(self) -> None:
        super().__init__()
        self.engine = FaissEngine(32)
        self.written = 0

    def write(self, changes: Changes, since: int, *, patience: float) -> None:
        self.written += 1
        super().write(changes, since, patience=patience)


@pytest.fixture
def opened(filled: Place) -> Iterator[tuple[Catalogue, Changes]]:
    catalogue, contents = Catalogue.load(filled)
    with catalogue:
        yield catalogue, contents


def found(follower: Following) -> list[int]:
    return follower.engine.search(CODE, 99, at_least=follower.engine.revision)[1][0].tolist()


def test_the_engine_is_as_its_catalogue_whenever_it_is_asked(opened: tuple[Catalogue, Changes]) -> None:
    catalogue, contents = opened
    follower = Following(FaissEngine(32), catalogue, contents)
    catalogue.remove([1, 2])
    assert len(follower.snapshot()) == 18
    assert follower.snapshot() is follower.snapshot()
    assert follower.behind == 0


def test_a_catalogue_that_is_away_leaves_the_engine_as_it_was(
    opened: tuple[Catalogue, Changes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue, contents = opened
    follower = Following(FaissEngine(32), catalogue, contents)

    def away(_: Catalogue) -> int:
        raise CatalogueAway("it: gone")

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "hebbsearch"):
        patch.setattr(Catalogue, "revision", property(away))
        assert len(follower.snapshot()) == len(follower.snapshot()) == 20
        assert follower.catalogue_absence.reason == "it: gone"
    assert len(caplog.messages) == 1
    follower.snapshot()
    assert follower.catalogue_absence.reason is None


def test_an_engine_that_takes_nothing_is_behind_and_asked_again_after_a_moment(
    opened: tuple[Catalogue, Changes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue, contents = opened
    kept = Kept32()
    follower = Following(RemoteEngine(kept), catalogue, contents)
    now = [100.0]
    monkeypatch.setattr(following.time, "monotonic", lambda: now[0])
    kept.away = True
    with caplog.at_level(logging.INFO, "hebbsearch"):
        (new,) = catalogue.add([new_item(50)])
        catalogue.remove([1])
        assert len(follower.snapshot()) == 20
        assert (follower.behind, follower.engine_absence.reason) == (2, "there: does not answer")
        tried = kept.written
        assert 1 not in found(follower) and new not in found(follower)
        follower.snapshot()
        assert kept.written == tried, "not again and again"
        catalogue.remove([2])
        follower.snapshot()
        assert 2 not in found(follower), "what is removed is known here at once"
        assert follower.behind == 3
        kept.away = False
        now[0] += following.RETRY
        follower.snapshot()
    assert (follower.behind, follower.engine_absence.reason) == (0, None)
    assert new in found(follower)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_at_the_start_it_takes_what_it_lacks_and_no_more(filled: Place) -> None:
    kept = Kept32()
    catalogue, contents = Catalogue.load(filled)
    with catalogue:
        Following(RemoteEngine(kept), catalogue, contents)
        catalogue.remove([3])
    catalogue, contents = Catalogue.load(filled)
    with catalogue:
        follower = Following(RemoteEngine(kept), catalogue, contents)
        assert kept.written == 1
        follower.snapshot()
        assert kept.written == 2
        assert len(kept.engine) == 19


def test_an_engine_that_is_away_at_the_start_is_an_error(filled: Place) -> None:
    kept = Kept32()
    kept.away = True
    catalogue, contents = Catalogue.load(filled)
    with catalogue, pytest.raises(EngineAway):
        Following(RemoteEngine(kept), catalogue, contents)
    assert kept.closed
