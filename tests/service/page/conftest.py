"""A real browser for the tests of the page."""

import os
import shutil
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.service.page.browser import images_view, opened

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
def my_view(browser: Browser, http: httpx.Client) -> Iterator[Page]:
    """The images of a collection of the test alone."""
    yield from images_view(browser, str(http.base_url).rstrip("/"))
