"""Fifty thousand images from end to end: each has its place, and the tab stays small."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from index.artifact import Artifact
from tests.benchmarks.browse import SCROLL, STEP, WATCH, megabytes, resident
from tests.samples import enlarge, served
from tests.service.page.browser import images_view

pytestmark = pytest.mark.slow

MANY = 50_000
MOST = 300  # elements
TAB = 300  # megabytes


@pytest.fixture
def http(artifact: Artifact, tmp_path: Path) -> Iterator[httpx.Client]:
    folder = Path(shutil.copytree(artifact.path, tmp_path / "artifact"))
    enlarge(folder, MANY)
    with served(folder) as client:
        yield client


@pytest.fixture
def view(browser: Browser, http: httpx.Client) -> Iterator[Page]:
    yield from images_view(browser, str(http.base_url).rstrip("/"))


def ids_in(http: httpx.Client, order: str) -> list[int]:
    """All ids in an order, asked for page by page."""
    found = list[int]()
    while page := http.get("/images", params={"sort": order, "offset": len(found), "limit": 1000}).json()[
        "images"
    ]:
        found += [image["id"] for image in page]
    return found


def test_it_scrolls_from_end_to_end_and_the_tab_stays_small(view: Page, http: httpx.Client) -> None:
    expected = ids_in(http, "id")
    assert len(expected) == 63 + MANY
    view.evaluate(WATCH)
    view.set_default_timeout(0)  # it takes minutes
    view.evaluate(SCROLL, STEP)
    last = view.locator(f"#images-list a[data-image='{expected[-1]}']")
    expect(last).to_be_in_viewport()
    assert 0 < view.evaluate("window.most") < MOST
    assert 0 < resident() < TAB, megabytes(view.context.new_cdp_session(view))


@pytest.mark.parametrize("order", ["id", "name", "time", "label"])
def test_the_slider_leads_to_what_lies_there_in_each_order(
    view: Page, http: httpx.Client, order: str
) -> None:
    view.goto(f"{http.base_url}#images?sort={order}")
    expected = ids_in(http, order)
    slider = view.get_by_role("slider", name="Place in the list")
    expect(slider).to_have_attribute("aria-valuetext", re.compile(f"^1 of {len(expected):,}"))
    for place in (0, 12_345, 25_000, 49_999, len(expected) - 1):
        slider.fill(str(place))
        expect(view.locator(f"#images-list a[data-image='{expected[place]}']")).to_be_in_viewport()


def test_a_selection_of_everything_survives_scrolling(view: Page) -> None:
    view.locator("#images-list a").first.focus()
    view.keyboard.press("Control+a")
    selected = view.locator("#selection-count")
    expect(selected).to_have_text(f"{63 + MANY:,} selected")
    view.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(view.locator(f"#images-list a[data-image='{75 + MANY}']")).to_be_in_viewport()
    expect(selected).to_have_text(f"{63 + MANY:,} selected")
    last = view.locator("#images-list li").last.get_by_role("checkbox")
    expect(last).to_be_checked()
    last.uncheck()
    expect(selected).to_have_text(f"{62 + MANY:,} selected")
