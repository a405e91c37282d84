"""A list that is longer than the page has elements, in a real browser against the real service."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from index.artifact import Artifact
from tests.benchmarks.browse import WATCH
from tests.samples import enlarge, served
from tests.service.page.browser import barriers, fits, images_view, listed, tab_to

MANY = 600
ALL = 63 + MANY
LAST = 75 + MANY  # the highest id; 64 to 75 are held out
MOST = 300  # elements


@pytest.fixture(scope="module")
def many(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long list. Not to be changed."""
    folder = Path(shutil.copytree(artifact.path, tmp_path_factory.mktemp("many") / "artifact"))
    enlarge(folder, MANY)
    return folder


@pytest.fixture(scope="module")
def address(many: Path) -> Iterator[str]:
    """Of a service for all that only look."""
    with served(many) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture
def mine(many: Path, tmp_path: Path) -> Path:
    """The same list, of the test alone."""
    return Path(shutil.copytree(many, tmp_path / "artifact"))


@pytest.fixture
def view(browser: Browser, address: str) -> Iterator[Page]:
    yield from watched(browser, address)


@pytest.fixture
def my_view(browser: Browser, http: httpx.Client) -> Iterator[Page]:
    yield from watched(browser, str(http.base_url).rstrip("/"))


def watched(browser: Browser, address: str) -> Iterator[Page]:
    """With a watch over the number of cards that are elements."""
    for view in images_view(browser, address):
        view.evaluate(WATCH)
        yield view
        assert (
            0 <= view.evaluate("window.most ?? document.querySelector('#images-list').children.length") < MOST
        )


def card(view: Page, item_id: int) -> Locator:
    return view.locator(f"#images-list a[data-image='{item_id}']")


def to_the_end(view: Page) -> None:
    view.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(card(view, LAST)).to_be_in_viewport()


def to_the_start(view: Page) -> None:
    view.evaluate("scrollTo(0, 0)")
    expect(card(view, 1)).to_be_in_viewport()


def selected(view: Page, words: str) -> None:
    expect(view.locator("#selection-count")).to_have_text(words)


def test_it_scrolls_from_end_to_end_and_says_where_each_image_is(view: Page) -> None:
    expect(view.locator("#images-status")).to_have_text(f"{ALL} images.")
    expect(view.locator("#score")).to_be_visible()  # by then the footer has its lines
    height = view.evaluate("document.documentElement.scrollHeight")
    to_the_end(view)
    expect(card(view, 1)).to_have_count(0)
    last = view.locator("#images-list > li").last
    expect(last).to_have_attribute("aria-posinset", str(ALL))
    expect(last).to_have_attribute("aria-setsize", str(ALL))
    assert view.evaluate("document.documentElement.scrollHeight") == height
    to_the_start(view)
    places = view.locator("#images-list > li").evaluate_all(
        "cards => cards.map((card) => Number(card.getAttribute('aria-posinset')))"
    )
    assert places == list(range(1, len(places) + 1))  # also in the order of Tab


def test_the_slider_leads_anywhere_and_says_what_lies_there(view: Page) -> None:
    slider = view.get_by_role("slider", name="Place in the list")
    slider.fill("330")
    expect(slider).to_have_attribute("aria-valuetext", f"331 of {ALL}")
    expect(card(view, 331 + 12)).to_be_in_viewport()
    slider.press("End")
    expect(card(view, LAST)).to_be_in_viewport()
    slider.press("Home")
    expect(card(view, 1)).to_be_in_viewport()
    slider.press("ArrowDown")  # a row
    expect(slider).to_have_attribute("aria-valuetext", f"7 of {ALL}")
    view.select_option("#images-order", label="oldest first")
    expect(slider).to_have_attribute("aria-valuetext", f"1 of {ALL} · January 2000")
    slider.fill("60")
    expect(slider).to_have_attribute("aria-valuetext", f"61 of {ALL} · March 2000")
    view.select_option("#images-order", label="file name, Z to A")
    expect(slider).to_have_attribute("aria-valuetext", f"1 of {ALL} · new/2.png")
    doubtful = view.locator("#images-order option", has_text="most doubtful label first")
    expect(doubtful).to_be_disabled()  # nobody can tell without embeddings
    view.select_option("#images-filter", label="No label (3)")
    expect(slider).to_be_hidden()


