"""One image large, above whatever view is shown, in a real browser against the real service."""

import base64
import hashlib
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.service.page.browser import MARKUP, give, images_view, opened, png, prediction, tab_to

VENDOR = Path(__file__).parents[3] / "service" / "static" / "vendor"
SHOWN = "#stage .pswp__item[aria-hidden=false] img:not([aria-hidden])"  # not what stands there until it comes
VENDORED = json.loads((VENDOR / "vendored.json").read_text())


def at(page: Page, item_id: int) -> None:
    expect(page).to_have_url(re.compile(f"#image/{item_id}$"))
    expect(page.locator("#details-facts")).to_contain_text(f"Image{item_id}File")


def test_what_is_vendored_is_listed_with_its_hash() -> None:
    listed = {
        f"{package['name']}/{Path(file).name}": sha256
        for package in VENDORED
        for file, sha256 in package["files"].items()
    }
    there = {
        str(file.relative_to(VENDOR)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in VENDOR.rglob("*")
        if file.is_file() and file.name != "vendored.json"
    }
    assert there == listed


@pytest.mark.slow
@pytest.mark.parametrize("package", VENDORED, ids=lambda package: package["name"])
def test_what_is_vendored_is_what_the_registry_has(package: dict[str, str], tmp_path: Path) -> None:
    subprocess.run(["npm", "pack", f"{package['name']}@{package['version']}"], cwd=tmp_path, check=True)
    (archive,) = tmp_path.glob("*.tgz")
    content = archive.read_bytes()
    assert package["integrity"] == f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        for name, sha256 in dict(package["files"]).items():
            file = files.extractfile(f"package/{name}")
            assert file is not None
            assert hashlib.sha256(file.read()).hexdigest() == sha256


def test_a_result_is_opened_and_the_next_ones_by_arrow_keys(page: Page, picture: Path) -> None:
    page.set_input_files("#file", picture)
    results = page.locator("#results a[data-image]")
    expect(results).to_have_count(24)
    ids = [int(link.get_attribute("data-image") or "") for link in results.all()]
    results.nth(1).click()
    at(page, ids[1])
    expect(page.locator("#details-distance")).to_contain_text("away: of images this near")
    shown = page.locator(SHOWN)
    expect(shown).to_have_js_property("naturalWidth", 24)
    expect(shown).to_have_class(re.compile("pixels"))  # 24 pixels are shown as what they are
    assert (box := shown.bounding_box()) is not None
    assert min(box["width"], box["height"]) > 500
    page.keyboard.press("ArrowRight")
    at(page, ids[2])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    at(page, ids[0])
    page.keyboard.press("ArrowLeft")  # there is none before the first
    at(page, ids[0])
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(results.first).to_be_focused()
    expect(page.locator("#name")).to_have_text("007.png")  # as it was


def test_back_closes_it_and_forward_opens_it_again(page: Page, picture: Path) -> None:
    page.set_input_files("#file", picture)
    expect(page.locator("#results .about")).to_have_count(24)
    page.locator("#results a[data-image]").nth(4).click()
    expect(page.locator("#viewer")).to_be_visible()
    page.go_back()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#results .about")).to_have_count(24)
    page.go_forward()
    expect(page.locator("#viewer")).to_be_visible()
    expect(page.locator("#stage")).to_contain_text("5 / 24")
    page.get_by_role("button", name="Close (Esc)").click()
    expect(page.locator("#viewer")).to_be_hidden()
    page.go_back()
    expect(page.locator("#invitation")).to_be_visible()


def test_an_address_opens_it_alone_and_it_leads_on(page: Page, server: str) -> None:
    page.goto(f"{server}/#image/41")
    page.reload()
    at(page, 41)
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#results a[data-image]")).to_have_count(18)
    page.goto(f"{server}/#image/41")
    page.get_by_role("link", name="More like this").click()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#name")).to_contain_text("image 41")
    expect(page.locator("#results .about")).to_have_count(24)
    page.locator("#enlarge").click()  # the picture that was searched with
    at(page, 41)


@pytest.mark.parametrize("address", ["#image/987654321", "#image/x", "#image/%", "#image/"])
def test_an_address_of_no_image_is_explained(browser: Browser, server: str, address: str) -> None:
    for page in opened(browser, server, refused=(404, 422)):
        page.goto(f"{server}/{address}")
        page.reload()
        if address != "#image/":
            expect(page.locator("#details .error")).to_be_visible()
            page.keyboard.press("Escape")
        expect(page.locator("#viewer")).to_be_hidden()
        expect(page.locator("#results a[data-image]")).to_have_count(18)


def test_the_own_image_is_shown_large(page: Page, picture: Path) -> None:
    give(page, "drop", picture.read_bytes())
    expect(page.locator("#results .about")).to_have_count(24)
    page.locator("#enlarge").click()
    expect(page.get_by_role("dialog", name="mine.png")).to_be_visible()
    expect(page.locator("#details-distance")).to_have_text("Your image. It is not in the index.")
    expect(page.locator("#details-form")).to_be_hidden()
    shown = page.locator(SHOWN)
    expect(shown).to_have_js_property("naturalWidth", 24)
    page.go_back()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#name")).to_have_text("mine.png")


def test_the_last_image_that_is_deleted_closes_it(my_view: Page, http: httpx.Client) -> None:
    (added,) = http.post("/images", content=png(1), params={"label": "mine"}).json()["images"]
    my_view.reload()
    my_view.select_option("#images-filter", label="mine (1)")
    my_view.get_by_role("link", name=f"Image {added['image']['id']},").click()
    my_view.locator("#details-delete").click()
    expect(my_view.locator("#viewer")).to_be_hidden()
    expect(my_view.locator("#images-status")).to_have_text("1 image deleted. No image.")


def test_all_images_are_looked_through_beyond_what_the_list_has_shown(my_view: Page) -> None:
    expect(my_view.locator("#images-status")).to_have_text("63 images.")
    expect(my_view.locator("#images-list a[href='#image/63']")).to_have_count(0)
    my_view.get_by_role("link", name="Image 30,").click()
    at(my_view, 30)
    for item_id in range(31, 64):
        my_view.keyboard.press("ArrowRight")
        at(my_view, item_id)
    expect(my_view.locator("#stage")).to_contain_text("63 / 63")


def test_what_is_known_is_shown_and_the_label_changed(my_view: Page, http: httpx.Client) -> None:
    http.patch("/images/3", json={"metadata": {"<u>camera</u>": "left", "tags": ["a", 1]}}).raise_for_status()
    my_view.reload()
    my_view.get_by_role("link", name="Image 3, circle").click()
    dialog = my_view.get_by_role("dialog", name="002.png")
    for text in ("class0/002.png", "24 × 24 pixels", "<u>camera</u>", "left", '["a",1]', "2026", "given"):
        expect(dialog).to_contain_text(text)
    with my_view.expect_download() as saved:
        dialog.get_by_role("button", name="Download", exact=True).click()
    assert saved.value.suggested_filename == "002.png"
    assert saved.value.path().read_bytes() == http.get("/images/3/original").content
    dialog.get_by_label("Label").fill(MARKUP)
    dialog.get_by_role("button", name="Save").click()
    expect(my_view.locator("#details-said")).to_have_text("The label is saved.")
    assert http.get("/images/3").json()["label"] == MARKUP.strip()
    my_view.keyboard.press("ArrowRight")  # the keyboard goes on
    at(my_view, 4)
    my_view.keyboard.press("ArrowLeft")
    at(my_view, 3)
    dialog.get_by_label("Label").fill("")
    dialog.get_by_label("Label").press("ArrowLeft")  # which moves in the field
    at(my_view, 3)
    my_view.keyboard.press("Enter")
    expect(my_view.locator("#details-said")).to_have_text("The label is removed.")
    assert http.get("/images/3").json()["label"] is None
    my_view.keyboard.press("Escape")
    card = my_view.locator("li:has(a[href='#image/3'])")
    expect(card.locator("strong")).to_have_text("no label")
    expect(card.locator("a[data-image]")).to_be_focused()
    expect(my_view.locator("#images-status")).to_contain_text("Image 3 has no label now.")


def test_a_predicted_label_is_shown_and_accepted(my_view: Page, http: httpx.Client) -> None:
    expect(my_view.locator("#score")).to_be_visible()
    label, confidence = prediction(str(http.base_url).rstrip("/"), 62)
    my_view.get_by_role("link", name="Image 3, circle").click()
    expect(my_view.get_by_role("dialog", name="002.png")).to_be_visible()
    expect(my_view.locator("#details-guess")).to_have_text("")
    expect(my_view.get_by_role("button", name="Accept")).to_be_hidden()
    my_view.keyboard.press("Escape")

    my_view.select_option("#images-filter", label="No label (3)")
    my_view.get_by_role("link", name="Image 62, no label").click()
    words = f"Predicted label “{label}”, confidence {confidence} %"
    expect(my_view.locator("#details-guess")).to_have_text(words)
    my_view.locator("#details-label").focus()
    tab_to(my_view, "#details-accept")
    my_view.keyboard.press("Enter")
    expect(my_view.locator("#details-said")).to_have_text("The label is saved.")
    my_view.keyboard.press("Escape")
    expect(my_view.locator("#images-status")).to_contain_text("Image 62 labelled.")
    expect(my_view.locator("li:has(a[href='#image/62']) strong")).to_have_text(label)
    known = http.get("/images/62").json()
    assert (known["label"], known["source"]) == (label, "accepted")


def test_what_somebody_else_deleted_is_said_and_what_is_deleted_gives_way(
    browser: Browser, http: httpx.Client
) -> None:
    for number in range(2):
        http.post("/images", content=png(number), params={"label": "mine"}).raise_for_status()
    for view in images_view(browser, str(http.base_url).rstrip("/"), refused=(404,)):
        view.select_option("#images-filter", label="mine (2)")
        expect(view.locator("#images-list li")).to_have_count(2)
        view.locator("#images-list a[data-image]").first.click()
        first = int(view.url.rpartition("/")[2])
        at(view, first)
        http.delete(f"/images/{first + 1}", params={"forever": True}).raise_for_status()
        view.keyboard.press("ArrowRight")
        expect(view.locator("#details .error")).to_have_text(f"There is no image {first + 1}")
        view.keyboard.press("ArrowLeft")
        at(view, first)
        view.locator("#details-delete").click()
        expect(view).to_have_url(re.compile(f"#image/{first + 1}$"))
        view.keyboard.press("Escape")
        expect(view.locator("#viewer")).to_be_hidden()
        assert http.get(f"/images/{first}").status_code == 404
