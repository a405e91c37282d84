"""Ranking by PostgreSQL itself: exact, without any extension, for collections that it reads in a moment.

A code is a string of bits there, and `bit_count(code # query)` the Hamming distance (PostgreSQL 14, "Bit
String Functions and Operators"). Every code is compared, by several cores where the table is large, so ties
and filters are exact. An index of pgvector over such codes would be faster and silently miss items.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sqlalchemy import Connection

from index.codes import Codes
from index.database import CatalogueAway, CatalogueBusy, CatalogueError
from index.engine import Counts, EngineAway, EngineError
from index.items import Changes, CodeTable
from index.order import Distances, Ids
from index.postgres_catalogue import PostgreSQL
from index.remote import PATIENCE, Emptied

OLDEST = 140_000  # version of the server, which counts bits since then
TOGETHER = 10_000  # rows in one piece of a copy
DISTANCE = "bit_count(code # %(code)s::BIT({bits}))"
COPY = "COPY ranked (id, label, code) FROM STDIN"
# No names that a catalogue uses, so that both may lie in one schema.
TABLES = """
CREATE TABLE IF NOT EXISTS ranked (id BIGINT PRIMARY KEY, label INTEGER NOT NULL, code BIT({bits}) NOT NULL);
CREATE TABLE IF NOT EXISTS ranking (revision BIGINT NOT NULL, bits INTEGER NOT NULL, encoder_id TEXT NOT NULL,
    one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one))
"""


class PostgresRanker:
    """The codes of one encoder in a schema of PostgreSQL, which may be that of their catalogue (see
    `index.remote.Ranker`)."""

    exact = True

    def __init__(self, url: str, *, bits: int, encoder_id: str) -> None:
        """Makes what is not there. EngineError names the fault."""
        self.bits = bits
        with _as_engine():
            self._database = PostgreSQL.new(url)
        self.name = str(self._database.path)
        self._distance = DISTANCE.format(bits=bits)
        try:
            self._prepare(encoder_id)
        except EngineError:
            self.close()
            raise

    def revision(self) -> int:
        with self._asking() as connection:
            return _revision(connection)

    def write(self, changes: Changes, since: int, *, patience: float) -> None:
        with self._asking() as connection:
            _lock(connection, patience)
            before = _revision(connection)
            if changes.revision <= before:
                return
            if before < since:
                raise Emptied(f"{self.name}: is at revision {before:,} again, and is filled anew")
            table = changes.table
            if before >= 0:
                gone = np.concatenate([changes.removed, table.ids]).tolist()
                connection.exec_driver_sql("DELETE FROM ranked WHERE id = ANY(%(ids)s)", {"ids": gone})
            driver: Any = connection.connection.driver_connection
            with driver.cursor() as cursor, cursor.copy(COPY) as copy:
                for some in _lines(table):
                    copy.write(some)
            connection.exec_driver_sql("UPDATE ranking SET revision = %(r)s", {"r": changes.revision})

    def nearest(self, codes: Codes, k: int, labels: Collection[int] | None) -> tuple[Distances, Ids]:
        query = (
            f"SELECT {self._distance} AS distance, id FROM ranked{_having(labels)} "
            "ORDER BY distance, id LIMIT %(k)s"
        )
        found = self._of_each(query, codes, labels, {"k": k})
        width = len(found[0]) if found else 0
        pairs = np.array(found, np.int64).reshape(len(codes), width, 2)
        return pairs[..., 0].astype(np.int32), pairs[..., 1].copy()

    def within(
        self, codes: Codes, radius: int, labels: Collection[int] | None
    ) -> list[tuple[Distances, Ids]]:
        query = (
            f"SELECT {self._distance} AS distance, id FROM ranked{_having(labels, 'AND')} "
            f"{self._distance} <= %(radius)s ORDER BY distance, id"
        )
        found = (
            np.array(rows, np.int64).reshape(-1, 2)
            for rows in self._of_each(query, codes, labels, {"radius": radius})
        )
        return [(pairs[:, 0].astype(np.int32), pairs[:, 1].copy()) for pairs in found]

    def count(self, codes: Codes, radii: Distances, labels: Collection[int] | None) -> Counts:
        query = f"SELECT count(*) FROM ranked{_having(labels, 'AND')} {self._distance} <= %(radius)s"
        with self._asking() as connection:
            counts = (
                connection.exec_driver_sql(query, _asked(code, labels) | {"radius": radius}).scalar_one()
                for code, radius in zip(codes, radii.tolist(), strict=True)
            )
            return np.fromiter(counts, np.int64, len(codes))

    def clear(self) -> None:
        with self._asking() as connection:
            _lock(connection, PATIENCE)
            connection.exec_driver_sql("DELETE FROM ranked")
            connection.exec_driver_sql("UPDATE ranking SET revision = -1")

    def close(self) -> None:
        self._database.close()

    def _of_each(
        self, query: str, codes: Codes, labels: Collection[int] | None, more: dict[str, Any]
    ) -> list[list[tuple[int, int]]]:
        """What the query answers for each of the codes, all of one revision."""
        with self._asking() as connection:
            return [
                [tuple(row) for row in connection.exec_driver_sql(query, _asked(code, labels) | more)]
                for code in codes
            ]

    @contextmanager
    def _asking(self) -> Iterator[Connection]:
        """One transaction, which sees one state. Its faults are the engine's."""
        with _as_engine(), self._database.naming(), self._database.engine.begin() as connection:
            # Compiling a query would take longer than running it.
            connection.exec_driver_sql("SET LOCAL jit = off")
            yield connection

    def _prepare(self, encoder_id: str) -> None:
        if (found := self._noted()) is None:
            self._make(encoder_id)
            found = self._noted()
        if found != (self.bits, encoder_id):
            bits, of = found or (0, "")
            raise EngineError(
                f"{self.name}: ranks {bits}-bit codes of encoder {of[:12]}, the artifact has {self.bits}-bit "
                f"codes of {encoder_id[:12]}; name another schema"
            )

    def _noted(self) -> tuple[int, str] | None:
        """Of which codes it is; None: it is not there, or not whole yet."""
        with self._asking() as connection:
            version, there = connection.exec_driver_sql(
                "SELECT current_setting('server_version_num')::INTEGER, "
                f"to_regclass('{self._database.schema}.ranking') IS NOT NULL"
            ).one()
            if version < OLDEST:
                raise EngineError(f"{self.name}: PostgreSQL 14 or newer counts bits, this one does not")
            query = "SELECT bits, encoder_id FROM ranking"
            row = connection.exec_driver_sql(query).one_or_none() if there else None
        return None if row is None else (row.bits, row.encoder_id)

    def _make(self, encoder_id: str) -> None:
        schema = self._database.schema
        with self._asking() as connection:
            # One at a time, also of those that make the same one.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext(%(s)s))", {"s": schema})
            if not self._database.has_schema():  # else nobody need be allowed to make it
                connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            connection.exec_driver_sql(TABLES.format(bits=self.bits))
        with self._asking() as connection:
            _lock(connection, PATIENCE)  # before anything is read: one note, whoever was faster
            connection.exec_driver_sql(
                "INSERT INTO ranking VALUES (-1, %(b)s, %(e)s) ON CONFLICT DO NOTHING",
                {"b": self.bits, "e": encoder_id},
            )


