"""The routes that change the index."""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal, TypeVar

from anyio import to_thread
from fastapi import Depends, Header, Query, Request, Response
from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from index.database import CatalogueError
from index.labels import normal_form
from index.names import shown
from index.space import WAY_OUT, no_space
from service.core.library import Outcome, Prepared, Upload, too_large
from service.core.live import Generation
from service.core.searcher import SENT
from service.routes.images import describing
from service.schemas import images as schemas
from service.schemas.problem import problems
from service.schemas.trash import BATCH
from service.web import forms
from service.web.access import NO_KEY, NO_KEYS_SET, Access, guarded_router
from service.web.asking import UNKNOWN_ID, UNREADABLE_JSON, ItemId, lease, no_image, shared
from service.web.limits import TOO_SLOW
from service.web.places import ADDING, CHANGING, place
from service.web.problems import unwritable
from training.nets.images import NotAnImage

T = TypeVar("T")

router = guarded_router(Access.WRITE)

BUSY = "{} requests that change the index are under way or waiting; try again in a second"
SHOWN = 5  # reasons that one message gives
WINDOWS = re.compile(r"[A-Za-z]:\\|\\\\")  # how a path begins there: old browsers send all of it

UNWRITABLE = {
    401: NO_KEY,
    403: NO_KEYS_SET,
    409: "/artifact/catalogue.sqlite: attempt to write a readonly database",
    503: BUSY.format(CHANGING),
    507: f"/artifact/catalogue.sqlite: database or disk is full; {WAY_OUT}",
}
HELD_OUT = {409: "image 7 is held out to measure the answers and must stay as it is"}
OnlyIf = Annotated[
    Annotated[schemas.Sha256, AfterValidator(str.lower)] | None,
    Query(
        description="Only if its file has this SHA-256: in another artifact ids are those of others.",
        examples=["0f" * 32],
    ),
]


def undoable(
    response: Response,
    together: Annotated[
        str | None,
        Header(
            alias=BATCH,
            pattern=r"^[0-9A-Za-z_-]{1,32}$",
            description="The same for all requests of one piece of work, which can be undone as a whole: the "
            "names of their changes begin with it.",
            examples=["add-3fa2"],
        ),
    ] = None,
) -> str:
    """The name of what this request changes, by which it can be undone, said in the answer."""
    name = secrets.token_hex(8)
    response.headers[BATCH] = name if together is None else f"{together}.{name}"
    return response.headers[BATCH]


Named = Annotated[str, Depends(undoable)]
Forever = Annotated[
    bool, Query(description="For good: neither image nor file can come back. Also of what is in the trash.")
]
Was = Annotated[
    str | None,
    Query(
        description="Only if this is its label, or, empty, if it has none: another may have been faster.",
        examples=["cat"],
    ),
]
ABOUT = {
    "label": {"type": "string", "description": "Of all of them; may be new."},
    "metadata": {"type": "string", "description": "A JSON object, for each of them."},
    "folder": {
        "type": "string",
        "description": "Name of the folder that all of them lie in: their file names are then relative paths "
        "in it, and are kept.",
    },
}
FORM = forms.form_of(forms.MANY_IMAGES, ABOUT, {"image": ["(the bytes of cat.png)"], "label": "cat"})
LABEL: TypeAdapter[str] = TypeAdapter(schemas.LabelText)
EMPTY_IS_NONE = BeforeValidator(lambda text: text or None)  # as of a form
FOLDER: TypeAdapter[str] = TypeAdapter(schemas.FolderName)
PATH: TypeAdapter[str] = TypeAdapter(schemas.ImagePath)
METADATA: TypeAdapter[dict[str, Any]] = TypeAdapter(schemas.Metadata)


