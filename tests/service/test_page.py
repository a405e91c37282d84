"""The page in a real browser, against the real service."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from index.artifact import Artifact
from service.app import create_app
from service.settings import Settings
from tests.conftest import serve_here
from tests.service.browser import barriers, give, opened


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_give_an_image_and_see_its_neighbours(page: Page, picture: Path, kind: str) -> None:
    expect(page.locator("#status")).to_contain_text("the 63 in the index")
    give(page, kind, picture.read_bytes())
    neighbours = page.locator("#results .about")
    expect(neighbours).to_have_count(24)
    expect(neighbours.first).to_contain_text("<b>cross</b>")  # text, not markup
    expect(neighbours.first).to_contain_text("0 bits")
    expect(page.locator("#results b")).to_have_count(0)
    expect(page.locator("#name")).to_have_text("mine.png")
    expect(page.locator("#status")).to_contain_text("24 nearest of 63 images")
    for image in (page.locator("#picture"), page.locator("#results img").first):
        expect(image).to_have_js_property("naturalWidth", 24)
        expect(image).to_have_class("pixels")


def test_pick_filter_and_count(page: Page, picture: Path) -> None:
    page.set_input_files("#file", picture)
    page.get_by_role("checkbox", name="square").check()
    page.select_option("#k", "12")
    neighbours = page.locator("#results .about strong")
    expect(neighbours).to_have_count(12)
    expect(page.locator("#title")).to_have_text("The nearest with these labels")
    assert set(neighbours.all_text_contents()) == {"square"}


def test_more_like_this_and_back(page: Page, picture: Path) -> None:
    page.set_input_files("#file", picture)
    third = page.locator("#results a:has(.about)").nth(2)
    expect(third).to_be_visible()
    third.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#name")).to_contain_text("image ")
    asked = (page.locator("#name").text_content() or "").split()[1]
    expect(page.locator("#title")).to_be_visible()
    expect(page.locator("#results a")).to_have_count(24)
    expect(page.locator(f"#results img[src='/images/{asked}/thumbnail']")).to_have_count(0)  # not itself
    expect(page.locator("#title")).to_be_focused()  # the keyboard stays among the results
    page.go_back()
    expect(page.locator("#name")).to_have_text("007.png")
    page.go_back()
    expect(page.locator("#invitation")).to_be_visible()


def test_each_result_says_what_its_distance_is_worth(page: Page, picture: Path) -> None:
    expect(page.locator("#score")).to_be_visible()
    page.set_input_files("#file", picture)
    nearest = page.locator("#results a").first
    expect(nearest.locator(".percent")).to_have_text(re.compile(r" · \d+ %"))
    expect(nearest).to_have_attribute(
        "title", re.compile(r"0 bits away: of images this near \d+ % share the label")
    )


def test_samples_to_start_from(page: Page) -> None:
    samples = page.locator("#results a")
    expect(samples).to_have_count(18)
    samples.first.click()
    expect(page.locator("#results .about")).to_have_count(24)


def test_what_the_answers_are_worth(page: Page) -> None:
    expect(page.locator("#measure")).to_contain_text("over 12 held-out queries")
    page.locator("footer a").click()
    expect(page.locator("#map-words")).to_contain_text("exact expectation over their random orders")


def test_a_refusal_is_explained_and_the_next_image_answered(page: Page, picture: Path) -> None:
    give(page, "drop", b"this is no picture", "notes.txt")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Not an image in a known format")
    expect(page.locator("#results a")).to_have_count(0)
    give(page, "drop", picture.read_bytes())
    expect(page.locator("#results .about")).to_have_count(24)
    expect(alert).to_be_hidden()


def test_keyboard_reaches_the_file_dialogue(page: Page) -> None:
    expect(page.locator("#score")).to_be_visible()
    focused = []
    for _ in range(12):  # what the header links to comes before
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.id"))
    assert "file" in focused
    assert "k" in focused


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone(browser: Browser, server: str, picture: Path, scheme: str) -> None:
    for page in opened(browser, server, viewport={"width": 360, "height": 740}, color_scheme=scheme):
        page.set_input_files("#file", picture)
        expect(page.locator("#results .about")).to_have_count(24)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        red = int(ground.removeprefix("rgb(").partition(",")[0])
        assert (red > 200) == (scheme == "light")


def test_without_labels_the_page_says_why(
    browser: Browser, unlabelled_artifact: Artifact, picture: Path
) -> None:
    with serve_here(create_app(Settings(artifact=unlabelled_artifact.path))) as address:
        for page in opened(browser, address):
            expect(page.locator("#measure")).to_contain_text(
                "Not measured. This index was made without labels"
            )
            expect(page.locator("#labels")).to_be_hidden()
            page.set_input_files("#file", picture)
            expect(page.locator("#results .about").first).to_contain_text("no label")
            expect(page.locator("#title")).to_have_text("Nearest images")


def test_documentation_needs_no_other_host(browser: Browser, server: str) -> None:
    for page in opened(browser, server):
        page.get_by_role("link", name="API").click()
        expect(page.get_by_text("Find the indexed images nearest to an image")).to_be_visible()


def test_a_slider_cuts_off_what_is_far(page: Page, picture: Path) -> None:
    expect(page.locator("#score")).to_be_visible()
    page.set_input_files("#file", picture)
    expect(page.locator("#results a:visible .about")).to_have_count(24)
    page.locator("#distance").fill("0")
    expect(page.locator("#reach")).to_have_text("0 bits")
    expect(page.locator("#reach-worth")).to_have_text(re.compile(r"\d+ % of the images so far away share"))
    distances = page.locator("#results a:visible small").all_text_contents()
    assert distances
    assert all(text.startswith("0 bits") for text in distances)


def test_the_label_is_predicted_from_what_is_near(page: Page, picture: Path) -> None:
    expect(page.locator("#score")).to_be_visible()
    page.set_input_files("#file", picture)
    expect(page.locator("#prediction")).to_contain_text(re.compile(r"confidence \d+ %"))
    found = page.evaluate(
        """async () => {
            const {predict} = await import("/static/predict.js");
            const results = [
                {label: "a", distance: 0}, {label: null, distance: 0}, {label: "b", distance: 1},
            ];
            return [predict(results, [0.8, 0.4]), predict(results, null), predict([], [0.8])];
        }"""
    )
    assert found[0]["label"] == "a"
    assert found[0]["confidence"] == pytest.approx(0.8**2 / (0.8 + 0.4))
    assert found[1:] == [None, None]


def test_a_key_is_asked_for_sent_and_in_no_address(browser: Browser, artifact: Artifact) -> None:
    key = "a-key-of-a-test-17"
    with serve_here(create_app(Settings(artifact=artifact.path, read_keys=key))) as address:
        for page in opened(browser, address):
            page.get_by_label("Key", exact=True).fill(key)
            page.get_by_role("button", name="Use it").click()
            expect(page.locator("#results img").first).to_have_js_property("naturalWidth", 24)
            expect(page.locator("#score")).to_be_visible()
            assert key not in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out(browser: Browser, server: str, picture: Path, scheme: str) -> None:
    for page in opened(browser, server, color_scheme=scheme):
        expect(page.locator("#score")).to_be_visible()
        assert barriers(page) == []
        page.select_option("#k", "12")
        page.set_input_files("#file", picture)
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 800})
            expect(page.locator("#results .about")).to_have_count(12)
            assert barriers(page) == []
        page.get_by_role("button", name="Key").click()
        assert barriers(page) == []
