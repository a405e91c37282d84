"""Decoding in other processes: the same pixels, and what happens to one of them harms nobody else."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import torch

from index.artifact import Artifact
from service.app import create_app
from service.core.pictures import decoding
from service.core.pictures.decoding import Crashed, NoDecoder, Pool, TooSlow, decode
from service.settings import Settings
from tests import forking
from tests.samples import build_artifact, command, environment, free_port, serve_here, wait_until_ready
from tests.service.hostile import KIT, jpeg_of_scans, noise, saved, wide
from tests.training.nets.profiles import rgb_profile
from training.nets.encoder import Encoder
from training.nets.images import (
    BEFORE,
    THUMBNAIL,
    ImageError,
    Reading,
    TooMuchMemory,
    open_image,
    square_pixels,
    thumbnail,
)

GIGABYTE = 2**30
PIXELS = 50_000_000
GOOD = saved(noise())
LARGE = saved(noise(900, 600), "JPEG")
SLOW = jpeg_of_scans(7_000, 100)  # four seconds
SMALL_SLOW = jpeg_of_scans(512, 100, comments=2_400_000)  # 10 MB, nearly three
pytestmark = pytest.mark.process

SIZES = pytest.mark.parametrize("size", [32, 224])


@contextmanager
def pool_of(
    workers: int, *, seconds: float = 60, memory: int = 2 * GIGABYTE, least: float | None = None
) -> Iterator[Pool]:
    pool = Pool(workers, seconds=seconds, memory=memory, least=least)
    try:
        yield pool
    finally:
        pool.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with pool_of(2) as pool:
        yield pool


def good(pool: Pool) -> bool:
    """Whether it decodes as ever."""
    return torch.equal(
        pool.decode(GOOD, size=32, max_pixels=PIXELS).pixels, decode(GOOD, size=32, max_pixels=PIXELS).pixels
    )


def recovers(pool: Pool) -> bool:
    """Whether it decodes as ever, once the machine gives it the time: a second may be too little."""

    def in_time() -> bool:
        with suppress(TooSlow, NoDecoder):
            return good(pool)
        return False

    until(in_time)
    return True


def processes() -> dict[int, tuple[int, str, int]]:
    """Parent, state and processor time in ticks of each process there is."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        found[int(path.parent.name)] = int(fields[1]), fields[0], int(fields[11]) + int(fields[12])
    return found


def descendants(pid: int) -> set[int]:
    parents = {each: parent for each, (parent, _, _) in processes().items()}
    found = {pid}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within a minute")


def busy(parent: int) -> int:
    """The descendant of this process that works for 0.2 s from now, as soon as there is one."""
    before = processes()
    found = list[int]()

    def works() -> bool:
        now = processes()
        found[:] = [
            pid
            for pid in descendants(parent) & now.keys()
            if now[pid][2] - before.get(pid, (0, "", 0))[2] > 20
        ]
        return bool(found)

    until(works)
    return found[0]


# --- the same as here ------------------------------------------------------------------------------


@SIZES
def test_a_worker_makes_what_the_encoder_would_be_given(pool: Pool, size: int) -> None:
    encoder = Encoder.initial("conv6" if size == 32 else "vgg11", bits=64)
    assert encoder.description.image_size == size
    for content in (
        GOOD,
        saved(noise(500, 375), "JPEG"),
        saved(noise(1200, 900), "WEBP"),
        saved(noise(300, 200), "AVIF"),
        KIT["palette with transparency"].make(),
        KIT["JPEG orientation 6"].make(),
        KIT["1 × 20,000"].make(),
    ):
        image = open_image(content)
        made = pool.decode(content, size=size, max_pixels=PIXELS, thumbnail=THUMBNAIL)
        assert torch.equal(made.pixels, encoder.prepare(image))
        assert (made.width, made.height) == image.size
        assert made.thumbnail == thumbnail(image)
        assert pool.decode(content, size=size, max_pixels=PIXELS).thumbnail == b""


