"""What was deleted and can come back, and what was done and can be undone, over HTTP."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.example import with_example
from service.schemas.images import IMAGE, MOST_AT_ONCE, Image, KnownId

BATCH = "X-Batch"  # header with the name of what was changed, and of several requests together


class TrashParameters(BaseModel):
    """Which part of the trash."""

    model_config = ConfigDict(extra="forbid")

    offset: Annotated[int, Field(ge=0, lt=2**31, description="Without so many of the first.")] = 0
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many images.")] = 100


class TrashPage(BaseModel):
    """Images that were deleted, the latest first."""

    model_config = with_example(
        {
            "images": [IMAGE | {"split": "trash", "trashed": 1764460800}],
            "total": 1,
            "days": 30,
        }
    )

    images: list[Image]
    total: int = Field(description="How many lie in the trash.")
    days: int = Field(description="So long each lies there; 0: nothing goes there.")


class Ids(BaseModel):
    """Which images."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ids": [17, 18]}]})

    ids: Annotated[list[KnownId], Field(min_length=1, max_length=MOST_AT_ONCE)]


class EmptyParameters(BaseModel):
    """What of the trash."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[
        list[Annotated[int, Field(ge=1, lt=2**63)]],
        Field(
            max_length=1000, description="Only these; repeatable. Without any, all of it.", examples=[[17]]
        ),
    ] = []


class ChangesParameters(BaseModel):
    """How many changes."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many.")] = 20


class Batch(BaseModel):
    """What one request did, which can be undone as a whole."""

    batch: str = Field(description="Its name.")
    together: str | None = Field(
        description="What the names of all changes of one piece of work begin with, if its requests said so "
        f"(header `{BATCH}`)."
    )
    time: int = Field(description="Seconds since 1970.")
    counts: dict[Literal["added", "changed", "trashed", "restored"], int] = Field(
        description="Images, by what happened to them."
    )
    images: list[int] = Field(description="The ids of the first of them.")
    undoable: int = Field(description="How many of them nobody has changed since.")


class Batches(BaseModel):
    """What was changed, the latest first."""

    model_config = with_example(
        {
            "changes": [
                {
                    "batch": "9f86d081884c7d65",
                    "together": None,
                    "time": 1764460800,
                    "counts": {"trashed": 60},
                    "images": [17, 18, 19],
                    "undoable": 60,
                }
            ]
        }
    )

    changes: list[Batch]
