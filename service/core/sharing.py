"""Cores and results, shared by those who ask at the same time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

T = TypeVar("T")

CORES = torch.get_num_threads()
RESULTS = 64  # that are kept: whoever asks for every k must not fill the memory


class Sharing:
    """Divides the machine's cores among those who compute at the same time.

    A team of threads for each would have more threads than cores, and wait for the slowest again and again.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._busy = 0
        self._lock = threading.Lock()

    @contextmanager
    def share(self) -> Iterator[int]:
        """How many cores one may use within; at least one."""
        with self._lock:
            self._busy += 1
            cores = max(1, self._cores // self._busy)
        try:
            yield cores
        finally:
            with self._lock:
                self._busy -= 1


@dataclass
class _Result:
    lock: threading.Lock = field(default_factory=threading.Lock)
    revision: int = -1
    value: Any = None


class Remembered:
    """The latest result of each question, of the RESULTS that were asked for last."""

    def __init__(self) -> None:
        self._results: OrderedDict[Hashable, _Result] = OrderedDict()
        self._lock = threading.Lock()

    def once(self, what: Hashable, revision: int, make: Callable[[], T]) -> T:
        """What `make` makes at this revision or makes or made at a later one. Who asks for the same meanwhile
        waits for it; where it fails, the next one tries again."""
        with self._lock:
            result = self._results.setdefault(what, _Result())
            self._results.move_to_end(what)
            if len(self._results) > RESULTS:
                self._results.popitem(last=False)
        with result.lock:
            if result.revision < revision:
                result.value = make()
                result.revision = revision
            value: T = result.value
            return value
