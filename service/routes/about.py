"""The routes that tell of the index itself: what there is, how good it is, and where it is not."""

import platform
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from os import SEEK_END
from tempfile import TemporaryFile, gettempdir
from typing import IO, Annotated, Any

import numpy as np
from anyio import to_thread
from fastapi import Query, Request, Response
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from index.duplicates import groups_within
from index.engines import shown as named
from index.export import WRITERS, NoParquet
from index.items import UNLABELLED
from index.names import shown
from index.near_pairs import TooManyPairs
from index.snapshot import Part, Snapshot
from service.core.measuring import asked
from service.core.pictures.copies import lacking
from service.core.searcher import Searcher
from service.schemas import about as schemas
from service.schemas.problem import problems
from service.schemas.search import Space
from service.web.access import Access, check, reading_router
from service.web.asking import Service, address, shared
from service.web.places import EXPORTING, GROUPING, place
from training.nets.pdq import SAME


class TemporaryDownload(StreamingResponse):
    """A file that is sent and then closed, with all other `resources`, however that ends."""

    def __init__(self, file: IO[bytes], kind: str, name: str, resources: ExitStack) -> None:
        length = file.seek(0, SEEK_END)
        file.seek(0)
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Length": str(length)}
        super().__init__(iter(partial(file.read, PART), b""), headers=headers, media_type=kind)
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._resources:
            await super().__call__(scope, receive, send)


router = reading_router()

RADII: Mapping[Space, int] = {"content": 0, "picture": SAME}  # unless one is asked for
MOST_PAIRS = 5 * 10**10  # of codes that are compared for one answer: five to eight minutes on one core
BUSY_GROUPING = "{} requests for duplicates are under way or waiting; try again in a second"
BUSY_EXPORTING = "{} exports are under way or waiting; try again in a second"
EXPORT_TYPES = {"npz": "application/zip", "parquet": "application/vnd.apache.parquet"}
PART = 2**18  # bytes of a file that are sent at a time
METRICS_EXAMPLE = """# HELP hebbsearch_requests_total Requests that were answered.
# TYPE hebbsearch_requests_total counter
hebbsearch_requests_total{method="POST",route="/search",status="200"} 12.0
"""
VERSIONS = ("hebbsearch", "torch", "faiss-cpu", "numpy", "pillow", "fastapi", "uvicorn")


@router.get("/stats", summary="What there is: images, classes, bytes, versions")
async def stats(request: Request, searcher: Service) -> schemas.Stats:
    """Counted once for each revision of the catalogue. Bytes come from looking at all thumbnails and all kept
    files."""

    def work() -> schemas.Stats:
        return searcher.once("stats", lambda: _stats(searcher, searcher.snapshot()))

    counted = await to_thread.run_sync(work, limiter=shared(request).turns.count)
    now = {
        "trash_days": shared(request).settings.trash_days,
        "uptime": time.monotonic() - shared(request).started,
        "exact": searcher.exact,
        "recall": searcher.recall and schemas.Recall(**searcher.recall._asdict()),
        "engine": named(shared(request).settings.engine_name),
        "stale": searcher.following.behind,
    }
    return counted.model_copy(update=now)


