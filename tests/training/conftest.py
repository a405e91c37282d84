"""Networks that learn in a second what the tests look at."""

import sys
from contextlib import contextmanager

import pytest

from tests.training.narrow import REAL, little_is_enough, widths_are_narrow
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
def call(monkeypatch, capsys):
    """A command in this process: what it prints on both ways, once its exit code is the expected one."""

    def run(main, *arguments, code=0):
        monkeypatch.setattr(sys, "argv", [main.__module__, *map(str, arguments)])
        try:
            main()
            found = 0
        except SystemExit as stop:
            found = int(stop.code or 0)
        printed = capsys.readouterr()
        assert found == code, printed.err
        return printed

    return run


@pytest.fixture
def few(monkeypatch):
    """A student learns from a few images too, and all that learns takes some steps only."""
    little_is_enough(monkeypatch.setattr)


@pytest.fixture
def here(tmp_path, narrow, monkeypatch, call):
    """The command in this process: what it prints on both ways, and its exit code."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments, code=0):
        from training.build_index import main

        printed = call(main, *arguments, code=code)
        return printed.out if code == 0 else printed.err

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
