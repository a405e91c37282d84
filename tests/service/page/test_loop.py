"""The whole loop in a real browser on real images, nothing made smaller: digits without any label."""

import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect
from sklearn.datasets import load_digits

from index.artifact import Artifact, open_artifact
from index.verify import faults
from tests import forking
from tests.samples import environment, served
from tests.service.page.browser import opened
from tests.service.page.test_labelling import asked

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BY_KEYS = 60
MINUTES = 10 * 60_000  # milliseconds that learning may take on a busy machine
BUILD = "import sys; from training.build_index import main; sys.exit(main())"


@pytest.fixture
def unlabelled(tmp_path: Path) -> Artifact:
    """All 1,797 digits as files, as the command builds them where no label is known."""
    (tmp_path / "digits").mkdir()
    for number, picture in enumerate(load_digits().images):
        grey = Image.fromarray((picture * 255 / 16).astype(np.uint8))
        grey.save(tmp_path / "digits" / f"{number:04}.png")
    build = [sys.executable, "-c", BUILD, "--data", "./digits", "--labels", "none", "--out", "mine"]
    done = forking.run(build, timeout=1800, cwd=tmp_path, env=environment(None))
    assert done.returncode == 0, done.stderr
    return open_artifact(tmp_path / "mine")


@pytest.mark.slow
@pytest.mark.process
def test_from_digits_without_a_label_to_measured_answers(browser: Browser, unlabelled: Artifact) -> None:
    with served(unlabelled.path) as http:
        for page in opened(browser, str(http.base_url).rstrip("/"), view="#label", refused=(404, 409)):
            for _ in range(BY_KEYS):
                give(page, truth(http, asked(page)))
            while labelled(http) < BY_KEYS:  # the next picture is there before the label is
                page.wait_for_timeout(50)
            learn(page, f"Learn from {BY_KEYS} labels")
            take(page)
            expect(page.locator("#score")).to_contain_text("mAP")  # some of the sixty were held out
            before = score(http)

            page.get_by_role("link", name="Accept groups").click()
            taken = accept_first_group(page, http)
            assert taken > 30
            assert labelled(http) == BY_KEYS + taken
            learn(page, f"Learn from {BY_KEYS + taken} labels")
            expect(page.locator("#job-compared")).to_be_visible()  # old and new side by side
            take(page)
            after = score(http)
            assert after["definition"]["queries"] == before["definition"]["queries"]  # no group measures
            assert min(before["map"], after["map"]) > after["chance"]
            jobs = http.get("/jobs").json()["jobs"]
            assert [job["in_use"] for job in jobs] == [True, True]  # served, and kept to go back to
            assert list(faults(unlabelled.path.parent / jobs[0]["target"])) == []


def truth(http: httpx.Client, item_id: int) -> str:
    path = http.get(f"/images/{item_id}").raise_for_status().json()["path"]
    return WORDS[int(load_digits().target[int(Path(path).stem)])]


def give(page: Page, label: str) -> None:
    """Answer by keys alone: by the label's own key where it has one, else by its letters."""
    enlarge = page.locator("#asked-enlarge")
    was = enlarge.get_attribute("href") or ""
    key = page.locator("#asked-choices button", has=page.get_by_text(label, exact=True)).locator("kbd")
    if key.count():
        page.keyboard.press(key.inner_text())
    else:
        page.keyboard.type(label)
        page.keyboard.press("Enter")
    expect(enlarge).not_to_have_attribute("href", was)


def labelled(http: httpx.Client) -> int:
    return int(http.get("/stats").json()["labelled"])


def score(http: httpx.Client) -> dict:
    return dict(http.get("/eval/map").raise_for_status().json())


def learn(page: Page, words: str) -> None:
    page.get_by_role("link", name="Learn", exact=True).click()
    page.get_by_role("button", name=words).click()
    expect(page.locator("#job-title")).to_have_text("Learning …")
    expect(page.locator("#job-title")).to_have_text("Learned", timeout=MINUTES)


def take(page: Page) -> None:
    page.get_by_role("button", name="Take it", exact=True).click()
    expect(page.locator("#job-title")).to_have_text("Learned, and served", timeout=MINUTES)


def accept_first_group(page: Page, http: httpx.Client) -> int:
    """Look over the largest group, untick what is wrong, and accept the rest; how many."""
    label = page.locator("#group-title")
    expect(label).to_contain_text("Probably")
    word = (label.text_content() or "").split("“")[1].rstrip("”")
    images = http.get("/images", params={"predicted": word, "min_confidence": 0.8, "limit": 1000}).json()[
        "images"
    ]
    wrong = [image["id"] for image in images if truth(http, image["id"]) != word]
    for item_id in wrong:
        revealed(page, item_id).uncheck()
    count = len(images) - len(wrong)
    page.get_by_role("button", name=f"Accept {count} as “{word}”").click()
    expect(page.locator("#accepted-said")).to_contain_text(f"accepted as “{word}”")
    return count


def revealed(page: Page, item_id: int) -> Locator:
    """The image's box, with as many more images shown as that takes."""
    box = page.get_by_role("checkbox", name=f"Accept image {item_id}", exact=True)
    cards = page.locator("#group-images > li")
    while True:
        shown = cards.count()
        if box.count():
            return box
        # Playwright's own scrolling would wait for a button that goes away with the last images.
        page.locator("#group-more").evaluate("button => button.scrollIntoView()")
        expect(cards).not_to_have_count(shown)
