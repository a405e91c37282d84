"""A real browser for the tests of the page."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from index.artifact import Artifact
from service.app import create_app
from service.settings import Settings
from tests.conftest import build_pair, serve_here
from tests.service.page.browser import opened

# Of Chromium, the cheapest first: the shell is the same engine without windows, for half the processor time.
PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if executable is None:
        reason = "no Chromium here: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """The page, opened. Ends with a failure if the browser complained of anything."""
    yield from opened(browser, server)


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
    with (
        serve_here(create_app(Settings(artifact=mine))) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
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
