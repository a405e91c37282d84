"""Shards: what an encoder made of many images, as Parquet files that many processes write, on any machines.

A folder of shards has `shards.json`, which says once and for all how the work is divided, and of each part of
it one file, whole or not at all. Equal images, encoder and versions of the libraries give equal bytes.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import uuid4

import numpy as np

from index.artifact import sync
from index.items import UNLABELLED, File, NewItem, Picture
from index.names import from_stored, stored

FORMAT = 1
PLAN = "shards.json"
TOGETHER = 1024  # rows in memory, as written and as read
PLACES = 2**32  # more than there are images in one part: the next part's ids begin there
HASH_BYTES = 32  # of a picture's hash, and of a SHA-256
# Thumbnails and codes cannot be made smaller; names and labels can.
OPTIONS: Mapping[str, Any] = {
    "compression": {"path": "snappy", "label": "snappy", "reason": "snappy"},
    "use_dictionary": ["label"],
    "write_statistics": ["id"],
    "write_page_checksum": True,
}
AGAIN = "remove it and give hebbsearch encode again, which makes it anew"


class ShardError(ValueError):
    """Shards that cannot be used, made or gone on with. One line that names the file and the way out."""


@dataclass(frozen=True)
class Plan:
    """How the work on one collection is divided, and what all of its parts have in common."""

    encoder_id: str
    bits: int
    embedding: int  # values of an embedding; 0: the encoder makes none
    folder: str  # by which name the catalogue shall know the folder of the images
    files: int  # images, or tars of them
    part_size: int  # images of a part; a tar is a part whatever it holds
    parts: int
    digest: str  # of the sorted list of files with their sizes, and of how labels are found
    format: int = FORMAT

    @property
    def shared(self) -> dict[str, str]:
        """What each file says of itself: that it is one of these."""
        names = ("format", "encoder_id", "bits", "embedding", "parts", "digest")
        return {name: str(getattr(self, name)) for name in names}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """That of the shards in this folder. ShardError."""
        path = folder / PLAN
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            plan = cls(**{each.name: values[each.name] for each in fields(cls)})
        except FileNotFoundError:
            raise ShardError(f"{path}: is missing; name a folder that hebbsearch encode made") from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ShardError(f"{path}: is damaged ({error}); encode into a new folder") from None
        if plan.format != FORMAT:
            raise ShardError(f"{path}: has format {plan.format!r}, this version reads {FORMAT}")
        return plan

    def settle(self, folder: Path) -> None:
        """Write it down, unless somebody has; ShardError where that is another one."""
        path, text = folder / PLAN, json.dumps(asdict(self), indent=2) + "\n"
        if not path.exists():
            with _temporary(folder, PLAN) as temporary:
                temporary.write_text(text, encoding="utf-8")
                sync(temporary)
                try:
                    os.link(temporary, path)  # which, unlike renaming, leaves what another was first to write
                except FileExistsError:
                    pass
                except OSError:  # a file system without links
                    os.replace(temporary, path)
            sync(folder)
        self._refuse_another(folder, Plan.read(folder))

    def _refuse_another(self, folder: Path, begun: "Plan") -> None:
        for name, what in (
            ("encoder_id", "with encoder {}, not {}"),
            ("part_size", "with --part-size {}, not {}"),
            ("folder", "with --name {}, not {}"),
            ("files", "with {} files, and there are {} now"),
            ("digest", "with files of other names or sizes, or with other labels"),
        ):
            was, now = getattr(begun, name), getattr(self, name)
            if was != now:
                raise ShardError(f"{folder}: was begun {what.format(was, now)}; encode into a new folder")


class Row(NamedTuple):
    """What became of an image."""

    path: str  # in its folder
    item: NewItem | None  # None: it is left out
    reason: str | None = None  # why, or why its label is


class Counted(NamedTuple):
    """How many images a part has, and of how many there is a reason to tell."""

    images: int
    noted: int
    contents: str = ""  # a digest of what it says of them


def require() -> None:
    """ShardError where Parquet cannot be written or read."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ShardError(
            "shards are Parquet files, for which pyarrow is needed; install it: "
            "pip install 'hebbsearch[shards]'"
        ) from None


def path_of(folder: Path, number: int) -> Path:
    """Where a part is, once it is there."""
    return folder / f"part-{number:06}.parquet"


def write(folder: Path, plan: Plan, number: int, rows: Iterable[Row]) -> Counted:
    """Write a part under another name, force it to disk, and rename it. Others may write the same meanwhile:
    their file is this one."""
    from pyarrow import parquet

    path = path_of(folder, number)
    with _temporary(folder, path.name) as temporary:
        with temporary.open("xb") as file:
            with parquet.ParquetWriter(file, _schema(plan, number), **OPTIONS) as writer:
                counted = _write_rows(writer, number, rows)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(temporary, path)
        except FileNotFoundError:  # whoever was first has removed it, as below
            if not path.exists():
                raise
    for left in folder.glob(f".{path.name}.*"):  # by one that was killed, or is no longer needed
        left.unlink(missing_ok=True)
    sync(folder)
    return counted


def check(folder: Path, plan: Plan, number: int) -> Counted:
    """How much there is in a part, of which the end is read. ShardError where it is not one of this plan, or
    not whole."""
    path = path_of(folder, number)
    with _opened(path) as file:
        told = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
        told |= {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}
        if told.get("encoder_id") != plan.encoder_id:
            raise ShardError(
                f"{path}: is of encoder {told.get('encoder_id')}, not {plan.encoder_id}; {AGAIN}"
            )
        wanted = plan.shared | {"part": str(number)}
        if told | wanted != told or not file.schema_arrow.equals(_schema(plan, number)):
            raise ShardError(f"{path}: is no part of what {PLAN} says; {AGAIN}")
        return Counted(int(told["images"]), int(told["noted"]), told["contents"])


