"""How the service feels while somebody labels and it learns.

    python -m tests.benchmarks.labelling --artifact DIR --items 50000

takes a copy of an artifact that keeps embeddings, and has it know so many images, the further ones near its
own. It prints how long the next picture of the queue takes after a key, in a real browser, and how long
searches take alone and while the service learns from the labels.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
from playwright.sync_api import sync_playwright

from index.artifact import CATALOGUE, open_artifact
from index.catalogue import Catalogue
from index.items import UNLABELLED, NewItem
from tests.samples import serve
from tests.service.page.conftest import ARGUMENTS, PROGRAMS
from training.nets.encoder import Encoder

KEYS = 30
SEARCHES = 400  # in each of both states
NOISE = 0.03  # of each value of an embedding of length 1: the cosine to the image it was made of is about 0.8

# Resolves to the milliseconds after a key until another picture is asked about, and shown.
NEXT = """(key) => new Promise((resolve) => {
    const link = document.querySelector("#asked-enlarge");
    const before = link.href;
    const begin = performance.now();
    document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    const look = () => {
        const picture = document.querySelector("#asked-picture img");
        const shown = link.href !== before && picture?.complete && picture.naturalWidth > 0;
        if (shown) resolve(performance.now() - begin);
        else requestAnimationFrame(look);
    };
    look();
})"""


def grow(artifact: Path, items: int) -> None:
    """Have the index know so many images, each further one near one of its own and without a label."""
    opened = open_artifact(artifact)
    encoder, random = Encoder.load(opened.encoder_path), np.random.default_rng(0)
    with Catalogue.open(artifact / CATALOGUE) as catalogue:
        ids, vectors = catalogue.embeddings()
        count = items - len(ids)
        rows = random.integers(0, len(ids), max(count, 0))
        thumbnail = catalogue.thumbnail(int(ids[0]))

        def further() -> Iterator[NewItem]:
            for start in range(0, len(rows), 1000):
                some = vectors[rows[start : start + 1000]].astype(np.float32)
                some += NOISE * random.standard_normal(some.shape, np.float32)
                kept = (some / np.linalg.norm(some, axis=1, keepdims=True)).astype(np.float16)
                for at, (code, vector) in enumerate(zip(encoder.code(kept), kept, strict=True), start):
                    yield NewItem(
                        f"many/{at:05}.png", UNLABELLED, "database", 32, 32, thumbnail, code, embedding=vector
                    )

        catalogue.add(further())


def keys(address: str) -> list[float]:
    """Milliseconds until the next picture of the queue is there; each is skipped or labelled, in turns."""
    program = next(filter(None, map(shutil.which, PROGRAMS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        page = browser.new_page()
        page.goto(f"{address}/#label")
        page.wait_for_selector("#asked-choices button")
        page.wait_for_load_state("networkidle")
        taken = list[float]()
        for number in range(KEYS):
            taken.append(page.evaluate(NEXT, "ArrowRight" if number % 2 else "1"))
            page.wait_for_timeout(500)  # somebody looks at it
        browser.close()
    return taken


def searches(http: httpx.Client, image: bytes, go_on: Callable[[], bool]) -> list[float]:
    """Milliseconds of searches one after the other, at most SEARCHES, while somebody wants more."""
    taken = list[float]()
    while len(taken) < SEARCHES and go_on():
        begin = time.perf_counter()
        http.post("/search", content=image).raise_for_status()
        taken.append(1e3 * (time.perf_counter() - begin))
    return taken


def beside_learning(http: httpx.Client, image: bytes) -> tuple[list[float], list[float]]:
    """Milliseconds of searches alone, half of them before and half after, and while labels are learned."""

    def alone() -> list[float]:
        return searches(http, image, lambda: True)[: SEARCHES // 2]

    alone()  # until all is warm
    before = alone()
    job = http.post("/labels/learn").raise_for_status().json()["id"]
    meanwhile = searches(http, image, lambda: status(http, job) == "running")
    while status(http, job) == "running":
        time.sleep(0.5)
    if (ended := status(http, job)) != "done":
        raise RuntimeError(f"learning ended as {ended}")
    return before + alone(), meanwhile


def status(http: httpx.Client, job: int) -> str:
    return str(http.get(f"/jobs/{job}").raise_for_status().json()["status"])


def tail(milliseconds: list[float]) -> float:
    return float(np.percentile(milliseconds, 95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", type=Path, required=True, help="one that keeps embeddings, with labels")
    parser.add_argument("--items", type=int, default=50_000, help="how many images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(shutil.copytree(options.artifact, Path(folder) / "artifact"))
        grow(artifact, options.items)
        with serve(artifact) as address, httpx.Client(base_url=address, timeout=120) as http:
            items = http.get("/stats").json()["items"]
            print(f"{items:,} images; load {os.getloadavg()}, {os.cpu_count()} cores")
            pressed = keys(address)
            print(f"next picture in the queue, ms: median {np.median(pressed):.0f}, most {max(pressed):.0f}")
            image = http.get("/images/1/preview").content
            alone, meanwhile = beside_learning(http, image)
            for what, taken in (("alone", alone), ("while it learns", meanwhile)):
                told = f"median {np.median(taken):.1f}, p95 {tail(taken):.1f}, {len(taken)} searches"
                print(f"search {what}, ms: {told}")
            print(f"p95 while it learns: {tail(meanwhile) / tail(alone):.2f} times that alone")


if __name__ == "__main__":
    main()
