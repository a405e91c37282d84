"""Pictures that are here more than once, in a real browser: searched by picture, and cleaned up."""

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps
from playwright.sync_api import Browser, Locator, Page, Route, expect

from index.artifact import CATALOGUE, Artifact
from service.app import create_app
from service.settings import Settings
from tests.samples import serve_here, served
from tests.service import reloading
from tests.service.page.browser import LOOKS, barriers, fits, listed, opened, tab_to

SEA, WOOD, LAKE, HILL = range(4)
SAME, UNSURE = 31, 63  # bits; what the page says of the distances up to there
MOVE = "Move 4 pictures of 2 groups to the trash"
PLAIN = "2 pictures have too little detail to be compared."
WRITER = "a-key-that-may-write"

Ids = dict[str, int]


def motif(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """A picture with detail, coarse and fine, that has nothing in common with those of other seeds."""
    random = np.random.default_rng([39, seed])
    layers = [
        share * np.asarray(noise.resize((240, 180), Image.Resampling.BICUBIC), np.float64)
        for share, cells in ((0.4, 5), (0.3, 10), (0.3, 20))
        for noise in [Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))]
    ]
    whole = Image.fromarray(np.sum(layers, axis=0).astype(np.uint8))
    return whole.resize(size, Image.Resampling.LANCZOS)


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def collect(http: httpx.Client) -> Ids:
    """Have a service know these pictures alone; their ids by name. Of one motif there are three with a label,
    of one a large one without and a small one with a label, and one that is mirrored, of one two with labels
    that differ; one with a border, one alone, and two that are of one colour."""
    old = [image["id"] for image in listed(http)]
    http.post("/trash", json={"ids": old}).raise_for_status()
    pictures: dict[str, tuple[bytes, str | None]] = {
        "wood.png": (saved(motif(WOOD)), "wood"),
        "wood-small.jpg": (saved(motif(WOOD, (200, 150)), "JPEG"), "wood"),
        "wood-large.jpg": (saved(motif(WOOD, (320, 240)), "JPEG"), "wood"),
        "sea.png": (saved(motif(SEA)), None),
        "sea-small.jpg": (saved(motif(SEA, (160, 120)), "JPEG"), "sea"),
        "lake.png": (saved(motif(LAKE)), "lake"),
        "lake-small.jpg": (saved(motif(LAKE, (200, 150)), "JPEG"), "pond"),
        "sea-mirrored.png": (saved(ImageOps.mirror(motif(SEA, (120, 90)))), None),
        "sea-framed.png": (saved(ImageOps.expand(motif(SEA), 8, "white")), None),
        "hill.png": (saved(motif(HILL)), None),
        "night.png": (saved(Image.new("RGB", (60, 60), "navy")), None),
        "noon.png": (saved(Image.new("RGB", (60, 60), "white")), None),
    }
    return {
        name: reloading.add(http, content, name, **({} if label is None else {"label": label}))
        for name, (content, label) in pictures.items()
    }


def address_of(http: httpx.Client) -> str:
    return str(http.base_url).rstrip("/")


def trash(http: httpx.Client) -> set[int]:
    return {image["id"] for image in http.get("/trash").json()["images"]}


@pytest.fixture(scope="module")
def library(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Ids]]:
    """The address of a service with these pictures, for all that only look; their ids."""
    path = Path(shutil.copytree(artifact.path, tmp_path_factory.mktemp("copies") / "artifact"))
    with served(path) as http:
        yield address_of(http), collect(http)


@pytest.fixture
def ids(http: httpx.Client) -> Ids:
    """The same of the test alone."""
    return collect(http)


# --- searching ---------------------------------------------------------------------------------------


def by(page: Page, name: str) -> Locator:
    return page.get_by_role("radio", name=name)


def results(page: Page) -> list[str]:
    """The images that are seen, by their addresses."""
    seen = page.locator("#results li:not([hidden]) > a[data-image]")
    return [link.get_attribute("href") or "" for link in seen.all()]


