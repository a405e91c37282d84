"""The routes of whoever runs the service."""

from pathlib import Path

from anyio import to_thread
from fastapi import Request
from starlette.exceptions import HTTPException

from index.artifact import Artifact
from index.names import shown
from service.core.live import Replaced
from service.schemas.admin import CarriedOver, Compared, Reload, Reloaded, SnapshotMade, SnapshotRequest
from service.schemas.problem import problems
from service.web.access import NO_KEY, NO_KEYS_SET, Access, guarded_router
from service.web.asking import UNREADABLE_JSON, shared

FULL = "/artifacts/backup-1: cannot be made (database or disk is full)"

router = guarded_router(Access.ADMIN, prefix="/admin", responses=problems({401: NO_KEY, 403: NO_KEYS_SET}))


@router.post(
    "/reload",
    summary="Serve another artifact",
    responses=problems(
        {
            **UNREADABLE_JSON,
            409: "on the 180 images that both hold out run-002 reaches a mAP of 0.8100, run-001 0.9620; …",
            422: "/artifacts/run-002/manifest.json: is missing; name a folder that hebbsearch build made",
            507: FULL,
        }
    ),
)
async def reload(request: Request, asked: Reload) -> Reloaded:
    """It is verified, given the images and labels that people sent, changed and removed, and compared on the
    images that both hold out. Then it is served, also after a restart; requests under way are answered by the
    one before. An image may have another id in it.
    """
    live = shared(request).live
    folder = _folder(request, asked.artifact)
    replaced = await live.replace(folder, force=asked.force, as_it_is=asked.as_it_is)
    await shared(request).jobs.tidy(await live.in_use())
    return _reloaded(replaced)


@router.post(
    "/rollback",
    summary="Serve the artifact before again",
    responses=problems(
        {409: "run-001 took no other artifact's place: there is none to go back to", 507: FULL}
    ),
)
async def rollback(request: Request) -> Reloaded:
    """With all that was done since. Not compared: it was served already."""
    live = shared(request).live
    return _reloaded(await live.back())


@router.post(
    "/snapshot",
    status_code=201,
    summary="Copy the artifact that is served",
    responses=problems(
        {
            **UNREADABLE_JSON,
            409: "the artifact is being replaced or copied at this moment; try again when that is done",
            422: "/artifacts/backup-1: exists already; choose another name",
            507: FULL,
        }
    ),
)
async def snapshot(request: Request, asked: SnapshotRequest) -> SnapshotMade:
    """As it is at one moment, while it is searched and changed, in a new folder beside it.

    That is an artifact like any other: serve it, or bring it back with /admin/reload and `as_it_is`.
    """
    live = shared(request).live
    copy = await live.copy(_folder(request, asked.name))
    return await to_thread.run_sync(_described, copy)


def _described(copy: Artifact) -> SnapshotMade:
    with copy.open_catalogue() as catalogue:
        items = catalogue.counts()["database"]
    return SnapshotMade(name=copy.path.name, items=items, encoder_id=copy.manifest.encoder_id)


def _folder(request: Request, name: str | None) -> Path:
    asked = shared(request).settings.artifact.resolve()
    if name is None:
        return asked
    if not name.isprintable() or name.startswith(".") or Path(name).name != name or not name:
        raise HTTPException(
            422, "artifact: wanted the name of a folder beside the one that is served, without a path to it"
        )
    return asked.parent / name


def _reloaded(replaced: Replaced) -> Reloaded:
    carried, compared = replaced.carried, replaced.comparison
    return Reloaded(
        before=shown(replaced.before),
        after=shown(replaced.after),
        carried_over=CarriedOver(added=carried.added, changed=carried.changed, removed=carried.removed),
        compared=None
        if compared is None
        else Compared(queries=compared.queries, map_before=compared.before, map_after=compared.after),
    )
