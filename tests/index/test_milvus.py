"""What is so of a ranker in Milvus alone: how it is reached, what others do to it, and what can be wrong.

What all engines promise is tested in test_engine.py and test_engine_steps.py, in Milvus too.
"""

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from index import milvus_server
from index.codes import hamming
from index.engine import EngineAway, EngineError
from index.items import UNLABELLED, Changes, CodeTable
from index.milvus import MilvusRanker
from index.milvus_server import Address
from index.remote import RemoteEngine
from tests import milvus

ROOT = Path(__file__).parents[2]
WIDTH = 4
Items = dict[int, tuple[int, bytes]]  # label and code by id
T = TypeVar("T")


def in_milvus(test: Callable[..., None]) -> Callable[..., None]:
    for mark in milvus.CLUSTER:
        test = mark(test)
    return test


def changes(revision: int, items: Items, removed: tuple[int, ...] = ()) -> Changes:
    codes = np.frombuffer(b"".join(code for _, code in items.values()), np.uint8).reshape(-1, WIDTH)
    labels = np.array([label for label, _ in items.values()], np.int64)
    table = CodeTable(np.array([*items], np.int64), labels, codes)
    return Changes(revision, table, np.array(removed, np.int64), ("a", "b"))


def drawn(rng: random.Random, count: int, ids: int = 60) -> Items:
    """Items of few ids and codes."""
    return {
        rng.randrange(ids): (rng.randrange(-1, 3), bytes(rng.choice([0, 1, 7]) for _ in range(WIDTH)))
        for _ in range(count)
    }


def step(revision: int) -> Changes:
    """What is the same in all processes: items that come or change, and others that go."""
    rng = random.Random(revision)
    return changes(revision, drawn(rng, 12), tuple(rng.sample(range(60), 4)))


def after(steps: int) -> Items:
    """What there should be after as many of them."""
    held: Items = {}
    for each in map(step, range(steps)):
        held = {id_: item for id_, item in held.items() if id_ not in each.removed}
        table = each.table
        held |= {
            id_: (label, code.tobytes())
            for id_, label, code in zip(table.ids.tolist(), table.labels.tolist(), table.codes, strict=True)
        }
    return held


def check(ranker: MilvusRanker | RemoteEngine, held: Items) -> None:
    """Everything is there, with its code and its label, and nothing else."""
    query = np.frombuffer(bytes([0, 1, 7, 1]), np.uint8)[None]
    for labels in (None, [UNLABELLED, 1], [0]):
        allowed = {id_: code for id_, (label, code) in held.items() if labels is None or label in labels}
        codes = np.frombuffer(b"".join(allowed.values()), np.uint8).reshape(-1, WIDTH)
        wanted = sorted(zip(hamming(query, codes)[0].tolist(), allowed, strict=True))
        if isinstance(ranker, RemoteEngine):
            distances, ids = ranker.search(query, 1000, labels=labels)
        else:
            distances, ids = ranker.nearest(query, 1000, labels)
        assert list(zip(distances[0].tolist(), ids[0].tolist(), strict=True)) == wanted


@pytest.fixture
def place(milvus_server: milvus.Server) -> Iterator[str]:
    """A collection's URL, which goes with the test."""
    url = milvus_server.new_collection()
    yield url
    ranker = MilvusRanker(url, bits=8 * WIDTH, encoder_id="00ff") if exists(url) else None
    if ranker is not None:
        ranker.drop()
        ranker.close()


def client(url: str) -> object:
    from pymilvus import MilvusClient

    address = Address.of(url)
    return MilvusClient(uri=address.uri, timeout=5)


def exists(url: str) -> bool:
    return client(url).has_collection(Address.of(url).collection)  # type: ignore[attr-defined]


def ranker(url: str, bits: int = 8 * WIDTH, encoder_id: str = "00ff") -> MilvusRanker:
    return MilvusRanker(url, bits=bits, encoder_id=encoder_id)


@pytest.fixture
def mortal_milvus(monkeypatch: pytest.MonkeyPatch) -> Iterator[milvus.Server]:
    """One of the test alone, which may be killed, and is looked for often."""
    monkeypatch.setattr(milvus_server, "RETRY", 0.1)
    with milvus.server() as started:
        yield started


@pytest.fixture
def away() -> Iterator[str]:
    """The address of nobody."""
    with socket.socket() as taken:  # and nobody listens there
        taken.bind(("127.0.0.1", 0))
        yield f"milvus+http://me:secret@127.0.0.1:{taken.getsockname()[1]}/name"


