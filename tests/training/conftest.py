"""Networks that learn in a second what the tests look at."""

import pytest

from tests.training.narrow import REAL, widths_are_narrow
from training.nets.backbones import BACKBONES


@pytest.fixture
def narrow(monkeypatch):
    """Backbones with the same layers of few channels, and whitening of small tiles: 40 times as fast. For
    tests of what happens when and to which images. What a network is made of is tested with the real ones."""
    widths_are_narrow(monkeypatch.setitem, monkeypatch.setattr)


@pytest.fixture
def real(narrow, monkeypatch):
    """Backbones as they are, where all other tests of a file take narrow ones."""
    for name, plan in REAL.items():
        monkeypatch.setitem(BACKBONES, name, plan)
