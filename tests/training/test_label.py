"""Learning again from labels that grow: the command, in this process and killed in the middle."""

import hashlib
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from index import artifact
from index.artifact import CATALOGUE, open_artifact
from index.catalogue import Catalogue
from index.evaluation import mean_average_precision
from index.items import File, Item, NewItem
from index.tables.listing import Listing
from index.verify import faults
from tests.training.narrow import widths_are_narrow
from tests.training.test_build_index import stripes
from training.build_index import run_command
from training.coding import learning
from training.label import main
from training.learning.division import SHARE, hold_out
from training.nets.encoder import Encoder
from training.nets.images import open_image

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("narrow")]

BEST = ["--recipe", "best", "--rule", "none", "--image-size", "28", "--set", "bits=32"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "LEAST_STEPS", 60)


def picture(path: Path, seed: int) -> None:
    """Horizontal stripes where the seed is even, vertical ones where it is odd."""
    stripes(path, seed % 2 == 0, seed)


def truth(name: str) -> str:
    return "lying" if int(Path(name).stem) % 2 == 0 else "standing"


def draw_pictures(folder: Path) -> Path:
    """A folder of 240 pictures without labels."""
    for seed in range(240):
        picture(folder / f"{seed:03d}.png", seed)
    return folder


def build(images: Path, out: Path) -> Path:
    """A narrow index of them that knows no label."""
    with pytest.MonkeyPatch.context() as patch:
        widths_are_narrow(patch.setitem, patch.setattr)
        patch.setattr(learning, "LEAST_STEPS", 60)
        run_command(["--data", str(images), "--labels", "none", *BEST, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def once(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of which each test gets a copy."""
    return build(images, tmp_path_factory.mktemp("once") / "built")


@pytest.fixture
def built(once: Path, tmp_path: Path) -> Path:
    return shutil.copytree(once, tmp_path / "built")


@pytest.fixture
def label(call):
    """The command: what it says."""

    def command(*arguments: object, code: int = 0) -> str:
        printed = call(main, *arguments, code=code)
        return printed.err if code == 2 else printed.out

    return command


def csv(path: Path, names: list[str], column: str = "") -> Path:
    lines = [f"{name},{truth(name)}{column}" for name in names]
    path.write_text("\n".join([f"path,label{',source' if column else ''}", *lines]))
    return path


def names(catalogue: Catalogue) -> list[str]:
    return [item.path for item in catalogue.page(count=1000)]


def test_an_index_without_a_label_learns_and_becomes_measurable(built: Path, tmp_path: Path, label) -> None:
    before = (built / CATALOGUE).read_bytes()
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(200)])
    said = label(built, given, "--out", tmp_path / "new")
    assert "200 labels are new or changed" in said
    new = open_artifact(tmp_path / "new")
    assert sorted(new.manifest.classes) == ["lying", "standing"]
    assert list(faults(tmp_path / "new")) == []
    with new.open_catalogue() as catalogue:
        held = [item for item in catalogue.page(count=1000) if item.held_out]
        wanted = [
            item.path
            for item in catalogue.page(count=1000)
            if item.label is not None and int(item.sha256[:8], 16) % SHARE == 0
        ]
        assert [item.path for item in held] == wanted
        assert 5 < len(held) < 50
        assert f"learned from {200 - len(held)}" in said
        assert f"{len(held)} labels are held out: too few to judge by" in said
        unlabelled = [item for item in catalogue.page(count=1000) if item.label is None]
        assert len(unlabelled) == 40
        right = [item.predicted == truth(item.path) for item in unlabelled]
        assert np.mean(right) > 0.9
        assert all(item.confidence is not None and 0 < item.confidence <= 1 for item in unlabelled)
        assert new.manifest.metrics["calibration"]["kind"] == "rough"
        assert all((item.doubt is None) == (item.label is None) for item in catalogue.page(count=1000))
        assert len(catalogue.embeddings()[0]) == 240
    assert (built / CATALOGUE).read_bytes() == before  # the old one stays as it was


def test_with_fifty_held_out_both_are_judged(
    built: Path, tmp_path: Path, label, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.learning.division.SHARE", 3)
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(240)])
    lines = label(built, given, "--out", tmp_path / "new", "--json").strip().splitlines()
    said = [json.loads(line) for line in lines]
    assert all(list(line) == ["progress"] for line in said[:-1])
    assert any(line["progress"].startswith("graph") for line in said[:-1])
    result = said[-1]
    assert result["after"]["images"] == result["held_out"] == result["before"]["images"] > 50
    assert result["artifact"] == str(tmp_path / "new")
    with open_artifact(tmp_path / "new").open_catalogue() as catalogue:
        table = catalogue.codes()
        held = np.isin(table.ids, [item.id for item in catalogue.page(count=1000) if item.held_out])
    with open_artifact(built).open_catalogue() as catalogue:
        before = catalogue.codes().codes
    labels = table.labels
    for when, codes in (("before", before), ("after", table.codes)):
        wanted = mean_average_precision(codes[held], labels[held], codes[~held], labels[~held])
        assert np.isclose(result[when]["map"], wanted)
        wanted = mean_average_precision(codes[held], labels[held], codes[~held], labels[~held], k=1)
        assert np.isclose(result[when]["top1"], wanted)


def test_the_same_labels_again_give_the_same_codes(built: Path, tmp_path: Path, label) -> None:
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(100)])
    label(built, given, "--out", tmp_path / "one")
    label(tmp_path / "one", given, "--out", tmp_path / "two")
    label(tmp_path / "one", "--out", tmp_path / "three")
    codes = []
    for name in ("one", "two", "three"):
        with open_artifact(tmp_path / name).open_catalogue() as catalogue:
            codes.append(catalogue.codes().codes)
    assert np.array_equal(codes[0], codes[1])
    assert np.array_equal(codes[0], codes[2])


def test_labels_accepted_in_groups_are_learned_from_and_never_held_out(
    built: Path, tmp_path: Path, label
) -> None:
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(100)], column=",group")
    said = label(built, given, "--out", tmp_path / "new")
    assert "learned from 100" in said
    made = open_artifact(tmp_path / "new")
    with made.open_catalogue() as catalogue:
        assert {item.source for item in catalogue.page(count=1000) if item.label} == {"group"}
        assert not any(item.held_out for item in catalogue.page(count=1000))
    assert made.manifest.data["held_out"] == 0
    assert made.manifest.metrics["calibration"]["labels"] == 0


def test_a_new_class_comes_and_another_loses_its_labels(built: Path, tmp_path: Path, label) -> None:
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(60)])
    label(built, given, "--out", tmp_path / "one")
    with Catalogue.open(tmp_path / "one" / CATALOGUE) as catalogue:
        for item in catalogue.page(count=1000):
            if item.label == "lying":
                catalogue.change(item.id, label="flat" if item.id % 3 else -1)
    label(tmp_path / "one", "--out", tmp_path / "two")
    made = open_artifact(tmp_path / "two")
    assert set(made.manifest.classes) == {"lying", "standing", "flat"}
    with made.open_catalogue() as catalogue:
        predicted = {item.predicted for item in catalogue.page(count=1000)} - {None}
    assert "lying" not in predicted  # nothing speaks for it any more
    assert predicted <= {"standing", "flat"}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_few_labels_or_none_make_an_index_without_confidence(
    built: Path, tmp_path: Path, label, count: int
) -> None:
    arguments = [csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(count)])] if count else []
    said = label(built, *arguments, "--out", tmp_path / "a folder" / "new")
    assert ("all of these are 'lying': no label is predicted until there is a second" in said) == (count == 1)
    made = open_artifact(tmp_path / "a folder" / "new")
    assert made.manifest.metrics["calibration"]["kind"] == "none"
    with made.open_catalogue() as catalogue:
        assert all(item.predicted is None for item in catalogue.page(count=1000))
        assert sum(item.label is not None for item in catalogue.page(count=1000)) == count


def test_what_names_no_image_is_said(built: Path, tmp_path: Path, label) -> None:
    given = csv(tmp_path / "labels.csv", ["000.png", "777.png", " 001.png"])
    said = label(built, given, "--out", tmp_path / "new", code=3)
    assert "1 labels name no image of the index (such as 777.png)" in said
    assert "2 labels are new" in said


def test_the_bytes_decide_where_they_are_given(built: Path, images: Path, tmp_path: Path, label) -> None:
    sha256 = hashlib.sha256((images / "005.png").read_bytes()).hexdigest()
    rows = ["path,label,sha256", f"elsewhere/x.png,renamed,{sha256}", f"006.png,other,{sha256[::-1]}"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    label(built, tmp_path / "labels.csv", "--out", tmp_path / "new", code=3)
    with open_artifact(tmp_path / "new").open_catalogue() as catalogue:
        labels = {item.path: item.label for item in catalogue.page(count=1000) if item.label}
    assert labels == {"005.png": "renamed"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,label", "000.png,a", "000.png,b"], "is labelled 'a' and 'b'"),
        (["path,label", "000.png,"], "empty label"),
        (["path,label,source", "000.png,a,guess"], "source 'guess': use one of given, accepted, group"),
        (["image,label", "000.png,a"], "the first line must be 'path,label'"),
    ],
)
def test_a_file_that_is_wrong_changes_nothing(
    built: Path, tmp_path: Path, label, lines: list[str], words: str
) -> None:
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    said = label(built, tmp_path / "labels.csv", "--out", tmp_path / "new", code=2)
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert sorted(os.listdir(tmp_path)) == ["built", "labels.csv"]


OF_THE_PAPER = ["--recipe", "paper", "--rule", "swta_fh", "--epochs", "1", "--set", "whiten=true"]
QUICK = ["--image-size", "28", "--set", "bits=32", "--set", "finetune_epochs=1", "--set", "head_epochs=1"]


@pytest.mark.parametrize(("given", "full"), [("none", False), ("first", False), ("first", True)])
def test_an_index_of_the_paper_gets_embeddings_from_the_files(
    images: Path, tmp_path: Path, here, label, given: str, full: bool
) -> None:
    first = csv(tmp_path / "first.csv", [f"{n:03d}.png" for n in range(60)])
    known = "none" if given == "none" else str(first)
    here("--data", str(images), "--labels", known, *OF_THE_PAPER, *QUICK, "--out", "paper")
    before = open_artifact(tmp_path / "paper")
    csv(tmp_path / "more.csv", [f"{n:03d}.png" for n in range(100)])
    anew = ["--full"] if full else []
    label(tmp_path / "paper", tmp_path / "more.csv", *anew, "--out", tmp_path / "new")
    made = open_artifact(tmp_path / "new")
    assert list(faults(made.path)) == []
    assert made.manifest.config["recipe"] == "best"
    taught = before.manifest.data["training_labels"] + before.manifest.data["validation_labels"]
    assert made.manifest.data["network_labels"] == (None if full else taught or None)
    encoder, old = Encoder.load(made.encoder_path), Encoder.load(before.encoder_path)
    weights = zip(old.features.parameters(), encoder.features.parameters(), strict=True)
    assert all(torch.equal(was, now) for was, now in weights) != full
    with made.open_catalogue() as catalogue, before.open_catalogue() as other:
        assert catalogue.held_out() == other.held_out()
        items, (ids, vectors) = list(catalogue.every_item()), catalogue.embeddings()
        table = catalogue.codes()
    paths = {item.id: images / item.path for item in items}
    shown = torch.stack([encoder.prepare(open_image(paths[id_])) for id_ in ids.tolist()])
    assert np.allclose(encoder.embed(shown), vectors, atol=2e-3)
    assert np.array_equal(encoder.code(vectors), table.codes)
    label(tmp_path / "new", "--out", tmp_path / "again")  # of what is kept now
    with open_artifact(tmp_path / "again").open_catalogue() as catalogue:
        assert np.array_equal(catalogue.codes().codes, table.codes)


def test_an_index_of_the_paper_names_files_that_are_gone(images: Path, tmp_path: Path, here, label) -> None:
    shutil.copytree(images, tmp_path / "pictures")
    here("--data", "pictures", "--labels", "none", *OF_THE_PAPER, *QUICK, "--out", "paper")
    (tmp_path / "pictures" / "007.png").unlink()
    said = label(tmp_path / "paper", "--out", tmp_path / "new", code=2)
    assert "the files of 1 images are gone, such as 007.png; put them back or remove these images" in said
    said = label(tmp_path / "paper", "--out", tmp_path / "paper", code=2)
    assert "exists already" in said


def test_an_index_of_the_digits_says_what_to_do(tmp_path: Path, here, label) -> None:
    here(*OF_THE_PAPER, *QUICK, "--out", "digits")
    said = label(tmp_path / "digits", "--out", tmp_path / "new", code=2)
    assert "keeps no embeddings to learn from, and was not made from a folder of files" in said


def test_a_sent_image_takes_part(built: Path, tmp_path: Path, label) -> None:
    """Its embedding was kept when it came."""
    from service.core.library import Library, Upload
    from service.core.searcher import Searcher

    picture(tmp_path / "sent.png", 1001)
    with closing(Searcher.open(built, max_pixels=10**6)) as searcher:
        library = Library(searcher, keep=True, max_bytes=10**6, max_pixels=10**6)
        library.add([Upload("sent.png", (tmp_path / "sent.png").read_bytes(), label="sent")])
    assert list(faults(built)) == []
    csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(60)])
    label(built, tmp_path / "labels.csv", "--out", tmp_path / "new")
    with open_artifact(tmp_path / "new").open_catalogue() as catalogue:
        assert len(catalogue.embeddings()[0]) == 241
    assert "sent" in open_artifact(tmp_path / "new").manifest.classes


def test_held_out_images_are_those_that_came_since_the_build(images: Path, tmp_path: Path, here) -> None:
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(200)])
    here("--data", str(images), "--labels", str(given), *BEST, "--out", "built")
    with Catalogue.open(tmp_path / "built" / CATALOGUE) as catalogue:
        assert len(hold_out(catalogue)) == 0
        unlabelled = [item.id for item in catalogue.page(count=1000) if item.label is None]
        catalogue.label_all(dict.fromkeys(unlabelled, ("late", "given")))
        held = hold_out(catalogue)
        late = [item for item in catalogue.page(count=1000) if item.label == "late"]
    assert set(held.tolist()) == {item.id for item in late if int(item.sha256[:8], 16) % SHARE == 0}


def would_be_held(catalogue: Catalogue) -> list[Item]:
    labelled = (item for item in catalogue.page(count=1000) if item.label is not None)
    return [item for item in labelled if item.sha256 and int(item.sha256[:8], 16) % SHARE == 0]


def test_what_a_build_learned_from_is_not_held_out_whatever_becomes_of_it(
    images: Path, tmp_path: Path, here, label
) -> None:
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(200)])
    here("--data", str(images), "--labels", str(given), *BEST, "--out", "built")
    built = open_artifact(tmp_path / "built")
    with built.open_catalogue() as catalogue:
        learned = [item for item in catalogue.page(count=1000) if item.label is not None]
        assert built.learned() == {item.sha256 for item in learned}
        thrown, relabelled, annotated, *_ = would_be_held(catalogue)
        catalogue.take_out(catalogue.throw([thrown.id]))
        catalogue.change(relabelled.id, label="another")
        catalogue.change(annotated.id, metadata={"seen": "twice"})
        late = [item.id for item in catalogue.page(count=1000) if item.label is None]
        catalogue.label_all(dict.fromkeys(late, ("late", "given")))
        chosen = {item.id for item in would_be_held(catalogue)} & set(late)
    assert chosen
    label(tmp_path / "built", "--out", tmp_path / "new")
    with open_artifact(tmp_path / "new").open_catalogue() as catalogue:
        assert {item.id for item in catalogue.page(count=1000) if item.held_out} == chosen
    assert list(faults(tmp_path / "new")) == []


def test_what_was_learned_from_since_is_not_held_out_later(built: Path, tmp_path: Path, label) -> None:
    """Labels of a group, of which one is looked at afterwards; one that was held out before, and after."""
    with Catalogue.open(built / CATALOGUE) as catalogue:
        catalogue.label_all({n: (truth(f"{n - 1:03d}.png"), "group") for n in range(1, 201)})
        looked_at, undone, other, *_ = (item.id for item in would_be_held(catalogue))
        teaching = min({*range(1, 201)} - {item.id for item in would_be_held(catalogue)})
        for id_ in (teaching, other, undone):
            catalogue.change(id_, label="mine", source="given")
        catalogue.hold_out([undone])
        catalogue.label_all({undone: (truth(f"{undone - 1:03d}.png"), "group")}, batch="as all others")
    label(built, "--out", tmp_path / "first")
    first = open_artifact(tmp_path / "first")
    with first.open_catalogue() as catalogue:
        assert [item.id for item in catalogue.page(count=1000) if item.held_out] == [other]
        items = catalogue.page(count=1000)
        assert first.learned() == {item.sha256 for item in items if item.label and item.id != other}
        catalogue.change(looked_at, label="mine", source="given")
        catalogue.undo(catalogue.history.named("as all others"))
        assert catalogue.get(undone).held_out
    label(tmp_path / "first", "--out", tmp_path / "second")
    with open_artifact(tmp_path / "second").open_catalogue() as catalogue:
        assert [item.id for item in catalogue.page(count=1000) if item.held_out] == [other]


def test_codes_are_those_that_the_new_encoder_makes_of_the_images(
    built: Path, images: Path, tmp_path: Path, label
) -> None:
    label(built, csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(60)]), "--out", tmp_path / "new")
    made = open_artifact(tmp_path / "new")

    encoder = Encoder.load(made.encoder_path)
    with made.open_catalogue() as catalogue:
        items = catalogue.page(count=20)
        pixels = torch.stack(
            [encoder.prepare(Image.open(images / item.path).convert("RGB")) for item in items]
        )
        codes = np.concatenate([catalogue.code(item.id) for item in items])
    assert np.array_equal(encoder.encode(pixels), codes)
    assert artifact.encoder_id(made.encoder_path) == made.manifest.encoder_id


def test_a_build_predicts_what_has_no_label(images: Path, tmp_path: Path, here) -> None:
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(120)])
    said = here("--data", str(images), "--labels", str(given), *BEST, "--out", "built")
    assert "codes of 32 bits (ITQ)" in said
    made = open_artifact(tmp_path / "built")
    assert made.manifest.config["recipe"] == "best"
    assert made.manifest.metrics["calibration"]["kind"] == "rough"  # a tenth of 120 are asked with
    assert made.manifest.metrics["top1"] > 0.9
    assert made.manifest.metrics["map"] > 0.9
    assert list(faults(tmp_path / "built")) == []
    with made.open_catalogue() as catalogue:
        unlabelled = [item for item in catalogue.page(count=1000) if item.label is None]
        assert len(unlabelled) == 120
        assert np.mean([item.predicted == truth(item.path) for item in unlabelled]) > 0.9
        assert len(catalogue.without_embedding()) == 0
        queries = catalogue.page(Listing(split="query"), count=1000)
        assert len(catalogue.embeddings("query")[0]) == len(queries) > 5


def test_many_held_out_queries_calibrate_a_build(
    images: Path, tmp_path: Path, here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.coding.confidence.ENOUGH", 20)
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(240)])
    here("--data", str(images), "--labels", str(given), *BEST, "--out", "built")
    calibration = open_artifact(tmp_path / "built").manifest.metrics["calibration"]
    assert calibration["kind"] == "held out"
    assert calibration["labels"] == 24
    assert calibration["error"] is not None


def test_many_held_out_labels_calibrate_what_is_learned_again(
    built: Path, tmp_path: Path, label, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.coding.confidence.ENOUGH", 20)
    monkeypatch.setattr("training.learning.division.SHARE", 3)
    label(
        built, csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(200)]), "--out", tmp_path / "new"
    )
    made = open_artifact(tmp_path / "new")
    calibration = made.manifest.metrics["calibration"]
    assert calibration["kind"] == "held out"
    assert calibration["labels"] == made.manifest.data["held_out"]


def test_queries_of_the_build_measure_again(images: Path, tmp_path: Path, here, label) -> None:
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(120)])
    here("--data", str(images), "--labels", str(given), *BEST, "--out", "built")
    more = csv(tmp_path / "more.csv", [f"{n:03d}.png" for n in range(200)])
    label(tmp_path / "built", more, "--out", tmp_path / "new")
    made = open_artifact(tmp_path / "new")
    queries = made.queries()
    assert queries is not None
    with made.open_catalogue() as catalogue:
        table = catalogue.codes()
        held = np.isin(table.ids, [item.id for item in catalogue.page(count=1000) if item.held_out])
    ranked = ~held & (table.labels >= 0)
    wanted = mean_average_precision(queries.codes, queries.labels, table.codes[ranked], table.labels[ranked])
    assert np.isclose(made.manifest.metrics["map"], wanted)
    assert made.manifest.data["training_labels"] == int(ranked.sum())
    assert list(faults(tmp_path / "new")) == []


def test_a_copy_of_a_held_out_image_is_not_learned_from(
    built: Path, images: Path, tmp_path: Path, label
) -> None:
    with Catalogue.open(built / CATALOGUE) as catalogue:
        held = next(i for i in catalogue.page(count=1000) if int(i.sha256[:8], 16) % SHARE == 0)
        original = catalogue.embeddings_of([held.id])[held.id]
        twin = NewItem(
            "twin.png", "twin", "database", 28, 28, catalogue.thumbnail(held.id), catalogue.code(held.id)[0],
            file=File(bytes.fromhex(held.sha256)), embedding=original,
        )  # fmt: skip
        catalogue.add([twin])
        catalogue.note("built", str(catalogue.revision))
    rows = [f"{n:03d}.png,{truth(f'{n:03d}.png') if n < 60 else 'mine'}" for n in range(65)]
    rows = [row for row in rows if held.path not in row]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows, f"{held.path},mine"]))
    label(built, tmp_path / "labels.csv", "--out", tmp_path / "new")
    with open_artifact(tmp_path / "new").open_catalogue() as catalogue:
        assert catalogue.get(held.id).held_out
        (copy,) = catalogue.copies_of_queries()
        assert catalogue.get(int(copy)).path == "twin.png"
        predicted = {item.predicted for item in catalogue.page(count=1000)}
    assert "twin" not in predicted
    assert (
        open_artifact(tmp_path / "new").manifest.data["training_labels"]
        == sum(not held for held in map(is_held, labelled(tmp_path / "new"))) - 1
    )


def labelled(path: Path) -> list[Item]:
    with open_artifact(path).open_catalogue() as catalogue:
        return [item for item in catalogue.page(count=1000) if item.label is not None]


def is_held(item: Item) -> bool:
    return item.held_out


def test_embeddings_go_through_sending_copying_reload_and_reencode(
    built: Path, images: Path, tmp_path: Path, here, label
) -> None:
    from index.backup import copy_artifact
    from service.core.artifacts.carrying import carry
    from service.core.artifacts.reencode import reencode
    from service.core.library import Library, Upload
    from service.core.pictures.decoding import decode
    from service.core.searcher import Searcher
    from service.core.trash import Trash

    def opened(path: Path) -> Searcher:
        return Searcher.open(path, max_pixels=10**6)

    def library(searcher: Searcher) -> Library:
        return Library(searcher, keep=True, max_bytes=10**6, max_pixels=10**6)

    def trash(searcher: Searcher) -> Trash:
        return Trash(library(searcher), days=30, decode=decode)

    def send(searcher: Searcher, seed: int) -> int:
        picture(tmp_path / f"{seed}.png", seed)
        upload = Upload(f"{seed}.png", (tmp_path / f"{seed}.png").read_bytes(), label="sent")
        (added,) = library(searcher).add([upload])
        assert added.id is not None
        return added.id

    with closing(opened(built)) as searcher:
        kept, gone, thrown = (send(searcher, seed) for seed in (1001, 1002, 1004))
        trash(searcher).delete(gone, forever=True)
        trash(searcher).throw([thrown, 150])
    copy_artifact(built, tmp_path / "copy")
    label(
        built, csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(100)]), "--out", tmp_path / "new"
    )
    with closing(opened(built)) as before, closing(opened(tmp_path / "new")) as after:
        assert before.embedding_id == after.embedding_id is not None
        since = before.catalogue.revision
        late = send(before, 1003)
        before.catalogue.label_all({9: ("held", "given"), 201: ("held", "given")})
        before.catalogue.hold_out([9, 201, late])
        before.original_of(before.catalogue.get(late)).unlink()  # only the head differs: it is not needed
        carry(before, library(after), since)
        (twin,) = [item for item in after.catalogue.page(count=1000) if item.path == "1003.png"]
        # The new one has learned from image 9, with the label that it had.
        assert [item.held_out for item in (twin, *after.catalogue.get_many([201, 9]))] == [True, True, False]
        ours, theirs = (
            each.catalogue.embeddings_of([id_])[id_] for each, id_ in ((before, late), (after, twin.id))
        )
        assert np.array_equal(ours, theirs)
    here("--data", str(images), "--labels", "none", *BEST, "--seed", "3", "--out", "other")
    reencode(tmp_path / "copy", tmp_path / "other", tmp_path / "moved")
    for name, uncoded in (("copy", 0), ("new", 2), ("moved", 2)):
        with closing(opened(tmp_path / name)) as searcher:
            come_back(trash(searcher), searcher.catalogue, [150, thrown], uncoded)
        fits(tmp_path / name)
    with open_artifact(tmp_path / "moved").open_catalogue() as catalogue:
        assert kept in catalogue.embeddings()[0]
        assert gone not in catalogue.embeddings()[0]


def come_back(trash, catalogue: Catalogue, thrown: list[int], uncoded: int) -> None:
    """So many of them need a code by the encoder that there is now."""
    assert len(catalogue.trash.uncoded(thrown)) == uncoded
    assert list(trash.restore(thrown).done) == thrown


def fits(path: Path) -> None:
    """Every image has an embedding, of which its encoder makes the code it has."""
    made = open_artifact(path)
    encoder = Encoder.load(made.encoder_path)
    with made.open_catalogue() as catalogue:
        (ids, vectors), table = catalogue.embeddings(), catalogue.codes()
    assert np.array_equal(ids, table.ids)
    assert np.array_equal(encoder.code(vectors), table.codes)
    assert list(faults(path)) == [] or path.name == "new"  # the original of one image was taken away there


def test_where_no_query_finds_its_label_any_more_nothing_is_measured(
    images: Path, tmp_path: Path, here, label
) -> None:
    given = csv(tmp_path / "labels.csv", [f"{n:03d}.png" for n in range(120)])
    here("--data", str(images), "--labels", str(given), *BEST, "--out", "built")
    other = ["path,label", *(f"{n:03d}.png,other" for n in range(240))]
    (tmp_path / "other.csv").write_text("\n".join(other))
    said = label(tmp_path / "built", tmp_path / "other.csv", "--out", tmp_path / "new", code=3)
    made = open_artifact(tmp_path / "new")
    assert "labels are of images that are held out since the build, which stay: " in said
    assert "map" not in made.manifest.metrics
    assert made.manifest.metrics["top1"] == 0


def test_an_image_without_an_embedding_is_named(built: Path, tmp_path: Path, label) -> None:
    with sqlite3.connect(built / CATALOGUE) as connection:
        connection.execute("DELETE FROM embeddings WHERE item_id = 7")
    said = label(built, "--out", tmp_path / "new", code=2)
    assert "1 images have no embedding (such as 7); send them again" in said
    assert not (tmp_path / "new").exists()