def test_a_selection_survives_scrolling_and_ranges_are_selected(my_view: Page, http: httpx.Client) -> None:
    card(my_view, 2).locator("..").get_by_role("checkbox").check()
    to_the_end(my_view)
    selected(my_view, "1 selected")
    card(my_view, LAST - 1).click(modifiers=["Shift"])  # all between, most of which were never loaded
    selected(my_view, f"{ALL - 2} selected")
    expect(my_view.locator("#viewer")).to_be_hidden()
    my_view.keyboard.press("Escape")
    expect(my_view.locator("#selection")).to_be_hidden()
    to_the_start(my_view)
    card(my_view, 3).locator("..").get_by_role("checkbox").check()
    card(my_view, 5).locator("..").get_by_role("checkbox").click(modifiers=["Shift"])
    selected(my_view, "3 selected")
    card(my_view, 4).locator("..").get_by_role("checkbox").click(
        modifiers=["Shift"]
    )  # from 5, which it takes away
    selected(my_view, "1 selected")
    my_view.locator("#delete-selected").click()
    expect(my_view.locator("#images-status")).to_have_text(f"1 image deleted. {ALL - 1} images.")
    assert [image["id"] for image in listed(http)][:4] == [1, 2, 4, 5]


def test_all_under_a_filter_are_selected_and_labelled(my_view: Page, http: httpx.Client) -> None:
    circles = {image["id"] for image in listed(http, label="circle")}
    my_view.select_option("#images-filter", label=f"circle ({len(circles)})")
    expect(my_view.locator("#images-status")).to_have_text(f"{len(circles)} images.")
    tab_to(my_view, "#images-list a")
    my_view.keyboard.press("Control+a")
    selected(my_view, f"{len(circles)} selected")
    my_view.locator("#label-selected").click()
    my_view.locator("#new-label").fill("round")
    my_view.get_by_role("button", name="Set the label").click()
    expect(my_view.locator("#images-status")).to_have_text(f"{len(circles)} images labelled. No image.")
    assert {image["id"] for image in listed(http, label="round")} == circles


def test_each_key_leads_where_it_should(my_view: Page) -> None:
    tab_to(my_view, "#images-list a")
    for key, item_id in (
        ("ArrowRight", 2),
        ("ArrowDown", 8),
        ("ArrowLeft", 7),
        ("ArrowUp", 1),
        ("ArrowUp", 1),
        ("End", LAST),
        ("ArrowRight", LAST),
        ("Home", 1),
    ):
        my_view.keyboard.press(key)
        expect(card(my_view, item_id)).to_be_focused()
        expect(card(my_view, item_id)).to_be_in_viewport()
    my_view.keyboard.press("PageDown")
    expect(card(my_view, 1)).not_to_be_focused()
    below = int(my_view.evaluate("document.activeElement.dataset.image"))
    assert below % 6 == 1  # the same column
    my_view.keyboard.press("PageUp")
    expect(card(my_view, 1)).to_be_focused()
    my_view.keyboard.press("Space")
    my_view.keyboard.press("ArrowDown")
    my_view.keyboard.press("Shift+Space")
    selected(my_view, "7 selected")
    my_view.keyboard.press("Escape")
    my_view.keyboard.press("Delete")
    expect(my_view.locator("#images-status")).to_have_text(f"1 image deleted. {ALL - 1} images.")
    expect(card(my_view, 8)).to_be_focused()
    my_view.keyboard.press("Enter")
    expect(my_view).to_have_url(re.compile("#image/8$"))


def test_tab_leads_to_one_card_and_on(view: Page) -> None:
    tab_to(view, "#images-list a")
    for selector in ("input[type=checkbox]", ".similar", "#scrubber"):
        view.keyboard.press("Tab")
        assert view.evaluate("selector => document.activeElement.matches(selector)", selector), selector
    to_the_end(view)
    view.keyboard.press("Shift+Tab")  # to what is in sight
    expect(view.locator(":focus")).to_be_in_viewport()
    assert view.evaluate("document.activeElement.closest('#images-list') !== null")


def test_the_card_with_the_focus_stays(view: Page) -> None:
    tab_to(view, "#images-list a")
    to_the_end(view)
    expect(card(view, 1)).to_be_focused()
    view.keyboard.press("ArrowRight")
    expect(card(view, 2)).to_be_focused()
    expect(card(view, 2)).to_be_in_viewport()


def test_the_address_has_the_filter_and_leads_back(view: Page) -> None:
    view.get_by_role("searchbox", name="File name").fill("MANY/0001")
    view.get_by_role("searchbox", name="File name").press("Enter")
    expect(view).to_have_url(re.compile(r"#images\?name=MANY%2F0001$"))
    expect(view.locator("#images-status")).to_have_text("10 images.")
    view.select_option("#images-order", label="file name, Z to A")
    expect(view).to_have_url(re.compile(r"#images\?name=MANY%2F0001&sort=name&descending=true$"))
    expect(view.locator("#images-list a[data-image]").first).to_have_attribute("data-image", "95")
    view.select_option("#images-filter", value="label:square")
    expect(view.locator("#images-status")).to_have_text("4 images.")
    address = view.url
    view.go_back()
    expect(view.locator("#images-status")).to_have_text("10 images.")
    view.go_back()
    expect(view.locator("#images-order")).to_have_value("id")
    view.go_back()
    expect(view.get_by_role("searchbox", name="File name")).to_have_value("")
    expect(view.locator("#images-status")).to_have_text(f"{ALL} images.")
    view.goto(address)
    view.reload()
    expect(view.locator("#images-status")).to_have_text("4 images.")
    expect(view.locator("#images-filter")).to_have_value("label:square")
    expect(view.locator("#images-order")).to_have_value("name descending")


