"""What the tests of the page do with a real browser."""

import base64
from collections.abc import Iterator

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

PATIENCE = 30_000  # milliseconds until what is expected must have come: machines are slow at times
REFUSAL = "status of 4"  # in Chromium's words

expect.set_options(timeout=PATIENCE)


def opened(
    browser: Browser, address: str, tolerated: tuple[str, ...] = (REFUSAL,), **options: object
) -> Iterator[Page]:
    """The page at an address, until the loop over it ends; then a failure if the browser complained of
    anything but what is tolerated."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    complaints: list[str] = []
    outside: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: outside.append(request.url) if address not in request.url else None)
    page.goto(address)
    yield page
    context.close()
    assert [text for text in complaints if not any(each in text for each in tolerated)] == []
    assert [url for url in outside if not url.startswith(("blob:", "data:"))] == []


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


def barriers(page: Page) -> list[str]:
    """What axe-core calls serious or critical of the page as it is now: the rule and the elements."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
