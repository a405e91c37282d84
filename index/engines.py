"""Which engine it is: by its name, or by the address of what ranks elsewhere."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from index.catalogue import Catalogue
from index.engine import Engine, EngineError
from index.hamming import FaissEngine
from index.ivf import IvfEngine
from index.milvus_server import SHAPE as OF_MILVUS
from index.milvus_server import Address, is_milvus
from index.postgres_catalogue import SHAPE, is_url, without_password
from index.remote import PATIENCE, Ranker, RemoteEngine, check_follows

Making = Callable[[int, str], Engine]  # of an empty one, for codes of so many bits that this encoder makes
FLAT, IVF = "flat", "ivf"
BESIDE_CATALOGUE = "catalogue"  # PostgreSQL, in the schema where the catalogue lies
TOGETHER = 100_000  # changes that are brought at a time


def flat(bits: int, encoder_id: str) -> Engine:
    """FAISS in this process, exact."""
    return FaissEngine(bits)


def making(name: str, *, recall: float, catalogue: str | None = None) -> Making:
    """What makes the engine of this name or at this address. `catalogue`: its URL; None: it is a file.
    EngineError where the engine lies beside it, and it does, and ValueError for what is no engine."""
    if name == BESIDE_CATALOGUE:
        if catalogue is None:
            raise EngineError("the catalogue is a file, beside which nothing ranks; name another engine")
        name = catalogue
    if name == FLAT:
        return flat
    if name == IVF:
        return lambda bits, encoder_id: IvfEngine(bits, wanted=recall)
    shown(name)
    return partial(_remote, name)


def is_elsewhere(name: str) -> bool:
    """Whether it is an address, where there is a place for the codes of one artifact."""
    return is_url(name) or is_milvus(name)


def shown(name: str) -> str:
    """The name or the address, as messages have it: without a password. ValueError as `making`."""
    if name in (FLAT, IVF, BESIDE_CATALOGUE):
        return name
    if is_url(name):
        return without_password(name)
    if is_milvus(name):
        return Address.of(name).shown
    raise ValueError(
        f"there is no such engine; wanted {FLAT}, {IVF}, {BESIDE_CATALOGUE}, or an address such as {SHAPE} "
        f"or {OF_MILVUS}"
    )


def fill(ranker: Ranker, catalogue: Catalogue, *, anew: bool = False) -> Iterator[int]:
    """Bring it to the catalogue's revision, some changes at a time; how many, after each. `anew`: let
    nothing of before stay. If it breaks off, it goes on where it was. EngineError, also where not all is
    there in the end."""
    if anew:
        ranker.clear()
    check_follows(ranker, ranker.revision(), catalogue.revision)
    while (kept := ranker.revision()) < catalogue.revision:
        changes = catalogue.changes(kept, most=TOGETHER)
        ranker.write(changes, kept, patience=PATIENCE)
        yield len(changes.table.ids) + len(changes.removed)
    there, wanted = ranked(ranker), catalogue.counts()["database"]
    if ranker.revision() == catalogue.revision and there != wanted:
        raise EngineError(
            f"{ranker.name}: has {there:,} codes of {wanted:,}; hebbsearch sync --anew fills it again"
        )


def ranked(ranker: Ranker) -> int:
    """How many codes it has."""
    anything = np.zeros((1, ranker.bits // 8), np.uint8)
    return int(ranker.count(anything, np.array([ranker.bits], np.int32), None)[0])


def ranker_at(url: str, *, bits: int, encoder_id: str) -> Ranker:
    """What ranks at this address. EngineError."""
    if is_milvus(url):
        from index.milvus import MilvusRanker

        return MilvusRanker(url, bits=bits, encoder_id=encoder_id)
    from index.postgres import PostgresRanker

    return PostgresRanker(url, bits=bits, encoder_id=encoder_id)


def _remote(url: str, bits: int, encoder_id: str) -> Engine:
    ranker = ranker_at(url, bits=bits, encoder_id=encoder_id)
    try:
        return RemoteEngine(ranker)
    except EngineError:
        ranker.close()
        raise
