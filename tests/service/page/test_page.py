"""The page in a real browser, against the real service."""

import re
import shutil
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from index.artifact import Artifact
from service.app import create_app
from service.settings import Settings
from tests.samples import serve_here
from tests.service.page.browser import LOOKS, barriers, fits, give, opened, png, prediction

# Whether the list of labels shows each of them whole.
ALL_IN_SIGHT = """() => {
    const list = document.querySelector("#choices").getBoundingClientRect();
    return [...document.querySelectorAll("#choices label")].map((each) => each.getBoundingClientRect())
        .every((each) => each.bottom <= list.bottom + 1 && each.right <= list.right + 1);
}"""


def test_every_stylesheet_is_linked_once() -> None:
    static = Path(__file__).parents[3] / "service" / "static"
    linked = re.findall(r'<link rel="stylesheet" href="static/([^"]+)"', (static / "index.html").read_text())
    assert sorted(linked) == sorted(str(file.relative_to(static)) for file in static.rglob("*.css"))


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
    third = page.locator("#results a.similar").nth(2)
    expect(third).to_be_visible()
    third.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#name")).to_contain_text("image ")
    asked = (page.locator("#name").text_content() or "").split()[1]
    expect(page.locator("#title")).to_be_visible()
    expect(page.locator("#results .about")).to_have_count(24)
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
    samples = page.locator("#results a[data-image]")
    expect(samples).to_have_count(18)
    page.locator("#results a.similar").first.click()
    expect(page.locator("#results .about")).to_have_count(24)


def test_labels_that_are_chosen_before_an_image_choose_among_the_samples(page: Page, picture: Path) -> None:
    samples = page.locator("#results a[data-image]")
    expect(samples).to_have_count(18)
    square = page.get_by_role("checkbox", name="square")
    square.check()
    expect(page.locator("#results a[data-image]:not([aria-label$=', square'])")).to_have_count(0)
    expect(samples).to_have_count(18)
    expect(page.locator("#status")).to_contain_text("the nearest with these labels")
    page.locator("#results a.similar").first.click()  # the search keeps to them
    expect(page.locator("#title")).to_have_text("The nearest with these labels")
    page.go_back()
    expect(page.locator("#status")).to_contain_text("one of them")
    square.uncheck()
    expect(page.locator("#status")).to_contain_text("the 63 in the index")


@pytest.mark.parametrize("width", [1280, 360])
def test_no_label_is_out_of_sight_without_a_word(browser: Browser, http: httpx.Client, width: int) -> None:
    for item_id in range(1, 41):
        label = {"label": f"kind number {item_id}"}
        http.patch(f"/images/{item_id}", json=label).raise_for_status()
    for page in opened(browser, str(http.base_url).rstrip("/"), viewport={"width": width, "height": 740}):
        last = page.get_by_role("checkbox", name="kind number 9", exact=True).locator("..")
        everything = page.get_by_role("button", name="All 41 labels")
        expect(everything).to_have_attribute("aria-expanded", "false")
        everything.click()
        expect(page.locator("#choices label")).to_have_count(41)
        assert page.evaluate(ALL_IN_SIGHT)
        assert fits(page, width)
        last.click()
        expect(page.locator("#results a[data-image]")).to_have_count(1)
        page.get_by_role("button", name="Fewer labels").click()
        expect(everything).to_be_visible()
        assert not page.evaluate(ALL_IN_SIGHT)


def test_few_labels_need_no_button(page: Page) -> None:
    expect(page.locator("#choices label")).to_have_count(3)
    expect(page.locator("#all-labels")).to_be_hidden()


def test_samples_are_images_that_are_there(browser: Browser, http: httpx.Client) -> None:
    for item_id in range(1, 60, 6):
        http.delete(f"/images/{item_id}").raise_for_status()
    pictures = [("image", png(seed)) for seed in range(12)]
    added = http.post("/images", files=pictures).raise_for_status().json()["images"]
    there = {image["id"] for image in http.get("/images").json()["images"]}
    new = {each["image"]["id"] for each in added}
    assert len(there) == 53 + 12
    for page in opened(browser, str(http.base_url).rstrip("/")):
        samples = page.locator("#results a[data-image]")
        seen: set[int] = set()
        for _ in range(20):  # that no new one is drawn so often is all but impossible
            expect(samples).to_have_count(18)
            hrefs = [link.get_attribute("href") or "" for link in samples.all()]
            seen |= {int(href.removeprefix("#image/")) for href in hrefs}
            if seen & new:
                break
            page.reload()
        assert seen <= there
        assert seen & new
        assert seen - new


