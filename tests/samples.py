"""A small artifact of real parts, and the service over it: what tests of the index and of the service use."""

import asyncio
import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from fastapi import FastAPI
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from PIL import Image, ImageDraw

from index.artifact import (
    CATALOGUE,
    ENCODER,
    MANIFEST,
    QUERIES,
    Artifact,
    Manifest,
    Queries,
    encoder_id,
    open_artifact,
    publish,
    save_queries,
)
from index.catalogue import Catalogue
from index.codes import Codes
from index.items import UNLABELLED, NewItem, Picture
from tests import forking
from training.nets.encoder import Encoder
from training.nets.images import AS_SHOWN, Reading, open_image, picture_hashes, thumbnail

CLASSES = ("circle", "square", "<b>cross</b>")  # the last would break a page that does not escape
PER_CLASS = 20
QUERIES_PER_CLASS = 4
UNLABELLED_ITEMS = 3
FIRST_DAY, DAY = 946_684_800, 86_400  # seconds: 1 January 2000; how much later each of many images came
APP, WIRE = "service.app:create_app", "service.web.wire:Wire"

torch.set_num_threads(1)  # tests run side by side, and their tensors are small
# Each client of httpx reads all certificates in 0.07 s, unless they lie in a folder. Nothing is encrypted.
os.environ.pop("SSL_CERT_FILE", None)  # which would come before it
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)
# And it waits for five seconds unless it is told; on a busy machine a request may take longer.
for _phase in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, _phase, 60.0)


def draw(label: int, seed: int) -> Image.Image:
    """A shape of its class on a coloured ground, 24 × 24."""
    random = np.random.default_rng([label, seed])
    picture = Image.new("RGB", (24, 24), tuple(random.integers(0, 90, 3).tolist()))
    x, y = random.integers(3, 8, 2).tolist()
    size = int(random.integers(9, 14))
    colour = tuple(random.integers(160, 256, 3).tolist())
    pen = ImageDraw.Draw(picture)
    if label == 0:
        pen.ellipse((x, y, x + size, y + size), fill=colour)
    elif label == 1:
        pen.rectangle((x, y, x + size, y + size), fill=colour)
    else:
        pen.line((x, y, x + size, y + size), fill=colour, width=3)
        pen.line((x, y + size, x + size, y), fill=colour, width=3)
    return picture


@dataclass(frozen=True)
class Drawn:
    """One image file of the test collection."""

    path: str  # relative to the folder
    label: int


def draw_all(folder: Path) -> tuple[list[Drawn], list[Drawn]]:
    """Write the collection; database and queries."""

    def write(label: int, seed: int, name: str, known: int) -> Drawn:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draw(label, seed).save(folder / name)
        return Drawn(name, known)

    database = [
        write(label, seed, f"class{label}/{seed:03}.png", label)
        for label in range(len(CLASSES))
        for seed in range(PER_CLASS)
    ]
    database += [
        write(seed % 3, 500 + seed, f"new/{seed}.png", UNLABELLED) for seed in range(UNLABELLED_ITEMS)
    ]
    queries = [
        write(label, 900 + seed, f"held-out/{label}-{seed}.png", label)
        for label in range(len(CLASSES))
        for seed in range(QUERIES_PER_CLASS)
    ]
    return database, queries


def build_artifact(folder: Path, *, labels: bool = True, seed: int = 0) -> Artifact:
    """The collection in `folder`/images and an artifact of it in `folder`/artifact, for whoever changes them:
    copies of what one session builds once, the manifest with the folder where the images are now."""
    model = _built(labels, seed)
    shutil.copytree(model.parent, folder, dirs_exist_ok=True)
    manifest = folder / "artifact" / MANIFEST
    about = json.loads(manifest.read_text())
    about["data"]["root"] = str(folder / "images")
    manifest.write_text(json.dumps(about))
    return open_artifact(folder / "artifact")


@cache
def _built(labels: bool, seed: int) -> Path:
    """An artifact that is only copied."""
    folder = Path(tempfile.mkdtemp(prefix="hebbsearch-tests-"))
    atexit.register(shutil.rmtree, folder)
    return draw_artifact(folder, labels=labels, seed=seed).path


def draw_artifact(folder: Path, *, labels: bool, seed: int, reading: Reading = AS_SHOWN) -> Artifact:
    """Draw, encode with an untrained encoder, catalogue, publish: what build_index.py does after training."""
    root, staging = folder / "images", folder / "staging"
    staging.mkdir(parents=True)
    database, queries = draw_all(root)
    encoder = Encoder.initial("conv6", seed=seed)
    encoder.description = replace(encoder.description, reading=reading)
    encoder.save(staging / ENCODER)
    identity = encoder_id(staging / ENCODER)
    classes = CLASSES if labels else ()

    def codes(drawn: list[Drawn]) -> Codes:
        return encoder.encode(torch.stack([encoder.prepare(open_image(root / each.path)) for each in drawn]))

    def new_item(drawn: Drawn, code: Codes | None) -> NewItem:
        image = open_image(root / drawn.path)
        return NewItem(
            path=drawn.path,
            label=drawn.label if labels else UNLABELLED,
            split="query" if code is None else "database",
            width=image.width,
            height=image.height,
            thumbnail=thumbnail(image),
            code=code,
            picture=hashed(image),
        )

    with Catalogue.create(
        staging / CATALOGUE, encoder_id=identity, bits=encoder.bits, classes=classes
    ) as catalogue:
        catalogue.add(new_item(each, code) for each, code in zip(database, codes(database), strict=True))
        if labels:
            ids = catalogue.add(new_item(each, None) for each in queries)
            save_queries(
                staging / QUERIES,
                Queries(
                    codes(queries),
                    np.array([each.label for each in queries], np.int64),
                    np.array(ids, np.int64),
                ),
            )
    manifest = manifest_of(root, encoder, identity, labels=labels)
    return publish(staging, folder / "artifact", manifest)


