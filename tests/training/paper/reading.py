"""The rows of a table's CSV, read back: no command needs them again, the tests do."""

import csv
from pathlib import Path
from typing import Any

from training.paper.tables import COLUMNS, Row, TableError

NUMBERS = ("mean", "std", "paper", "p_value")


def read_csv(path: Path) -> list[Row]:
    """The rows that `write_csv` wrote. TableError names the file and the line that is off."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise TableError(f"{path} has the columns {', '.join(header)}; wanted {', '.join(COLUMNS)}")
        rows = []
        for line in reader:
            try:
                if len(line) != len(COLUMNS):
                    raise ValueError(f"{len(line)} values; wanted {len(COLUMNS)}")
                values: dict[str, Any] = dict(zip(COLUMNS, line, strict=True))
                values["seeds"] = int(values["seeds"])
                for name in NUMBERS:
                    values[name] = float(values[name]) if values[name] else None
            except ValueError as error:
                raise TableError(f"{path}, line {reader.line_num}: {error}") from None
            rows.append(Row(**values))
        return rows
