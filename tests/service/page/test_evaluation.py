"""The page's views Evaluation and Codes in a real browser: what they show is what the API answers."""

import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from index.artifact import Artifact
from service.app import create_app
from service.routes import about
from service.settings import Settings
from tests.samples import CLASSES, PER_CLASS, QUERIES_PER_CLASS, serve_here
from tests.service.page.browser import LOOKS, barriers, fits, opened

Ask = Callable[..., Any]
QUERIES = len(CLASSES) * QUERIES_PER_CLASS


@pytest.fixture
def ask(server: str) -> Ask:
    def get(path: str, **parameters: object) -> Any:
        return httpx.get(f"{server}/{path}", params=parameters).raise_for_status().json()

    return get


def show(page: Page, view: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=view).click()
    expect(page.get_by_role("heading", name=view, exact=True)).to_be_focused()


def rows(place: Locator) -> list[list[str]]:
    """The texts of a table's body, after it was opened where it is folded away."""
    if place.locator("summary").count():
        place.locator("summary").click()
    expect(place.locator("table")).to_be_visible()
    return [row.locator("th, td").all_text_contents() for row in place.locator("tbody tr").all()]


def fixed(value: float, digits: int = 3) -> str:
    """As JavaScript rounds: exact halves away from 0."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def percents(share: float) -> str:
    return f"{fixed(100 * share, 1)} %"


# --- Evaluation --------------------------------------------------------------------------------------


def test_the_figure_with_all_that_it_depends_on(page: Page, ask: Ask) -> None:
    show(page, "Evaluation")
    expect(page.locator("#map-denominator")).to_be_disabled()  # there is nothing to divide differently
    for parameters in ({}, {"k": 10}, {"k": 10, "denominator": "retrieved", "ties": "order"}):
        page.select_option("#map-k", str(parameters.get("k", "")))
        if "denominator" in parameters:
            page.select_option("#map-denominator", parameters["denominator"])
            page.select_option("#map-ties", parameters["ties"])
        found = ask("eval/map", **parameters)
        name = "mAP@10" if parameters else "mAP"
        expect(page.locator("#map-value")).to_have_text(f"{fixed(found['map'])}{name}")
        low, high = found["interval"]["low"], found["interval"]["high"]
        expect(page.locator("#map-beside")).to_have_text(
            f"95 % interval {fixed(low)} to {fixed(high)}, chance {fixed(found['chance'])}."
        )
        expect(page.locator("#map-words")).to_contain_text(found["definition"]["text"])
        depth = "the first 10" if parameters else "the whole ranking"
        expect(page.locator("#evaluation-status")).to_have_text(
            f"{QUERIES} held-out queries, {depth} of {len(CLASSES) * PER_CLASS} labelled images."
        )
        expect(page.locator("#queries .asked").first).to_contain_text(
            f"AP {fixed(ask('eval/queries', **parameters)['queries'][0]['aps'])}"
        )
        expected = [
            [each["label"], fixed(each["aps"]), str(each["queries"]), str(each["items"])]
            for each in sorted(found["per_class"], key=lambda each: each["aps"])
        ]
        assert rows(page.locator("#class-bars")) == expected
    drawn = page.locator("#class-bars svg text.strong").all_text_contents()
    assert drawn == [text for row in expected for text in row[:2]]


def test_what_each_distance_is_worth(page: Page, ask: Ask) -> None:
    curve = ask("eval/curve")
    show(page, "Evaluation")
    words = page.locator("#distance-words")

    def expected(distance: int) -> str:
        same, other = curve["same_class"][distance], curve["other_class"][distance]
        return (
            f"{distance} bits. Within it: precision {percents(curve['precision'][distance])}, "
            f"recall {percents(curve['recall'][distance])}. At it: {same} pairs of the same label, "
            f"{other} of others; certainty {percents(curve['precision_at'][distance])}."
        )

    slider = page.get_by_label("Distance", exact=True)
    slider.fill("4")
    expect(words).to_have_text(expected(4))
    slider.press("ArrowRight")
    expect(words).to_have_text(expected(5))
    expect(slider).to_have_attribute("aria-valuetext", expected(5))
    last = max(i for i in range(257) if curve["same_class"][i] + curve["other_class"][i])
    for chart in ("radius", "pairs", "curve"):
        drawing = page.locator(f"#{chart}-chart svg")
        drawing.scroll_into_view_if_needed()
        box = drawing.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] - 30, box["y"] + box["height"] / 2)
        shown = int(slider.input_value())
        assert shown > 0.9 * last
        expect(words).to_have_text(expected(shown))
        expect(drawing.locator(".cursor .dot").first).to_be_visible()
        slider.fill("4")
    radii = range(last + 1)
    assert rows(page.locator("#curve-table")) == [
        [str(i), percents(curve["recall"][i]), percents(curve["precision"][i])] for i in radii
    ]
    assert rows(page.locator("#radius-table")) == [
        [str(i), percents(curve["precision"][i]), percents(curve["recall"][i])] for i in radii
    ]
    assert rows(page.locator("#pairs-table")) == [
        [
            str(i),
            str(curve["same_class"][i]),
            str(curve["other_class"][i]),
            percents(curve["precision_at"][i]),
        ]
        for i in radii
    ]


def test_which_labels_are_confused(page: Page, ask: Ask) -> None:
    confusion = ask("eval/confusion")
    show(page, "Evaluation")
    expect(page.locator("#confusion-words")).to_contain_text(percents(confusion["accuracy"]))
    wrong = [each for each in confusion["nearest"] if each["label"] != each["nearest"]]
    assert wrong
    listed, map_ = page.locator("#confusion table").all()
    assert [row.locator("th, td").all_text_contents() for row in listed.locator("tbody tr").all()] == [
        [
            each["label"],
            each["nearest"],
            f"{each['queries']:.3g} of {QUERIES_PER_CLASS}",
            percents(each["queries"] / QUERIES_PER_CLASS),
        ]
        for each in wrong
    ]
    names = map_.locator("thead th").all_text_contents()[1:]
    counts = {(each["label"], each["nearest"]): each["queries"] for each in confusion["nearest"]}
    for row in map_.locator("tbody tr").all():
        label, *cells = row.locator("th, td").all_text_contents()
        expected = [counts.get((label, name), 0) for name in names]
        assert [float(cell.replace("·", "0")) for cell in cells] == pytest.approx(expected, abs=0.05)
    assert set(names) == set(CLASSES)
    expect(page.locator("#evaluation-view b")).to_have_count(0)  # a label is text, not markup


def test_the_worst_queries_with_what_they_found(page: Page, ask: Ask) -> None:
    worst = ask("eval/queries", limit=QUERIES)["queries"]
    show(page, "Evaluation")
    queries = page.locator("#queries > li")
    expect(queries).to_have_count(5)
    for each, row in zip(worst, queries.all(), strict=False):
        expect(row.locator(".asked")).to_contain_text(f"{each['label']}AP {fixed(each['aps'])}")
        results = ask(f"images/{each['id']}/similar", k=8)["results"]
        verdicts = [
            "?" if result["label"] is None else "✓" if result["label"] == each["label"] else "✗"
            for result in results
        ]
        assert row.locator(".strip .about").all_text_contents() == [
            f"{result['label'] or 'no label'}{verdict} {result['distance']} bits"
            for verdict, result in zip(verdicts, results, strict=True)
        ]
        words = {"?": "unknown", "✓": "right", "✗": "wrong"}[verdicts[0]]
        expect(row.locator(".strip a").first).to_have_attribute("aria-label", re.compile(f", {words}, "))
    queries.first.scroll_into_view_if_needed()
    expect(queries.first.locator("img").first).to_have_js_property("naturalWidth", 24)
    page.get_by_role("button", name="More queries").click()
    expect(queries).to_have_count(10)
    expect(queries.nth(5).locator(".asked")).to_be_focused()
    page.get_by_role("button", name="More queries").click()
    expect(queries).to_have_count(QUERIES)
    expect(page.get_by_role("button", name="More queries")).to_be_hidden()
    page.select_option("#queries-order", "best")
    best = ask("eval/queries", order="best", limit=1)["queries"][0]
    expect(queries.first.locator(".asked")).to_have_attribute("href", f"#image/{best['id']}")
    expect(queries).to_have_count(5)
    queries.first.locator(".asked").click()
    expect(page.locator("#details-facts")).to_contain_text("held out: the answers are measured with it")
    expect(page.locator("#details-delete")).to_be_hidden()
    page.get_by_role("link", name="More like this").click()
    expect(page.locator("#name")).to_contain_text(f"image {best['id']}")
    expect(page.locator("#results .about")).to_have_count(24)


# --- Codes -------------------------------------------------------------------------------------------


def test_the_state_of_the_codes(page: Page, ask: Ask) -> None:
    report = ask("eval/codes")
    show(page, "Codes")
    expect(page.locator("#codes-status")).to_have_text(f"Codes of {report['items']} images, 256 bits each.")
    share = round(100 * report["colliding"] / report["items"])
    assert page.locator("#code-figures strong").all_text_contents() == [
        f"{fixed(report['effective_bits'], 1)} of 256",
        str(len(report["dead"])),
        fixed(report["mean_absolute_correlation"], 2),
        f"{report['distinct']} of {report['items']}",
        f"{report['colliding']} ({share} %)",
    ]
    bits = report["bits"]
    expect(page.locator("#balance-chart :is(.bar, .dead)")).to_have_count(256)
    expect(page.locator("#balance-chart .dead")).to_have_count(len(report["dead"]))
    assert rows(page.locator("#balance-table")) == [
        [str(each["bit"]), percents(each["balance"]), f"{fixed(each['entropy'])} bit"] for each in bits
    ]
    slider = page.get_by_label("Bit", exact=True)
    slider.fill("200")
    slider.press("ArrowRight")
    words = f"201: ones in {percents(bits[201]['balance'])} of the codes"
    expect(page.locator("#bit-words")).to_contain_text(words)
    expect(slider).to_have_attribute("aria-valuetext", re.compile(re.escape(words)))
    page.locator("#balance-chart svg").hover()
    expect(page.locator("#bit-words")).to_contain_text(re.compile("^1[23][0-9]: "))  # its middle
    spread = [int(count) for _, count in rows(page.locator("#spread-table"))]
    assert sum(spread) == 256
    assert spread[-1] == sum(each["balance"] >= 0.95 for each in bits)
    assert rows(page.locator("#correlated-bars")) == [
        [
            f"{pair['first']} and {pair['second']}",
            f"{pair['correlation']:+.3f}".replace("-", "−"),
        ]
        for pair in report["most_correlated"]
    ]


def test_groups_of_near_images_page_by_page(browser: Browser, artifact: Artifact, mine: Path) -> None:
    with serve_here(create_app(Settings(artifact=mine))) as address:
        files = [
            ("image", (Path(artifact.manifest.data["root"]) / name).read_bytes() + bytes(more + 1))
            for name in ("class0/003.png", "class1/004.png")
            for more in range(13)  # other files of the same pixels
        ]
        added = httpx.post(f"{address}/images", files=files, timeout=60).raise_for_status().json()["images"]
        one = f"{address}/images/{added[0]['image']['id']}"
        httpx.patch(one, json={"label": "square"}, timeout=60).raise_for_status()  # among circles
        for page in opened(browser, address):
            show(page, "Codes")
            radius = page.get_by_label("At most", exact=True)
            for wanted in ("0", "2"):
                radius.fill(wanted)
                found = httpx.get(f"{address}/duplicates?radius={wanted}&limit=100&members=12").json()
                words = page.locator("#duplicates-words")
                expect(words).to_contain_text(f"with {found['images']} images in all")
                expect(words).to_contain_text(f"{found['groups']} groups")
                expect(page.locator("#radius-words")).to_have_text(f"{wanted} bits apart")
                groups = page.locator("#groups > li")
                while page.get_by_role("button", name="More groups").is_visible():
                    before = groups.count()
                    page.get_by_role("button", name="More groups").click()
                    expect(groups.nth(before).locator("a").first).to_be_focused()
                expect(groups).to_have_count(found["groups"])
                for group, shown in zip(found["found"], groups.all(), strict=True):
                    expect(shown.locator("p strong")).to_have_text(f"{group['size']} images")
                    expect(shown.locator(".mixed")).to_have_count(int(group["labels"] > 1))
                    assert [link.get_attribute("href") for link in shown.locator("a").all()] == [
                        f"#image/{image['id']}" for image in group["images"]
                    ]
            expect(groups.first.locator("p")).to_have_text("14 images, 12 of them shown2 labels")
            groups.first.locator("a").first.click()
            expect(page.locator("#stage")).to_contain_text("1 / 12")


def test_a_radius_that_is_too_much_is_explained(
    browser: Browser, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(about, "MOST_PAIRS", 5)
    with serve_here(create_app(Settings(artifact=mine))) as address:
        for page in opened(browser, address, refused=(422,)):
            show(page, "Codes")
            page.get_by_label("At most", exact=True).fill("9")
            alert = page.locator("#duplicates-panel .error")
            expect(alert).to_contain_text("0 is always possible")
            expect(page.locator("#groups")).to_be_hidden()
            page.get_by_label("At most", exact=True).fill("0")
            expect(page.locator("#duplicates-words")).to_be_visible()
            expect(alert).to_be_hidden()


# --- both --------------------------------------------------------------------------------------------


def test_without_labels_it_says_what_to_do_and_shows_the_codes(
    browser: Browser, unlabelled_artifact: Artifact
) -> None:
    with serve_here(create_app(Settings(artifact=unlabelled_artifact.path))) as address:
        for page in opened(browser, address):
            show(page, "Evaluation")
            expect(page.locator("#unmeasured")).to_contain_text("as this index was built without labels")
            expect(page.locator("#unmeasured")).to_contain_text("Label some images, then let it learn")
            expect(page.locator("#measurements")).to_be_hidden()
            show(page, "Codes")
            expect(page.locator("#code-figures strong")).to_have_count(5)
            expect(page.locator("#duplicates-words")).to_be_visible()


def let_go(page: Page, held: list[Route]) -> None:
    """Send the request on that is held back, once it was made."""
    while not held:
        page.wait_for_timeout(10)
    held.pop().continue_()


def test_what_is_late_is_announced_and_what_was_there_stays(browser: Browser, mine: Path) -> None:
    held: list[Route] = []
    with (
        serve_here(create_app(Settings(artifact=mine))) as address,
        httpx.Client(base_url=address) as http,
    ):
        # 404: a thumbnail that comes into view is asked for, though somebody else has removed its image.
        for page in opened(browser, address, refused=(404, 409)):
            expect(page.locator("#score")).to_be_visible()
            page.route("**/eval/map?*", lambda route: held.append(route))
            show(page, "Evaluation")
            expect(page.locator("#map-panel .pending")).to_be_visible()
            expect(page.locator("#evaluation-status")).to_have_text("Being measured …")
            let_go(page, held)
            value = page.locator("#map-value")
            expect(value).to_be_visible()
            before = value.text_content()
            page.locator("#queries > li").first.wait_for()
            for id_ in range(1, 11):  # meanwhile somebody else changes the index
                http.delete(f"/images/{id_}").raise_for_status()
            page.get_by_role("navigation").get_by_role("link", name="Search").click()
            show(page, "Evaluation")
            expect(page.locator("#map-panel")).to_have_attribute("aria-busy", "true")
            expect(value).to_have_text(before or "")
            expect(page.locator("#map-panel .pending")).to_be_hidden()
            let_go(page, held)
            expect(value).not_to_have_text(before or "")
            expect(page.locator("#map-facts")).to_contain_text("Images ranked50")
            show(page, "Codes")
            expect(page.locator("#codes-status")).to_have_text("Codes of 53 images, 256 bits each.")
            for id_ in range(11, 64):
                http.delete(f"/images/{id_}").raise_for_status()
            page.evaluate("dispatchEvent(new Event('measured'))")  # as after a change on this page
            expect(page.locator("#report-panel .error")).to_contain_text("No image is indexed")
            expect(page.locator("#duplicates-panel")).to_be_hidden()


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_nobody_is_kept_out(browser: Browser, server: str, scheme: str, width: int) -> None:
    for page in opened(browser, server, color_scheme=scheme, reduced_motion="reduce"):
        for view, last in (("Evaluation", "#queries img"), ("Codes", "#groups img")):
            show(page, view)
            if view == "Codes":
                page.get_by_label("At most", exact=True).fill("16")
            page.locator(last).first.wait_for()
            expect(page.locator("[aria-busy]")).to_have_count(0)
            for folded in ("#class-bars", "#spread-table"):
                if page.locator(folded).is_visible():
                    page.locator(folded).locator("summary").click()
            assert fits(page, 360)
            assert fits(page, width)
            assert barriers(page) == []
            for drawing in page.locator(".chart:visible").all():
                assert drawing.get_attribute("role") == "img"
                assert drawing.get_attribute("aria-label")
                assert drawing.locator("desc").text_content()
