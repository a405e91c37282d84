"""The view that looks after the images, in a real browser against the real service."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from service.app import create_app
from service.core.pictures.decoding import Decoded, Pool
from service.settings import Settings
from tests.labels import FAMILY, REFUSED, TAKEN
from tests.samples import serve_here
from tests.service.page.browser import (
    LOOKS,
    MARKUP,
    barriers,
    fits,
    give,
    images_view,
    listed,
    opened,
    png,
    tab_to,
)


@pytest.fixture
def view(browser: Browser, server: str) -> Iterator[Page]:
    """Over the collection that all tests share: it must stay as it is."""
    yield from images_view(browser, server)


def files(count: int) -> list[Any]:
    return [{"name": f"{n}.png", "mimeType": "image/png", "buffer": png(n)} for n in range(count)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with folders, and with what is no image."""
    folder = tmp_path / "pictures"
    for label, name in enumerate(("cats", "dogs")):
        (folder / name / "small").mkdir(parents=True)
        (folder / name / "0.png").write_bytes(png(0, label))
        (folder / name / "small" / "1.png").write_bytes(png(1, label))
    (folder / "top.png").write_bytes(png(9))
    (folder / "cats" / "notes.txt").write_text("no image")
    (folder / ".hidden").write_text("left alone")
    return folder


def drop(page: Page, path: Path) -> None:
    """Drop a file or a folder as a person does."""
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})


def test_browse_and_filter(view: Page) -> None:
    cards, status = view.locator("#images-list li"), view.locator("#images-status")
    expect(status).to_have_text("63 images.")
    view.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(cards.last.locator("a[data-image]")).to_have_attribute("href", "#image/63")
    expect(cards.last).to_be_in_viewport()

    view.select_option("#images-filter", label="<b>cross</b> (20)")
    expect(cards).to_have_count(20)
    expect(status).to_have_text("20 images.")
    assert set(view.locator("#images-list strong").all_text_contents()) == {"<b>cross</b>"}
    view.select_option("#images-filter", label="No label (3)")
    expect(cards).to_have_count(3)
    expect(cards.first).to_contain_text("no label")
    expect(cards.first.locator("img")).to_have_js_property("naturalWidth", 24)

    view.select_option("#images-filter", label="All images (63)")
    expect(status).to_have_text("63 images.")


def test_more_like_this_and_back_to_the_same_place(view: Page) -> None:
    link = view.locator("#images-list a[href='#search/41']")  # beside the picture
    view.evaluate("scrollTo(0, document.body.scrollHeight)")
    link.click()
    expect(view.locator("#name")).to_contain_text("image 41")
    expect(view.locator("#results .about")).to_have_count(24)
    view.go_back()
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport()


def test_several_are_added_and_the_bad_ones_named(my_view: Page, http: httpx.Client) -> None:
    bad = [
        {"name": "<b>notes</b>.txt", "mimeType": "text/plain", "buffer": b"no image"},
        {"name": "cut.png", "mimeType": "image/png", "buffer": png(5)[:100]},
    ]
    my_view.set_input_files("#add-files", files(3) + bad)
    expect(my_view.locator("#adding-status")).to_have_text("5 files chosen, not sent yet.")
    assert len(listed(http)) == 63
    my_view.select_option("#labelling", "one")
    my_view.get_by_label("Label for all").fill(f" {MARKUP}")
    my_view.get_by_role("button", name="Add 5 images").click()
    my_view.get_by_role("link", name="Search", exact=True).click()  # which does not stop it
    my_view.get_by_role("link", name="Images", exact=True).click()
    expect(my_view.locator("#adding-status")).to_have_text("Done: 3 added, 2 refused.")
    reasons = my_view.locator("#refusals li")
    expect(reasons.first).to_contain_text("<b>notes</b>.txt Not an image in a known format")
    expect(reasons.nth(1)).to_contain_text("cut.png The image is truncated")
    assert [image["path"] for image in listed(http, label=MARKUP.strip())] == ["0.png", "1.png", "2.png"]
    expect(my_view.locator("#images-status")).to_have_text("66 images.")
    my_view.select_option("#images-filter", label="Added just now")
    expect(my_view.locator("#images-list strong")).to_have_text([MARKUP.strip()] * 3)

    my_view.get_by_role("link", name="Search", exact=True).click()
    my_view.set_input_files("#file", files(1))
    expect(my_view.locator("#status")).to_contain_text("24 nearest of 66 images")
    my_view.get_by_role("link", name="Images", exact=True).click()
    give(my_view, "paste", png(1))
    my_view.get_by_role("button", name="Add 1 image").click()
    expect(my_view.locator("#adding-status")).to_have_text("Done: 0 added, 1 already there.")
    my_view.get_by_role("button", name="Close").click()
    expect(my_view.locator("#adding-status")).to_have_text("")


