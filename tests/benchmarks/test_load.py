"""The load comes to a verdict whatever the service does."""

import asyncio
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.benchmarks.harness import Memory, Report, Row, Spread, memory
from tests.benchmarks.load import FAILED, GROWN, Sample, Traffic, memory_rows, passed
from tests.benchmarks.service import picture

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Busy\r\n\r\n"
HALF = GOOD[:-1]
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"


def answered(answers: Sequence[bytes], requests: int) -> Traffic:
    """So many requests to a server that gives these answers in turn and drops the connection after one that
    is not whole or says so; without any, nobody listens."""
    left = itertools.cycle(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        goes_on = True
        while goes_on and (head := await reader.read(2**16)):
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            rest = length - len(head.partition(b"\r\n\r\n")[2])
            await reader.readexactly(rest)
            text = next(left)
            goes_on = text in (GOOD, BUSY)
            writer.write(text)
        writer.close()

    async def due() -> AsyncIterator[float]:
        for _ in range(requests):
            yield 0.0
            await asyncio.sleep(0.02)  # both ends are served by this loop

    async def run() -> Traffic:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        traffic = Traffic(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", [picture(8, 0, "PNG")])
        if not answers:
            server.close()
        await traffic.send(due())
        server.close()
        return traffic

    return asyncio.run(run())


def test_what_is_not_answered_has_failed_with_its_reason_and_the_rest_goes_on() -> None:
    traffic = answered([GOOD, b"", BUSY, HALF], 8)
    reasons = Counter[str]()
    for (_, answer), count in traffic.answers.items():
        reasons[answer] += count
    assert reasons == {"200": 2, "503": 2, "IncompleteReadError": 4}
    assert (traffic.sent(), traffic.failed()) == (8, 6)


def test_a_connection_that_was_closed_between_two_requests_is_no_failure() -> None:
    assert answered([LAST], 4).failed() == 0


def test_a_service_that_is_gone_fails_each_request() -> None:
    traffic = answered([], 3)
    assert {reason for _, reason in traffic.answers} == {"ConnectionRefusedError"}
    assert traffic.failed() == 3


def samples(*mebibytes: float) -> list[Sample]:
    return [Sample(at, Memory(int(each * 2**20), 0), 0) for at, each in enumerate(mebibytes)]


@pytest.mark.parametrize(
    ("mebibytes", "off"),
    [
        ([10, 50, *[100] * 20, 109], 0.09),  # what comes before it has settled does not count
        ([100] * 20 + [89, 100], 0.11),
        ([100] * 20 + [150] + [100] * 20, 0.5),
        ([100, 100], 0),  # ended before it had settled: there is a verdict all the same
    ],
)
def test_memory_is_held_against_its_level(mebibytes: list[float], off: float) -> None:
    row, _ = memory_rows(samples(*mebibytes), 2, 0.1)
    assert row.figure == pytest.approx(off)
    assert row.met == (off <= 0.1)


def test_without_any_sample_there_is_a_verdict_too() -> None:
    (row,) = memory_rows([], 2, 0.1)
    assert row.what == GROWN and row.met is False


def test_growth_stands_beside_what_the_images_take() -> None:
    later = [Sample(at, Memory(2**20, (10 + at) * 2**20), 1000 * at) for at in range(31)]
    _, row = memory_rows(later, 0, 0.1)
    assert row.figure == 16  # from the median of the first fifteen to that of the last
    assert "30,000 images that came take 1.6" in row.what


def test_failures_and_memory_decide_and_nothing_else() -> None:
    def report(**met: bool) -> Report:
        one = Spread.of([1.0])
        return Report("load", {}, [Row(name, one, "", 1, "0", each) for name, each in met.items()])

    assert passed(report(**{FAILED: True, GROWN: True, "wait": False}))
    assert not passed(report(**{FAILED: False, GROWN: True}))
    assert not passed(report(**{FAILED: True, GROWN: False}))


@pytest.mark.process
def test_memory_is_that_of_all_who_descend_from_a_process() -> None:
    held = memory(os.getpid())
    assert 0 < held.anonymous <= held.all
    code = "ballast = bytearray(b'x') * (50 << 20); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin and child.stdout
        child.stdout.readline()
        assert memory(os.getpid()).anonymous > held.anonymous + (45 << 20)
        child.communicate(b"\n")
    with pytest.raises(ProcessLookupError):
        memory(child.pid)
