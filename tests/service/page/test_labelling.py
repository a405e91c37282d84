"""The view in which labels are given, in a real browser against the real service."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, expect

from index.artifact import CATALOGUE, Artifact
from index.catalogue import Catalogue
from service.app import create_app
from service.core import jobs
from service.core.artifacts.upgrading import upgrade
from service.settings import Settings
from tests.samples import CLASSES, serve_here, served
from tests.service.embedded import embed_by_hand
from tests.service.page.browser import LOOKS, barriers, fits, opened
from tests.service.routes.test_jobs import ALONE, COPYING, FAILING, QUICK, WAITING, built_of_stripes
from tests.training.narrow import widths_are_narrow
from tests.training.test_label import truth


@pytest.fixture
def embedded(own: Artifact) -> Iterator[httpx.Client]:
    """A service with embeddings made by hand: 57 images have a label, three have none but a predicted one."""
    embed_by_hand(own)
    with served(own.path) as client:
        yield client


def label_view(browser: Browser, http: httpx.Client, part: str = "", **options: Any) -> Iterator[Page]:
    yield from opened(browser, str(http.base_url).rstrip("/"), view=f"#label{part}", **options)


def labels(http: httpx.Client, *ids: int) -> list[str | None]:
    return [http.get(f"/images/{item_id}").raise_for_status().json()["label"] for item_id in ids]


def asked(page: Page) -> int:
    """The image that is asked about, once its picture is there."""
    picture = page.locator("#asked-picture img")
    expect(picture).to_be_visible()
    expect(picture).to_have_js_property("complete", True)
    return int((page.locator("#asked-enlarge").get_attribute("href") or "").rpartition("/")[2])


def test_a_key_labels_and_the_next_image_is_there(browser: Browser, embedded: httpx.Client) -> None:
    for page in label_view(browser, embedded):
        expect(page.locator("#label-status")).to_have_text("3 without a label. The most telling come first.")
        expect(page.locator("#asked-choices button")).to_have_text(
            [re.compile(f"{key}{re.escape(name)}") for key, name in enumerate(CLASSES, 1)]
        )
        expect(page.locator("#asked-choices .likely")).to_contain_text("circle30 %")  # as predicted
        expect(page.locator("#asked-near a")).not_to_have_count(0)
        suggested = [each["id"] for each in embedded.get("/labels/suggestions").json()["images"]]
        assert asked(page) == suggested[0]
        seen = [asked(page)]
        circle = CLASSES.index("circle") + 1
        for key in (str(circle), "ArrowRight"):
            page.keyboard.press(key)
            expect(page.locator("#asked-enlarge")).not_to_have_attribute("href", f"#image/{seen[-1]}")
            seen.append(asked(page))
        page.keyboard.type("new owl")  # the first letter leads into the field
        page.keyboard.press("Enter")
        expect(page.locator("#asked")).to_be_hidden()
        expect(page.locator("#label-status")).to_have_text("2 images labelled here. 1 image was skipped.")
        page.get_by_role("button", name="Show the skipped ones again").click()
        assert asked(page) == seen[1]
        page.locator("#asked-undo").click()  # of the line before
        assert asked(page) == seen[2]
        page.keyboard.type("new owl")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Images", exact=True).click()  # where all of it is seen
        expect(page.locator("#images-filter")).to_contain_text("new owl (1)")
        assert labels(embedded, *seen) == ["circle", None, "new owl"]
        sources = [embedded.get(f"/images/{item_id}").json()["source"] for item_id in seen]
        assert sources == ["accepted", None, "given"]


def test_back_another_label_and_undo(browser: Browser, embedded: httpx.Client) -> None:
    for page in label_view(browser, embedded):
        expect(page.locator("#asked-choices button")).to_have_count(3)
        first = asked(page)
        page.keyboard.press("1")
        expect(page.locator("#label-status")).to_contain_text("1 image labelled here. 2 without")
        page.keyboard.press("ArrowLeft")
        assert asked(page) == first
        expect(page.locator("#asked-choices [aria-pressed=true]")).to_contain_text(CLASSES[0])
        page.keyboard.press("2")
        expect(page.locator("#label-status")).to_contain_text("1 image labelled here. 2 without")
        page.locator("#asked-undo").click()
        assert asked(page) == first
        expect(page.locator("#label-status")).to_contain_text("3 without a label.")
        expect(page.locator("#asked-undo")).to_be_disabled()
        page.get_by_role("link", name="Images", exact=True).click()
        expect(page.locator("#images-filter")).to_contain_text("No label (3)")
        assert labels(embedded, first) == [None]


def test_two_who_label_the_same_image(browser: Browser, embedded: httpx.Client) -> None:
    for page in label_view(browser, embedded, refused=(409,)):
        expect(page.locator("#asked-choices button")).to_have_count(3)
        first = asked(page)
        embedded.patch(f"/images/{first}", json={"label": "theirs"}).raise_for_status()  # by the other one
        page.keyboard.press("1")
        alert = page.locator("#queue .error")
        expect(alert).to_have_text(
            f"Image {first}: Image {first} has the label 'theirs' by now; look at it again"
        )
        assert labels(embedded, first) == ["theirs"]
        assert asked(page) == first
        page.keyboard.press("ArrowRight")
        page.keyboard.press("1")  # and the work goes on
        expect(page.locator("#label-status")).to_contain_text("1 image labelled here.")


def test_who_may_not_write_is_told_and_loses_nothing(browser: Browser, own: Artifact) -> None:
    write = "a-key-that-writes-1"
    with serve_here(create_app(Settings(artifact=own.path, write_keys=write))) as address:
        for page in opened(browser, address, refused=(401,)):
            page.goto(f"{address}/#label")
            expect(page.locator("#asked-choices button")).to_have_count(3)
            first = asked(page)
            page.keyboard.press("1")
            page.locator("#key").get_by_role("button", name="Cancel").click()
            expect(page.locator("#queue .error")).to_contain_text("A key is needed")
            assert asked(page) == first
            page.keyboard.press("1")
            page.get_by_label("Key", exact=True).fill(write)
            page.get_by_role("button", name="Use it").click()
            expect(page.locator("#label-status")).to_contain_text("1 image labelled here. 2 without")
            page.keyboard.press("2")  # pictures come with the key now
            expect(page.locator("#asked-picture img")).to_have_js_property("naturalWidth", 24)


def test_without_embeddings_all_come_in_their_order_from_no_label_on(
    browser: Browser, unlabelled_artifact: Artifact, tmp_path: Path
) -> None:
    mine = shutil.copytree(unlabelled_artifact.path, tmp_path / "artifact")
    with served(mine) as http:
        for page in label_view(browser, http):
            expect(page.locator("#label-status")).to_contain_text(
                "without a label. They come in their order."
            )
            expect(page.locator("#asked-choices button")).to_have_count(0)
            everything = [each["id"] for each in http.get("/images?limit=1000").json()["images"]]
            for number in range(11):
                expect(page.locator("#asked-enlarge")).to_have_attribute(
                    "href", f"#image/{everything[number]}"
                )
                page.keyboard.type(f"kind {number:02}")
                page.keyboard.press("Enter")
            expect(page.locator("#asked-choices button")).to_have_count(9)  # of eleven
            for item_id in everything[11:]:
                expect(page.locator("#asked-enlarge")).to_have_attribute("href", f"#image/{item_id}")
                page.keyboard.press("ArrowRight")
            expect(page.locator("#label-status")).to_contain_text(
                f"11 images labelled here. {len(everything) - 11} images were skipped."
            )
            page.get_by_role("link", name="Label", exact=True).click()
            page.get_by_role("link", name="Doubtful labels").click()
            expect(page.locator("#doubtful .error")).to_contain_text("This index keeps no embeddings")
            assert labels(http, *everything[:11]) == [f"kind {number:02}" for number in range(11)]


def test_the_picture_after_this_one_is_fetched_before(browser: Browser, embedded: httpx.Client) -> None:
    fetched: list[str] = []

    def note(request: Request) -> None:
        if request.url.endswith("/preview"):
            fetched.append(request.url)

    for page in opened(browser, str(embedded.base_url).rstrip("/")):
        page.on("request", note)
        page.get_by_role("link", name="Label", exact=True).click()
        expect(page.locator("#asked-picture img")).to_have_js_property("naturalWidth", 24)
        page.wait_for_function("performance.getEntriesByType('resource').length > 0")
        suggested = [each["id"] for each in embedded.get("/labels/suggestions").json()["images"]]
        assert {int(url.split("/")[-2]) for url in fetched} == set(suggested)  # of three, all


def test_a_doubtful_label_is_kept_or_changed(browser: Browser, own: Artifact) -> None:
    embed_by_hand(own)
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        circles = [item.id for item in catalogue.page(count=1000) if item.label == "circle"]
        squares = [item.id for item in catalogue.page(count=1000) if item.label == "square"]
    with served(own.path) as http:
        for item_id, label in ((circles[3], "square"), (squares[5], "circle")):
            http.patch(f"/images/{item_id}", json={"label": label}).raise_for_status()
        upgrade(own.path)
        for page in label_view(browser, http, "/doubtful"):
            page.get_by_role("link", name="Images", exact=True).click()
            page.select_option("#images-order", label="most doubtful label first")
            first = page.locator("#images-list [aria-posinset='1'] a[data-image]")
            worst = http.get("/images", params={"sort": "doubt", "limit": 1}).json()["images"][0]
            expect(first).to_have_attribute("data-image", str(worst["id"]))
            expect(first).to_contain_text(f"rather {worst['rival']}")
            first.click()
            expect(page.locator("#details-facts")).to_contain_text(f"it rather is “{worst['rival']}”")
            page.go_back()
            page.get_by_role("link", name="Label", exact=True).click()
            page.get_by_role("link", name="Doubtful labels").click()
            rows = page.locator("#doubts > li")
            expect(rows).to_have_count(2)
            expect(page.locator("#doubtful-status")).to_contain_text("2 labels to look at again")
            ours = page.locator(f"#doubts > li:has(a.asked[href='#image/{circles[3]}'])")
            expect(ours.locator(".strip")).to_have_count(2)
            expect(ours.locator(".strip").nth(1).locator("a")).to_have_count(4)
            ours.get_by_role("button", name="Change to “circle”").click()
            expect(rows).to_have_count(1)
            rows.get_by_role("button", name="Keep “circle”").press("Enter")
            expect(page.locator("#doubtful-status")).to_have_text("No label is contradicted by the others.")
            assert labels(http, circles[3], squares[5]) == ["circle", "circle"]
            page.get_by_role("link", name="One by one").click()
            page.get_by_role("link", name="Doubtful labels").click()  # what was kept stays away
            expect(page.locator("#doubtful-status")).to_have_text("No label is contradicted by the others.")
            page.get_by_role("link", name="Images", exact=True).click()
            expect(page.locator("#images-filter")).to_contain_text("circle (21)")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_nobody_is_kept_out(browser: Browser, own: Artifact, scheme: str, width: int) -> None:
    embed_by_hand(own)
    with served(own.path) as http:
        (first, *_) = http.get("/images", params={"label": "circle"}).json()["images"]
        http.patch(f"/images/{first['id']}", json={"label": "square"}).raise_for_status()
        for page in label_view(browser, http, color_scheme=scheme):
            expect(page.locator("#asked-near a")).not_to_have_count(0)
            assert barriers(page) == []
            assert fits(page, 360)
            assert fits(page, width)
            page.get_by_role("link", name="Doubtful labels").click()
            expect(page.locator("#doubts .strip a")).not_to_have_count(0)
            assert barriers(page) == []
            assert fits(page, 360)


@pytest.fixture
def quick(mine_by_best: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index without any label, and a service that learns in seconds."""
    monkeypatch.setattr(jobs, "LABEL", (sys.executable, "-c", QUICK))
    widths_are_narrow(monkeypatch.setitem, monkeypatch.setattr)
    return mine_by_best


