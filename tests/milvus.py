"""A Milvus of the tests' own: a folder, and one port of 127.0.0.1.

The program listens on every interface, whatever its settings say (2.3.5: `ip` is what it tells others). So it
runs in a network of its own, in which there is nothing but the loopback device, and this file, run as a
program there, carries bytes between it and a socket that was made outside.
"""

import asyncio
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Self

import pytest

INSIDE = 19530  # the port in the network of its own
READY = b"Proxy successfully started"
CARRIES = b"hebbsearch carries"  # what this program says once the port outside is open
COMPONENTS = ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")
IFF_UP, SIOCSIFFLAGS = 1, 0x8914  # netdevice(7)
CLUSTER = (pytest.mark.cluster, pytest.mark.process)  # what each test with a server is marked by
_numbers = count(1)


def programs() -> Path | None:
    """The folder with the server's programs, unpacked beside the environment that they are installed in;
    None: there are none."""
    if find_spec("milvus") is None or find_spec("pymilvus") is None:
        return None
    with warnings.catch_warnings():  # of what the old client is made of
        warnings.simplefilter("ignore")
        import pymilvus  # noqa: F401
        from milvus import _initialize_data_files

    folder = Path(sys.prefix) / "milvus-server"
    _initialize_data_files(folder)  # what is there already is left
    return folder / "bin"


def apart() -> list[str]:
    """The command before a program that shall see no network but its own."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--net", "--"]


class Server:
    """It runs from `start` until it is stopped or killed, as often as one likes; its data stays."""

    def __init__(self, programs: Path, folder: Path, *, users: bool) -> None:
        from milvus import MilvusServerConfig

        self._programs = programs
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        settings = MilvusServerConfig(data_dir=str(folder))
        for component in COMPONENTS:
            settings.set(f"{component}.ip", "127.0.0.1")
        settings.set("authorization_enabled", users)
        settings.set("common.session.ttl", 3)  # seconds until one that was killed counts as gone: else 30
        settings.resolve_storage()
        settings.write_config()  # with the usual ports, which are free in a network of its own
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @property
    def address(self) -> str:
        """Without a collection."""
        return f"milvus+http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that leads the group of all that were started."""
        assert self._process is not None
        return self._process.pid

    def new_collection(self) -> str:
        """The URL of a collection that is not there yet."""
        return f"{self.address}/test_{next(_numbers)}"

    def start(self) -> Self:
        """Until it answers."""
        from tests.servers import when_it_says  # this file as a program knows no packages

        with socket.socket() as outside:
            outside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            outside.bind(("127.0.0.1", self.port))  # that nobody listens at before it answers
            self._process = subprocess.Popen(
                [*apart(), sys.executable, __file__, str(outside.fileno()), str(self._programs / "milvus")],
                stdin=subprocess.PIPE,  # which ends with this process, and they with it
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                pass_fds=[outside.fileno()],
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._reading = when_it_says(CARRIES, self._process.stdout)
        return self

    def kill(self) -> None:
        """As when its machine loses power, but that what it handed to the system is there."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            with self._process:
                pass
            self._reading.join()
            self._process = None


@contextmanager
def server(*, users: bool = False) -> Iterator[Server]:
    """One that runs, in a folder that goes with it, and may ask who somebody is. Skipped where Milvus is not
    installed, but in CI."""
    found = programs()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no Milvus; make test-cluster installs it")
        pytest.skip("Milvus is not installed; make test-cluster does it")
    with tempfile.TemporaryDirectory(prefix="hebbsearch-milvus-", ignore_cleanup_errors=True) as folder:
        made = Server(found, Path(folder), users=users)
        try:
            yield made.start()
        finally:
            made.kill()


# --- the program beside the server ---


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(2**18):
            sink.write(data)
            await sink.drain()
    with suppress(OSError):
        sink.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        to, of = await asyncio.open_connection("127.0.0.1", INSIDE)
    except OSError:
        return writer.close()
    await asyncio.gather(_pump(reader, of), _pump(to, writer))


def _end_with_the_tests() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


async def _run(outside: socket.socket, program: str) -> None:
    """The server, until it ends, and what carries bytes to it."""
    beside = {**os.environ, "LD_LIBRARY_PATH": str(Path(program).parent)}
    milvus = await asyncio.create_subprocess_exec(
        *(program, "run", "standalone"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=beside
    )
    assert milvus.stdout is not None
    carrying = None
    async for line in milvus.stdout:
        if READY in line:
            carrying = await asyncio.start_server(_carry, sock=outside)
            print(CARRIES.decode(), flush=True)
        elif carrying is None:
            sys.stdout.buffer.write(line)
    if carrying is not None:
        carrying.close()


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    _raise_loopback()
    asyncio.run(_run(socket.socket(fileno=int(sys.argv[1])), sys.argv[2]))