@router.post(
    "/images",
    status_code=201,
    summary="Add images to the index",
    response_model=schemas.AddedImages,
    openapi_extra={"requestBody": {"required": True, "content": {**FORM, **forms.RAW_IMAGE}}},
    responses={
        200: {"model": schemas.AddedImages, "description": "All of them were there already."},
        **problems(
            {
                **UNWRITABLE,
                400: f"the form cannot be read (Missing boundary in multipart); {forms.HOW_TO_SEND}",
                408: TOO_SLOW,
                413: too_large(10_000_000),
                415: "not an image in a known format (PNG, JPEG, WebP, GIF, TIFF, …)",
                422: "cat.png: the image is truncated or damaged (…)",
                503: BUSY.format(ADDING),
            }
        ),
    },
)
async def add(
    request: Request,
    response: Response,
    label: Annotated[
        schemas.LabelText | None,
        EMPTY_IS_NONE,
        Query(description="Of all of them; may be new.", examples=["cat"]),
    ] = None,
    metadata: Annotated[
        str | None, Query(description="A JSON object, for each of them.", examples=['{"camera": "left"}'])
    ] = None,
    name: Annotated[schemas.FileName, Query(description="For a raw body: what to call it.")] = "image",
    *,
    batch: Named,
) -> schemas.AddedImages:
    """One or many as multipart fields `image`, with one `label`, `metadata` and `folder` for all; or one as
    raw body. `label` and `metadata` are query parameters or form fields.

    The same bytes are the same image: what is there already is said and not added again. It gets the label if
    it has none; one that has another, or other metadata, keeps it, and `error` says so. Of many, those that
    cannot be read are left out and named. When the answer comes, all that it says is on the disk.
    """
    forms.each_once(request.query_params, several=())  # elsewhere an address may have several labels
    places = shared(request).places.add if forms.is_form(request) else shared(request).places.change
    with place(places, BUSY):  # before the images are read: they are what takes memory
        uploads = await _uploads(request, label, _metadata(metadata), name)
        live = shared(request).live
        with live.lease() as generation:  # who waits for an image that takes long holds up no other writer
            prepare = partial(generation.library.prepare, decode=shared(request).large.decode)
            prepared = await to_thread.run_sync(prepare, uploads, limiter=shared(request).turns.prepare)
        outcomes, images = await write(request, partial(_added, uploads, prepared, request, batch))
    for outcome in outcomes:
        shared(request).metrics.images.labels(_status(outcome)).inc()
    if all(outcome.error for outcome in outcomes):
        raise _refusal(uploads, outcomes)
    if all(outcome.arrival == "exists" for outcome in outcomes):
        response.status_code = 200

    return schemas.AddedImages(
        images=[
            schemas.AddedImage(
                name=shown(upload.name),
                status=_status(outcome),
                image=image,
                error=_kept(upload, image) if outcome.error is None else str(outcome.error),
            )
            for upload, outcome, image in zip(uploads, outcomes, images, strict=True)
        ]
    )


def _added(
    uploads: list[Upload], prepared: Prepared, request: Request, batch: str, generation: Generation
) -> tuple[list[Outcome], list[schemas.Image | None]]:
    """What became of each, and what is known of it then."""
    searcher, library = generation.searcher, generation.library
    if library.is_stale(prepared):  # another artifact is served since then, or an image was deleted
        prepared = library.prepare(uploads, decode=shared(request).large.decode)
    described = describing(request, searcher)

    def found(item_id: int) -> schemas.Image | None:
        try:
            return described(searcher.catalogue.get(item_id))
        except KeyError:  # removed by another process at this moment
            return None

    outcomes = library.put(prepared, batch=batch)
    return outcomes, [None if outcome.id is None else found(outcome.id) for outcome in outcomes]


