"""How good the answers are: the held-out queries against the index as it is now.

Each question is computed once for each revision of the catalogue. Without labelled queries and images nothing
can be measured: all functions raise NothingToMeasure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.bootstrap import bootstrap_interval
from index.codes import Codes
from index.conventions import Denominator, Ties
from index.distances import (
    Pairs,
    PrecisionRecall,
    nearest_classes,
    pairs_by_distance,
    precision_recall_curve,
)
from index.evaluation import average_precision, average_precision_at_random
from index.items import UNLABELLED
from index.rankings import Labels
from service.core.searcher import Searcher


class NothingToMeasure(ValueError):
    """Without labelled queries and items there is no mAP; the message says what is missing."""


@dataclass(frozen=True)
class Compared:
    """Held-out queries, and the images that are ranked for them: all that have labels."""

    queries: Codes  # (q, bits/8)
    query_labels: Labels  # (q,) class indices
    database: Codes  # (n, bits/8)
    database_labels: Labels  # (n,)
    unlabelled: int  # images that are not ranked
    copies: int  # and labelled ones that are not, as they are held-out queries
    classes: tuple[str, ...]  # what the labels stand for

    @property
    def arrays(self) -> tuple[Codes, Labels, Codes, Labels]:
        """As the functions of index/evaluation.py and index/distances.py take them."""
        return self.queries, self.query_labels, self.database, self.database_labels


@dataclass(frozen=True)
class Measurement:
    """The average precision of the n queries that were scored, and what it is to be compared with."""

    ids: NDArray[np.int64]  # (n,)
    labels: Labels  # (n,) class indices
    scores: NDArray[np.float64]  # (n,)
    chance: float  # the mean that is expected of a ranking at random
    interval: tuple[float, float]  # 95 % bootstrap interval of the mean; NaN: there is one query
    members: NDArray[np.int64]  # (classes,) ranked images of each
    unlabelled: int  # images that were not ranked for want of a label
    copies: int  # labelled ones that were not ranked as they are held-out queries
    classes: tuple[str, ...]  # what the labels stand for


@dataclass(frozen=True)
class Confusion:
    """Which class is nearest to how many queries of each, by both class indices."""

    counts: Mapping[tuple[int, int], float]
    classes: tuple[str, ...]


def measure(
    searcher: Searcher,
    *,
    k: int | None = None,
    ties: Ties = "expected",
    denominator: Denominator = "min",
) -> Measurement:
    """Average precision of each held-out query, by one of the conventions of index/conventions.py."""

    def made() -> Measurement:
        compared = compare(searcher)
        scores = average_precision(*compared.arrays, k=k, ties=ties, denominator=denominator)
        scored = ~np.isnan(scores)
        labels = compared.query_labels[scored]
        chance = average_precision_at_random(labels, compared.database_labels, k=k, denominator=denominator)
        return Measurement(
            ids=searcher.held_out()[scored],
            labels=labels,
            scores=scores[scored],
            chance=float(chance.mean()),
            interval=bootstrap_interval(scores[scored], seed=0),  # the same question has the same answer
            members=np.bincount(compared.database_labels, minlength=len(compared.classes)),
            unlabelled=compared.unlabelled,
            copies=compared.copies,
            classes=compared.classes,
        )

    return searcher.once(("measure", k, ties, denominator), made)


def scores(searcher: Searcher, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average precision (n,) of these held-out queries over the whole ranking; NaN where no indexed image has
    the label."""
    compared = compare(searcher)
    row_of = {item_id: row for row, item_id in enumerate(searcher.held_out().tolist())}
    rows = [row_of[item_id] for item_id in ids.tolist()]
    return average_precision(
        compared.queries[rows], compared.query_labels[rows], compared.database, compared.database_labels
    )


def curve(searcher: Searcher) -> tuple[PrecisionRecall, Pairs]:
    """What each distance is worth, by the held-out queries."""

    def made() -> tuple[PrecisionRecall, Pairs]:
        arrays = compare(searcher).arrays
        return precision_recall_curve(*arrays), pairs_by_distance(*arrays)

    return searcher.once("curve", made)


def confusion(searcher: Searcher) -> Confusion:
    """Where several images are nearest, each counts for an equal share of its query."""

    def made() -> Confusion:
        compared = compare(searcher)
        return Confusion(nearest_classes(*compared.arrays), compared.classes)

    return searcher.once("confusion", made)


def compare(searcher: Searcher) -> Compared:
    """The held-out queries and all that can be found. Images that were sent and are held-out queries are
    searched, but not ranked here: each query would find itself."""
    queries, contents = searcher.queries, searcher.contents()
    table = contents.table
    if queries is None:
        raise NothingToMeasure(
            "this index was built without labels, so that no image is held out to measure the answers "
            "with; labels given later do not change that, build one with labelled images"
        )
    asked, labelled = queries.labels != UNLABELLED, table.labels != UNLABELLED
    ranked = labelled & ~np.isin(table.ids, searcher.catalogue.copies_of_queries())
    if not asked.any() or not ranked.any():
        lacking = "held-out query" if ranked.any() else "indexed image"
        raise NothingToMeasure(f"no {lacking} has a label, so that no answer can be called right")
    if not np.isin(queries.labels[asked], table.labels[ranked]).any():
        raise NothingToMeasure("no indexed image has the label of any held-out query")
    return Compared(
        queries=queries.codes[asked],
        query_labels=queries.labels[asked],
        database=table.codes[ranked],
        database_labels=table.labels[ranked],
        unlabelled=int(np.count_nonzero(~labelled)),
        copies=int(np.count_nonzero(labelled & ~ranked)),
        classes=contents.classes,
    )
