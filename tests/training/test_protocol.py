"""Who sees which label."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from index.items import UNLABELLED
from training.config import ConfigError, configure
from training.data import DataError, ImageSet
from training.protocol import (
    check,
    derived_seed,
    label_subset,
    say_of_contradictions,
    say_of_one_image,
    split,
    stratified,
)


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
    assert parts.database.tolist() == parts.pretraining.tolist() == [0, 1, 2, 3, 5]
    assert parts.training.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("labelled", ["train", "train and some of test", "test alone unlabelled", "none"])
@pytest.mark.parametrize("share", [None, 0.2])
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_each_image_is_indexed_or_asked_with(labelled, share, fraction):
    """Whatever has labels, no image is left out of both, and named sets learn from no test image."""
    labels = np.arange(40) % 2
    queries = np.arange(40) >= 30
    if labelled == "none":
        labels[:], fraction = UNLABELLED, 0.0
    elif labelled != "train and some of test":
        labels[queries] = UNLABELLED
    else:
        labels[35:] = UNLABELLED
    parts = split(image_set(labels, queries, share), fraction, seed=0)
    assert sorted([*parts.database, *parts.queries]) == list(range(40))
    assert parts.queries.tolist() == [
        at for at in range(30, 40) if fraction and labels[at] != UNLABELLED and queries[at]
    ]
    learned = {*parts.pretraining, *parts.training, *parts.validation}
    assert not learned & set(parts.queries)
    if share:
        assert not learned & set(range(30, 40))
    else:
        assert set(parts.pretraining) == set(parts.database)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 0, 0], r"only one class \(class 0\).*--labels none"),
        ([0], r"only one class \(class 0\).*--labels none"),
    ],
)
def test_too_little_to_learn_from(labels, says):
    with pytest.raises(DataError, match=says):
        split(image_set(labels), 1.0, seed=0)


def test_classes_that_only_the_queries_have():
    queries = np.array([False, False, False, False, True, True, True])
    images = replace(image_set([0, 0, 2, 2, 1, 3, 3]), queries=queries)
    with pytest.raises(DataError, match="no image to learn from of 'class 1', 'class 3', which the test"):
        split(images, 1.0, seed=0)


def settings(**chosen):
    return configure({"data": "here", "image_size": 32} | chosen)


def test_classes_of_one_image_are_learned_from_and_never_asked_with(caplog):
    labels = [0, 0, 1, 2, 2, 3, 4]
    images = image_set(labels)
    assert check(images, settings()) == ["class 1", "class 3", "class 4"]
    assert re.search(
        "learned from and never asked with .*: 'class 1', 'class 3', 'class 4'$", caplog.text.strip()
    )
    parts = split(images, 1.0, seed=0)
    assert sorted(np.take(labels, parts.queries)) == [0, 2]
    assert sorted(np.take(labels, parts.training)) == [0, 1, 2, 3, 4]
    caplog.clear()
    say_of_one_image(image_set([0, 1, 2, 2]), said=["class 1"])  # after some could not be read
    assert caplog.text.strip().endswith("measure them too): 'class 0'")


@pytest.mark.parametrize("tested", [False, True])
def test_labels_that_were_accepted_in_groups_teach_and_never_judge(tested):
    labels = np.repeat([0, 1], 200)
    grouped = np.arange(400) % 4 > 0
    queries = np.arange(400) % 5 == 0 if tested else None
    parts = split(replace(image_set(labels, queries), grouped=grouped), 1.0, seed=0)
    assert len(parts.queries) == (20 if tested else 10)
    assert not grouped[parts.queries].any()
    assert len(parts.validation)
    assert not grouped[parts.validation].any()
    assert grouped[parts.training].sum() == (240 if tested else 300)  # no test image teaches
    assert not (tested and queries[parts.training].any())
    every = replace(image_set(labels), grouped=np.ones(400, bool))
    assert (len(split(every, 1.0, seed=0).queries), len(split(every, 1.0, seed=0).training)) == (0, 400)


def test_classes_are_named_of_which_too_few_labels_were_looked_at(caplog):
    labels = np.repeat([0, 1, 2, 3], [9, 9, 9, 1])
    grouped = np.isin(np.arange(28), [*range(9, 18), *range(19, 27)])
    images = replace(image_set(labels), grouped=grouped)
    assert sorted(np.unique(labels[split(images, 1.0, seed=0).queries])) == [0]
    assert say_of_one_image(images) == ["class 3", "class 1", "class 2"]
    assert "here: classes of one image, which is learned from" in caplog.messages[0]
    assert caplog.messages[1] == (
        "here: classes whose labels were accepted in groups, but for one at most, so that they are never "
        "asked with (look at two, and give those again): 'class 1', 'class 2'"
    )


def test_equal_files_with_two_labels_are_named(caplog):
    hashes = (b"x", b"y", b"x", b"x", b"z", b"z")
    say_of_contradictions(replace(image_set([0, 0, 1, 0, UNLABELLED, 1]), hashes=hashes))
    assert caplog.messages == [
        "here: 1 files are equal to another one that has another label, first 0 and 2; correct the wrong one"
    ]
    caplog.clear()
    say_of_contradictions(image_set([0, 1]))
    say_of_contradictions(replace(image_set([0, 1]), hashes=(b"x", b"y")))
    assert not caplog.text


@pytest.mark.parametrize("flat", [True, False])
def test_share_of_less_than_a_label_each_is_refused(flat):
    """300 classes of one image each in train/, or in all: one percent would be all of them."""
    labels, queries = np.arange(300), None
    if not flat:
        labels, queries = np.tile(labels, 2), np.arange(600) >= 300
    with pytest.raises(
        ConfigError, match=r"labels 1%: of 300 training labels .*300 classes; use at least 100%"
    ):
        check(image_set(labels, queries), settings(labels="1%"))
    assert len(split(image_set(labels, queries), 1.0, seed=0).training) == 300


def test_least_share_that_is_named_is_taken(caplog):
    labels = np.repeat(np.arange(29), [5] * 28 + [4])  # of 144, one of each is asked with: 115
    with pytest.raises(ConfigError, match=r"25%: of 115 training labels .* 29 classes; use at least 25\.22%"):
        check(image_set(labels), settings(labels="25%"))
    check(image_set(labels), settings(labels="25.22%"))
    assert caplog.text == ""
    even = np.tile(np.arange(29), 4)  # 100 labels to learn from, and 0.29 × 100 is less than 29
    check(image_set(even, np.arange(116) >= 100), settings(labels="29%"))


def test_share_that_comes_out_larger_is_said(caplog):
    labels = np.concatenate([np.full(30_000, 0), np.arange(1, 300)])
    queries = np.arange(len(labels)) < 1
    check(image_set(labels, queries), settings(labels="1%"))
    assert "each class gives one image at least, so that of 30298 labels 599 are learned from" in caplog.text


@pytest.mark.parametrize(
    ("labels", "classes", "says"),
    [("none", True, "leave out --labels none"), ("100%", False, "give some by class folders or a CSV file")],
)
def test_rule_that_learns_from_labels_needs_some(labels, classes, says):
    images = image_set(UNEVEN) if classes else replace(image_set(UNEVEN * 0 + UNLABELLED), classes=())
    with pytest.raises(ConfigError, match=f"--rule hah learns from labels, and has none; {says}"):
        check(images, settings(rule="hah", labels=labels))
    assert check(images, settings(rule="vae", labels=labels)) == []


def test_images_to_learn_from_that_are_all_copies_are_said():
    images = replace(image_set([0, 0, 1, 1]), hashes=(b"a", b"a", b"b", b"b"))
    with pytest.raises(DataError, match="each labelled image to learn from is a copy of a query"):
        split(images, 1.0, seed=0)
