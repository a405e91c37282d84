"""The routes that bring back what was deleted, and undo what was done."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import Path, Query, Request, Response
from starlette.exceptions import HTTPException

from index.tables.history import piece_of
from service.core.live import Generation
from service.core.trash import PART, Done
from service.routes.changes import BUSY, UNWRITABLE, Named, told, unless_changed, write
from service.routes.images import describing
from service.schemas import trash as schemas
from service.schemas.images import Changed
from service.schemas.problem import problems
from service.web.access import NO_KEY, NO_KEYS_SET, Access, guarded_router
from service.web.asking import UNREADABLE_JSON, Service, lease, shared
from service.web.places import place

router = guarded_router(Access.WRITE, responses=problems({401: NO_KEY, 403: NO_KEYS_SET}))

FIRST = 5  # images of a change that are named
NOT_KEPT = (
    "there is no change {!r} that can be undone: it changed nothing, its images are gone, it was made in "
    "another artifact, or it is older than the latest 1,000"
)
Name = Annotated[
    str,
    Path(
        max_length=64,
        description=f"Of the change: `{schemas.BATCH}` of the answer to it, or a `batch` of GET /changes.",
        examples=["9f86d081884c7d65"],
    ),
]


@router.get("/trash", summary="What was deleted and can come back")
def trash(
    request: Request, searcher: Service, asked: Annotated[schemas.TrashParameters, Query()]
) -> schemas.TrashPage:
    """What was deleted last comes first. For whoever may write."""
    thrown, described = searcher.catalogue.trash, describing(request, searcher)
    return schemas.TrashPage(
        images=[described(item) for item in thrown.page(offset=asked.offset, count=asked.limit)],
        total=thrown.count(),
        days=shared(request).settings.trash_days,
    )


@router.post("/trash", summary="Delete many images", responses=problems({**UNWRITABLE, **UNREADABLE_JSON}))
async def throw(asked: schemas.Ids, request: Request, response: Response, batch: Named) -> Changed:
    """All at once. They lie in the trash for HEBBSEARCH_TRASH_DAYS; with 0 they are gone for good. What
    cannot be deleted is left and said."""
    done = await _done(request, lambda current: current.trash.throw(asked.ids, batch=batch))
    days = shared(request).settings.trash_days
    unless_changed(response, bool(days and done.done))
    what = "trashed" if days else "removed"
    shared(request).metrics.images.labels(what).inc(len(done.done))
    return told(len(done.done), done.left)


@router.post(
    "/trash/restore",
    summary="Bring deleted images back",
    responses=problems({**UNWRITABLE, **UNREADABLE_JSON}),
)
async def restore(asked: schemas.Ids, request: Request, response: Response, batch: Named) -> Changed:
    """With ids, labels and metadata as they were, all at once. What is not in the trash is left and said."""
    done = await _done(request, lambda current: current.trash.restore(asked.ids, batch=batch))
    unless_changed(response, bool(done.done))
    shared(request).metrics.images.labels("restored").inc(len(done.done))
    return told(len(done.done), done.left)


@router.delete("/trash", summary="Empty the trash", responses=problems(UNWRITABLE))
async def empty(request: Request, asked: Annotated[schemas.EmptyParameters, Query()]) -> Changed:
    """For good: neither images nor files that were sent can come back. Some go at a time: others change the
    index between, and what a crash comes before lies in the trash still."""
    forgotten = 0
    with place(shared(request).places.change, BUSY), lease(request) as current:
        ids = asked.id or await to_thread.run_sync(current.searcher.catalogue.trash.ids)
        for at in range(0, len(ids), PART):
            forgotten += await write(request, partial(_forget, ids[at : at + PART]), ids_of=current)
    shared(request).metrics.images.labels("removed").inc(forgotten)
    return Changed(changed=forgotten, left=[])


@router.get("/changes", summary="What was changed and can be undone")
def changed(searcher: Service, asked: Annotated[schemas.ChangesParameters, Query()]) -> schemas.Batches:
    """The latest first: images that were added, labelled, deleted or brought back since the artifact was
    made. Of what is gone for good nothing is kept."""
    return schemas.Batches(
        changes=[
            schemas.Batch(
                batch=each.name,
                together=piece_of(each.name),
                time=each.time,
                counts=each.counts,
                images=list(each.ids[:FIRST]),
                undoable=each.undoable,
            )
            for each in searcher.catalogue.history.latest(asked.limit)
        ]
    )


@router.post(
    "/changes/{batch}/undo",
    summary="Undo a change",
    responses=problems({404: NOT_KEPT.format("9f86d081884c7d65"), **UNWRITABLE}),
)
async def undo(batch: Name, request: Request, response: Response, name: Named) -> Changed:
    """Images are as they were before it: what was added goes into the trash, what was deleted comes back.
    What somebody changed since stays, and is said. It is a change itself, which can be undone."""

    def work(current: Generation) -> Done:
        try:
            return current.trash.undo(batch, batch=name)
        except KeyError:
            raise HTTPException(404, NOT_KEPT.format(batch)) from None

    done = await _done(request, work)
    unless_changed(response, bool(done.done))
    return told(len(done.done), done.left)


def _forget(ids: list[int], current: Generation) -> int:
    return current.trash.empty(ids)


async def _done(request: Request, work: Callable[[Generation], Done]) -> Done:
    with place(shared(request).places.change, BUSY), lease(request) as current:
        return await write(request, work, ids_of=current)
