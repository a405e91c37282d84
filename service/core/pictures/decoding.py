"""Images are decoded in processes of their own: one that crashes or never ends costs one request.

The server sends a worker the bytes of a file over a socket and gets pixels back, as plain bytes: nothing is
unpickled. Workers are forked from the nursery, a process that has loaded what they need: that takes
milliseconds, shares its memory, and never forks the server with its threads and open files. All of them end
when the server's ends of the sockets close, whatever closed them.
"""

import atexit
import gc
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from queue import LifoQueue
from struct import Struct
from typing import NoReturn, Protocol

import numpy as np
import torch
from PIL import AvifImagePlugin, Image
from torch import Tensor

from training.nets.images import (
    AS_SHOWN,
    OUT_OF_MEMORY,
    BrokenImage,
    ImageError,
    NotAnImage,
    Reading,
    TooManyPixels,
    TooMuchMemory,
    open_image,
    picture_hashes,
    square_pixels,
)
from training.nets.images import thumbnail as thumbnail_of
from training.nets.pdq import Hashes

LONGEST_TEXT = 2_000  # bytes of an error message
LARGEST_THUMBNAIL = 8_000_000  # bytes, far more than one has
ORPHANED = 2.0  # seconds beyond its time after which a worker that nobody stops ends by itself
LOADING = 60.0  # seconds for the first nursery of a service to load, which a busy machine may need
NURSING = 3.0  # seconds for a nursery to answer, and to wait for one that takes the place of another

# To the nursery: the worker to end, or 0 to fork one; its memory in bytes, its seconds.
ORDER = Struct("<iqd")
# From it: the new worker's process id, or the status with which one ended.
DONE = Struct("<i")
# To a worker: bytes of the file, pixels allowed, pixels of a side, the thumbnail's, the two of Reading.
TASK = Struct("<QQHH?B")
# From it: 0 or which error, width, height; bytes of pixels, hashes and thumbnail, or of text.
RESULT = Struct("<BIII")
ERRORS: tuple[type[ImageError], ...] = (NotAnImage, BrokenImage, TooManyPixels, TooMuchMemory)

# glibc's: one thread needs one arena; what a large image took goes back to the system when it is done with,
# in large pages, because small ones would take as long as decoding does.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**24),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

# What comes with a thumbnail: the eight hashes, the quality.
HASHES = Struct("<256sB")
NO_PIXELS = torch.empty(3, 0, 0, dtype=torch.uint8)
NOT_IN_TIME = "the process that starts them does not answer in time"

log = logging.getLogger("hebbsearch")


class TooSlow(ImageError):
    """The image took longer than the limit."""


class Crashed(ImageError):
    """The image ended the process that decoded it."""


class NoDecoder(Exception):
    """No process can decode an image now; that is no fault of the image."""


@dataclass(frozen=True)
class Decoded:
    """What is needed of an image."""

    pixels: Tensor  # uint8 (3, S, S)
    width: int  # of the upright image
    height: int
    thumbnail: bytes  # none unless it was asked for
    hashes: Hashes | None = None  # of all of it, with a thumbnail


class Decode(Protocol):
    """From the bytes of a file to what is needed of it: its centre square with a side of `size` pixels, and
    all of it as a WebP with sides of at most `thumbnail` pixels, and what all of it is recognised by; 0: none
    of it. Raises ImageError."""

    def __call__(
        self,
        content: bytes,
        *,
        size: int,
        max_pixels: int,
        reading: Reading = AS_SHOWN,
        thumbnail: int = 0,
    ) -> Decoded: ...


def decode(
    content: bytes, *, size: int, max_pixels: int, reading: Reading = AS_SHOWN, thumbnail: int = 0
) -> Decoded:
    """Within this process, as the workers do it."""
    image = open_image(content, max_pixels=max_pixels, reading=reading)
    try:
        pixels = square_pixels(image, size) if size else NO_PIXELS
        webp = thumbnail_of(image, thumbnail) if thumbnail else b""
        hashes = picture_hashes(image) if thumbnail else None
    except (MemoryError, RuntimeError):  # torch's where it gets no memory
        raise TooMuchMemory(OUT_OF_MEMORY) from None
    return Decoded(pixels, image.width, image.height, webp, hashes)


# --- the server's side -----------------------------------------------------------------------------


