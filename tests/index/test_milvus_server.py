"""How a Milvus is reached: addresses, secrets, what it refuses, and what there is while it is away."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index.engine import EngineAway, EngineError
from index.milvus_server import Address
from index.remote import RemoteEngine
from tests import milvus
from tests.index.milvus_collections import WIDTH, after, check, client, in_milvus, patient, ranker, step


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
    raw.create_collection(name, dimension=8, timeout=10)
    before = raw.describe_collection(name)
    with pytest.raises(EngineError, match=f"/{name}: is no collection of hebbsearch; name another one"):
        ranker(place)
    assert raw.describe_collection(name) == before
    raw.drop_collection(name)


@in_milvus
def test_other_codes_another_encoder_and_another_index_are_refused(place: str) -> None:
    first = ranker(place)
    first.write(step(0), -1, patience=60)
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
        ours.write(step(0), -1, patience=60)
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
    ours.write(step(0), -1, patience=60)
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
