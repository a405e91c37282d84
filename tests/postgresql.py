"""A PostgreSQL of the tests' own: a folder, a port of 127.0.0.1, and who may do everything there."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from tests.servers import when_it_says

DEBIAN = Path("/usr/lib/postgresql")  # where Debian has the programs of each version
OWNER = "postgres"  # whom Debian's package makes: the server refuses to be root
READY = b"database system is ready to accept connections"
# It sorts and compares as people do, and not by bytes: what needs those must say so.
INITDB = (
    *("--no-sync", "--auth=trust", "--username=hebbsearch", "--encoding=UTF8", "--locale=C.UTF-8"),
    *("--locale-provider=icu", "--icu-locale=en-US"),
)
_numbers = count(1)


def programs() -> Path | None:
    """The folder of the newest server's programs; None: there is none."""
    found = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    there = found[-1] if found else shutil.which("postgres")
    return None if there is None else Path(there).parent


def as_owner() -> dict[str, object]:
    """Who starts its programs, as subprocess takes it."""
    return {"user": OWNER, "group": OWNER, "extra_groups": []} if os.geteuid() == 0 else {}


class Server:
    """It runs from `start` until it is stopped or killed, as often as one likes; its data stays."""

    def __init__(self, programs: Path, folder: Path, *options: str) -> None:
        self._programs = programs
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        if os.geteuid() == 0:
            shutil.chown(folder, OWNER, OWNER)
        subprocess.run(
            [programs / "initdb", *INITDB, "-D", folder / "data"],
            check=True,
            capture_output=True,
            cwd=folder,
            **as_owner(),  # type: ignore[call-overload]
        )

    @property
    def address(self) -> str:
        """Of its database, without a schema."""
        return f"postgresql+psycopg://hebbsearch@127.0.0.1:{self.port}/postgres"

    def new_schema(self) -> str:
        """The URL of a schema that is not there yet."""
        return f"{self.address}?schema=test_{next(_numbers)}"

    def start(self, *options: str) -> Self:
        """Until it answers."""
        self._process = subprocess.Popen(
            [
                *(self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port)),
                *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._folder}"),
                *self._options,
                *options,
            ],
            stderr=subprocess.PIPE,
            cwd=self._folder,
            start_new_session=True,
            **as_owner(),  # type: ignore[call-overload]
        )
        assert self._process.stderr is not None
        self._reading = when_it_says(READY, self._process.stderr)
        return self

    def kill(self) -> None:
        """As when its machine loses power, but that what it handed to the system is there."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """At once, and in order."""
        self._end(signal.SIGINT)

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is not None:
            if with_signal == signal.SIGKILL:  # its processes too, each of which is in its group
                os.killpg(self._process.pid, with_signal)
            else:
                self._process.send_signal(with_signal)
            self._process.wait()
            self._reading.join()
            self._process = None


@contextmanager
def server(*options: str) -> Iterator[Server]:
    """One that runs, in a folder that goes with it. Skipped where PostgreSQL is not installed, but in CI."""
    found = programs()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no PostgreSQL; .ci/run installs it")
        pytest.skip("PostgreSQL is not installed: Debian's package is postgresql")
    # Not below pytest's folders, which are closed to other users.
    with tempfile.TemporaryDirectory(prefix="hebbsearch-postgresql-", ignore_cleanup_errors=True) as folder:
        made = Server(found, Path(folder), *options)
        try:
            yield made.start()
        finally:
            made.kill()


def connected(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """To the schema of a catalogue's URL."""
    address, _, schema = url.partition("?schema=")
    return psycopg.connect(address.replace("+psycopg", ""), options=f"-c search_path={schema}")


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What one statement answers, if anything, in the schema of a catalogue's URL."""
    with connected(url) as connection:
        answer = connection.execute(statement.encode())
        return answer.fetchall() if answer.description else []
