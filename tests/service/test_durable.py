"""What is acknowledged was forced to the disk before; and what was taken is answered, whatever comes."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from index.artifact import Artifact
from tests.conftest import command, environment, free_port, wait_until_ready
from tests.service.test_kill import png

CALLS = "write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync,rename,renameat,renameat2,unlink"
CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+(?: resumed)?)[(>](.*)$")
Calls = list[tuple[str, str, str]]  # thread, name, and arguments with what came back


@contextmanager
def traced(process: int, log: Path) -> Iterator[None]:
    """The system calls of a process and its threads, each with the file that it is about, in `log`."""
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is missing")
        pytest.skip("strace is missing")
    tracer = subprocess.Popen(
        ["strace", "-f", "-y", "-s", "64", "-e", f"trace={CALLS}", "-o", str(log), "-p", str(process)],
        stderr=subprocess.PIPE,
        text=True,
    )
    with tracer:
        assert tracer.stderr
        told = tracer.stderr.readline()
        if "attached" not in told:
            tracer.kill()
            assert not os.environ.get("CI"), told
            pytest.skip(f"strace may not look into a process here ({told.strip()})")
        time.sleep(0.5)  # until it has each thread
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(20)


def calls_until_answer(log: Path, status: bytes) -> Calls:
    """The calls before the first bytes of the answer with this status."""
    made = []
    for line in log.read_text(errors="replace").splitlines():
        if found := CALL.match(line):
            if f'"HTTP/1.1 {status.decode()}' in found[3]:
                return made
            made.append((found[1], found[2], found[3]))
    raise AssertionError(f"no answer {status!r} in {log.read_text()[-2000:]}")


def unsynced(calls: Calls) -> set[str]:
    """The regular files of the artifact that were written to and not forced to the disk since then;
    only a call that has come back has done so."""
    dirty, begun = set[str](), dict[str, str]()  # and the file by thread, while it waits for the disk
    for thread, name, rest in calls:
        file = re.match(r"\d+<([^>]*)>", rest)
        if name.startswith(("write", "pwrite")) and file and "/artifact/" in file[1]:
            dirty.add(file[1])
        elif name in ("fsync", "fdatasync") and file:
            if rest.rstrip().endswith("= 0"):
                dirty.discard(file[1])
            elif rest.endswith("<unfinished ...>"):
                begun[thread] = file[1]
        elif name in ("fsync resumed", "fdatasync resumed") and rest.rstrip().endswith("= 0"):
            dirty.discard(begun.pop(thread))
    return dirty


def test_an_answer_comes_after_the_disk(own: Artifact, tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(command(port), env=environment(own.path))
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            first = http.post("/images", content=png(1)).json()["images"][0]["image"]["id"]
            with traced(process.pid, tmp_path / "post.log"):
                assert http.post("/images", content=png(2)).status_code == 201
            with traced(process.pid, tmp_path / "delete.log"):
                assert http.delete(f"/images/{first}").status_code == 204
    finally:
        process.kill()
        process.wait()

    calls = calls_until_answer(tmp_path / "post.log", b"201")
    assert unsynced(calls) <= {str(own.path / "catalogue.sqlite-shm")}  # made anew from the log
    assert any(name.startswith("pwrite") and "catalogue.sqlite-wal" in rest for _, name, rest in calls)
    (kept,) = places(calls, "rename", "/originals/")
    folder = places(calls, "fsync", r"/originals/..>")
    assert folder[-1] > kept  # the name too
    log = places(calls, "fsync|fdatasync", "catalogue.sqlite-wal")
    assert log[-1] > folder[-1]  # an item whose file is lost is worse than a file of no item

    calls = calls_until_answer(tmp_path / "delete.log", b"204")
    assert unsynced(calls) <= {str(own.path / "catalogue.sqlite-shm")}
    assert places(calls, "fsync|fdatasync", "catalogue.sqlite-wal")


def places(calls: Calls, name: str, about: str) -> list[int]:
    """Where in the order calls of this kind began."""
    return [at for at, (_, it, rest) in enumerate(calls) if re.match(name, it) and re.search(about, rest)]


def test_the_check_of_calls_notices_what_is_not_synced() -> None:
    log = "/x/artifact/catalogue.sqlite-wal"
    written = ("1", "pwrite64", f'7<{log}>, "..."')
    synced = ("1", "fdatasync", f"7<{log}>) = 0")
    failed = ("1", "fdatasync", f"7<{log}>) = -1 EIO")
    begun, done = ("1", "fdatasync", f"7<{log}> <unfinished ...>"), ("1", "fdatasync resumed", ") = 0")
    for left in ([written], [synced, written], [written, failed], [written, begun]):
        assert unsynced(left) == {log}
    assert unsynced([written, synced]) == unsynced([written, begun, done]) == set()


def test_what_was_taken_is_answered_when_the_service_ends(own: Artifact, tmp_path: Path) -> None:
    """SIGTERM under load: each request that the service took, by its log, was answered; later ones found no
    connection, or one that closed before it took them."""
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command(port), "--log-level", "info"], env=environment(own.path), stderr=errors
        )
    answers: list[int] = []
    added: list[int] = []

    def asking(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            try:
                for turn in range(100_000):
                    if number:
                        response = http.post("/search", content=png(turn))
                    else:
                        response = http.post("/images", content=png(9000 + turn))
                        added.append(9000 + turn)
                    answers.append(response.status_code)
            except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                return

    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        threads = [threading.Thread(target=asking, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while len(answers) < 20:
            time.sleep(0.05)
        process.terminate()
        for thread in threads:
            thread.join()
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    assert set(answers) <= {200, 201}
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    taken = [line["status"] for line in lines if line.get("route") in ("/search", "/images")]
    assert sorted(taken) == sorted(answers)
    assert not own.path.joinpath("catalogue.sqlite-wal").exists()  # closed: the file stands alone
    with own.open_catalogue() as catalogue:
        assert len([item for item in catalogue.page(count=10_000) if item.folder == ""]) == len(added)
