"""What is acknowledged was forced to the disk before; and what was taken is answered, whatever comes."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from index.artifact import Artifact
from tests import forking
from tests.samples import build_pair, command, environment, free_port, wait_until_ready
from tests.service.test_kill import png

CALLS = "write,writev,pwrite64,pwritev,sendfile,sendto,sendmsg,fsync,fdatasync,rename,renameat,renameat2"
MAKING = "mkdir,mkdirat,link,linkat"
CALL = re.compile(r"^(\d+) +(<\.\.\. )?(\w+)(?: resumed>|\()(.*)$")
UNFINISHED = " <unfinished ...>"
Calls = list[tuple[str, str]]  # name, and arguments with what came back; in the order in which they ended


@contextmanager
def traced(process: int, log: Path) -> Iterator[None]:
    """The system calls of a process and its threads, each with the file that it is about, in `log`."""
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is missing")
        pytest.skip("strace is missing")
    tracer = subprocess.Popen(
        [
            "strace",
            "-f",
            "-y",
            "-s",
            "64",
            "-e",
            f"trace={CALLS},{MAKING}",
            "-o",
            str(log),
            "-p",
            str(process),
        ],
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
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(20)


def calls_until_answer(log: Path, status: int) -> Calls:
    """The calls that came back before the first bytes of the answer with this status."""
    ended, begun = Calls(), dict[str, str]()  # arguments by thread
    for line in log.read_text(errors="replace").splitlines():
        if found := CALL.match(line):
            thread, resumed, name, rest = found.groups()
            if f'"HTTP/1.1 {status}' in rest:
                return ended
            if rest.endswith(UNFINISHED):
                begun[thread] = rest.removesuffix(UNFINISHED)
            else:
                ended.append((name, (begun.pop(thread, "") if resumed else "") + rest))
    raise AssertionError(f"no answer {status} in {log.read_text()[-2000:]}")


def unsynced(calls: Calls, folder: Path) -> set[str]:
    """What lies in the folder and is not forced to the disk: files that were written to, and folders in which
    names were made. SQLite makes its -shm anew from the log."""
    dirty = set[str]()
    for name, rest in calls:
        file = re.match(r"\d+<([^>]*)>", rest)
        if name.startswith(("write", "pwrite", "sendfile")) and file:
            dirty.add(file[1])
        elif name in ("fsync", "fdatasync") and file and rest.rstrip().endswith("= 0"):
            dirty.discard(file[1])
        elif name.startswith(("rename", "mkdir", "link")) and rest.rstrip().endswith("= 0"):
            dirty.add(str(Path(re.findall(r'"([^"]*)"', rest)[-1]).parent))
    return {path for path in dirty if Path(path).is_relative_to(folder) and not path.endswith("-shm")}


def places(calls: Calls, name: str, about: str) -> list[int]:
    """Where in the order calls of this kind ended."""
    return [at for at, (it, rest) in enumerate(calls) if re.match(name, it) and about in rest]


def kept(calls: Calls, artifact: Path) -> int:
    """How many files of images were kept. An item whose file is lost is worse than a file of no item: each
    was on the disk, and its name too, before anything was written into the catalogue."""
    told = places(calls, "pwrite", f"<{artifact}/catalogue.sqlite-wal>")[0]
    files = places(calls, "rename", f'"{artifact}/originals/')
    for at in files:
        temporary, file = re.findall(r'"([^"]*)"', calls[at][1])
        (whole,) = places(calls, "fsync", f"<{temporary}>")
        named = [place for place in places(calls, "fsync", f"<{Path(file).parent}>") if place > at]
        assert whole < at < named[0] < told
    return len(files)


@pytest.mark.process
def test_an_answer_comes_after_the_disk(tmp_path: Path) -> None:
    artifacts = build_pair(tmp_path / "artifacts")
    first, second = artifacts / "first", artifacts / "second"
    several = [("image", (f"{seed}.png", png(seed))) for seed in (3, 4, 5)]
    requests: dict[str, tuple[int, Callable[[httpx.Client], httpx.Response]]] = {
        "one": (201, lambda http: http.post("/images", content=png(2))),
        "several": (201, lambda http: http.post("/images", files=several, data={"label": "new"})),
        "copy": (201, lambda http: http.post("/admin/snapshot", json={"name": "third"})),
        "reload": (200, lambda http: http.post("/admin/reload", json={"artifact": "second", "force": True})),
        "change": (200, lambda http: http.patch("/images/1", json={"label": "newer", "metadata": {"a": 1}})),
        "remove": (204, lambda http: http.delete("/images/2")),
        "back": (200, lambda http: http.post("/admin/rollback")),
    }
    port = free_port()
    process = forking.Popen(command(port), env=environment(first))
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            for name, (status, ask) in requests.items():
                with traced(process.pid, tmp_path / name):
                    while '"HTTP/1.1 404' not in (tmp_path / name).read_text(errors="replace"):
                        assert http.get("/nowhere").status_code == 404  # until it sees what the service does
                    answer = ask(http)
                assert answer.status_code == status, answer.text
    finally:
        process.kill()
        process.wait()

    calls = {name: calls_until_answer(tmp_path / name, status) for name, (status, _) in requests.items()}
    # What is served no more is closed meanwhile: what its log has, which is on the disk, goes into its file.
    closed = {"reload": {f"{first}/catalogue.sqlite"}, "back": {f"{second}/catalogue.sqlite"}}
    for name, made in calls.items():
        assert unsynced(made, artifacts) <= closed.get(name, set()), name
    for artifact, names in (
        (first, ("one", "several", "reload", "back")),
        (second, ("reload", "change", "remove", "back")),
    ):
        for name in names:
            assert places(calls[name], "pwrite", f"<{artifact}/catalogue.sqlite-wal>"), name
    assert kept(calls["one"], first) == 1
    assert kept(calls["several"], first) == 3
    assert kept(calls["reload"], second) == 4
    assert places(calls["copy"], "rename", f'"{artifacts}/third"')
    assert len(places(calls["copy"], "link", "/originals/")) == 4


def test_the_check_of_calls_notices_what_is_not_synced(tmp_path: Path) -> None:
    file, log = "/x/first/catalogue.sqlite-wal", tmp_path / "log"
    written = f'11 pwrite64(7<{file}>, "..."..., 4096, 0) = 4096'
    synced = f"11 fdatasync(7<{file}>)            = 0"
    failed = f"11 fdatasync(7<{file}>) = -1 EIO (Input/output error)"
    begun, done = f"11 fdatasync(7<{file}> <unfinished ...>", "11 <... fdatasync resumed>) = 0"
    other = f'12 pwrite64(8<{file}-shm>, ""..., 1, 0 <unfinished ...>'
    named = '11 rename("/x/first/.a", "/x/first/b") = 0'
    folder = "11 fsync(9</x/first>) = 0"

    def left(*lines: str) -> set[str]:
        log.write_text("\n".join([*lines, '12 sendto(5<TCP:[1->2]>, "HTTP/1.1 201 Created"..., 9']))
        return unsynced(calls_until_answer(log, 201), Path("/x"))

    for lines in ([written], [synced, written], [written, failed], [written, begun], [written, begun, other]):
        assert left(*lines) == {file}
    assert left(written, synced) == left(written, begun, other, done) == set()
    assert left(named) == left(folder, named) == {"/x/first"}
    assert left(named, folder) == left(named.replace("= 0", "= -1 ENOENT (No such file)")) == set()


@pytest.mark.process
def test_what_was_taken_is_answered_when_the_service_ends(own: Artifact, tmp_path: Path) -> None:
    """SIGTERM under load: each request that the service took, by its log, was answered; later ones found no
    connection, or one that closed before it took them."""
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as errors:
        process = forking.Popen(
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