@pytest.mark.parametrize("reading", [BEFORE, Reading(grey_bits=12)])
def test_a_worker_reads_by_the_rule_that_it_is_told(pool: Pool, reading: Reading) -> None:
    for content in (saved(noise(), icc_profile=rgb_profile("ProPhoto")), saved(wide("I;16"))):
        made = pool.decode(content, size=32, max_pixels=PIXELS, reading=reading, thumbnail=THUMBNAIL)
        image = open_image(content, reading=reading)
        assert torch.equal(made.pixels, square_pixels(image, 32))
        assert made.thumbnail == thumbnail(image)


@pytest.mark.parametrize(
    "name", ["text", "HEIC", "PNG cut at 50%", "gigapixel PNG", "PNG just beyond", "one byte", "zero bytes"]
)
def test_a_worker_refuses_as_this_process_does(pool: Pool, name: str) -> None:
    content = KIT[name].make()
    with pytest.raises(ImageError) as here:
        decode(content, size=32, max_pixels=PIXELS)
    with pytest.raises(ImageError) as there:
        pool.decode(content, size=32, max_pixels=PIXELS)
    assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))
    assert good(pool)


def test_many_threads_share_the_workers(pool: Pool) -> None:
    files = [saved(noise(10 + n, 20)) for n in range(60)]
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda file: pool.decode(file, size=32, max_pixels=PIXELS), files))
    for file, each in zip(files, made, strict=True):
        assert torch.equal(each.pixels, decode(file, size=32, max_pixels=PIXELS).pixels)


# --- what goes wrong -------------------------------------------------------------------------------


def test_what_takes_too_long_is_stopped() -> None:
    with pool_of(1, seconds=1) as pool:
        assert recovers(pool)
        (before,) = pool.pids()
        with pytest.raises(TooSlow, match="longer than 1 seconds"):
            pool.decode(SLOW, size=32, max_pixels=PIXELS)
        assert before not in processes()
        assert recovers(pool)
        assert before not in pool.pids()


def test_what_takes_too_much_memory_is_refused() -> None:
    content = KIT["PNG just within"].make()
    with pool_of(1, memory=400_000_000) as pool:
        assert good(pool)
        before = pool.pids()
        with pytest.raises(TooMuchMemory, match="more memory"):
            pool.decode(content, size=32, max_pixels=PIXELS)
        assert good(pool)
        assert pool.pids() == before


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_costs_one_image(number: signal.Signals) -> None:
    with pool_of(2) as pool:
        assert good(pool)
        (victim,) = pool.pids()
        with ThreadPoolExecutor(1) as thread:
            refused = thread.submit(pool.decode, SLOW, size=32, max_pixels=PIXELS)
            assert busy(os.getpid()) == victim
            assert good(pool)  # meanwhile, by another
            os.kill(victim, number)
            with pytest.raises(Crashed, match=f"crashed \\({number.name}\\)"):
                refused.result(60)
        assert victim not in processes()
        assert good(pool)


def test_a_worker_that_ends_while_it_is_idle_costs_nothing() -> None:
    with pool_of(1) as pool:
        for _ in range(3):
            assert good(pool)
            (pid,) = pool.pids()
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: processes()[pid][1] == "Z")


def test_a_worker_that_is_stopped_is_replaced() -> None:
    with pool_of(1, seconds=1) as pool:
        assert recovers(pool)
        (pid,) = pool.pids()
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TooSlow):
            good(pool)
        assert pid not in processes()
        assert recovers(pool)


def test_a_nursery_that_is_stopped_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "NURSING", 0.5)
    with pool_of(1) as pool:
        until(lambda: comes(pool))
        (pid,) = pool.pids()
        parent = processes()[pid][0]
        os.kill(parent, signal.SIGSTOP)
        assert good(pool)  # by the worker that there is
        os.kill(pid, signal.SIGKILL)
        until(lambda: processes()[pid][1] == "Z")
        with pytest.raises(NoDecoder, match=r"does not answer in time.*try again"):
            good(pool)
        until(lambda: processes()[parent][1] == "Z" if parent in processes() else True)
        until(lambda: comes(pool))


def comes(pool: Pool) -> bool:
    """Whether it decodes, or somebody has to come again."""
    with suppress(NoDecoder):
        return good(pool)
    return False


