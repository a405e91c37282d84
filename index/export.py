"""The catalogue as one file for other programs: NumPy's or Parquet.

Both are written some rows at a time from one state of the catalogue, in ascending order of ids, and hold the
database split: held-out queries are no part of the index. What lies in the trash is there if it is asked for.
"""

import csv
import json
from io import TextIOWrapper
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from numpy.typing import NDArray

from index.catalogue import Catalogue
from index.items import UNLABELLED, Item
from index.labels import COLUMNS, PREDICTED
from index.names import shown


class NoParquet(RuntimeError):
    """Parquet needs a package that is not installed; the message says which."""


def write_npz(file: IO[bytes], catalogue: Catalogue, *, trashed: bool = False) -> None:
    """For `numpy.load(file)`, which needs no pickle: n images of codes of b bits.

    ids (n,) int64 · codes (n, b/8) uint8 · labels (n,) int64, places in classes or -1 · classes (c,) text ·
    added (n,) int64, seconds since 1970 or -1 · sha256 (n, 32) uint8, zeros where it is not known ·
    encoder_id, text · items.jsonl, bytes: a JSON object a line with the id, path, label, width, height and
    metadata of each, in the same order. If what is `trashed` is asked for, also trashed (n,) int64, seconds
    since 1970 or -1 for what can be found, and coded (n,) bool: without a code, which is made when it comes
    out of the trash, its bits are zeros.
    """
    ids, labels, added, thrown = list[int](), list[int](), list[int](), list[int]()
    coded = list[bool]()
    codes, hashes = bytearray(), bytearray()
    classes: dict[str, int] = {}
    with ZipFile(file, "w", ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("items.jsonl", "w", force_zip64=True) as lines:
            for rows in catalogue.stored(trashed=trashed):
                lines.write(b"".join(_line(item) for item, _ in rows))
                for item, code in rows:
                    codes += code or bytes(catalogue.bits // 8)
                    coded.append(code is not None)
                    thrown.append(-1 if item.trashed is None else item.trashed)
                    ids.append(item.id)
                    label = item.label
                    labels.append(UNLABELLED if label is None else classes.setdefault(label, len(classes)))
                    added.append(-1 if item.added is None else item.added)
                    hashes += bytes.fromhex(item.sha256) if item.sha256 else bytes(32)
        arrays: dict[str, NDArray[Any]] = {
            "ids": np.array(ids, np.int64),
            "codes": np.frombuffer(codes, np.uint8).reshape(len(ids), catalogue.bits // 8),
            "labels": np.array(labels, np.int64),
            "classes": np.array(list(classes), np.str_),
            "added": np.array(added, np.int64),
            "sha256": np.frombuffer(hashes, np.uint8).reshape(len(ids), 32),
            "encoder_id": np.array(catalogue.encoder_id),
        }
        if trashed:
            arrays |= {"trashed": np.array(thrown, np.int64), "coded": np.array(coded, np.bool_)}
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def write_labels(
    file: IO[bytes], catalogue: Catalogue, *, predicted: bool = False, trashed: bool = False
) -> None:
    """All labels as CSV in UTF-8, as `index/labels.py` reads it: a line for each image that has one, held-out
    queries too, and what is `trashed` if that is asked for. `predicted`: also for those that have a predicted
    one, with PREDICTED as its source."""
    text = TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    lines = csv.writer(text)  # with RFC 4180's line ends, so that both of their characters are quoted
    lines.writerow(COLUMNS)
    for item in catalogue.every_item(trashed=trashed):
        label, source = item.label, str(item.source or "given")
        if label is None and predicted:
            label, source = item.predicted, PREDICTED
        if label is not None:
            lines.writerow((shown(item.path), label, item.folder or "", item.sha256 or "", source))
    text.detach()


def write_parquet(file: IO[bytes], catalogue: Catalogue, *, trashed: bool = False) -> None:
    """Columns id, code, label, path, width, height, added, sha256 and metadata (JSON); the file's own
    metadata names the encoder and the bits. If what is `trashed` is asked for, a column says since when it
    is, and a code may be missing that is made when it comes out of the trash. Raises NoParquet where pyarrow
    is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise NoParquet(
            "Parquet needs pyarrow, which is not installed here (pip install 'hebbsearch[export]'); "
            "format=npz needs nothing more"
        ) from None
    schema = pyarrow.schema(
        [
            pyarrow.field("id", pyarrow.int64(), nullable=False),
            pyarrow.field("code", pyarrow.binary(catalogue.bits // 8), nullable=trashed),
            ("label", pyarrow.string()),
            pyarrow.field("path", pyarrow.string(), nullable=False),
            pyarrow.field("width", pyarrow.int32(), nullable=False),
            pyarrow.field("height", pyarrow.int32(), nullable=False),
            ("added", pyarrow.timestamp("s", tz="UTC")),
            ("sha256", pyarrow.binary(32)),
            pyarrow.field("metadata", pyarrow.string(), nullable=False),
            *[("trashed", pyarrow.timestamp("s", tz="UTC"))] * trashed,
        ],
        metadata={"encoder_id": catalogue.encoder_id, "bits": str(catalogue.bits)},
    )
    with parquet.ParquetWriter(file, schema) as writer:
        for rows in catalogue.stored(trashed=trashed):
            records = [_record(item, code) for item, code in rows]
            writer.write_table(pyarrow.Table.from_pylist(records, schema=schema))


WRITERS = {"npz": write_npz, "parquet": write_parquet}


def _line(item: Item) -> bytes:
    return json.dumps(_shared(item) | {"metadata": item.metadata}).encode() + b"\n"


def _record(item: Item, code: bytes | None) -> dict[str, object]:
    sha256 = bytes.fromhex(item.sha256) if item.sha256 else None
    metadata = json.dumps(item.metadata, ensure_ascii=False)
    times = {"added": item.added, "trashed": item.trashed}
    return _shared(item) | times | {"code": code, "sha256": sha256, "metadata": metadata}


def _shared(item: Item) -> dict[str, object]:
    """What both formats say in the same way."""
    told = {name: getattr(item, name) for name in ("id", "path", "label", "width", "height")}
    return told | {"path": shown(item.path)}
