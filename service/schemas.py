"""What goes in and out over HTTP."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from index.evaluation import Denominator, Ties


class SearchParameters(BaseModel):
    """How to search; each as a query parameter or as a form field."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[int, Field(ge=1, le=1000, description="At most so many results.", examples=[10])] = 10
    max_distance: Annotated[
        int | None,
        Field(ge=0, le=256, description="Only items at this Hamming distance or nearer.", examples=[64]),
    ] = None
    label: Annotated[
        list[str],
        Field(description="Only items with one of these labels; repeatable.", examples=[["3", "8"]]),
    ] = []


class Result(BaseModel):
    """An indexed image near the query."""

    id: int
    label: str | None = Field(description="null: the image has no label.")
    distance: int = Field(description="Hamming distance: bits in which the two codes differ.")
    similarity: float = Field(description="1 − distance / bits.")
    thumbnail: str = Field(description="Address of a small WebP image.")


class SearchAnswer(BaseModel):
    """The nearest indexed images, sorted by (distance, id)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "code": "9c41d7" + "0" * 58,
                    "results": [
                        {
                            "id": 17,
                            "label": "3",
                            "distance": 12,
                            "similarity": 0.953125,
                            "thumbnail": "/images/17/thumbnail",
                        }
                    ],
                    "exact": True,
                    "ties_at_cut": 1,
                }
            ]
        }
    )

    code: str = Field(description="The query's binary code in hexadecimal, most significant bit first.")
    results: list[Result]
    exact: bool = Field(description="true: no nearer item was missed.")
    ties_at_cut: int = Field(
        description="How many eligible items (label filter applied) lie at the distance of the last "
        "result, those returned included; 0 without results. Ties go to the lowest ids."
    )


class EvaluationParameters(BaseModel):
    """Which mean average precision."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[
        int | None,
        Field(ge=1, le=2**31, description="Cut-off; left out: the whole ranking.", examples=[100]),
    ] = None
    ties: Annotated[
        Ties,
        Field(
            description="expected: exact expectation over random orders inside groups of equal distance; "
            "order: by id."
        ),
    ] = "expected"
    denominator: Annotated[
        Denominator,
        Field(
            description="min: min(relevant items, k); retrieved: the relevant items found in the top k, "
            "the convention of most hashing papers."
        ),
    ] = "min"


class ScoreSummary(BaseModel):
    """Distribution of the queries' average precision scores (APS)."""

    mean: float
    std: float = Field(description="Population standard deviation.")
    p10: float
    median: float
    p90: float


class ClassScore(BaseModel):
    """The queries of one class."""

    label: str
    aps: float | None = Field(description="Mean average precision score; null: no query was scored.")
    queries: int = Field(description="Queries that were scored.")
    items: int = Field(description="Indexed items of the class.")


class Definition(BaseModel):
    """Everything that the number depends on."""

    text: str = Field(description="The definition in words.")
    queries: int = Field(description="Held-out queries that were scored.")
    dropped_queries: int = Field(description="Queries left out: no indexed item has their label.")
    items: int = Field(description="Indexed items that were ranked: those with a label.")
    unlabelled_items: int = Field(description="Indexed items without a label, left out of the ranking.")
    k: int | None
    ties: Ties
    denominator: Denominator
    encoder_id: str
    artifact: str = Field(description="Name of the artifact's folder.")
    rule: str | None
    backbone: str | None
    labels: str | None = Field(description="Which labels training was given.")
    dataset: str | None
    bits: int
    created: str = Field(description="When the artifact was made (ISO 8601, UTC).")


class Evaluation(BaseModel):
    """How good the answers are, measured on images that training never saw."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "map": 0.962,
                    "aps": {"mean": 0.962, "std": 0.11, "p10": 0.88, "median": 0.99, "p90": 1.0},
                    "per_class": [{"label": "3", "aps": 0.95, "queries": 18, "items": 165}],
                    "definition": {
                        "text": "Mean of the average precision of 180 held-out queries, …",
                        "queries": 180,
                        "dropped_queries": 0,
                        "items": 1617,
                        "unlabelled_items": 0,
                        "k": None,
                        "ties": "expected",
                        "denominator": "min",
                        "encoder_id": "4f0c2a9be1d37750",
                        "artifact": "digits-conv6-hpca_fh-1",
                        "rule": "hpca_fh",
                        "backbone": "conv6",
                        "labels": "100%",
                        "dataset": "digits",
                        "bits": 256,
                        "created": "2026-01-31T12:00:00+00:00",
                    },
                }
            ]
        }
    )

    map: float = Field(description="Mean average precision, 0 to 1.")
    aps: ScoreSummary
    per_class: list[ClassScore]
    definition: Definition


class Image(BaseModel):
    """What is known of an image in the catalogue."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": 17,
                    "path": "three/0017.png",
                    "label": "3",
                    "split": "database",
                    "width": 8,
                    "height": 8,
                    "thumbnail": "/images/17/thumbnail",
                    "original": "/images/17/original",
                }
            ]
        }
    )

    id: int
    path: str = Field(description="Relative to the indexed folder.")
    label: str | None
    split: str = Field(description="database: it can be found; query: held out to measure the answers.")
    width: int
    height: int
    thumbnail: str
    original: str | None = Field(description="null: the original file is not there.")


class Health(BaseModel):
    """The service is well."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "live"}]})

    status: Literal["live"] = "live"


class Readiness(BaseModel):
    """The service has just answered a query."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ready", "items": 1617}]})

    status: Literal["ready"] = "ready"
    items: int = Field(description="Indexed images.")


class Problem(BaseModel):
    """An error as in RFC 9457."""

    type: str = "about:blank"
    title: str = Field(description="What the status means.")
    status: int
    detail: str = Field(description="What is wrong and what can be done about it.")


PROBLEM_MEDIA_TYPE = "application/problem+json"


def problems(details: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these statuses, each with an example of its detail."""
    return {
        status: {
            "description": detail,
            "content": {
                PROBLEM_MEDIA_TYPE: {
                    "schema": Problem.model_json_schema(),
                    "example": {"type": "about:blank", "title": "…", "status": status, "detail": detail},
                }
            },
        }
        for status, detail in details.items()
    }


def too_large(limit: int) -> str:
    """The detail of every 413."""
    return f"the image has more than {limit:,} bytes; send a smaller one"
