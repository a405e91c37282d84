"""How fast the page leads through a long list of images, in a real browser.

    python -m tests.benchmarks.browse --items 50000

prints how long it takes until the first pictures are there, how long each of some jumps does, how many
elements there were at most, and what the tab's memory is after it was scrolled from end to end.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import CDPSession, Page, sync_playwright

from tests.samples import build_artifact, enlarge, serve
from tests.service.page.conftest import ARGUMENTS, PROGRAMS

JUMPS = 20
STEP = 5_000  # pixels, scrolling from end to end

# Resolves to the milliseconds after `act` until all in sight are cards, and until they show their pictures.
UNTIL_SHOWN = """([act, argument]) => new Promise((resolve) => {
    const begin = performance.now();
    let cardsAfter = null;
    new Function("argument", act)(argument);
    const list = document.querySelector("#images-list");
    const inSight = (card) => {
        const { top, bottom } = card.getBoundingClientRect();
        return bottom > 0 && top < innerHeight;
    };
    const look = () => {
        const pictures = [...list.children].filter(inSight).map((card) => card.querySelector("img"));
        if (pictures.length > 0 && pictures.every(Boolean)) cardsAfter ??= performance.now() - begin;
        const shown = cardsAfter !== null && pictures.every((picture) => picture?.naturalWidth > 0);
        if (shown) resolve([cardsAfter, performance.now() - begin]);
        else requestAnimationFrame(look);
    };
    look();
})"""
JUMP = """const slider = document.querySelector("#scrubber");
slider.value = argument;
slider.dispatchEvent(new Event("input", {bubbles: true}));"""
WATCH = """() => {
    const list = document.querySelector("#images-list");
    window.most = list.children.length;
    new MutationObserver(() => (window.most = Math.max(window.most, list.children.length)))
        .observe(list, {childList: true});
}"""
SCROLL = """(step) => new Promise((resolve) => {
    const on = () => {
        const before = scrollY;
        scrollBy(0, step);
        if (scrollY === before) resolve();
        else setTimeout(on, 100);
    };
    on();
})"""


def megabytes(devtools: CDPSession) -> dict[str, float]:
    """What the tab's scripts and elements take, after what nobody needs was collected."""
    devtools.send("HeapProfiler.collectGarbage")
    metrics = {each["name"]: each["value"] for each in devtools.send("Performance.getMetrics")["metrics"]}
    return {"heap MB": metrics["JSHeapUsedSize"] / 1e6, "nodes": metrics["Nodes"]}


def resident() -> float:
    """Megabytes of the largest process that draws a page."""
    sizes = [0.0]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (process / "cmdline").read_bytes():
                pages = int((process / "statm").read_text().split()[1])
                sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        except OSError:
            continue  # it has ended
    return max(sizes)


def browse(page: Page, address: str, items: int) -> dict[str, Any]:
    """The figures of one visit."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")
    begin = time.perf_counter()
    page.goto(f"{address}/#images")
    page.evaluate(UNTIL_SHOWN, ["", None])
    first = 1e3 * (time.perf_counter() - begin)
    page.evaluate(WATCH)
    places = np.random.default_rng(0).integers(0, items, JUMPS).tolist()
    jumps = [page.evaluate(UNTIL_SHOWN, [JUMP, place]) for place in places]
    by_name = page.evaluate(UNTIL_SHOWN, ["location.hash = '#images?sort=name'", None])
    jumps_by_name = [page.evaluate(UNTIL_SHOWN, [JUMP, place]) for place in places]
    page.evaluate(UNTIL_SHOWN, [JUMP, 0])
    page.evaluate(SCROLL, STEP)
    return {
        "first pictures, ms": round(first),
        **told("jumps", jumps),
        **told("the order of names", [by_name]),
        **told("jumps in it", jumps_by_name),
        "elements at most": page.evaluate("most"),
        "tab after scrolling": megabytes(devtools),
        "its process, MB": round(resident()),
    }


def told(what: str, times: Sequence[tuple[float, float]]) -> dict[str, list[int]]:
    cards, pictures = zip(*times, strict=True)
    return {
        f"{what}: cards, ms": sorted(map(round, cards)),
        f"{what}: pictures, ms": sorted(map(round, pictures)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=50_000, help="how many images")
    items = parser.parse_args().items
    program = next(filter(None, map(shutil.which, PROGRAMS)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        artifact = build_artifact(Path(folder)).path
        enlarge(artifact, items)
        with serve(artifact) as address:
            browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
            print(f"{items:,} images; load {os.getloadavg()}, {os.cpu_count()} cores")
            for name, value in browse(browser.new_page(), address, items).items():
                print(f"{name}: {value}")
            browser.close()


if __name__ == "__main__":
    main()
