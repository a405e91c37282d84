"""How good the answers are: the held-out queries against the index as it is now.

Each question is computed once for each revision of the catalogue. Without labelled queries and images nothing
can be measured: all functions raise NothingToMeasure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index import distances
from index.bootstrap import bootstrap_interval
from index.codes import Codes
from index.conventions import Denominator, Ties
from index.evaluation import average_precision, average_precision_at_random
from index.items import UNLABELLED, CodeTable
from index.near_copies import LEAVE_OUT, near_copies_of_queries
from index.rankings import Labels
from service.core.searcher import Searcher
from training.nets.pdq import PLAIN, SAME, turned


class NothingToMeasure(ValueError):
    """Without labelled queries and items there is no mAP; the message says what is missing."""


@dataclass(frozen=True)
class Compared:
    """Held-out queries, and the images that are ranked for them: all that have labels."""

    arrays: tuple[Codes, Labels, Codes, Labels]  # of q queries and n images, as index/evaluation.py has them
    ids: NDArray[np.int64]  # (q,) of the queries
    later: int  # of them, images whose labels came after the index was made
    unasked: int  # held-out queries without a label
    unlabelled: int  # images that are not ranked
    copies: int  # and labelled ones that are not, as they are held-out queries, or nearly
    grouped: int  # and those whose label was accepted in a group, when nobody looked at each
    classes: tuple[str, ...]  # what the labels stand for


@dataclass(frozen=True)
class Measurement:
    """The average precision of the n queries that were scored, and what it is to be compared with."""

    ids: NDArray[np.int64]  # (n,)
    labels: Labels  # (n,) class indices
    scores: NDArray[np.float64]  # (n,)
    chance: float  # the mean that is expected of a ranking at random
    interval: tuple[float, float]  # 95 % bootstrap interval of the mean; NaN: there is one query
    members: NDArray[np.int64]  # (classes,) ranked images of each
    queries: int  # that are held out, those among them that were not scored
    later: int  # of them, images whose labels came after the index was made
    unlabelled: int  # images that were not ranked for want of a label
    copies: int  # labelled ones that were not ranked as they are held-out queries, or nearly
    grouped: int  # and those whose label was accepted in a group, when nobody looked at each
    classes: tuple[str, ...]  # what the labels stand for


def measure(
    searcher: Searcher, *, k: int | None = None, ties: Ties = "expected", denominator: Denominator = "min"
) -> Measurement:
    """Average precision of each held-out query, by one of the conventions of index/conventions.py."""

    def made() -> Measurement:
        compared = compare(searcher)
        _, labels, _, ranked = compared.arrays
        scores = average_precision(*compared.arrays, k=k, ties=ties, denominator=denominator)
        scored = ~np.isnan(scores)
        chance = average_precision_at_random(labels[scored], ranked, k=k, denominator=denominator)
        return Measurement(
            ids=compared.ids[scored],
            labels=labels[scored],
            scores=scores[scored],
            chance=float(chance.mean()),
            interval=bootstrap_interval(scores[scored], seed=0),  # the same question has the same answer
            members=np.bincount(ranked, minlength=len(compared.classes)),
            queries=len(compared.ids) + compared.unasked,
            later=compared.later,
            unlabelled=compared.unlabelled,
            copies=compared.copies,
            grouped=compared.grouped,
            classes=compared.classes,
        )

    return searcher.once(("measure", k, ties, denominator), made)


def scores(searcher: Searcher, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average precision (n,) of these held-out queries over the whole ranking; NaN where no indexed image has
    the label."""
    compared = compare(searcher)
    codes, labels, database, classes = compared.arrays
    row_of = {item_id: row for row, item_id in enumerate(compared.ids.tolist())}
    rows = [row_of[item_id] for item_id in ids.tolist()]
    return average_precision(codes[rows], labels[rows], database, classes)


