"""Networks that learn in a second what the tests look at."""

import sys
from contextlib import contextmanager

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


@pytest.fixture
def here(tmp_path, narrow, monkeypatch, capsys):
    """The command in this process: what it prints on both ways, and its exit code."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments, code=0):
        from training.build_index import main

        monkeypatch.setattr(sys, "argv", ["build_index", *arguments])
        try:
            main()
            found = 0
        except SystemExit as stop:
            found = stop.code
        said = capsys.readouterr()
        assert found == code, said.err
        return said.out if code == 0 else said.err

    return command


@pytest.fixture
def before_the_head(monkeypatch):
    """Do something, or stop, when the features are fine-tuned."""

    @contextmanager
    def patched(act=None):
        from training.run import Run

        train_head = Run.train_head

        def act_and_train(self, saved):
            if act is None:
                raise KeyboardInterrupt
            act(self)
            return train_head(self, saved)

        with monkeypatch.context() as patch:
            patch.setattr(Run, "train_head", act_and_train)
            yield

    return patched