def test_of_few_images_all_are_samples(browser: Browser, http: httpx.Client) -> None:
    for item_id in range(1, 61):
        http.delete(f"/images/{item_id}").raise_for_status()
    for page in opened(browser, str(http.base_url).rstrip("/")):
        expect(page.locator("#results a[data-image]")).to_have_count(3)
        expect(page.locator("#measure")).to_contain_text("No indexed image has a label")
        for thumbnail in page.locator("#results img").all():  # nothing is asked for any more
            expect(thumbnail).to_have_js_property("naturalWidth", 24)
        for item_id in (61, 62, 63):
            http.delete(f"/images/{item_id}").raise_for_status()
        page.reload()
        expect(page.locator("#status")).to_have_text("The index is empty.")
        expect(page.locator("#results a")).to_have_count(0)


def test_what_the_answers_are_worth(page: Page) -> None:
    expect(page.locator("#measure")).to_contain_text("over 12 held-out queries")
    page.locator("footer a").click()
    expect(page.locator("#map-words")).to_contain_text("exact expectation over their random orders")


def test_a_refusal_is_explained_and_the_next_image_answered(
    browser: Browser, server: str, picture: Path
) -> None:
    for page in opened(browser, server, refused=(415,)):
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
        assert fits(page, 360)
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        red = int(ground.removeprefix("rgb(").partition(",")[0])
        assert (red > 200) == (scheme == "light")


def test_without_labels_the_page_says_why(
    browser: Browser, unlabelled_artifact: Artifact, picture: Path
) -> None:
    with serve_here(create_app(Settings(artifact=unlabelled_artifact.path))) as address:
        for page in opened(browser, address):
            expect(page.locator("#measure")).to_contain_text("Not measured. No image is held out")
            expect(page.locator("#labels")).to_be_hidden()
            page.set_input_files("#file", picture)
            expect(page.locator("#results .about").first).to_contain_text("no label")
            expect(page.locator("#title")).to_have_text("Nearest images")