def test_the_same_picture_or_what_shows_the_like(browser: Browser, library: tuple[str, Ids]) -> None:
    address, ids = library
    sea = ids["sea.png"]
    found = httpx.get(f"{address}/images/{sea}/similar?by=picture&k=24").json()["results"]
    copies = [each["id"] for each in found if each["distance"] <= SAME]
    unsure = [each["id"] for each in found if SAME < each["distance"] <= UNSURE]
    assert {ids["sea-small.jpg"], ids["sea-mirrored.png"]} <= {*copies}
    assert copies + unsure != [each["id"] for each in found]
    for page in opened(browser, address, view=f"#search/{sea}"):
        expect(page.locator("#results li")).to_have_count(11)
        expect(by(page, "Shows the like")).to_be_checked()
        by(page, "Shows the like").press("ArrowRight")
        expect(page).to_have_url(re.compile(rf"#search/{sea}\?by=picture$"))
        expect(page.locator("#title")).to_have_text(f"{len(copies)} copies")
        expect(by(page, "The same picture")).to_be_focused()
        assert results(page) == [f"#image/{id_}" for id_ in copies + unsure]
        first = page.locator("#results a[data-image]").first
        expect(first).to_have_accessible_name(re.compile(r"same picture: the hashes differ in \d+ bits"))
        expect(page.locator("#prediction")).to_be_hidden()
        expect(page.locator("#code")).to_be_hidden()
        page.reload()
        expect(page.locator("#title")).to_have_text(f"{len(copies)} copies")
        expect(by(page, "The same picture")).to_be_checked()
        first.click()
        expect(page.locator("#details-distance")).to_have_text(
            f"Same picture: the hashes differ in {found[0]['distance']} bits."
        )
        page.keyboard.press("Escape")
        expect(page.locator("#viewer")).to_be_hidden()
        page.go_back()
        expect(by(page, "Shows the like")).to_be_checked()
        expect(page.locator("#length")).to_have_text("256-bit code")
        expect(page.locator("#results li:not([hidden])")).to_have_count(11)


def test_what_is_unlike_is_not_shown_as_a_copy(browser: Browser, library: tuple[str, Ids]) -> None:
    address, ids = library
    for page in opened(browser, address, view=f"#image/{ids['hill.png']}"):
        page.get_by_role("link", name="Copies of it").click()
        expect(page.locator("#title")).to_have_text("No copy found")
        expect(page.locator("#status")).to_contain_text("The nearest pictures are unlike")
        assert results(page) == []
        page.get_by_label("Distance at most").press("End")
        assert len(results(page)) == 11
        expect(page.locator("#title")).to_have_text("No copy found")
        expect(page.locator("#results .faint")).to_have_count(11)
        expect(page.locator("#results small").first).to_contain_text("unlike")


def test_a_file_is_searched_with_by_picture(browser: Browser, library: tuple[str, Ids]) -> None:
    address, ids = library
    mine = {"name": "mine.png", "mimeType": "image/png", "buffer": saved(motif(WOOD, (300, 225)))}
    for page in opened(browser, address, view="#search?by=picture"):
        expect(page.locator("#title")).to_have_text("Find copies of your image")
        page.set_input_files("#file", [mine])
        expect(page.locator("#title")).to_have_text("3 copies")
        assert {*results(page)} == {f"#image/{ids[name]}" for name in ids if name.startswith("wood")}
        by(page, "Shows the like").check()
        expect(page.locator("#results li:not([hidden])")).to_have_count(12)
        page.go_back()
        expect(page.locator("#title")).to_have_text("3 copies")
        page.get_by_role("navigation").get_by_role("link", name="Images").click()
        page.get_by_role("navigation").get_by_role("link", name="Search").click()
        expect(page).to_have_url(re.compile(r"#search\?by=picture$"))  # as it was left
        expect(page.locator("#title")).to_have_text("3 copies")


# --- cleaning up -------------------------------------------------------------------------------------


def group(page: Page, of: int) -> Locator:
    """The group of an image."""
    return page.locator("#copies-groups > li", has=page.locator(f"a[data-image='{of}']"))


def keep(page: Page, item_id: int) -> Locator:
    return page.get_by_role("radio", name=f"Keep image {item_id}", exact=True)


def go(page: Page, item_id: int) -> Locator:
    return page.get_by_role("checkbox", name=f"Trash image {item_id}", exact=True)


def move(page: Page) -> Locator:
    return page.locator("#move-copies")


def said(page: Page, text: str) -> None:
    expect(page.locator("#undo-said")).to_have_text(text)