@router.patch(
    "/images/{item_id}",
    summary="Change what is known of an image",
    responses=problems({**UNKNOWN_ID, **UNWRITABLE, **HELD_OUT, **UNREADABLE_JSON}),
)
async def change(
    item_id: ItemId,
    asked: schemas.Change,
    request: Request,
    batch: Named,
    sha256: OnlyIf = None,
    was: Was = None,
) -> schemas.Image:
    """Its label, which may be new or null, and its metadata; what is left out stays as it is."""

    def work(generation: Generation) -> schemas.Image:
        generation.library.change(
            item_id,
            label=asked.label,
            source=asked.source,
            unlabel="label" in asked.model_fields_set and asked.label is None,
            metadata=asked.metadata,
            sha256=sha256,
            was=was,
            batch=batch,
        )
        return describing(request, generation.searcher)(generation.searcher.catalogue.get(item_id))

    with place(shared(request).places.change, BUSY), lease(request) as current:
        return await write(request, work, item_id, ids_of=current)


@router.patch(
    "/images",
    summary="Give many images one label",
    responses=problems({**UNWRITABLE, **UNREADABLE_JSON, 422: "ids: List should have at least 1 item"}),
)
async def relabel(
    asked: schemas.Relabelling, request: Request, response: Response, batch: Named
) -> schemas.Changed:
    """Or none, all in one step. Those that are gone, held out, or have another label by now are left, and the
    answer says why; the others have it then."""

    def work(generation: Generation) -> tuple[int, dict[int, str]]:
        return generation.library.relabel(
            asked.ids, asked.label, source=asked.source, was=asked.was, batch=batch
        )

    with place(shared(request).places.change, BUSY), lease(request) as current:
        changed, left = await write(request, work, ids_of=current)
    unless_changed(response, changed > 0)
    return told(changed, left)


def told(changed: int, left: Mapping[int, str]) -> schemas.Changed:
    """So many images were changed, and others left for these reasons, by id."""
    reasons = [schemas.Left(id=id_, reason=reason) for id_, reason in sorted(left.items())]
    return schemas.Changed(changed=changed, left=reasons)


@router.delete(
    "/images/{item_id}",
    status_code=204,
    summary="Delete an image",
    responses=problems({**UNKNOWN_ID, **UNWRITABLE, **HELD_OUT}),
)
async def remove(
    item_id: ItemId,
    request: Request,
    response: Response,
    batch: Named,
    sha256: OnlyIf = None,
    forever: Forever = False,
) -> None:
    """No search that begins after the answer finds it. It lies in the trash for HEBBSEARCH_TRASH_DAYS, from
    where POST /trash/restore brings it back. With `forever` it is gone at once, also from the trash, and, if
    it was sent, its file too; one that was indexed from a folder stays there."""

    def work(generation: Generation) -> bool:
        return generation.trash.delete(item_id, sha256=sha256, forever=forever, batch=batch)

    with place(shared(request).places.change, BUSY), lease(request) as current:
        can_come_back = await write(request, work, item_id, ids_of=current)
    unless_changed(response, can_come_back)
    shared(request).metrics.images.labels("trashed" if can_come_back else "removed").inc()


def unless_changed(response: Response, changed: bool) -> None:
    """Take the name back where nothing was changed that could be undone."""
    if not changed:
        del response.headers[BATCH]


async def write(
    request: Request, work: Callable[[Generation], T], item_id: int = 0, ids_of: Generation | None = None
) -> T:
    """One after the other: whoever waits takes no thread that others need."""
    live = shared(request).live
    try:
        return await live.write(work, ids_of=ids_of)
    except KeyError:
        raise no_image(item_id) from None
    except CatalogueError as error:
        raise unwritable(error) from None
    except OSError as error:  # a file could not be kept
        text = f"{error.filename or 'originals'}: {error.strerror}"
        if no_space(error):
            raise HTTPException(507, f"{text}; {WAY_OUT}") from None
        raise HTTPException(409, text) from None


def _status(outcome: Outcome) -> Literal["added", "exists", "restored", "refused"]:
    return "refused" if outcome.error else outcome.arrival


