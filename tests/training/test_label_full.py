"""hebbsearch label --full: the network learns anew from the files of an index, whole and stopped."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import training.run
from index.artifact import CATALOGUE, Artifact, open_artifact
from index.catalogue import Catalogue
from index.evaluation import mean_average_precision
from index.items import Item
from index.verify import faults
from service.core.library import Library, Upload
from service.core.searcher import Searcher
from tests.training.narrow import little_is_enough, widths_are_narrow
from tests.training.test_label import csv, picture, truth
from training import build_index
from training.build_index import run_command
from training.label import Relearned, main, relearn, report
from training.learning.student import PixelStudent
from training.nets.encoder import Encoder
from training.nets.images import open_image

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("narrow")]

COUNT = 160
STUDENT = ["--recipe", "best", "--set", "bits=32", "--set", "student_epochs=4"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    little_is_enough(monkeypatch.setattr, steps=60)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures without labels, `pictures`, and an index of them, `built`."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "pictures").mkdir()
    for seed in range(COUNT):
        picture(folder / "pictures" / f"{seed:03d}.png", seed)
    with pytest.MonkeyPatch.context() as patch:
        widths_are_narrow(patch.setitem, patch.setattr)
        little_is_enough(patch.setattr, steps=60)
        run_command(
            ["--data", str(folder / "pictures"), "--labels", "none", *STUDENT, "--out", str(folder / "built")]
        )
    return folder


@pytest.fixture
def built(once: Path, tmp_path: Path) -> Path:
    """A copy of that index, of a copy of its pictures, and one more that was sent."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    manifest = tmp_path / "built" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(once), str(tmp_path)))
    picture(tmp_path / "sent.png", 1001)
    with closing(Searcher.open(tmp_path / "built", max_pixels=10**6)) as searcher:
        library = Library(searcher, keep=True, max_bytes=10**6, max_pixels=10**6)
        library.add([Upload("sent.png", (tmp_path / "sent.png").read_bytes(), label="standing")])
    csv(tmp_path / "labels.csv", [f"{number:03d}.png" for number in range(120)])
    return tmp_path / "built"


@pytest.fixture
def label(tmp_path: Path, call):
    """The command with --full and --out new: what it says, which is one line where it fails."""

    def command(*arguments: object, code: int = 0) -> str:
        printed = call(main, *arguments, "--full", "--out", tmp_path / "new", code=code)
        assert code == 0 or printed.err.count("\n") == 1
        return printed.err if code else printed.out

    return command


@pytest.fixture
def stopped(label, monkeypatch: pytest.MonkeyPatch):
    """The command, stopped by Ctrl-C in an epoch of the student."""

    def command(*arguments: object, epoch: int) -> str:
        def interrupted(self: PixelStudent, number: int, lessons: Iterator[object]) -> None:
            if number == epoch:
                raise KeyboardInterrupt
            learn(self, number, lessons)  # type: ignore[arg-type]

        learn = PixelStudent.epoch
        with monkeypatch.context() as patch:
            patch.setattr(PixelStudent, "epoch", interrupted)
            return label(*arguments, code=130)

    return command


def items(made: Artifact) -> list[Item]:
    with made.open_catalogue() as catalogue:
        return list(catalogue.every_item())


def test_the_network_learns_anew_and_all_images_stay_who_they_are(built: Path, tmp_path: Path, label) -> None:
    old = open_artifact(built)
    said = label(built, tmp_path / "labels.csv")
    new = open_artifact(tmp_path / "new")
    before, after = Encoder.load(old.encoder_path), Encoder.load(new.encoder_path)
    assert (before.description.backbone, after.description.backbone) == ("soft3", "soft3+conv7")
    assert list(faults(tmp_path / "new")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "built", "labels.csv", "new", "pictures", "sent.png",
    ]  # fmt: skip
    assert [(item.id, item.path, item.sha256) for item in items(old)] == [
        (item.id, item.path, item.sha256) for item in items(new)
    ]
    held = [item for item in items(new) if item.held_out]
    assert len(held) > 5
    assert f"120 labels are new or changed; learned from {121 - len(held)}" in said
    right = [item.predicted == ("lying" if int(item.path[:3]) % 2 == 0 else "standing")
             for item in items(new) if item.label is None]  # fmt: skip
    assert len(right) == COUNT - 120
    assert np.mean(right) > 0.9