def test_patience_with_one_slow_image_after_the_other_becomes_less() -> None:
    with pool_of(1, seconds=0.8, least=0.2) as pool:
        until(lambda: comes(pool))
        for seconds in ("0.8", "0.4", "0.2", "0.2"):
            with pytest.raises(TooSlow, match=f"longer than {seconds} seconds"):
                pool.decode(SLOW, size=32, max_pixels=PIXELS)
        until(lambda: recovers(pool))
        with pytest.raises(TooSlow, match=r"longer than 0\.[48] seconds"):
            pool.decode(SLOW, size=32, max_pixels=PIXELS)


def test_the_nursery_may_end() -> None:
    with pool_of(1, seconds=1) as pool:
        assert recovers(pool)
        (pid,) = pool.pids()
        os.kill(processes()[pid][0], signal.SIGKILL)
        assert recovers(pool)  # by the worker that there is
        with pytest.raises(TooSlow):
            pool.decode(SLOW, size=32, max_pixels=PIXELS)
        with pool_of(1) as other:
            assert recovers(other)
        assert recovers(pool)
        until(lambda: pid not in processes())  # its own time ended it


def test_a_closed_pool_leaves_no_worker() -> None:
    with pool_of(3) as pool, ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: good(pool), range(30)))
        pids = pool.pids()
        assert pids
        pool.close()
        assert not set(pids) & processes().keys()
        assert good(pool)  # for whoever comes late


# --- the service -----------------------------------------------------------------------------------


@contextmanager
def running(artifact: Artifact, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    port = free_port()
    process = forking.Popen(command(port), env=environment(artifact.path, **settings))
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, process)
        with httpx.Client(base_url=address, timeout=120) as http:
            yield process, http
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    artifact = build_artifact(tmp_path_factory.mktemp("served"))
    with running(artifact, decoding_seconds="1", concurrency="2") as service:
        yield service


def test_slow_images_cost_their_own_requests(
    served: tuple[subprocess.Popen[bytes], httpx.Client],
) -> None:
    process, http = served
    with ThreadPoolExecutor(5) as threads:
        before = len(descendants(process.pid))

        def send(path: str, content: bytes) -> httpx.Response:
            return httpx.post(http.base_url.join(path), content=content, timeout=120)

        asked = [
            threads.submit(send, path, content)
            for path, content in [("/search", SLOW)] * 3 + [("/images", SLOW), ("/search", SMALL_SLOW)]
        ]
        answers = []
        while not all(each.done() for each in asked):
            answers.append(http.post("/search", content=GOOD).status_code)
        for each in asked:
            response = each.result()
            assert response.status_code == 422, response.text
            assert response.headers["content-type"] == "application/problem+json"
            assert "longer than 1 seconds" in response.json()["detail"]
        assert set(answers) == {200}
        for path, status in (("/search", 200), ("/images", 201)):
            assert http.post(path, content=LARGE).status_code == status
        assert http.get("/health/ready").status_code == 200
        assert len(descendants(process.pid)) <= before + 6  # two large at a time and one added, three small


def test_a_crash_is_said(artifact: Artifact) -> None:
    with running(artifact, decoding_seconds="600") as (process, http), ThreadPoolExecutor(1) as thread:
        asked = thread.submit(http.post, "/search", content=SLOW)
        os.kill(busy(process.pid), signal.SIGSEGV)
        response = asked.result()
        assert response.status_code == 422
        assert "crashed (SIGSEGV)" in response.json()["detail"]
        assert http.post("/search", content=GOOD).status_code == 200


def test_a_service_whose_decoders_fail_is_not_ready_and_says_why(artifact: Artifact) -> None:
    with running(artifact) as (process, http):

        def ready() -> tuple[int, str]:
            response = http.get("/health/ready")
            return response.status_code, response.json().get("detail", "")

        (nursery,) = (pid for pid in descendants(process.pid) if processes()[pid][0] == process.pid)
        (decoder,) = descendants(nursery)
        os.kill(decoder, signal.SIGSTOP)  # as one that gets no time
        status, detail = ready()
        assert (status, "took longer than 0.25 seconds" in detail) == (503, True), detail
        until(lambda: ready() == (200, ""))  # with another decoder, once the machine gives it the time

        with ThreadPoolExecutor(1) as thread:
            (decoder,) = descendants(nursery)
            os.kill(decoder, signal.SIGSTOP)
            asked = thread.submit(ready)
            time.sleep(0.1)
            with suppress(ProcessLookupError):  # on a busy machine its time may have come already
                os.kill(decoder, signal.SIGKILL)
            status, detail = asked.result()
        assert status == 503 and ("crashed (SIGKILL)" in detail or "took longer" in detail), detail
        until(lambda: ready() == (200, ""))


