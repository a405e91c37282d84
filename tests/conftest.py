"""What all tests share: markers, one thread, no garbage, and artifacts with the service over them.

Nothing heavy is imported here: the process that only hands tests to others reads this file too.
"""

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import forking

# Everywhere the kernels of processors without AVX-512: others round otherwise, and learning makes more of it.
# Before torch runs the first one, here and in all processes that are started.
for variable, value in {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}.items():
    os.environ.setdefault(variable, value)

if TYPE_CHECKING:
    from index.artifact import Artifact
    from tests import postgresql

STARTS = ("subprocess.Popen", "tests.serve_here")  # audit events
# Fixtures that start a server or a command.
SERVERS = {"server", "own_server", "http", "browser", "address", "served", "guarded", "changing", "metrics"}
SERVERS |= {"postgresql_server", "durable", "milvus_server", "mortal_milvus"}
COMMANDS = {"built", "interrupted"}
FREEZING = gc.freeze, gc.unfreeze

# What a shell starts in the background ignores Ctrl-C and hands that on, also to the processes that a test
# stops with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Marking:
    """Only a test with the marker `process` starts a process or a server: `make quick` leaves those out. The
    service's own process that decodes is not meant: it belongs to what any test of a route asks."""

    def __init__(self) -> None:
        self._test: pytest.Item | None = None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._test = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._test = item

    def hear(self, event: str, arguments: object) -> None:
        """An audit hook."""
        if event not in STARTS or self._test is None or "nurse(" in str(arguments):
            return
        # What is slow is left out of `make quick` anyway.
        if not any(map(self._test.get_closest_marker, ("process", "slow"))):
            raise RuntimeError(f"{self._test.nodeid} starts a process or a server: mark it with `process`")


def pytest_configure(config: pytest.Config) -> None:
    marking = Marking()
    config.pluginmanager.register(marking)
    sys.addaudithook(marking.hear)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who asks a server for something needs one. Files with processes come first: they take longest, and two
    files run at a time, so that small ones shall be left for the end."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & (SERVERS | COMMANDS):
            item.add_marker("process")
        if "browser" in fixtures:
            item.add_marker("browser")
    long = {item.path for item in items if item.get_closest_marker("process")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """Where torch was imported it gets one thread, as tests run side by side and their tensors are small; and
    no loggers apart: pytest would attach itself to each of these 44, six times a test."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
        for name in logging.root.manager.loggerDict:
            if name.startswith("torch"):
                logging.getLogger(name).propagate = True


@pytest.fixture(scope="session", autouse=True)
def without_garbage() -> Iterator[None]:
    """Each service that starts collects garbage, which takes a quarter of a second while torch and pytest are
    among what it looks through. What exists now stays out of that, also when a service has ended."""
    gc.collect()
    with frozen():
        yield


@contextmanager
def frozen() -> Iterator[None]:
    """Nothing that exists now is looked through for garbage, whoever says what about it meanwhile; nor when
    this process ends, which would take seconds."""
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", lambda: None)
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A command that runs in this process takes numbers next to 0 for 0, which holds for all that follows:
    what draws numbers at random refuses to."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture
def garbage() -> Iterator[None]:
    """Garbage is what it is outside of these tests."""
    patched = gc.freeze, gc.unfreeze
    gc.freeze, gc.unfreeze = FREEZING
    gc.unfreeze()
    yield
    gc.freeze()
    gc.freeze, gc.unfreeze = patched


@pytest.fixture(scope="session", autouse=True)
def forked_processes() -> Iterator[None]:
    """The parent of all that `forking` starts ends with the session."""
    yield
    forking.end()


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> "Artifact":
    """60 labelled images in three classes, 3 unlabelled ones, 12 queries. Not to be changed."""
    from tests import samples

    return samples.build_artifact(tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def own(tmp_path: Path) -> "Artifact":
    """The same, of the test alone: it may be changed."""
    from tests import samples

    return samples.build_artifact(tmp_path)


@pytest.fixture
def durable() -> "Iterator[postgresql.Server]":
    """A PostgreSQL of the test alone, which may be killed."""
    from tests import postgresql

    with postgresql.server() as started:
        yield started


@pytest.fixture(scope="session")
def unlabelled_artifact(tmp_path_factory: pytest.TempPathFactory) -> "Artifact":
    """The same images without labels and queries. Not to be changed."""
    from tests import samples

    return samples.build_artifact(tmp_path_factory.mktemp("unlabelled"), labels=False)


@pytest.fixture(scope="session")
def server(artifact: "Artifact") -> Iterator[str]:
    """The address of a running service over `artifact`."""
    from tests import samples

    with samples.serve(artifact.path) as address:
        yield address