class Pool:
    """At most `workers` processes, each started when it is first needed, that take the place of `decode`.

    `seconds` and `memory` (bytes beyond what an idle worker has) are the limits for one image. While one
    after the other takes too long, the seconds become fewer, down to `least`: whoever waits for a good image
    behind many bad ones waits less. Blocks, and may be called from many threads at a time, no more than there
    are workers: a thread waits until one is idle.
    """

    def __init__(self, workers: int, *, seconds: float, memory: int, least: float | None = None) -> None:
        self._workers = workers
        self._seconds = self._patience = seconds
        self._least = seconds if least is None else least
        self._memory = memory
        # The last used first: under little load few are started. None: yet to be started, or to be again.
        self._idle: LifoQueue[_Worker | None] = LifoQueue()
        for _ in range(workers):
            self._idle.put(None)

    def decode(
        self,
        content: bytes,
        *,
        size: int,
        max_pixels: int,
        reading: Reading = AS_SHOWN,
        thumbnail: int = 0,
    ) -> Decoded:
        """`decode` in a worker. Raises also TooSlow and Crashed, after which the worker is another, and
        NoDecoder where none can be started."""
        worker = self._idle.get()
        try:
            if worker is not None and worker.ended():  # while it was idle: no fault of this image
                worker.end()
                worker = None
            if worker is None:
                worker = self._started()
            patience = self._patience
            try:
                task = TASK.pack(
                    len(content), max_pixels, size, thumbnail, reading.as_shown, reading.grey_bits
                )
                kind, width, height, body = worker.ask(task, content, size, patience)
            except BaseException as error:  # whatever it was, the worker may still be at it
                status, worker = worker.end(), None
                if isinstance(error, (OSError, EOFError)):
                    raise self._explained(error, status, patience) from None
                raise
            self._patience = min(2 * patience, self._seconds)
        finally:
            self._idle.put(worker)
        if kind:
            raise ERRORS[min(kind, len(ERRORS)) - 1](body.decode(errors="replace"))
        return _decoded(body, size, width, height)

    def pids(self) -> list[int]:
        """The process ids of the workers that are idle."""
        return [worker.pid for worker in tuple(self._idle.queue) if worker is not None]

    def close(self) -> None:
        """End the workers, each when it has done what it does. Who still comes gets a new one."""
        for worker in [self._idle.get() for _ in range(self._workers)]:
            if worker is not None:
                worker.end()
            self._idle.put(None)

    def _started(self) -> "_Worker":
        try:
            return _Worker(seconds=self._seconds, memory=self._memory)
        except OSError as error:
            log.warning("no process that decodes can be started: %s", error)
            raise NoDecoder(
                f"no process that decodes can be started ({error}); try again in a second"
            ) from None

    def _explained(self, error: OSError | EOFError, status: int, patience: float) -> ImageError:
        if isinstance(error, TimeoutError):
            self._patience = max(patience / 2, self._least)
            log.warning("an image took longer than %g seconds; its decoder is stopped", patience)
            return TooSlow(
                f"decoding the image took longer than {patience:g} seconds, the limit; save it smaller, "
                "or anew as PNG"
            )
        end = _in_words(status)
        log.warning("an image ended its decoder with %s", end)
        return Crashed(f"the image's decoder crashed ({end}); save the image anew as PNG or JPEG")


