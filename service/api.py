"""The routes: they check what comes in, call the searcher in a thread, and shape what goes out."""

import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import PurePath
from tempfile import gettempdir
from typing import Annotated, Any, TypeVar

import numpy as np
from anyio import CapacityLimiter, WouldBlock, create_task_group, to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from pydantic import ValidationError
from pydantic_core import to_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, ImmutableMultiDict, UploadFile
from starlette.exceptions import HTTPException

from index.codes import Codes, from_hex
from index.items import UNLABELLED, Item
from index.space import no_space
from index.sqlite import CatalogueError
from service.access import KEY_TOO_WEAK, NO_KEY, Access, guarded_router, may_have_originals
from service.decoding import TooSlow
from service.live import Generation, Live
from service.schemas import (
    TOO_SLOW,
    BatchAnswer,
    CodeSearch,
    CodeSearchAnswer,
    Curve,
    Evaluation,
    EvaluationParameters,
    Health,
    Image,
    Page,
    PageParameters,
    Readiness,
    SearchAnswer,
    SearchParameters,
    problem,
    problems,
    too_large,
    too_many,
)
from service.searcher import Answer, NoOriginal, Searcher
from service.settings import Settings
from training.nets.images import ImageError, NotAnImage, TooManyPixels

T = TypeVar("T")

log = logging.getLogger("hebbsearch")

router = APIRouter()  # open to all: whether the service is well
reading = guarded_router(
    Access.READ,
    responses=problems({401: NO_KEY, 403: KEY_TOO_WEAK.format("read")}),
)

# What a browser shows as a picture and never runs. Any other original is a download.
SAFE_TYPES = {
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}
DOWNLOAD = "application/octet-stream"

SMALL = 2**18  # pixels that are decoded in a few milliseconds

MOST_FIELDS, LARGEST_FIELD = 200, 65_536  # of a form, beside its files; bytes

NO_SPACE_TO_READ = (
    "{} is full, where large images of a form lie while they are read; free space there, set TMPDIR to "
    "another folder, or send one image as the raw body"
)

BATCHES = 4  # requests that search many images, under way or waiting; each may hold max_batch_bytes
ABREAST = 8  # of their images, all together, that are encoded or wait for it beside single searches

GIVEN_TWICE = "{} is given more than once, with different values; give one"
HOW_TO_SEND_MANY = "send the images as multipart fields 'image'"
HOW_TO_SEND = "send one image as the multipart field 'image' or as the raw request body"

BUSY = "{} searches are under way or waiting, as many as the service takes; try again in a second"
NOT_READY = "a search that was tried with a tiny image is not answered now:"
BUSY_WITH_BATCHES = "{} searches of many images are under way or waiting; try again in a second"

UNKNOWN_ID = {404: "there is no image 123456", 422: "item_id: Input should be a valid integer, not 'x'"}

ANOTHER_ENCODER = "the codes are of encoder {}, this index is of encoder {}; encode the images with this one"

KEPT_BACK = (
    "the files themselves, which may say where a picture was taken, are not for everyone who may read; see "
    "HEBBSEARCH_ORIGINALS_TO, or take the thumbnail"
)

UNREADABLE_JSON = {
    400: "the body cannot be read as JSON; send it in UTF-8, as /docs shows",
    408: TOO_SLOW,
    413: "the body has more than 262,144 bytes; send less at a time",
}

MANY_IMAGES = {"type": "array", "items": {"type": "string", "format": "binary"}}
RAW_IMAGE = {
    "image/*": {"schema": {"type": "string", "format": "binary"}, "example": "(the bytes of cat.png)"}
}

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
        for name, schema in SearchParameters.model_json_schema()["properties"].items()
    ],
    "requestBody": {
        "required": True,
        "description": "One image in any format that Pillow reads.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        **SearchParameters.model_json_schema()["properties"],
                    },
                },
                "example": {"image": "(the bytes of cat.png)", "k": 10, "label": ["cat"]},
            },
            **RAW_IMAGE,
        },
    },
}

BATCH_INPUT = {
    "parameters": SEARCH_INPUT["parameters"],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": MANY_IMAGES,
                        **SearchParameters.model_json_schema()["properties"],
                    },
                },
                "example": {"image": ["(the bytes of cat.png)", "(the bytes of dog.png)"], "k": 10},
            }
        },
    },
}


