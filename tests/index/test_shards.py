"""Shards hold what was written, in the same bytes each time; what is wrong with them is said in a line."""

import json
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from index import shards
from index.items import UNLABELLED, File, NewItem, Picture
from index.shards import Plan, Row, ShardError

PLAN = Plan(
    encoder_id="0123456789abcdef",
    bits=256,
    embedding=8,
    folder="holiday",
    files=12,
    part_size=4,
    parts=3,
    digest="d" * 64,
)


def item(seed: int, *, label: str | int = "cat", embedding: bool = True) -> NewItem:
    random = np.random.default_rng(seed)
    return NewItem(
        path=f"a/{seed}.png",
        label=label,
        split="database",
        width=seed + 1,
        height=7,
        thumbnail=random.bytes(50),
        code=random.integers(0, 256, 32, np.uint8),
        file=File(random.bytes(32), folder="holiday", size=seed),
        embedding=random.standard_normal(8).astype(np.float16) if embedding else None,
        picture=Picture(random.bytes(32), seed % 100),
    )


def rows(count: int = 6) -> list[Row]:
    made = [Row(f"a/{seed}.png", item(seed)) for seed in range(count)]
    return [
        *made,
        Row("b/\udcff.png", None, "not an image"),
        Row("b/x.png", item(99, label=UNLABELLED), "odd"),
    ]


def plain(item: NewItem | None) -> object:
    """To be compared: arrays are lists."""
    if item is None or item.code is None:
        return item
    vector = None if item.embedding is None else item.embedding.tolist()
    return replace(item, code=None, embedding=None), item.code.tolist(), vector


def same(some: list[Row], others: list[Row]) -> bool:
    kept = [[(row.path, plain(row.item), row.reason) for row in each] for each in (some, others)]
    return kept[0] == [
        (path, item and (replace(item[0], path=path), *item[1:]), reason) for path, item, reason in kept[1]
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    PLAN.settle(tmp_path)
    return tmp_path


def read(folder: Path, plan: Plan = PLAN, number: int = 1) -> list[Row]:
    return [row for some in shards.read(folder, plan, number) for row in some]


def test_what_is_written_is_read_and_each_time_in_the_same_bytes(folder: Path) -> None:
    counted = shards.write(folder, PLAN, 1, rows())
    assert (counted.images, counted.noted) == (7, 2)
    assert shards.check(folder, PLAN, 1) == counted
    given = [Row(row.path, row.item and replace(row.item, path=row.path), row.reason) for row in rows()]
    assert same(given, read(folder))
    assert shards.noted(folder, 1) == [("b/\udcff.png", "not an image"), ("b/x.png", "odd")]
    before = shards.path_of(folder, 1).read_bytes()
    shards.write(folder, PLAN, 1, iter(rows()))
    assert shards.path_of(folder, 1).read_bytes() == before
    assert shards.write(folder, PLAN, 2, rows()).contents == counted.contents
    assert shards.write(folder, PLAN, 2, rows(5)).contents != counted.contents


def test_more_rows_than_are_in_memory_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "TOGETHER", 3)
    shards.write(folder, PLAN, 1, rows())
    assert [len(some) for some in shards.read(folder, PLAN, 1)] == [3, 3, 2]
    file = parquet.ParquetFile(shards.path_of(folder, 1))
    assert file.metadata.num_row_groups == 3
    assert file.read(["id"])["id"].to_pylist() == [2**32 + place for place in range(8)]


def test_without_embeddings_there_is_no_column(folder: Path) -> None:
    plan = replace(PLAN, embedding=0)
    shards.write(folder, plan, 1, [Row("x", item(1, embedding=False))])
    assert "embedding" not in parquet.read_schema(shards.path_of(folder, 1)).names
    (row,) = read(folder, plan)
    assert row.item is not None and row.item.embedding is None


def test_other_programs_find_what_the_docs_name(folder: Path) -> None:
    shards.write(folder, PLAN, 1, rows())
    table = parquet.read_table(shards.path_of(folder, 1))
    told = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert told["encoder_id"] == PLAN.encoder_id and told["version"].count(".") == 2
    first, made = table.slice(0, 1).to_pylist()[0], item(0)
    assert made.embedding is not None and made.code is not None
    assert np.frombuffer(first["embedding"], "<f2").tolist() == made.embedding.tolist()
    assert np.frombuffer(first["code"], np.uint8).tolist() == made.code.tolist()


