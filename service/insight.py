"""The routes that tell of the index itself: what there is, how good it is, and where it is not."""

import platform
import time
from functools import cache
from importlib.metadata import version

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Depends, Request

from index.catalogue import UNLABELLED
from index.snapshot import Snapshot
from service.access import KEY_TOO_WEAK, NO_KEY, Access, needs
from service.api import Service
from service.insight_schemas import ClassCount, Stats, Usage
from service.schemas import problems
from service.searcher import Searcher

router = APIRouter(
    dependencies=[Depends(needs(Access.READ))],
    responses=problems({401: NO_KEY, 403: KEY_TOO_WEAK.format("read")}),
)

VERSIONS = ("hebbsearch", "torch", "faiss-cpu", "numpy", "pillow", "fastapi", "uvicorn")


@router.get("/stats", summary="What there is: images, classes, bytes, versions")
async def stats(request: Request, searcher: Service) -> Stats:
    """Counted once for each revision of the catalogue. Bytes come from looking at all thumbnails and all kept
    files."""

    def work() -> Stats:
        return searcher.once("stats", lambda snapshot: _stats(searcher, snapshot))

    counted = await to_thread.run_sync(work, limiter=request.state.evaluating)
    return counted.model_copy(update={"uptime": time.monotonic() - request.app.state.started})


def _stats(searcher: Searcher, snapshot: Snapshot) -> Stats:
    manifest, catalogue = searcher.artifact.manifest, searcher.catalogue
    queries = np.empty(0, np.int64) if searcher.queries is None else searcher.queries.labels
    images = len(snapshot.ids) + len(queries)
    size, originals = catalogue.file_bytes(), searcher.originals.size()
    unlabelled = int((snapshot.labels == UNLABELLED).sum())
    return Stats(
        items=len(snapshot.ids),
        labelled=len(snapshot.ids) - unlabelled,
        unlabelled=unlabelled,
        queries=len(queries),
        classes=[
            ClassCount(label=name, items=items, queries=asked)
            for name, items, asked in zip(
                snapshot.classes,
                _counts(snapshot.labels, len(snapshot.classes)),
                _counts(queries, len(snapshot.classes)),
                strict=True,
            )
        ],
        bytes=Usage(
            codes=len(snapshot.ids) * catalogue.bits // 8,
            thumbnails=catalogue.thumbnail_bytes(),
            catalogue=size,
            originals=originals,
            per_image=(size + originals) / images if images else None,
        ),
        artifact=searcher.artifact.path.resolve().name,
        created=manifest.created,
        encoder_id=manifest.encoder_id,
        bits=manifest.bits,
        revision=snapshot.revision,
        versions=_versions(),
        uptime=0,
    )


def _counts(labels: np.ndarray[tuple[int], np.dtype[np.int64]], classes: int) -> list[int]:
    counts: list[int] = np.bincount(labels[labels != UNLABELLED], minlength=classes).tolist()
    return counts


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