def test_labels_that_were_given_are_searched_for_where_nothing_is_measured(
    browser: Browser, unlabelled_artifact: Artifact, tmp_path: Path, picture: Path
) -> None:
    mine = shutil.copytree(unlabelled_artifact.path, tmp_path / "artifact")
    with (
        serve_here(create_app(Settings(artifact=mine))) as address,
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        for item_id, label in ((1, "fox"), (2, "fox"), (3, "owl")):
            http.patch(f"/images/{item_id}", json={"label": label}).raise_for_status()
        refusal = http.get("/eval/map").json()["detail"]
        for page in opened(browser, address):
            expect(page.locator("#measure")).to_have_text(re.compile("^Not measured. No image is held out"))
            words = (page.locator("#measure").text_content() or "").removeprefix("Not measured. ")
            assert words[1:].removesuffix(".") in refusal
            page.set_input_files("#file", picture)
            page.get_by_role("checkbox", name="fox").check()
            expect(page.locator("#results strong")).to_have_text(["fox", "fox"])
            page.get_by_role("link", name="Images", exact=True).click()
            page.get_by_role("link", name="Image 1, fox").click()
            for item_id in (1, 2):  # nobody is a fox any more
                expect(page).to_have_url(re.compile(f"#image/{item_id}$"))
                expect(page.locator("#details-label")).to_have_value("fox")
                page.locator("#details-label").fill("owl")
                page.get_by_role("button", name="Save").click()
                expect(page.locator("#details-said")).to_have_text("The label is saved.")
                page.keyboard.press("ArrowRight")
            page.keyboard.press("Escape")
            expect(page.locator("#viewer")).to_be_hidden()
            page.get_by_role("link", name="Search", exact=True).click()
            expect(page.locator("#results .about")).to_have_count(24)
            expect(page.locator("#labels")).to_be_hidden()  # of one label there is nothing to choose


def test_a_click_counts_although_labels_are_counted_anew_meanwhile(page: Page, picture: Path) -> None:
    page.set_input_files("#file", picture)
    # The picture and what the answer says move the labels; the mouse aims at them once they lie still.
    page.wait_for_function("document.querySelector('#picture').naturalWidth > 0")
    expect(page.locator("#results a:visible .about")).to_have_count(24)
    expect(page.locator("#prediction")).to_contain_text(re.compile(r"confidence \d+ %"))
    box = page.locator("#choices input").first
    box.hover()
    page.mouse.down()
    page.evaluate("dispatchEvent(new Event('counted'))")
    page.mouse.up()
    expect(box).to_be_checked()


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


def test_the_heading_counts_those_that_have_a_label(page: Page) -> None:
    wanted = {
        "": "Nearest images",
        "a": "The nearest is “a”",
        "aaa": "All of them “a”",
        "baab": "2 different labels",
        "baaa": "Mostly “a”: 3 of 4",
        "--a": "One has a label: “a”",
        "-aa-": "All 2 with a label: “a”",
        "-baa": "Mostly “a”: 2 of 3 with a label",
        "---": "Nearest images",
    }
    said = page.evaluate(
        """async (cases) => {
            const { inWords } = await import("/static/predict.js");
            return cases.map((each) => inWords([...each].map((label) => (label === "-" ? null : label))));
        }""",
        list(wanted),
    )
    assert dict(zip(wanted, said, strict=True)) == wanted


def test_the_label_of_an_unlabelled_result_is_predicted(page: Page, server: str) -> None:
    expect(page.locator("#score")).to_be_visible()
    page.select_option("#k", "120")
    page.goto(f"{server}/#search/61")
    unlabelled = page.locator("#results a[data-unlabelled]")
    expect(unlabelled).to_have_count(2)
    for link in unlabelled.all():
        link.scroll_into_view_if_needed()
        predicted = prediction(server, int(link.get_attribute("data-unlabelled") or ""))
        text = "predicted {}, {} %".format(*predicted)
        expect(link.locator(".guess")).to_have_text(text)
        expect(link).to_have_attribute("aria-label", re.compile(f"Its label is {re.escape(text)}$"))


def test_a_key_is_asked_for_sent_and_in_no_address(browser: Browser, artifact: Artifact) -> None:
    key = "a-key-of-a-test-17"
    with serve_here(create_app(Settings(artifact=artifact.path, read_keys=key))) as address:
        for page in opened(browser, address, refused=(401,)):
            page.get_by_label("Key", exact=True).fill(key)
            page.get_by_role("button", name="Use it").click()
            expect(page.locator("#results img").first).to_have_js_property("naturalWidth", 24)
            expect(page.locator("#score")).to_be_visible()
            assert key not in page.url


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_nobody_is_kept_out(browser: Browser, server: str, picture: Path, scheme: str, width: int) -> None:
    for page in opened(browser, server, color_scheme=scheme):
        expect(page.locator("#score")).to_be_visible()
        assert fits(page, width)
        assert barriers(page) == []
        page.select_option("#k", "12")
        page.set_input_files("#file", picture)
        expect(page.locator("#results .about")).to_have_count(12)
        assert barriers(page) == []
        page.get_by_role("button", name="Key").click()
        assert barriers(page) == []


@pytest.mark.parametrize("address", ["#constructor", "#__proto__/x", "#toString", "#search/%", "#search/%E9"])
def test_no_address_breaks_the_page(browser: Browser, server: str, address: str) -> None:
    for page in opened(browser, server, refused=(422, 404)):
        page.goto(f"{server.rstrip('/')}/{address}")
        page.reload()
        expect(page.locator("#search-view")).to_be_visible()
        page.get_by_role("link", name="Images", exact=True).click()
        expect(page.locator("#images-list li").first).to_be_visible()
