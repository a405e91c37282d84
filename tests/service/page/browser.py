"""What the tests of the page do with a real browser."""

import base64
import math
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.samples import draw

LOOKS = [
    pytest.param("light", 1280),
    *(
        pytest.param(scheme, width, marks=pytest.mark.slow)
        for scheme, width in (("light", 360), ("dark", 1280), ("dark", 360))
    ),
]  # colour scheme and width in pixels; axe takes seconds for each
MARKUP = "<i>new</i> " + "long " * 30  # a label that is neither short nor plain
PATIENCE = 30_000  # milliseconds until what is expected must have come: machines are slow at times
COMPLAINT = "the server responded with a status of {} "  # of Chromium, for each request that is refused

# Resolves once nothing moves any more, but for what moves without end.
SETTLED = """() => Promise.allSettled(document.getAnimations()
    .filter((each) => Number.isFinite(each.effect.getComputedTiming().endTime))
    .map((each) => each.finished))"""

# What a page is told of its window in one frame, it acts upon in this one or in the next.
DRAWN = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
    requestAnimationFrame(done))))"""

expect.set_options(timeout=PATIENCE)


def opened(
    browser: Browser,
    address: str,
    *,
    view: str = "",
    refused: tuple[int, ...] = (),
    offline: bool = False,
    **options: Any,
) -> Iterator[Page]:
    """One view of the page at an address, until the loop over it ends; then a failure if the browser
    complained of anything but requests that were refused with one of these statuses, or not sent for want of
    a network. Another view than the first is opened at once: all that the first one shows takes long."""
    context = browser.new_context(**options)
    page = context.new_page()
    tolerated = [COMPLAINT.format(status) for status in refused] + ["ERR_INTERNET_DISCONNECTED"] * offline
    complaints: list[str] = []
    outside: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: outside.append(request.url) if address not in request.url else None)
    page.goto(f"{address}/{view}")
    yield page
    context.close()
    complaints = [text for text in complaints if not any(each in text for each in tolerated)]
    assert not complaints, complaints
    assert [url for url in outside if not url.startswith(("blob:", "data:"))] == []


def png(seed: int, label: int = 0) -> bytes:
    """A picture that the collection does not have."""
    file = BytesIO()
    draw(label, 10_000 + seed).save(file, "PNG")
    return file.getvalue()


def prediction(address: str, item_id: int) -> tuple[str, int]:
    """The label that an image's ten nearest labelled neighbours speak for; its confidence in percent."""
    worth = httpx.get(f"{address}/eval/curve").raise_for_status().json()["precision_at"]
    near = httpx.get(f"{address}/images/{item_id}/similar?k=100").raise_for_status().json()["results"]
    votes = [(each["label"], worth[each["distance"]]) for each in near if each["label"] is not None][:10]
    sums = {label: sum(p * p for name, p in votes if name == label) for label, _ in votes}
    label = max(sums, key=lambda name: sums[name])
    return label, math.floor(100 * sums[label] / sum(p for _, p in votes) + 0.5)


def give(page: Page, kind: str, data: bytes, name: str = "mine.png") -> None:
    """Drop or paste a file anywhere on the page, as a browser reports it."""
    page.evaluate(
        """([kind, name, data]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
            transfer.items.add(new File([bytes], name, {type: "image/png"}));
            const options = {bubbles: true, cancelable: true};
            document.body.dispatchEvent(kind === "paste"
                ? new ClipboardEvent("paste", {...options, clipboardData: transfer})
                : new DragEvent(kind, {...options, dataTransfer: transfer}));
        }""",
        [kind, name, base64.b64encode(data).decode()],
    )


def fits(page: Page, width: int) -> bool:
    """Whether nothing stands beyond a window of this width, which the page then has."""
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate(DRAWN)  # what the page places itself, it places in the frame after it was told
    return bool(page.evaluate("document.documentElement.scrollWidth") <= width)


def barriers(page: Page) -> list[str]:
    """What axe-core calls serious or critical of the page as it is now: the rule and the elements."""
    page.evaluate(SETTLED)  # what is half faded in has half its contrast
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def images_view(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    for page in opened(browser, address, view="#images", **options):
        expect(page.locator("#images-list li")).not_to_have_count(0)
        yield page


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(60):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not lead to {selector}")


def listed(http: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    """What is indexed, and to which this applies."""
    images: list[dict[str, Any]] = (
        http.get("/images", params={"limit": 1000, **asked}).raise_for_status().json()["images"]
    )
    return images
