"""Which pictures are the same: against a slow comparison with all of them, and as it changes."""

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from index.catalogue import Catalogue
from index.hamming import FaissEngine
from index.items import UNLABELLED, NewItem, Picture
from service.core.pictures.copies import (
    AS_WHOLES,
    BY_HASH,
    COMPARED,
    Near,
    NotHashed,
    Pictures,
    Query,
    without_border,
)
from service.core.pictures.windows import distances_of_parts
from tests.remote_engine import RemoteEngine
from tests.service.core.pictures.patches import asked, cropped, picture, saved
from training.nets.pdq import BITS, PLAIN, SAME, Hashes, pdq

CLASSES = ("cat", "dog")
FAR = 80


def nobody(count: int) -> Iterable[int]:
    return ()


def new_item(number: int, image: Image.Image, *, hashed: bool = True, query: bool = False) -> NewItem:
    """Every third unlabelled, the others cat and dog in turn."""
    made = asked(image)
    return NewItem(
        path=f"{number}.png",
        label=UNLABELLED if number % 3 == 0 else number % 2,
        split="query" if query else "database",
        width=image.width,
        height=image.height,
        thumbnail=made.thumbnail,
        code=None if query else np.array([number % 256], np.uint8),
        picture=Picture(made.hashes.upright.tobytes(), made.hashes.quality) if hashed else None,
    )


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    """Thirty pictures with ids from 1, each of patches of its own."""
    path = tmp_path / "catalogue.sqlite"
    with Catalogue.create(path, encoder_id="00ff", bits=8, classes=CLASSES) as catalogue:
        catalogue.add(new_item(number, picture(number)) for number in range(1, 31))
        yield catalogue


@pytest.fixture
def pictures(catalogue: Catalogue) -> Pictures:
    return Pictures(catalogue, FaissEngine)


def rows(near: Near) -> list[tuple[int, int]]:
    return list(zip(near.distances.tolist(), near.ids.tolist(), strict=True))


