"""What goes in and out over HTTP."""

import json
import unicodedata
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from index.conventions import Denominator, Ties

MOST_CODES, MOST_LABELS = 64, 100  # in one request


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
        Field(
            max_length=MOST_LABELS,
            description="Only items with one of these labels; repeatable.",
            examples=[["3", "8"]],
        ),
    ] = []


class Result(BaseModel):
    """An indexed image near the query."""

    id: int
    label: str | None = Field(description="null: the image has no label.")
    distance: int = Field(description="Hamming distance: bits in which the two codes differ.")
    similarity: float = Field(description="1 − distance / bits.")
    thumbnail: str = Field(description="Address of a small WebP image.")


ANSWER: dict[str, Any] = {
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


class SearchAnswer(BaseModel):
    """The nearest indexed images, sorted by (distance, id)."""

    model_config = ConfigDict(json_schema_extra={"examples": [ANSWER]})

    code: str = Field(description="The query's binary code in hexadecimal, most significant bit first.")
    results: list[Result]
    exact: bool = Field(description="true: no nearer item was missed.")
    ties_at_cut: int = Field(
        description="How many eligible items (label filter applied) lie at the distance of the last "
        "result, those returned included; 0 without results. Ties go to the lowest ids."
    )


class CodeSearch(SearchParameters):
    """Codes that were made elsewhere, and how to search with each of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"encoder_id": "4f0c2a9be1d37750", "codes": ["9c41d7" + "0" * 58], "k": 10}]
        }
    )

    codes: Annotated[
        list[str],
        Field(
            min_length=1,
            max_length=MOST_CODES,
            description="Each in hexadecimal, most significant bit first, as a search answers with them.",
        ),
    ]
    encoder_id: str = Field(description="What made them; GET /eval/map and a manifest.json name it.")


class CodeSearchAnswer(BaseModel):
    """An answer to each code, in their order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"answers": [ANSWER]}]})

    answers: list[SearchAnswer]


class Curve(BaseModel):
    """What the held-out queries say of each Hamming distance: means over them of everything within it, and
    the share of the images at it that have a query's label."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "radius": [0, 1, 2],
                    "precision": [1.0, 0.99, 0.97],
                    "recall": [0.01, 0.04, 0.09],
                    "precision_at": [1.0, 0.97, 0.96],
                    "same_class": [29, 131, 240],
                    "other_class": [0, 4, 10],
                }
            ]
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
    items: int = Field(description="Indexed items that were ranked: those with a label.")
    unlabelled_items: int = Field(description="Indexed items without a label, left out of the ranking.")
    copies_of_queries: int = Field(
        description="Labelled items that were sent and are held-out queries byte for byte, likewise left out."
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

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
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
                        "items": 1617,
                        "unlabelled_items": 0,
                        "copies_of_queries": 0,
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
    interval: Interval | None = Field(
        description="Where 95 % of the means lie if the queries are drawn again from themselves (percentile "
        "bootstrap, 2,000 times): how much is owed to these queries, not what training again would change. "
        "null: there is one query."
    )
    chance: float = Field(description="The mAP that is expected of a ranking at random.")
    aps: ScoreSummary
    per_class: list[ClassScore]
    definition: Definition


IMAGE: dict[str, Any] = {
    "id": 17,
    "path": "three/0017.png",
    "folder": "scans",
    "label": "3",
    "split": "database",
    "width": 8,
    "height": 8,
    "added": 1764028800,
    "sha256": "ab" * 32,
    "metadata": {"camera": "left"},
    "thumbnail": "/images/17/thumbnail",
    "original": "/images/17/original",
}


class Image(BaseModel):
    """What is known of an image in the catalogue."""

    model_config = ConfigDict(json_schema_extra={"examples": [IMAGE]})

    id: int
    path: str = Field(description="Relative to its folder.")
    folder: str | None = Field(
        description="Name of the folder that it was sent from; null: it was indexed when the artifact was "
        "made, or sent alone."
    )
    label: str | None
    split: str = Field(description="database: it can be found; query: held out to measure the answers.")
    width: int
    height: int
    added: int | None = Field(description="Seconds since 1970; null: an earlier version did not note it.")
    sha256: str | None = Field(description="Of the file, in hexadecimal; null: not known.")
    metadata: dict[str, Any] = Field(description="The user's own.")
    thumbnail: str
    original: str | None = Field(description="null: the original file is not there.")


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("use printable characters, and no space around them")
    return text


def _relative(path: str) -> str:
    if path.startswith("/") or "\\" in path or {"", ".", ".."} & set(path.split("/")):
        raise ValueError("use a relative path with / between its parts, none of them empty, '.' or '..'")
    if not all(map(_can_be_shown, path)):
        raise ValueError("use a path of printable characters")
    return path


def _can_be_shown(letter: str) -> bool:
    # Spaces of other widths stand in the names of macOS's screenshots, joiners in emoji and in Persian.
    return letter.isprintable() or letter in "\u200c\u200d" or unicodedata.category(letter) == "Zs"


ImageText = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Sha256 = Annotated[str, Field(pattern="^[0-9A-Fa-f]{64}$")]
ImagePath = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_relative)]


class PageParameters(BaseModel):
    """Which images to list."""

    model_config = ConfigDict(extra="forbid")

    after: Annotated[
        int, Field(ge=0, lt=2**63, description="Only ids above this one: a page's `next`.", examples=[100])
    ] = 0
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many images.")] = 100
    split: Annotated[
        Literal["database", "query"],
        Field(description="database: what can be found; query: held out to measure the answers."),
    ] = "database"
    label: Annotated[
        list[str],
        Field(
            max_length=MOST_LABELS,
            description="Only images with one of these labels; repeatable.",
            examples=[["3", "8"]],
        ),
    ] = []
    unlabelled: Annotated[
        bool, Field(description="Only images without a label, beside those with one of `label`.")
    ] = False
    folder: ImageText | None = Field(
        default=None, description="Only images that were sent with this folder's name.", examples=["scans"]
    )
    sha256: Sha256 | None = Field(
        default=None, description="Only images whose file has this SHA-256.", examples=["0f" * 32]
    )


class Page(BaseModel):
    """Images by ascending id."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"images": [IMAGE], "next": 17}]})

    images: list[Image]
    next: int | None = Field(description="`after` of the next page; null: this is the last one.")