def test_a_service_may_take_less_and_files_may_be_gone(browser: Browser, mine: Path, tmp_path: Path) -> None:
    for file in files(7):
        (tmp_path / file["name"]).write_bytes(file["buffer"])
    with (tmp_path / "film.mp4").open("wb") as film:
        film.truncate(200_000_001)
    with serve_here(create_app(Settings(artifact=mine, max_batch=3))) as address:
        for view in images_view(browser, address, refused=(400,)):
            view.set_input_files("#add-files", [*(tmp_path / f"{n}.png" for n in range(7)), film.name])
            (tmp_path / "2.png").unlink()
            view.get_by_role("button", name="Add 8 images").click()
            expect(view.locator("#adding-status")).to_have_text("Done: 6 added, 2 refused.")
            expect(view.locator("#refusals li")).to_contain_text(
                ["film.mp4 The file has more than 200,000,000 bytes", "2.png The file cannot be read"]
            )
            with httpx.Client(base_url=address) as http:
                assert len(listed(http)) == 63 + 6


@pytest.mark.parametrize("way", ["choose", "drop"])
def test_a_folder_is_added_with_its_folders_as_labels(
    my_view: Page, http: httpx.Client, pictures: Path, way: str
) -> None:
    if way == "drop":
        drop(my_view, pictures)
    else:
        my_view.set_input_files("#add-folder", pictures)
    expect(my_view.locator("#staged-count")).to_have_text("6 files")
    my_view.select_option("#labelling", "folder")
    for label in ("no label (1)", "cats (3)", "dogs (2)"):
        expect(my_view.locator("#staged-labels")).to_contain_text(label)
    my_view.get_by_role("button", name="Add 6 images").click()
    expect(my_view.locator("#adding-status")).to_have_text("Done: 5 added, 1 refused.")
    expect(my_view.locator("#refusals li")).to_contain_text("pictures/cats/notes.txt Not an image")
    assert {(image["path"], image["label"]) for image in listed(http, folder="pictures")} == {
        *((f"{name}/{file}", name) for name in ("cats", "dogs") for file in ("0.png", "small/1.png")),
        ("top.png", None),
    }


def test_a_folder_of_one_class_is_added_with_its_own_name_as_label(
    my_view: Page, http: httpx.Client, pictures: Path
) -> None:
    drop(my_view, pictures / "dogs" / "small")
    my_view.select_option("#labelling", "folder")
    expect(my_view.locator("#staged-labels")).to_have_text("small (1)")
    my_view.get_by_role("button", name="Add 1 image").click()
    expect(my_view.locator("#adding-status")).to_have_text("Done: 1 added.")
    assert [(image["path"], image["label"]) for image in listed(http, folder="small")] == [("1.png", "small")]


def test_the_page_knows_what_a_label_is(page: Page) -> None:
    texts = [text for text, _ in TAKEN] + [text for text, *_ in REFUSED]
    said = page.evaluate(
        """async (texts) => {
            const {labelOf, labelFault} = await import("/static/labels.js");
            return texts.map((text) => [labelOf(text), labelFault(text)]);
        }""",
        texts,
    )
    assert said[: len(TAKEN)] == [[label, None] for _, label in TAKEN]
    for (text, what, where), (_, fault) in zip(REFUSED, said[len(TAKEN) :], strict=True):
        assert what in fault and where in fault, (text, fault)


