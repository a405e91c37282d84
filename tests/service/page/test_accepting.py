"""The part of the view Label in which groups of predicted labels are accepted, in a real browser."""

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from index.artifact import CATALOGUE, Artifact
from index.catalogue import Catalogue
from tests.samples import served
from tests.service.embedded import embed_by_hand
from tests.service.page.browser import LOOKS, barriers, fits, opened, tab_to

CIRCLES, SQUARES, CROSSES = range(1, 21), range(21, 31), range(31, 36)  # ids, of what has no label


@pytest.fixture
def http(own: Artifact) -> Iterator[httpx.Client]:
    """A service that takes twenty images for circles, 80 to 99 % surely, ten for squares with 90 %, and five
    for crosses with 60 %."""
    embed_by_hand(own)
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        lost = [*CIRCLES, *SQUARES, *CROSSES]
        catalogue.label_all({item_id: (None, "given") for item_id in lost})
        surely = [(item_id, 0, 1 - item_id / 100) for item_id in CIRCLES]
        surely += [(item_id, 1, 0.9) for item_id in SQUARES]
        catalogue.predict(surely + [(item_id, 2, 0.6) for item_id in CROSSES])
    with served(own.path) as client:
        yield client


def accepting(browser: Browser, http: httpx.Client, **options: object) -> Iterator[Page]:
    yield from opened(browser, str(http.base_url).rstrip("/"), view="#label/accept", **options)


def labelled(http: httpx.Client, label: str, source: str) -> set[int]:
    images = http.get("/images", params={"limit": 1000, "label": label}).json()["images"]
    return {image["id"] for image in images if image["source"] == source}


def test_a_group_is_accepted_without_what_is_unticked_and_given_back(
    browser: Browser, http: httpx.Client
) -> None:
    for page in accepting(browser, http):
        expect(page.locator("#predicted-groups button")).to_have_text(["circle · 20", "square · 10"])
        expect(page.locator("#accepting-status")).to_have_text(
            "30 images in 2 groups, of 38 without a label."
        )
        cards = page.locator("#group-images li")
        expect(cards).to_have_count(20)
        expect(cards.nth(0)).to_contain_text("99 % sure")  # the surest first
        expect(cards.nth(19)).to_contain_text("80 % sure")
        page.get_by_role("checkbox", name="Accept image 3", exact=True).uncheck()
        page.get_by_role("checkbox", name="Accept image 7", exact=True).press("Space")
        expect(page.locator("#group-count")).to_have_text("20 images, 2 left out")
        page.get_by_role("button", name="Accept 18 as “circle”").click()
        expect(page.locator("#accepted-said")).to_have_text("18 images accepted as “circle”.")
        expect(page.locator("#group-title")).to_have_text("Probably “square”")  # the next one
        expect(page.locator("#group-title")).to_be_focused()
        assert labelled(http, "circle", "group") == {*CIRCLES} - {3, 7}
        expect(page.locator("#predicted-groups button")).to_have_text(["square · 10", "circle · 2"])

        page.get_by_role("button", name="circle · 2").click()
        expect(page.locator("#group-count")).to_have_text("2 images, 2 left out")
        expect(page.get_by_role("button", name="Accept 0 as “circle”")).to_be_disabled()
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("#accepted-said")).to_have_text("18 images are without a label again.")
        expect(page.get_by_role("button", name="Accept 18 as “circle”")).to_be_enabled()
        expect(page.get_by_role("button", name="Undo")).to_be_hidden()
        assert labelled(http, "circle", "group") == set()


def test_what_somebody_labelled_meanwhile_stays_theirs(browser: Browser, http: httpx.Client) -> None:
    for page in accepting(browser, http):
        expect(page.locator("#group-images li")).to_have_count(20)
        http.patch("/images/5", json={"label": "theirs"}).raise_for_status()
        page.get_by_role("button", name="Accept 20 as “circle”").click()
        expect(page.locator("#accepted-said")).to_have_text(
            "19 images accepted as “circle”. 1 other was labelled or deleted by somebody meanwhile."
        )
        assert labelled(http, "theirs", "given") == {5}
        http.patch("/images/6", json={"label": "theirs"}).raise_for_status()
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("#accepted-said")).to_have_text(
            "18 images are without a label again. 1 other was labelled or deleted by somebody meanwhile."
        )
        assert labelled(http, "theirs", "given") == {5, 6}


