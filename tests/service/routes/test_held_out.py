"""Images whose labels came after the build, and that are held out, measure the answers."""

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from index.artifact import CATALOGUE, MANIFEST, QUERIES, Artifact
from index.catalogue import Catalogue
from index.evaluation import mean_average_precision
from tests.samples import CLASSES, PER_CLASS, QUERIES_PER_CLASS, served

HELD = [2, 5, 23, 41]  # ids of labelled images


@pytest.fixture
def http(own: Artifact) -> Iterator[httpx.Client]:
    with Catalogue.open(own.path / CATALOGUE) as catalogue:
        catalogue.hold_out(HELD)
    with served(own.path) as client:
        yield client


def test_they_are_asked_and_not_ranked_and_can_be_found(http: httpx.Client, own: Artifact) -> None:
    found = http.get("/eval/map").json()
    definition, built = found["definition"], len(CLASSES) * QUERIES_PER_CLASS
    assert definition["queries"] + definition["dropped_queries"] == built + len(HELD)
    assert definition["later_queries"] == len(HELD)
    assert definition["items"] == len(CLASSES) * PER_CLASS - len(HELD)
    with own.open_catalogue() as catalogue:
        table = catalogue.codes()
    queries = own.queries()
    assert queries is not None
    held = np.isin(table.ids, HELD)
    ranked = ~held & (table.labels != -1)
    wanted = mean_average_precision(
        np.concatenate([queries.codes, table.codes[held]]),
        np.concatenate([queries.labels, table.labels[held]]),
        table.codes[ranked],
        table.labels[ranked],
    )
    assert np.isclose(found["map"], wanted)
    near = http.get("/images/1/similar", params={"k": 100}).json()["results"]
    assert set(HELD) <= {each["id"] for each in near}
    assert http.get("/images/5").json()["held_out"] is True
    asked = http.get("/eval/queries", params={"limit": 100}).json()["queries"]
    assert set(HELD) <= {query["id"] for query in asked}
    assert http.get("/stats").json()["queries"] == built + len(HELD)


def test_another_label_or_a_removal_takes_them_out(http: httpx.Client) -> None:
    http.patch("/images/5", json={"label": "square"})
    http.delete("/images/23")
    definition = http.get("/eval/map").json()["definition"]
    assert definition["later_queries"] == len(HELD) - 2
    assert definition["items"] == len(CLASSES) * PER_CLASS - len(HELD) + 1


@pytest.mark.process
def test_an_index_without_queries_of_its_own_can_be_measured(own: Artifact) -> None:

    (own.path / QUERIES).unlink()
    manifest = json.loads((own.path / MANIFEST).read_text())
    del manifest["files"][QUERIES]
    (own.path / MANIFEST).write_text(json.dumps(manifest))
    with served(own.path) as client:
        refused = client.get("/eval/map")
        assert refused.status_code == 409
        assert "let it learn from them" in refused.json()["detail"]
        with Catalogue.open(own.path / CATALOGUE) as catalogue:
            catalogue.hold_out(HELD)
        found = client.get("/eval/map").json()
    assert found["definition"]["queries"] == len(HELD)
    assert 0 < found["map"] <= 1
