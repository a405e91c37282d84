"""The routes that advise who gives labels."""

from functools import partial
from typing import Annotated

import numpy as np
from anyio import to_thread
from fastapi import Query, Request
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from index.advice import embedded, judged, suggestions
from index.export import write_labels
from index.items import UNLABELLED, CodeTable
from index.labels import COLUMNS
from index.tables.doubts import Doubt
from service.core.searcher import Searcher
from service.routes.about import BUSY_EXPORTING, BUSY_GROUPING, TemporaryDownload, download
from service.routes.images import NO_EMBEDDINGS, describing
from service.schemas import labels as schemas
from service.schemas.problem import problems
from service.web.access import Access, check, reading_router
from service.web.asking import Service, shared
from service.web.places import EXPORTING, GROUPING, place

router = reading_router()

CSV = "text/csv; charset=utf-8"
EXAMPLE = f"{','.join(COLUMNS)}\nthree/0017.png,3,scans,{'ab' * 32},given\n"
ANSWERS = problems({409: NO_EMBEDDINGS, 503: BUSY_GROUPING.format(GROUPING)})


@router.get(
    "/labels.csv",
    summary="All labels as a file",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": f"CSV in UTF-8 with the columns {', '.join(COLUMNS)}.",
            "content": {CSV: {"schema": {"type": "string"}, "example": EXAMPLE}},
        },
        **problems({503: BUSY_EXPORTING.format(EXPORTING)}),
    },
)
async def as_csv(
    request: Request, searcher: Service, asked: Annotated[schemas.FileParameters, Query()]
) -> TemporaryDownload:
    """A line for each image that has a label, held-out queries too: where its file lay, and what tells the
    file wherever it lies now. `hebbsearch build`, `add` and `label` take it back."""
    if asked.trashed:
        check(request, Access.WRITE)
    write = partial(
        write_labels, catalogue=searcher.catalogue, predicted=asked.predicted, trashed=asked.trashed
    )
    return await download(request, write, CSV, "labels.csv")


@router.get("/labels/predictions", summary="Which labels are predicted, of how many images")
def predictions(
    searcher: Service, asked: Annotated[schemas.PredictionParameters, Query()]
) -> schemas.Predictions:
    """Of images without a label. GET /images with `predicted` and `min_confidence` names them, and PATCH
    /images takes them."""
    found = searcher.catalogue.predicted(asked.min_confidence)
    return schemas.Predictions(
        predictions=[schemas.Predicted(label=label, images=count) for label, count in found.items()],
        unlabelled=searcher.catalogue.counts()["unlabelled"],
    )


@router.get("/labels/suggestions", summary="Which images to label next", responses=ANSWERS)
async def suggested(
    request: Request, searcher: Service, asked: Annotated[schemas.AdviceParameters, Query()]
) -> schemas.Suggestions:
    """Images without a label that are typical of many and whose predicted label is unsure, each from another
    group of images that are alike. Remembered until the index changes."""

    def work() -> schemas.Suggestions:
        ids = searcher.once(("suggestions", asked.limit), lambda: _suggested(searcher, asked.limit))
        described = describing(request, searcher)
        there = searcher.catalogue.there(ids)
        return schemas.Suggestions(images=[described(there[id_]) for id_ in ids if id_ in there])

    with place(shared(request).places.duplicates, BUSY_GROUPING):
        return await to_thread.run_sync(work, limiter=shared(request).turns.group)


@router.get("/labels/doubtful", summary="Which labels to look at again", responses=ANSWERS)
async def doubtful(
    request: Request, searcher: Service, asked: Annotated[schemas.AdviceParameters, Query()]
) -> schemas.Doubts:
    """Labelled images whose nearest labelled neighbours mostly have another label. Of more than 20,000 labels
    as many are looked at, drawn at random. Remembered until the index changes."""

    def work() -> schemas.Doubts:
        found = searcher.once("doubtful", lambda: _doubtful(searcher))[: asked.limit]
        described = describing(request, searcher)
        there = searcher.catalogue.there([each.item_id for each in found])
        classes = searcher.catalogue.classes
        return schemas.Doubts(
            found=[
                schemas.Doubtful(
                    image=described(there[each.item_id]),
                    rival=classes[each.rival],
                    doubt=round(each.doubt, 4),
                )
                for each in found
                if each.item_id in there
            ]
        )

    with place(shared(request).places.duplicates, BUSY_GROUPING):
        return await to_thread.run_sync(work, limiter=shared(request).turns.group)


def _embedded(searcher: Searcher) -> tuple[CodeTable, NDArray[np.float16]]:
    """Those images that can be found and have an embedding, and these (n, E). 409 where none are kept."""
    table, vectors = embedded(searcher.contents().table, *searcher.catalogue.embeddings())
    if not len(vectors):
        raise HTTPException(409, NO_EMBEDDINGS)
    return table, vectors


def _suggested(searcher: Searcher, limit: int) -> list[int]:
    table, vectors = _embedded(searcher)
    known = searcher.catalogue.predictions()
    rows = np.flatnonzero(table.labels == UNLABELLED)
    ids = table.ids[rows]
    confidences = np.array([known.get(id_, 0.0) for id_ in ids.tolist()], np.float32)
    chosen: list[int] = ids[suggestions(vectors[rows].astype(np.float32), confidences, limit)].tolist()
    return chosen


def _doubtful(searcher: Searcher) -> list[Doubt]:
    """All that is doubtful, the worst first."""
    return [each for each in judged(*_embedded(searcher)) if each.doubt > 0]
