"""All tables of one catalogue, copied into those of another place."""

from collections.abc import Iterator

from sqlalchemy import Connection, Table, func, insert, select

from index.items import MOVED, SUCCESSOR, SUCCESSOR_AT
from index.tables import checksums
from index.tables.changing import CODED, write_notes
from index.tables.columns import fit
from index.tables.digest import digest
from index.tables.rows import Unusable, code_table, value
from index.tables.schema import metadata

# Notes of what is beside it, which is not beside the other place.
BESIDE = (SUCCESSOR, SUCCESSOR_AT, "predecessor", "predecessor_at", MOVED)
TOGETHER = 1000  # rows


def copy(source: Connection, target: Connection, bits: int) -> dict[str, int]:
    """Make all tables in a place without any, and fill them; how many rows each has. Unusable where what is
    there then is not what was to be copied."""
    metadata.create_all(target)
    fit(target, CODED, bits)
    for table in metadata.sorted_tables:
        reading = source.execute(
            select(table).order_by(*table.primary_key), execution_options={"yield_per": TOGETHER}
        )
        for some in reading.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in some])
    counts = {table.name: _count(target, table) for table in metadata.sorted_tables}
    for fault in _faults(source, target, bits, counts):
        raise Unusable(f"{fault}, and nothing was moved; hebbsearch verify tells what is damaged")
    write_notes(target, dict.fromkeys(BESIDE))
    checksums.seal_notes(target)
    return counts


def _faults(source: Connection, target: Connection, bits: int, counts: dict[str, int]) -> Iterator[str]:
    """What is not as it was: all that was copied is read again, as it is there."""
    for table in metadata.sorted_tables:
        if (wanted := _count(source, table)) != counts[table.name]:
            yield f"{table.name} has {counts[table.name]:,} rows of {wanted:,} there"
    if str(digest(code_table(target, bits))) != value(source, "digest"):
        yield "labels or codes do not match their digest there"
    yield from checksums.faults(target)
    yield from checksums.thumbnail_faults(target)
    yield from checksums.own_faults(target, checksums.OWN)


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0