def cleaning(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    for page in opened(browser, address, view="#images/copies", **options):
        expect(page.locator("#copies-groups > li")).not_to_have_count(0)
        yield page


def test_copies_go_and_come_back_in_one_step(browser: Browser, http: httpx.Client, ids: Ids) -> None:
    before = listed(http)
    for page in cleaning(browser, address_of(http)):
        expect(page.locator("#copies-status")).to_have_text(
            f"3 pictures are here more than once, in 8 images. {PLAIN}"
        )
        expect(move(page)).to_have_text(MOVE)
        wood, sea, lake = (group(page, ids[f"{name}.png"]) for name in ("wood", "sea", "lake"))
        expect(keep(page, ids["wood-large.jpg"])).to_be_checked()
        expect(wood).to_contain_text("320 × 240")
        expect(wood).to_contain_text("wood-small.jpg")
        expect(sea.locator("p")).to_have_text(f"3 pictures, image {ids['sea.png']} gets the label “sea”")
        expect(lake.locator("p")).to_contain_text("2 labels")
        expect(go(page, ids["lake-small.jpg"])).not_to_be_checked()
        move(page).click()
        said(page, "4 images deleted.")
        gone = {ids[name] for name in ("wood.png", "wood-small.jpg", "sea-small.jpg", "sea-mirrored.png")}
        assert trash(http) >= gone
        assert http.get(f"/images/{ids['sea.png']}").json()["label"] == "sea"
        expect(page.locator("#copies-groups > li")).to_have_count(1)
        expect(move(page)).to_be_focused()
        expect(move(page)).to_have_text("Move 0 pictures of 0 groups to the trash")
        page.keyboard.press("Enter")  # which does nothing
        page.keyboard.press("Control+z")
        said(page, "5 images are as before.")
        assert listed(http) == before
        expect(page.locator("#copies-groups > li")).to_have_count(3)
        expect(move(page)).to_have_text(MOVE)


def test_others_stay_and_others_go_by_choice(browser: Browser, http: httpx.Client, ids: Ids) -> None:
    for page in cleaning(browser, address_of(http)):
        keep(page, ids["sea-small.jpg"]).check()
        expect(go(page, ids["sea-small.jpg"])).to_be_hidden()
        expect(go(page, ids["sea.png"])).to_be_checked()
        expect(group(page, ids["sea.png"]).locator("p")).to_have_text("3 pictures")  # it has the label
        go(page, ids["wood.png"]).uncheck()
        go(page, ids["lake-small.jpg"]).check()
        expect(move(page)).to_have_text("Move 4 pictures of 3 groups to the trash")
        move(page).click()
        said(page, "4 images deleted.")
        assert {ids[name] for name in ("sea.png", "wood-small.jpg", "lake-small.jpg")} <= trash(http)
        expect(page.locator("#copies-groups > li")).to_have_count(1)
        expect(go(page, ids["wood.png"])).not_to_be_checked()  # as it was left
        go(page, ids["wood.png"]).check()
        move(page).click()
        expect(page.locator("#copies-status")).to_have_text(f"No picture is here twice. {PLAIN}")
        expect(move(page)).to_be_hidden()
        expect(page.get_by_role("heading", name="Images", exact=True)).to_be_focused()
        page.get_by_role("link", name="All images").click()
        expect(page.locator("#images-status")).to_have_text("7 images.")


def test_the_keyboard_is_enough(browser: Browser, http: httpx.Client, ids: Ids) -> None:
    for page in opened(browser, address_of(http), view="#images"):
        expect(page.locator("#images-list li")).not_to_have_count(0)
        tab_to(page, "[data-part=copies]")
        page.keyboard.press("Enter")
        expect(page.locator("#copies-groups > li")).to_have_count(3)
        tab_to(page, f"#copies-groups input[type=radio][value='{ids['wood-large.jpg']}']")
        page.keyboard.press("ArrowLeft")
        expect(keep(page, ids["wood-small.jpg"])).to_be_checked()
        tab_to(page, f"#copies-groups input[type=checkbox][value='{ids['wood-large.jpg']}']")
        expect(go(page, ids["wood-large.jpg"])).to_be_checked()
        page.keyboard.press("Space")
        expect(move(page)).to_have_text("Move 3 pictures of 2 groups to the trash")
        while not page.evaluate("document.activeElement.id === 'move-copies'"):
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        said(page, "3 images deleted.")
        assert {ids["wood.png"], ids["sea-small.jpg"]} <= trash(http)


def test_what_the_viewer_changes_is_seen_in_the_group(browser: Browser, http: httpx.Client, ids: Ids) -> None:
    for page in cleaning(browser, address_of(http)):
        page.locator(f"#copies a[data-image='{ids['lake-small.jpg']}']").click()
        page.locator("#details-label").fill("lake")
        page.locator("#details-label").press("Enter")
        expect(page.locator("#details-said")).to_have_text("The label is saved.")
        page.keyboard.press("Escape")
        expect(page.locator("#viewer")).to_be_hidden()
        expect(group(page, ids["lake.png"]).locator("p")).to_have_text("2 pictures")
        expect(move(page)).to_have_text("Move 5 pictures of 3 groups to the trash")
        page.locator(f"#copies a[data-image='{ids['wood-large.jpg']}']").click()
        page.locator("#details-delete").click()
        said(page, "1 image deleted.")
        page.keyboard.press("Escape")
        expect(page.locator("#viewer")).to_be_hidden()
        expect(keep(page, ids["wood.png"])).to_be_checked()  # the largest of those that are left
        expect(move(page)).to_have_text("Move 4 pictures of 3 groups to the trash")


def test_nothing_goes_whose_label_would_be_lost(browser: Browser, http: httpx.Client, ids: Ids) -> None:
    for page in cleaning(browser, address_of(http)):
        expect(move(page)).to_have_text(MOVE)
        before = trash(http)
        http.patch(f"/images/{ids['sea.png']}", json={"label": "ocean"}).raise_for_status()  # somebody else
        move(page).click()
        expect(page.locator("#copies .error")).to_contain_text(f"Image {ids['sea.png']}")
        assert trash(http) == before
        expect(group(page, ids["sea.png"]).locator("p")).to_contain_text("2 labels")


def test_groups_come_a_page_at_a_time(browser: Browser, library: tuple[str, Ids]) -> None:
    address, ids = library

    def one_at_a_time(route: Route) -> None:
        route.continue_(url=route.request.url.replace("limit=50", "limit=1"))

    for page in opened(browser, address):
        page.route("**/duplicates?*", one_at_a_time)
        page.get_by_role("navigation").get_by_role("link", name="Images").click()
        page.get_by_role("link", name="Copies", exact=True).click()
        expect(page.locator("#copies-status")).to_contain_text("The first 1 group is listed.")
        expect(move(page)).to_have_text("Move 2 pictures of 1 group to the trash")
        page.get_by_role("button", name="More groups").click()
        expect(page.locator(f"#copies a[data-image='{ids['sea.png']}']")).to_be_focused()
        expect(move(page)).to_have_text(MOVE)
        page.get_by_role("button", name="More groups").click()
        expect(page.locator("#copies-groups > li")).to_have_count(3)
        expect(page.get_by_role("button", name="More groups")).to_be_hidden()
        expect(page.locator("#copies-status")).not_to_contain_text("listed")


def test_an_older_artifact_says_what_to_run(browser: Browser, mine: Path) -> None:
    with closing(sqlite3.connect(mine / CATALOGUE)) as connection, connection:
        connection.execute("DELETE FROM pictures")
    with serve_here(create_app(Settings(artifact=mine))) as server:
        for page in opened(browser, server, view="#images/copies", refused=(409,)):
            expect(page.locator("#copies .error")).to_contain_text("hebbsearch upgrade ARTIFACT")
            expect(move(page)).to_be_hidden()
            assert barriers(page) == []
            page.goto(f"{server}/#search/1?by=picture")
            expect(page.locator("#search-view .error")).to_contain_text("hebbsearch upgrade ARTIFACT")
            by(page, "Shows the like").check()
            expect(page.locator("#results li")).to_have_count(24)
            expect(page.locator("#search-view .error")).to_be_hidden()


def test_a_reader_is_asked_for_a_key_when_something_is_to_go(browser: Browser, mine: Path) -> None:
    settings = Settings(artifact=mine, write_keys=WRITER)
    with serve_here(create_app(settings)) as address:
        headers = {"Authorization": f"Bearer {WRITER}"}
        with httpx.Client(base_url=address, headers=headers, timeout=60) as http:
            ids = collect(http)
            for page in cleaning(browser, address, refused=(401,)):
                expect(move(page)).to_have_text(MOVE)
                move(page).click()
                dialog = page.get_by_role("dialog", name="Your key")
                dialog.get_by_role("button", name="Cancel").click()
                expect(page.locator("#copies .error")).to_contain_text("A key is needed")
                move(page).click()
                dialog.get_by_label("Key", exact=True).fill(WRITER)
                dialog.get_by_role("button", name="Use it").click()
                said(page, "4 images deleted.")
                assert ids["sea-small.jpg"] in trash(http)


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_nobody_is_kept_out(browser: Browser, library: tuple[str, Ids], scheme: str, width: int) -> None:
    address, ids = library
    for page in cleaning(browser, address, color_scheme=scheme, reduced_motion="reduce"):
        for wide in (360, 2560, width):
            assert fits(page, wide)
        assert barriers(page) == []
        page.goto(f"{address}/#search/{ids['sea.png']}?by=picture")
        expect(page.locator("#results li")).not_to_have_count(0)
        page.get_by_label("Distance at most").press("End")
        for wide in (360, 2560, width):
            assert fits(page, wide)
        assert barriers(page) == []