@pytest.fixture
def mine_by_best(stripes_by_best: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stripes_by_best, tmp_path / "artifacts" / "mine"))


@pytest.fixture(scope="module")
def stripes_by_best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_of_stripes(tmp_path_factory.mktemp("stripes"))


def test_labels_of_one_class_predict_nothing_and_the_page_says_so(
    browser: Browser, embedded: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LABEL", (sys.executable, "-c", ALONE))
    for page in label_view(browser, embedded, "/learn"):
        page.get_by_role("button", name=re.compile("^Learn from")).click()
        expect(page.locator("#job-compared")).to_contain_text(
            "From 1 label. All of these are “owl”: no label is predicted until there is a second one."
        )


@pytest.mark.long
def test_from_no_label_to_measured_answers(browser: Browser, quick: Path) -> None:
    """The whole loop: label by keys, learn, look at old and new, take it, measured, accept a group."""
    with served(quick) as http:
        for page in label_view(browser, http, refused=(404,)):
            expect(page.locator("#label-status")).to_have_text(
                "240 without a label. The most telling come first."
            )
            for label in ("lying", "standing"):  # the first of each is written, then each has a key
                while truth_of(http, asked(page)) != label:
                    page.keyboard.press("ArrowRight")
                    expect(page.locator("#asked")).to_be_visible()
                was = page.locator("#asked-enlarge").get_attribute("href") or ""
                page.keyboard.type(label)
                page.keyboard.press("Enter")
                expect(page.locator("#asked-enlarge")).not_to_have_attribute("href", was)
            for _ in range(4):
                was = page.locator("#asked-enlarge").get_attribute("href") or ""
                page.keyboard.press("1" if truth_of(http, asked(page)) == "lying" else "2")
                expect(page.locator("#asked-enlarge")).not_to_have_attribute("href", was)
            page.get_by_role("link", name="Learn", exact=True).click()
            expect(page.locator("#learning-status")).to_have_text(
                "This index has 6 labels. It has learned from none yet."
            )
            for image in http.get("/images?limit=204&unlabelled=true").json()["images"]:  # others help
                given = {"label": truth_of(http, image["id"])}
                http.patch(f"/images/{image['id']}", json=given).raise_for_status()
            page.reload()
            page.get_by_role("button", name="Learn from 210 labels").click()
            expect(page.get_by_role("button", name="Learn from 210 labels")).to_be_disabled()
            expect(page.locator("#job-title")).to_have_text("Learning …")
            expect(page.locator("#job-title")).to_have_text("Learned", timeout=120_000)
            expect(page.locator("#job-compared caption")).to_contain_text("that nothing learned from")
            expect(page.locator("#job-compared tbody td")).to_have_count(4)
            assert barriers(page) == []
            assert fits(page, 360)
            page.get_by_role("button", name="Take it", exact=True).click()
            expect(page.locator("#job-title")).to_have_text("Learned, and served")
            expect(page.locator("#score")).to_contain_text("mAP")  # it is measured now
            expect(page.locator("#learning-status")).to_contain_text("It has learned from 1")
            page.goto(f"{http.base_url}#search/7")
            expect(page.locator("#predicted")).to_have_text(truth_of(http, 7))
            expect(page.locator("#knew")).to_be_visible()
            expect(page.locator("#voted")).to_be_hidden()
            page.goto(f"{http.base_url}#label/accept")
            page.get_by_label("At least").fill("50")
            expect(page.locator("#accepting-status")).to_contain_text("of 30 without a label.")
            page.locator("#accept").click()
            expect(page.locator("#accepted-said")).to_contain_text("accepted as")
            everything = http.get("/images?limit=240").json()["images"]
            accepted = [image for image in everything if image["source"] == "group"]
            assert accepted
            assert all(image["label"] == truth(image["path"]) for image in accepted)


def truth_of(http: httpx.Client, item_id: int) -> str:
    return truth(http.get(f"/images/{item_id}").raise_for_status().json()["path"])


def test_learning_is_cancelled_fails_and_is_let_go(
    browser: Browser, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LABEL", (sys.executable, "-c", WAITING))
    with served(mine) as http:
        for page in label_view(browser, http, "/learn"):
            page.get_by_role("button", name="Learn from 60 labels").click()
            expect(page.locator("#job-step")).to_have_text("Waiting")
            page.get_by_role("link", name="Images", exact=True).click()  # it goes on
            page.get_by_role("link", name="Label", exact=True).click()
            page.get_by_role("link", name="Learn", exact=True).click()
            expect(page.locator("#job-step")).to_have_text("Waiting")
            page.get_by_role("button", name="Cancel", exact=True).last.click()
            expect(page.locator("#job-title")).to_have_text("Cancelled")
            monkeypatch.setattr(jobs, "LABEL", (sys.executable, "-c", FAILING))
            page.locator("#learn").click()
            expect(page.locator("#job-step")).to_have_text("it cannot be done")
            monkeypatch.setattr(jobs, "LABEL", (sys.executable, "-c", COPYING))
            page.locator("#learn").click()
            expect(page.locator("#job-compared")).to_contain_text("0 labels are held out")
            assert len(list(mine.parent.glob("artifact-learned-*"))) == 1
            page.get_by_role("button", name="Let it go").click()
            expect(page.locator("#job-title")).to_have_text("That went wrong")  # the one before it
            assert list(mine.parent.glob("artifact-learned-*")) == []
