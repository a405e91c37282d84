"""The routes that say how good the answers are, and in what state the codes."""

import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from anyio import to_thread
from fastapi import Query, Request
from numpy.typing import NDArray

from index.code_statistics import bit_statistics, same_code
from index.codes import to_hex
from index.distances import precision_by_distance
from index.items import CodeTable
from index.names import shown
from service.core import measuring
from service.core.measuring import Measurement, NothingToMeasure, measure
from service.core.searcher import Searcher
from service.schemas import evaluation as schemas
from service.schemas.problem import problems
from service.web.access import reading_router
from service.web.asking import Service, address, shared

router = reading_router()

UNMEASURABLE = (
    "no image is held out to measure the answers with, as this index was built without labels, or …"
)
NO_IMAGE = "no image is indexed, so that there are no codes to tell of; add some first"
LARGEST, SHOWN = 20, 10  # of collisions and correlations that are listed; ids of each


@router.get(
    "/eval/map",
    summary="Mean average precision of the held-out queries",
    responses=problems(
        {
            409: "no image is held out to measure the answers with, as this index was built without labels …",
            422: "ties: Input should be 'expected' or 'order', not 'random'",
        }
    ),
)
async def eval_map(
    request: Request, searcher: Service, query: Annotated[schemas.EvaluationParameters, Query()]
) -> schemas.Evaluation:
    """Measured against the index as it is now, and remembered until the index changes."""
    work = partial(evaluate, searcher, query)
    return await to_thread.run_sync(work, limiter=shared(request).turns.evaluate)


@router.get(
    "/eval/curve",
    summary="What each Hamming distance is worth",
    responses=problems({409: "no image is held out to measure the answers with, as this index …"}),
)
async def eval_curve(request: Request, searcher: Service) -> schemas.Curve:
    """Of the held-out queries against the index as it is now, and remembered until the index changes."""
    return await to_thread.run_sync(_curve, searcher, limiter=shared(request).turns.evaluate)


def _curve(searcher: Searcher) -> schemas.Curve:
    within, pairs = measuring.curve(searcher)
    return schemas.Curve(
        radius=within.radius.tolist(),
        precision=within.precision.tolist(),
        recall=within.recall.tolist(),
        precision_at=precision_by_distance(pairs).tolist(),
        same_class=pairs.same_class.tolist(),
        other_class=pairs.other_class.tolist(),
    )


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
    request: Request, searcher: Service, asked: Annotated[schemas.QueryPageParameters, Query()]
) -> schemas.QueryPage:
    """Worst first, or best first, a page at a time. Those of equal score are sorted by id."""

    def work() -> schemas.QueryPage:
        measured = measure(searcher, k=asked.k, ties=asked.ties, denominator=asked.denominator)
        sign = 1 if asked.order == "worst" else -1
        rows = np.lexsort((measured.ids, sign * measured.scores))
        if asked.after is not None:
            score, _, id_ = asked.after.partition(":")
            key, before = sign * measured.scores[rows], sign * float(score)
            rows = rows[(key > before) | ((key == before) & (measured.ids[rows] > int(id_)))]
        page = [
            schemas.ScoredQuery(
                id=int(measured.ids[row]),
                label=measured.classes[measured.labels[row]],
                aps=float(measured.scores[row]),
                thumbnail=address(request, int(measured.ids[row]), "thumbnail"),
            )
            for row in rows[: asked.limit]
        ]
        more = len(rows) > len(page)
        return schemas.QueryPage(queries=page, next=f"{page[-1].aps!r}:{page[-1].id}" if more else None)

    return await to_thread.run_sync(work, limiter=shared(request).turns.evaluate)


@router.get(
    "/eval/confusion",
    summary="Which class lies nearest to the held-out queries of each class",
    responses=problems({409: UNMEASURABLE}),
)
async def eval_confusion(request: Request, searcher: Service) -> schemas.Confusion:
    """Of the queries against the index as it is now, and remembered until the index changes. Where several
    images are nearest, each counts for an equal share of its query."""

    return await to_thread.run_sync(_confusion, searcher, limiter=shared(request).turns.evaluate)


def _confusion(searcher: Searcher) -> schemas.Confusion:
    counts, classes = measuring.confusion(searcher)
    nearest = [
        schemas.Confused(label=classes[asked], nearest=classes[found], queries=queries)
        for (asked, found), queries in sorted(counts.items())
    ]
    nearest.sort(key=lambda each: -each.queries)
    right = sum(queries for (asked, found), queries in counts.items() if asked == found)
    return schemas.Confusion(accuracy=right / sum(counts.values()), nearest=nearest)


@router.get(
    "/eval/codes",
    summary="The state of the codes: balance, dead and repeated bits, collisions",
    responses=problems({409: NO_IMAGE}),
)
async def eval_codes(request: Request, searcher: Service) -> schemas.CodeReport:
    """Of all indexed images as they are now, and remembered until the index changes."""
    work = partial(searcher.once, "codes", lambda: _code_report(searcher.contents().table))
    return await to_thread.run_sync(work, limiter=shared(request).turns.evaluate)


