"""A disk that is full: what was acknowledged stays, what cannot be kept is refused, and then it goes on.

The disk is a small tmpfs in a mount namespace of its own, which a program outside sees below /proc.
"""

import errno
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from index.artifact import Artifact
from index.verify import faults
from tests.samples import command, environment, free_port, wait_until_ready
from tests.service.test_kill import png

pytestmark = pytest.mark.process

PAGE = 4096
SPARE = 4000  # KiB beside the artifact


@dataclass(frozen=True)
class Disk:
    """A small file system that goes when `holder` goes."""

    folder: Path  # as programs within see it
    holder: subprocess.Popen[bytes]

    @property
    def outside(self) -> Path:
        """The same folder for programs that are not within."""
        return Path(f"/proc/{self.holder.pid}/root{self.folder}")

    def within(self, command: list[str]) -> list[str]:
        """The command, to be run by a program within."""
        return ["nsenter", "-t", str(self.holder.pid), "-U", "-m", "--preserve-credentials", *command]

    def fill(self, leave: int = 0) -> None:
        """Take all space but `leave` bytes."""
        with (self.outside / "filler").open("ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(PAGE))
            except OSError as error:
                assert error.errno == errno.ENOSPC
            filler.truncate(max(0, filler.tell() - leave))

    def free(self) -> None:
        """Give back what `fill` took."""
        (self.outside / "filler").unlink()


@contextmanager
def small_disk(folder: Path, artifact: Path) -> Iterator[Disk]:
    """With a copy of the artifact on it, and a folder for temporary files."""
    size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file())
    script = 'mount -t tmpfs -o "size=$1k" small "$2" && cp -r "$3" "$2/artifact" && mkdir "$2/tmp"'
    script += ' && rm -f "$2"/artifact/*-shm'  # another test may have it open: then no start would need one
    script += " && echo ok && cat"
    holder = subprocess.Popen(
        ["unshare", "-Urm", "sh", "-c", script, "sh", str(size // 1024 + SPARE), str(folder), str(artifact)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with holder:
        assert holder.stdin and holder.stdout and holder.stderr
        if holder.stdout.readline() != b"ok\n":
            holder.stdin.close()
            pytest.skip(f"no file system can be mounted here ({holder.stderr.read().decode().strip()})")
        try:
            yield Disk(folder, holder)
        finally:
            holder.stdin.close()


@contextmanager
def serving(disk: Disk) -> Iterator[tuple[httpx.Client, "subprocess.Popen[bytes]"]]:
    port = free_port()
    variables = environment(disk.folder / "artifact") | {"TMPDIR": str(disk.folder / "tmp")}
    process = subprocess.Popen(disk.within(command(port)), env=variables)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            yield http, process
    finally:
        process.kill()
        process.wait()


def refused(response: httpx.Response) -> str:
    """What the problem says of the space that is missing."""
    assert response.status_code == 507, response.text
    assert response.headers["content-type"] == "application/problem+json"
    detail: str = response.json()["detail"]
    return detail


def noise() -> bytes:
    """An image of more than two megabytes, which a form keeps in a temporary file."""
    file = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Collection:
    """What a client of a service on a small disk was told."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.there: dict[int, str] = {}  # ids and hashes of what was acknowledged
        self.gone: set[int] = set()
        self._seeds = iter(range(1000, 10**6))

    def add(self) -> httpx.Response:
        response = self.http.post("/images?label=new", content=png(next(self._seeds)))
        if response.status_code == 201:
            image: dict[str, Any] = response.json()["images"][0]["image"]
            self.there[image["id"]] = image["sha256"]
        return response

    def remove(self, item_id: int) -> httpx.Response:
        response = self.http.delete(f"/images/{item_id}")
        if response.status_code == 204:
            self.gone.add(item_id)
        return response

    def works(self) -> None:
        assert self.http.post("/search", content=png(1)).status_code == 200
        assert self.http.get("/health/ready").status_code == 200
        listed = self.http.get("/images?label=new&limit=1000").json()["images"] if self.there else []
        assert {image["id"]: image["sha256"] for image in listed} == self.there


def test_it_refuses_loses_nothing_and_goes_on(artifact: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, artifact.path) as disk:
        with serving(disk) as (http, process):
            ours = Collection(http)
            assert ours.add().status_code == 201
            large = {"files": {"image": noise()}}
            assert http.post("/search", **large).status_code == 200
            said = set[str]()
            for leave in (0, 2, 4, 8, 40):  # pages: first no file can be kept, then the catalogue cannot grow
                disk.fill(leave * PAGE)
                while (response := ours.add()).status_code == 201:
                    pass
                said.add(refused(response))
                ours.works()
                disk.free()
            assert len(said) == 2, said
            assert all("free space" in detail for detail in said)
            disk.fill()
            # Small changes may still fit into the log that there is.
            while (response := http.patch("/images/1", json={"label": "other"})).status_code == 200:
                pass
            assert "free space" in refused(response)
            for item_id in range(2, 40):
                if (response := ours.remove(item_id)).status_code != 204:
                    break
            assert "free space" in refused(response)
            assert "free space" in refused(http.post("/search", **large))
            assert "No space left" in refused(http.get("/export"))
            assert "free space" in refused(http.post("/images", **large))
            assert "No space left" in refused(http.post("/admin/snapshot", json={"name": "copy"}))
            assert {path.name for path in disk.outside.iterdir()} == {"artifact", "filler", "tmp"}
            ours.works()
            disk.free()
            assert ours.add().status_code == 201
            assert ours.remove(1).status_code == 204
            ours.works()
            disk.fill()
            refused(ours.add())
            process.send_signal(signal.SIGKILL)
            process.wait()
        shutil.copytree(disk.outside / "artifact", tmp_path / "copy")
    assert list(faults(tmp_path / "copy")) == []
    with Artifact(tmp_path / "copy", artifact.manifest).open_catalogue() as catalogue:
        kept = {item.id: item.sha256 for item in catalogue.page(count=1000)}
        assert ours.there.items() <= kept.items()
        assert not ours.gone & kept.keys()
        assert len(kept) == artifact.manifest.data["database"] + len(ours.there) - len(ours.gone)


def test_a_start_without_space_says_so(artifact: Artifact, tmp_path: Path) -> None:
    """The catalogue needs some for its -shm, and is not damaged."""
    opening = "from service.app import create_app; create_app()"
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, artifact.path) as disk:
        disk.fill()
        started = subprocess.run(
            disk.within([sys.executable, "-c", opening]),
            env=environment(disk.folder / "artifact"),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert started.returncode == 1
    (line,) = started.stderr.splitlines()
    assert "free space" in line and "build the index again" not in line
