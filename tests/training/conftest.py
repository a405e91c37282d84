"""Networks that learn in a second what the tests look at."""

import pytest

from training.nets import encoder
from training.nets.backbones import BACKBONES, Conv, Plan

NARROW = Plan(
    32, (Conv(12, 5, pool=2), Conv(16, 3), Conv(24, 3, pool=2), Conv(32, 3)), hidden=128
)  # an eighth of the channels


REAL = BACKBONES["conv6"]


@pytest.fixture
def narrow(monkeypatch):
    """conv6 with the same layers of few channels, and whitening of small tiles: 40 times as fast. For tests
    of what happens when and to which images. What a network is made of is tested with the real ones."""
    monkeypatch.setitem(BACKBONES, "conv6", NARROW)
    monkeypatch.setattr(encoder, "TILE", 8)


@pytest.fixture
def real(narrow, monkeypatch):
    """conv6 as it is, where all other tests of a file take the narrow one."""
    monkeypatch.setitem(BACKBONES, "conv6", REAL)
