"""What is so of a ranker in Milvus alone: what several processes do to a collection, and what is found there.

What all engines promise is tested in test_engine.py and test_engine_steps.py, in Milvus too.
"""

import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index.codes import hamming
from index.engine import EngineAway
from index.items import UNLABELLED, Changes, CodeTable
from index.milvus_server import Address
from index.remote import RemoteEngine
from tests import milvus
from tests.index.milvus_collections import (
    WIDTH,
    after,
    changes,
    check,
    client,
    in_milvus,
    patient,
    ranker,
    step,
)

ROOT = Path(__file__).parents[2]

# --- what is written ---


@in_milvus
def test_another_process_finds_what_is_there_and_goes_on(place: str) -> None:
    first = RemoteEngine(ranker(place))
    for revision in range(4):
        first.apply(step(revision))
    first.close()
    second = RemoteEngine(ranker(place))
    everything = changes(3, after(4))
    second.apply(everything)
    assert (second.revision, len(second)) == (3, len(after(4)))
    check(second, after(4))
    for revision in range(4, 6):
        second.apply(step(revision))
    check(second, after(6))
    second.close()


@in_milvus
def test_what_another_process_wrote_is_found_from_then_on(place: str) -> None:
    """And what it removed is not: at once, each time, though it has stored nothing since."""
    writes, reads = ranker(place), ranker(place)
    held = {id_: (0, bytes(WIDTH)) for id_ in range(30)}
    writes.write(changes(0, held), -1, patience=60)
    reads.write(changes(0, held), -1, patience=60)
    check(reads, held)
    for revision in range(1, 20):
        gone = changes(revision, {}, (revision,))
        writes.write(gone, -1, patience=60)
        reads.write(gone, -1, patience=60)
        del held[revision]
        check(reads, held)
    del held[25]
    writes.write(changes(20, {}, (25,)), -1, patience=60)
    assert reads.revision() == 20
    check(reads, held)
    third = ranker(place)
    assert third.revision() == 20
    check(third, held)


WRITER = """
import sys
from tests.index.milvus_collections import ranker, step
ours = ranker(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for revision in range(int(sys.argv[2])):
    ours.write(step(revision), -1, patience=60)
"""


@in_milvus
def test_two_processes_may_write_the_same_at_the_same_time(place: str) -> None:
    steps = 12
    ranker(place).close()
    command = [sys.executable, "-W", "ignore", "-c", WRITER, place, str(steps)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT, "text": True}
    writers = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        with writer:
            assert writer.wait() == 0
    ours = ranker(place)
    assert ours.revision() == steps - 1
    check(ours, after(steps))
    ours.write(step(2), -1, patience=60)  # an old one does nothing
    check(ours, after(steps))
    assert ours.revision() == steps - 1