class _Worker:
    """The server's end of one."""

    def __init__(self, *, seconds: float, memory: int) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._end, self.pid = _fork(theirs, seconds=seconds, memory=memory)
            except BaseException:
                self._socket.close()
                raise

    def ask(self, task: bytes, content: bytes, size: int, seconds: float) -> tuple[int, int, int, bytearray]:
        """The kind of the result, width, height, and what follows. TimeoutError, OSError or EOFError where
        there is none."""
        deadline = time.monotonic() + seconds
        self._socket.settimeout(seconds)
        self._socket.sendall(task)
        self._socket.sendall(content)
        kind, width, height, length = RESULT.unpack(_exactly(self._socket, RESULT.size, deadline))
        pixels = 3 * size**2
        if not (0 if kind else pixels) <= length <= pixels + LARGEST_THUMBNAIL:
            raise EOFError(f"no result has {length} bytes")
        return kind, width, height, _exactly(self._socket, length, deadline)

    def ended(self) -> bool:
        """Whether it is gone, though nobody asked it anything."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True  # its end, or something that nobody asked for

    def end(self) -> int:
        """End it, whatever it does; the status with which it ended."""
        self._socket.close()
        return self._end()


class _Nursery:
    """The process from which the workers are forked. Who asks it gets a TimeoutError after `loading` seconds
    while it loads, after NURSING when it has."""

    def __init__(self, loading: float) -> None:
        self._asking = threading.Lock()
        self._loading = loading
        self._latest = time.monotonic() + LOADING
        self._loaded = False
        self._stuck = False
        self._socket, theirs = socket.socketpair()
        start = f"from service.core.pictures.decoding import nurse; nurse({theirs.fileno()})"
        code = f"import sys; sys.path = {sys.path!r}; {start}"
        # Of one thread each: a process with more must not be forked, and there are many workers.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | single | MALLOC,
            )

    def fork(self, end: socket.socket, *, seconds: float, memory: int) -> int:
        """A worker at this end of a socket; its process id. Raises OSError where the nursery is gone."""
        return self._ask(ORDER.pack(0, memory, seconds), [end.fileno()])

    def end(self, pid: int) -> int:
        """End a worker; the status with which it ended. It cannot be another process: until here nobody has
        taken note of its end, so that its id is its own. Raises OSError where the nursery is gone."""
        return self._ask(ORDER.pack(pid, 0, 0.0), [])

    def is_stuck(self) -> bool:
        """Whether it has not answered in time, or has not loaded in LOADING seconds."""
        return self._stuck or not (self._loaded or time.monotonic() < self._latest)

    def close(self) -> None:
        """It may still be loading. Workers end with their sockets."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, order: bytes, ends: list[int]) -> int:
        patience = NURSING if self._loaded else self._loading
        if not self._asking.acquire(timeout=patience):
            raise TimeoutError(NOT_IN_TIME)
        try:
            answer = self._answer(order, ends, time.monotonic() + patience)
        except EOFError:
            raise ConnectionError("the process that starts decoders has ended") from None
        finally:
            self._asking.release()
        if answer < 0:
            raise OSError(-answer, os.strerror(-answer))
        return answer

    def _answer(self, order: bytes, ends: list[int], deadline: float) -> int:
        if self._stuck:  # what comes from it would be the answer to another order
            raise TimeoutError(NOT_IN_TIME)
        try:
            if not self._loaded:
                _exactly(self._socket, DONE.size, deadline)
                self._loaded = True
                deadline = time.monotonic() + NURSING
            self._socket.settimeout(NURSING)
            socket.send_fds(self._socket, [order], ends)
            (answer,) = DONE.unpack(_exactly(self._socket, DONE.size, deadline))
        except TimeoutError:
            self._stuck = self._loaded
            raise TimeoutError(NOT_IN_TIME) from None
        return int(answer)


_nursery: _Nursery | None = None  # one a process: it takes as long to start as torch to load
_starting = threading.Lock()


def prepare() -> None:
    """Start what the first worker would wait for; it goes on by itself."""
    _the_nursery()


def _the_nursery(*, instead_of: _Nursery | None = None) -> _Nursery:
    global _nursery
    with _starting:
        if _nursery is None or _nursery is instead_of:
            _stop()
            _nursery = _Nursery(LOADING if instead_of is None else NURSING)
        return _nursery


@atexit.register
def _stop() -> None:
    global _nursery
    if _nursery is not None:
        _nursery.close()
        _nursery = None


def _fork(end: socket.socket, *, seconds: float, memory: int) -> tuple[Callable[[], int], int]:
    """What ends the new worker at this end of a socket, and its process id."""
    nursery = _the_nursery()
    try:
        pid = nursery.fork(end, seconds=seconds, memory=memory)
    except TimeoutError:
        _replace_if_stuck(nursery)
        raise
    except (ConnectionError, BrokenPipeError):
        nursery = _the_nursery(instead_of=nursery)
        pid = nursery.fork(end, seconds=seconds, memory=memory)
    return partial(_end_with, nursery, pid), pid


def _end_with(nursery: _Nursery, pid: int) -> int:
    try:
        return nursery.end(pid)
    except OSError:  # the nursery is gone, or stuck: the worker ends with its socket, or in time
        _replace_if_stuck(nursery)
        return 0


def _replace_if_stuck(nursery: _Nursery) -> None:
    if nursery.is_stuck():
        log.warning("the process that starts decoders does not answer; it is replaced")
        _the_nursery(instead_of=nursery)  # loads while others are told to come again


