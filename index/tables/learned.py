"""What learning from labels writes into the catalogue: embeddings, sources of labels, predictions."""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from sqlalchemy import Connection, delete, insert, select

from index.items import Embedding
from index.sources import Source
from index.tables.checksums import of_row
from index.tables.rows import BATCH, as_bytes
from index.tables.schema import DOUBTS, EMBEDDINGS, PREDICTIONS, SOURCES, TRASH


def keep(connection: Connection, embeddings: Iterable[tuple[int, Embedding | None]]) -> None:
    """Write the embeddings (E,) of items that have none yet; None is none."""
    vectors = [(id_, as_bytes(vector)) for id_, vector in embeddings if vector is not None]
    rows = [{"item_id": id_, "vector": made, "checksum": of_row([id_, made])} for id_, made in vectors]
    if rows:
        connection.execute(insert(EMBEDDINGS), rows)


def embed(connection: Connection, embeddings: Iterable[tuple[int, Embedding]]) -> None:
    """As `Catalogue.embed`."""
    drawn = iter(embeddings)
    while batch := list(islice(drawn, BATCH)):
        ids = [id_ for id_, _ in batch]
        connection.execute(delete(EMBEDDINGS).where(EMBEDDINGS.c.item_id.in_(ids)))
        keep(connection, batch)


def predict(connection: Connection, predictions: Iterable[tuple[int, int, float]]) -> None:
    """As `Catalogue.predict`."""
    connection.execute(delete(PREDICTIONS))
    drawn = iter(predictions)
    while batch := list(islice(drawn, BATCH)):
        rows = [{"item_id": id_, "label": label, "confidence": sure} for id_, label, sure in batch]
        connection.execute(insert(PREDICTIONS), rows)


def hold_out(connection: Connection, ids: Iterable[int], held: bool) -> None:
    """As `Catalogue.hold_out`."""
    sources = {id_: source for id_, source in connection.execute(select(SOURCES.c.item_id, SOURCES.c.source))}
    drawn = iter(ids)
    while batch := list(islice(drawn, BATCH)):
        set_sources(connection, {id_: (sources.get(id_, "given"), held) for id_ in batch})


def in_groups(connection: Connection, ids: Collection[int]) -> set[int]:
    """Those of at most BATCH items whose labels were accepted in groups."""
    some = SOURCES.c.item_id.in_(ids) & (SOURCES.c.source == "group")
    return set(connection.scalars(select(SOURCES.c.item_id).where(some)))


def set_sources(connection: Connection, sources: Mapping[int, tuple[Source, bool]]) -> None:
    """How at most BATCH items came to their labels, and whether they are held out, in place of what is known
    of them."""
    if sources:
        connection.execute(delete(SOURCES).where(SOURCES.c.item_id.in_(sources)))
        keep_sources(connection, sources)


def keep_sources(connection: Connection, sources: Mapping[int, tuple[Source, bool]]) -> None:
    """The same of items of which nothing is known yet; nothing is written of what is usual."""
    rows = [
        {"item_id": id_, "source": source, "held_out": held_out,
         "checksum": of_row([id_, source, int(held_out)])}
        for id_, (source, held_out) in sources.items()
        if source != "given" or held_out
    ]  # fmt: skip
    if rows:
        connection.execute(insert(SOURCES), rows)


def forget_learned(connection: Connection, *, embeddings: bool) -> None:
    """What another encoder said, the codes of what lies in the trash, and, where it has other ones, the
    embeddings it made."""
    connection.execute(delete(PREDICTIONS))
    connection.execute(delete(DOUBTS))
    thrown = connection.execute(select(TRASH.c.item_id, TRASH.c.since)).all()
    made = [{"item_id": id_, "since": since, "checksum": of_row([id_, None, since])} for id_, since in thrown]
    connection.execute(delete(TRASH))
    if made:
        connection.execute(insert(TRASH), made)
    if embeddings:
        connection.execute(delete(EMBEDDINGS))