# --- the server of the tests ---


def listening(process: str) -> dict[int, str]:
    """The sockets that listen in the network of a process: address and port, as the kernel writes them, by
    inode."""
    found = dict[int, str]()
    for version in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{version}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A":
                found[int(rest[5])] = local
    return found


def group(leader: int) -> list[int]:
    """The processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == leader:
                found.append(int(path.name))
        except ProcessLookupError:
            pass
    return found


@in_milvus
def test_the_server_of_the_tests_listens_on_one_port_of_this_machine_alone(
    milvus_server: milvus.Server,
) -> None:
    processes = group(milvus_server.pid)
    held = set[int]()
    for process in processes:
        links = (os.readlink(each) for each in Path(f"/proc/{process}/fd").iterdir())
        held |= {int(link[8:-1]) for link in links if link.startswith("socket:[")}
    outside = [local for inode, local in listening("self").items() if inode in held]
    assert outside == [f"0100007F:{milvus_server.port:04X}"]
    inside = [local for inode, local in listening(str(processes[-1])).items() if inode in held]
    assert len(inside) > 5, "which is why it has a network of its own"
    devices = Path(f"/proc/{processes[-1]}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]


# --- how it is reached ---


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("milvus+http://host:19530/name", "milvus+http://host:19530/name"),
        ("milvus+http://me:secret@host/Name_2", "milvus+http://host:19530/Name_2"),
        ("milvus+https://to%3Aken@host/a?index=BIN_FLAT", "milvus+https://host:443/a"),
        ("milvus+http://[::1]:2/a?index=BIN_IVF_FLAT&nlist=9&nprobe=3", "milvus+http://[::1]:2/a"),
    ],
)
def test_an_address_is_shown_without_its_secret(url: str, shown: str) -> None:
    assert Address.of(url).shown == shown


def test_of_an_address_user_and_password_or_a_token_are_read() -> None:
    assert Address.of("milvus+http://me:s%2Fcret@host/a").token == "me:s/cret"
    assert Address.of("milvus+http://token@host/a").token == "token"
    assert Address.of("milvus+http://host/a").token == ""
    cells = Address.of("milvus+http://host/a?index=BIN_IVF_FLAT&nprobe=7")
    assert (cells.index, cells.nlist, cells.nprobe) == ("BIN_IVF_FLAT", 1024, 7)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://me:secret@host/a", r"no URL of Milvus; wanted such as milvus\+http://host:19530/name"),
        ("milvus+http://me:secret@host:port/a", "no URL of Milvus"),
        ("milvus+http://me:secret@/a", "no URL of Milvus"),
        ("milvus+http://me:secret@host", "its collection is ''; wanted letters, digits and _"),
        ("milvus+http://me:secret@host/2a", "its collection is '2a'"),
        ("milvus+http://me:secret@host/a/b", "its collection is 'a/b'"),
        ("milvus+http://me:secret@host/a?index=HNSW", "takes index=BIN_FLAT, or index=BIN_IVF_FLAT"),
        ("milvus+http://me:secret@host/a?nlist=3", "found index=BIN_FLAT with nlist"),
        ("milvus+http://me:secret@host/a?index=BIN_IVF_FLAT&nlist=x", "1 <= nprobe <= nlist"),
        ("milvus+http://me:secret@host/a?index=BIN_IVF_FLAT&nlist=3&nprobe=4", "1 <= nprobe <= nlist"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_secret(url: str, message: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        Address.of(url)
    assert "secret" not in str(caught.value)


def test_it_says_which_package_it_needs(away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(EngineError, match=r"needs the package pymilvus .*'hebbsearch\[milvus\]'") as caught:
        ranker(away)
    assert not isinstance(caught.value, EngineAway)
    assert "secret" not in str(caught.value)


@pytest.mark.cluster
def test_the_client_has_each_call_that_is_made(installed: None) -> None:
    """Of whatever version: against a new one, run it in an environment that has it."""
    import inspect

    from pymilvus import DataType, MilvusClient

    assert {"INT64", "BINARY_VECTOR"} <= set(DataType.__members__)
    made = {
        "__init__": "uri token timeout dedicated",
        "close": "",
        "create_collection": "collection_name schema timeout",
        "create_index": "collection_name index_params timeout",
        "create_partition": "collection_name partition_name timeout",
        "delete": "collection_name filter timeout",
        "describe_collection": "collection_name timeout",
        "describe_index": "collection_name index_name timeout",
        "drop_collection": "collection_name timeout",
        "has_collection": "collection_name timeout",
        "has_partition": "collection_name partition_name timeout",
        "list_indexes": "collection_name field_name timeout",
        "load_collection": "collection_name timeout",
        "query": "collection_name filter output_fields partition_names consistency_level timeout",
        "search": "collection_name data filter limit search_params partition_names anns_field "
        "consistency_level timeout",
        "upsert": "collection_name data partition_name timeout",
    }
    for name, words in made.items():
        signature = inspect.signature(getattr(MilvusClient, name))
        signature.bind(None, **dict.fromkeys(words.split()))
        first = [each for each in signature.parameters if each != "self"][: name not in ("__init__", "close")]
        assert first in ([], ["collection_name"]), name  # which is given by its place
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description="a")
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("code", DataType.BINARY_VECTOR, dim=16)
    assert schema.description == "a"
    index = MilvusClient.prepare_index_params()
    index.add_index("code", index_type="BIN_FLAT", index_name="code", metric_type="HAMMING", params={})


@pytest.fixture
def installed() -> None:
    if milvus.programs() is None and milvus.find_spec("pymilvus") is None:
        pytest.skip("pymilvus is not installed; make test-cluster does it")


@in_milvus
def test_a_collection_of_others_is_left_as_it_is(place: str) -> None:
    name = Address.of(place).collection
    raw = client(place)
    raw.create_collection(name, dimension=8, timeout=10)  # type: ignore[attr-defined]
    before = raw.describe_collection(name)  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match=f"/{name}: is no collection of hebbsearch; name another one"):
        ranker(place)
    assert raw.describe_collection(name) == before  # type: ignore[attr-defined]
    raw.drop_collection(name)  # type: ignore[attr-defined]


@in_milvus
def test_other_codes_another_encoder_and_another_index_are_refused(place: str) -> None:
    first = ranker(place)
    first.write(step(0))
    with pytest.raises(EngineError, match="has codes of 32 bits, and the catalogue of 64; name another"):
        ranker(place, bits=64)
    with pytest.raises(EngineError, match="is of encoder 00ff, and the catalogue of 00fe; name another"):
        ranker(place, encoder_id="00fe")
    with pytest.raises(EngineError, match="its index is BIN_FLAT by HAMMING, wanted BIN_IVF_FLAT"):
        ranker(place + "?index=BIN_IVF_FLAT")
    with pytest.raises(ValueError, match="bits is 12"):
        ranker(place, bits=12)
    assert (first.revision(), first.bits, first.exact) == (0, 32, True)
    check(first, after(1))


@in_milvus
def test_who_may_not_enter_is_told_so_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with milvus.server(users=True) as guarded:
        url = guarded.new_collection()
        for user in ("root:Wr0ng-secret@", "Wr0ng-secret@", ""):
            with pytest.raises(EngineError, match="look at user and password of the URL") as caught:
                ranker(url.replace("//", f"//{user}"))
            assert not isinstance(caught.value, EngineAway)
            assert "secret" not in str(caught.value)
        ours = ranker(url.replace("//", "//root:Milvus@"))
        ours.write(step(0))
        check(ours, after(1))
        assert "Milvus@" not in ours.name
        ours.close()


# --- where it is away ---


@pytest.mark.cluster
def test_nobody_there_is_said_at_once_and_in_one_line(away: str, installed: None) -> None:
    with pytest.raises(EngineAway, match=r"/name: does not answer \(.*\); start it, or look at") as caught:
        ranker(away)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@in_milvus
def test_a_server_that_goes_is_missed_by_all_and_found_by_all_when_it_is_back(
    mortal_milvus: milvus.Server,
) -> None:
    ours = RemoteEngine(ranker(mortal_milvus.new_collection()))
    ours.apply(step(0))
    check(ours, after(1))
    code = np.zeros((1, WIDTH), np.uint8)
    mortal_milvus.kill()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ours.search, code, 3) for _ in range(16)]
        for each in asked:
            assert isinstance(each.exception(), EngineAway)
    with pytest.raises(EngineAway, match="once it answers, all goes on by itself"):
        ours.apply(step(1))
    assert ours.behind > 0
    mortal_milvus.start()
    patient(lambda: ours.apply(step(1)))
    assert ours.behind == 0
    patient(lambda: check(ours, after(2)))
    ours.close()


@in_milvus
def test_who_asks_while_it_goes_is_not_left_waiting(mortal_milvus: milvus.Server) -> None:
    """A search that has begun ends too, as soon as another one has found nobody there."""
    ours = ranker(mortal_milvus.new_collection())
    ours.write(step(0))
    code = np.zeros((1, WIDTH), np.uint8)
    asking, answers = threading.Event(), list[object]()

    def ask() -> None:
        while True:
            try:
                answers.append(ours.nearest(code, 3, None))
            except EngineError as error:
                answers.append(error)
                return
            asking.set()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    asking.wait()
    mortal_milvus.kill()
    for thread in threads:
        thread.join()
    assert {type(each) for each in answers} == {tuple, EngineAway}
    ours.close()


def patient(ask: Callable[[], T]) -> T:
    """What it answers once the server is there again."""
    for _ in range(600):
        try:
            return ask()
        except EngineAway:
            time.sleep(0.1)  # nobody tells when it is
    return ask()


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
    writes.write(changes(0, held))
    reads.write(changes(0, held))
    check(reads, held)
    for revision in range(1, 20):
        gone = changes(revision, {}, (revision,))
        writes.write(gone)
        reads.write(gone)
        del held[revision]
        check(reads, held)
    del held[25]
    writes.write(changes(20, {}, (25,)))
    assert reads.revision() == 20
    check(reads, held)
    third = ranker(place)
    assert third.revision() == 20
    check(third, held)


WRITER = """
import sys
from tests.index.test_milvus import ranker, step
ours = ranker(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for revision in range(int(sys.argv[2])):
    ours.write(step(revision))
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
    ours.write(step(2))  # an old one does nothing
    check(ours, after(steps))
    assert ours.revision() == steps - 1


@in_milvus
def test_one_that_comes_late_with_old_changes_mends_them(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = ranker(place), ranker(place)
    for each in (slow, fast):
        each.write(step(0))
    store = slow._store

    def late(table: CodeTable) -> None:
        monkeypatch.setattr(slow, "_store", store)
        for revision in range(1, 4):
            fast.write(step(revision))
        store(table)

    monkeypatch.setattr(slow, "_store", late)
    slow.write(step(1))
    for revision in range(2, 4):
        slow.write(step(revision))
    assert slow.revision() == fast.revision() == 3
    for each in (slow, fast):
        each.write(step(3))
        check(each, after(4))


@in_milvus
def test_what_broke_off_is_written_again(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ranker(place)
    ours.write(step(0))
    note, notes = ours._note, list[int]()

    def fail(row: int) -> None:
        notes.append(row)
        if len(notes) == 2:
            raise EngineAway("gone")
        note(row)

    monkeypatch.setattr(ours, "_note", fail)
    with pytest.raises(EngineAway, match="gone"):
        ours.write(step(1))
    assert ranker(place).revision() == 0
    ours.write(step(1))
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
    ours.write(Changes(0, CodeTable(ids, labels, codes), np.empty(0, np.int64), ()))
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
    ours.write(Changes(0, CodeTable(ids, labels, codes), none, ()))
    connection = client(place)._get_connection()  # type: ignore[attr-defined]
    connection.flush([name], timeout=60)
    while not (found := connection.get_index_build_progress(name, "code", timeout=10))["total_rows"] or (
        found["indexed_rows"] < found["total_rows"]
    ):
        time.sleep(0.1)  # nobody tells when it is
    some = rng.choice(n, 800, replace=False)
    gone, other = some[:400], some[400:]
    codes[other] = rng.choice(np.array([0, 1, 3, 129], np.uint8), (400, WIDTH))
    ours.write(Changes(1, CodeTable(other, labels[other], codes[other]), np.sort(gone), ()))
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
    ours.write(changes(0, {id_: (id_, bytes(WIDTH)) for id_ in range(50)}))
    for labels in ([*range(10, 20_000)], range(10, 20), {np.int64(10)}, (10,)):
        _, ids = ours.nearest(np.zeros((1, WIDTH), np.uint8), 100, labels)
        assert ids[0].tolist() == [id_ for id_ in range(50) if id_ in labels]


@in_milvus
def test_cells_are_not_exact_and_miss_nothing_among_few(place: str) -> None:
    ours = ranker(place + "?index=BIN_IVF_FLAT&nlist=16&nprobe=1")
    assert not ours.exact
    for revision in range(3):
        ours.write(step(revision))
    check(ours, after(3))
    again = ranker(place + "?index=BIN_IVF_FLAT&nlist=16&nprobe=2")
    assert again.revision() == 2
    again.drop()
    again.close()


NOISE = """
import sys
from index.engine import EngineError
from tests.index.test_milvus import ranker
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