def lease(request: Request) -> AbstractContextManager[Generation]:
    """What is served now; it stays open until the request is answered."""
    live: Live = request.state.live
    return live.lease()


async def _searcher(request: Request) -> AsyncIterator[Searcher]:
    with lease(request) as generation:
        yield generation.searcher


Service = Annotated[Searcher, Depends(_searcher)]
ItemId = Annotated[int, Path(description="An image's `id`, as searches and lists name it.", examples=[17])]


@reading.post(
    "/search",
    response_model=SearchAnswer,
    summary="Find the indexed images nearest to an image",
    openapi_extra=SEARCH_INPUT,
    responses=problems(
        {
            400: f"the form cannot be read (Missing boundary in multipart); {HOW_TO_SEND}",
            408: TOO_SLOW,
            413: too_large(10_000_000),
            415: "not an image in a known format (PNG, JPEG, WebP, GIF, TIFF, …)",
            422: "k: Input should be less than or equal to 1000, not 5000",
            503: BUSY.format(128),
            507: NO_SPACE_TO_READ.format("/tmp"),
        }
    ),
)
async def search(request: Request) -> Response:
    """Send the image as the multipart field `image` or as the raw request body.

    `k`, `max_distance` and `label` are query parameters or form fields.
    """
    query = _checked_parameters(_fields(request.query_params), "query")
    with place(request.state.places, BUSY):  # before the image is read, which takes memory
        image, form = await _read_image(request)
        asked = _merged(query, _checked_parameters(form, "form"))
        with lease(request) as generation:
            answer = await _answered(request, generation, image, asked)
    return Response(_in_json(answer, request), media_type="application/json")


@reading.post(
    "/search/batch",
    response_model=BatchAnswer,
    summary="Find the indexed images nearest to each of many images",
    openapi_extra=BATCH_INPUT,
    responses=problems(
        {
            400: f"the form cannot be read (Missing boundary in multipart); {HOW_TO_SEND_MANY}",
            408: TOO_SLOW,
            413: too_many(100_000_000),
            422: "k: Input should be less than or equal to 1000, not 5000",
            503: BUSY_WITH_BATCHES.format(BATCHES),
            507: NO_SPACE_TO_READ.format("/tmp"),
        }
    ),
)
async def search_batch(request: Request) -> Response:
    """Send them as multipart fields `image`; the parameters are those of all. What cannot be read gets an
    error of its own. However many images come so, a single search waits for few of them."""
    query = _checked_parameters(_fields(request.query_params), "query")
    with place(request.state.searching_many, BUSY_WITH_BATCHES):  # before they are read, which takes memory
        images, form = await _read_images(request)
        asked = _merged(query, _checked_parameters(form, "form"))
        waiting, answers = iter(enumerate(images)), dict[int, bytes]()

        async def answer(generation: Generation, image: bytes) -> bytes:
            try:
                found = await _answered(request, generation, checked(image, request), asked)
                return b'{"answer":%s,"error":null}' % _in_json(found, request)
            except HTTPException as error:
                return b'{"answer":null,"error":%s}' % to_json(problem(error.status_code, error.detail))

        async def take_turns(generation: Generation) -> None:
            for number, image in waiting:
                async with request.state.abreast:
                    answers[number] = await answer(generation, image)

        with lease(request) as generation:
            wanted = partial(generation.searcher.wanted, asked.k, asked.max_distance, asked.label)
            await to_thread.run_sync(wanted)  # raises for all
            async with create_task_group() as tasks:
                for _ in range(ABREAST):
                    tasks.start_soon(take_turns, generation)
    body = b'{"answers":[%s]}' % b",".join(answers[number] for number in range(len(images)))
    return Response(body, media_type="application/json")


