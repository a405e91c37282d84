"""Searches over HTTP."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.example import with_example
from service.schemas.problem import Problem

MOST_CODES, MOST_LABELS = 64, 100  # in one request

# What is compared: what a picture shows, or its pixels.
Space = Literal["content", "picture"]
SPACES: tuple[Space, ...] = get_args(Space)


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


class ImageSearchParameters(SearchParameters):
    """How to search with an image."""

    by: Annotated[
        Space,
        Field(
            description="content: what shows the like, by codes. picture: the same picture, saved anew, "
            "smaller, grey, mirrored, turned by quarters, with a text or a border, or a part of it, by "
            "hashes of the pixels (PDQ).",
            examples=["content"],
        ),
    ] = "content"


class Result(BaseModel):
    """An indexed image near the query."""

    id: int
    path: str | None = Field(description="As GET /images/{id} has it. null: it was removed meanwhile.")
    folder: str | None = Field(description="As GET /images/{id} has it.")
    label: str | None = Field(description="null: the image has no label.")
    distance: int = Field(
        description="Hamming distance: bits in which the two codes differ; with by=picture of the two "
        "hashes, 31 and less for the same picture."
    )
    similarity: float = Field(description="1 − distance / bits.")
    thumbnail: str = Field(description="Address of a small WebP image.")


ANSWER: dict[str, Any] = {
    "code": "9c41d7" + "0" * 58,
    "results": [
        {
            "id": 17,
            "path": "three/0017.png",
            "folder": None,
            "label": "3",
            "distance": 12,
            "similarity": 0.953125,
            "thumbnail": "/images/17/thumbnail",
        }
    ],
    "exact": True,
    "ties_at_cut": 1,
    "predicted": "3",
    "confidence": 0.94,
    "plain": False,
    "stale": 0,
}


class SearchAnswer(BaseModel):
    """The nearest indexed images, sorted by (distance, id)."""

    model_config = with_example(ANSWER)

    code: str = Field(description="The query's binary code in hexadecimal, most significant bit first.")
    results: list[Result]
    exact: bool = Field(description="true: no nearer item was missed.")
    ties_at_cut: int = Field(
        description="How many eligible items (label filter applied) lie at the distance of the last "
        "result, those returned included; 0 without results. Ties go to the lowest ids."
    )
    predicted: str | None = Field(
        description="The query's likeliest label, by what was learned from labels; null: from none or too "
        "few, or nobody knows (of a code that was made elsewhere)."
    )
    confidence: float | None = Field(description="How likely that is, from 0 to 1.")
    plain: bool = Field(
        description="By picture: whether the query has too little detail to be told from others, so that "
        "near results may be other pictures."
    )
    stale: int = Field(
        description="How many changes what ranks elsewhere (HEBBSEARCH_ENGINE) could not take yet. New "
        "images among them are not found; deleted ones never are. 0: this is the index as it is now."
    )


class CodeSearch(SearchParameters):
    """Codes that were made elsewhere, and how to search with each of them."""

    model_config = with_example({"encoder_id": "4f0c2a9be1d37750", "codes": ["9c41d7" + "0" * 58], "k": 10})

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

    model_config = with_example({"answers": [ANSWER]})

    answers: list[SearchAnswer]


class ImageAnswer(BaseModel):
    """What became of one image that was searched with."""

    answer: SearchAnswer | None = Field(description="null: it was refused.")
    error: Problem | None = Field(description="As a search with this image alone is refused.")


class BatchAnswer(BaseModel):
    """An answer or an error to each image, in their order."""

    model_config = with_example(
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
    )

    answers: list[ImageAnswer]
