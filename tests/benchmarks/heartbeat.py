"""How long the machine itself stood still: a process that only waits, and how late it wakes.

A virtual machine or its disk may stop for seconds. Latencies measured on it then say nothing about what was
measured, unless someone beside it has noticed.
"""

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

BEAT = 0.05  # seconds


@contextmanager
def heartbeat() -> Iterator[list[float]]:
    """Milliseconds by which each beat came too late, known at the end."""
    command = [sys.executable, "-I", __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # it has begun
        late: list[float] = []
        try:
            yield late
        finally:
            late += json.loads(process.communicate()[0])


def beat() -> list[float]:
    """Milliseconds too late, of each beat until the standard input ends."""
    print(flush=True)
    late, begin = list[float](), time.perf_counter()
    while not select.select([sys.stdin], [], [], BEAT)[0]:
        now = time.perf_counter()
        late.append(1e3 * (now - begin - BEAT))
        begin = now
    return late


if __name__ == "__main__":
    json.dump(beat(), sys.stdout)