def test_it_says_when_the_network_knows_few_of_the_labels(built: Path, tmp_path: Path, label) -> None:
    given = csv(tmp_path / "few.csv", [f"{number:03d}.png" for number in range(60)])
    assert "the network learned from" not in label(built, given)
    taught = open_artifact(tmp_path / "new").manifest.data["training_labels"]
    found = []
    for before, after, count in (("new", "some", 70), ("some", "many", 150)):
        csv(given, [f"{number:03d}.png" for number in range(count)])
        made = relearn(tmp_path / before, given, tmp_path / after)
        found.append(any("the network learned from" in line for line in report(made)))
        assert made.network_labels == taught
    assert found == [False, True]
    wanted = f"the network learned from {taught} labels: with --full it learns from all of them"
    assert wanted in list(report(made))
    assert relearn(built, given, tmp_path / "features").network_labels is None  # they needed none


def test_codes_and_embeddings_are_those_of_the_files(built: Path, tmp_path: Path, label) -> None:
    label(built, tmp_path / "labels.csv")
    made = open_artifact(tmp_path / "new")
    encoder = Encoder.load(made.encoder_path)
    with made.open_catalogue() as catalogue:
        known, table, ids = list(catalogue.every_item()), catalogue.codes(), catalogue.embeddings()
    files = [
        tmp_path / ("sent.png" if each.path == "sent.png" else f"pictures/{each.path}") for each in known
    ]
    pixels = torch.stack([encoder.prepare(open_image(file)) for file in files])
    codes, embeddings = encoder.encode_and_embed(pixels)
    assert np.array_equal(codes, table.codes)
    assert np.array_equal(embeddings, ids[1])


