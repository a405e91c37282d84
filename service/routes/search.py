"""The routes: they check what comes in, call the searcher in a thread, and shape what goes out."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import numpy as np
from anyio import CapacityLimiter, create_task_group, fail_after, to_thread
from fastapi import Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from index.codes import Codes, from_hex
from index.names import shown
from service.core.library import too_large
from service.core.live import Generation
from service.core.pictures.copies import lacking
from service.core.pictures.decoding import NoDecoder, TooSlow
from service.core.searcher import Answer, Question
from service.schemas.problem import problem, problems
from service.schemas.search import (
    BatchAnswer,
    CodeSearch,
    CodeSearchAnswer,
    ImageSearchParameters,
    SearchAnswer,
)
from service.web import forms, limits
from service.web.access import reading_router
from service.web.asking import UNKNOWN_ID, UNREADABLE_JSON, ItemId, Service, address, found, lease, shared
from service.web.limits import TOO_SLOW, too_many
from service.web.places import ABREAST, BATCHES, place
from training.nets.images import ImageError, NotAnImage, TooManyPixels

router = reading_router()

SMALL = 2**18  # pixels that are decoded in a few milliseconds

BUSY = "{} searches are under way or waiting, as many as the service takes; try again in a second"
BUSY_WITH_BATCHES = "{} searches of many images are under way or waiting; try again in a second"
BUSY_WITH_LARGE = "large images before this one take too long; try again in a second, or send it smaller"
ANOTHER_ENCODER = "the codes are of encoder {}, this index is of encoder {}; encode the images with this one"

SEARCH_EXAMPLE = {"image": "(the bytes of cat.png)", "k": 10, "label": ["cat"]}
PARAMETERS = ImageSearchParameters.model_json_schema()["properties"]
SEARCH_INPUT = {
    # What FastAPI makes of the model; its own reading of it would be a quarter of its time for a search.
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {key: value for key, value in schema.items() if (key, value) != ("default", None)},
            "description": schema["description"],
        }
        for name, schema in PARAMETERS.items()
    ],
    "requestBody": {
        "required": True,
        "description": "One image in any format that Pillow reads.",
        "content": {**forms.form_of(forms.ONE_IMAGE, PARAMETERS, SEARCH_EXAMPLE), **forms.RAW_IMAGE},
    },
}
BATCH_EXAMPLE = {"image": ["(the bytes of cat.png)", "(the bytes of dog.png)"], "k": 10}
BATCH_INPUT = {
    "parameters": SEARCH_INPUT["parameters"],
    "requestBody": {"required": True, "content": forms.form_of(forms.MANY_IMAGES, PARAMETERS, BATCH_EXAMPLE)},
}


@router.post(
    "/search",
    response_model=SearchAnswer,
    summary="Find the indexed images nearest to an image",
    openapi_extra=SEARCH_INPUT,
    responses=problems(
        {
            400: f"the form cannot be read (Missing boundary in multipart); {forms.HOW_TO_SEND}",
            408: TOO_SLOW,
            409: lacking(1350),
            413: too_large(10_000_000),
            415: "not an image in a known format (PNG, JPEG, WebP, GIF, TIFF, …)",
            422: "k: Input should be less than or equal to 1000, not 5000",
            503: BUSY.format(128),
            507: forms.NO_SPACE_TO_READ.format("/tmp"),
        }
    ),
)
async def search(request: Request) -> Response:
    """Send the image as the multipart field `image` or as the raw request body.

    `k`, `max_distance` and `label` are query parameters or form fields.
    """
    query = _checked_parameters(forms.fields(request.query_params), "query")
    with place(shared(request).places.search, BUSY):  # before the image is read, which takes memory
        image, form = await forms.read_image(request)
        asked = _merged(query, _checked_parameters(form, "form"))
        with lease(request) as generation:
            answer = await _answered(request, generation, image, asked)
    return Response(_in_json(answer, request), media_type="application/json")


@router.post(
    "/search/batch",
    response_model=BatchAnswer,
    summary="Find the indexed images nearest to each of many images",
    openapi_extra=BATCH_INPUT,
    responses=problems(
        {
            400: f"the form cannot be read (Missing boundary in multipart); {forms.HOW_TO_SEND_MANY}",
            408: TOO_SLOW,
            409: lacking(1350),
            413: too_many(100_000_000),
            422: "k: Input should be less than or equal to 1000, not 5000",
            503: BUSY_WITH_BATCHES.format(BATCHES),
            507: forms.NO_SPACE_TO_READ.format("/tmp"),
        }
    ),
)
async def search_batch(request: Request) -> Response:
    """Send them as multipart fields `image`; the parameters are those of all. What cannot be read gets an
    error of its own. However many images come so, a single search waits for few of them."""
    query = _checked_parameters(forms.fields(request.query_params), "query")
    with place(
        shared(request).places.search_batch, BUSY_WITH_BATCHES
    ):  # before they are read, which takes memory
        images, form = await forms.read_images(request)
        asked = _merged(query, _checked_parameters(form, "form"))
        waiting, answers = iter(enumerate(images)), dict[int, bytes]()

        async def answer(generation: Generation, image: bytes) -> bytes:
            try:
                found = await _answered(request, generation, forms.checked(image, request), asked)
                return b'{"answer":%s,"error":null}' % _in_json(found, request)
            except HTTPException as error:
                return b'{"answer":null,"error":%s}' % to_json(problem(error.status_code, error.detail))

        async def take_turns(generation: Generation) -> None:
            for number, image in waiting:
                async with shared(request).places.search_batch_images:
                    answers[number] = await answer(generation, image)

        with lease(request) as generation:
            wanted = partial(generation.searcher.wanted, asked.k, asked.max_distance, asked.label)
            await to_thread.run_sync(wanted)  # raises for all
            if asked.by == "picture":
                await to_thread.run_sync(generation.searcher.pictures.check)
            async with create_task_group() as tasks:
                for _ in range(ABREAST):
                    tasks.start_soon(take_turns, generation)
    body = b'{"answers":[%s]}' % b",".join(answers[number] for number in range(len(images)))
    return Response(body, media_type="application/json")


@router.post(
    "/search/codes",
    summary="Find the indexed images nearest to codes that were made elsewhere",
    responses=problems(
        {
            **UNREADABLE_JSON,
            409: ANOTHER_ENCODER.format("0123456789abcdef", "4f0c2a9be1d37750"),
            422: "codes.0: a 256-bit code has 64 hexadecimal digits, not 4",
            503: BUSY.format(128),
        }
    ),
    response_model=CodeSearchAnswer,
)
async def search_codes(request: Request, searcher: Service, asked: CodeSearch) -> Response:
    """Codes of another encoder mean something else: they are refused."""
    ours = searcher.artifact.manifest.encoder_id
    if asked.encoder_id != ours:
        raise HTTPException(409, ANOTHER_ENCODER.format(asked.encoder_id[:80], ours))
    codes = np.concatenate([_code(text, at, searcher.catalogue.bits) for at, text in enumerate(asked.codes)])

    def work() -> list[Answer]:
        wanted = searcher.wanted(asked.k, asked.max_distance, asked.label)
        return searcher.nearest(codes, [wanted] * len(codes))

    with place(shared(request).places.search, BUSY):
        answers = await to_thread.run_sync(work)
    shared(request).metrics.searches.labels("code", "content").inc(len(answers))
    body = b'{"answers":[%s]}' % b",".join(_in_json(answer, request) for answer in answers)
    return Response(body, media_type="application/json")


@router.get(
    "/images/{item_id}/similar",
    summary="Find the indexed images nearest to one of them",
    responses=problems({**UNKNOWN_ID, 409: lacking(1350), 503: BUSY.format(128)}),
    response_model=SearchAnswer,
)
async def similar(
    item_id: ItemId, request: Request, searcher: Service, asked: Annotated[ImageSearchParameters, Query()]
) -> Response:
    """By its stored code or hash, without itself; a held-out query may be asked with too."""

    def work() -> Answer:
        wanted = searcher.wanted(asked.k, asked.max_distance, asked.label)
        look = searcher.copies_of_item if asked.by == "picture" else searcher.similar
        return found(partial(look, wanted=wanted), item_id)

    with place(shared(request).places.search, BUSY):
        answer = await to_thread.run_sync(work)
    shared(request).metrics.searches.labels("code", asked.by).inc()
    return Response(_in_json(answer, request), media_type="application/json")


def _in_json(answer: Answer, request: Request) -> bytes:
    """A SearchAnswer. Of plain values: making its models and checking them again took a third of all that a
    search costs in the event loop."""
    return to_json(
        {
            "code": answer.code.tobytes().hex(),
            "results": [
                {
                    "id": match.id,
                    "path": None if match.path is None else shown(match.path),
                    "folder": match.folder or None,
                    "label": match.label,
                    "distance": match.distance,
                    "similarity": match.similarity,
                    "thumbnail": address(request, match.id, "thumbnail"),
                }
                for match in answer.matches
            ],
            "exact": answer.exact,
            "ties_at_cut": answer.ties_at_cut,
            "predicted": answer.predicted and answer.predicted.label,
            "confidence": answer.predicted and answer.predicted.confidence,
            "plain": answer.plain,
            "stale": answer.stale,
        }
    )


def _code(text: str, at: int, bits: int) -> Codes:
    try:
        return from_hex(text, bits)
    except ValueError as error:
        raise HTTPException(422, f"codes.{at}: {error}") from None


async def _answered(
    request: Request, generation: Generation, image: bytes, asked: ImageSearchParameters
) -> Answer:
    """Small images are decoded with their batch; a large or slow one beforehand, in a thread of its own.
    Raises HTTPException for what is no good image."""
    small, large = shared(request).small.decode, shared(request).large.decode
    copies = asked.by == "picture"
    prepare = partial(
        generation.searcher.prepare,
        image,
        k=asked.k,
        max_distance=asked.max_distance,
        labels=asked.label,
        copies=copies,
    )
    answer = partial(_copies, request, generation) if copies else generation.batches.ask
    try:
        try:
            return await answer(partial(prepare, max_pixels=SMALL, decode=small))
        except (TooManyPixels, TooSlow):
            async with _turn(shared(request).places.decode):
                question = await to_thread.run_sync(
                    partial(prepare, decode=large), limiter=CapacityLimiter(1)
                )
            return await answer(lambda: question)
    except NoDecoder as error:
        raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
    except NotAnImage as error:
        raise HTTPException(415, str(error)) from None
    except ImageError as error:
        raise HTTPException(422, str(error)) from None


async def _copies(request: Request, generation: Generation, prepare: Callable[[], Question]) -> Answer:
    """Each by itself: nearly all of its time goes into comparing parts of pictures."""
    answer = await to_thread.run_sync(lambda: generation.searcher.copies_of(prepare()))
    shared(request).metrics.searches.labels("image", "picture").inc()
    return answer


@asynccontextmanager
async def _turn(places: CapacityLimiter) -> AsyncIterator[None]:
    """One of the places, when it is free. HTTPException, 503, where that takes too long."""
    borrower = object()
    try:
        with fail_after(limits.WAITING):
            await places.acquire_on_behalf_of(borrower)
    except TimeoutError:
        raise HTTPException(503, BUSY_WITH_LARGE, {"Retry-After": "1"}) from None
    try:
        yield
    finally:
        places.release_on_behalf_of(borrower)


def _checked_parameters(fields: dict[str, Any], place: str) -> ImageSearchParameters:
    try:
        return ImageSearchParameters.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(
            [{**each, "loc": (place, *each["loc"])} for each in error.errors()]
        ) from None


def _merged(query: ImageSearchParameters, form: ImageSearchParameters) -> ImageSearchParameters:
    """Parameters from the query string and the form together; giving both is fine if they agree."""
    for name in query.model_fields_set & form.model_fields_set:
        in_query, in_form = getattr(query, name), getattr(form, name)
        if in_query != in_form:
            raise HTTPException(
                422, f"{name} is {in_query} in the address and {in_form} in the form; give one of them"
            )
    return query.model_copy(update=form.model_dump(exclude_unset=True))
