"""The searcher against plain numpy, without HTTP."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sqlalchemy import Engine, event

from index.artifact import Artifact, ArtifactError
from index.catalogue import Catalogue
from index.codes import hamming
from index.conventions import Denominator, Ties
from index.engines import making
from index.evaluation import average_precision
from index.items import UNLABELLED, Item, NewItem
from index.originals import Originals
from service.core.measuring import NothingToMeasure, measure
from service.core.pictures.originals import NoOriginal, original_of
from service.core.searcher import SPARE, TRIES, Searcher, UnknownLabel
from service.core.sharing import Sharing
from service.routes.evaluation import evaluate
from service.schemas.evaluation import Evaluation, EvaluationParameters
from tests.index.settled import SettledEngine
from tests.remote_engine import RemoteEngine
from tests.samples import CLASSES, PER_CLASS, QUERIES_PER_CLASS, UNLABELLED_ITEMS, draw_artifact
from tests.service.hostile import noise, saved
from tests.training.nets.profiles import rgb_profile
from training.nets.encoder import Encoder
from training.nets.images import AS_SHOWN, BEFORE, Reading, TooManyPixels
from training.nets.pretrained import MissingPackage

LIMIT = 1_000_000


@pytest.fixture(scope="module")
def searcher(artifact: Artifact) -> Iterator[Searcher]:
    searcher = Searcher(artifact, max_pixels=LIMIT)
    yield searcher
    searcher.close()


def test_opening_reads_the_codes_once(own: Artifact) -> None:
    """Of a million images that is most of what a start takes."""
    asked: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        searcher = Searcher(own, max_pixels=LIMIT)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert sum("codes.code" in statement for statement in asked) == 1
    table, snapshot = searcher.catalogue.codes(), searcher.snapshot()
    assert (snapshot.ids == table.ids).all() and (snapshot.labels == table.labels).all()
    assert (snapshot.revision, snapshot.classes) == (searcher.catalogue.revision, CLASSES)
    searcher.close()


def original(searcher: Searcher, item_id: int) -> Path:
    return searcher.original_of(searcher.catalogue.get(item_id))


def file_of(searcher: Searcher, item_id: int) -> bytes:
    return original(searcher, item_id).read_bytes()


def evaluation(searcher: Searcher, **asked: object) -> Evaluation:
    return evaluate(searcher, EvaluationParameters.model_validate(asked))


def reference(searcher: Searcher, image: bytes, labels: tuple[str, ...] = ()) -> list[tuple[int, int]]:
    """All eligible (distance, id), sorted."""
    table = searcher.catalogue.codes()
    wanted = [CLASSES.index(label) for label in labels] or [UNLABELLED, 0, 1, 2]
    distances = hamming(searcher.search(image, k=1).code, table.codes)[0].tolist()
    rows = zip(distances, table.ids.tolist(), table.labels.tolist(), strict=True)
    return sorted((distance, item_id) for distance, item_id, label in rows if label in wanted)


@pytest.mark.parametrize("labels", [(), ("square",), ("circle", "<b>cross</b>")])
@pytest.mark.parametrize("k", [1, 7, 1000])
@pytest.mark.parametrize("max_distance", [None, 0, 12])
@pytest.mark.parametrize("spare", [1, SPARE])
def test_search_equals_brute_force(
    searcher: Searcher,
    labels: tuple[str, ...],
    k: int,
    max_distance: int | None,
    spare: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.core.searcher.SPARE", spare)
    for item_id in (1, 25, 62):
        image = file_of(searcher, item_id)
        answer = searcher.search(image, k=k, max_distance=max_distance, labels=labels)
        eligible = reference(searcher, image, labels)
        near = [row for row in eligible if max_distance is None or row[0] <= max_distance]
        assert [(match.distance, match.id) for match in answer.matches] == near[:k]
        last = answer.matches[-1].distance if answer.matches else None
        assert answer.ties_at_cut == sum(distance == last for distance, _ in eligible)


def test_an_engine_on_another_machine_answers_the_same(own: Artifact, searcher: Searcher) -> None:
    elsewhere = Searcher(own, max_pixels=LIMIT, engine=lambda bits, _: RemoteEngine(bits))
    for labels in ((), ("square",)):
        for item_id in (1, 25, 62):
            asked = {"k": 7, "max_distance": 90, "labels": labels}
            image = file_of(searcher, item_id)
            here, there = searcher.search(image, **asked), elsewhere.search(image, **asked)
            assert (here.matches, here.ties_at_cut) == (there.matches, there.ties_at_cut)
            wanted = searcher.wanted(7, labels=labels)
            assert searcher.similar(item_id, wanted).matches == elsewhere.similar(item_id, wanted).matches
    nearest = elsewhere.search(file_of(searcher, 1), k=1).matches[0].id
    elsewhere.catalogue.change(nearest, label="square")
    assert elsewhere.search(file_of(searcher, 1), k=1, labels=["square"]).matches[0].id == nearest
    elsewhere.catalogue.remove([nearest])
    assert elsewhere.search(file_of(searcher, 1), k=1).matches[0].id != nearest
    elsewhere.close()


def test_an_inexact_engine_says_so_and_copies_are_searched_exactly(
    own: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(SettledEngine):
        def __init__(self, bits: int, *, wanted: float) -> None:
            super().__init__(bits, wanted=wanted, least=20)

    monkeypatch.setattr("index.engines.IvfEngine", Small)
    monkeypatch.setattr("index.ivf.WORTH", 1)
    exact = Searcher.open(own.path, max_pixels=LIMIT, engine=making("flat", recall=1))
    inexact = Searcher.open(own.path, max_pixels=LIMIT, engine=making("ivf", recall=1))
    assert (exact.exact, exact.recall) == (True, None)
    assert not inexact.exact and inexact.recall is not None
    assert inexact.recall.at_10 == 1  # as all cells are searched
    found, all_ = (each.search(file_of(exact, 25), k=9) for each in (inexact, exact))
    assert (found.exact, all_.exact) == (False, True)
    assert (found.matches, found.ties_at_cut) == (all_.matches, all_.ties_at_cut)
    assert inexact.pictures._engine.exact
    exact.close()
    inexact.close()


@pytest.mark.parametrize("spare", [1, SPARE])
def test_similar_leaves_out_the_image_itself(
    own: Artifact, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And counts no tie for it, wherever it stands among images of the same code."""
    monkeypatch.setattr("service.core.searcher.SPARE", spare)
    searcher = Searcher(own, max_pixels=LIMIT)
    code = searcher.catalogue.code(30)[0]
    twins = [NewItem(f"{n}.png", n % 2, "database", 1, 1, b"", code) for n in range(6)]
    alike = [30, *searcher.catalogue.add(twins)]
    for item_id in (30, alike[-1]):
        for k in (1, 3, 6):
            answer = searcher.similar(item_id, searcher.wanted(k))
            others = [other for other in alike if other != item_id]
            assert [match.id for match in answer.matches] == others[:k]
            assert (answer.matches[-1].distance, answer.ties_at_cut) == (0, 6)
    labelled = searcher.similar(alike[-1], searcher.wanted(1, labels=["square"]))  # it is a square itself
    assert labelled.ties_at_cut == 2 + (searcher.catalogue.get(30).label == "square")
    labelled = searcher.similar(alike[-1], searcher.wanted(1, labels=["circle"]))
    assert labelled.ties_at_cut == 3 + (searcher.catalogue.get(30).label == "circle")
    searcher.close()


