"""Engines by name and by address, and how what ranks elsewhere is brought up to date."""

import numpy as np
import pytest

from index import engines
from index.catalogue import Catalogue
from index.engine import EngineError
from index.engines import fill, making, ranked, shown
from index.hamming import FaissEngine
from index.items import Changes
from index.ivf import IvfEngine
from tests.index.catalogues import Place, in_a_file, new_item
from tests.index.test_following import Kept32

URL = "postgresql+psycopg://me:hidden@host/db?schema=a"


def test_a_name_says_which_engine() -> None:
    assert isinstance(making("flat", recall=1)(8, "00ff"), FaissEngine)
    assert isinstance(making("ivf", recall=1)(8, "00ff"), IvfEngine)
    assert [shown(name) for name in ("flat", "ivf")] == ["flat", "ivf"]


def test_an_address_is_shown_without_its_password() -> None:
    assert shown(URL) == URL.replace(":hidden", "")


@pytest.mark.parametrize(
    "name", ["", "Flat", "mysql://me:hidden@host/db", "postgresql+psycopg://me:hidden@h/d"]
)
def test_what_is_no_engine_is_refused_without_its_password(name: str) -> None:
    for call in (shown, lambda text: making(text, recall=1)):
        with pytest.raises(ValueError, match="schema=name") as caught:
            call(name)
        assert "hidden" not in str(caught.value)


@in_a_file
class TestFilling:
    def test_it_goes_on_where_it_broke_off(self, filled: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "TOGETHER", 5)
        kept = Kept32()
        with Catalogue.open(filled) as catalogue:
            for number in range(100, 130):
                catalogue.add([new_item(number)])
            catalogue.remove([4, 7])
            filling = fill(kept, catalogue)
            next(filling), next(filling)
            kept_then, written = kept.revision(), kept.written
            assert -1 < kept_then < catalogue.revision
            filling.close()
            assert sum(fill(kept, catalogue)) > 0
            assert kept.written > written
            assert kept.revision() == catalogue.revision
            assert kept.engine.snapshot.ids.tolist() == catalogue.codes().ids.tolist()
            assert ranked(kept) == 48
            assert list(fill(kept, catalogue)) == [], "there is nothing to do"

    def test_anew_leaves_nothing_of_before(self, filled: Place) -> None:
        kept = Kept32()
        with Catalogue.open(filled) as catalogue:
            list(fill(kept, catalogue))
            wrong = catalogue.codes()
            kept.engine.apply(Changes(99, wrong.rows(slice(2)), np.arange(3, 9), ()))
            with pytest.raises(EngineError, match=r"has revision 99 .* hebbsearch sync --anew"):
                list(fill(kept, catalogue))
            list(fill(kept, catalogue, anew=True))
            assert ranked(kept) == 20

    def test_codes_that_are_missing_are_told(self, filled: Place) -> None:
        kept = Kept32()
        with Catalogue.open(filled) as catalogue:
            kept.engine.apply(Changes(catalogue.revision, catalogue.codes().rows(slice(3)), np.arange(0), ()))
            with pytest.raises(EngineError, match=r"has 3 codes of 20; hebbsearch sync --anew"):
                list(fill(kept, catalogue))