def _code_report(table: CodeTable) -> schemas.CodeReport:
    ids, codes = table.ids, table.codes
    if not len(ids):
        raise NothingToMeasure(NO_IMAGE)
    bits = bit_statistics(codes)
    order, starts = same_code(codes)
    sizes = np.diff(starts, append=len(order))
    largest = np.argsort(-sizes, kind="stable")[:LARGEST]
    return schemas.CodeReport(
        items=len(ids),
        bits=[
            schemas.BitReport(bit=bit, balance=balance, entropy=entropy)
            for bit, (balance, entropy) in enumerate(
                zip(bits.balance.tolist(), bits.entropy.tolist(), strict=True)
            )
        ],
        dead=bits.dead.tolist(),
        effective_bits=bits.effective,
        mean_absolute_correlation=bits.mean_absolute_correlation,
        most_correlated=[
            schemas.CorrelatedBits(first=first, second=second, correlation=correlation)
            for first, second, correlation in bits.most_correlated(LARGEST)
        ],
        distinct=len(starts),
        colliding=int(sizes[sizes > 1].sum()),
        collisions=[
            schemas.Collision(
                code=to_hex(codes[order[starts[group]]]),
                size=int(sizes[group]),
                ids=ids[order[starts[group] :][: min(sizes[group], SHOWN)]].tolist(),
            )
            for group in largest
            if sizes[group] > 1
        ],
    )


def evaluate(searcher: Searcher, asked: schemas.EvaluationParameters) -> schemas.Evaluation:
    """What was measured, and all that it depends on."""
    measured = measure(searcher, k=asked.k, ties=asked.ties, denominator=asked.denominator)
    manifest, data = searcher.artifact.manifest, searcher.artifact.manifest.data
    definition = schemas.Definition(
        text="",
        queries=len(measured.ids),
        dropped_queries=measured.queries - len(measured.ids),
        later_queries=measured.later,
        items=int(measured.members.sum()),
        unlabelled_items=measured.unlabelled,
        copies_of_queries=measured.copies,
        grouped_items=measured.grouped,
        k=asked.k,
        ties=asked.ties,
        denominator=asked.denominator,
        encoder_id=manifest.encoder_id,
        artifact=shown(searcher.name),
        rule=manifest.config.get("rule"),
        backbone=manifest.config.get("backbone"),
        labels=_regime(data),
        dataset=data.get("name"),
        bits=manifest.bits,
        created=manifest.created,
    )
    low, high = measured.interval
    return schemas.Evaluation(
        map=float(measured.scores.mean()),
        interval=None if math.isnan(low) else schemas.Interval(low=low, high=high),
        chance=measured.chance,
        aps=_summary(measured.scores),
        per_class=_class_scores(measured),
        definition=definition.model_copy(update={"text": _in_words(definition, data)}),
    )


def _summary(scores: NDArray[np.float64]) -> schemas.ScoreSummary:
    p10, median, p90 = np.quantile(scores, [0.1, 0.5, 0.9]).tolist()
    return schemas.ScoreSummary(
        mean=float(scores.mean()), std=float(scores.std()), p10=p10, median=median, p90=p90
    )


def _class_scores(measured: Measurement) -> list[schemas.ClassScore]:
    by_class = np.argsort(measured.labels, kind="stable")
    queries = np.bincount(measured.labels, minlength=len(measured.classes))
    scores = np.split(measured.scores[by_class], np.cumsum(queries)[:-1])
    return [
        schemas.ClassScore(
            label=label, aps=float(own.mean()) if len(own) else None, queries=len(own), items=items
        )
        for label, own, items in zip(measured.classes, scores, measured.members.tolist(), strict=True)
    ]


def _regime(data: dict[str, Any]) -> str | None:
    """The label regime; of a file of labels only its name, not where it lay."""
    labels = data.get("labels")
    return None if labels is None else shown(Path(labels).name)


def _in_words(definition: schemas.Definition, data: dict[str, Any]) -> str:
    depth = "the whole ranking" if definition.k is None else f"the first {definition.k:,} of the ranking"
    ties = {
        "expected": "groups of equal distance count with the exact expectation over their random orders",
        "order": "groups of equal distance are ranked by id",
    }[definition.ties]
    divisor = {
        "min": "the relevant images" + ("" if definition.k is None else " or the cut-off, if smaller"),
        "retrieved": "the relevant images found in that part",
    }[definition.denominator]
    sentences = [
        f"Mean over {definition.queries:,} held-out queries of the average precision of {depth} of "
        f"{definition.items:,} labelled images by Hamming distance of {definition.bits}-bit codes.",
        f"An image is relevant if it has the query's label; {ties}; each precision sum is divided by "
        f"{divisor}.",
    ]
    if definition.dropped_queries:
        sentences.append(f"{definition.dropped_queries:,} queries without a relevant image are left out.")
    if definition.unlabelled_items:
        sentences.append(
            f"{definition.unlabelled_items:,} indexed images have no label and are not ranked here."
        )
    if definition.copies_of_queries:
        sentences.append(
            f"{definition.copies_of_queries:,} indexed images are copies of queries and are not ranked here."
        )
    if definition.grouped_items:
        sentences.append(
            f"{definition.grouped_items:,} indexed images have labels that were accepted in groups and are "
            "not ranked here."
        )
    if training := data.get("training_labels"):
        validation = data.get("validation_labels") or 0
        chosen = f", and {validation:,} more chose its best epoch" if validation else ""
        sentences.append(f"Training saw {training:,} labels{chosen}.")
    if seen := data.get("queries_seen"):
        sentences.append(f"Its encoder may have learned from {seen:,} of the queries, which flatters it.")
    return " ".join(sentences)