def _kept(upload: Upload, image: schemas.Image | None) -> str | None:
    """What is said where an image that was there already keeps what differs from what was given."""
    if image is None:
        return None
    kept = []
    if upload.label is not None and normal_form(upload.label) != normal_form(image.label or ""):
        kept.append(f"the label {image.label!r}, not {upload.label!r}")
    if upload.metadata and upload.metadata != image.metadata:
        kept.append("other metadata")
    if not kept:
        return None
    return f"it is there already with {' and '.join(kept)}; change it on image {image.id}"


def _refusal(uploads: list[Upload], outcomes: list[Outcome]) -> HTTPException:
    """All were refused: why."""
    faults = [f"{up.name}: {out.error}" for up, out in zip(uploads, outcomes, strict=True)][:SHOWN]
    more = f"; and {len(outcomes) - SHOWN} more" if len(outcomes) > SHOWN else ""
    strange = all(isinstance(outcome.error, NotAnImage) for outcome in outcomes)
    return HTTPException(415 if strange else 422, "; ".join(faults) + more)


async def _uploads(
    request: Request, label: str | None, metadata: dict[str, Any] | None, name: str
) -> list[Upload]:
    """`label` and `metadata`: of the address. Raises HTTPException."""
    if not forms.is_form(request):
        return [Upload(name, forms.checked(await request.body(), request), label, metadata or {})]
    limit = shared(request).settings.max_batch
    form = await forms.read_form(request, max_files=limit)
    try:
        strange = set(form) - {"image", "label", "metadata", "folder"}
        if strange:
            raise HTTPException(
                422, f"{min(strange)[:80]}: there is no such field; /docs shows those there are"
            )
        files = form.getlist("image")
        if not files or not all(isinstance(file, UploadFile) for file in files):
            raise HTTPException(422, f"each form field 'image' must be a file; {forms.HOW_TO_SEND}")
        given = {key: _text(form.getlist(key), key) for key in ("label", "metadata", "folder")}
        in_form = None if given["label"] is None else _valid(LABEL, given["label"], "label")
        wanted = _one_of("label", label, in_form, alike=normal_form)
        about = _one_of("metadata", metadata, _metadata(given["metadata"])) or {}
        folder = _valid(FOLDER, given["folder"], "folder") if given["folder"] is not None else SENT
        named = _name if folder == SENT else _path
        return [
            Upload(named(file), await file.read(), wanted, about, folder)
            for file in files
            if isinstance(file, UploadFile)
        ]
    finally:
        await form.close()


def _text(values: list[Any], name: str) -> str | None:
    if len(set(map(str, values))) > 1 or any(isinstance(value, UploadFile) for value in values):
        raise HTTPException(422, f"{name}: give one, as text; it is that of all images of the request")
    return values[0] if values else None


def _one_of(
    name: str, in_address: T | None, in_form: T | None, *, alike: Callable[[T], Any] = lambda each: each
) -> T | None:
    """What is given, in either place; giving both is fine if they agree, which they do if `alike` is one."""
    if in_address is not None and in_form is not None and alike(in_address) != alike(in_form):
        raise HTTPException(422, f"{name} is one in the address and another in the form; give one of them")
    return in_address if in_form is None else in_form


def _metadata(text: str | None) -> dict[str, Any] | None:
    """The object that is written there, if one is."""
    return _valid(METADATA, _object(text), "metadata") if text else None


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"metadata is no JSON ({str(error)[:80]})") from None


def _valid(kind: TypeAdapter[Any], value: Any, name: str) -> Any:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise HTTPException(422, f"{name}: {error.errors()[0]['msg']}") from None


def _path(file: UploadFile) -> str:
    """A file's path in its folder. It is kept to be shown and compared, and never opened."""
    path = file.filename or ""
    _valid(PATH, shown(path), f"image {shown(path)[:80]!r}")
    return path


def _name(file: UploadFile) -> str:
    """A file's own name, without folders; whatever it is, it is a name and no path."""
    name = shown(file.filename or "")
    kind = PureWindowsPath if WINDOWS.match(name) else PurePosixPath
    return kind(name).name[: schemas.LONGEST_NAME] or "image"
