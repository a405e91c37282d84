"""The routes that tell of the index itself: what there is, how good it is, and where it is not."""

import platform
import time
from bisect import bisect_right
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from os import SEEK_END
from tempfile import TemporaryFile, gettempdir
from typing import IO, Annotated

import numpy as np
from anyio import to_thread
from fastapi import Query, Request, Response
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from index.code_statistics import bit_statistics, same_code
from index.codes import to_hex
from index.distances import nearest_classes
from index.duplicates import TooManyPairs, groups_within
from index.export import WRITERS, NoParquet
from index.items import UNLABELLED
from index.snapshot import Snapshot
from service.access import KEY_TOO_WEAK, NO_KEY, Access, guarded_router
from service.api import Service, address, place
from service.insight_schemas import (
    BitReport,
    ClassCount,
    CodeReport,
    Collision,
    Confused,
    Confusion,
    CorrelatedBits,
    Duplicate,
    DuplicateGroup,
    DuplicatePage,
    DuplicateParameters,
    ExportParameters,
    QueryPage,
    QueryPageParameters,
    ScoredQuery,
    Stats,
    Usage,
)
from service.schemas import problems
from service.searcher import NothingToMeasure, Searcher


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


router = guarded_router(
    Access.READ,
    responses=problems({401: NO_KEY, 403: KEY_TOO_WEAK.format("read")}),
)

UNMEASURABLE = (
    "this index was built without labels, so that no image is held out to measure the answers with; …"
)
NO_IMAGE = "no image is indexed, so that there are no codes to tell of; add some with POST /images"
LARGEST, SHOWN = 20, 10  # of collisions and correlations that are listed; ids of each
MOST_PAIRS = 10**10  # of codes that are compared for one answer: about a minute and a half on one core
GROUPING = 8  # requests for duplicates, under way or waiting
BUSY_GROUPING = "{} requests for duplicates are under way or waiting; try again in a second"
EXPORTING = 4  # exports that are written, wait, or are sent: each is a file for so long
BUSY_EXPORTING = "{} exports are under way or waiting; try again in a second"
EXPORT_TYPES = {"npz": "application/zip", "parquet": "application/vnd.apache.parquet"}
PART = 2**18  # bytes of a file that are sent at a time
METRICS_EXAMPLE = """# HELP hebbsearch_requests_total Requests that were answered.
# TYPE hebbsearch_requests_total counter
hebbsearch_requests_total{method="POST",route="/search",status="200"} 12.0
"""
# What `of` says of places in the metrics: the limiter.
PLACES = {
    "search": "places",
    "search_batch": "searching_many",
    "search_batch_images": "abreast",
    "decode": "decoding",
    "add": "adding",
    "change": "changing",
    "duplicates": "grouping_places",
    "export": "exporting_places",
}
VERSIONS = ("hebbsearch", "torch", "faiss-cpu", "numpy", "pillow", "fastapi", "uvicorn")


@router.get("/stats", summary="What there is: images, classes, bytes, versions")
async def stats(request: Request, searcher: Service) -> Stats:
    """Counted once for each revision of the catalogue. Bytes come from looking at all thumbnails and all kept
    files."""

    def work() -> Stats:
        return searcher.once("stats", lambda snapshot: _stats(searcher, snapshot))

    counted = await to_thread.run_sync(work, limiter=request.state.counting)
    return counted.model_copy(update={"uptime": time.monotonic() - request.app.state.started})


@router.get(
    "/eval/queries",
    summary="The held-out queries by how well they were answered",
    responses=problems(
        {
            409: UNMEASURABLE,
            422: "after: String should match pattern …; give a page's `next`, or leave it out",
        }
    ),
)
async def eval_queries(
    request: Request, searcher: Service, asked: Annotated[QueryPageParameters, Query()]
) -> QueryPage:
    """Worst first, or best first, a page at a time. Those of equal score are sorted by id."""

    def work() -> QueryPage:
        measured = searcher.measure(k=asked.k, ties=asked.ties, denominator=asked.denominator)
        sign = 1 if asked.order == "worst" else -1
        rows = np.lexsort((measured.ids, sign * measured.scores))
        if asked.after is not None:
            score, _, id_ = asked.after.partition(":")
            key, before = sign * measured.scores[rows], sign * float(score)
            rows = rows[(key > before) | ((key == before) & (measured.ids[rows] > int(id_)))]
        page = [
            ScoredQuery(
                id=int(measured.ids[row]),
                label=measured.classes[measured.labels[row]],
                aps=float(measured.scores[row]),
                thumbnail=address(request, int(measured.ids[row]), "thumbnail"),
            )
            for row in rows[: asked.limit]
        ]
        more = len(rows) > len(page)
        return QueryPage(queries=page, next=f"{page[-1].aps!r}:{page[-1].id}" if more else None)

    return await to_thread.run_sync(work, limiter=request.state.evaluating)