@router.get(
    "/duplicates",
    summary="Groups of images whose codes lie near each other, or of copies of one picture",
    responses=problems(
        {
            409: lacking(1350),
            422: "radius 16 is too much here: 80,000,000,000 pairs of codes would have to be compared, at "
            "most 50,000,000,000 are; ask for a smaller one, 0 is always possible",
            503: BUSY_GROUPING.format(GROUPING),
        }
    ),
)
async def duplicates(
    request: Request, searcher: Service, asked: Annotated[schemas.DuplicateParameters, Query()]
) -> schemas.DuplicatePage:
    """Single linkage: two images are in one group if a chain of images leads from one to the other, each
    within the radius of the next. Largest groups first, a page at a time.

    By picture the chain is of copies, mirrored and turned ones too; images with too little detail are in no
    group.

    Remembered until the index changes. At 60,000 images the first answer takes up to 0.2 s at radius 0,
    2 s at 1, 5 s at 4 and 13 s at 16, on one core; the time grows with the square of the images. By picture
    it takes 4 s at 50,000 images, 22 s at 200,000 and 333 s at 1,000,000.
    """
    radius = RADII[asked.by] if asked.radius is None else asked.radius

    def work() -> schemas.DuplicatePage:
        found = searcher.once(
            ("duplicates", asked.by, radius), lambda: _duplicates(searcher, asked.by, radius)
        )
        keys = [(-len(ids), int(ids[0])) for ids, _ in found.groups]
        begin = 0
        if asked.after is not None:
            size, _, first = asked.after.partition(":")
            begin = bisect_right(keys, (-int(size), int(first)))
        shown = found.groups[begin : begin + asked.limit]
        more = begin + len(shown) < len(keys)
        sizes = searcher.catalogue.pictures.sizes([id_ for ids, _ in shown for id_ in ids.tolist()])
        listed = [id_ for ids, _ in shown for id_ in ids[: asked.members].tolist()]
        paths = {id_: path for id_, (path, _) in searcher.catalogue.paths(listed).items()}
        named = [(ids, [found.name(label) for label in labels.tolist()]) for ids, labels in shown]
        return schemas.DuplicatePage(
            radius=radius,
            groups=len(keys),
            images=-sum(size for size, _ in keys),
            plain=found.plain,
            found=[_shown(request, *each, sizes, paths, asked.members) for each in named],
            next=f"{len(shown[-1][0])}:{shown[-1][0][0]}" if more else None,
        )

    with place(shared(request).places.duplicates, BUSY_GROUPING):
        return await to_thread.run_sync(work, limiter=shared(request).turns.group)


@dataclass(frozen=True)
class _Duplicates:
    """Groups, the largest first, as ids (m,), ascending, and labels (m,) of what they were then."""

    groups: list[tuple[NDArray[np.int64], NDArray[np.integer[Any]]]]
    classes: tuple[str, ...]
    plain: int = 0  # images that could not be compared

    def name(self, label: int) -> str | None:
        return None if label == UNLABELLED else self.classes[label]


def _duplicates(searcher: Searcher, by: Space, radius: int) -> _Duplicates:
    try:
        if by == "picture":
            groups, there, plain = searcher.pictures.groups(radius, most=MOST_PAIRS)
            return _Duplicates([(ids, there.labels_of(ids)) for ids in groups], there.classes, plain)
        contents = searcher.contents()
        table = contents.table
        found = groups_within(table.codes, radius, most=MOST_PAIRS)
        return _Duplicates([(table.ids[group], table.labels[group]) for group in found], contents.classes)
    except TooManyPairs as error:
        raise HTTPException(
            422, f"radius {radius} is too much here: {error}; ask for a smaller one, 0 is always possible"
        ) from None


def _shown(
    request: Request,
    ids: NDArray[np.int64],
    labels: Sequence[str | None],
    sizes: Mapping[int, tuple[int, int]],
    paths: Mapping[int, str],
    members: int,
) -> schemas.DuplicateGroup:
    """A group; what was removed since has no size and no path."""
    named = dict(zip(ids.tolist(), labels, strict=True))

    def worth(id_: int) -> tuple[int, bool, int]:
        width, height = sizes.get(id_, (0, 0))
        return width * height, named[id_] is not None, -id_

    images = [
        schemas.Duplicate(
            id=id_,
            path=shown(paths[id_]) if id_ in paths else None,
            label=label,
            width=sizes.get(id_, (0, 0))[0],
            height=sizes.get(id_, (0, 0))[1],
            thumbnail=address(request, id_, "thumbnail"),
        )
        for id_, label in list(named.items())[:members]
    ]
    different = len(set(labels) - {None})
    return schemas.DuplicateGroup(size=len(ids), labels=different, best=max(named, key=worth), images=images)


@router.get(
    "/export",
    summary="The index as one file: ids, codes, labels, paths, hashes, metadata",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The file: a zip of NumPy arrays, or Parquet.",
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}} for kind in EXPORT_TYPES.values()
            },
        },
        **problems(
            {
                422: "format: Input should be 'npz' or 'parquet', not 'csv'",
                501: "Parquet needs pyarrow, which is not installed here (pip install …); format=npz needs …",
                503: BUSY_EXPORTING.format(EXPORTING),
                507: "the export cannot be written to /tmp: No space left on device; set TMPDIR to a …",
            }
        ),
    },
)
async def export(
    request: Request, searcher: Service, asked: Annotated[schemas.ExportParameters, Query()]
) -> TemporaryDownload:
    """All images that can be found, as they are at this moment, without their pictures and without the
    held-out queries; with what lies in the trash, if it is asked for.

    `npz` is for `numpy.load`, which needs no pickle for it: arrays `ids`, `codes`, `labels` (places in
    `classes`, −1: none), `classes`, `added`, `sha256`, `encoder_id`, and `items.jsonl`, a line of JSON for
    each image with its path and metadata. `parquet` has a row for each image and the encoder in the file's
    metadata; it needs pyarrow where the service runs. With `trashed=true` both also say since when an image
    lies in the trash; one without a code gets it when it is restored.
    """
    if asked.trashed:
        check(request, Access.WRITE)
    try:
        return await download(
            request,
            lambda file: WRITERS[asked.format](file, searcher.catalogue, trashed=asked.trashed),
            EXPORT_TYPES[asked.format],
            f"hebbsearch.{asked.format}",
        )
    except NoParquet as error:
        raise HTTPException(501, str(error)) from None