def test_the_queries_of_the_build_measure_the_new_network_and_teach_it_nothing(
    tmp_path: Path, once: Path, label, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = csv(tmp_path / "labels.csv", [f"{number:03d}.png" for number in range(80)])
    run_command(
        ["--data", str(once / "pictures"), "--labels", str(given), *STUDENT, "--out", str(tmp_path / "built")]
    )
    csv(given, [f"{number:03d}.png" for number in range(140)])
    seen: list[np.ndarray] = []
    learn = training.run.learn_embedding

    def noted(encoder, pixels, positions, *rest):
        seen.append(positions)
        return learn(encoder, pixels, positions, *rest)

    monkeypatch.setattr(training.run, "learn_embedding", noted)
    label(tmp_path / "built", given)
    made = open_artifact(tmp_path / "new")
    known = items(made)
    asked = {number for number, item in enumerate(known) if item.split == "query" or item.held_out}
    assert len(asked) > 8
    assert seen
    assert all(set(each.tolist()) == set(range(len(known))) - asked for each in seen)
    assert made.manifest.metrics["map"] > 0.9
    assert made.manifest.metrics["top1"] > 0.9
    queries = made.queries()
    assert queries is not None
    encoder = Encoder.load(made.encoder_path)
    paths = {item.id: once / "pictures" / item.path for item in known}
    pixels = torch.stack(
        [encoder.prepare(Image.open(paths[id_]).convert("RGB")) for id_ in queries.ids.tolist()]
    )
    assert np.array_equal(encoder.encode(pixels), queries.codes)


@pytest.mark.parametrize("epoch", [0, 3])
def test_what_was_stopped_goes_on_as_if_nothing_had_happened(
    built: Path, tmp_path: Path, label, stopped, epoch: int
) -> None:
    """Though the service went on meanwhile: those changes come with the reload."""
    label(built, tmp_path / "labels.csv")
    wanted = (tmp_path / "new" / "encoder.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "new")
    said = stopped(built, tmp_path / "labels.csv", epoch=epoch)
    assert "stopped; the same command goes on from here" in said
    assert not (tmp_path / "new").exists()
    with Catalogue.open(built / CATALOGUE) as catalogue:
        catalogue.change(150, label="late")
    said = label(built, tmp_path / "labels.csv")
    assert "120 labels are new or changed" in said
    assert (tmp_path / "new" / "encoder.safetensors").read_bytes() == wanted
    assert not (tmp_path / "new.partial").exists()
    assert "late" not in open_artifact(tmp_path / "new").manifest.classes


def test_another_run_does_not_go_on_with_it(built: Path, tmp_path: Path, call, label, stopped) -> None:
    stopped(built, tmp_path / "labels.csv", epoch=1)
    for flag, name in (("--out", "new"), ("--resume", "new.partial")):
        said = call(build_index.main, flag, tmp_path / name, code=2).err
        wanted = (
            "new.partial is an unfinished run of hebbsearch label --full; give that command again, or remove"
        )
        assert wanted in said
    shutil.copytree(built, tmp_path / "other")
    for arguments in ([tmp_path / "other"], [built, "--seed", "1"], [built, "--set", "mirror=false"]):
        said = label(*arguments, code=2)
        assert "new.partial: is an unfinished run of another artifact, seed or setting; remove it" in said
    csv(tmp_path / "labels.csv", [f"{number:03d}.png" for number in range(100)])
    said = label(built, tmp_path / "labels.csv", code=2)
    assert "the images or labels are not those that the run was started with (20 with another label" in said
    assert (tmp_path / "new.partial").exists()


def test_what_diverged_goes_on_with_the_setting_that_is_named(built: Path, tmp_path: Path, label) -> None:
    said = label(built, tmp_path / "labels.csv", "--set", "student_lr=1e30", code=2)
    assert "pixel student diverged" in said
    smaller = said.partition("use a smaller one (")[2].partition(")")[0].split()
    assert smaller[0] == "--set"
    assert (tmp_path / "new.partial").exists()
    label(built, tmp_path / "labels.csv", "--set", "student_lr=0.05")
    made = open_artifact(tmp_path / "new")
    assert list(faults(made.path)) == []
    assert made.manifest.config["student_lr"] == 0.05
    assert not (tmp_path / "new.partial").exists()


def test_what_learns_anew_may_be_set_otherwise(built: Path, tmp_path: Path, label, call) -> None:
    label(built, tmp_path / "labels.csv", "--set", "bits=64", "--set", "student_epochs=0")
    made = open_artifact(tmp_path / "new")
    assert list(faults(made.path)) == []
    assert (made.manifest.bits, made.manifest.config["bits"]) == (64, 64)
    assert Encoder.load(made.encoder_path).description.backbone == "soft3"
    for words, *arguments in (
        ("bits 7: at least 8 is needed", "--full", "--set", "bits=7"),
        ("bits 12: use a multiple of 8", "--full", "--set", "bits=12"),
        ("--set bit=8: use name=value with one of", "--full", "--set", "bit=8"),
        ("--set epochs: stays as the index was built", "--full", "--set", "epochs=8"),
        ("--set goes with --full", "--set", "bits=8"),
        ("--seed -1: use a number from 0", "--seed", "-1"),
        ("--seed 2147483648: use a number from 0, below 2147483648", "--seed", str(2**31)),
    ):
        said = call(main, built, *arguments, "--out", tmp_path / "other", code=2).err
        assert words in said
        assert said.count("\n") == 1
    assert not list(tmp_path.glob("other*"))


def test_a_stopped_build_is_left_alone(built: Path, tmp_path: Path, label) -> None:
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "config.json").write_text("{}")
    said = label(built, code=2)
    assert "new.partial: is an unfinished run of hebbsearch build; finish or remove it" in said
    assert (tmp_path / "new.partial" / "config.json").read_text() == "{}"


def test_a_class_without_labels_keeps_its_number(built: Path, tmp_path: Path, label) -> None:
    with Catalogue.open(built / CATALOGUE) as catalogue:
        catalogue.change(3, label="gone")
        catalogue.change(3, label=-1)
    label(built, tmp_path / "labels.csv")
    made = open_artifact(tmp_path / "new")
    assert set(made.manifest.classes) == {"gone", "lying", "standing"}
    assert {item.predicted for item in items(made)} == {None, "lying", "standing"}


@pytest.mark.parametrize("labels", [0, 1])
def test_without_labels_or_with_one_the_features_alone_learn(
    built: Path, tmp_path: Path, label, labels: int
) -> None:
    with Catalogue.open(built / CATALOGUE) as catalogue:
        catalogue.change(COUNT + 1, label=-1)  # that was sent
    csv(tmp_path / "labels.csv", [f"{number:03d}.png" for number in range(labels)])
    label(built, *[tmp_path / "labels.csv"] * labels)
    made = open_artifact(tmp_path / "new")
    assert list(faults(tmp_path / "new")) == []
    assert made.manifest.metrics["calibration"]["kind"] == "none"


def gone(folder: Path) -> None:
    (folder / "pictures" / "007.png").unlink()


def changed(folder: Path) -> None:
    picture(folder / "pictures" / "007.png", 9)


def no_image(folder: Path) -> None:
    (folder / "pictures" / "007.png").write_text("no image")


def not_kept(folder: Path) -> None:
    shutil.rmtree(folder / "built" / "originals")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (gone, "pictures: the files of 1 images are gone, such as 007.png; put them back or remove"),
        (changed, "pictures: the files of 1 images are not those that were indexed, such as 007.png"),
        (no_image, "pictures: the files of 1 images cannot be read, such as 007.png"),
        (not_kept, "pictures: the files of 1 images are gone, such as sent.png"),
    ],
)
def test_files_that_are_not_there_as_they_were_are_named(
    built: Path, tmp_path: Path, label, act: Callable[[Path], None], words: str
) -> None:
    act(tmp_path)
    said = label(built, tmp_path / "labels.csv", code=2)
    assert words in said
    assert not list(tmp_path.glob("new*"))


