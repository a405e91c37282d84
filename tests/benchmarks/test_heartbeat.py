"""The heartbeat notices when its process stands still."""

import signal
import subprocess
import time

import pytest

from tests.benchmarks.heartbeat import BEAT, heartbeat

pytestmark = pytest.mark.process


def test_a_pause_is_noticed_and_as_long_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __enter__(self) -> "Recorded":
            started.append(self)
            return self

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    with heartbeat() as late:
        time.sleep(4 * BEAT)
        started[0].send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        started[0].send_signal(signal.SIGCONT)
        time.sleep(4 * BEAT)
    assert max(late) >= 500 - 1e3 * BEAT  # a beat was due at the latest so long after it began
