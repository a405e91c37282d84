"""The index as one file, over real HTTP."""

import json
import sys
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from pyarrow import parquet

from index.artifact import CATALOGUE, Artifact
from index.catalogue import Catalogue
from index.items import CodeTable, Item
from index.tables.checksums import of_row
from index.tables.schema import TRASH
from service.app import create_app
from service.routes import about
from service.settings import Settings
from service.web.places import EXPORTING
from tests.samples import serve_here, served
from tests.service.routes.test_changes import png

ODD = {"note": "line\u2028one\nline two", "deep": [{"\u00e4": None}]}


@pytest.fixture
def http(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A service with an image of odd metadata and one that was removed, read in several parts."""
    monkeypatch.setattr("index.tables.reading.TOGETHER", 7)
    with served(own.path) as client:
        form = {"label": "new", "metadata": json.dumps(ODD)}
        client.post("/images", files={"image": ("\u00e4.png", png(1))}, data=form).raise_for_status()
        client.delete("/images/2").raise_for_status()
        yield client


def stored(own: Artifact) -> tuple[list[Item], CodeTable]:
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        return catalogue.page(count=1000), catalogue.codes()


def test_npz(http: httpx.Client, own: Artifact) -> None:
    response = http.get("/export")
    assert response.status_code == 200, response.text
    assert response.headers["content-disposition"] == 'attachment; filename="hebbsearch.npz"'
    assert int(response.headers["content-length"]) == len(response.content)
    items, table = stored(own)
    with np.load(BytesIO(response.content), allow_pickle=False) as found:
        assert found["ids"].tolist() == table.ids.tolist() == [item.id for item in items]
        assert np.array_equal(found["codes"], table.codes)
        labels = [None if label < 0 else found["classes"][label] for label in found["labels"]]
        assert labels == [item.label for item in items]
        assert found["added"].tolist() == [item.added for item in items]
        assert [row.tobytes().hex() if row.any() else None for row in found["sha256"]] == [
            item.sha256 for item in items
        ]
        assert found["encoder_id"] == own.manifest.encoder_id
        lines = [json.loads(line) for line in found["items.jsonl"].splitlines()]
    assert lines == [
        {name: getattr(item, name) for name in ("id", "path", "label", "width", "height", "metadata")}
        for item in items
    ]
    assert lines[-1]["metadata"] == ODD


def test_parquet(http: httpx.Client, own: Artifact) -> None:
    response = http.get("/export?format=parquet")
    assert response.status_code == 200, response.text
    items, table = stored(own)
    found = parquet.read_table(BytesIO(response.content))
    assert found.schema.metadata[b"encoder_id"].decode() == own.manifest.encoder_id
    rows: list[dict[str, Any]] = found.to_pylist()
    assert [row["code"] for row in rows] == [code.tobytes() for code in table.codes]
    for row, item in zip(rows, items, strict=True):
        for name in ("id", "label", "path", "width", "height"):
            assert row[name] == getattr(item, name)
        assert row["added"].timestamp() == item.added
        assert (row["sha256"] and row["sha256"].hex()) == item.sha256
        assert json.loads(row["metadata"]) == item.metadata


def test_what_lies_in_the_trash_is_there_if_it_is_asked_for(http: httpx.Client, own: Artifact) -> None:
    http.delete("/images/3").raise_for_status()
    with Catalogue.open(own.path / CATALOGUE) as catalogue:  # as after a move to another encoder
        (thrown,) = (item for item in catalogue.trash.page(count=10) if item.id == 3)
        (code,) = catalogue.trash.codes([2]).values()
        with catalogue._connections.writing() as (connection, _):
            uncoded = {"code": None, "checksum": of_row([3, None, thrown.trashed])}
            connection.execute(TRASH.update().where(TRASH.c.item_id == 3).values(**uncoded))
    assert code is not None

    with np.load(BytesIO(http.get("/export?trashed=true").content)) as found:
        ids = found["ids"].tolist()
        assert ids == sorted([*(item.id for item in stored(own)[0]), 2, 3])
        lie_there = np.isin(ids, [2, 3])
        assert (found["trashed"] >= 0).tolist() == lie_there.tolist()
        assert found["trashed"][ids.index(3)] == thrown.trashed
        assert [id_ for id_, coded in zip(ids, found["coded"], strict=True) if not coded] == [3]
        assert found["codes"][ids.index(2)].tobytes() == code
        assert not found["codes"][ids.index(3)].any()
        lines = [json.loads(line) for line in found["items.jsonl"].splitlines()]
    assert lines[ids.index(3)]["label"] == thrown.label

    table = parquet.read_table(BytesIO(http.get("/export?format=parquet&trashed=true").content))
    rows = {row["id"]: row for row in table.to_pylist()}
    assert list(rows) == ids
    assert (rows[2]["code"], rows[3]["code"]) == (code, None)
    assert rows[3]["trashed"].timestamp() == thrown.trashed
    assert {id_ for id_, row in rows.items() if row["trashed"] is not None} == {2, 3}

    assert thrown.path not in http.get("/labels.csv").text
    assert thrown.path in http.get("/labels.csv?trashed=true").text


def test_without_pyarrow_there_is_a_way_out(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = http.get("/export?format=parquet")
    assert refused.status_code == 501
    assert "format=npz needs nothing more" in refused.json()["detail"]
    assert http.get("/export").status_code == 200


def test_nothing_stays_and_every_place_is_given_back(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(EXPORTING + 1):
        with http.stream("GET", "/export"):  # left before it is read
            pass
        assert http.get("/export?format=csv").status_code == 422

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(about.WRITERS, "npz", full)
        for _ in range(EXPORTING + 1):
            refused = http.get("/export")
            assert refused.status_code == 507
            assert "No space left on device; set TMPDIR" in refused.json()["detail"]
    assert http.get("/export").status_code == 200
    assert 'places_taken{of="export"} 0.0' in http.get("/metrics").text


@pytest.mark.process
def test_more_exports_than_there_are_places_are_refused(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.web.places.EXPORTING", 0)
    with serve_here(create_app(Settings(artifact=artifact.path))) as address:
        refused = httpx.get(f"{address}/export")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