def test_who_comes_first_says_how_the_work_is_divided(tmp_path: Path) -> None:
    PLAN.settle(tmp_path)
    before = (tmp_path / shards.PLAN).read_bytes()
    PLAN.settle(tmp_path)
    for other, what in (
        (replace(PLAN, encoder_id="f" * 16), "was begun with encoder 0123456789abcdef, not ffffffffffffffff"),
        (replace(PLAN, part_size=5), "was begun with --part-size 4, not 5"),
        (replace(PLAN, folder="work"), "was begun with --name holiday, not work"),
        (replace(PLAN, files=13), "was begun with 12 files, and there are 13 now"),
        (replace(PLAN, digest="e" * 64), "was begun with files of other names or sizes"),
    ):
        with pytest.raises(ShardError, match=what):
            other.settle(tmp_path)
    assert (tmp_path / shards.PLAN).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [shards.PLAN]


def test_where_files_cannot_be_linked_the_plan_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    PLAN.settle(tmp_path)
    assert Plan.read(tmp_path) == PLAN


@pytest.mark.parametrize(
    ("text", "what"),
    [(None, "is missing"), ("{", "is damaged"), ("[]", "is damaged"), ("{}", "is damaged")],
)
def test_a_plan_that_is_none_is_said(tmp_path: Path, text: str | None, what: str) -> None:
    if text is not None:
        (tmp_path / shards.PLAN).write_text(text)
    with pytest.raises(ShardError, match=rf"{shards.PLAN}: {what}"):
        Plan.read(tmp_path)


def test_a_plan_of_a_later_version_is_said(tmp_path: Path) -> None:
    (tmp_path / shards.PLAN).write_text(json.dumps(asdict(replace(PLAN, format=2))))
    with pytest.raises(ShardError, match="has format 2, this version reads 1"):
        Plan.read(tmp_path)


def test_a_shard_of_another_encoder_or_place_is_refused(folder: Path) -> None:
    shards.write(folder, replace(PLAN, encoder_id="f" * 16), 1, rows())
    with pytest.raises(ShardError, match=r"part-000001.parquet: is of encoder f+, not 0123456789abcdef"):
        shards.check(folder, PLAN, 1)
    shards.write(folder, PLAN, 1, rows())
    shards.path_of(folder, 1).rename(shards.path_of(folder, 2))
    with pytest.raises(ShardError, match=r"part-000002.parquet: is no part of what shards.json says"):
        shards.check(folder, PLAN, 2)
    with pytest.raises(ShardError, match=r"part-000001.parquet: is missing"):
        shards.check(folder, PLAN, 1)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999])
def test_a_half_written_shard_is_refused(folder: Path, share: float) -> None:
    shards.write(folder, PLAN, 1, rows())
    whole = shards.path_of(folder, 1).read_bytes()
    shards.path_of(folder, 1).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ShardError, match=r"part-000001.parquet: is damaged or not whole .*; remove it"):
        shards.check(folder, PLAN, 1)


def test_a_byte_that_the_disk_changed_is_found(folder: Path) -> None:
    shards.write(folder, PLAN, 1, rows())
    path = shards.path_of(folder, 1)
    content = bytearray(path.read_bytes())
    at = content.index(item(3).thumbnail)
    content[at] ^= 1
    path.write_bytes(content)
    shards.check(folder, PLAN, 1)
    with pytest.raises(ShardError, match="is damaged or not whole"):
        read(folder)


def test_what_fails_or_was_killed_leaves_nothing(folder: Path) -> None:
    left = folder / f".{shards.path_of(folder, 1).name}.killed"
    left.write_bytes(b"half")

    def failing() -> Iterator[Row]:
        yield rows()[0]
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        shards.write(folder, PLAN, 1, failing())
    assert {path.name for path in folder.iterdir()} == {shards.PLAN, left.name}
    shards.write(folder, PLAN, 1, rows())
    assert {path.name for path in folder.iterdir()} == {shards.PLAN, "part-000001.parquet"}


def test_two_that_write_the_same_part_leave_one(folder: Path) -> None:
    def slow() -> Iterator[Row]:
        yield from rows()
        shards.write(folder, PLAN, 1, rows())  # another is done before, and removes what this one writes

    counted = shards.write(folder, PLAN, 1, slow())
    assert shards.check(folder, PLAN, 1) == counted
    assert {path.name for path in folder.iterdir()} == {shards.PLAN, "part-000001.parquet"}


def test_a_full_disk_leaves_nothing(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            shards.write(folder, PLAN, 1, rows(50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in folder.iterdir()] == [shards.PLAN]


def test_without_pyarrow_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ShardError, match=r"pyarrow is needed; .*'hebbsearch\[shards\]'"):
        shards.require()