def test_an_answer_is_that_of_one_revision(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a change comes between each time that it is tried."""
    searcher = Searcher(own, max_pixels=LIMIT)
    image = file_of(searcher, 5)
    nearest = searcher.search(image, k=1).matches[0].id
    engine, labels = searcher._engine, ["circle", "square"]
    search, tried = engine.search, list[int]()

    def changed_meanwhile(*asked: Any, **how: Any) -> Any:
        found = search(*asked, **how)
        if len(tried) < TRIES:  # then nobody may change it any more
            tried.append(engine.revision)
            searcher.catalogue.change(nearest, label=labels[len(tried) % 2])
            searcher.snapshot()
        return found

    monkeypatch.setattr(engine, "search", changed_meanwhile)
    match = searcher.search(image, k=1).matches[0]
    assert len(tried) == TRIES
    assert (match.id, match.label) == (nearest, searcher.catalogue.get(nearest).label)
    searcher.close()


def test_questions_answered_together_are_answered_as_alone(searcher: Searcher) -> None:
    asked = [
        {"k": k, "max_distance": max_distance, "labels": labels}
        for k in (1, 7, 1000)
        for max_distance in (None, 0, 12)
        for labels in ((), ("square",), ("circle", "square"), ("square", "circle"))
    ]
    images = [file_of(searcher, 1 + number) for number in range(len(asked))]
    alone = [searcher.search(image, **each) for image, each in zip(images, asked, strict=True)]
    together = searcher.answer(
        [searcher.prepare(image, **each) for image, each in zip(images, asked, strict=True)]
    )
    assert len({answer.code.tobytes() for answer in alone}) > 20, "the queries must be told apart"
    for one, other in zip(alone, together, strict=True):
        assert one.code.tolist() == other.code.tolist()
        assert (one.matches, one.ties_at_cut) == (other.matches, other.ties_at_cut)


def test_matches_say_what_they_are(searcher: Searcher) -> None:
    matches = searcher.search(file_of(searcher, 1), k=1000).matches
    for match in matches:
        item = searcher.catalogue.get(match.id)
        assert (match.label, match.similarity) == (item.label, 1 - match.distance / 256)
        assert (match.path, match.folder) == (item.path, item.folder)
    assert sum(match.label is None for match in matches) == UNLABELLED_ITEMS
    assert len(matches) == len(CLASSES) * PER_CLASS + UNLABELLED_ITEMS


def test_what_is_removed_while_it_is_ranked_has_no_path(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = searcher.catalogue.paths
    monkeypatch.setattr(
        searcher.catalogue, "paths", lambda ids: {id_: at for id_, at in there(ids).items() if id_ != 5}
    )
    matches = searcher.search(file_of(searcher, 1), k=1000).matches
    assert [match.id for match in matches if match.path is None] == [5]


def test_an_indexed_file_finds_itself(searcher: Searcher) -> None:
    for item_id in (1, 30, 61):
        nearest = searcher.search(file_of(searcher, item_id), k=1000, max_distance=0).matches
        assert item_id in [match.id for match in nearest]


def test_unknown_label(searcher: Searcher, unlabelled_artifact: Artifact) -> None:
    with pytest.raises(UnknownLabel, match="'hexagon' is unknown; known are circle, square, <b>cross</b>"):
        searcher.search(file_of(searcher, 1), k=1, labels=["circle", "hexagon"])
    other = Searcher(unlabelled_artifact, max_pixels=LIMIT)
    with pytest.raises(UnknownLabel, match="has no labels"):
        other.search(file_of(searcher, 1), k=1, labels=["circle"])
    other.close()


def test_too_many_pixels(artifact: Artifact) -> None:
    searcher = Searcher(artifact, max_pixels=24 * 24 - 1)
    with pytest.raises(TooManyPixels, match="24 × 24"):
        searcher.search(file_of(searcher, 1), k=1)
    searcher.close()


def test_fewer_pixels_can_be_asked_for_but_not_more(artifact: Artifact) -> None:
    searcher = Searcher(artifact, max_pixels=24 * 24)
    image = file_of(searcher, 1)
    with pytest.raises(TooManyPixels):
        searcher.prepare(image, k=1, max_pixels=24 * 24 - 1)
    searcher.prepare(image, k=1, max_pixels=24 * 24)
    large = BytesIO()
    Image.new("RGB", (24, 25)).save(large, "PNG")
    with pytest.raises(TooManyPixels):
        searcher.prepare(large.getvalue(), k=1, max_pixels=10**9)
    searcher.close()


def test_cores_are_divided_among_those_who_compute() -> None:
    sharing = Sharing(4)
    with sharing.share() as first, sharing.share() as second, sharing.share() as third:
        assert (first, second, third) == (4, 2, 1)
        with sharing.share(), sharing.share() as more_than_there_are:
            assert more_than_there_are == 1
    with pytest.raises(ZeroDivisionError), sharing.share():
        _ = 1 / 0
    with sharing.share() as alone_again:
        assert alone_again == 4


def test_the_number_of_threads_changes_no_code(searcher: Searcher) -> None:
    pixels = torch.stack([searcher.prepare(file_of(searcher, 1 + n), k=1).pixels for n in range(40)])
    codes = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        assert torch.get_num_threads() == threads
        codes.append(searcher._encoder.encode(pixels))
    assert codes[0].tolist() == codes[1].tolist()


def test_a_changed_catalogue_is_seen(own: Artifact) -> None:
    searcher = Searcher(own, max_pixels=LIMIT)
    image = file_of(searcher, 5)
    before = evaluation(searcher)
    with Catalogue.open(own.path / "catalogue.sqlite") as catalogue:
        new = NewItem("x.png", 1, "database", 1, 1, b"", searcher.search(image, k=1).code[0])
        (new_id,) = catalogue.add([new])
    found = searcher.search(image, k=1000, max_distance=0).matches
    assert new_id in [match.id for match in found]
    after = evaluation(searcher)
    assert after.definition.items == before.definition.items + 1
    assert after.map != before.map
    searcher.catalogue.change(new_id, label="new class")
    (match,) = searcher.search(image, k=9, labels=["new class"]).matches
    assert (match.id, match.label, match.distance) == (new_id, "new class", 0)
    assert evaluation(searcher).per_class[-1].label == "new class"
    searcher.catalogue.remove([new_id])
    found = searcher.search(image, k=1000, max_distance=0).matches
    assert new_id not in [match.id for match in found]
    assert evaluation(searcher).map == before.map
    searcher.close()
    Searcher.open(own.path, max_pixels=LIMIT).close()  # with a class that the training did not know


def test_a_change_is_taken_in_without_reading_the_whole_catalogue(
    own: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = Searcher(own, max_pixels=LIMIT)
    revision, asked = searcher.snapshot().revision, list[int]()
    changes = searcher.catalogue.changes
    monkeypatch.setattr(searcher.catalogue, "changes", lambda since: (asked.append(since), changes(since))[1])
    searcher.catalogue.change(5, label=0)
    assert searcher.snapshot().labels[4] == 0
    assert asked == [revision]
    searcher.close()


@pytest.mark.parametrize("denominator", ["min", "retrieved"])
@pytest.mark.parametrize("ties", ["expected", "order"])
@pytest.mark.parametrize("k", [None, 5])
def test_evaluation_is_that_of_index(
    searcher: Searcher, k: int | None, ties: Ties, denominator: Denominator
) -> None:
    queries, table = searcher.artifact.queries(), searcher.catalogue.codes()
    assert queries is not None
    labelled = table.labels >= 0
    scores = average_precision(
        queries.codes,
        queries.labels,
        table.codes[labelled],
        table.labels[labelled],
        k=k,
        ties=ties,
        denominator=denominator,
    )
    found = evaluation(searcher, k=k, ties=ties, denominator=denominator)
    assert found.map == found.aps.mean == pytest.approx(scores.mean(), abs=1e-12)
    assert found.aps.std == pytest.approx(scores.std(), abs=1e-12)
    assert found.aps.median == pytest.approx(np.median(scores), abs=1e-12)
    assert found.aps.p10 <= found.aps.median <= found.aps.p90
    for label, each in enumerate(found.per_class):
        assert each.label == CLASSES[label]
        assert each.aps == pytest.approx(scores[queries.labels == label].mean(), abs=1e-12)
        assert (each.queries, each.items) == (QUERIES_PER_CLASS, PER_CLASS)


def test_definition(searcher: Searcher) -> None:
    definition = evaluation(searcher, k=5).definition
    assert (definition.queries, definition.dropped_queries) == (len(CLASSES) * QUERIES_PER_CLASS, 0)
    assert (definition.items, definition.unlabelled_items) == (len(CLASSES) * PER_CLASS, UNLABELLED_ITEMS)
    assert definition.labels == "labels.csv", "where the file lay is nobody's business"
    assert (definition.rule, definition.backbone, definition.bits) == ("none", "conv6", 256)
    assert definition.encoder_id == searcher.artifact.manifest.encoder_id
    assert definition.artifact == "artifact"
    for part in ("12 held-out queries", "first 5", "60 labelled images", "3 indexed images have no label"):
        assert part in definition.text


def test_evaluated_once_under_concurrency(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(kwargs)
        time.sleep(0.1)  # long enough for all threads to arrive
        return average_precision(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("service.core.measuring.average_precision", counted)
    threads = [threading.Thread(target=measure, args=[searcher], kwargs={"k": 17 + i % 2}) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(call["k"] for call in calls) == [17, 18]


def test_evaluations_kept_are_bounded(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.core.sharing.RESULTS", 3)
    for k in range(1, 9):
        assert evaluation(searcher, k=k).definition.k == k
    assert len(searcher._remembered._results) <= 3


def test_nothing_to_measure(unlabelled_artifact: Artifact) -> None:
    searcher = Searcher(unlabelled_artifact, max_pixels=LIMIT)
    with pytest.raises(NothingToMeasure, match="without labels"):
        evaluation(searcher)
    searcher.close()


def test_original_behind_a_link_is_the_file_that_was_indexed(own: Artifact, tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "class0").rename(tmp_path / "disk")
    (root / "class0").symlink_to(tmp_path / "disk")
    content = (tmp_path / "disk" / "000.png").read_bytes()
    item = Item(1, "class0/000.png", None, "database", 24, 24, sha256=sha256(content).hexdigest())
    kept = Originals(tmp_path / "none")
    assert original_of(own, kept, item).read_bytes() == content
    for other in (replace(item, path="class0/001.png"), replace(item, sha256=None)):
        with pytest.raises(NoOriginal, match="is not the file that was indexed"):
            original_of(own, kept, other)


def test_original_stays_in_its_folder(own: Artifact, tmp_path: Path) -> None:
    searcher = Searcher(own, max_pixels=LIMIT)
    path = original(searcher, 1)
    assert path.is_relative_to(tmp_path / "images")
    another_image = original(searcher, 2).read_bytes()
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    path.unlink()
    with pytest.raises(NoOriginal, match="no longer there"):
        original(searcher, 1)
    path.symlink_to(secret)
    with pytest.raises(NoOriginal, match="outside the indexed folder is not the file that was indexed"):
        original(searcher, 1)
    secret.write_bytes(another_image)  # nor is any other image
    with pytest.raises(NoOriginal, match="outside the indexed folder is not the file that was indexed"):
        original(searcher, 1)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(NoOriginal, match="no longer there"):
        original(searcher, 1)
    path.unlink()
    path.mkdir()
    with pytest.raises(NoOriginal, match="not a file"):
        original(searcher, 1)
    with pytest.raises(KeyError):
        original(searcher, 10_000)
    searcher.close()


def test_only_images_are_given_out(own: Artifact) -> None:
    searcher = Searcher(own, max_pixels=LIMIT)
    path = original(searcher, 1)
    path.write_text("root:x:0:0")
    with pytest.raises(NoOriginal, match="not an image any more"):
        original(searcher, 1)
    searcher.close()


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "nul\0.png"])
def test_original_does_not_trust_the_catalogue(own: Artifact, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    searcher = Searcher(own, max_pixels=LIMIT)
    code = searcher.catalogue.codes().codes[0]
    (item_id,) = searcher.catalogue.add([NewItem(path, 0, "database", 1, 1, b"", code)])
    with pytest.raises(NoOriginal):
        original(searcher, item_id)
    searcher.close()


def test_wrong_encoder_is_refused(own: Artifact) -> None:
    (own.path / "encoder.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match=r"encoder\.safetensors"):
        Searcher.open(own.path, max_pixels=LIMIT)


@pytest.mark.parametrize("reading", [AS_SHOWN, BEFORE, Reading(grey_bits=12)])
def test_images_are_read_by_the_rule_of_the_artifact(tmp_path: Path, reading: Reading) -> None:
    """Its codes were made by it, so that those of new images compare with them."""
    picture = noise(32, 32)
    wide = saved(picture, icc_profile=rgb_profile("ProPhoto"))
    values = np.random.default_rng(0).integers(0, 2**10, (32, 32), np.uint16)
    deep = saved(Image.fromarray(values), "TIFF")
    with closing(
        Searcher(draw_artifact(tmp_path, labels=False, seed=0, reading=reading), max_pixels=LIMIT)
    ) as searcher:
        pixels = searcher.prepare(wide, k=1).pixels.permute(1, 2, 0).numpy()
        grey = searcher.prepare(deep, k=1).pixels[0].numpy()
    assert np.array_equal(pixels, np.asarray(picture)) == (reading == BEFORE)
    white = {AS_SHOWN: 65535, BEFORE: 1023, Reading(grey_bits=12): 4095}[reading]
    np.testing.assert_allclose(grey, values * (255 / white), atol=1)


def test_an_encoder_whose_package_is_missing_says_how_it_is_installed(
    own: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: Path) -> Encoder:
        raise MissingPackage("timm is needed and not here; pip install 'hebbsearch[pretrained]'")

    monkeypatch.setattr(Encoder, "load", missing)
    with pytest.raises(ArtifactError) as caught:
        Searcher.open(own.path, max_pixels=10**6)
    assert str(caught.value) == (
        f"{own.path}/encoder.safetensors: timm is needed and not here; pip install 'hebbsearch[pretrained]'"
    )