def enlarge(artifact: Path, count: int) -> None:
    """Have the index know so many images more, one a day, of one picture: a list as long as wanted."""
    picture = thumbnail(draw(0, 0))
    random = np.random.default_rng(count)
    with Catalogue.open(artifact / CATALOGUE) as catalogue:
        codes = random.integers(0, 256, (count, catalogue.bits // 8), np.uint8)
        catalogue.add(
            NewItem(
                path=f"many/{number:05}.png",
                label=number % len(CLASSES),
                split="database",
                width=24,
                height=24,
                thumbnail=picture,
                code=code,
                added=FIRST_DAY + DAY * number,
            )
            for number, code in enumerate(codes)
        )


def hashed(image: Image.Image) -> Picture:
    """What an image is recognised by, as a build keeps it."""
    hashes = picture_hashes(image)
    return Picture(hashes.upright.tobytes(), hashes.quality)


def scene(seed: int, size: tuple[int, int] = (240, 160)) -> Image.Image:
    """A picture with detail as photographs have it: at all scales, the larger the stronger."""
    random, layers = np.random.default_rng(seed), np.zeros((size[1], size[0], 3))
    for cells in (3, 6, 12, 24, 48):
        noise = random.uniform(-1, 1, (cells, cells, 3)) * 110 / cells**0.5
        channels = [Image.fromarray(noise[..., each].astype(np.float32)) for each in range(3)]
        layers += np.stack([np.asarray(each.resize(size, Image.Resampling.BICUBIC)) for each in channels], -1)
    return Image.fromarray(np.clip(128 + layers, 0, 255).astype(np.uint8))


def without_a_quarter(image: Image.Image, side: int) -> Image.Image:
    """The image without a quarter of its width or height: left, at the top, right, at the bottom."""
    width, height = image.size
    boxes = [
        (width // 4, 0, width, height),
        (0, height // 4, width, height),
        (0, 0, width - width // 4, height),
        (0, 0, width, height - height // 4),
    ]
    return image.crop(boxes[side])


def manifest_of(root: Path, encoder: Encoder, identity: str, *, labels: bool) -> Manifest:
    """What build_index.py would say of the collection in `root`."""
    database = len(CLASSES) * PER_CLASS + UNLABELLED_ITEMS
    return Manifest(
        format=1,
        created="2026-01-31T12:00:00+00:00",
        encoder_id=identity,
        bits=encoder.bits,
        classes=CLASSES if labels else (),
        config={"backbone": "conv6", "rule": "none", "labels": "100%" if labels else "none", "seed": 0},
        preprocessing=encoder.preprocessing(),
        versions={},
        data={
            "name": "shapes",
            "root": str(root),
            "database": database,
            "labelled": database - UNLABELLED_ITEMS if labels else 0,
            "unlabelled": UNLABELLED_ITEMS if labels else database,
            "queries": len(CLASSES) * QUERIES_PER_CLASS if labels else 0,
            "skipped": [],
            "labels": "/home/somebody/labels.csv" if labels else "none",
            "training_labels": 54 if labels else 0,
            "validation_labels": 6 if labels else 0,
        },
        metrics={},
    )


def build_pair(folder: Path) -> Path:
    """The folder, with two artifacts `first` and `second` of the same images and different encoders."""
    for seed, name in enumerate(("first", "second")):
        build_artifact(folder / f"work-{name}", seed=seed).path.rename(folder / name)
    return folder


@contextmanager
def serve(path: Path | None, app: str = APP, **settings: str) -> Iterator[str]:
    """Run the service in a process of its own, from when it is ready; its address."""
    port = free_port()
    process = forking.Popen(command(port, app), env=environment(path, **settings))
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, process)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Server(uvicorn.Server):
    """uvicorn's, which looks for a reason to end ten times as often."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(0.01)


@contextmanager
def serve_here(app: FastAPI) -> Iterator[str]:
    """Run an application in a thread of this process, for tests that reach into it; its address."""
    sys.audit("tests.serve_here")
    server = Server(uvicorn.Config(app, http=WIRE, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                pytest.fail("the service ended")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def served(artifact: Path) -> Iterator[httpx.Client]:
    """A client of a service over this artifact, in a thread of this process."""
    from service.app import create_app
    from service.settings import Settings

    with (
        serve_here(create_app(Settings(artifact=artifact))) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def command(port: int, app: str = APP) -> list[str]:
    """What a user would type."""
    options = ["--http", WIRE, "--port", str(port), "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", "--factory", app, *options]


def environment(path: Path | None, **settings: str) -> dict[str, str]:
    """This process's environment with the service's settings, and only those."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HEBBSEARCH_")}
    given = {f"HEBBSEARCH_{name.upper()}": value for name, value in settings.items()}
    return own | given | ({} if path is None else {"HEBBSEARCH_ARTIFACT": str(path)})


def wait_until_ready(address: str, process: subprocess.Popen[Any], *, minutes: int = 1) -> None:
    """Return when the service answers queries; fail if it ended or takes so many minutes."""
    for _ in range(600 * minutes):
        if process.poll() is not None:
            pytest.fail(f"the service ended with {process.returncode}")
        try:
            if httpx.get(f"{address}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"the service was not ready within {minutes} minutes")
