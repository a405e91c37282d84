"""The routes that show what is indexed."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Query, Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from index.items import UNLABELLED, Item
from index.names import shown
from index.tables import folders as tree
from index.tables.listing import Listing
from service.core.pictures.originals import NoOriginal
from service.core.pictures.previews import Source, short_hash
from service.core.searcher import Searcher
from service.schemas.images import Folder, FolderPage, FolderParameters, Image, Page, PageParameters
from service.schemas.problem import problems
from service.web.access import Access, check, may, may_have_originals, reading_router
from service.web.asking import UNKNOWN_ID, ItemId, Service, address, found, no_image, shared

router = reading_router()

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
AFTER_ALONE = (
    "after: it goes on by ascending id alone; use offset instead, or leave out offset, sort and descending"
)
NO_EMBEDDINGS = (
    "this index keeps no embeddings, by which images are compared for this; make them with: hebbsearch label "
    "ARTIFACT --out NEW"
)
NOT_JUDGED = (
    "no label of this index was looked at yet; that is done whenever something is learned, and by: "
    "hebbsearch upgrade ARTIFACT"
)
NO_DECODER = "no process that decodes can be started (…); try again in a second"
KEPT_BACK = (
    "the files themselves, which may say where a picture was taken, are not for everyone who may read; see "
    "HEBBSEARCH_ORIGINALS_TO, or take the preview"
)


@router.get(
    "/images",
    summary="List the indexed images",
    responses=problems({409: NOT_JUDGED, 422: "label 'hexagon' is unknown; known are circle, square"}),
)
def images(request: Request, searcher: Service, asked: Annotated[PageParameters, Query()]) -> Page:
    """By ascending id, a page at a time: whatever comes or goes meanwhile, none is skipped or repeated. Or in
    another order, where `offset` leads to any place and the answer says how many there are."""
    counted, in_order = asked.offset is not None, asked.sort == "id" and not asked.descending
    if "after" in asked.model_fields_set and (counted or not in_order):
        raise HTTPException(422, AFTER_ALONE)
    if asked.trashed:
        check(request, Access.WRITE)
    if asked.sort == "doubt" and not searcher.catalogue.doubts.known():
        raise HTTPException(409, NOT_JUDGED if searcher.catalogue.has_embeddings() else NO_EMBEDDINGS)
    which, described = _listing(searcher, asked), describing(request, searcher)
    if counted or not in_order:
        items, total = searcher.catalogue.part(which, offset=asked.offset or 0, count=asked.limit)
        return Page(images=[described(item) for item in items], next=None, total=total if counted else None)
    items = searcher.catalogue.page(which, after=asked.after, count=asked.limit + 1)
    more, items = len(items) > asked.limit, items[: asked.limit]
    return Page(images=[described(item) for item in items], next=items[-1].id if more else None, total=None)


def _listing(searcher: Searcher, asked: PageParameters) -> Listing:
    """Raises UnknownLabel."""
    labels = [*searcher.wanted(1, labels=asked.label).labels, *[UNLABELLED] * asked.unlabelled]
    return Listing(
        split="trash" if asked.trashed else asked.split,
        labels=labels or None,
        folder=asked.folder,
        under=asked.under,
        sha256=None if asked.sha256 is None else bytes.fromhex(asked.sha256),
        name=asked.name,
        predicted=searcher.wanted(1, labels=asked.predicted).labels or None,
        min_confidence=asked.min_confidence,
        sort=asked.sort,
        descending=asked.descending,
    )


@router.get("/folders", summary="The folders that images lie in, with how many")
def folders(searcher: Service, asked: Annotated[FolderParameters, Query()]) -> FolderPage:
    """Those in one folder, by name, a page at a time: those that images were sent from, those in them, and
    those of the folder that was indexed when the artifact was made. GET /images with `under` names what lies
    in one and below. Remembered until the index changes."""
    there = searcher.once("folders", searcher.catalogue.folders).get(asked.under or "", ())
    behind = there if asked.after is None else tree.after(there, asked.after)
    found = [
        Folder(name=shown(each.name), path=each.path, images=each.images, folders=each.folders)
        for each in behind[: asked.limit]
    ]
    more = len(behind) > asked.limit
    return FolderPage(folders=found, total=len(there), next=found[-1].path if more else None)


@router.get("/images/{item_id}", summary="What is known of an image", responses=problems(UNKNOWN_ID))
def image(
    item_id: ItemId,
    request: Request,
    searcher: Service,
    trashed: Annotated[
        bool, Query(description="Also if it lies in the trash; for whoever may write.")
    ] = False,
) -> Image:
    """Indexed images and held-out queries."""
    item = seen(request, searcher, item_id)
    if item.trashed is not None and not trashed:
        raise no_image(item_id)
    return describing(request, searcher)(item)


def seen(request: Request, searcher: Searcher, item_id: int) -> Item:
    """The item, if whoever asks may see it: what lies in the trash is for whoever can bring it back."""
    item = found(searcher.catalogue.get, item_id)
    if item.trashed is not None and not may(request, Access.WRITE):
        raise no_image(item_id)
    return item


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
            path=shown(item.path),
            folder=item.folder or None,
            label=item.label,
            source=item.source,
            held_out=item.held_out,
            predicted=item.predicted,
            confidence=item.confidence,
            rival=item.rival,
            doubt=item.doubt,
            split=item.split,
            width=item.width,
            height=item.height,
            added=item.added,
            sha256=item.sha256,
            metadata=dict(item.metadata),
            trashed=item.trashed,
            thumbnail=address(request, item.id, "thumbnail"),
            preview=address(request, item.id, "preview"),
            original=original,
        )

    return described


PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture.",
        "content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "It is the one that If-None-Match names."},
}


@router.get(
    "/images/{item_id}/thumbnail",
    summary="A small WebP of an image",
    response_class=Response,
    responses={**PICTURE, **problems(UNKNOWN_ID)},
)
def thumbnail(item_id: ItemId, request: Request, searcher: Service) -> Response:
    """Of at most 128 × 128 pixels."""
    thrown = may(request, Access.WRITE)
    content = found(partial(searcher.catalogue.thumbnail, thrown=thrown), item_id)
    key = short_hash(content)
    return _as_asked(request, key) or _picture(content, key)


@router.get(
    "/images/{item_id}/preview",
    summary="A WebP of an image, large enough to look at",
    response_class=Response,
    responses={**PICTURE, **problems({**UNKNOWN_ID, 503: NO_DECODER})},
)
async def preview(item_id: ItemId, request: Request, searcher: Service) -> Response:
    """Of at most 1,024 × 1,024 pixels, without what the file says of itself. It is made from the original
    when it is asked for; where that is gone or cannot be decoded, it is the thumbnail."""

    def to_look_at(item_id: int) -> Source:
        return searcher.to_look_at(seen(request, searcher, item_id))

    source = await to_thread.run_sync(found, to_look_at, item_id)
    unchanged = _as_asked(request, source.key)
    if unchanged is not None:
        return unchanged
    previews, turns = shared(request).previews, shared(request).turns
    content = previews.kept(source)
    if content is None:
        content = await to_thread.run_sync(previews.make, source, limiter=turns.preview)
    return _picture(content, source.key)


def _as_asked(request: Request, key: str) -> Response | None:
    """304 where whoever asks has the picture with this key; else None."""
    if f'"{key}"' not in request.headers.get("if-none-match", ""):
        return None
    return Response(status_code=304, headers=_revalidated(key))


def _picture(content: bytes, key: str) -> Response:
    return Response(content, media_type="image/webp", headers=_revalidated(key))


def _revalidated(key: str) -> dict[str, str]:
    """Each time: another artifact at the same address has other images under the same ids."""
    return {"ETag": f'"{key}"', "Cache-Control": "no-cache"}


@router.get(
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
    item = seen(request, searcher, item_id)
    try:
        path = searcher.original_of(item)
    except NoOriginal as error:
        raise HTTPException(404, str(error)) from None
    name = PurePath(shown(item.path))  # one that was sent lies under another
    kind = SAFE_TYPES.get(name.suffix.lower())
    if kind is not None:
        return FileResponse(path, media_type=kind)
    return FileResponse(path, media_type=DOWNLOAD, filename=name.name)
