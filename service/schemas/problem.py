"""Errors over HTTP (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field

from index.names import shown

PROBLEM_MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """An error as in RFC 9457."""

    type: str = "about:blank"
    title: str = Field(description="What the status means.")
    status: int
    detail: str = Field(description="What is wrong and what can be done about it.")


def problem(status: int, detail: str) -> Problem:
    """The error of this status. What is no Unicode in the detail, as JSON may bring it, reads �."""
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=shown(detail))


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