def curve(searcher: Searcher) -> tuple[distances.PrecisionRecall, distances.Pairs]:
    """What each distance is worth, by the held-out queries."""

    def made() -> tuple[distances.PrecisionRecall, distances.Pairs]:
        arrays = compare(searcher).arrays
        return distances.precision_recall_curve(*arrays), distances.pairs_by_distance(*arrays)

    return searcher.once("curve", made)


def confusion(searcher: Searcher) -> tuple[Mapping[tuple[int, int], float], tuple[str, ...]]:
    """How many queries of a class have their nearest image in a class, by both class indices, and the
    classes. Where several images are nearest, each counts for an equal share of its query."""

    def made() -> tuple[Mapping[tuple[int, int], float], tuple[str, ...]]:
        compared = compare(searcher)
        return distances.nearest_classes(*compared.arrays), compared.classes

    return searcher.once("confusion", made)


def compare(searcher: Searcher) -> Compared:
    """The held-out queries, of the build and since, and all that can be found. Images that are held-out
    queries too are searched, but not ranked here: each query would find itself."""
    contents = searcher.contents()
    table, queries = contents.table, asked(searcher, contents.table)
    labelled = table.labels != UNLABELLED
    later = np.isin(table.ids, queries.ids)
    apart = labelled & ~later & np.isin(table.ids, copies_of_queries(searcher))
    grouped = [id_ for id_, (source, _) in searcher.catalogue.sources().items() if source == "group"]
    unseen = labelled & ~later & ~apart & np.isin(table.ids, grouped)
    ranked = labelled & ~later & ~apart & ~unseen
    known = queries.rows(queries.labels != UNLABELLED)
    if not len(queries.ids):
        raise NothingToMeasure(
            "no image is held out to measure the answers with, as this index was built without labels, or "
            "with one of each class; give labels and let it learn from them, which holds some out"
        )
    if unseen.any() and not ranked.any():
        raise NothingToMeasure(
            "all labels of indexed images were accepted in groups, so that nobody knows which answers are "
            "right; give those of some images again once you have looked at them"
        )
    if not len(known.ids) or not ranked.any():
        lacking = "held-out query" if ranked.any() else "indexed image"
        raise NothingToMeasure(f"no {lacking} has a label, so that no answer can be called right")
    if not np.isin(known.labels, table.labels[ranked]).any():
        raise NothingToMeasure("no indexed image has the label of any held-out query")
    return Compared(
        (known.codes, known.labels, table.codes[ranked], table.labels[ranked]),
        ids=known.ids,
        later=int(np.count_nonzero(later)),
        unasked=len(queries.ids) - len(known.ids),
        unlabelled=int(np.count_nonzero(~labelled)),
        copies=int(np.count_nonzero(apart)),
        grouped=int(np.count_nonzero(unseen)),
        classes=contents.classes,
    )


def copies_of_queries(searcher: Searcher) -> NDArray[np.int64]:
    """The ids (n,) of what is a held-out query, and, if the index was built so, of what nearly is one."""
    catalogue = searcher.catalogue
    if searcher.artifact.manifest.config.get("near_copies") != LEAVE_OUT:
        return catalogue.copies_of_queries()

    def made() -> NDArray[np.int64]:
        near = near_copies_of_queries(catalogue, turned, within=SAME, plain=PLAIN)
        return np.concatenate([catalogue.copies_of_queries(), near])

    return searcher.once("copies of queries", made)


def asked(searcher: Searcher, table: CodeTable) -> CodeTable:
    """The held-out queries of the build, and then those images of the `table` whose labels came later and are
    held out."""
    held = [id_ for id_, (_, held_out) in searcher.catalogue.sources().items() if held_out]
    later = table.rows(np.isin(table.ids, held) & (table.labels != UNLABELLED))
    queries = searcher.queries
    if queries is None:
        return later
    return CodeTable.joined([CodeTable(queries.ids, queries.labels, queries.codes), later])