def test_a_service_whose_parent_of_decoders_is_frozen_says_so_and_comes_back(own: Artifact) -> None:
    def answered(method: str, path: str, content: bytes | None = None) -> int | None:
        """None if it takes more than half a minute."""
        try:
            return httpx.request(method, http.base_url.join(path), content=content, timeout=30).status_code
        except httpx.TimeoutException:
            return None

    with running(own, concurrency="2") as (process, http):
        (nursery,) = (pid for pid in descendants(process.pid) if processes()[pid][0] == process.pid)
        os.kill(nursery, signal.SIGSTOP)
        for decoder in descendants(nursery):
            os.kill(decoder, signal.SIGKILL)
        assert answered("GET", "/health/ready") == 503
        assert answered("GET", "/health/live") == 200
        until(lambda: answered("GET", "/health/ready") == 200)
        assert nursery not in processes() or processes()[nursery][1] == "Z"
        for path, image in (("/search", GOOD), ("/search", LARGE), ("/images", GOOD)):
            until(lambda path=path, image=image: answered("POST", path, image) in (200, 201))

        (nursery,) = (
            pid
            for pid, (parent, state, _) in processes().items()
            if (parent, state == "Z") == (process.pid, False)
        )
        os.kill(nursery, signal.SIGSTOP)  # while decoders are there, of which some have to be replaced
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda _: answered("POST", "/search", GOOD), range(8)))
            assert set(found) <= {200, 503}, found
            for path in ("/search", "/images"):
                found = list(threads.map(lambda _, path=path: answered("POST", path, LARGE), range(8)))
                assert set(found) <= {200, 201, 503}, found
        until(lambda: answered("GET", "/health/ready") == 200)


def test_a_large_image_waits_for_its_turn_no_longer_than_is_said(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.web.limits.WAITING", 0.2)
    settings = Settings(artifact=artifact.path, concurrency=1)
    with serve_here(create_app(settings)) as address, ThreadPoolExecutor(1) as thread:

        def search(content: bytes) -> httpx.Response:
            return httpx.post(f"{address}/search", content=content, timeout=60)

        until(lambda: httpx.get(f"{address}/health/ready").status_code == 200)
        slow = thread.submit(search, SLOW)
        until(lambda: 'places_taken{of="decode"} 1' in httpx.get(f"{address}/metrics").text or slow.done())
        refused = search(LARGE)
        assert (refused.status_code, refused.headers.get("retry-after")) == (503, "1")
        assert "large images before this one" in refused.json()["detail"]
        slow.result()
        assert search(LARGE).status_code == 200


def test_nothing_is_left_of_a_killed_service(artifact: Artifact) -> None:
    with running(artifact, decoding_seconds="600") as (process, http), ThreadPoolExecutor(1) as thread:
        asked = thread.submit(http.post, "/search", content=SLOW)
        busy(process.pid)

        def three() -> bool:
            """The nursery, one that works, and one that has worked."""
            assert http.post("/search", content=GOOD).status_code == 200
            return len(descendants(process.pid)) >= 3

        until(three)
        left = descendants(process.pid)
        process.kill()
        process.wait()
        with pytest.raises(httpx.TransportError):
            asked.result()
        until(lambda: not any(pid in left and state != "Z" for pid, (_, state, _) in processes().items()))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_all_lets_them_finish(artifact: Artifact, number: signal.Signals) -> None:
    """As systemd and a terminal send it: to each process of the service."""
    with running(artifact, decoding_seconds="600") as (process, http), ThreadPoolExecutor(1) as thread:
        assert http.post("/search", content=GOOD).status_code == 200
        asked = thread.submit(http.post, "/search", content=jpeg_of_scans(7_000, 50))
        busy(process.pid)
        all_of_it = descendants(process.pid)
        for pid in (process.pid, *all_of_it):
            os.kill(pid, number)
        assert asked.result().status_code == 200
        process.wait(60)
        until(
            lambda: not any(pid in all_of_it and state != "Z" for pid, (_, state, _) in processes().items())
        )