@reading.post(
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

    with place(request.state.places, BUSY):
        answers = await to_thread.run_sync(work)
    request.app.state.metrics.searches.labels("code").inc(len(answers))
    body = b'{"answers":[%s]}' % b",".join(_in_json(answer, request) for answer in answers)
    return Response(body, media_type="application/json")


@reading.get(
    "/images/{item_id}/similar",
    summary="Find the indexed images nearest to one of them",
    responses=problems({**UNKNOWN_ID, 503: BUSY.format(128)}),
    response_model=SearchAnswer,
)
async def similar(
    item_id: ItemId, request: Request, searcher: Service, asked: Annotated[SearchParameters, Query()]
) -> Response:
    """By its stored code, without itself; a held-out query may be asked with too."""

    def work() -> Answer:
        wanted = searcher.wanted(asked.k, asked.max_distance, asked.label)
        return _found(partial(searcher.similar, wanted=wanted), item_id)

    with place(request.state.places, BUSY):
        answer = await to_thread.run_sync(work)
    request.app.state.metrics.searches.labels("code").inc()
    return Response(_in_json(answer, request), media_type="application/json")


@reading.get(
    "/eval/map",
    summary="Mean average precision of the held-out queries",
    responses=problems(
        {
            409: "this index was built without labels, so that no image is held out to measure the answers …",
            422: "ties: Input should be 'expected' or 'order', not 'random'",
        }
    ),
)
async def eval_map(
    request: Request, searcher: Service, query: Annotated[EvaluationParameters, Query()]
) -> Evaluation:
    """Measured against the index as it is now, and remembered until the index changes."""

    def work() -> Evaluation:
        return searcher.evaluate(k=query.k, ties=query.ties, denominator=query.denominator)

    return await to_thread.run_sync(work, limiter=request.state.evaluating)


@reading.get(
    "/eval/curve",
    summary="What each Hamming distance is worth",
    responses=problems({409: "this index was built without labels, so that no image is held out to …"}),
)
async def eval_curve(request: Request, searcher: Service) -> Curve:
    """Of the held-out queries against the index as it is now, and remembered until the index changes."""
    return await to_thread.run_sync(searcher.curve, limiter=request.state.evaluating)


@reading.get(
    "/images",
    summary="List the indexed images",
    responses=problems({422: "label 'hexagon' is unknown; known are circle, square"}),
)
def images(request: Request, searcher: Service, asked: Annotated[PageParameters, Query()]) -> Page:
    """By ascending id, a page at a time: whatever comes or goes meanwhile, none is skipped or repeated."""
    labels = [*searcher.wanted(1, labels=asked.label).labels, *[UNLABELLED] * asked.unlabelled]
    found = searcher.catalogue.page(
        after=asked.after,
        count=asked.limit + 1,
        labels=labels or None,
        split=asked.split,
        folder=asked.folder,
        sha256=None if asked.sha256 is None else bytes.fromhex(asked.sha256),
    )
    more, found = len(found) > asked.limit, found[: asked.limit]
    described = describing(request, searcher)
    return Page(images=[described(item) for item in found], next=found[-1].id if more else None)


@reading.get("/images/{item_id}", summary="What is known of an image", responses=problems(UNKNOWN_ID))
def image(item_id: ItemId, request: Request, searcher: Service) -> Image:
    """Indexed images and held-out queries."""
    return describing(request, searcher)(_found(searcher.catalogue.get, item_id))


def describing(request: Request, searcher: Searcher) -> Callable[[Item], Image]:
    """What makes of an item what is told of it to whoever asks."""
    originals = may_have_originals(request)

    def described(item: Item) -> Image:
        original = None
        if originals:
            with suppress(NoOriginal):
                searcher.original_of(item)
                original = address(request, item.id, "original")
        return Image(
            id=item.id,
            path=item.path,
            folder=item.folder or None,
            label=item.label,
            split=item.split,
            width=item.width,
            height=item.height,
            added=item.added,
            sha256=item.sha256,
            metadata=dict(item.metadata),
            thumbnail=address(request, item.id, "thumbnail"),
            original=original,
        )

    return described


@reading.get(
    "/images/{item_id}/thumbnail",
    summary="A small WebP of an image",
    response_class=Response,
    responses={
        200: {
            "description": "The thumbnail.",
            "content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "The thumbnail is the one that If-None-Match names."},
        **problems(UNKNOWN_ID),
    },
)
def thumbnail(item_id: ItemId, request: Request, searcher: Service) -> Response:
    """Revalidated by its ETag: another artifact at the same address has other images under the same ids."""
    content = _found(searcher.catalogue.thumbnail, item_id)
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"', "Cache-Control": "no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="image/webp", headers=headers)


@reading.get(
    "/images/{item_id}/original",
    summary="The indexed file itself",
    response_class=FileResponse,
    responses={
        200: {
            "description": "The bytes of the file as it came, shown where it is of a kind of picture that "
            "browsers know, else to be saved.",
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in sorted({*SAFE_TYPES.values(), DOWNLOAD})
            },
        },
        **problems(
            {
                **UNKNOWN_ID,
                403: KEPT_BACK,
                404: "the original file is no longer there; there is only the thumbnail",
            }
        ),
    },
)
def original(item_id: ItemId, request: Request, searcher: Service) -> FileResponse:
    """Only while the file lies in the indexed folder, or, of an image that was sent, is kept."""
    if not may_have_originals(request):
        raise HTTPException(403, KEPT_BACK)
    item = _found(searcher.catalogue.get, item_id)
    try:
        path = searcher.original_of(item)
    except NoOriginal as error:
        raise HTTPException(404, str(error)) from None
    name = PurePath(item.path)  # one that was sent lies under another
    kind = SAFE_TYPES.get(name.suffix.lower())
    if kind is not None:
        return FileResponse(path, media_type=kind)
    return FileResponse(path, media_type=DOWNLOAD, filename=name.name)


