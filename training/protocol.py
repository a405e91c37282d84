"""Who sees which label: held-out queries, validation, label regimes. All seeded, all stratified."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.items import UNLABELLED
from training.data import DataError, ImageSet, Positions

# Of a user's images a tenth is asked, but not more than this: they tell the mAP to within a point, as scores
# from 0 to 1 deviate by a half at most, and each costs milliseconds against a million images.
HELD_OUT, MOST_HELD_OUT = 0.1, 10_000
# Below this many labels a tenth of them says too little to choose an epoch by.
MIN_LABELS_TO_VALIDATE = 100


@dataclass(frozen=True)
class Split:
    """Positions of images by what they are used for.

    `database` and `queries` are what is indexed and what is asked; `pretraining` is learned from without
    labels; `training` and `validation` are the only labels that a training run sees.
    """

    queries: Positions
    database: Positions
    pretraining: Positions
    training: Positions
    validation: Positions


def split(images: ImageSet, fraction: float, seed: int) -> Split:
    """Divide `images`; `fraction` of the training part's labels are used (0: none, and no queries).

    The named data sets have a validation part of their own, as in the paper. A user's own images are
    validated on a tenth of the given labels, so that never more labels are used than `fraction` says.
    Raises DataError naming a class that is too small.
    """
    labels = images.labels
    everything = np.arange(len(labels))
    if fraction == 0:
        held_out = images.queries if images.queries is not None else np.zeros(len(labels), bool)
        database = everything[~held_out]
        nothing = everything[:0]
        return Split(nothing, database, database, nothing, nothing)

    _check_classes(images)
    queries = images.queries
    if queries is None:
        labelled = int((labels != UNLABELLED).sum())
        queries = stratified(labels, min(HELD_OUT, MOST_HELD_OUT / labelled), seed)
    database = everything[~queries]
    queries = queries & (labels != UNLABELLED)  # a test image without a label can ask nothing
    learned_from = database
    if images.validation_share is None:  # else as the paper has it
        learned_from = everything[~queries & ~images.copies(queries)]
    candidates = learned_from[labels[learned_from] != UNLABELLED]
    pretraining = learned_from
    if images.validation_share:
        held = stratified(labels[candidates], images.validation_share, seed)
        validation, candidates = candidates[held], candidates[~held]
        pretraining = candidates
        training = candidates[label_subset(labels[candidates], fraction, seed)]
    else:
        given = candidates[label_subset(labels[candidates], fraction, seed)]
        held = np.zeros(len(given), bool)
        if len(given) >= MIN_LABELS_TO_VALIDATE:
            held = stratified(labels[given], 0.1, seed)
        training, validation = given[~held], given[held]
    return Split(everything[queries], database, pretraining, training, validation)


def stratified(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """A mask of about `share` of each class, at least one and never all; classes of one stay out."""
    chosen = np.zeros(len(labels), bool)
    for members in _members_by_class(labels, seed):
        chosen[members[: min(max(1, round(share * len(members))), len(members) - 1)]] = True
    return chosen


def label_subset(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """A mask of `fraction` of each class, at least one; a smaller fraction's is part of a larger one's.

    Of n images a class gives ⌊n · fraction + u⌋, where u lies evenly spread over the classes in a random
    order: less than one label away from its share, and of C equal classes together exactly the nearest number
    to theirs, as Σ ⌊x + (i + ½) / C⌋ over i < C is C·x rounded.
    """
    chosen = np.zeros(len(labels), bool)
    classes = _members_by_class(labels, seed)
    offsets = (np.random.default_rng(seed).permutation(len(classes)) + 0.5) / max(len(classes), 1)
    for members, offset in zip(classes, offsets, strict=True):
        chosen[members[: max(1, int(fraction * len(members) + offset))]] = True
    return chosen


def derived_seed(*keys: int) -> int:
    """One seed from several numbers, such as (seed, stage, epoch)."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _members_by_class(labels: NDArray[np.int64], seed: int) -> list[Positions]:
    """For each class its members in a random order that depends on seed and class alone."""
    return [
        np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        for label in np.unique(labels[labels != UNLABELLED])
    ]


def _check_classes(images: ImageSet) -> None:
    searched = images.labels if images.queries is None else images.labels[~images.queries]
    counts = np.bincount(searched[searched != UNLABELLED], minlength=len(images.classes))
    if (counts > 0).sum() < 2:
        found = f"one class ({images.classes[int(counts.argmax())]})" if counts.any() else "no labelled image"
        raise DataError(
            f"{images.where}: only {found} to learn from; add a second class, or use --labels none"
        )
    needed = 2 if images.queries is None else 1
    small = [name for name, count in zip(images.classes, counts, strict=True) if count < needed]
    if small:
        hint = "two are needed, one of them to ask with; " if needed == 2 else ""
        count = "one" if counts[images.classes.index(small[0])] else "no readable"
        raise DataError(
            f"{images.where}: class {small[0]!r} has {count} image to learn from"
            f" ({hint}add images or remove the class)"
        )
