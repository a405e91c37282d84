"""What the OpenAPI document promises, asked with what it allows and with what it does not."""

from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from index.artifact import Artifact
from service.app import create_app
from service.settings import Settings
from tests.samples import build_artifact, serve_here

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of this module's own: it is changed at random."""
    artifact: Artifact = build_artifact(tmp_path_factory.mktemp("conformance"))
    with serve_here(create_app(Settings(artifact=artifact.path))) as address:
        yield address


def statuses_of(operation: APIOperation, mode: GenerationMode, encoder: str, examples: int) -> set[int]:
    """Ask so often; the statuses that came with answers as they should be."""
    came = set[int]()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        body = case.body
        if mode == GenerationMode.POSITIVE and isinstance(body, dict) and "encoder_id" in body:
            body |= {"encoder_id": encoder, "codes": ["9c" * 32 for _ in body["codes"]]}  # not to be guessed
        response = case.call()
        came.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    with suppress(Unsatisfiable):  # there is nothing that could be wrong
        ask()
    return came


def ask_everything(server: str, examples: int) -> dict[str, set[int]]:
    """Ask each operation rightly and wrongly; the statuses that came, by operation."""
    encoder = httpx.get(f"{server}/stats").json()["encoder_id"]
    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    return {
        operation.label: set().union(*(statuses_of(operation, mode, encoder, examples) for mode in modes))
        for operation in operations
    }


def test_answers_are_as_promised(own_server: str) -> None:
    statuses = ask_everything(own_server, 5)
    assert len(statuses) > 20
    assert {200, 422} <= statuses["POST /search"] & statuses["POST /search/codes"]
    assert httpx.get(f"{own_server}/health/ready").status_code == 200


def test_each_parameter_has_a_value_to_try_and_each_answer_its_description(own_server: str) -> None:
    methods = httpx.get(f"{own_server}/openapi.json").json()["paths"].values()
    operations = [operation for each in methods for operation in each.values()]
    parameters = [each for operation in operations for each in operation.get("parameters", ())]
    assert parameters
    for each in parameters:
        assert each.get("description"), each
        assert {"default", "enum", "example", "examples"} & (each | each["schema"]).keys(), each
    for operation in operations:
        for status, response in operation["responses"].items():
            if status[0] == "2" and "application/json" not in response.get("content", {"application/json"}):
                assert response["description"] != "Successful Response", operation["summary"]


@pytest.mark.slow
def test_answers_are_as_promised_to_many_more_questions(own_server: str) -> None:
    ask_everything(own_server, 300)
    assert httpx.get(f"{own_server}/health/ready").status_code == 200
