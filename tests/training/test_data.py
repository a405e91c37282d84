"""What people have: folders of every layout, files of labels, the named data sets' layouts."""

import pickle

import numpy as np
import pytest
from PIL import Image

from index.items import UNLABELLED
from training import data
from training.data import DataError
from training.pixels import read


def put(path, colour="red", size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def names(images):
    return {
        path: "-" if label == UNLABELLED else images.classes[label]
        for path, label in zip(images.paths, images.labels, strict=True)
    }


@pytest.mark.long  # scikit-learn
def test_digits_are_all_there():
    images = data.digits()
    assert len(images) == 1797
    assert images.classes == tuple("0123456789")
    assert images.open(0).size == (8, 8)
    assert images.queries is None


def test_class_folders(tmp_path):
    put(tmp_path / "cat" / "1.png")
    put(tmp_path / "cat" / "deep" / "2.png")
    put(tmp_path / "dog" / "1.png")
    put(tmp_path / "loose.png")
    put(tmp_path / ".hidden" / "x.png")
    put(tmp_path / "dog" / ".x.png")
    images = data.folder(tmp_path)
    assert names(images) == {
        "cat/1.png": "cat", "cat/deep/2.png": "cat", "dog/1.png": "dog", "loose.png": "-"}  # fmt: skip
    assert images.queries is None
    assert images.root == tmp_path


def test_folders_are_labels_as_everywhere(tmp_path):
    folders = ("caf\u00e9", "cafe\u0301", "می\u200cخواهم", " two words ", " ", "\udcff")
    for folder in folders:
        put(tmp_path / folder / "1.png")
    images = data.folder(tmp_path)
    assert [names(images)[f"{folder}/1.png"] for folder in folders] == [
        "café", "café", "می\u200cخواهم", "two words", "-", "�"]  # fmt: skip
    (tmp_path / "two\nlines").mkdir()
    assert len(data.folder(tmp_path)) == len(folders)  # an empty folder is no label
    put(tmp_path / "two\nlines" / "1.png")
    with pytest.raises(DataError, match=r"'two\\nlines': .*\(U\+000A\) at position 4.*rename that folder"):
        data.folder(tmp_path)
    (tmp_path / "labels.csv").write_text("path,label\n cafe\u0301/1.png,owl\n")
    assert data.folder(tmp_path, tmp_path / "labels.csv").classes == ("owl",)


def test_a_label_is_one_on_both_sides_of_the_split(tmp_path):
    put(tmp_path / "train" / "caf\u00e9 " / "1.png")
    put(tmp_path / "test" / "cafe\u0301" / "1.png")
    images = data.folder(tmp_path)
    assert (images.classes, images.labels.tolist()) == (("café",), [0, 0])


def test_train_and_test_folders(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            put(tmp_path / part / name / "1.png")
    put(tmp_path / "train" / "loose.png")
    put(tmp_path / "elsewhere" / "x.png")
    images = data.folder(tmp_path)
    assert names(images) == {
        "test/cat/1.png": "cat", "test/dog/1.png": "dog",
        "train/cat/1.png": "cat", "train/dog/1.png": "dog", "train/loose.png": "-"}  # fmt: skip
    assert images.queries.tolist() == [True, True, False, False, False]


def test_labels_file_keeps_the_test_folder_apart(tmp_path):
    for part in ("Train", "Test"):
        for number in range(2):
            put(tmp_path / part / f"{number}.png")
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\nTrain/0.png,owl\nTest/0.png,owl\nTrain/1.png,eel\n")
    images = data.folder(tmp_path, labels)
    assert names(images) == {
        "Test/0.png": "owl", "Test/1.png": "-", "Train/0.png": "owl", "Train/1.png": "eel"}  # fmt: skip
    assert images.queries.tolist() == [True, True, False, False]


def test_train_without_test_is_no_class(tmp_path):
    put(tmp_path / "train" / "cat" / "1.png")
    put(tmp_path / "val" / "cat" / "1.png")
    with pytest.raises(DataError, match="none named 'test' beside it"):
        data.folder(tmp_path)


def test_links_are_followed_once(tmp_path):
    put(tmp_path / "elsewhere" / "1.png")
    put(tmp_path / "all" / "dog" / "1.png")
    (tmp_path / "all" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "all" / "dog" / "again").symlink_to(tmp_path / "all")
    (tmp_path / "all" / "dog" / "self.png").symlink_to("self.png")
    (tmp_path / "all" / "dog" / "2.png").write_bytes(b"broken")
    images = data.folder(tmp_path / "all")
    assert names(images) == {"cat/1.png": "cat", "dog/1.png": "dog", "dog/2.png": "dog"}
    kept, _, skipped, _ = read(images, 8)
    assert kept.paths == ("cat/1.png", "dog/1.png")
    assert [(each["path"], each["reason"][:25]) for each in skipped] == [
        ("dog/self.png", "the link cannot be follow"),
        ("dog/2.png", "not an image in a known f"),
    ]


def test_flat_folder_has_no_classes(tmp_path):
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    images = data.folder(tmp_path)
    assert images.classes == ()
    assert images.labels.tolist() == [UNLABELLED] * 2


def test_labels_from_a_file_replace_the_folders_names(tmp_path):
    put(tmp_path / "x" / "1.png")
    put(tmp_path / "x" / "2.png")
    put(tmp_path / "3.png")
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\nx/1.png,owl\n3.png,eel\n")
    images = data.folder(tmp_path, labels)
    assert names(images) == {"x/1.png": "owl", "x/2.png": "-", "3.png": "eel"}  # the file itself is no item
    assert images.classes == ("eel", "owl")


def test_a_file_of_labels_says_which_were_accepted_in_groups(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        put(tmp_path / name)
    (tmp_path / "labels.csv").write_text("path,label,source\na.png,owl,group\nc.png,owl,given\n")
    images = data.folder(tmp_path, tmp_path / "labels.csv")
    assert images.labels.tolist() == [0, -1, 0]
    assert images.looked_at.tolist() == [-1, -1, 0]
    assert images.select(np.array([0, 2])).looked_at.tolist() == [-1, 0]
    assert data.folder(tmp_path).grouped is None
    (tmp_path / "labels.csv").write_text("path,label,source\na.png,owl,given\nc.png,owl,\n")
    now = data.folder(tmp_path, tmp_path / "labels.csv")
    assert now.fingerprint() != images.fingerprint()  # other images are asked with
    assert data.changes(images.listed(), now.listed(), {}) == [
        "1 whose label has another source, first a.png"
    ]


def test_how_images_have_changed_is_said():
    before = {"a.png": ["cat", "1"], "b.png": ["cat", "2"], "c.png": [None, "3"], "d.png": ["dog", "4"]}
    now = {"a.png": ("cat", "9"), "c.png": ("cat", "3"), "d.png": (None, "4"), "e.png": (None, "5")}
    assert data.changes(before, now, {"b.png": "damaged"}) == [
        "1 gone, first b.png: damaged",
        "1 new, first e.png",
        "2 with another label, first c.png: 'cat', was None",
        "1 with other content, first a.png",
    ]
    assert data.changes(now, now, {}) == []


def test_labels_of_what_is_not_there(tmp_path):
    put(tmp_path / "x.png")
    (tmp_path / "labels.csv").write_text("path,label\nx.png,owl\ngone.png,owl\n")
    with pytest.raises(DataError, match=r"labels\.csv: 1 labels name no file below .*first: gone\.png"):
        data.folder(tmp_path, tmp_path / "labels.csv")


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match=r"gone: no such folder"):
        data.folder(tmp_path / "gone")
    with pytest.raises(DataError, match=r"the folder is empty"):
        data.folder(tmp_path)
    (tmp_path / "test").mkdir()
    put(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(DataError, match=r"test: the folder is empty"):
        data.folder(tmp_path)


# --- the named data sets, in small folders of their layout -------------------------------------------


def cifar_files(root, name):
    """A CIFAR of 20 training and 10 test images in the format of its archive."""
    rng = np.random.default_rng(0)

    def write(path, count):
        key = b"labels" if name == "cifar10" else b"fine_labels"
        values = {
            b"data": rng.integers(0, 256, (count, 3072), np.uint8),
            key: [i % 10 for i in range(count)],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps({k.decode(): v for k, v in values.items()}))

    if name == "cifar10":
        for number in range(1, 6):
            write(root / "cifar-10-batches-py" / f"data_batch_{number}", 4)
        write(root / "cifar-10-batches-py" / "test_batch", 10)
        meta, classes = root / "cifar-10-batches-py" / "batches.meta", {"label_names": list("abcdefghij")}
    else:
        write(root / "cifar-100-python" / "train", 20)
        write(root / "cifar-100-python" / "test", 10)
        meta, classes = root / "cifar-100-python" / "meta", {"fine_label_names": list("abcdefghij")}
    meta.write_bytes(pickle.dumps(classes))


@pytest.mark.long  # torchvision
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path, name, monkeypatch):
    from torchvision.datasets import cifar

    cifar_files(tmp_path, name)
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: True)  # these are not the real files
    images = data.NAMED[name](tmp_path)
    assert len(images) == 30
    assert images.queries.sum() == 10
    assert images.classes == tuple("abcdefghij")
    trained = [0, 1, 2, 3] * 5 if name == "cifar10" else [*range(10), *range(10)]
    assert images.labels.tolist() == [*trained, *range(10)]
    assert images.paths[0] == "train/00000"
    assert images.paths[-1] == "test/00009"
    assert images.open(0).size == (32, 32)
    assert images.validation_share == 0.2


@pytest.mark.long  # torchvision
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_that_cannot_be_downloaded_says_what_to_put_where(tmp_path, name, monkeypatch):
    from torchvision.datasets import cifar

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(cifar, "download_and_extract_archive", no_network)
    with pytest.raises(
        DataError, match=rf"{name} is not there.*no network.*put cifar-10+-.* into {tmp_path}"
    ):
        data.NAMED[name](tmp_path)


def test_tiny_imagenet(tmp_path):
    base = tmp_path / "tiny-imagenet-200"
    for wnid in ("n01", "n02"):
        for number in range(2):
            put(base / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        (base / "train" / wnid / f"{wnid}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t9\t9\n")
    put(base / "val" / "images" / "val_0.JPEG")
    put(base / "val" / "images" / "val_1.JPEG")
    (base / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    )
    images = data.NAMED["tinyimagenet"](tmp_path)
    assert names(images)["val/images/val_0.JPEG"] == "n02"
    assert names(images)["train/n01/images/n01_1.JPEG"] == "n01"
    assert images.queries.tolist() == [False] * 4 + [True] * 2
    assert images.open(0).size == (12, 10)


@pytest.mark.long  # torchvision
def test_imagenet(tmp_path):
    for part in ("train", "val"):
        for wnid in ("n01", "n02"):
            put(tmp_path / part / wnid / f"{wnid}.JPEG")
    images = data.NAMED["imagenet"](tmp_path)
    assert names(images) == {
        "train/n01/n01.JPEG": "n01", "train/n02/n02.JPEG": "n02",
        "val/n01/n01.JPEG": "n01", "val/n02/n02.JPEG": "n02"}  # fmt: skip
    assert images.queries.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("name", "says"), [("tinyimagenet", "val_annotations"), ("imagenet", r"train.*wnid")]
)
def test_folders_that_are_not_there_are_named(tmp_path, name, says):
    with pytest.raises(DataError, match=says):
        data.NAMED[name](tmp_path)
