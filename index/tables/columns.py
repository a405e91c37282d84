"""The types of the tables' columns, where SQLite and PostgreSQL have different ones for the same values."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

POSTGRESQL = "postgresql"


class _Bits(sa.types.UserDefinedType[bytes]):
    """Bytes as a bit string of PostgreSQL, most significant bit first. Its driver gives bytes again
    (`index.postgres_catalogue`)."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "BIT VARYING"

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[bytes | None], str | None]:
        return lambda code: None if code is None else f"x{code.hex()}"


# Compared and sorted by their bytes, whatever language a database of PostgreSQL was made for: as in SQLite,
# and as paths are looked for between two others. There lower() knows ASCII alone, as in SQLite too.
Text = sa.Text().with_variant(sa.Text(collation="C"), POSTGRESQL)
# Ids and revisions: of 64 bits. In SQLite each INTEGER is, and only such a one counts up by itself.
Wide = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Code = sa.LargeBinary().with_variant(_Bits(), POSTGRESQL)


def fit(connection: sa.Connection, columns: list[sa.Column[Any]], bits: int) -> None:
    """Have columns of codes hold such of so many bits alone, where a database can see to it; longer ones that
    are there are cut."""
    if connection.dialect.name == POSTGRESQL:
        for column in columns:
            table, name = column.table.name, column.name
            connection.exec_driver_sql(
                f"ALTER TABLE {table} ALTER COLUMN {name} TYPE BIT({bits}) USING {name}::BIT({bits})"
            )
