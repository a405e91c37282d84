"""Small collections in Milvus for tests: what is written to them, and what they should hold then."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from index.codes import hamming
from index.engine import EngineAway
from index.items import UNLABELLED, Changes, CodeTable
from index.milvus import MilvusRanker
from index.milvus_server import Address
from index.remote import RemoteEngine
from tests import milvus

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


def client(url: str) -> Any:
    from pymilvus import MilvusClient

    address = Address.of(url)
    return MilvusClient(uri=address.uri, timeout=5)


def exists(url: str) -> bool:
    return client(url).has_collection(Address.of(url).collection)


def ranker(url: str, bits: int = 8 * WIDTH, encoder_id: str = "00ff") -> MilvusRanker:
    return MilvusRanker(url, bits=bits, encoder_id=encoder_id)


def patient(ask: Callable[[], T]) -> T:
    """What it answers once the server is there again."""
    for _ in range(600):
        try:
            return ask()
        except EngineAway:
            time.sleep(0.1)  # nobody tells when it is
    return ask()
