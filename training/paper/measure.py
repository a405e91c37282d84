"""What a trained run is worth: accuracy, and mAP in every convention, of its codes and of its real values."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from index.bootstrap import bootstrap_interval
from index.codes import Codes
from index.conventions import Denominator
from index.distances import PrecisionRecall, precision_recall_curve
from index.evaluation import average_precision
from index.vectors import average_precision_of_vectors
from training.learning.finetune import top_accuracies
from training.nets.encoder import Encoder, pack_signs
from training.pixels import each_batch, stream
from training.run import Run

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Descriptors:
    """Images as the head sees them: values in −1 … 1 (n, bits), the codes of their signs, labels (n,)."""

    values: Values
    codes: Codes
    labels: NDArray[np.int64]


def describe(run: Run, encoder: Encoder, positions: NDArray[np.int64]) -> Descriptors:
    """The images at `positions` as `encoder` sees them, in 32 bits."""
    groups = each_batch("encoding", positions, 256, run.home)
    streamed = stream(run.pixels, groups, run.device)
    projections = torch.cat([encoder.projections(pixels).cpu() for _, pixels in streamed])
    return Descriptors(projections.tanh().numpy(), pack_signs(projections), run.images.labels[positions])


def retrieval(queries: Descriptors, database: Descriptors, seed: int) -> dict[str, float]:
    """How well `database` is ranked for `queries`: by Hamming distance of the codes and, as `real_…`, by the
    cosine of the real values.

    `map` looks at the whole database (`map_low` to `map_high`: its 95 % bootstrap interval over the
    queries); `map_at_100` and `map_at_class`, K = items per class, divide by min(R, K), `…_retrieved` by
    the relevant items found.
    """
    codes = (queries.codes, queries.labels, database.codes, database.labels)
    values = (queries.values, queries.labels, database.values, database.labels)
    cuts = conventions(items_per_class(database.labels))
    by_hamming = [average_precision(*codes, k=k, denominator=divisor) for k, divisor in cuts.values()]
    by_cosine = average_precision_of_vectors(*values, cuts=list(cuts.values()))
    low, high = bootstrap_interval(by_hamming[0], seed=seed)
    return {
        **{name: float(np.nanmean(each)) for name, each in zip(cuts, by_hamming, strict=True)},
        **{f"real_{name}": float(np.nanmean(each)) for name, each in zip(cuts, by_cosine, strict=True)},
        "map_low": low,
        "map_high": high,
    }


def conventions(items_per_class: int) -> dict[str, tuple[int | None, Denominator]]:
    """What may be called mAP: where the ranking is cut, and what the sum of precisions is divided by."""
    return {
        "map": (None, "min"),
        "map_at_100": (100, "min"),
        "map_at_100_retrieved": (100, "retrieved"),
        "map_at_class": (items_per_class, "min"),
        "map_at_class_retrieved": (items_per_class, "retrieved"),
    }


def items_per_class(labels: NDArray[np.int64]) -> int:
    """The mean number of items of a class in the database."""
    return max(1, round(len(labels) / len(np.unique(labels))))


def classification(run: Run, positions: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy of the fine-tuned classifier, in 32 bits."""
    run.model.eval()
    batches = run.labelled(run.normalised(run.groups(positions)))
    top1, top5 = top_accuracies(run.model.classifier, batches, (1, 5))
    return {"top1": top1, "top5": top5}


class Measured(NamedTuple):
    """All figures of a run, and precision and recall at every radius."""

    figures: dict[str, float]
    curve: PrecisionRecall


def measure(run: Run) -> Measured:
    """`run` on its held-out queries; as in the paper the pre-training images are searched."""
    encoder = run.encoder()
    queries = describe(run, encoder, run.split.queries)
    database = describe(run, encoder, run.split.pretraining)
    ranked = compare(queries, database, run.config.seed)
    return Measured(classification(run, run.split.queries) | ranked.figures, ranked.curve)


def compare(queries: Descriptors, database: Descriptors, seed: int) -> Measured:
    """`retrieval` with the precision within Hamming distance 2, and the whole curve."""
    curve = precision_recall_curve(queries.codes, queries.labels, database.codes, database.labels)
    figures = retrieval(queries, database, seed) | {"precision_radius_2": float(curve.precision[2])}
    return Measured(figures, curve)