def test_a_folder_of_any_name_is_its_label_and_one_that_is_none_is_refused(
    my_view: Page, http: httpx.Client, tmp_path: Path
) -> None:
    names = ("caf\u00e9", "cafe\u0301", FAMILY, "می\u200cخواهم", "o" * 201)
    album = "our  album\u00ad \u200e\U0001fae9"
    for seed, name in enumerate(names):
        (tmp_path / album / name).mkdir(parents=True)
        (tmp_path / album / name / "x.png").write_bytes(png(seed))
    drop(my_view, tmp_path / album)
    my_view.select_option("#labelling", "folder")
    expect(my_view.locator("#staged-labels")).to_contain_text("café (2)")
    my_view.get_by_role("button", name="Add 5 images").click()
    expect(my_view.locator("#adding-status")).to_have_text("Done: 4 added, 1 refused.")
    expect(my_view.locator("#refusals li")).to_contain_text("The label has 201 characters, at most 200")
    labels = [image["label"] for image in listed(http, folder=album)]
    assert sorted(labels) == sorted(["café", "café", FAMILY, "می\u200cخواهم"])


def test_a_label_for_all_is_checked_before_anything_is_sent(my_view: Page, http: httpx.Client) -> None:
    http.post("/images", content=png(0), params={"label": "tea"}).raise_for_status()
    my_view.set_input_files("#add-files", files(2))
    my_view.select_option("#labelling", "one")
    field = my_view.get_by_label("Label for all")
    for wrong, says in (
        ("o\x07l", "character at position 2"),
        ("\U0001f989" * 201, "201 characters"),
    ):
        field.fill(wrong)
        my_view.get_by_role("button", name="Add 2 images").click()
        assert says in field.evaluate("field => field.validationMessage")
        expect(my_view.locator("#staged-count")).to_have_text("2 files")
    owls = "\U0001f989" * 200
    field.fill("")
    field.press_sequentially(" ")
    my_view.keyboard.insert_text(owls)
    my_view.get_by_role("button", name="Add 2 images").click()
    expect(my_view.locator("#adding-status")).to_have_text("Done: 1 added, 1 already there.")
    expect(my_view.locator("#refused-count")).to_have_text("1 already there with another label")
    expect(my_view.locator("#refusals li")).to_contain_text("0.png It is there already with the label 'tea'")
    assert [image["label"] for image in listed(http)][-2:] == ["tea", owls]


