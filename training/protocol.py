"""Who sees which label: held-out queries, validation, label regimes. All seeded, all stratified."""

import logging
import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from index.items import UNLABELLED
from index.names import shown
from training.config import Config, ConfigError
from training.data import DataError, ImageSet, Positions
from training.learning.by_rule import learns_from_labels

log = logging.getLogger("hebbsearch")

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


def check(images: ImageSet, config: Config) -> list[str]:
    """Before anything is decoded: raise DataError or ConfigError for what could not be learned from, and say
    which classes are never asked with, and where a share of the labels comes out larger. Returns those
    classes."""
    fraction = config.fraction() if images.classes else 0.0
    if not fraction:
        _check_without_labels(images, config)
        return []
    parts = split(images, fraction, config.seed)
    alone = say_of_one_image(images)
    classes, labels = counted(images)
    if fraction * labels < classes * (1 - 1e-9):  # 0.29 × 100 is less than 29
        raise ConfigError(too_few(f"labels {config.labels}", classes, labels))
    given = _labels_used(images, parts)
    if given > 1.1 * fraction * labels:
        log.warning(
            "--labels %s: each class gives one image at least, so that of %d labels %d are learned from",
            config.labels, labels, given,
        )  # fmt: skip
    return alone


def say_of_one_image(images: ImageSet, said: Collection[str] = ()) -> list[str]:
    """Name the classes that nothing can be held out of, but for those that were `said` already."""
    if images.queries is not None:
        return []
    judging = replace(images, labels=images.looked_at).counts()
    counts = list(zip(images.classes, images.counts(), judging, strict=True))
    alone = [name for name, count, _ in counts if count == 1 and name not in said]
    guessed = [name for name, count, looked in counts if count > 1 >= looked and name not in said]
    if alone:
        log.warning(
            "%s: classes of one image, which is learned from and never asked with (add a second one to "
            "measure them too): %s", images.where, ", ".join(map(repr, alone)),
        )  # fmt: skip
    if guessed:
        log.warning(
            "%s: classes whose labels were accepted in groups, but for one at most, so that they are never "
            "asked with (look at two, and give those again): %s", images.where, ", ".join(map(repr, guessed)),
        )  # fmt: skip
    return alone + guessed


def say_of_contradictions(images: ImageSet) -> None:
    """Name files that are equal and have two labels, one of which is wrong."""
    if found := images.contradictions():
        log.warning(
            "%s: %d files are equal to another one that has another label, first %s and %s; correct the "
            "wrong one", images.where, len(found), *map(shown, found[0]),
        )  # fmt: skip


def split(images: ImageSet, fraction: float, seed: int) -> Split:
    """Divide `images`; `fraction` of the training part's labels are used (0: none, and no queries).

    Each image is indexed or a query. The named data sets have a validation part of their own, as in the
    paper, and never learn from a test image. A user's own images are validated on a tenth of the given
    labels, so that never more labels are used than `fraction` says; all that is not asked with is learned
    from, but for copies of queries. Raises DataError naming the classes that cannot be learned.
    """
    labels, named = images.labels, images.validation_share is not None
    everything = np.arange(len(labels))
    queries = np.zeros(len(labels), bool)
    if fraction:
        _check_classes(images)
        queries = _queries(images, seed)
    database = everything[~queries]
    if named and images.queries is not None:
        learned_from = everything[~images.queries]
    else:
        learned_from = everything[~queries & ~images.copies(queries)]
    if not fraction:
        nothing = everything[:0]
        return Split(nothing, database, learned_from, nothing, nothing)

    teaching = labels != UNLABELLED
    if images.queries is not None:
        teaching &= ~images.queries  # a test image that nobody looked at is no lesson either
    candidates = learned_from[teaching[learned_from]]
    if not len(candidates):
        raise DataError(
            f"{images.where}: each labelled image to learn from is a copy of a query, byte for byte"
            "; add others"
        )
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
            held = stratified(images.looked_at[given], 0.1, seed)
        training, validation = given[~held], given[held]
    return Split(everything[queries], database, pretraining, training, validation)


def counted(images: ImageSet) -> tuple[int, int]:
    """How many classes there are, and labels to choose a share from."""
    return len(images.classes), _labels_used(images, split(images, 1.0, seed=0))


def least_share(classes: int, labels: int) -> float:
    """The share of the labels, in %, that has as many as there are classes. Each class gets one at least, so
    that a smaller one would not be the share that it says."""
    return 100 * classes / labels


def too_few(share: str, classes: int, labels: int) -> str:
    """What is said of a `share` smaller than that."""
    least = math.ceil(100 * least_share(classes, labels)) / 100
    return (
        f"{share}: of {labels} training labels that is fewer than the {classes} classes; "
        f"use at least {least:g}%"
    )


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


def _check_without_labels(images: ImageSet, config: Config) -> None:
    if learns_from_labels(config.rule):
        some = "leave out --labels none" if images.classes else "give some by class folders or a CSV file"
        what = f"--rule {config.rule} learns from labels, and has none"
        raise ConfigError(f"{images.where}: {what}; {some}, or use another rule")
    if not images.classes and config.labels not in {"none", "100%"}:
        log.warning("%s: there are no labels, so that --labels %s means nothing", images.where, config.labels)


def _queries(images: ImageSet, seed: int) -> NDArray[np.bool_]:
    """Which images (n,) are asked with. A test image without a label can ask nothing, nor can one whose label
    nobody looked at."""
    labels = images.looked_at
    known = labels != UNLABELLED
    if images.queries is not None:
        return images.queries & known
    return stratified(labels, min(HELD_OUT, MOST_HELD_OUT / max(1, int(known.sum()))), seed)


def _check_classes(images: ImageSet) -> None:
    counts = images.counts()
    if (counts > 0).sum() < 2:
        found = f"one class ({images.classes[int(counts.argmax())]})" if counts.any() else "no labelled image"
        raise DataError(
            f"{images.where}: only {found} to learn from; add a second class, or use --labels none"
        )
    if missing := [name for name, count in zip(images.classes, counts, strict=True) if not count]:
        raise DataError(
            f"{images.where}: there is no image to learn from of {', '.join(map(repr, missing))}, which the "
            "test images have; add some, or remove the test images"
        )


def _labels_used(images: ImageSet, parts: Split) -> int:
    """Of the share that was asked for; a named data set's validation labels are beside it."""
    return len(parts.training) + (0 if images.validation_share else len(parts.validation))