@router.get("/health/live", summary="The process answers")
async def live() -> Health:
    """Whether to leave the process running."""
    return Health()


@router.get(
    "/health/ready",
    summary="Queries are answered",
    responses=problems({503: f"{NOT_READY} decoding the image took longer than 0.25 seconds, the limit"}),
)
async def ready(request: Request, searcher: Service) -> Readiness:
    """Decodes a tiny image and searches with it, past all that wait: whether to send requests here."""

    def work() -> int:
        return searcher.check(decode=request.state.small.decode)

    try:
        return Readiness(items=await to_thread.run_sync(work, limiter=request.state.probing))
    except (ImageError, CatalogueError) as error:
        reason, _, _ = str(error).partition(";")  # what follows is for whoever sent an image
    except Exception:
        log.exception("the search that tells whether the service is ready failed")
        reason = "its log says why"
    raise HTTPException(503, f"{NOT_READY} {reason}", {"Retry-After": "1"})


def _in_json(answer: Answer, request: Request) -> bytes:
    """A SearchAnswer. Of plain values: making its models and checking them again took a third of all that a
    search costs in the event loop."""
    return to_json(
        {
            "code": answer.code.tobytes().hex(),
            "results": [
                {
                    "id": match.id,
                    "label": match.label,
                    "distance": match.distance,
                    "similarity": match.similarity,
                    "thumbnail": address(request, match.id, "thumbnail"),
                }
                for match in answer.matches
            ],
            "exact": answer.exact,
            "ties_at_cut": answer.ties_at_cut,
        }
    )


def _code(text: str, at: int, bits: int) -> Codes:
    try:
        return from_hex(text, bits)
    except ValueError as error:
        raise HTTPException(422, f"codes.{at}: {error}") from None


def address(request: Request, item_id: int, what: str) -> str:
    return f"{request.scope.get('root_path', '')}/images/{item_id}/{what}"


def _found(look_up: Callable[[int], T], item_id: int) -> T:
    try:
        return look_up(item_id)
    except KeyError:
        raise no_image(item_id) from None


def no_image(item_id: int) -> HTTPException:
    """The refusal of an unknown id."""
    return HTTPException(404, f"there is no image {str(item_id)[:20]}")


async def _answered(
    request: Request, generation: Generation, image: bytes, asked: SearchParameters
) -> Answer:
    """Small images are decoded with their batch; a large or slow one beforehand, in a thread of its own.
    Raises HTTPException for what is no good image."""
    batches, small, large = generation.batches, request.state.small.decode, request.state.large.decode
    prepare = partial(
        generation.searcher.prepare,
        image,
        k=asked.k,
        max_distance=asked.max_distance,
        labels=asked.label,
    )
    try:
        try:
            return await batches.ask(partial(prepare, max_pixels=SMALL, decode=small))
        except (TooManyPixels, TooSlow):
            question = await to_thread.run_sync(
                partial(prepare, decode=large), limiter=request.state.decoding
            )
            return await batches.ask(lambda: question)
    except NotAnImage as error:
        raise HTTPException(415, str(error)) from None
    except ImageError as error:
        raise HTTPException(422, str(error)) from None


@contextmanager
def place(places: CapacityLimiter, busy: str) -> Iterator[None]:
    """One of the places that there are; where all are taken 503 at once, which `busy` explains."""
    borrower = object()
    try:
        places.acquire_on_behalf_of_nowait(borrower)
    except WouldBlock:
        text = busy.format(int(places.total_tokens))
        raise HTTPException(503, text, {"Retry-After": "1"}) from None
    try:
        yield
    finally:
        places.release_on_behalf_of(borrower)


