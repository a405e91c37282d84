"""Every error as a problem that says what to do."""

import reprlib
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from index.artifact import ArtifactError
from index.database import CatalogueAway, CatalogueBusy, CatalogueError, Followed
from index.engine import EngineAway, EngineError
from index.labels import LabelError
from index.space import no_space
from service.core.artifacts.carrying import CannotCarry
from service.core.jobs import JobError, NoRoom
from service.core.library import HeldOut, InTrash, OtherBytes, OtherLabel
from service.core.live import NotReplaced
from service.core.measuring import NothingToMeasure
from service.core.pictures.copies import NotHashed
from service.core.pictures.decoding import NoDecoder
from service.core.searcher import UnknownLabel
from service.schemas.problem import PROBLEM_MEDIA_TYPE, problem

# What the searcher and the library refuse wherever it is asked; their messages say what to do.
REFUSALS: dict[type[Exception], int] = {
    UnknownLabel: 422,
    LabelError: 422,
    NothingToMeasure: 409,
    HeldOut: 409,
    NotHashed: 409,
    InTrash: 409,
    OtherBytes: 409,
    OtherLabel: 409,
    CannotCarry: 409,
    NotReplaced: 409,
    JobError: 409,
    NoRoom: 507,
    ArtifactError: 422,
    NoDecoder: 503,
    CatalogueAway: 503,
    CatalogueBusy: 503,
    Followed: 503,
    EngineAway: 503,
    EngineError: 409,
}
EXPLAINED = 5  # faults that one refusal explains


def as_response(status: int, detail: str, headers: Any = None) -> Response:
    return JSONResponse(problem(status, detail).model_dump(), status, headers, PROBLEM_MEDIA_TYPE)


async def on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if detail == HTTPStatus(error.status_code).phrase:  # the router's own words say too little
        detail = {
            404: "there is nothing at this address; /docs lists the addresses there are",
            405: f"{request.method} is not possible here, only {(error.headers or {}).get('Allow')}",
        }.get(error.status_code, detail)
    elif detail == "There was an error parsing the body":  # FastAPI's
        detail = "the body cannot be read as JSON; send it in UTF-8, as /docs shows"
    return as_response(error.status_code, detail, error.headers)


async def on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    more = f"; and {len(faults) - EXPLAINED} more" if len(faults) > EXPLAINED else ""
    return as_response(422, "; ".join(explained(fault) for fault in faults[:EXPLAINED]) + more)


def explained(fault: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in fault["loc"][1:])
    if fault["type"] == "extra_forbidden":
        return f"{name[:80]}: there is no such parameter; /docs lists those there are"
    if fault["type"] == "json_invalid":
        return f"the body is no JSON ({fault['ctx']['error']}, at character {fault['loc'][-1]})"
    if fault["type"] == "model_attributes_type" and isinstance(fault["input"], bytes):
        return "the body was not sent as JSON: give it the header Content-Type: application/json"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{name}: {message}, not {_short(fault['input'])!r}" if name else message


def _short(value: Any) -> str:
    try:
        return str(value)[:80]
    except RecursionError:  # nested too deep to be written out
        return reprlib.repr(value)[:80]


async def on_refusal(_: Request, error: Exception) -> Response:
    status = 507 if no_space(error) else REFUSALS[type(error)]
    return as_response(status, str(error), later(status))


def unwritable(error: CatalogueError) -> HTTPException:
    """The catalogue could not be changed: no room, its server or others who change it, or its own reason."""
    status = 507 if no_space(error) else 503 if isinstance(error, CatalogueBusy | CatalogueAway) else 409
    return HTTPException(status, str(error), later(status))


def later(status: int) -> dict[str, str] | None:
    """The header that says when to come again, where that helps."""
    return {"Retry-After": "1"} if status == 503 else None


async def on_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # which nobody is there to read


def failed() -> Response:
    return as_response(
        500, "the service failed at this request and its log says why; other requests are answered"
    )