@router.get(
    "/eval/confusion",
    summary="Which class lies nearest to the held-out queries of each class",
    responses=problems({409: UNMEASURABLE}),
)
async def eval_confusion(request: Request, searcher: Service) -> Confusion:
    """Of the queries against the index as it is now, and remembered until the index changes. Where several
    images are nearest, each counts for an equal share of its query."""

    def made(snapshot: Snapshot) -> Confusion:
        classes = snapshot.classes
        counts = nearest_classes(*searcher.asked_and_ranked(snapshot))
        found = [
            Confused(label=classes[asked], nearest=classes[nearest], queries=queries)
            for (asked, nearest), queries in sorted(counts.items())
        ]
        found.sort(key=lambda each: -each.queries)
        right = sum(queries for (asked, nearest), queries in counts.items() if asked == nearest)
        return Confusion(accuracy=right / sum(counts.values()), nearest=found)

    return await to_thread.run_sync(searcher.once, "confusion", made, limiter=request.state.evaluating)


@router.get(
    "/eval/codes",
    summary="The state of the codes: balance, dead and repeated bits, collisions",
    responses=problems({409: NO_IMAGE}),
)
async def eval_codes(request: Request, searcher: Service) -> CodeReport:
    """Of all indexed images as they are now, and remembered until the index changes."""
    return await to_thread.run_sync(searcher.once, "codes", _code_report, limiter=request.state.evaluating)


def _code_report(snapshot: Snapshot) -> CodeReport:
    ids, codes = snapshot.engine.items()
    if not len(ids):
        raise NothingToMeasure(NO_IMAGE)
    bits = bit_statistics(codes)
    order, starts = same_code(codes)
    sizes = np.diff(starts, append=len(order))
    largest = np.argsort(-sizes, kind="stable")[:LARGEST]
    return CodeReport(
        items=len(ids),
        bits=[
            BitReport(bit=bit, balance=balance, entropy=entropy)
            for bit, (balance, entropy) in enumerate(
                zip(bits.balance.tolist(), bits.entropy.tolist(), strict=True)
            )
        ],
        dead=bits.dead.tolist(),
        effective_bits=bits.effective,
        mean_absolute_correlation=bits.mean_absolute_correlation,
        most_correlated=[
            CorrelatedBits(first=first, second=second, correlation=correlation)
            for first, second, correlation in bits.most_correlated(LARGEST)
        ],
        distinct=len(starts),
        colliding=int(sizes[sizes > 1].sum()),
        collisions=[
            Collision(
                code=to_hex(codes[order[starts[group]]]),
                size=int(sizes[group]),
                ids=ids[order[starts[group] :][: min(sizes[group], SHOWN)]].tolist(),
            )
            for group in largest
            if sizes[group] > 1
        ],
    )


