"""What was acknowledged is there after SIGKILL, whenever it comes; and a deleted image is never found."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from typing import Any

import httpx
import pytest

from index.artifact import Artifact
from index.verify import faults, sweep
from tests import forking
from tests.samples import command, draw, environment, free_port, wait_until_ready

pytestmark = pytest.mark.process

WRITERS = 2
MOST = 12  # operations that are acknowledged before a kill
LATER = 0.05  # seconds after them, about what the next one takes
LATEST = (
    20  # images whose file and code are looked at after each kill; of the others only whether they are there
)


def png(seed: int) -> bytes:
    file = BytesIO()
    picture = draw(seed % 3, seed)
    picture.putpixel((0, 0), (seed & 255, seed >> 8 & 255, seed >> 16))  # each has its own bytes
    picture.save(file, "PNG")
    return file.getvalue()


@dataclass
class Sent:
    """An image that was sent, and what was said of it."""

    seed: int
    id: int | None = None  # None: not acknowledged
    label: str = "sent"
    leaving: bool = False  # its deletion was asked for
    gone: bool = False  # and acknowledged
    changing: bool = False  # another label was asked for, and may or may not be there


@dataclass
class Ledger:
    """All that was sent and acknowledged."""

    random: random.Random
    sent: list[Sent] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)  # ids whose deletion was acknowledged
    faults: list[str] = field(default_factory=list)
    operations: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def new(self) -> Sent:
        with self.lock:
            self.sent.append(Sent(50_000 + len(self.sent)))
            return self.sent[-1]

    def some(self, what: str) -> Sent | None:
        """One that is there for certain, that nobody else works with, and is now `leaving` or `changing`."""
        with self.lock:
            there = [each for each in self.sent if each.id and not (each.leaving or each.changing)]
            if not there:
                return None
            chosen = self.random.choice(there)
            setattr(chosen, what, True)
            return chosen

    def unsettled(self) -> list[Sent]:
        """Those that were being worked with when the server went."""
        return [
            each for each in self.sent if not each.gone and (each.leaving or each.changing or not each.id)
        ]


def write(http: httpx.Client, ledger: Ledger, turn: int) -> None:
    """Add, change or delete something; raises TransportError when the server goes."""
    what = ("add", "add", "add", "changing", "leaving")[turn % 5]
    if what == "add" or (this := ledger.some(what)) is None:
        this = ledger.new()
        response = http.post("/images", content=png(this.seed), params={"label": this.label})
        assert response.status_code == 201, response.text
        this.id = response.json()["images"][0]["image"]["id"]
    elif what == "changing":
        response = http.patch(f"/images/{this.id}", json={"label": "changed"})
        assert response.status_code == 200, f"{this}: {response.text}"
        this.label, this.changing = "changed", False
    else:
        response = http.delete(f"/images/{this.id}")
        assert response.status_code == 204, f"{this}: {response.text}"
        assert this.id is not None
        this.gone = True
        ledger.gone.add(this.id)
    ledger.operations += 1


def search(http: httpx.Client, ledger: Ledger) -> None:
    """Ask with an image that may have been deleted: none of those may come."""
    gone = set(ledger.gone)
    asked = ledger.random.choice(ledger.sent) if ledger.sent else Sent(1)
    response = http.post("/search", content=png(asked.seed), params={"k": 20})
    assert response.status_code == 200, response.text
    found = {each["id"] for each in response.json()["results"]}
    if found & gone:
        ledger.faults.append(f"{found & gone} were found after they were deleted")


def load(address: str, ledger: Ledger, stop: threading.Event, number: int) -> None:
    turn = number
    with httpx.Client(base_url=address, timeout=30) as http:
        try:
            while not stop.is_set():
                search(http, ledger) if number == WRITERS else write(http, ledger, turn)
                turn += 1
        except httpx.TransportError:
            pass  # killed
        except AssertionError as error:
            ledger.faults.append(str(error))


def check(http: httpx.Client, ledger: Ledger, sent: list[Sent]) -> None:
    """Each is as was said; of what nothing was said it is whole or not there."""
    known = {each["sha256"]: each for each in pages(http)}
    for each in sent:
        about = known.get(sha256(png(each.seed)).hexdigest())
        if each.gone:
            ok = about is None and http.get(f"/images/{each.id}").status_code == 404
        elif about is None:
            ok = each.id is None or each.leaving
        else:
            whole = http.get(about["original"]).content == png(each.seed)
            found = http.post("/search", content=png(each.seed), params={"k": 50}).json()["results"]
            at = [result["distance"] for result in found if result["id"] == about["id"]]
            labels = {each.label, "changed"} if each.changing else {each.label}
            ok = whole and at == [0] and about["label"] in labels and each.id in (None, about["id"])
            settle(each, about)
        if not ok:
            ledger.faults.append(f"{each} is {about}")


def check_listed(http: httpx.Client, ledger: Ledger, sent: list[Sent]) -> None:
    """All are there that should be, under their labels, and none that should not."""
    listed = {each["id"]: each["label"] for each in pages(http)}
    for each in sent:
        assert each.id is not None
        if listed.get(each.id) != (None if each.gone else each.label):
            ledger.faults.append(f"{each} is listed with {listed.get(each.id)}")


def settle(each: Sent, about: dict[str, Any]) -> None:
    """From now on it must stay as it was found."""
    each.id, each.label = about["id"], about["label"]
    each.leaving = each.changing = False


def pages(http: httpx.Client) -> Iterator[dict[str, Any]]:
    after: int | None = 0
    while after is not None:
        page = http.get("/images", params={"after": after, "limit": 1000}).json()
        yield from page["images"]
        after = page["next"]


@contextmanager
def server(artifact: Artifact) -> Iterator[tuple[str, int]]:
    """A running server's address and process; it is killed at the end."""
    port = free_port()
    process = forking.Popen(command(port), env=environment(artifact.path, queue="1000"))
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, process)
        yield address, process.pid
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_kills(own: Artifact, kills: int) -> None:
    ledger, moments = Ledger(random.Random(kills)), random.Random(kills)
    for _ in range(kills):
        unsettled = ledger.unsettled()
        settled = [each for each in ledger.sent if each not in unsettled]
        with server(own) as (address, process):
            with httpx.Client(base_url=address, timeout=30) as http:
                check(http, ledger, unsettled + settled[-LATEST:])
                check_listed(http, ledger, settled)
            assert not ledger.faults
            stop = threading.Event()
            threads = [
                threading.Thread(target=load, args=(address, ledger, stop, number))
                for number in range(WRITERS + 1)
            ]
            for thread in threads:
                thread.start()
            wanted, begun = ledger.operations + moments.randrange(MOST), time.monotonic()
            while ledger.operations < wanted and not ledger.faults and time.monotonic() < begun + 60:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, LATER))
            os.kill(process, signal.SIGKILL)
            for thread in threads:
                thread.join()
        assert not ledger.faults
    with server(own) as (address, _), httpx.Client(base_url=address, timeout=30) as http:
        check(http, ledger, ledger.sent)
    print(f"{kills} kills, {ledger.operations} acknowledged operations, {len(ledger.sent)} images sent")
    assert not ledger.faults
    assert ledger.operations > kills
    assert [str(fault) for fault in faults(own.path) if not fault.orphan] == []


COPIES = {
    "a copy": "from index import backup as module; name, make = 'sync', module.copy_artifact",
    "a new encoder's": "from service.core.artifacts import reencode as module; name = 'publish'\n"
    "make = lambda path, target: module.reencode(path, path, target)",
}


@pytest.mark.parametrize("what", COPIES)
def test_what_a_kill_leaves_of_a_copy_is_named_and_swept(own: Artifact, what: str) -> None:
    place = own.path.parent
    before = set(os.listdir(place))
    code = f"""
import os, signal
from pathlib import Path
{COPIES[what]}
setattr(module, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
make(Path({str(own.path)!r}), Path({str(place / "copy")!r}))
"""
    process = forking.Popen([sys.executable, "-c", code])
    assert process.wait() == -signal.SIGKILL
    left = {place / name for name in set(os.listdir(place)) - before}
    assert len(left) == 1
    assert {fault.path for fault in faults(own.path) if fault.orphan} == left
    assert set(sweep(own.path)) == left
    assert set(os.listdir(place)) == before
    assert list(faults(own.path)) == []