def test_of_a_folder_one_image_is_searched_with(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for seed in range(150):
        (folder / f"{seed}.png").write_bytes(png(seed))
    page.evaluate(
        """() => {
            window.reads = 0;
            const {webkitGetAsEntry} = DataTransferItem.prototype;
            DataTransferItem.prototype.webkitGetAsEntry = function () {
                const entry = webkitGetAsEntry.call(this);
                const reader = Object.getPrototypeOf(entry.createReader());
                const {readEntries} = reader;
                reader.readEntries = function (...given) {
                    window.reads += 1;
                    return readEntries.apply(this, given);
                };
                return entry;
            };
        }"""
    )
    drop(page, folder)
    expect(page.locator("#results .about")).to_have_count(24)
    expect(page.locator("#status")).to_contain_text("the Images view adds whole folders")
    expect(page.locator("#name")).to_have_text(re.compile(r"^\d+\.png$"))
    assert page.evaluate("reads") == 1  # of at least two


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is shut no image that is added gets decoded."""
    opened, decode = threading.Event(), Pool.decode

    def wait(self: Pool, content: bytes, **asked: Any) -> Decoded:
        if asked.get("thumbnail"):
            opened.wait()
        return decode(self, content, **asked)

    monkeypatch.setattr(Pool, "decode", wait)
    yield opened
    opened.set()


def test_adding_is_stopped_and_goes_on(gate: threading.Event, my_view: Page, http: httpx.Client) -> None:
    my_view.set_input_files("#add-files", files(40))  # three requests, two at a time
    my_view.get_by_role("button", name="Add 40 images").press("Enter")
    expect(my_view.get_by_role("button", name="Stop")).to_be_focused()
    my_view.keyboard.press("Enter")
    expect(my_view.locator("#adding-status")).to_contain_text("Stopping")
    gate.set()
    expect(my_view.locator("#adding-status")).to_have_text("Stopped: 32 added, 8 not sent.")
    assert len(listed(http)) == 63 + 32
    expect(my_view.get_by_role("button", name="Go on")).to_be_focused()
    my_view.keyboard.press("Enter")
    expect(my_view.locator("#adding-status")).to_have_text("Done: 40 added.")
    assert len(listed(http)) == 63 + 40


def test_a_full_or_lost_service_is_waited_for(
    gate: threading.Event, browser: Browser, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.web.places.ADDING", 1)
    with serve_here(create_app(Settings(artifact=mine))) as address:
        for view in images_view(browser, address, refused=(503,), offline=True):
            status = view.locator("#adding-status")
            view.set_input_files("#add-files", files(20))
            view.get_by_role("button", name="Add 20 images").click()
            expect(status).to_contain_text("1 requests that change the index are under way")
            expect(status).to_contain_text("Trying again in 1 s.")
            gate.set()
            expect(status).to_have_text("Done: 20 added.")

            view.context.set_offline(True)
            view.set_input_files("#add-files", files(21)[20:])
            view.get_by_role("button", name="Add 1 image").click()
            expect(status).to_contain_text("The service does not answer. Is it still running? Trying again")
            view.get_by_role("button", name="Stop").click()
            expect(status).to_have_text("Stopped: 0 added, 1 not sent.")
            view.context.set_offline(False)
            view.get_by_role("button", name="Go on").click()
            expect(status).to_have_text("Done: 1 added.")


def test_several_are_labelled_and_what_fails_is_named(browser: Browser, http: httpx.Client) -> None:
    for view in images_view(browser, str(http.base_url).rstrip("/"), refused=(404,)):
        for item_id in (1, 2, 3):
            view.get_by_role("checkbox", name=f"Select image {item_id},").check()
        http.delete("/images/2", params={"forever": True}).raise_for_status()  # by somebody else
        view.get_by_role("button", name="Label …").click()
        dialog = view.get_by_role("dialog", name="Label of 3 images")
        dialog.get_by_label("Label").fill("fox")
        dialog.get_by_role("button", name="Set the label").click()
        expect(view.locator("#images-status")).to_contain_text("2 images labelled.")
        expect(view.locator("#failures li")).to_have_text(["Image 2: there is no image 2"])
        assert [image["id"] for image in listed(http, label="fox")] == [1, 3]
        expect(view.locator("#selection-count")).to_have_text("1 selected")
        view.select_option("#images-filter", label="fox (2)")
        expect(view.locator("#images-list li")).to_have_count(2)
        view.get_by_role("checkbox").first.check()
        view.get_by_role("button", name="Select all 2").click()
        view.get_by_role("button", name="Label …").click()
        view.get_by_role("button", name="Remove the label").click()
        expect(view.locator("#images-status")).to_contain_text("2 images without a label now.")
        assert listed(http, label="fox") == []


def test_by_keyboard_alone_images_are_selected_and_deleted(my_view: Page, http: httpx.Client) -> None:
    tab_to(my_view, "#images-list a[href='#image/1']")
    for _ in range(2):
        my_view.keyboard.press("ArrowRight")
        my_view.keyboard.press("Space")
    while not my_view.evaluate("document.activeElement.id === 'delete-selected'"):
        my_view.keyboard.press("Shift+Tab")
    my_view.keyboard.press("Enter")
    expect(my_view.locator("#images-status")).to_contain_text("2 images deleted.")
    expect(my_view.locator("#images-list a[href='#image/4']")).to_be_focused()  # where they were
    assert [image["id"] for image in listed(http)][:2] == [1, 4]

    my_view.keyboard.press("Enter")
    expect(my_view.get_by_role("dialog", name="003.png")).to_be_visible()
    tab_to(my_view, "#details-delete")
    my_view.keyboard.press("Enter")
    expect(my_view.get_by_role("dialog", name="004.png")).to_be_visible()  # the next one
    my_view.keyboard.press("Escape")
    expect(my_view.locator("#images-list a[href='#image/5']")).to_be_focused()
    expect(my_view.locator("#images-status")).to_contain_text("1 image deleted. ")
    assert [image["id"] for image in listed(http)][:2] == [1, 5]


def test_a_read_only_index_says_so_and_is_shown(
    browser: Browser, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "attempt to write a readonly database"
    monkeypatch.setattr("index.sqlite.os.access", lambda path, mode: False)
    with serve_here(create_app(Settings(artifact=mine))) as address:
        for view in images_view(browser, address, refused=(409,)):
            view.set_input_files("#add-files", files(1))
            view.get_by_role("button", name="Add 1 image").click()
            expect(view.locator("#adding").get_by_role("alert")).to_contain_text(reason)
            expect(view.locator("#adding-status")).to_have_text("Stopped: 0 added, 1 not sent.")
            view.get_by_role("checkbox").first.check()
            view.get_by_role("button", name="Delete", exact=True).click()
            expect(view.locator("#failures")).to_contain_text(reason)
            expect(view.locator("#images-status")).to_have_text("63 images.")
            expect(view.locator("#images-list a[href='#image/1']")).to_be_visible()


def test_a_key_is_asked_for_where_something_is_changed(browser: Browser, mine: Path) -> None:
    read, write = "a-key-that-reads-1", "a-key-that-writes-1"
    settings = Settings(artifact=mine, read_keys=read, write_keys=write)
    with serve_here(create_app(settings)) as address:
        for page in opened(browser, address, refused=(401, 403)):
            page.get_by_label("Key", exact=True).fill(read)
            page.get_by_role("button", name="Use it").click()
            page.get_by_role("link", name="Images", exact=True).click()
            expect(page.locator("#images-list img").first).to_have_js_property("naturalWidth", 24)
            page.get_by_role("link", name="Image 1,").click()
            expect(page.get_by_role("img", name="Image 1", exact=True)).to_have_js_property(
                "naturalWidth", 24
            )
            page.locator("#details-label").fill("fox")
            page.get_by_role("button", name="Save").click()
            alert = page.locator("#details").get_by_role("alert")
            expect(alert).to_contain_text("This key does not allow that; ask whoever runs the service")
            # Its file says more than a reader may know.
            with page.expect_download() as saved:
                page.get_by_role("button", name="Download preview").click()
            assert saved.value.suggested_filename == "000.webp"
            page.keyboard.press("Escape")
            page.locator("#key-button").click()
            page.get_by_label("Key", exact=True).fill(write)
            page.get_by_role("button", name="Use it").click()
            page.get_by_role("link", name="Image 1,").click()
            with page.expect_download() as saved:
                page.get_by_role("button", name="Download", exact=True).click()
            assert saved.value.suggested_filename == "000.png"
    with serve_here(create_app(Settings(artifact=mine, write_keys=write))) as address:
        for view in images_view(browser, address, refused=(401,)):  # reading needs none
            view.set_input_files("#add-files", files(1))
            view.get_by_role("button", name="Add 1 image").click()
            view.locator("#key").get_by_role("button", name="Cancel").click()
            expect(view.locator("#adding").get_by_role("alert")).to_contain_text("A key is needed")
            view.get_by_role("button", name="Go on").click()
            view.get_by_label("Key", exact=True).fill(write)
            view.get_by_role("button", name="Use it").click()
            expect(view.locator("#adding-status")).to_have_text("Done: 1 added.")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_nobody_is_kept_out(browser: Browser, server: str, scheme: str, width: int) -> None:
    for view in images_view(browser, server, refused=(415,), color_scheme=scheme):
        view.set_input_files("#add-files", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no"})
        view.get_by_role("button", name="Add 1 image").click()
        expect(view.locator("#refusals li")).to_have_count(1)
        view.select_option("#images-filter", label="No label (3)")
        expect(view.locator("#images-list li")).to_have_count(3)
        view.set_input_files("#add-files", files(2))
        view.get_by_role("checkbox").first.check()
        assert fits(view, 360)
        assert fits(view, width)
        assert barriers(view) == []
        view.get_by_role("link", name="Image 61,").click()
        expect(view.get_by_role("button", name="Accept")).to_be_visible()
        assert barriers(view) == []
        assert fits(view, 360)
        assert fits(view, width)
        view.keyboard.press("Escape")
        for button in ("Label …", "History"):
            view.get_by_role("button", name=button).click()
            assert barriers(view) == []
            view.keyboard.press("Escape")
