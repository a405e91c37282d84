"""What the tests of the page do with a real browser."""

import base64
from collections.abc import Iterator

from playwright.sync_api import Browser, Page


def opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
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
    assert [text for text in complaints if "status of 4" not in text] == []
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
