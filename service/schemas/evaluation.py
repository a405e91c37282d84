"""How good the answers are, over HTTP."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from index.conventions import Denominator, Ties
from service.schemas.example import with_example


class Curve(BaseModel):
    """What the held-out queries say of each Hamming distance: means over them of everything within it, and
    the share of the images at it that have a query's label."""

    model_config = with_example(
        {
            "radius": [0, 1, 2],
            "precision": [1.0, 0.99, 0.97],
            "recall": [0.01, 0.04, 0.09],
            "precision_at": [1.0, 0.97, 0.96],
            "same_class": [29, 131, 240],
            "other_class": [0, 4, 10],
        }
    )

    radius: list[int] = Field(description="0 to the number of bits; inclusive.")
    precision: list[float] = Field(description="0 for a query that finds nothing within the radius.")
    recall: list[float]
    precision_at: list[float] = Field(
        description="Of the labelled images at this distance of a query, the share with its label; smoothed "
        "so that it never rises. So sure one may be of a result."
    )
    same_class: list[int] = Field(
        description="Pairs of a held-out query and a labelled image at this distance, with the same label."
    )
    other_class: list[int] = Field(description="The same with different labels.")


class EvaluationParameters(BaseModel):
    """Which mean average precision."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[
        int | None, Field(ge=1, le=2**31, description="Cut-off; left out: the whole ranking.", examples=[100])
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


class Interval(BaseModel):
    """Between which values a figure lies."""

    low: float
    high: float


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
    later_queries: int = Field(
        description="Held-out queries whose labels came after the index was built; they can be found, too."
    )
    items: int = Field(description="Indexed items that were ranked: those with a label.")
    unlabelled_items: int = Field(description="Indexed items without a label, left out of the ranking.")
    copies_of_queries: int = Field(
        description="Labelled items that are held-out queries too, byte for byte, likewise left out; and "
        "those that nearly are, if the index was built with near_copies=leave_out."
    )
    grouped_items: int = Field(
        description="Items whose label was accepted in a group, likewise left out: nobody looked at each."
    )
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

    model_config = with_example(
        {
            "map": 0.962,
            "interval": {"low": 0.943, "high": 0.977},
            "chance": 0.103,
            "aps": {"mean": 0.962, "std": 0.11, "p10": 0.88, "median": 0.99, "p90": 1.0},
            "per_class": [{"label": "3", "aps": 0.95, "queries": 18, "items": 165}],
            "definition": {
                "text": "Mean of the average precision of 180 held-out queries, …",
                "queries": 180,
                "dropped_queries": 0,
                "later_queries": 0,
                "items": 1617,
                "unlabelled_items": 0,
                "copies_of_queries": 0,
                "grouped_items": 0,
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
    )

    map: float = Field(description="Mean average precision, 0 to 1.")
    interval: Interval | None = Field(
        description="Where 95 % of the means lie if the queries are drawn again from themselves (percentile "
        "bootstrap, 2,000 times): how much is owed to these queries, not what training again would change. "
        "null: there is one query."
    )
    chance: float = Field(description="The mAP that is expected of a ranking at random.")
    aps: ScoreSummary
    per_class: list[ClassScore]
    definition: Definition


class QueryPageParameters(EvaluationParameters):
    """Which average precision score, and which queries."""

    order: Annotated[Literal["worst", "best"], Field(description="Which come first.")] = "worst"
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many queries.")] = 20
    after: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9](\.[0-9]{1,20})?(e-[0-9]{1,3})?:[0-9]{1,18}$",
            description="Only what comes after this: a page's `next`.",
            examples=["0.0123:1702"],
        ),
    ] = None


class ScoredQuery(BaseModel):
    """A held-out query and how well it was answered."""

    id: int
    label: str
    aps: float = Field(description="Average precision score, 0 to 1.")
    thumbnail: str


class QueryPage(BaseModel):
    """Queries by their score; those without an image of their label are not scored and left out."""

    model_config = with_example(
        {
            "queries": [{"id": 1702, "label": "8", "aps": 0.0123, "thumbnail": "/images/1702/thumbnail"}],
            "next": "0.0123:1702",
        }
    )

    queries: list[ScoredQuery]
    next: str | None = Field(description="`after` of the next page; null: this is the last one.")


class Confused(BaseModel):
    """Queries of one class whose nearest image is of another, or of the same."""

    label: str = Field(description="Of the queries.")
    nearest: str = Field(description="Of the nearest image.")
    queries: float = Field(description="How many; a part of one where several images are nearest.")


class Confusion(BaseModel):
    """The class of the nearest labelled image, by the class of the query."""

    model_config = with_example(
        {
            "accuracy": 0.95,
            "nearest": [
                {"label": "3", "nearest": "3", "queries": 19.0},
                {"label": "3", "nearest": "8", "queries": 1.0},
            ],
        }
    )

    accuracy: float = Field(description="Share of the queries whose nearest image has their label.")
    nearest: list[Confused] = Field(description="Only those that occur, the most queries first.")


class BitReport(BaseModel):
    """One bit of the codes."""

    bit: int = Field(description="From 0, the most significant of the first byte.")
    balance: float = Field(description="Share of the images whose code has a one here.")
    entropy: float = Field(description="In bits: 1 at a balance of one half, 0 where it never changes.")


class CorrelatedBits(BaseModel):
    """Two bits that say much of each other."""

    first: int
    second: int
    correlation: float = Field(description="Pearson's, −1 to 1.")


class Collision(BaseModel):
    """Images that share a code: no search can tell them apart."""

    code: str = Field(description="In hexadecimal.")
    size: int = Field(description="How many images.")
    ids: list[int] = Field(description="The lowest of their ids, at most ten.")


class CodeReport(BaseModel):
    """The state of the codes of all indexed images."""

    model_config = with_example(
        {
            "items": 1618,
            "bits": [{"bit": 0, "balance": 0.47, "entropy": 0.9974}],
            "dead": [17],
            "effective_bits": 9.8,
            "mean_absolute_correlation": 0.27,
            "most_correlated": [{"first": 3, "second": 90, "correlation": -0.98}],
            "distinct": 1400,
            "colliding": 300,
            "collisions": [{"code": "9c41d7" + "0" * 58, "size": 12, "ids": [4, 17]}],
        }
    )

    items: int
    bits: list[BitReport]
    dead: list[int] = Field(description="Bits that are the same in every code.")
    effective_bits: float = Field(
        description="How many uncorrelated bits would say as much: (Σλ)² / Σλ² over the eigenvalues λ of the "
        "correlation matrix of the bits that are not dead (Bretherton et al. 1999)."
    )
    mean_absolute_correlation: float = Field(description="Over the pairs of bits that are not dead.")
    most_correlated: list[CorrelatedBits] = Field(
        description="The 20 pairs with the largest absolute correlation, largest first."
    )
    distinct: int = Field(description="Different codes.")
    colliding: int = Field(description="Images that share their code with another.")
    collisions: list[Collision] = Field(description="The 20 largest groups that share a code, largest first.")