@router.get(
    "/duplicates",
    summary="Groups of images whose codes lie near each other",
    responses=problems(
        {
            422: "radius 16 is too much here: 45,000,000,000 pairs of codes would have to be compared, at "
            "most 10,000,000,000 are; ask for a smaller one, 0 is always possible",
            503: BUSY_GROUPING.format(GROUPING),
        }
    ),
)
async def duplicates(
    request: Request, searcher: Service, asked: Annotated[DuplicateParameters, Query()]
) -> DuplicatePage:
    """Single linkage: two images are in one group if a chain of images leads from one to the other, each
    within the radius of the next. Largest groups first, a page at a time.

    Remembered until the index changes. At 60,000 images the first answer takes up to 0.2 s at radius 0,
    2 s at 1, 5 s at 4 and 13 s at 16, on one core; the time grows with the square of the images.
    """

    def work() -> DuplicatePage:
        found = searcher.once(("duplicates", asked.radius), partial(_duplicates, radius=asked.radius))
        keys = [(-len(ids), int(ids[0])) for ids, _ in found.groups]
        begin = 0
        if asked.after is not None:
            size, _, first = asked.after.partition(":")
            begin = bisect_right(keys, (-int(size), int(first)))
        shown = found.groups[begin : begin + asked.limit]
        more = begin + len(shown) < len(keys)
        return DuplicatePage(
            radius=asked.radius,
            groups=len(keys),
            images=-sum(size for size, _ in keys),
            found=[
                DuplicateGroup(
                    size=len(ids),
                    labels=len(np.unique(labels[labels != UNLABELLED])),
                    images=[
                        Duplicate(
                            id=id_,
                            label=None if label == UNLABELLED else found.classes[label],
                            thumbnail=address(request, id_, "thumbnail"),
                        )
                        for id_, label in zip(ids.tolist(), labels.tolist(), strict=True)
                    ][: asked.members],
                )
                for ids, labels in shown
            ],
            next=f"{len(shown[-1][0])}:{shown[-1][0][0]}" if more else None,
        )

    with place(request.state.grouping_places, BUSY_GROUPING):
        return await to_thread.run_sync(work, limiter=request.state.grouping)


@dataclass(frozen=True)
class _Duplicates:
    """Groups, the largest first, as ids (m,), ascending, and labels (m,) of what they were then."""

    groups: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
    classes: tuple[str, ...]


def _duplicates(snapshot: Snapshot, radius: int) -> _Duplicates:
    ids, codes = snapshot.engine.items()
    try:
        groups = groups_within(codes, radius, most=MOST_PAIRS)
    except TooManyPairs as error:
        raise HTTPException(
            422, f"radius {radius} is too much here: {error}; ask for a smaller one, 0 is always possible"
        ) from None
    return _Duplicates([(ids[group], snapshot.labels[group]) for group in groups], snapshot.classes)


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
    request: Request, searcher: Service, asked: Annotated[ExportParameters, Query()]
) -> TemporaryDownload:
    """All images that can be found, as they are at this moment, without their pictures and without the
    held-out queries.

    `npz` is for `numpy.load`, which needs no pickle for it: arrays `ids`, `codes`, `labels` (places in
    `classes`, −1: none), `classes`, `added`, `sha256`, `encoder_id`, and `items.jsonl`, a line of JSON for
    each image with its path and metadata. `parquet` has a row for each image and the encoder in the file's
    metadata; it needs pyarrow where the service runs.
    """
    with ExitStack() as resources:
        resources.enter_context(place(request.state.exporting_places, BUSY_EXPORTING))

        def work() -> IO[bytes]:
            # It has no name, so that it goes away whatever happens.
            file = TemporaryFile()  # noqa: SIM115  # closed with the resources
            resources.callback(_discard, file)
            WRITERS[asked.format](file, searcher.catalogue)
            file.flush()
            return file

        try:
            file = await to_thread.run_sync(work, limiter=request.state.exporting)
        except NoParquet as error:
            raise HTTPException(501, str(error)) from None
        except OSError as error:
            raise HTTPException(
                507,
                f"the export cannot be written to {gettempdir()}: {error.strerror}; set TMPDIR to a folder "
                "with space",
            ) from None
        return TemporaryDownload(
            file, EXPORT_TYPES[asked.format], f"hebbsearch.{asked.format}", resources.pop_all()
        )


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
    text = request.app.state.metrics.text(
        items=len(searcher.snapshot().ids),
        artifact={"artifact": searcher.name, "encoder_id": artifact.manifest.encoder_id},
        places={of: request.state[name] for of, name in PLACES.items()},
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)


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
        artifact=searcher.name,
        created=manifest.created,
        encoder_id=manifest.encoder_id,
        bits=manifest.bits,
        revision=snapshot.revision,
        versions=versions(),
        uptime=0,
    )


def _counts(labels: np.ndarray[tuple[int], np.dtype[np.int64]], classes: int) -> list[int]:
    counts: list[int] = np.bincount(labels[labels != UNLABELLED], minlength=classes).tolist()
    return counts


@cache
def versions() -> dict[str, str]:
    """Of what the service runs on."""
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