@in_milvus
def test_one_that_comes_late_with_old_changes_mends_them(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = ranker(place), ranker(place)
    for each in (slow, fast):
        each.write(step(0), -1, patience=60)
    store = slow._store

    def late(table: CodeTable) -> None:
        monkeypatch.setattr(slow, "_store", store)
        for revision in range(1, 4):
            fast.write(step(revision), -1, patience=60)
        store(table)

    monkeypatch.setattr(slow, "_store", late)
    slow.write(step(1), -1, patience=60)
    for revision in range(2, 4):
        slow.write(step(revision), -1, patience=60)
    assert slow.revision() == fast.revision() == 3
    for each in (slow, fast):
        each.write(step(3), -1, patience=60)
        check(each, after(4))


@in_milvus
def test_what_broke_off_is_written_again(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ranker(place)
    ours.write(step(0), -1, patience=60)
    note, notes = ours._note, list[int]()

    def fail(row: int) -> None:
        notes.append(row)
        if len(notes) == 2:
            raise EngineAway("gone")
        note(row)

    monkeypatch.setattr(ours, "_note", fail)
    with pytest.raises(EngineAway, match="gone"):
        ours.write(step(1), -1, patience=60)
    assert ranker(place).revision() == 0
    ours.write(step(1), -1, patience=60)
    assert ours.revision() == 1
    check(ours, after(2))


@in_milvus
def test_killed_and_started_again_it_has_all_that_was_written(mortal_milvus: milvus.Server) -> None:
    url, steps, rng = mortal_milvus.new_collection(), 24, random.Random(0)
    ours = RemoteEngine(ranker(url))
    written, goes_on = threading.Semaphore(0), threading.Event()

    def write() -> None:
        try:
            for revision in range(steps):
                patient(lambda revision=revision: ours.apply(step(revision)))
                written.release()
        finally:
            written.release(steps)

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        for _ in range(4):
            for _ in range(rng.randrange(2, 5)):
                written.acquire()
            goes_on.wait(rng.random() / 2)  # wherever it is in what comes next
            mortal_milvus.kill()
            mortal_milvus.start()
        writing.result()
    patient(lambda: check(ours, after(steps)))
    ours.close()
    mortal_milvus.kill()
    mortal_milvus.start()
    again = patient(lambda: ranker(url))
    assert patient(again.revision) == steps - 1
    check(again, after(steps))
    again.close()


# --- what is found ---


@in_milvus
def test_ties_of_more_than_milvus_names_at_a_time(place: str) -> None:
    n = 20_000
    rng = np.random.default_rng(0)
    ids = rng.permutation(3 * n)[:n].astype(np.int64)
    codes = np.zeros((n, WIDTH), np.uint8)
    codes[:5, 0] = 255  # further than the others
    ours, query = ranker(place), np.ones((1, WIDTH), np.uint8)
    labels = np.arange(n) % 3
    ours.write(Changes(0, CodeTable(ids, labels, codes), np.empty(0, np.int64), ()), -1, patience=60)
    ties, far = np.sort(ids[5:]), np.sort(ids[:5])
    all_ = [*ties.tolist(), *far.tolist()]
    of = dict(zip(ids.tolist(), labels.tolist(), strict=True))
    for k in (1, 10, 10_000, n + 7):
        assert ours.nearest(query, k, None)[1][0].tolist() == all_[:k]
        assert ours.nearest(query, k, [1])[1][0].tolist() == [id_ for id_ in all_ if of[id_] == 1][:k]
    distances, found = ours.nearest(query, n + 7, None)
    assert distances[0].tolist() == [4] * (n - 5) + [10] * 5
    ((distances, found),) = ours.within(query, 4, None)
    assert (found.tolist(), set(distances.tolist())) == (ties.tolist(), {4})
    assert ours.count(query.repeat(3, 0), np.array([3, 4, 32], np.int32), None).tolist() == [0, n - 5, n]


@in_milvus
def test_it_is_exact_also_once_milvus_has_closed_and_indexed_what_it_has(place: str) -> None:
    """Items that changed and went since lie over those that are closed."""
    rng = np.random.default_rng(0)
    n, name = 4000, Address.of(place).collection
    codes, labels = rng.choice(np.array([0, 1, 3, 129], np.uint8), (n, WIDTH)), rng.integers(-1, 3, n)
    ids, none = np.arange(n), np.empty(0, np.int64)
    ours = ranker(place)
    ours.write(Changes(0, CodeTable(ids, labels, codes), none, ()), -1, patience=60)
    connection = client(place)._get_connection()
    connection.flush([name], timeout=60)
    while not (found := connection.get_index_build_progress(name, "code", timeout=10))["total_rows"] or (
        found["indexed_rows"] < found["total_rows"]
    ):
        time.sleep(0.1)  # nobody tells when it is
    some = rng.choice(n, 800, replace=False)
    gone, other = some[:400], some[400:]
    codes[other] = rng.choice(np.array([0, 1, 3, 129], np.uint8), (400, WIDTH))
    ours.write(Changes(1, CodeTable(other, labels[other], codes[other]), np.sort(gone), ()), -1, patience=60)
    queries = codes[rng.integers(0, n, 20)]
    for wanted in (None, [2], [UNLABELLED, 0]):
        kept = np.setdiff1d(ids if wanted is None else ids[np.isin(labels, wanted)], gone)
        for row, distances in enumerate(hamming(queries, codes[kept])):
            order = np.lexsort((kept, distances))
            for k in (5, 500):
                found_distances, found_ids = ours.nearest(queries[row : row + 1], k, wanted)
                assert found_ids[0].tolist() == kept[order][:k].tolist()
                assert found_distances[0].tolist() == distances[order][:k].tolist()
        assert ours.count(queries, np.full(20, 32, np.int32), wanted).tolist() == [len(kept)] * 20
    ours.close()


@in_milvus
def test_as_many_labels_as_one_likes(place: str) -> None:
    ours = ranker(place)
    ours.write(changes(0, {id_: (id_, bytes(WIDTH)) for id_ in range(50)}), -1, patience=60)
    for labels in ([*range(10, 20_000)], range(10, 20), {np.int64(10)}, (10,)):
        _, ids = ours.nearest(np.zeros((1, WIDTH), np.uint8), 100, labels)
        assert ids[0].tolist() == [id_ for id_ in range(50) if id_ in labels]


@in_milvus
def test_cells_are_not_exact_and_miss_nothing_among_few(place: str) -> None:
    ours = ranker(place + "?index=BIN_IVF_FLAT&nlist=16&nprobe=1")
    assert not ours.exact
    for revision in range(3):
        ours.write(step(revision), -1, patience=60)
    check(ours, after(3))
    again = ranker(place + "?index=BIN_IVF_FLAT&nlist=16&nprobe=2")
    assert again.revision() == 2
    again.drop()
    again.close()


NOISE = """
import sys
from index.engine import EngineError
from tests.index.milvus_collections import ranker
ours = ranker(sys.argv[1])
try:
    ours._ask(lambda client: client.search("no_such_collection", [bytes(4)], limit=3, timeout=5))
except EngineError as error:
    print(error)
"""


@in_milvus
def test_an_error_is_told_once(place: str) -> None:
    """The client would write it to standard error too."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NOISE, place],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "somebody dropped it" in done.stdout
    assert done.stderr == ""