def test_back_leads_to_the_place_that_was_left(view: Page) -> None:
    slider = view.get_by_role("slider", name="Place in the list")
    slider.fill("300")
    expect(card(view, 313)).to_be_in_viewport()
    view.evaluate("location.hash = '#images?label=square'")
    expect(view.locator("#images-filter")).to_have_value("label:square")
    expect(view.locator("#images-list strong").first).to_have_text("square")
    view.go_back()
    expect(card(view, 313)).to_be_in_viewport()
    expect(slider).to_have_attribute("aria-valuetext", f"301 of {ALL}")


def test_a_folder_and_an_unknown_label_in_an_address(browser: Browser, address: str) -> None:
    for view in images_view(browser, address, refused=(422,)):
        view.goto(f"{address}/#images?label=hexagon")
        expect(view.locator("#browse .error")).to_contain_text("Label 'hexagon' is unknown")
        expect(view.locator("#images-filter")).to_have_value("label:hexagon")
        view.goto(f"{address}/#images?folder=scans")
        expect(view.locator("#images-status")).to_have_text("No image.")
        view.get_by_role("button", name="Folder “scans” ×").click()
        expect(view.locator("#images-status")).to_have_text(f"{ALL} images.")


def test_the_viewer_leads_through_all_and_the_list_follows(view: Page) -> None:
    view.get_by_role("slider", name="Place in the list").fill("85")
    card(view, 85 + 12).click()
    expect(view.locator("#stage")).to_contain_text(f"85 / {ALL}")
    for item_id in range(98, 98 + 25):  # into the next part
        view.keyboard.press("ArrowRight")
        expect(view).to_have_url(re.compile(f"#image/{item_id}$"))
    expect(view.locator("#stage")).to_contain_text(f"110 / {ALL}")
    for _ in range(40):
        view.keyboard.press("ArrowLeft")
    expect(view).to_have_url(re.compile("#image/82$"))
    view.keyboard.press("Escape")
    expect(view.locator("#viewer")).to_be_hidden()
    expect(card(view, 82)).to_be_focused()
    expect(card(view, 82)).to_be_in_viewport()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (500, '{"detail": "the disk is tired"}', "The disk is tired"),
        (200, '{"images": [', "The answer was cut short. Try again."),
    ],
)
def test_what_does_not_come_is_said_and_asked_for_again(
    browser: Browser, address: str, status: int, body: str, says: str
) -> None:
    broken: list[bool] = [True]

    def answer(route: Route) -> None:
        if broken[0] and "offset=0" not in route.request.url:
            route.fulfill(status=status, body=body)
        else:
            route.continue_()

    for view in images_view(browser, address, refused=(500,)):
        view.route("**/images?*", answer)
        view.get_by_role("slider", name="Place in the list").fill("330")
        expect(view.locator("#browse .error")).to_have_text(says)
        expect(view.locator("#images-status")).to_have_text(f"{ALL} images.")
        assert barriers(view) == []
        expect(card(view, 331 + 12)).to_have_count(0)
        broken[0] = False
        view.get_by_role("button", name="Try again").click()
        expect(card(view, 331 + 12)).to_be_in_viewport()
        expect(view.locator("#browse .error")).to_be_hidden()


def test_what_was_scrolled_past_is_not_waited_for(view: Page) -> None:
    asked: list[str] = []
    view.on("request", lambda request: asked.append(request.url) if "offset=" in request.url else None)
    view.evaluate(
        """async () => {
            const slider = document.querySelector("#scrubber");
            for (const place of [200, 300, 400, 500, 650]) {
                slider.value = place;
                slider.dispatchEvent(new Event("input", {bubbles: true}));
            }
        }"""
    )
    expect(card(view, LAST)).to_be_visible()
    assert not any("offset=300&" in url for url in asked), asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out_of_a_long_list(browser: Browser, address: str, scheme: str) -> None:
    for view in images_view(browser, address, color_scheme=scheme):
        to_the_end(view)
        card(view, LAST).locator("..").get_by_role("checkbox").check()
        assert barriers(view) == []
        for width in (360, 2560):
            assert fits(view, width)
            expect(card(view, LAST)).to_be_attached()
            box = view.locator("#images-list > li").last.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= width
