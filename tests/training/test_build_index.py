"""The command as people run it: a process, its files, its exit codes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from index import artifact
from index.evaluation import mean_average_precision
from index.tables.listing import Listing
from service.core.measuring import measure
from service.core.searcher import Searcher
from tests import forking
from tests.training.narrow import NARROW_ON_A_FULL_DISK, NARROW_PROCESS, widths_are_narrow
from training.nets.encoder import Encoder
from training.nets.images import open_image

COMMAND = Path(__file__).parents[2] / "training" / "build_index.py"
QUICK = ["--epochs", "1", "--finetune-epochs", "2", "--image-size", "28"]


def environment(narrow=True):
    """Of a command with one thread; if it is forked, its networks are narrow unless they are not to be."""
    return os.environ | {"OMP_NUM_THREADS": "1"} | (NARROW_PROCESS if narrow else {})


def build(folder, *arguments, code=0, **how):
    command = [sys.executable, str(COMMAND), *arguments]
    done = forking.run(command, timeout=300, **{"cwd": folder, "env": environment()} | how)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def refused(folder, *arguments, **how):
    """The one line that a refused command says."""
    *before, line = build(folder, *arguments, code=2, **how).stderr.strip().splitlines()
    assert all(each.startswith(("reading the folder ", "found ")) for each in before), before
    return line


def stripes(path, horizontal, seed, size=28):
    """A picture of noisy stripes: two classes that a small network can tell apart."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(size) * rng.uniform(0.8, 1.6) + rng.uniform(0, 6)) * 90 + 128
    picture = np.broadcast_to(wave[:, None] if horizontal else wave, (size, size))
    noisy = (picture[..., None] + rng.normal(0, 20, (size, size, 3))).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy).save(path)


