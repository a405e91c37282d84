"""Every convention of mAP against the evaluation's own functions and hand-made descriptors."""

import numpy as np
import pytest
import torch

from index.distances import precision_recall_curve
from index.evaluation import mean_average_precision
from tests.reference import average_precision
from training.config import configure
from training.nets.encoder import pack_signs
from training.paper.measure import Descriptors, compare, describe, items_per_class, measure
from training.run import Run

pytestmark = pytest.mark.long


def descriptors(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    values = rng.normal(size=(count, 16)).astype(np.float32) + labels[:, None] * np.float32(0.4)
    return Descriptors(np.tanh(values), pack_signs(torch.from_numpy(values)), labels)


def test_figures_are_those_of_the_evaluation():
    queries, database = descriptors(12, 0), descriptors(60, 1)
    figures, curve = compare(queries, database, seed=0)
    codes = (queries.codes, queries.labels, database.codes, database.labels)
    assert figures["map"] == pytest.approx(mean_average_precision(*codes))
    assert figures["map_at_100"] == pytest.approx(mean_average_precision(*codes, k=100))
    retrieved = mean_average_precision(*codes, k=20, denominator="retrieved")
    assert figures["map_at_class_retrieved"] == pytest.approx(retrieved)
    assert figures["map_low"] < figures["map"] < figures["map_high"]
    expected = precision_recall_curve(*codes)
    assert np.array_equal(curve.precision, expected.precision)
    assert figures["precision_radius_2"] == expected.precision[2]


def test_real_values_are_ranked_by_cosine():
    queries, database = descriptors(6, 0), descriptors(30, 1)
    figures = compare(queries, database, seed=0).figures
    values = []
    for query, label in zip(queries.values.astype(np.float64), queries.labels, strict=True):
        norms = np.linalg.norm(database.values.astype(np.float64), axis=1) * np.linalg.norm(query)
        order = np.argsort(-(database.values @ query) / norms)
        ranked = [bool(database.labels[i] == label) for i in order]
        values.append(average_precision(range(30), ranked, 30, ties="order", denominator="min"))
    assert figures["real_map"] == pytest.approx(np.nanmean(values))


def test_the_papers_map_is_cut_at_100_and_divided_by_what_was_found_there():
    """A database of 160 at distances that are all different, against the definition by counting."""
    rng = np.random.default_rng(0)
    distances, labels = rng.permutation(np.arange(1, 161)), rng.choice(3, 160, p=[0.2, 0.5, 0.3])
    values = np.where(np.arange(256) < distances[:, None], 0.5, -0.5).astype(np.float32)
    database = Descriptors(values, pack_signs(torch.from_numpy(values)), labels)
    all_off = np.full((3, 256), -0.5, np.float32)
    queries = Descriptors(all_off, pack_signs(torch.from_numpy(all_off)), np.arange(3))
    figures = compare(queries, database, seed=0).figures
    for name, divisor in (("map_at_100_retrieved", "retrieved"), ("map_at_100", "min")):
        expected = [
            average_precision(distances, (labels == label).tolist(), 100, ties="order", denominator=divisor)
            for label in range(3)
        ]
        assert figures[name] == pytest.approx(np.mean(expected))
    assert (
        figures["map_at_100_retrieved"] > figures["map_at_100"] + 0.01
    )  # each class has items behind the cut


def test_items_per_class():
    assert items_per_class(np.repeat([0, 1, 2], [10, 20, 30])) == 20


def test_a_run_is_measured_on_its_queries_and_searched_among_its_training_images():
    run = Run(configure({"dataset": "digits", "labels": "5%", "head_epochs": 1, "precision": "fp32"}), None)
    run.fit_preprocessing()
    encoder = run.encoder()
    queries, database = (describe(run, encoder, at) for at in (run.split.queries, run.split.pretraining))
    pixels = run.pixels[torch.from_numpy(run.split.queries)]
    assert np.array_equal(queries.codes, encoder.encode(pixels))
    assert np.array_equal(np.packbits(queries.values > 0, axis=1), queries.codes)
    assert len(database.labels) == 1618
    figures = measure(run).figures
    assert figures["map"] == pytest.approx(compare(queries, database, seed=0).figures["map"])
    assert 0 < figures["top1"] <= figures["top5"] < 1