def test_a_wrong_file_of_labels_leaves_nothing(built: Path, tmp_path: Path, label) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n000.png,a\n000.png,b\n")
    assert "is labelled 'a' and 'b'" in label(built, tmp_path / "labels.csv", code=2)
    assert not list(tmp_path.glob("new*"))


def test_an_index_of_no_folder_says_so(tmp_path: Path, label) -> None:
    run_command(["--recipe", "best", "--rule", "none", "--set", "bits=32", "--out", str(tmp_path / "digits")])
    said = label(tmp_path / "digits", code=2)
    assert "digits: was not made from a folder of files, which --full reads; leave it out" in said
    assert not list(tmp_path.glob("new*"))


def test_a_build_keeps_which_labels_were_accepted_in_groups(once: Path, tmp_path: Path) -> None:
    rows = [f"{n:03d}.png,{truth(f'{n}.png')},{'group' if n % 3 else 'given'}" for n in range(120)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,source", *rows]))
    given = ["--data", str(once / "pictures"), "--labels", str(tmp_path / "labels.csv")]
    run_command([*given, *STUDENT, "--set", "student_epochs=0", "--out", str(tmp_path / "new")])
    made = open_artifact(tmp_path / "new")
    queries = made.queries()
    assert queries is not None
    labelled = [item for item in items(made) if item.label is not None]
    assert {item.path for item in labelled if item.source == "group"} == {
        f"{n:03d}.png" for n in range(120) if n % 3
    }
    assert {item.source for item in labelled if item.split == "query"} == {"given"}
    with made.open_catalogue() as catalogue:
        table = catalogue.codes()
    ranked = np.isin(table.ids, [item.id for item in labelled if item.source == "given"])
    wanted = mean_average_precision(queries.codes, queries.labels, table.codes[ranked], table.labels[ranked])
    assert np.isclose(made.manifest.metrics["map"], wanted)
    assert made.manifest.data["training_labels"] + made.manifest.data["validation_labels"] == int(
        (table.labels >= 0).sum()
    )
    assert made.manifest.metrics["calibration"]["labels"] <= int(ranked.sum())


def test_where_the_new_artifact_cannot_lie(once: Path, tmp_path: Path, call) -> None:
    said = call(main, once / "nothere", "--out", tmp_path / "some" / "new", code=2).err
    assert "nothere/manifest.json: is missing" in said
    assert list(tmp_path.iterdir()) == []  # nothing was made for it
    (tmp_path / "file").touch()
    said = call(main, once / "built", "--out", tmp_path / "file" / "new", code=2).err
    assert f"{tmp_path / 'file'}: is a file, so that nothing can lie in it" in said
    said = call(main, once / "built", "--out", tmp_path / "file" / "below" / "new", code=2).err
    assert "is a file, so that nothing can lie in it" in said


def test_what_is_said_where_nothing_that_somebody_looked_at_is_ranked(once: Path) -> None:
    built = open_artifact(once / "built")
    made = Relearned(built, 90, [], [], 30, 60, before=None, after=None, network_labels=None, only_class=None)
    assert "60 labels are held out: nothing else has their labels that somebody looked at" in report(made)
    metrics = {name: value for name, value in built.manifest.metrics.items() if name != "map"}
    asked = replace(
        built.manifest, data=built.manifest.data | {"queries": 20, "labelled": 60}, metrics=metrics
    )
    assert (
        "no mAP: nobody looked at the labels that are learned from, as they were accepted in groups"
        in build_index.report(replace(built, manifest=asked))
    )
