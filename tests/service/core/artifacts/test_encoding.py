"""Shards have what the service would make of the images, in the same bytes whoever made them."""

import shutil
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from index import shards
from index.artifact import ENCODER, MANIFEST, QUERIES, Artifact, ArtifactError
from index.shards import Plan, ShardError
from index.verify import faults
from index.walking import DataError
from service.core.artifacts import encoding
from service.core.artifacts.encoding import Worker
from service.core.library import Library, Outcome, Upload
from service.core.pictures.decoding import Crashed, Pool
from service.core.searcher import Searcher
from tests.service.core.artifacts.shards import bare, contents, embedding, encode, images_in, known, load
from training.nets.images import ImageError

pytestmark = pytest.mark.long

IMAGES, BROKEN = 75, ("class0/broken.png", "class1/empty.png", "notes.txt")
PARTS = 12  # of seven files each


@pytest.fixture(scope="module")
def data(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of the artifact, and files that are none. Not to be changed."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    shutil.copytree(str(artifact.manifest.data["root"]), root)
    (root / BROKEN[0]).write_bytes((root / "class0" / "000.png").read_bytes()[:60])
    (root / BROKEN[1]).write_bytes(b"")
    (root / BROKEN[2]).write_text("no image")
    return root


@pytest.fixture(scope="module")
def made(artifact: Artifact, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its shards, by one process. Not to be changed."""
    out = tmp_path_factory.mktemp("made") / "shards"
    done = encode(data, artifact.path, out)
    assert [each.number for each in done] == list(range(PARTS))
    assert sum(each.counted.images for each in done) == IMAGES
    return out


def sent(artifact: Path, data: Path) -> list[Outcome]:
    """What the service makes of the folder, with labels by folder."""
    paths = sorted(path for path in data.rglob("*") if path.is_file())
    uploads = [
        Upload(str(path.relative_to(data)), path.read_bytes(), label_of(path, data), folder=data.name)
        for path in paths
    ]
    with closing(Searcher.open(artifact, max_pixels=10**6)) as searcher:
        library = Library(searcher, max_bytes=10**6, max_pixels=10**6, keep=False)
        return [each for at in range(0, len(uploads), 64) for each in library.add(uploads[at : at + 64])]


def label_of(path: Path, data: Path) -> str | None:
    parts = path.relative_to(data).parts
    return parts[0] if len(parts) > 1 else None


def test_what_is_loaded_is_what_the_service_would_have_added(
    artifact: Artifact, data: Path, made: Path, tmp_path: Path
) -> None:
    for name in ("sent", "loaded"):
        shutil.copytree(artifact.path, tmp_path / name)
    outcomes = sent(tmp_path / "sent", data)
    load(made, tmp_path / "loaded")
    ours, theirs = (known(tmp_path / name, "pictures") for name in ("loaded", "sent"))
    assert ours == theirs and len(ours) == IMAGES
    assert sum(outcome.error is not None for outcome in outcomes) == len(BROKEN)
    assert list(faults(tmp_path / "loaded")) == []


def test_what_is_loaded_has_the_codes_that_were_built(artifact: Artifact, made: Path, tmp_path: Path) -> None:
    """The same images, indexed when the artifact was made."""
    shutil.copytree(artifact.path, tmp_path / "loaded")
    load(made, tmp_path / "loaded")
    built, ours = known(artifact.path), known(tmp_path / "loaded", "pictures")
    assert len(built) == 63 and built.keys() <= ours.keys()
    for path, (_, _, split, size, _, _, code, picture, thumbnail, vector) in built.items():
        assert ours[path][2:4] == (split, size) and ours[path][6:] == (code, picture, thumbnail, vector)


def test_embeddings_are_those_that_the_service_would_have_kept(
    artifact: Artifact, data: Path, tmp_path: Path
) -> None:
    one = embedding(artifact, tmp_path / "one", {})
    shutil.copytree(one, tmp_path / "two")
    encode(data, one, tmp_path / "shards", part_size=64)
    load(tmp_path / "shards", one)
    encode(one_image(data, tmp_path), one, tmp_path / "few")
    load(tmp_path / "few", tmp_path / "two")  # which makes its catalogue
    sent(tmp_path / "two", data)
    ours, theirs = known(one, "pictures"), known(tmp_path / "two", "pictures")
    assert len(ours) == IMAGES and ours == theirs
    assert all(isinstance(each[-1], list) and len(each[-1]) == 16 for each in ours.values())
    assert list(faults(one)) == []


def one_image(data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    # Another one than those of the data: its bytes, not its picture.
    (folder / "1.png").write_bytes((data / "class0" / "000.png").read_bytes() + b"\0")
    return folder


@pytest.mark.parametrize("world", [2, 5, PARTS])
def test_any_number_of_workers_makes_the_same_bytes(
    artifact: Artifact, data: Path, made: Path, tmp_path: Path, world: int
) -> None:
    done = encode(data, artifact.path, tmp_path / "out", *(Worker(rank, world) for rank in range(world)))
    assert contents(tmp_path / "out") == contents(made)
    assert sorted(each.number for each in done) == list(range(PARTS))


def test_what_is_there_stays_and_what_is_missing_is_made(
    artifact: Artifact, data: Path, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    for number in (0, 3, 4):
        shards.path_of(out, number).unlink()
    before = {path.name: path.stat().st_ino for path in out.iterdir()}
    done = encode(data, artifact.path, out, *(Worker(rank, 3) for rank in range(3)))
    assert contents(out) == contents(made)
    assert {each.number for each in done if each.seconds is not None} == {0, 3, 4}
    assert {name: (out / name).stat().st_ino for name in before} == before


def test_a_bad_image_is_a_row_of_the_list(made: Path) -> None:
    plan = Plan.read(made)
    reasons = dict(pair for number in range(plan.parts) for pair in shards.noted(made, number))
    assert reasons.keys() == set(BROKEN)
    assert reasons[BROKEN[1]] == "the file is empty"
    assert "truncated or damaged" in reasons[BROKEN[0]] and "known format" in reasons[BROKEN[2]]


def test_an_image_that_ends_its_decoder_is_tried_twice_and_ends_nothing(
    artifact: Artifact, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, tries = Pool.decode, list[bytes]()
    first, second = (data / "class0" / f"00{number}.png" for number in (1, 2))

    def crashing(self: Pool, content: bytes, **how: object) -> object:
        tries.append(content)
        if content == first.read_bytes() or (content == second.read_bytes() and tries.count(content) == 1):
            raise Crashed("the image's decoder crashed (SIGKILL)")
        return decode(self, content, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Pool, "decode", crashing)
    encode(data / "class0", artifact.path, tmp_path / "out", part_size=100)
    assert shards.noted(tmp_path / "out", 0)[0] == ("001.png", "the image's decoder crashed (SIGKILL)")
    assert [tries.count(each.read_bytes()) for each in (first, second)] == [2, 2]


def test_a_tar_gives_the_same_images_with_its_own_labels(
    artifact: Artifact, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tars"
    folder.mkdir()
    (tmp_path / "label").write_text("shape\n")
    with tarfile.open(folder / "0.tar", "w") as archive:
        for path in sorted(data.rglob("*.png")):
            name = path.relative_to(data).with_suffix("")
            archive.add(path, f"{name}.png")
            archive.add(tmp_path / "label", f"{name}.cls")
    encode(folder, artifact.path, tmp_path / "out")
    target = bare(artifact, tmp_path / "artifact")
    load(tmp_path / "out", target)
    encode(data, artifact.path, tmp_path / "plain")
    other = bare(artifact, tmp_path / "other")
    load(tmp_path / "plain", other)
    ours, theirs = known(target, "tars"), known(other, "pictures")
    assert {path.removeprefix("0.tar/") for path in ours} == theirs.keys()
    assert {each[0] for each in ours.values()} == {"shape"}
    assert all(
        each[1:] == (theirs[path.removeprefix("0.tar/")][1] or "given", *theirs[path[6:]][2:])
        for path, each in ours.items()
    )


def test_an_encoder_and_a_manifest_are_enough(
    artifact: Artifact, made: Path, data: Path, tmp_path: Path
) -> None:
    encode(data, bare(artifact, tmp_path / "bare"), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(made)
    (tmp_path / "bare" / ENCODER).write_bytes(b"another")
    with pytest.raises(ArtifactError, match="is not the file the artifact was made with"):
        encode(data, tmp_path / "bare", tmp_path / "other")
    with pytest.raises(ArtifactError, match=r"nothing/manifest.json: is missing"):
        encode(data, tmp_path / "nothing", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_begun_is_said_and_changes_nothing(
    artifact: Artifact, own: Artifact, data: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    for where, out, more, what in (
        (data, "new", {"workers": Worker(0, 13)}, r"WORLD_SIZE is 13, and there are 12 parts to share"),
        (data, "new", {"part_size": 0}, "--part-size is 0; give at least 1"),
        (tmp_path / "empty", "new", {}, "the folder is empty"),
        (data, data / "out", {}, "lies in the folder of the images"),
        (data, made, {"part_size": 8}, "was begun with --part-size 7, not 8"),
        (data, made, {"labels": False}, "of other names or sizes, or with other labels"),
        (data / "class0", made, {"name": "pictures"}, "was begun with 78 files, and there are 21 now"),
    ):  # fmt: skip
        workers = more.pop("workers", Worker())
        before = contents(made)
        with pytest.raises(ShardError, match=what):
            encode(where, artifact.path, tmp_path / out, workers, **more)
        assert contents(made) == before
        assert not (tmp_path / "new").exists() and not (data / "out").exists()
    with pytest.raises(DataError, match="is neither a folder nor a tar"):
        encode(data / "nothing", artifact.path, tmp_path / "new")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ShardError, match="pyarrow is needed"):
        encode(data, artifact.path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_changed_between_two_tries_is_refused(
    artifact: Artifact, data: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out"
    shutil.copytree(data / "class0", folder)
    encode(folder, artifact.path, out)
    before = contents(out)
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes() + b"\0")
    with pytest.raises(ShardError, match="was begun with files of other names or sizes"):
        encode(folder, artifact.path, out)
    (folder / "more.png").write_bytes(b"x")
    with pytest.raises(ShardError, match="was begun with 21 files, and there are 22 now"):
        encode(folder, artifact.path, out)
    assert contents(out) == before


def test_a_half_written_shard_is_said(artifact: Artifact, data: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    path = shards.path_of(out, 2)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ShardError, match=r"part-000002.parquet: is damaged or not whole .*; remove it"):
        encode(data, artifact.path, out)
    path.unlink()
    encode(data, artifact.path, out)
    assert contents(out) == contents(made)


@pytest.mark.parametrize(
    ("environment", "worker"),
    [({}, (0, 1)), ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)), ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1))],
)
def test_launchers_say_who_does_what(environment: dict[str, str], worker: tuple[int, int]) -> None:
    assert Worker.of(environment) == Worker(*worker)


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "0"}, {"WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"},
     {"RANK": "one", "WORLD_SIZE": "2"}],
)  # fmt: skip
def test_a_rank_that_is_none_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ShardError, match=r"RANK is .* and WORLD_SIZE is .*; set both"):
        Worker.of(environment)


def test_the_queries_of_the_encoder_are_not_needed(artifact: Artifact, tmp_path: Path) -> None:
    shutil.copytree(artifact.path, tmp_path / "part")
    (tmp_path / "part" / QUERIES).unlink()
    assert encoding.encoder_in(tmp_path / "part")[1] == artifact.manifest.encoder_id
    (tmp_path / "part" / MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match="build the index again"):
        encoding.encoder_in(tmp_path / "part")


def test_images_in_a_row_that_cannot_be_read_are_no_part_of_what_is_loaded(
    artifact: Artifact, tmp_path: Path
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_text("no image")
    encode(folder, artifact.path, tmp_path / "out")
    target = bare(artifact, tmp_path / "artifact")
    (brought,) = load(tmp_path / "out", target)
    assert (brought.counted.images, brought.counted.noted, images_in(target)) == (0, 3, 0)
    assert issubclass(Crashed, ImageError)