def is_form(request: Request) -> bool:
    """Whether the body is a form with files; else it is a file."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "multipart/form-data"


async def _read_image(request: Request) -> tuple[bytes, dict[str, Any]]:
    """The image's bytes, and the other form fields if it came in a form."""
    if not is_form(request):
        return checked(await request.body(), request), {}
    form = await read_form(request, max_files=1)
    try:
        image = checked(await _image_in(form), request)
        each_once(form)
        return image, {name: value for name, value in _fields(form).items() if name != "image"}
    finally:
        await form.close()


async def read_form(request: Request, *, max_files: int) -> FormData:
    """The request's form, to be closed. Raises HTTPException for one that cannot be read."""
    _, parameters = parse_options_header(request.headers.get("content-type", ""))
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8"):  # others are rare, some take time that grows with the square
        raise HTTPException(
            400, f"the form cannot be read (its charset is {charset[:40]!r}); send it in UTF-8"
        )
    try:
        return await request.form(max_files=max_files, max_fields=MOST_FIELDS, max_part_size=LARGEST_FIELD)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        reason = error.detail.rstrip(".")
        raise HTTPException(400, f"the form cannot be read ({reason}); {HOW_TO_SEND}") from None
    except (UnicodeError, LookupError, ValueError) as error:  # a charset that does not exist, or does not fit
        raise HTTPException(400, f"the form cannot be read ({error}); {HOW_TO_SEND}") from None
    except OSError as error:  # large files of a form lie on the disk while they are read
        if not no_space(error):
            raise
        raise HTTPException(507, NO_SPACE_TO_READ.format(gettempdir())) from None


async def _image_in(form: FormData) -> bytes:
    images = form.getlist("image")
    if len(images) != 1:
        raise HTTPException(422, f"the form has {len(images) or 'no'} fields 'image'; {HOW_TO_SEND}")
    if not isinstance(images[0], UploadFile):
        raise HTTPException(422, f"the form field 'image' is text, not a file; {HOW_TO_SEND}")
    return await images[0].read()


async def _read_images(request: Request) -> tuple[list[bytes], dict[str, Any]]:
    """The images, and the other fields of their form."""
    form = await read_form(request, max_files=settings_of(request).max_batch)
    try:
        files = form.getlist("image")
        images = [await file.read() for file in files if isinstance(file, UploadFile)]
        if not images or len(images) < len(files):
            raise HTTPException(422, f"each form field 'image' must be a file; {HOW_TO_SEND_MANY}")
        each_once(form)
        return images, {name: value for name, value in _fields(form).items() if name != "image"}
    finally:
        await form.close()


def checked(image: bytes, request: Request) -> bytes:
    limit = settings_of(request).max_image_bytes
    if not image:
        raise HTTPException(422, f"there is no image, or an empty one; {HOW_TO_SEND}")
    if len(image) > limit:
        raise HTTPException(413, too_large(limit))
    return image


def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def parameters_once(request: Request) -> None:
    """Refuse an address with two values of one parameter: of all routes, or one of the values were lost."""
    each_once(request.query_params, several={"label"})


def each_once(given: ImmutableMultiDict[str, Any], several: Collection[str] = ("label", "image")) -> None:
    """Raise HTTPException for a parameter with two values that is none of `several`."""
    for name in given:
        if name not in several and len(set(given.getlist(name))) > 1:
            raise HTTPException(422, GIVEN_TWICE.format(name[:80]))


def _fields(given: ImmutableMultiDict[str, Any]) -> dict[str, Any]:
    return {name: given.getlist(name) if name == "label" else given.get(name) for name in given}


def _checked_parameters(fields: dict[str, Any], place: str) -> SearchParameters:
    try:
        return SearchParameters.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(
            [{**each, "loc": (place, *each["loc"])} for each in error.errors()]
        ) from None


def _merged(query: SearchParameters, form: SearchParameters) -> SearchParameters:
    """Parameters from the query string and the form together; giving both is fine if they agree."""
    for name in query.model_fields_set & form.model_fields_set:
        in_query, in_form = getattr(query, name), getattr(form, name)
        if in_query != in_form:
            raise HTTPException(
                422, f"{name} is {in_query} in the address and {in_form} in the form; give one of them"
            )
    return query.model_copy(update=form.model_dump(exclude_unset=True))