async def download(
    request: Request, write: Callable[[IO[bytes]], None], kind: str, name: str
) -> TemporaryDownload:
    """What is written to a file, of this media type and name. HTTPException where no place is free, or none
    on the disk."""
    with ExitStack() as resources:
        resources.enter_context(place(shared(request).places.export, BUSY_EXPORTING))

        def work() -> IO[bytes]:
            # It has no name, so that it goes away whatever happens.
            file = TemporaryFile()  # noqa: SIM115  # closed with the resources
            resources.callback(_discard, file)
            write(file)
            file.flush()
            return file

        try:
            file = await to_thread.run_sync(work, limiter=shared(request).turns.export)
        except OSError as error:
            raise HTTPException(
                507,
                f"the export cannot be written to {gettempdir()}: {error.strerror}; set TMPDIR to a folder "
                "with space",
            ) from None
        return TemporaryDownload(file, kind, name, resources.pop_all())


def _discard(file: IO[bytes]) -> None:
    with suppress(OSError):  # what is still to be written where nothing can be; it is closed all the same
        file.close()


@router.get(
    "/metrics",
    summary="What the service counts of itself, for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "In Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": METRICS_EXAMPLE}},
        }
    },
)
def metrics(request: Request, searcher: Service) -> Response:
    """Since the start of the process. Where there are read keys it needs one, as Prometheus can send it
    (`authorization` of a scrape configuration)."""
    artifact = searcher.artifact
    text = shared(request).metrics.text(
        items=len(searcher.snapshot()),
        recall=1 if searcher.exact else searcher.recall and searcher.recall.at_10,
        artifact={"artifact": shown(searcher.name), "encoder_id": artifact.manifest.encoder_id},
        places=vars(shared(request).places),
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _stats(searcher: Searcher, snapshot: Snapshot[Part]) -> schemas.Stats:
    manifest, catalogue = searcher.artifact.manifest, searcher.catalogue
    queries = asked(searcher, searcher.contents().table).labels
    trash = catalogue.trash.count()
    images = len(snapshot) + trash + (0 if searcher.queries is None else len(searcher.queries.ids))
    size, originals = catalogue.file_bytes(), searcher.originals.size()
    labels = snapshot.labels
    unlabelled = int(np.count_nonzero(labels == UNLABELLED))
    return schemas.Stats(
        items=len(snapshot),
        labelled=len(snapshot) - unlabelled,
        unlabelled=unlabelled,
        learned_from=manifest.learned_from,
        queries=len(queries),
        trash=trash,
        trash_days=0,
        classes=[
            schemas.ClassCount(label=name, items=items, queries=asked)
            for name, items, asked in zip(
                snapshot.classes,
                _counts(labels, len(snapshot.classes)),
                _counts(queries, len(snapshot.classes)),
                strict=True,
            )
        ],
        bytes=schemas.Usage(
            codes=len(snapshot) * catalogue.bits // 8,
            thumbnails=catalogue.thumbnail_bytes(),
            catalogue=size,
            originals=originals,
            per_image=(size + originals) / images if images else None,
        ),
        artifact=shown(searcher.name),
        created=manifest.created,
        encoder_id=manifest.encoder_id,
        embeddings=catalogue.has_embeddings(),
        bits=manifest.bits,
        exact=True,
        recall=None,
        engine="",
        stale=0,
        revision=snapshot.revision,
        versions=versions(),
        uptime=0,
    )


def _counts(labels: NDArray[np.integer[Any]], classes: int) -> list[int]:
    counts: list[int] = np.bincount(labels[labels != UNLABELLED], minlength=classes).tolist()
    return counts


@cache
def versions() -> dict[str, str]:
    """Of what the service runs on."""
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