def test_what_came_meanwhile_and_nobody_saw_is_not_accepted(browser: Browser, http: httpx.Client) -> None:
    http.patch("/images/5", json={"label": "theirs"}).raise_for_status()
    for page in accepting(browser, http):
        expect(page.locator("#group-images li")).to_have_count(19)
        http.patch("/images/5", json={"label": None}).raise_for_status()  # its prediction counts again
        page.get_by_role("button", name="Accept 19 as “circle”").click()
        expect(page.locator("#accepting .error")).to_contain_text(
            "“circle” is predicted of more images by now"
        )
        expect(page.get_by_role("button", name="Accept 20 as “circle”")).to_be_enabled()
        assert labelled(http, "circle", "group") == set()


def test_a_group_is_larger_than_what_is_shown(browser: Browser, http: httpx.Client) -> None:
    for page in accepting(browser, http):
        page.route("**/static/accepting.js", small_pages)
        page.reload()
        expect(page.locator("#group-count")).to_have_text("20 images")
        expect(page.locator("#group-images li")).to_have_count(4)
        page.get_by_role("button", name="Show more").click()
        expect(page.locator("#group-images li")).to_have_count(8)
        page.get_by_role("button", name="Accept 20 as “circle”").click()
        expect(page.locator("#accepted-said")).to_have_text("20 images accepted as “circle”.")
        assert labelled(http, "circle", "group") == {*CIRCLES}


def small_pages(route: Route) -> None:
    """The list grows by four, and stays short; ids come seven at a time."""
    text = route.fetch().text()
    changes = ("PAGE = 60", "PAGE = 4"), ("TOGETHER = 1000", "TOGETHER = 7"), ("600px", "-9999px")
    for there, instead in changes:
        assert there in text
        text = text.replace(there, instead)
    route.fulfill(body=text, content_type="text/javascript")


def test_surer_or_less_sure(browser: Browser, http: httpx.Client) -> None:
    for page in accepting(browser, http):
        expect(page.locator("#predicted-groups button")).to_have_count(2)
        slider = page.get_by_label("At least")
        slider.fill("60")
        expect(page.locator("#sure-output")).to_have_text("60 % sure")
        expect(page.locator("#predicted-groups button")).to_have_text(
            ["circle · 20", "square · 10", "<b>cross</b> · 5"]
        )
        page.get_by_role("button", name="<b>cross</b> · 5").click()
        expect(page.locator("#group-images li")).to_have_count(5)
        slider.fill("91")
        expect(page.locator("#predicted-groups button")).to_have_text(["circle · 9"])
        expect(page.locator("#group-images li")).to_have_count(9)
        slider.fill("99")
        expect(page.locator("#predicted-groups button")).to_have_text(["circle · 1"])
        http.patch("/images/1", json={"label": "theirs"}).raise_for_status()
        slider.fill("98")
        slider.fill("99")
        expect(page.locator("#accepting-status")).to_have_text(
            "No predicted label is so sure. Move the slider to the left."
        )
        expect(page.locator("#group")).to_be_hidden()


def test_a_picture_is_looked_at_and_labelled_in_the_viewer(browser: Browser, http: httpx.Client) -> None:
    for page in accepting(browser, http):
        page.locator("#group-images a").first.click()
        dialog = page.locator("#viewer")
        expect(dialog.locator("#details-guess")).to_contain_text("Predicted label “circle”, confidence 99 %")
        page.locator("#details-label").fill("owl")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#details-said")).to_have_text("The label is saved.")
        page.keyboard.press("Escape")
        expect(page.locator("#group-images li")).to_have_count(19)
        expect(page.get_by_role("button", name="Accept 19 as “circle”")).to_be_enabled()