def _decoded(body: bytearray, size: int, width: int, height: int) -> Decoded:
    count = 3 * size**2
    pixels = torch.frombuffer(body, dtype=torch.uint8, count=count).view(3, size, size) if size else NO_PIXELS
    if len(body) == count:
        return Decoded(pixels, width, height, b"")
    eight, quality = HASHES.unpack_from(body, count)
    hashes = Hashes(np.frombuffer(eight, np.uint8).reshape(8, -1), quality)
    return Decoded(pixels, width, height, bytes(body[count + HASHES.size :]), hashes)


def _in_words(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"status {os.WEXITSTATUS(status)}"


def _exactly(connection: socket.socket, count: int, deadline: float | None = None) -> bytearray:
    """The next so many bytes. Raises EOFError at the end, TimeoutError beyond the deadline."""
    data = bytearray(count)
    rest = memoryview(data)
    while rest:
        if deadline is not None:
            connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        got = connection.recv_into(rest)
        if not got:
            raise EOFError
        rest = rest[got:]
    return data


# --- the nursery's and the workers' side -----------------------------------------------------------


def nurse(descriptor: int) -> None:
    """Fork and end workers as the server at the other end of this socket says, until it is gone."""
    for each in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which may have work to finish
        signal.signal(each, signal.SIG_IGN)
    logging.disable()  # what is wrong with an image is answered
    torch.set_num_threads(1)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    _rehearse()
    gc.collect()
    gc.freeze()  # a collection in a worker would copy what is shared
    workers = set[int]()
    with socket.socket(fileno=descriptor) as server:
        with suppress(OSError):
            server.sendall(DONE.pack(0))  # it has loaded
            while (asked := socket.recv_fds(server, ORDER.size, 1))[0]:
                pid, memory, seconds = ORDER.unpack(asked[0])
                if pid:
                    workers.discard(pid)
                    server.sendall(DONE.pack(_end(pid)))
                    continue
                (end,) = asked[1]
                try:
                    pid = os.fork()
                except OSError as error:
                    server.sendall(DONE.pack(-(error.errno or 1)))
                    os.close(end)
                    continue
                if pid == 0:
                    server.close()
                    _work(end, seconds=seconds, memory=memory)
                os.close(end)
                workers.add(pid)
                server.sendall(DONE.pack(pid))
        for pid in workers:
            _end(pid)


def _end(pid: int) -> int:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _rehearse() -> None:
    """Load what decoding loads, once for all workers."""
    Image.init()
    for format in ("PNG", "JPEG", "WEBP"):
        file = BytesIO()
        Image.new("RGB", (9, 9)).save(file, format)
        decode(file.getvalue(), size=8, max_pixels=81, thumbnail=8)


def _work(descriptor: int, *, seconds: float, memory: int) -> NoReturn:
    """Decode what comes until the server is gone. Never returns, whatever happens."""
    try:
        _limit(memory)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        server = socket.socket(fileno=descriptor)
        while True:
            length, max_pixels, size, thumbnail, *rule = TASK.unpack(_exactly(server, TASK.size))
            content = bytes(_exactly(server, length))
            signal.setitimer(signal.ITIMER_REAL, seconds + ORPHANED)
            answer = _answer(content, size, max_pixels, Reading(*rule), thumbnail)
            signal.setitimer(signal.ITIMER_REAL, 0)
            server.sendall(answer)
            gc.collect()  # Pillow's images may hold each other; sees only what is new, while nobody waits
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)


def _answer(content: bytes, size: int, max_pixels: int, reading: Reading, thumbnail: int) -> bytes:
    try:
        made = decode(content, size=size, max_pixels=max_pixels, reading=reading, thumbnail=thumbnail)
    except ImageError as error:
        text = str(error).encode()[:LONGEST_TEXT]
        return RESULT.pack(1 + ERRORS.index(type(error)), 0, 0, len(text)) + text
    hashes = b"" if made.hashes is None else HASHES.pack(made.hashes.hashes.tobytes(), made.hashes.quality)
    body = made.pixels.numpy().tobytes() + hashes + made.thumbnail
    return RESULT.pack(0, made.width, made.height, len(body)) + body


def _limit(memory: int) -> None:
    """No more memory than this beyond what there is, no dump of it, and the first to go where it is short."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # Linux only
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = used + memory if most == resource.RLIM_INFINITY else min(used + memory, most)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, most))
        Path("/proc/self/oom_score_adj").write_text("1000")