def read(folder: Path, plan: Plan, number: int) -> Iterator[list[Row]]:
    """The rows of a part, some at a time. ShardError where the disk has changed a byte."""
    with _opened(path_of(folder, number)) as file:
        for batch in file.iter_batches(TOGETHER):
            yield [_row(each, plan) for each in batch.to_pylist()]


def noted(folder: Path, number: int) -> list[tuple[str, str]]:
    """Paths and reasons of what is left out of a part."""
    with _opened(path_of(folder, number)) as file:
        pairs = zip(*(file.read([name])[name].to_pylist() for name in ("path", "reason")), strict=True)
        return [(from_stored(path), reason) for path, reason in pairs if reason is not None]


def _write_rows(writer: Any, number: int, rows: Iterable[Row]) -> Counted:
    drawn, place, images, reasons, contents = iter(rows), 0, 0, 0, sha256()
    while some := list(islice(drawn, TOGETHER)):
        ids = range(number * PLACES + place, number * PLACES + place + len(some))
        writer.write_table(_table(writer.schema, ids, some))
        place += len(some)
        images += sum(row.item is not None for row in some)
        reasons += sum(row.reason is not None for row in some)
        for row in some:
            contents.update(repr(_identity(row)).encode())
    counted = Counted(images, reasons, contents.hexdigest()[:16])
    writer.add_key_value_metadata({name: str(value) for name, value in counted._asdict().items()})
    return counted


def _identity(row: Row) -> tuple[object, ...]:
    """What tells a row from that of another image, or of the same one with another code or label."""
    item = row.item
    if item is None or item.file is None or item.code is None:
        return stored(row.path), row.reason
    return stored(row.path), item.file.sha256, item.label, item.code.tobytes()


def _schema(plan: Plan, number: int) -> Any:
    import pyarrow

    def needed(name: str, kind: Any) -> Any:
        return pyarrow.field(name, kind, nullable=False)

    return pyarrow.schema(
        [
            needed("id", pyarrow.int64()),
            needed("path", pyarrow.string()),
            ("label", pyarrow.string()),
            ("size", pyarrow.int64()),
            ("sha256", pyarrow.binary(HASH_BYTES)),
            ("width", pyarrow.int32()),
            ("height", pyarrow.int32()),
            ("code", pyarrow.binary(plan.bits // 8)),
            ("picture", pyarrow.binary(HASH_BYTES)),
            ("quality", pyarrow.int32()),
            *[("embedding", pyarrow.binary(2 * plan.embedding))] * bool(plan.embedding),
            ("thumbnail", pyarrow.binary()),
            ("reason", pyarrow.string()),
        ],
        metadata=plan.shared | {"part": str(number), "version": version("hebbsearch")},
    )


def _table(schema: Any, ids: range, rows: Sequence[Row]) -> Any:
    import pyarrow

    records = [
        {"id": id_, "path": stored(row.path), "reason": row.reason}
        | ({} if row.item is None else _record(row.item))
        for id_, row in zip(ids, rows, strict=True)
    ]
    return pyarrow.Table.from_pylist(records, schema=schema)


def _record(item: NewItem) -> dict[str, object]:
    assert item.file is not None and item.code is not None and item.picture is not None
    vector = None if item.embedding is None else item.embedding.astype("<f2").tobytes()
    return {
        "label": item.label if isinstance(item.label, str) else None,
        "size": item.file.size,
        "sha256": item.file.sha256,
        "width": item.width,
        "height": item.height,
        "code": item.code.tobytes(),
        "picture": item.picture.hash,
        "quality": item.picture.quality,
        "thumbnail": item.thumbnail,
        "embedding": vector,
    }


def _row(record: Mapping[str, Any], plan: Plan) -> Row:
    """The inverse."""
    path, reason = from_stored(record["path"]), record["reason"]
    if record["code"] is None:
        return Row(path, None, reason)
    vector = record.get("embedding")
    item = NewItem(
        path=path,
        label=UNLABELLED if record["label"] is None else record["label"],
        split="database",
        width=record["width"],
        height=record["height"],
        thumbnail=record["thumbnail"],
        code=np.frombuffer(record["code"], np.uint8),
        file=File(record["sha256"], folder=plan.folder, size=record["size"]),
        embedding=None if vector is None else np.frombuffer(vector, "<f2").astype(np.float16),
        picture=Picture(record["picture"], record["quality"]),
    )
    return Row(path, item, reason)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Parquet file, to be read. Whatever is wrong with it, as ShardError."""
    import pyarrow
    from pyarrow import parquet

    try:
        with (
            path.open("rb") as opened,
            parquet.ParquetFile(opened, page_checksum_verification=True) as file,
        ):
            yield file
    except FileNotFoundError:
        raise ShardError(f"{path}: is missing; give hebbsearch encode again, which makes it") from None
    except ShardError:
        raise
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        if getattr(error, "errno", None) is not None:
            raise
        told = (str(error).splitlines() or [""])[0][:80]
        raise ShardError(f"{path}: is damaged or not whole ({told}); {AGAIN}") from None


@contextmanager
def _temporary(folder: Path, name: str) -> Iterator[Path]:
    """A name that nobody else has, of a file that does not outlast this."""
    path = folder / f".{name}.{uuid4().hex}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
