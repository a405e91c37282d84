"""Lists of items, against plain Python over all of them."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from index.catalogue import Catalogue
from index.items import UNLABELLED, File, Item, NewItem
from index.sorting import Sort
from index.tables.doubts import Doubt
from index.tables.listing import Listing
from tests.index.catalogues import Place, change, in_a_file, new_item, read_only

APPLES = "Äpfel.png", "a\u0308pfel.png", "ÄPFEL.png"
NAMES = ("Poppy_1.png", "poppy 2.PNG", "50%.png", "50 of_them.png", *APPLES)
PARTS = "poppy", "POPPY_", "%", "_", "0%.p", "a/", "/", "äpfel", "ÄPFEL", "A\u0308pf", "x"
LABELS = ("cat", "Dog", "eel")


@pytest.fixture
def catalogue(path: Place) -> Iterator[Catalogue]:
    """Sixty items and five queries at random: equal paths, times and confidences, and items without each."""
    random = np.random.default_rng(3)

    def drawn(number: int, split: str) -> NewItem:
        return new_item(
            number,
            path=f"{'ab'[random.integers(2)]}/{NAMES[random.integers(len(NAMES))]}",
            label=int(random.integers(UNLABELLED, 3)) if random.random() < 0.4 else UNLABELLED,
            split=split,
            code=new_item(number).code if split == "database" else None,
            added=int(random.integers(1, 9)),
            file=File(bytes([number]) * 32, folder="scans" if random.random() < 0.5 else None),
        )

    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=LABELS) as catalogue:
        ids = catalogue.add([drawn(number, "database") for number in range(60)])
        catalogue.add([drawn(number, "query") for number in range(60, 65)])
        sure = [(id_, int(random.integers(3)), round(float(random.random()), 1)) for id_ in ids if id_ % 5]
        catalogue.predict(sure)  # of labelled ones too, as it is once they get a label
        labels = {id_: int(random.integers(3)) for id_ in ids if id_ % 4}
        catalogue.doubts.keep(
            # Of other labels than they have, too, as it is once they get one.
            Doubt(id_, label, (label + 1) % 3, round(float(random.uniform(-1, 1)), 1))
            for id_, label in labels.items()
        )
        change(path, "UPDATE items SET added = NULL WHERE id % 11 = 0")
        yield catalogue


def plainly(items: list[Item], which: Listing) -> list[Item]:
    """The reference."""

    def folded(text: str) -> str:
        return unicodedata.normalize("NFC", text).casefold()

    def fits(item: Item) -> bool:
        index = UNLABELLED if item.label is None else LABELS.index(item.label)
        return (
            item.split == which.split
            and (which.labels is None or index in which.labels)
            and (which.folder is None or item.folder == which.folder)
            and (which.sha256 is None or item.sha256 == which.sha256.hex())
            and (which.name is None or folded(which.name) in folded(item.path))
            and (which.predicted is None or item.predicted in [LABELS[each] for each in which.predicted])
            and (which.min_confidence is None or sure(item) >= which.min_confidence)
        )

    def sure(item: Item) -> float:
        return -1 if item.confidence is None else item.confidence

    def small(text: str | None) -> str | None:
        return None if text is None else "".join(each.lower() if each.isascii() else each for each in text)

    def value(item: Item) -> float | str | None:
        return {
            "id": item.id,
            "time": item.added,
            "name": small(item.path),
            "label": small(item.label),
            "confidence": item.confidence,
            "doubt": item.doubt,
        }[which.sort]

    found = sorted((item for item in items if fits(item)), key=lambda item: item.id)
    known = [item for item in found if value(item) is not None]
    # Twice reversed, equal ones stay as they were.
    falling = (which.sort in ("confidence", "doubt")) != which.descending
    return sorted(known, key=value, reverse=falling) + [item for item in found if value(item) is None]


FILTERS = (
    Listing(),
    Listing(split="query"),
    Listing(labels=[UNLABELLED, 1]),
    Listing(labels=[]),
    Listing(folder="scans", name="png"),
    Listing(sha256=b"\x07" * 32),
    *(Listing(name=name) for name in PARTS),
    Listing(predicted=[0]),
    Listing(predicted=[0, 2], min_confidence=0.5),
    Listing(min_confidence=0.0),
    Listing(min_confidence=1.0),
    Listing(labels=[0], min_confidence=0.0),
    Listing(predicted=[]),
)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", get_args(Sort))
def test_each_filter_in_each_order(catalogue: Catalogue, sort: Sort, descending: bool) -> None:
    items = list(catalogue.every_item())
    lengths = set()
    for each in FILTERS:
        which = replace(each, sort=sort, descending=descending)
        wanted = plainly(items, which)
        lengths.add(len(wanted))
        for offset, count in ((0, 100), (7, 7), (max(0, len(wanted) - 3), 2), (len(wanted), 1)):
            found, total = catalogue.part(which, offset=offset, count=count)
            assert (found, total) == (wanted[offset : offset + count], len(wanted)), (which, offset)
    assert len(lengths) > 8  # they differ


def test_a_page_has_the_same_filters(catalogue: Catalogue) -> None:
    items = list(catalogue.every_item())
    for which in FILTERS:
        wanted = plainly(items, which)
        assert catalogue.page(which, count=100) == wanted
        assert catalogue.page(which, after=20, count=4) == [item for item in wanted if item.id > 20][:4]


def test_beyond_the_end_there_is_nothing(catalogue: Catalogue) -> None:
    assert catalogue.part(Listing(sort="name"), offset=2**63 - 1, count=1000) == ([], 60)


@pytest.mark.parametrize("sure", [0.0, 0.4, 0.8, 1.0])
def test_predicted_labels_are_counted(catalogue: Catalogue, sure: float) -> None:
    every = [item for item in catalogue.every_item() if item.confidence is not None]
    count = Counter(item.predicted for item in every if item.confidence >= sure)
    found = catalogue.predicted(sure)
    assert list(found.items()) == sorted(count.items(), key=lambda each: (-each[1], each[0]))
    for label, number in found.items():
        which = Listing(predicted=[LABELS.index(label)], min_confidence=sure)
        assert catalogue.part(which, offset=0, count=1)[1] == number
    if sure == 0.4:
        assert len(found) == 3


def test_what_has_a_label_now_is_predicted_no_more(catalogue: Catalogue) -> None:
    before = catalogue.predicted(0)
    (item, *_) = catalogue.page(Listing(predicted=[0]), count=1)
    catalogue.change(item.id, label="eel", source="group")
    assert catalogue.predicted(0)["cat"] == before["cat"] - 1
    assert item.id not in [each.id for each in catalogue.page(Listing(predicted=[0]), count=100)]


@in_a_file
def test_where_an_older_catalogue_cannot_be_upgraded_nothing_is_predicted(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in ("embeddings", "sources", "predictions"):
        change(filled, f"DROP TABLE {table}")
    change(filled, "UPDATE meta SET value = '4' WHERE key = 'schema'")
    read_only(monkeypatch)
    with Catalogue.open(filled) as catalogue:
        assert catalogue.predicted(0) == {}
        assert catalogue.page(Listing(predicted=[0]), count=9) == []
        found, total = catalogue.part(Listing(sort="confidence"), offset=2, count=2)
        assert ([item.id for item in found], total) == ([3, 4], 20)