def striped_folder(root, count):
    """`count` pictures of the two classes by turns."""
    for number in range(count):
        stripes(root / ("across" if number % 2 else "down") / f"{number}.png", number % 2, number)
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = striped_folder(tmp_path_factory.mktemp("pictures"), 60)
    (root / "across" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return root


@pytest.fixture(scope="module")
def built(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    done = build(folder, "--data", str(pictures), *QUICK, start=subprocess.Popen)  # as people start it
    return folder / "artifacts" / "run-001", done


def test_command_leaves_an_artifact_and_says_where(built):
    path, done = built
    opened = artifact.open_artifact(path)
    manifest = opened.manifest
    assert "artifacts/run-001" in done.stdout
    assert f"mAP {manifest.metrics['map']:.4f}" in done.stdout
    assert "broken.png" in done.stdout
    assert not path.with_name("run-001.partial").exists()
    assert manifest.classes == ("across", "down")
    assert manifest.config["rule"] == "hpca_fh"
    assert [entry["path"] for entry in manifest.data["skipped"]] == ["across/broken.png"]
    assert (manifest.data["database"], manifest.data["queries"]) == (54, 6)
    assert manifest.data["training_labels"] == 54


@pytest.mark.process
def test_stopped_while_libraries_load_it_says_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", str(COMMAND)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        loaded = iter(process.stderr.readline, "")
        assert any(line.split()[-1] == "numpy" for line in loaded)  # torch, which takes longest, is under way
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_it_says_at_once_what_it_reads(built, pictures):
    said = built[1].stderr.splitlines()
    assert said[:2] == [f"reading the folder {pictures}", "found 61 files, 61 with a label; decoding them"]


def test_catalogue_holds_every_image_once(built, pictures):
    opened = artifact.open_artifact(built[0])
    with opened.open_catalogue() as catalogue:
        table = catalogue.codes()
        database = catalogue.get_many(table.ids.tolist())
        queries = catalogue.get_many(opened.queries().ids.tolist())
    files = {path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png")} - {
        "across/broken.png"
    }
    assert {item.path for item in database} | {item.path for item in queries} == files
    assert len(database) + len(queries) == len(files)
    assert all(item.path.startswith(item.label) for item in database)
    assert {item.split for item in queries} == {"query"}
    assert database[0].width == 28
    for item in (database[0], database[-1], queries[0]):  # recognised when it is sent
        assert item.sha256 == sha256((pictures / item.path).read_bytes()).hexdigest()


def test_codes_are_those_of_the_saved_encoder(built, pictures):
    opened = artifact.open_artifact(built[0])
    encoder = Encoder.load(opened.encoder_path)
    with opened.open_catalogue() as catalogue:
        table = catalogue.codes()
        paths = [item.path for item in catalogue.get_many(table.ids.tolist())]
    for path, code in zip(paths[:5], table.codes[:5], strict=True):
        pixels = encoder.prepare(open_image(pictures / path))[None]
        differing = np.unpackbits(encoder.encode(pixels)[0] ^ code).sum()
        assert differing <= 1  # a unit at zero may fall either way in a batch of another size


def test_reported_map_is_that_of_the_artifact(built):
    opened = artifact.open_artifact(built[0])
    queries = opened.queries()
    with opened.open_catalogue() as catalogue:
        table = catalogue.codes()
    expected = mean_average_precision(queries.codes, queries.labels, table.codes, table.labels)
    assert opened.manifest.metrics["map"] == pytest.approx(expected)


def test_same_seed_same_codes_and_the_next_number(built, pictures):
    path, _ = built
    wide = environment(narrow=False)  # as the first, which is no forked process
    build(path.parents[1], "--data", str(pictures), *QUICK, env=wide)
    first, second = (artifact.open_artifact(path.with_name(name)) for name in ("run-001", "run-002"))
    assert first.manifest.encoder_id == second.manifest.encoder_id
    with first.open_catalogue() as one, second.open_catalogue() as two:
        np.testing.assert_array_equal(one.codes().codes, two.codes().codes)
    build(path.parents[1], "--data", str(pictures), *QUICK, "--seed", "1", env=wide)
    assert artifact.open_artifact(path.with_name("run-003")).manifest.encoder_id != first.manifest.encoder_id


@pytest.mark.process
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_that_of_the_training_and_stated(narrow, pictures, tmp_path, precision):
    build(tmp_path, "--data", str(pictures), *QUICK, "--precision", precision, "--out", "here")
    opened = artifact.open_artifact(tmp_path / "here")
    assert opened.manifest.versions["precision"] == precision
    encoder = Encoder.load(tmp_path / "here" / artifact.ENCODER)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert opened.manifest.metrics["map"] > 0.6


@pytest.mark.process
@pytest.mark.parametrize("rule", ["swta_fh", "none"])
def test_other_rules_and_few_labels(pictures, tmp_path, rule):
    build(tmp_path, "--data", str(pictures), *QUICK, "--rule", rule, "--labels", "20%", "--out", "here")
    manifest = artifact.open_artifact(tmp_path / "here").manifest
    assert manifest.data["training_labels"] == 11  # of 2 × 27
    assert manifest.data["labelled"] == 54
    assert (manifest.preprocessing["whitening"] is not None) == (rule == "swta_fh")


@pytest.mark.long
def test_own_images_are_learned_from_by_the_best_recipe(pictures, tmp_path, here, monkeypatch):
    monkeypatch.setattr("training.coding.learning.LEAST_STEPS", 20)
    said = here("--data", str(pictures), "--image-size", "28", "--set", "bits=32", "--out", "built")
    assert "codes of 32 bits (ITQ)" in said
    made = artifact.open_artifact(tmp_path / "built").manifest
    assert [made.config[name] for name in ("recipe", "backbone", "rule")] == ["best", "soft3", "softhebb"]
    assert made.metrics["map"] > 0.9
    with artifact.open_artifact(tmp_path / "built").open_catalogue() as catalogue:
        assert len(catalogue.without_embedding()) == 0  # so that hebbsearch label can go on from here


@pytest.mark.process
def test_labels_for_some(pictures, tmp_path):
    labels = tmp_path / "labels.csv"
    chosen = sorted(path.relative_to(pictures) for path in pictures.rglob("?.png"))
    labels.write_text("path,label\n" + "".join(f"{path},{path.parent}\n" for path in chosen))
    build(tmp_path, "--data", str(pictures), *QUICK, "--labels", str(labels), "--out", "here")
    about = artifact.open_artifact(tmp_path / "here").manifest.data
    assert about["labelled"] + about["queries"] == len(chosen) == 10
    assert about["unlabelled"] == 50


def test_of_two_folders_of_images_one_is_to_be_named(here):
    assert "new and --data old are both folders of images; name one" in here("new", "--data", "old", code=2)
    assert "goes without other flags" in here("new", "--resume", "old.partial", code=2)


@pytest.mark.process
def test_no_labels(pictures, tmp_path):
    done = build(tmp_path, str(pictures / "across"), *QUICK, "--out", "here")  # without --data
    opened = artifact.open_artifact(tmp_path / "here")
    assert "no mAP" in done.stdout
    assert opened.queries() is None
    assert opened.manifest.classes == ()
    assert "random rotation" in opened.manifest.data["codes"]
    assert "map" not in opened.manifest.metrics


def both_parts(catalogue):
    """All items, those that are held out too."""
    return [
        item for split in ("database", "query") for item in catalogue.page(Listing(split=split), count=1000)
    ]


@pytest.mark.process
@pytest.mark.parametrize(
    ("train", "given", "says"),
    [
        ("class{}", [], "no mAP: no image with a label is held out to ask with"),
        ("", ["--labels", "labels.csv"], "no mAP: no image with a label is held out to ask with"),
        ("", [], "no mAP: without labels nothing can be measured"),
        ("class{}", ["--labels", "none"], "no mAP: without labels nothing can be measured"),
    ],
)
def test_test_images_without_a_label_are_indexed(tmp_path, train, given, says):
    rows = ["path,label"]
    for number in range(12):
        path = Path("test/more") if number >= 8 else Path("train", train.format(number % 2))
        stripes(tmp_path / "data" / path / f"{number}.png", number % 2, number)
        rows += [f"{path}/{number}.png,class{number % 2}"] * (number < 8)
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    for path in (tmp_path / "data" / "test" / "more").iterdir():
        path.rename(tmp_path / "data" / "test" / path.name)
    (tmp_path / "data" / "test" / "more").rmdir()
    done = build(tmp_path, "--data", "data", *QUICK, *given, "--out", "here")
    opened = artifact.open_artifact(tmp_path / "here")
    with opened.open_catalogue() as catalogue:
        found = catalogue.get_many(catalogue.codes().ids.tolist())
    assert {item.path.split("/")[-1] for item in found} == {f"{number}.png" for number in range(12)}
    assert {item.label for item in found if item.path.startswith("test/")} == {None}
    assert done.stdout.splitlines()[-2] == says
    labels = 0 if says.endswith("measured") else 8
    about = opened.manifest.data
    assert [about[name] for name in ("labelled", "training_labels", "unlabelled")] == [
        labels,
        labels,
        12 - labels,
    ]
    assert opened.queries() is None


@pytest.mark.process
def test_classes_of_one_image_are_learned_and_said_together(pictures, tmp_path):
    for number, name in enumerate(("down", "down", "down", "across", "across", "one", "two", "broken")):
        stripes(tmp_path / "data" / name / f"{number}.png", name != "down", number)
    for path in (tmp_path / "data" / "across" / "3.png", tmp_path / "data" / "broken" / "7.png"):
        path.write_bytes(b"nothing")
    done = build(tmp_path, "--data", "data", *QUICK, "--out", "here")
    said = [line for line in done.stderr.splitlines() if line.startswith("data: ")]
    assert [line.split(": ", 2)[2] for line in said[:1]] == ["'broken', 'one', 'two'"]
    assert said[1] == "data: no image to learn from can be read of 'broken': left out"
    assert said[2].endswith(": 'across'")  # one of its two could not be read
    opened = artifact.open_artifact(tmp_path / "here")
    assert opened.manifest.classes == ("across", "down", "one", "two")
    about = opened.manifest.data
    assert (about["training_labels"], about["queries"], about["labelled"]) == (5, 1, 5)


@pytest.mark.process
@pytest.mark.parametrize("layout", ["classes", "train and test", "labels"])
def test_copies_of_queries_are_neither_learned_from_nor_ranked(tmp_path, layout):
    """Noise, each picture twice under different names: nothing can be found but copies."""
    random, rows = np.random.default_rng(0), []
    for number in range(80):
        image = Image.fromarray(random.integers(0, 256, (28, 28, 3), np.uint8))
        for copy in range(2):
            part = {"train and test": f"{'test' if copy and number < 20 else 'train'}/"}.get(layout, "")
            folder = "flat" if layout == "labels" else f"class{number % 2}"
            path = tmp_path / "data" / f"{part}{folder}" / f"{'ab'[copy]}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            rows.append(f"{path.relative_to(tmp_path / 'data')},class{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    given = ["--labels", "labels.csv"] if layout == "labels" else []
    done = build(tmp_path, "--data", "data", *QUICK, *given, "--out", "here")
    opened = artifact.open_artifact(tmp_path / "here")
    queries, about = opened.queries(), opened.manifest.data
    with opened.open_catalogue() as catalogue:
        table = catalogue.codes()
        hashes = {item.id: item.sha256 for item in both_parts(catalogue)}
    asked = {hashes[id_] for id_ in queries.ids.tolist()}
    ranked = np.array([hashes[id_] not in asked for id_ in table.ids.tolist()])
    copies = int((~ranked).sum())
    assert copies >= 14
    assert f"\n{copies} copies of queries left out" in f"\n{done.stdout}"
    assert about["training_labels"] + about["validation_labels"] == ranked.sum()
    expected = mean_average_precision(
        queries.codes, queries.labels, table.codes[ranked], table.labels[ranked]
    )
    assert opened.manifest.metrics["map"] == pytest.approx(expected)


@pytest.mark.process
@pytest.mark.parametrize("chosen", ["keep", "leave_out"])
def test_near_copies_are_told_and_can_be_left_out(tmp_path, chosen, monkeypatch):
    """Noise, each picture also mirrored or turned, under another name."""
    random = np.random.default_rng(0)
    for number in range(60):
        noise = Image.fromarray(random.integers(0, 256, (28, 28, 3), np.uint8))
        edit = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90)[number % 4 // 2]
        for name, image in (("a", noise), ("b", noise.transpose(edit))):
            path = tmp_path / "data" / f"class{number % 2}" / f"{name}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    given = ["--set", "near_copies=leave_out"] if chosen == "leave_out" else []
    done = build(tmp_path, "--data", "data", *QUICK, *given, "--out", "here")
    opened = artifact.open_artifact(tmp_path / "here")
    queries, metrics = opened.queries(), opened.manifest.metrics
    with opened.open_catalogue() as catalogue:
        table = catalogue.codes()
        names = {item.id: Path(item.path).stem[1:] for item in both_parts(catalogue)}
    asked = {names[id_] for id_ in queries.ids.tolist()}
    near = np.array([names[id_] in asked for id_ in table.ids.tolist()])
    assert metrics["near_copies"] == near.sum() >= 6
    assert opened.manifest.config["near_copies"] == chosen
    said = {"keep": "count in the measurements; --set near", "leave_out": "left out of the measurements"}
    assert f"\n{near.sum()} near-copies of queries {said[chosen]}" in f"\n{done.stdout}"
    ranked = ~near if chosen == "leave_out" else np.ones(len(near), bool)
    expected = mean_average_precision(
        queries.codes, queries.labels, table.codes[ranked], table.labels[ranked]
    )
    assert metrics["map"] == pytest.approx(expected)
    widths_are_narrow(monkeypatch.setitem, monkeypatch.setattr)
    with closing(Searcher(opened, max_pixels=10_000)) as searcher:
        measured = measure(searcher)
    assert measured.scores.mean() == pytest.approx(expected)
    assert measured.members.sum() == ranked.sum()
    assert measured.copies == (near.sum() if chosen == "leave_out" else 0)


@pytest.fixture
def interrupted(pictures, tmp_path):
    """A run stopped with Ctrl-C in its second stage."""
    arguments = ["--data", str(pictures), "--epochs", "3", "--finetune-epochs", "40", "--image-size", "28"]
    process = forking.Popen(
        [sys.executable, str(COMMAND), *arguments, "--out", "stopped"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("pre-training: epoch 3 of 3, "):
            assert line.endswith(" s, about 0 min left\n")
            seen = set()
            while len(seen) < 4:  # some epochs into the fine-tuning: each leaves another checkpoint
                assert process.poll() is None
                seen.add((tmp_path / "stopped.partial" / "checkpoint.pt").stat().st_mtime_ns)
                time.sleep(0.005)
            process.send_signal(signal.SIGINT)
            break
    _, message = process.communicate(timeout=120)
    assert process.returncode == 130
    return tmp_path, arguments, message


def test_interrupted_run_goes_on_to_the_same_codes(interrupted):
    folder, arguments, message = interrupted
    assert "--resume stopped.partial" in message
    assert "Traceback" not in message
    assert not (folder / "stopped").exists()
    assert "unfinished run" in refused(folder, *arguments, "--out", "stopped")
    for name in ("other", "damaged", "changed"):
        shutil.copytree(folder / "stopped.partial", folder / f"{name}.partial")
    (folder / "damaged.partial" / "checkpoint.pt").write_bytes(b"PK\3\4 no more")
    assert "checkpoint cannot be read" in refused(folder, "--resume", "damaged.partial")
    shutil.copytree(arguments[1], folder / "fewer")
    (folder / "fewer" / "down" / "0.png").unlink()
    config = folder / "changed.partial" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"data": str(folder / "fewer")}))
    says = refused(folder, "--resume", "changed.partial")
    assert "not those that the run was started with (1 gone, first down/0.png), so that" in says
    build(folder, "--resume", "stopped.partial")
    build(folder, *arguments, "--out", "straight")
    build(folder, "--resume", "other.partial", "--set", "head_lr=0.5")
    resumed, straight, other = (
        artifact.open_artifact(folder / name).manifest for name in ("stopped", "straight", "other")
    )
    assert resumed.encoder_id == straight.encoder_id != other.encoder_id
    assert other.config["head_lr"] == 0.5
    assert not (folder / "stopped.partial").exists()


@pytest.mark.process
def test_divergence_stops_and_writes_nothing(pictures, tmp_path):
    diverging = ["--data", str(pictures), *QUICK, "--epochs", "4", "--out", "here"]
    done = build(tmp_path, *diverging, "--set", "hebbian_lr=1e30", code=2)
    message = done.stderr.splitlines()[-1]
    assert re.search(r"layer features\.0\.0 became non-finite under rule hpca_fh with .*1e\+30", message)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backbone", "resnet"], r"backbone 'resnet': use one of conv6.*timm/NAME"),
        (["--rule", "oja"], r"invalid choice: 'oja'"),
        (["--epochs", "many"], r"invalid int value: 'many'"),
        (["--colour", "red"], r"unrecognized arguments: --colour"),
        (["--labels", "0%"], r"labels 0%: use 1% to 100%"),
        (["--set", "colour=red"], r"--set colour=red: use name=value"),
        (["--device", "tpu9"], r"device tpu9: not usable here"),
        (["--device", "cpu", "--precision", "tf32"], r"precision tf32: only NVIDIA GPUs .*not cpu"),
        (["--precision", "fp8"], r"invalid choice: 'fp8'"),
        (["--data", "gone"], r"gone: no such folder"),
        (["--data", "empty"], r"empty: the folder is empty"),
        (["--data", "one"], r"one: only one class \(a\)"),
        (["--data", "uneven"], r"uneven: there is no image to learn from of 'b', 'c', which the test"),
        (
            ["--data", "single", "--labels", "50%"],
            r"labels 50%: of 3 training labels .* use at least 66\.67%",
        ),
        (["--data", "single/a", "--rule", "hah"], r"--rule hah learns from labels, and has none; give some"),
        (["--data", "one", "--rule", "hah", "--labels", "none"], r"has none; leave out --labels none"),
        (["--data", "text"], r"text: none of its 4 files is a readable image"),
        (["--dataset", "imagenet"], r"--dataset imagenet needs --data DIR"),
        pytest.param(  # loads torchvision
            ["--dataset", "imagenet", "--data", "empty"], r"put its images into", marks=pytest.mark.long
        ),
        (["--labels", "gone.csv", "--data", "one"], r"gone\.csv: the labels cannot be read"),
        (["--labels", "gone.csv"], r"needs --data DIR"),
        (["--out", "one"], r"one exists; name another folder"),
        (["--out", "file.txt/deeper"], r"file\.txt"),
        (["--resume", "one"], r"one: no interrupted run to go on with \(No such file"),
        (["--resume", "one", "--epochs", "3"], r"--resume goes without other flags"),
        (["--resume", "one", "--set", "bits=128"], r"--resume .* --set .*hebbian_lr"),
        (["--image-size", "8"], r"image size 8: conv6 needs at least"),
        (["--image-size", "3000"], r"image size 3000: conv6's fully connected layer would take"),
        (["--labels", "5"], r"labels 5: for a share write 5%"),
        (["--seed", "3000000000"], r"seed 3000000000"),
        (["--set", "bits=16384"], r"bits 16384"),
        (["--device", "meta"], r"device meta: not usable here"),
        (["--data", "lonely"], r"one image is not enough"),
        (["--dataset", "digits", "--data", "one"], r"digits .*--data"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, says, capsys, monkeypatch):
    from training.build_index import main

    uneven = ("train/a/1", "train/a/2", "train/d/1", "test/a/1", "test/b/1", "test/c/1")
    single = ("a/1", "a/2", "a/3", "b/1", "b/2")
    for name in (
        "one/a/1",
        "one/a/2",
        "lonely/1",
        *(f"uneven/{each}" for each in uneven),
        *(f"single/{each}" for each in single),
    ):
        stripes(tmp_path / f"{name}.png", True, 0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("hello")
    for name in ("text/a/1.txt", "text/a/2.txt", "text/b/1.txt", "text/b/2.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("hello")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["build_index", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(says, line), line
    assert [
        path for path in sorted(tmp_path.rglob("*")) if path not in before and path.name != "artifacts"
    ] == []


@pytest.mark.process
def test_disk_without_room_is_one_line(pictures, tmp_path):
    full = environment() | NARROW_ON_A_FULL_DISK
    line = refused(tmp_path, "--data", str(pictures), *QUICK, "--out", "here", env=full)
    assert "File too large; make room on the disk and start again" in line
    assert list(tmp_path.iterdir()) == []  # nothing was learned yet, nothing is left


@pytest.mark.process
def test_what_changes_while_a_run_reads_is_encoded_as_it_is_hashed_or_left_out(
    narrow, pictures, tmp_path, monkeypatch
):
    from training import run as training_run
    from training.build_index import main

    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    learn, chosen = training_run.Run.train, []

    def train_and_change(self):
        chosen.extend(
            self.images.paths[position] for position in (*self.split.database[:3], self.split.queries[0])
        )
        broken, gone, other, query = (folder / path for path in chosen)
        broken.write_bytes(b"gone")
        gone.unlink()
        for path, seed in ((other, 1000), (query, 1001)):
            stripes(path, True, seed)
        return learn(self)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_run.Run, "train", train_and_change)
    monkeypatch.setattr(sys, "argv", ["build_index", "--data", "pictures", *QUICK, "--out", "here"])
    main()
    opened = artifact.open_artifact(tmp_path / "here")
    broken, gone, other, query = chosen
    reasons = {each["path"]: each["reason"] for each in opened.manifest.data["skipped"]}
    assert reasons.keys() == {broken, gone, "across/broken.png"}
    assert "changed while the run was reading it" in reasons[broken]
    assert "No such file" in reasons[gone]
    assert (opened.manifest.data["database"], opened.manifest.data["queries"]) == (52, 6)
    encoder, queries = Encoder.load(opened.encoder_path), opened.queries()
    with opened.open_catalogue() as catalogue:
        table = catalogue.codes()
        codes = dict(zip([*table.ids, *queries.ids], [*table.codes, *queries.codes], strict=True))
        items = {item.path: item for item in both_parts(catalogue)}
    assert len(codes) == 58
    for path in (other, query):  # as they are now, and not as training saw them
        content = (folder / path).read_bytes()
        assert items[path].sha256 == sha256(content).hexdigest()
        now = encoder.encode(encoder.prepare(open_image(content))[None])[0]
        assert np.unpackbits(now ^ codes[items[path].id]).sum() <= 1


@pytest.mark.process
@pytest.mark.parametrize("text", ["{", "[]", '{"backbone": "x"}', '{"labels": 5}', "null"])
def test_damaged_settings_of_a_run_are_named(tmp_path, text):
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "config.json").write_text(text)
    assert "not the settings of a run" in refused(tmp_path, "--resume", "x.partial")


@pytest.mark.process
@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, 1000),
        pytest.param({"GOMP_SPINCOUNT": "5"}, 5, marks=pytest.mark.slow),
        pytest.param({"OMP_WAIT_POLICY": "passive"}, 0, marks=pytest.mark.slow),
    ],
)
def test_threads_that_wait_soon_sleep_unless_told(given, spins):
    ours = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    shown = subprocess.run(
        [sys.executable, str(COMMAND), "--help"],
        env=environment | given | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in shown


def test_manifest_is_plain_json(built):
    manifest = json.loads((built[0] / "manifest.json").read_text())
    assert manifest["config"]["seed"] == 0
    assert set(manifest["versions"]) >= {"python", "torch", "faiss-cpu", "hebbsearch", "device"}


@pytest.mark.process
@pytest.mark.slow
def test_the_command_of_the_readme(tmp_path):
    build(tmp_path, "--backbone", "vgg11", "--rule", "swta_fh")
    # Rounding differs by processor and number of threads, and fine-tuning makes much of it: seven builds of
    # three seeds, with one thread and with two, had 0.877 to 0.951. Chance is 0.10.
    assert artifact.open_artifact(tmp_path / "artifacts" / "run-001").manifest.metrics["map"] > 0.8
