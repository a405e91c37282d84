"""What holds for all that is measured on rankings: work in blocks, arguments that do not fit."""

from functools import partial

import numpy as np
import pytest

from index import rankings
from index.distances import nearest_classes, pairs_by_distance, precision_recall_curve
from index.evaluation import average_precision, mean_average_precision, precision_at_k
from tests.index.labelled_codes import EVERY_RULE, large_case

MEASURES = (
    mean_average_precision,
    partial(precision_at_k, k=5),
    precision_recall_curve,
    pairs_by_distance,
    nearest_classes,
)


def test_work_in_blocks_equals_work_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = large_case(4)

    def everything() -> list[np.ndarray]:
        curve = precision_recall_curve(*arguments)
        by_rule = [average_precision(*arguments, k=70, ties=t, denominator=d) for t, d in EVERY_RULE]
        return [*by_rule, precision_at_k(*arguments, k=9), curve.precision, curve.recall]

    at_once = everything()
    monkeypatch.setattr(rankings, "CELLS", 7 * len(arguments[2]))  # 20 queries: 7, 7 and 6
    for one, other in zip(at_once, everything(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_arrays_that_do_not_fit_are_refused() -> None:
    query_codes, query_labels, codes, labels = large_case(0)
    off = {
        "24 bits; wanted 16|16 bits; wanted 24": (query_codes[:, :2], query_labels, codes, labels),
        "query_labels have": (query_codes, query_labels[1:], codes, labels),
        "database_labels have type float64": (query_codes, query_labels, codes, labels.astype(float)),
        "database_labels hold -1; leave unlabelled": (query_codes, query_labels, codes, labels - 1),
        "wanted uint8": (query_codes, query_labels, codes.astype(int), labels),
    }
    for fault, arguments in off.items():
        for measure in MEASURES:
            with pytest.raises(ValueError, match=fault):
                measure(*arguments)


def test_nothing_to_average_is_said() -> None:
    query_codes, query_labels, codes, labels = large_case(0)
    for arguments in (
        (query_codes, query_labels + 100, codes, labels),
        (query_codes[:0], query_labels[:0], codes, labels),
        (query_codes, query_labels, codes[:0], labels[:0]),
    ):
        assert np.isnan(average_precision(*arguments)).all()
        for measure in (mean_average_precision, precision_recall_curve):
            with pytest.raises(ValueError, match="relevant item in the database"):
                measure(*arguments)
