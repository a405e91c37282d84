"""Who sees which label."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from index.items import UNLABELLED
from training.data import DataError, ImageSet
from training.protocol import derived_seed, label_subset, split, stratified


def image_set(labels, queries=None, share=None):
    labels = np.asarray(labels, np.int64)
    return ImageSet(
        name="made",
        where="here",
        root=None,
        classes=tuple(f"class {i}" for i in range(labels.max() + 1)),
        paths=tuple(map(str, range(len(labels)))),
        labels=labels,
        queries=queries,
        open=lambda i: Image.new("RGB", (1, 1)),
        validation_share=share,
    )


UNEVEN = np.repeat([0, 1, 2], [500, 100, 11])


def counts(labels, positions):
    return np.bincount(labels[positions], minlength=3).tolist()


def test_own_images_divide_without_overlap():
    images = image_set(UNEVEN)
    parts = split(images, 1.0, seed=0)
    assert counts(UNEVEN, parts.queries) == [50, 10, 1]
    assert np.array_equal(np.sort(np.concatenate([parts.queries, parts.database])), np.arange(611))
    assert np.array_equal(parts.pretraining, parts.database)
    learned = np.concatenate([parts.training, parts.validation])
    assert np.array_equal(np.sort(learned), parts.database)
    assert counts(UNEVEN, parts.validation) == [45, 9, 1]


def test_of_very_many_images_ten_thousand_are_asked():
    labels = np.repeat(np.arange(4), 50_000)
    labels[:20_000] = UNLABELLED
    parts = split(image_set(labels), 1.0, seed=0)
    assert np.bincount(labels[parts.queries]).tolist() == [1667, 2778, 2778, 2778]
    fewer = np.flatnonzero(labels != UNLABELLED)[:100_000]  # of which that is a tenth
    assert len(split(image_set(labels[fewer]), 1.0, seed=0).queries) == 10_000


def test_never_more_labels_than_given():
    parts = split(image_set(np.repeat(np.arange(10), 1000)), 0.04, seed=0)
    assert len(parts.training) + len(parts.validation) == 360  # of 9,000: 1,000 are queries
    assert len(parts.validation) == 40
    assert len(parts.database) == 9000


def test_few_labels_are_all_learned_from():
    parts = split(image_set(np.repeat([0, 1], 400)), 0.1, seed=0)
    assert len(parts.training) == 72
    assert len(parts.validation) == 0


def test_named_sets_keep_the_papers_parts():
    queries = np.zeros(6000, bool)
    queries[5000:] = True
    images = image_set(np.arange(6000) % 10, queries, share=0.2)
    parts = split(images, 0.01, seed=0)
    assert len(parts.queries) == 1000
    assert len(parts.database) == 5000
    assert len(parts.validation) == 1000
    assert len(parts.training) == 40  # 1 % of the 4,000 that are trained on
    assert len(parts.pretraining) == 4000
    assert not set(parts.validation) & set(parts.pretraining)


def test_subsets_are_nested_and_stratified():
    smaller = np.zeros(len(UNEVEN), bool)
    for fraction in (0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.25, 1.0):
        subset = label_subset(UNEVEN, fraction, seed=3)
        assert np.all(subset[smaller])
        for count, members in zip(counts(UNEVEN, np.flatnonzero(subset)), (500, 100, 11), strict=True):
            assert abs(count - max(1, fraction * members)) < 1
        smaller = subset
    assert smaller.all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("classes", "members"),
    [(10, 4000), pytest.param(200, 450, marks=pytest.mark.long), (3, 7), (7, 1)],
)
def test_subsets_of_equal_classes_have_exactly_their_share(classes, members, seed):
    """Of Tiny ImageNet's 200 classes of 450 images 1 % are 4.5 each: 900, not 800."""
    labels = np.tile(np.arange(classes), members)
    smaller = np.zeros(len(labels), bool)
    for percent in range(1, 101):
        subset = label_subset(labels, percent / 100, seed)
        assert np.all(subset[smaller])
        share = max(classes, percent * len(labels) / 100)  # each class gives one at least
        assert subset.sum() == pytest.approx(share, abs=0.5)
        smaller = subset


def test_seed_decides():
    same, other = stratified(UNEVEN, 0.1, 1), stratified(UNEVEN, 0.1, 2)
    assert np.array_equal(same, stratified(UNEVEN, 0.1, 1))
    assert not np.array_equal(same, other)
    assert derived_seed(0, 1) != derived_seed(1, 0)
    assert derived_seed(5, 1, 2) == derived_seed(5, 1, 2)


def test_unlabelled_images_are_searched_and_pretrained_on_only():
    labels = np.concatenate([np.repeat([0, 1], 200), np.full(100, UNLABELLED)])
    parts = split(image_set(labels), 1.0, seed=0)
    unlabelled = set(range(400, 500))
    assert unlabelled <= set(parts.database)
    assert unlabelled <= set(parts.pretraining)
    for part in (parts.queries, parts.training, parts.validation):
        assert not unlabelled & set(part)


def test_without_labels_everything_is_database():
    parts = split(image_set(UNEVEN), 0.0, seed=0)
    assert len(parts.database) == len(UNEVEN)
    assert len(parts.queries) == len(parts.training) == len(parts.validation) == 0


def test_unlabelled_test_images_ask_nothing():
    labels = np.array([0, 0, 1, 1, 0, UNLABELLED])
    queries = np.array([False, False, False, False, True, True])
    parts = split(image_set(labels, queries), 1.0, seed=0)
    assert parts.queries.tolist() == [4]
    assert parts.database.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 0, 0], r"only one class \(class 0\).*--labels none"),
        ([0, 0, 1, 1, 2], r"class 'class 2' has one image"),
    ],
)
def test_too_little_to_learn_from(labels, says):
    with pytest.raises(DataError, match=says):
        split(image_set(labels), 1.0, seed=0)


def test_class_that_only_the_queries_have():
    images = replace(image_set([0, 0, 1, 1, 2]), queries=np.array([False, False, False, False, True]))
    with pytest.raises(DataError, match="class 'class 2' has no readable image to learn from"):
        split(images, 1.0, seed=0)