def test_other_parts_and_views_follow(browser: Browser, http: httpx.Client) -> None:
    for page in accepting(browser, http):
        page.get_by_role("link", name="One by one").click()
        expect(page.locator("#label-status")).to_contain_text("38 without a label.")
        page.get_by_role("link", name="Accept groups").click()
        page.get_by_role("button", name="Accept 20 as “circle”").click()
        expect(page.locator("#accepted-said")).to_contain_text("20 images accepted")
        page.get_by_role("link", name="One by one").click()
        expect(page.locator("#label-status")).to_contain_text("18 without a label.")
        shown = page.locator("#asked-enlarge").get_attribute("href") or ""
        assert int(shown.rpartition("/")[2]) not in CIRCLES  # those have a label now
        page.get_by_role("link", name="Images", exact=True).click()
        expect(page.locator("#images-filter")).to_contain_text("circle (20)")


def test_by_keyboard_alone(browser: Browser, http: httpx.Client) -> None:
    for page in accepting(browser, http):
        expect(page.locator("#group-images li")).to_have_count(20)
        tab_to(page, "#predicted-groups li:nth-child(2) button")
        page.keyboard.press("Enter")
        expect(page.locator("#group-title")).to_be_focused()
        expect(page.locator("#group-images li")).to_have_count(10)
        tab_to(page, "input[aria-label='Accept image 21']")
        page.keyboard.press("Space")
        while not page.evaluate("document.activeElement.id === 'accept'"):
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#accepted-said")).to_have_text("9 images accepted as “square”.")
        expect(page.locator("#group-title")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        expect(page.get_by_role("button", name="Undo")).to_be_focused()
        assert labelled(http, "square", "group") == {*SQUARES} - {21}


def test_where_nothing_is_predicted_the_way_is_shown(browser: Browser, server: str, own: Artifact) -> None:
    for page in opened(browser, server):
        page.goto(f"{server}/#label/accept")
        expect(page.locator("#unpredicted")).to_contain_text("No label is predicted yet.")
        expect(page.locator("#sureness")).to_be_hidden()
        page.locator("#unpredicted").get_by_role("link", name="learn").click()
        expect(page.locator("#learning-status")).to_contain_text("This index has 60 labels.")
    with served(own.path) as http:
        http.patch("/images", json={"ids": [61, 62, 63], "label": "owl"}).raise_for_status()
        for page in accepting(browser, http):
            expect(page.locator("#accepting-status")).to_have_text("No image is without a label.")
            expect(page.locator("#unpredicted")).to_be_hidden()


def test_a_refusal_is_said_and_nothing_is_lost(browser: Browser, http: httpx.Client) -> None:
    for page in accepting(browser, http, refused=(507,)):
        page.get_by_role("checkbox", name="Accept image 3", exact=True).uncheck()
        page.route("**/images", lambda route: route.fulfill(status=507, json={"detail": "disk is full"}))
        page.get_by_role("button", name="Accept 19 as “circle”").click()
        expect(page.locator("#accepting .error")).to_have_text("Disk is full")
        page.unroute("**/images")
        page.get_by_role("button", name="Accept 19 as “circle”").click()
        expect(page.locator("#accepted-said")).to_have_text("19 images accepted as “circle”.")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_nobody_is_kept_out(browser: Browser, http: httpx.Client, scheme: str, width: int) -> None:
    for page in accepting(browser, http, color_scheme=scheme):
        expect(page.locator("#group-images li")).to_have_count(20)
        page.get_by_role("checkbox", name="Accept image 3", exact=True).uncheck()
        assert fits(page, 360)
        assert fits(page, width)
        assert barriers(page) == []
        page.locator("#accept").click()
        expect(page.get_by_role("button", name="Undo")).to_be_visible()
        assert fits(page, 360)
        assert barriers(page) == []


def test_the_hint_to_learn_counts_labels_that_were_accepted_in_groups(
    browser: Browser, own: Artifact
) -> None:
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        known = [item for item in catalogue.page(count=1000) if item.label is not None]
        new = [item.id for item in catalogue.page(count=1000) if item.label is None]
        catalogue.label_all({item.id: (None, "given") for item in known[:20]})
        catalogue.label_all({item.id: (item.label, "group") for item in known[:20]})
        catalogue.label_all(dict.fromkeys(new, ("circle", "given")))
    assert (own.manifest.learned_from, len(new)) == (len(known), 3)
    with served(own.path) as http:
        for page in opened(browser, str(http.base_url).rstrip("/")):
            expect(page.locator("#measure")).to_contain_text("It has not learned from 3 labels")
