"""Python processes that start in milliseconds: forked from one that has imported everything once.

`Popen` and `run` take the place of `subprocess.Popen` and `subprocess.run` where a test starts this Python.
The imports of torch and of the service take six seconds of processor time; a fork takes none of them. All
else is as of a real process: a child of the test's process with its own command line, environment, folder,
streams, signals and exit code. Only what is read when a library loads (OMP_NUM_THREADS, PYTHONPATH) is that
of the parent, which has one thread: who tests that starts a real process, as one test of each command does.
"""

import asyncio
import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
# Elsewhere nobody hands a grandchild on: each is a real process there. Who was forked forks by itself.
FORKS = sys.platform == "linux" and subprocess.Popen.__module__ == "subprocess"
LOADED = (
    *("uvicorn.main", "uvicorn.lifespan.on", "uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl"),
    *("service.app", "service.command", "training.build_index", "training.reproduce"),
    *("sklearn.datasets", "sklearn.model_selection", "matplotlib.pyplot", "scipy.stats"),
    "torch._dynamo",  # which the first optimizer imports, for three seconds
)
# In the environment: module:function that a forked process calls before it does what its command says.
FIRST = "TESTS_FIRST"
LARGEST = 1 << 20  # bytes of a command with its environment
SWITCHES = {"-I": 1, "-P": 1, "-W": 2}  # of Python, that change nothing here; words that each takes
SET_CHILD_SUBREAPER = 36  # of prctl(2)
ALONE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`, but a command of this Python is forked from the parent of all."""

    def _execute_child(  # type: ignore[no-untyped-def]  # the one step that differs
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more
    ) -> None:
        *_, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = more[:9]
        if not FORKS or args[0] != sys.executable or preexec_fn or pass_fds:
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more)
            return
        sys.audit("subprocess.Popen", executable, args, cwd, env)  # as it does itself
        streams = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        try:
            self.pid = _parent().fork(
                list(map(os.fspath, args[1:])),
                os.fspath(cwd or os.getcwd()),
                dict(env or os.environ),
                streams,
            )
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def run(
    command: list[str], *, timeout: float = 120, start: type[subprocess.Popen[Any]] = Popen, **how: Any
) -> subprocess.CompletedProcess[str]:
    """The command's end: its exit code, and what it said as text. It is killed when its time is over."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start(command, **pipes | how) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def end() -> None:
    """End the parent of all, if there is one."""
    if _parent.cache_info().currsize:
        _parent().close()
        _parent.cache_clear()


# --- the side of the tests -------------------------------------------------------------------------


class _Parent:
    """The process that has imported everything."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking", str(theirs.fileno())],
                cwd=ROOT,
                env=os.environ | ALONE,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fork(
        self, arguments: list[str], folder: str, environment: Mapping[str, str], streams: Iterable[int]
    ) -> int:
        """A new child of the calling process, of which these are the standard streams; its process id."""
        message = json.dumps([arguments, folder, dict(environment)]).encode()
        with self._asking, _adopting():
            socket.send_fds(self._socket, [message], list(streams))
            pid, adopted = self._socket.recv(64), self._socket.recv(64)
        if not adopted:
            raise ChildProcessError("the parent of all processes has ended")
        return int(pid)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(60)


@cache
def _parent() -> _Parent:
    return _Parent()


@contextmanager
def _adopting():  # type: ignore[no-untyped-def]
    """Meanwhile who loses its parent becomes a child of this process, and not of the system's first one."""
    prctl = ctypes.CDLL(None).prctl
    prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)


# --- the side of the parent and its children -------------------------------------------------------


def load() -> None:
    """Import what the commands import, as far as it is installed."""
    for name in LOADED:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with more than one thread must not be forked"
    gc.collect()
    gc.freeze()  # a collection in a child would copy what is shared


def wait_for_commands(connection: socket.socket) -> list[str] | None:
    """Fork a process for each command that comes. Returns in each of them its command line, with everything
    else in place; and None in the parent, when whoever sends commands is gone."""
    while message := (received := socket.recv_fds(connection, LARGEST, 3))[0]:
        arguments, folder, environment = json.loads(message)
        if (between := os.fork()) == 0:
            if child := os.fork():  # which loses its parent here and is adopted
                connection.sendall(str(child).encode())
                os._exit(0)
            connection.close()
            for stream, descriptor in enumerate(received[1]):
                os.dup2(descriptor, stream)
                os.close(descriptor)
            settle(folder, environment)
            subprocess.Popen = _Nested  # type: ignore[misc]
            return list(arguments)
        for descriptor in received[1]:
            os.close(descriptor)
        os.waitpid(between, 0)
        connection.sendall(b"adopted")
    return None


def settle(folder: str, environment: Mapping[str, str]) -> None:
    """Be where a new process would be, with what it would know."""
    given = dict(environment)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(given)
    # The parent's may be of a file in which one can seek; this one is of what has its number now.
    buffering = 1 if os.isatty(1) else -1
    sys.stdout = os.fdopen(1, "w", buffering, sys.stdout.encoding, closefd=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def become(arguments: list[str]) -> NoReturn:
    """Do what Python does with this command line, and end as it does. Only what it has in memory is not taken
    down piece by piece: that would copy all that is shared."""
    code = 1
    try:
        if named := os.environ.get(FIRST):
            module, function = named.split(":")
            getattr(importlib.import_module(module), function)()
        execute(arguments)
        code = 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            code = stop.code or 0
        else:
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):
            code = -signal.SIGINT
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for other threads
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)


def execute(arguments: list[str]) -> None:
    """Run what this command line names."""
    while arguments[0] in SWITCHES:
        arguments = arguments[SWITCHES[arguments[0]] :]
    first, *rest = arguments
    if first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        sys.modules.pop(rest[0], None) if "." in rest[0] else None  # else runpy warns that it is there
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


class _Nested(subprocess.Popen[Any]):
    """What a forked process starts: a command of Python is a copy of itself, while it has one thread."""

    def _execute_child(  # type: ignore[no-untyped-def]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more
    ) -> None:
        *_, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = more[:9]
        alone = len(os.listdir("/proc/self/task")) == 1
        if args[0] != sys.executable or preexec_fn or not alone:
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more)
            return
        sys.stdout.flush()  # what is said already is not to be said twice
        if (pid := os.fork()) == 0:
            try:
                for stream, descriptor in enumerate((p2cread, c2pwrite, errwrite)):
                    if descriptor != -1:
                        os.dup2(descriptor, stream)
                for descriptor in set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2, *pass_fds}:
                    with suppress(OSError):  # that of the list itself
                        os.close(descriptor)
                atexit._clear()  # what is to be done when its parent ends is not for it
                signal.set_wakeup_fd(-1)
                asyncio._set_running_loop(None)  # that of whoever starts it
                settle(cwd or os.getcwd(), env or os.environ)
                become([os.fspath(each) for each in args[1:]])
            finally:
                os._exit(1)
        self.pid = pid
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


if __name__ == "__main__":
    load()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        command = wait_for_commands(connection)
    if command is not None:
        become(command)