EDITS = {
    "as it is": lambda image: image,
    "smaller": lambda image: image.resize((70, 50), Image.Resampling.BICUBIC),
    "JPEG": lambda image: saved(image, quality=30),
    "mirrored": ImageOps.mirror,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "mirrored and turned": lambda image: ImageOps.mirror(image).transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_copy_is_found_by_its_hash(pictures: Pictures, edit: str) -> None:
    for number in (3, 17):
        near = pictures.search(asked(EDITS[edit](picture(number))), nobody, k=3)
        assert near.ids[0] == number
        assert near.distances[0] <= SAME < FAR <= near.distances[1]


@pytest.mark.parametrize("number", [4, 23])
def test_a_crop_is_found_by_a_part(pictures: Pictures, number: int) -> None:
    query = asked(cropped(picture(number), 0.2, 0.9, 0.8))
    whole = pictures.search(Query(Hashes(query.hashes.hashes, 0), query.thumbnail), nobody, k=30)
    assert dict(zip(whole.ids, whole.distances, strict=True))[number] > SAME  # the hash alone does not
    near = pictures.search(query, nobody, k=2)
    assert near.ids[0] == number
    assert near.distances[0] < FAR <= near.distances[1]


@pytest.mark.parametrize("colour", [0, 130, 255])
def test_a_border_is_left_out_of_the_hash(pictures: Pictures, colour: int) -> None:
    query = asked(ImageOps.expand(picture(4), 14, colour))
    near = pictures.search(Query(Hashes(query.hashes.hashes, 0), query.thumbnail), nobody, k=30)
    assert near.ids[0] == 4  # and no part was compared
    assert near.distances[0] < FAR <= near.distances[1]


def test_a_border_is_what_is_of_one_grey_at_the_edges() -> None:
    inner = np.arange(30, dtype=np.float32).reshape(5, 6) * 8
    assert np.array_equal(without_border(np.pad(inner, ((1, 2), (0, 3)), constant_values=9)), inner)
    for whole in (inner, np.zeros((4, 4), np.float32), np.pad(inner, 9)):
        assert np.array_equal(without_border(whole), whole)


def test_another_picture_is_near_none(pictures: Pictures) -> None:
    near = pictures.search(asked(picture(99)), nobody, k=30)
    assert near.distances.min() >= FAR
    assert pictures.search(asked(picture(99)), nobody, k=30, max_distance=SAME).ids.tolist() == []


def test_parts_of_a_plain_picture_are_not_looked_for(pictures: Pictures, catalogue: Catalogue) -> None:
    """Each plain part of a picture would do."""
    plain = Image.new("L", (128, 96), 90)
    plain.paste(10, (0, 0, 30, 30))
    query = asked(plain)
    assert query.hashes.quality < PLAIN
    assert rows(pictures.search(query, nobody, k=30)) == slow(catalogue, query)[0]


def test_a_picture_whose_thumbnail_is_gone_is_found_by_its_hash(
    pictures: Pictures, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else deleted it between the two steps."""
    kept = catalogue.pictures.thumbnails
    monkeypatch.setattr(
        catalogue.pictures,
        "thumbnails",
        lambda ids: {id_: each for id_, each in kept(ids).items() if id_ != 4},
    )
    assert pictures.search(asked(picture(4)), nobody, k=1).ids.tolist() == [4]
    near = pictures.search(asked(cropped(picture(4), 0.2, 0.9, 0.8)), nobody, k=30)
    assert near.distances.min() > SAME
    assert 4 in near.ids


# --- the slow way ----------------------------------------------------------------------------------


def slow(
    catalogue: Catalogue,
    query: Query,
    *,
    k: int = 10**9,
    max_distance: int = BITS,
    labels: Collection[int] = (),
    without: int | None = None,
) -> tuple[list[tuple[int, int]], int]:
    """Rows (distance, id) and the ties at the cut, by all eight hashes of all, and all their parts."""
    least: dict[int, int] = {}
    kept = catalogue.pictures.of(catalogue.codes().ids.tolist())
    for item in catalogue.page(count=10**6):
        index = UNLABELLED if item.label is None else catalogue.classes.index(item.label)
        if item.id == without or (labels and index not in labels):
            continue
        stored = kept[item.id].hash
        least[item.id] = min(
            bin(int.from_bytes(stored) ^ int.from_bytes(each.tobytes())).count("1")
            for each in query.hashes.hashes
        )
    if query.hashes.quality >= PLAIN:
        others = [id_ for id_, distance in least.items() if distance > SAME]
        thumbnails = catalogue.pictures.thumbnails(others)
        shown = [opened(thumbnails[id_]) for id_ in others]
        for id_, distance in zip(others, distances_of_parts(opened(query.thumbnail), shown), strict=True):
            least[id_] = min(least[id_], int(distance))
    found = sorted((distance, id_) for id_, distance in least.items() if distance <= max_distance)[:k]
    last = found[-1][0] if found else None
    return found, sum(distance == last for distance in least.values())


def opened(webp: bytes) -> Image.Image:
    return Image.open(BytesIO(webp)).convert("L")


@pytest.mark.parametrize("labels", [(), (0,), (1, UNLABELLED)])
@pytest.mark.parametrize("without", [None, 7])
@pytest.mark.parametrize(("k", "max_distance"), [(1, BITS), (100, BITS), (100, 110)])
def test_the_same_as_comparing_all(
    pictures: Pictures,
    catalogue: Catalogue,
    labels: tuple[int, ...],
    without: int | None,
    k: int,
    max_distance: int,
) -> None:
    assert len(catalogue.codes().ids) < AS_WHOLES  # so that parts of all are compared
    wanted = {"k": k, "max_distance": max_distance, "labels": labels, "without": without}
    for image in (picture(7), cropped(picture(7), 0.1, 0.4, 0.8), picture(99)):
        near = pictures.search(asked(image), nobody, **wanted)
        assert (rows(near), near.ties_at_cut) == slow(catalogue, asked(image), **wanted)


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Catalogue]:
    """Six hundred hashes near one of eight, many as near as others; more than a search looks at."""
    random = np.random.default_rng(0)
    eight = random.integers(0, 256, (8, 32), np.uint8)
    image = new_item(1, picture(1))

    def near(which: int) -> Picture:
        bits = np.unpackbits(eight[which])
        bits[random.choice(BITS, random.integers(0, 4), replace=False)] ^= 1
        return Picture(np.packbits(bits).tobytes(), 80)

    path = tmp_path / "crowded.sqlite"
    with Catalogue.create(path, encoder_id="00ff", bits=8, classes=CLASSES) as catalogue:
        catalogue.add(
            replace(image, path=f"{number}.png", label=number % 2, picture=near(number % 8))
            for number in range(600)
        )
        yield catalogue


@pytest.mark.parametrize("k", [1, 30, 599])
@pytest.mark.parametrize("labels", [(), (1,)])
@pytest.mark.parametrize("quality", [0, 100])
def test_of_many_ties_the_lowest_ids_and_all_are_counted(
    crowded: Catalogue, k: int, labels: tuple[int, ...], quality: int
) -> None:
    hashes = np.stack([np.frombuffer(crowded.pictures.of([id_])[id_].hash, np.uint8) for id_ in range(1, 9)])
    query = Query(Hashes(hashes, quality), crowded.thumbnail(1))
    pictures = Pictures(crowded, FaissEngine)
    near = pictures.search(query, nobody, k=k, labels=labels, without=8)
    wanted, ties = slow(crowded, query, k=k, labels=labels, without=8)
    assert (rows(near), near.ties_at_cut) == (wanted, ties)


def test_ties_are_counted_that_are_only_seen_from_afar(tmp_path: Path) -> None:
    """The last ten of a hundred that are as near stand behind the others, and in front from another side."""
    image = new_item(1, picture(1))
    one_bit = np.packbits(np.eye(100, BITS, dtype=np.uint8)[::-1], axis=1)
    afar = np.packbits(np.arange(BITS) < 10)
    query = Query(Hashes(np.stack([np.zeros(32, np.uint8), *[afar] * 7]), 0), image.thumbnail)
    with Catalogue.create(
        tmp_path / "catalogue.sqlite", encoder_id="00ff", bits=8, classes=CLASSES
    ) as catalogue:
        catalogue.add(
            replace(image, path=f"{number}.png", picture=Picture(each.tobytes(), 80))
            for number, each in enumerate(one_bit)
        )
        near = Pictures(catalogue, FaissEngine).search(query, nobody, k=1)
        assert (rows(near), near.ties_at_cut) == ([(1, 1)], 100) == slow(catalogue, query, k=1)


def test_parts_are_compared_of_what_shows_the_like(crowded: Catalogue) -> None:
    """Where the hashes lead elsewhere."""
    whole = picture(50)
    far = Picture(b"\xff" * 32, 90)  # 128 bits from each hash that is asked with
    (id_,) = crowded.add([replace(new_item(700, whole), picture=far)])
    part = asked(cropped(whole, 0.3, 0.3, 0.75))
    misled = Hashes(
        np.stack([np.frombuffer(crowded.pictures.of([n])[n].hash, np.uint8) for n in range(1, 9)]), 90
    )
    flipped = Query(Hashes(misled.hashes ^ np.uint8(0x11), 90), part.thumbnail)  # 64 bits off: none is a copy
    counts: list[int] = []

    def alike(count: int) -> Iterable[int]:
        counts.append(count)
        return [3, id_, 99_999]

    pictures = Pictures(crowded, FaissEngine)
    assert id_ not in pictures.search(flipped, nobody, k=1).ids
    near = pictures.search(flipped, alike, k=1)
    assert near.ids.tolist() == [id_]
    assert near.distances[0] < FAR
    assert counts == [COMPARED - BY_HASH - AS_WHOLES]
    assert pictures.search(flipped, alike, k=1, labels=[1]).ids.tolist() != [id_]  # it is a cat
    assert pictures.search(flipped, alike, k=1, without=id_).ids.tolist() != [id_]


@pytest.mark.parametrize("side", range(4))
def test_among_many_a_whole_is_found_by_a_hash_that_it_may_have(tmp_path: Path, side: int) -> None:
    """Of which a third of one side was cut off, where nothing shows the like."""
    random, image = np.random.default_rng(side), new_item(1, picture(1))
    path = tmp_path / "many.sqlite"
    with Catalogue.create(path, encoder_id="00ff", bits=8, classes=CLASSES) as catalogue:
        hashes = [pdq(random.integers(0, 256, (8, 8)).astype(np.float32)).upright for _ in range(2000)]
        catalogue.add(
            replace(image, path=f"{number}.png", picture=Picture(each.tobytes(), 80))
            for number, each in enumerate(hashes)
        )
        wanted = [catalogue.add([new_item(3000 + number, picture(number))])[0] for number in range(40, 46)]
        pictures, found = Pictures(catalogue, FaissEngine), list[int]()
        for number, id_ in zip(range(40, 46), wanted, strict=True):
            box = [(72, 0, 240, 180), (0, 54, 240, 180), (0, 0, 168, 180), (0, 0, 240, 126)][side]
            part = asked(picture(number, 240, 180).crop(box))
            near = pictures.search(part, nobody, k=1)
            found += [id_] if near.ids[0] == id_ and near.distances[0] < FAR else []
    assert len(found) >= 5


# --- as a catalogue changes ------------------------------------------------------------------------


@pytest.fixture(params=[FaissEngine, RemoteEngine])
def following(request: pytest.FixtureRequest, catalogue: Catalogue) -> Pictures:
    pictures = Pictures(catalogue, request.param)
    assert found(pictures, 99) == []
    return pictures


def found(pictures: Pictures, number: int, *labels: int) -> list[int]:
    return pictures.search(asked(picture(number)), nobody, k=9, max_distance=SAME, labels=labels).ids.tolist()


def test_what_comes_goes_and_comes_back_is_followed(following: Pictures, catalogue: Catalogue) -> None:
    (id_,) = catalogue.add([new_item(100, picture(99))])
    assert found(following, 99) == [id_]
    catalogue.throw([id_])
    assert found(following, 99) == []
    catalogue.take_out([id_])
    assert found(following, 99) == [id_]
    assert found(following, 99, 0) == [id_]  # a cat
    catalogue.change(id_, label="dog")
    assert (found(following, 99, 0), found(following, 99, 1)) == ([], [id_])
    catalogue.remove([id_])
    assert found(following, 99) == []


def test_an_image_without_a_hash_is_told_until_it_has_one(following: Pictures, catalogue: Catalogue) -> None:
    (id_,) = catalogue.add([new_item(100, picture(99), hashed=False)])
    with pytest.raises(NotHashed, match=r"1 images .* hebbsearch upgrade"):
        found(following, 99)
    made = asked(picture(99)).hashes
    catalogue.pictures.keep({id_: Picture(made.upright.tobytes(), made.quality)})
    assert found(following, 99) == [id_]


def test_an_earlier_catalogue_has_none(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.sqlite"
    with Catalogue.create(path, encoder_id="00ff", bits=8, classes=CLASSES) as catalogue:
        catalogue.add(new_item(number, picture(number), hashed=number == 3) for number in range(1, 6))
        pictures = Pictures(catalogue, FaissEngine)
        for ask in (lambda: found(pictures, 3), lambda: pictures.groups(0, most=10**6)):
            with pytest.raises(NotHashed, match="4 images come from an earlier version"):
                ask()
        with pytest.raises(NotHashed, match="1 images"):
            pictures.hashed(1)
        assert pictures.hashed(3).hashes.quality >= PLAIN


def test_an_image_and_a_held_out_one_can_be_asked_with(pictures: Pictures, catalogue: Catalogue) -> None:
    (held,) = catalogue.add([new_item(101, ImageOps.mirror(picture(12)), query=True)])
    for id_, image in ((5, picture(5)), (held, ImageOps.mirror(picture(12)))):
        query = pictures.hashed(id_)
        assert query.thumbnail == catalogue.thumbnail(id_)
        assert np.array_equal(query.hashes.upright, asked(image).hashes.upright)
        assert query.hashes.quality == asked(image).hashes.quality
    assert pictures.search(pictures.hashed(held), nobody, k=1).ids.tolist() == [12]
    assert 5 not in pictures.search(pictures.hashed(5), nobody, k=30, without=5).ids
    catalogue.throw([5])
    for unknown in (5, 999):
        with pytest.raises(KeyError):
            pictures.hashed(unknown)


def test_groups_of_copies(pictures: Pictures, catalogue: Catalogue) -> None:
    plain = Image.new("L", (128, 96), 90)
    smaller, again = catalogue.add(
        new_item(number, image) for number, image in ((200, picture(4).resize((96, 72))), (201, picture(9)))
    )
    catalogue.add(new_item(number, plain) for number in (202, 203))
    groups, contents, plain_ones = pictures.groups(SAME, most=10**6)
    assert sorted(group.tolist() for group in groups) == [[4, smaller], [9, again]]
    assert contents.revision == catalogue.revision
    assert plain_ones == 2
    catalogue.throw([again])
    assert [group.tolist() for group in pictures.groups(SAME, most=10**6)[0]] == [[4, smaller]]


def test_mirrored_and_turned_ones_are_in_the_group(pictures: Pictures, catalogue: Catalogue) -> None:
    image = picture(4)
    ways = [EDITS[edit](image) for edit in ("mirrored", "turned", "mirrored and turned", "smaller")]
    added = catalogue.add(new_item(number, way) for number, way in enumerate(ways, 200))
    (group,) = pictures.groups(SAME, most=10**6)[0]
    assert group.tolist() == [4, *added]
    catalogue.throw(list(added))
    exact = catalogue.add([new_item(300, picture(9).transpose(Image.Transpose.TRANSPOSE))])
    assert [group.tolist() for group in pictures.groups(0, most=0)[0]] == [[9, *exact]]


def test_two_threads_get_the_answers_of_one(pictures: Pictures, catalogue: Catalogue) -> None:
    """While a third one adds and deletes."""
    stop = Event()

    def ask(number: int) -> list[NDArray[np.int64]]:
        return [pictures.search(asked(picture(number)), nobody, k=1).ids for _ in range(4)]

    def change() -> None:
        while not stop.is_set():
            catalogue.throw(catalogue.add([new_item(300, picture(300))]))

    with ThreadPoolExecutor(3) as threads:
        changing = threads.submit(change)
        try:
            answers = list(threads.map(ask, [3, 11]))
        finally:
            stop.set()
        changing.result()
    assert [{int(ids[0]) for ids in each} for each in answers] == [{3}, {11}]
