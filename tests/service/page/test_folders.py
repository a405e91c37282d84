"""The tree of folders beside the images, in a real browser against the real service."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from index.artifact import CATALOGUE, Artifact
from index.catalogue import Catalogue
from index.items import UNLABELLED, File, NewItem
from tests.samples import draw, served
from tests.service.page.browser import barriers, fits, images_view, opened, png, tab_to
from training.nets.images import thumbnail

SIBLINGS = 230  # folders in one: more than are shown at once
NESTED = {"march/<i>1</i>": 2, "march/2": 1, "april": 3}  # images, by the folder in `scans` they lie in


@pytest.fixture(scope="module")
def address(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a service over the collection with more folders. Not to be changed."""
    mine = Path(shutil.copytree(artifact.path, tmp_path_factory.mktemp("folders") / "artifact"))
    places = [(None, f"many/{number:03}/one.png") for number in range(SIBLINGS)]
    places += [("scans", f"{name}/{number}.png") for name, count in NESTED.items() for number in range(count)]
    picture = thumbnail(draw(0, 0))
    with Catalogue.open(mine / CATALOGUE) as catalogue:
        codes = np.random.default_rng(0).integers(0, 256, (len(places), catalogue.bits // 8), np.uint8)
        catalogue.add(
            NewItem(
                path=path,
                label=UNLABELLED,
                split="database",
                width=24,
                height=24,
                thumbnail=picture,
                code=code,
                file=File(number.to_bytes(32, "big"), folder=folder),
            )
            for number, ((folder, path), code) in enumerate(zip(places, codes, strict=True))
        )
    with served(mine) as http:
        yield str(http.base_url).rstrip("/")


@pytest.fixture
def view(browser: Browser, address: str) -> Iterator[Page]:
    for view in images_view(browser, address):
        expect(folder(view, "scans")).to_be_visible()
        yield view


def folder(view: Page, path: str) -> Locator:
    return view.locator(f"#folder-tree [data-path='{path}']")


def listed(view: Page, count: int) -> None:
    expect(view.locator("#images-status")).to_have_text(f"{count} images.")


def test_a_folder_shows_its_images_and_those_below(view: Page) -> None:
    expect(view.locator("#folder-tree > li > a")).to_have_text(
        ["class020", "class120", "class220", f"many{SIBLINGS}", "new3", "scans6"]
    )
    folder(view, "scans").locator(".fold").click()
    listed(view, 63 + SIBLINGS + 6)  # which opens and lists nothing
    expect(folder(view, "scans/march")).to_have_text("march3")
    folder(view, "scans/march").click()
    listed(view, 3)
    expect(view).to_have_url(re.compile(r"#images\?under=scans%2Fmarch$"))
    expect(folder(view, "scans/march")).to_have_attribute("aria-current", "true")
    view.select_option("#images-order", label="file name, Z to A")
    expect(view).to_have_url(re.compile(r"#images\?under=scans%2Fmarch&sort=name&descending=true$"))
    folder(view, "class1").click()
    listed(view, 20)
    expect(view).to_have_url(re.compile(r"#images\?under=class1&sort=name&descending=true$"))
    view.go_back()
    listed(view, 3)
    expect(folder(view, "scans/march")).to_have_attribute("aria-current", "true")
    expect(folder(view, "class1")).not_to_have_attribute("aria-current", "true")
    view.get_by_role("button", name="Folder “scans/march” ×").click()
    listed(view, 63 + SIBLINGS + 6)
    expect(view.locator("#folder-tree [aria-current]")).to_have_count(0)


def test_by_keyboard_alone(view: Page) -> None:
    tab_to(view, "#folder-tree a")
    for key, path in (
        ("End", "scans"),
        ("ArrowDown", "scans"),
        ("ArrowUp", "new"),
        ("ArrowRight", "new"),  # there is nothing in it
        ("ArrowDown", "scans"),
        ("ArrowRight", "scans"),
        ("ArrowRight", "scans/april"),
        ("ArrowDown", "scans/march"),
        ("ArrowRight", "scans/march"),
        ("ArrowDown", "scans/march/2"),
        ("ArrowUp", "scans/march"),
        ("ArrowRight", "scans/march/2"),
        ("ArrowLeft", "scans/march"),
        ("ArrowLeft", "scans/march"),
        ("ArrowLeft", "scans"),
        ("Home", "class0"),
    ):
        if key in ("ArrowRight", "ArrowDown") and view.locator("#folder-tree [aria-expanded=true]").count():
            expect(view.locator("#folder-tree [role=group] a").first).to_be_attached()
        view.keyboard.press(key)
        expect(folder(view, path)).to_be_focused()
        if (path, key) == ("scans/march", "ArrowRight"):
            expect(folder(view, "scans/march/2")).to_be_attached()
    expect(view.locator("#folder-tree [tabindex='0']")).to_have_count(1)
    view.keyboard.press("Tab")
    assert not view.evaluate("document.activeElement.closest('#folder-tree')")
    view.keyboard.press("Shift+Tab")
    expect(folder(view, "class0")).to_be_focused()
    view.keyboard.press("Space")
    listed(view, 20)
    expect(folder(view, "class0")).to_be_focused()
    view.keyboard.press("ArrowDown")
    view.keyboard.press("Enter")
    expect(view).to_have_url(re.compile(r"#images\?under=class1$"))


def test_an_address_opens_the_way_to_its_folder(browser: Browser, address: str) -> None:
    for view in opened(browser, address, view="#images?under=scans/march/%3Ci%3E1%3C/i%3E"):
        listed(view, 2)  # its name is text, and three folders by its slash
        expect(folder(view, "scans/march/<i>1</i>")).to_have_attribute("aria-current", "true")
        expect(folder(view, "scans/march/<i>1<")).to_have_attribute("aria-expanded", "true")
    for view in opened(browser, address, view="#images?under=many/229"):
        expect(view.locator("#images-list a[data-image]")).to_have_count(1)
        expect(folder(view, "many/229")).to_be_in_viewport()
    for view in opened(browser, address, view="#images?under=nowhere/at/all"):
        expect(view.locator("#images-status")).to_have_text("No image.")
        expect(view.locator("#folder-tree [aria-current]")).to_have_count(0)


def test_of_many_folders_the_first_are_shown_and_then_more(view: Page) -> None:
    folder(view, "many").locator(".fold").click()
    expect(view.locator("#folder-tree [role=group] a")).to_have_count(200)
    more = view.locator("#folder-tree button")
    more.focus()
    view.keyboard.press("Enter")
    expect(view.locator("#folder-tree [role=group] a")).to_have_count(SIBLINGS)
    expect(folder(view, "many/200")).to_be_focused()
    expect(more).to_have_count(0)
    folder(view, "many").locator(".fold").click()
    expect(folder(view, "many/200")).to_be_hidden()


def test_what_comes_and_goes_is_counted_anew(my_view: Page, http: httpx.Client, tmp_path: Path) -> None:
    expect(folder(my_view, "new")).to_have_text("new3")
    folder(my_view, "new").click()
    expect(my_view.locator("#images-list li")).to_have_count(3)
    my_view.get_by_role("checkbox", name="Select image 62,").check()
    my_view.locator("#delete-selected").click()
    expect(folder(my_view, "new")).to_have_text("new2")
    (tmp_path / "trip" / "day").mkdir(parents=True)
    (tmp_path / "trip" / "day" / "1.png").write_bytes(png(1))
    my_view.set_input_files("#add-folder", tmp_path / "trip")
    my_view.get_by_role("button", name="Add 1 image").click()
    expect(folder(my_view, "trip")).to_have_text("trip1")
    my_view.select_option("#images-filter", label="Trash (1)")
    expect(my_view.locator("#images-list li")).to_have_count(1)
    folder(my_view, "trip").click()
    expect(my_view).to_have_url(re.compile(r"#images\?under=trip$"))
    assert [each["name"] for each in http.get("/folders").json()["folders"]][-1] == "trip"


def test_what_cannot_be_opened_says_why(browser: Browser, address: str) -> None:
    for view in images_view(browser, address, refused=(500,)):
        expect(folder(view, "scans")).to_be_visible()
        view.route("**/folders?*", lambda route: route.fulfill(status=500, body='{"detail": "no disk"}'))
        folder(view, "scans").locator(".fold").click()
        expect(view.locator("#folders .error")).to_have_text("No disk")
        expect(folder(view, "scans")).to_have_attribute("aria-expanded", "false")
        view.unroute("**/folders?*")
        folder(view, "scans").locator(".fold").click()
        expect(folder(view, "scans/march")).to_be_visible()
        expect(view.locator("#folders .error")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out(browser: Browser, address: str, scheme: str) -> None:
    for view in opened(browser, address, view="#images?under=scans/march", color_scheme=scheme):
        expect(folder(view, "scans/march")).to_have_attribute("aria-current", "true")
        folder(view, "many").locator(".fold").click()
        expect(folder(view, "many/000")).to_be_visible()
        assert barriers(view) == []
        for width in (360, 2560):
            assert fits(view, width)
            expect(folder(view, "scans/march")).to_be_visible()


def test_on_a_phone_it_is_folded(browser: Browser, address: str) -> None:
    for view in images_view(browser, address, viewport={"width": 360, "height": 740}):
        expect(view.locator("#folders summary")).to_be_visible()
        expect(folder(view, "scans")).to_be_hidden()
        view.locator("#folders summary").click()
        expect(folder(view, "scans")).to_be_visible()