class AddedImage(BaseModel):
    """What became of one image."""

    name: str = Field(description="Of the file; its path where a folder was given.")
    status: Literal["added", "exists", "refused"]
    image: Image | None = Field(description="null: it was refused, or is gone already.")
    error: str | None = Field(description="Why it was refused.")


class AddedImages(BaseModel):
    """What became of each image, in their order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "images": [
                        {"name": "0017.png", "status": "added", "image": IMAGE, "error": None},
                        {
                            "name": "notes.txt",
                            "status": "refused",
                            "image": None,
                            "error": "not an image in a known format (PNG, JPEG, …)",
                        },
                    ]
                }
            ]
        }
    )

    images: list[AddedImage]


def _small(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, RecursionError) as error:  # NaN, half of a surrogate pair
        raise ValueError(f"it cannot be written as JSON ({str(error)[:80]})") from None
    if size > MOST_METADATA:
        raise ValueError(f"it has {size:,} bytes as JSON, at most {MOST_METADATA:,} are kept")
    if _depth(value) > DEEPEST_METADATA:
        raise ValueError(f"it is nested more than {DEEPEST_METADATA} levels deep")
    return value


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


MOST_METADATA = 16_384  # bytes
DEEPEST_METADATA = 20
Metadata = Annotated[dict[str, Any], AfterValidator(_small)]


class Change(BaseModel):
    """What to change of an image; what is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"label": "cat", "metadata": {"camera": "left"}}]}
    )

    label: ImageText | None = Field(default=None, description="May be new; null: none.")
    metadata: Metadata | None = Field(
        default=None, description="Takes the place of what there was; null or left out: as it is."
    )


class Reload(BaseModel):
    """Which artifact to serve from now on."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"artifact": "run-002"}]})

    artifact: Annotated[
        str | None,
        Field(
            max_length=255,
            description="Name of a folder beside the one that is served; left out: what HEBBSEARCH_ARTIFACT "
            "leads to now.",
        ),
    ] = None
    force: Annotated[
        bool, Field(description="Even if it answers worse, or nobody knows whether it does.")
    ] = False
    as_it_is: Annotated[
        bool,
        Field(
            description="Without what was sent, changed and removed since, and without comparing: so that a "
            "copy that was made before comes back."
        ),
    ] = False


class CarriedOver(BaseModel):
    """What was done to the artifact before and is done to the one that took its place."""

    added: int = Field(description="Images that were sent.")
    changed: int = Field(description="Images that were given another label or other metadata.")
    removed: int


class Compared(BaseModel):
    """Both artifacts on the images that both hold out, each over its own index."""

    queries: int = Field(description="Images that both hold out.")
    map_before: float
    map_after: float


class Reloaded(BaseModel):
    """Another artifact is served."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "before": "run-001",
                    "after": "run-002",
                    "carried_over": {"added": 12, "changed": 1, "removed": 3},
                    "compared": {"queries": 180, "map_before": 0.962, "map_after": 0.97},
                }
            ]
        }
    )

    before: str = Field(description="The artifact that was served.")
    after: str = Field(description="The one that is served, also after a restart.")
    carried_over: CarriedOver
    compared: Compared | None = Field(description="null: there was nothing to compare by.")


class SnapshotRequest(BaseModel):
    """What to call the copy."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "backup-2026-01-31"}]})

    name: Annotated[
        str, Field(max_length=255, description="Name of a new folder beside the artifact that is served.")
    ]


class SnapshotMade(BaseModel):
    """A copy was made."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "backup-2026-01-31", "items": 1617, "encoder_id": "4f0c…"}]}
    )

    name: str
    items: int = Field(description="Indexed images.")
    encoder_id: str


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


class ImageAnswer(BaseModel):
    """What became of one image that was searched with."""

    answer: SearchAnswer | None = Field(description="null: it was refused.")
    error: Problem | None = Field(description="As a search with this image alone is refused.")


class BatchAnswer(BaseModel):
    """An answer or an error to each image, in their order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "answers": [
                        {"answer": ANSWER, "error": None},
                        {
                            "answer": None,
                            "error": {
                                "type": "about:blank",
                                "title": "Unsupported Media Type",
                                "status": 415,
                                "detail": "not an image in a known format (PNG, JPEG, …)",
                            },
                        },
                    ]
                }
            ]
        }
    )

    answers: list[ImageAnswer]


PROBLEM_MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str) -> Problem:
    """The error of this status."""
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)


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


READING, PAUSE = 300.0, 20.0  # seconds for a whole body, and in which there must be more of it
TOO_SLOW = (
    f"the body had not come after {READING:g} seconds, or no more of it for {PAUSE:g}; send it again, or less"
)


def too_large(limit: int) -> str:
    """The detail of every 413."""
    return f"the image has more than {limit:,} bytes; send a smaller one"


def too_many(limit: int) -> str:
    """The detail of a 413 for many images."""
    return f"the images have more than {limit:,} bytes together; send fewer at a time"