@contextmanager
def _as_engine() -> Iterator[None]:
    """Faults of a database as those of an engine."""
    try:
        yield
    except (CatalogueAway, CatalogueBusy) as error:
        raise EngineAway(str(error)) from error
    except CatalogueError as error:
        raise EngineError(str(error)) from error


def _lock(connection: Connection, patience: float) -> None:
    """Nobody else writes until the end. Before anything is read: a transaction sees what was there then."""
    connection.exec_driver_sql(
        f"SET LOCAL lock_timeout = {int(patience * 1000)}; LOCK TABLE ranking IN EXCLUSIVE MODE"
    )


def _revision(connection: Connection) -> int:
    found: int = connection.exec_driver_sql("SELECT revision FROM ranking").scalar_one()
    return found


def _having(labels: Collection[int] | None, then: str = "") -> str:
    """The condition for labels, before another one if `then` says so."""
    if labels is None:
        return f" WHERE{'' if then else ' TRUE'}"
    return f" WHERE label = ANY(%(labels)s) {then}"


def _asked(code: np.ndarray[Any, np.dtype[np.uint8]], labels: Collection[int] | None) -> dict[str, Any]:
    return {"code": f"x{code.tobytes().hex()}", "labels": [] if labels is None else list(labels)}


def _lines(table: CodeTable) -> Iterator[str]:
    """The rows as COPY takes them, some at a time."""
    for start in range(0, len(table.ids), TOGETHER):
        some = table.rows(slice(start, start + TOGETHER))
        rows = zip(some.ids.tolist(), some.labels.tolist(), map(bytes, some.codes), strict=True)
        yield "".join(f"{id_}\t{label}\tx{code.hex()}\n" for id_, label, code in rows)
