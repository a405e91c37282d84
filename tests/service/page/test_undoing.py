"""What is deleted comes back, what is done is undone, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.service.page.browser import barriers, fits, images_view, listed, png
from tests.service.reloading import served


@pytest.fixture
def view(my_view: Page) -> Page:
    expect(my_view.locator("#images-list li").first).to_be_visible()
    return my_view


def tick(view: Page, *ids: int) -> None:
    for item_id in ids:
        view.get_by_role("checkbox", name=f"Select image {item_id},").check()


def trash(http: httpx.Client) -> list[int]:
    return sorted(image["id"] for image in http.get("/trash").json()["images"])


def said(view: Page, text: str) -> None:
    expect(view.locator("#undo-said")).to_have_text(text)


def test_deleted_images_come_back_by_one_press(view: Page, http: httpx.Client) -> None:
    before = listed(http)
    tick(view, 1, 2)
    view.locator("#delete-selected").click()
    said(view, "2 images deleted.")
    expect(view.locator("#images-list a[href='#image/1']")).to_have_count(0)
    assert trash(http) == [1, 2]
    assert barriers(view) == []
    view.get_by_role("button", name="Undo", exact=True).click()
    said(view, "2 images are as before.")
    expect(view.locator("#images-list a[href='#image/1']")).to_be_visible()
    assert listed(http) == before
    view.keyboard.press("Control+z")  # which undoes no undoing
    view.get_by_role("button", name="Redo").click()
    said(view, "2 images are changed again.")
    assert trash(http) == [1, 2]
    view.keyboard.press("Control+z")
    said(view, "2 images are as before.")
    assert listed(http) == before
    view.get_by_role("button", name="Close", exact=True).click()
    expect(view.get_by_role("button", name="Redo")).to_be_hidden()


def test_labels_of_many_are_undone_but_for_what_somebody_changed_since(
    view: Page, http: httpx.Client
) -> None:
    before = [(image["id"], image["label"]) for image in listed(http)]
    tick(view, 1, 2)
    view.locator("#label-selected").click()
    view.locator("#new-label").fill("fox")
    view.get_by_role("button", name="Set the label").click()
    said(view, "2 images labelled.")
    http.patch("/images/2", json={"label": "mine"}).raise_for_status()
    view.get_by_role("button", name="Undo", exact=True).click()
    said(view, "1 image is as before. 1 changed since, and stays.")
    now = dict(before) | {2: "mine"}
    assert {image["id"]: image["label"] for image in listed(http)} == now


def test_the_trash_shows_what_was_deleted_and_gives_it_back(view: Page, http: httpx.Client) -> None:
    http.post("/trash", json={"ids": [1, 2, 3]}).raise_for_status()
    view.reload()
    view.select_option("#images-filter", label="Trash (3)")
    expect(view.locator("#images-list li")).to_have_count(3)
    expect(view.locator("#trash-days")).to_have_text("Each image leaves the trash for good after 30 days.")
    expect(view.locator("#images-list .similar")).to_have_count(0)
    assert barriers(view) == []
    assert fits(view, 390)
    tick(view, 2)
    expect(view.locator("#label-selected")).to_be_hidden()
    view.locator("#restore-selected").click()
    said(view, "1 image restored.")
    assert trash(http) == [1, 3]

    view.locator("#images-list a[data-image='3']").click()
    expect(view.locator("#details-thrown")).to_be_visible()
    expect(view.locator("#details-form")).to_be_hidden()
    assert barriers(view) == []
    view.locator("#details-restore").click()
    expect(view.locator("#details-title")).to_have_text("000.png")  # the one that is left
    assert trash(http) == [1]
    view.locator("#details-forget").click()
    expect(view.get_by_role("dialog", name="Delete image 1?")).to_be_in_viewport(ratio=1)
    view.get_by_role("button", name="Delete 1 image").click()
    expect(view.locator("#viewer")).to_be_hidden()
    expect(view.locator("#images-status")).to_contain_text("The trash is empty.")
    assert trash(http) == []
    assert http.get("/images/1", params={"trashed": True}).status_code == 404


def test_the_trash_is_emptied_after_a_question(view: Page, http: httpx.Client) -> None:
    http.post("/trash", json={"ids": [1, 2, 3]}).raise_for_status()
    view.reload()
    view.select_option("#images-filter", label="Trash (3)")
    view.locator("#empty-trash").click()
    dialog = view.get_by_role("dialog", name="Delete 3 images?")
    expect(dialog).to_be_in_viewport(ratio=1)
    expect(dialog).to_contain_text("for good")
    dialog.get_by_role("button", name="Cancel").click()
    assert trash(http) == [1, 2, 3]
    view.locator("#empty-trash").click()
    dialog.get_by_role("button", name="Delete 3 images").click()
    expect(view.locator("#images-status")).to_contain_text("The trash is empty.")
    assert trash(http) == []


def test_a_deletion_in_the_viewer_is_undone_there(view: Page, http: httpx.Client) -> None:
    view.locator("#images-list a[data-image='1']").click()
    view.locator("#details-delete").click()
    said(view, "1 image deleted.")
    expect(view.locator("#details-title")).to_have_text("001.png")
    assert trash(http) == [1]
    assert barriers(view) == []
    view.locator("#viewer").get_by_role("button", name="Undo", exact=True).click()
    said(view, "1 image is as before.")
    assert trash(http) == []
    view.keyboard.press("Escape")
    expect(view.locator("#viewer")).to_be_hidden()
    expect(view.locator("#images-list a[href='#image/1']")).to_be_visible()
    said(view, "1 image is as before.")  # still, now above the page


def test_what_was_changed_is_listed_and_undone_one_by_one(view: Page, http: httpx.Client) -> None:
    view.locator("#show-history").click()
    expect(view.locator("#history-none")).to_be_visible()
    view.locator("#history-close").click()
    http.patch("/images/1", json={"label": "first"}).raise_for_status()
    http.patch("/images/1", json={"label": "second"}).raise_for_status()
    http.post("/trash", json={"ids": [2, 3]}).raise_for_status()
    view.locator("#show-history").click()
    entries = view.locator("#changes li")
    expect(entries).to_have_count(3)
    expect(entries.nth(0)).to_contain_text("2 images deleted")
    expect(entries.nth(0).locator("img")).to_have_count(2)
    expect(entries.nth(2).get_by_role("button")).to_be_disabled()  # what came after it is in the way
    assert barriers(view) == []
    assert fits(view, 390)
    entries.nth(0).get_by_role("button").click()
    expect(entries).to_have_count(4)
    expect(entries.nth(0)).to_contain_text("2 images restored")
    assert trash(http) == []
    entries.nth(2).get_by_role("button").click()
    expect(entries).to_have_count(5)
    assert listed(http)[0]["label"] == "first"


def test_files_that_were_added_together_are_one_change(view: Page, http: httpx.Client) -> None:
    before = listed(http)
    files = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": png(n)} for n in range(40)]
    view.set_input_files("#add-files", files)
    view.get_by_role("button", name="Add 40 images").click()
    expect(view.locator("#adding-status")).to_have_text("Done: 40 added.")
    assert len(http.get("/changes").json()["changes"]) > 1  # they went in several requests
    view.locator("#show-history").click()
    entries = view.locator("#changes li")
    expect(entries).to_have_count(1)
    expect(entries).to_contain_text("40 images added")
    expect(entries.locator("img")).to_have_count(5)
    entries.get_by_role("button").click()
    expect(entries).to_have_count(2)  # undoing is one change too
    expect(entries.nth(0)).to_contain_text("40 images deleted")
    assert listed(http) == before
    entries.nth(0).get_by_role("button").click()
    expect(entries).to_have_count(3)
    assert len(listed(http)) == len(before) + 40


def test_a_picture_that_is_sent_again_comes_out_of_the_trash(view: Page, http: httpx.Client) -> None:
    (sent,) = http.post("/images", content=png(1), params={"label": "mine"}).json()["images"]
    http.delete(f"/images/{sent['image']['id']}").raise_for_status()
    view.set_input_files("#add-files", [{"name": "again.png", "mimeType": "image/png", "buffer": png(1)}])
    view.get_by_role("button", name="Add 1 image").click()
    expect(view.locator("#adding-status")).to_have_text("Done: 0 added, 1 back from the trash.")
    view.select_option("#images-filter", label="Added just now")
    expect(view.locator(f"#images-list a[data-image='{sent['image']['id']}']")).to_be_visible()
    assert trash(http) == []


@pytest.fixture
def final(browser: Browser, mine: Path) -> Iterator[tuple[Page, httpx.Client]]:
    """A service without a trash."""
    with served(mine, trash_days=0) as http:
        for view in images_view(browser, str(http.base_url).rstrip("/")):
            yield view, http


def test_where_there_is_no_trash_a_question_comes_first(final: tuple[Page, httpx.Client]) -> None:
    view, http = final
    tick(view, 1)
    view.locator("#delete-selected").click()
    dialog = view.get_by_role("dialog", name="Delete image 1?")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    dialog.get_by_role("button", name="Cancel").click()
    assert listed(http)[0]["id"] == 1
    expect(view.locator("#delete-selected")).to_be_focused()
    view.locator("#delete-selected").click()
    dialog.get_by_role("button", name="Delete 1 image").click()
    said(view, "1 image deleted.")
    expect(view.get_by_role("button", name="Undo", exact=True)).to_be_hidden()
    assert listed(http)[0]["id"] == 2
    assert trash(http) == []
