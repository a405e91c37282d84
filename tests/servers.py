"""Programs of others that tests start: until they answer, and what they say then."""

import threading
from collections import deque
from typing import IO

LAST = 20  # lines that are told of one that does not come to answer


def when_it_says(ready: bytes, said: IO[bytes]) -> threading.Thread:
    """Wait until a program says so; what reads on from then, and ends with the program. RuntimeError, with
    its last lines, where it ends before."""
    last = deque[bytes](maxlen=LAST)
    for line in said:
        last.append(line)
        if ready in line:
            reading = threading.Thread(target=_read_on, args=[said])
            reading.start()
            return reading
    raise RuntimeError(b"".join(last).decode())


def _read_on(said: IO[bytes]) -> None:
    with said:
        for _ in said:
            pass
