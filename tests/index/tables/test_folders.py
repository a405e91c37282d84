"""The tree of folders, against plain Python over all items."""

import unicodedata
from collections.abc import Iterator

import pytest

from index.catalogue import Catalogue
from index.items import UNLABELLED, File, Item, NewItem
from index.names import from_stored, stored
from index.tables.folders import Folder, after, lies_below
from index.tables.listing import Listing
from tests.index.catalogues import Place, new_item

CAFE, DECOMPOSED = "caf\u00e9", "cafe\u0301"
BYTES = "a\udce9b"  # a name of which one byte is no character
# Folder that was sent, "" for none, None for the one that was indexed; and the path in it.
PLACES: list[tuple[str | None, str]] = [
    (None, "cats/one.png"),
    (None, "cats/small/two.png"),
    (None, "Birds/three.png"),
    (None, "catsup/four.png"),
    (None, "top.png"),
    (None, f"{BYTES}/in/{BYTES}.png"),
    (None, f"{DECOMPOSED}/five.png"),
    ("scans", "2023/six.png"),
    ("scans", "2024/seven.png"),
    ("scans", "2024/march/eight.png"),
    ("scans", "nine.png"),
    ("cats", "small/ten.png"),
    (CAFE, f"{DECOMPOSED}/eleven.png"),
    ("a/b", "c/twelve.png"),
    ("a//bb", "c/thirteen.png"),
    ("100%_", "fourteen.png"),
    ("", "sent/alone.png"),
]


@pytest.fixture
def catalogue(path: Place) -> Iterator[Catalogue]:
    """And a held-out query, which is no part of it."""

    def item(number: int, folder: str | None, name: str, split: str = "database") -> NewItem:
        code = new_item(number).code if split == "database" else None
        return new_item(
            number,
            path=name,
            label=UNLABELLED,
            split=split,
            code=code,
            file=File(bytes([number]) * 32, folder=folder),
        )

    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=()) as catalogue:
        catalogue.add(item(number, *place) for number, place in enumerate(PLACES))
        catalogue.add([item(100, None, "held-out/query.png", "query")])
        yield catalogue


def place(item: Item) -> list[str]:
    """The reference: the names of the folders that lead to an item; of none that lies nowhere."""
    if item.folder == "":
        return []
    names = f"{item.folder}/{item.path}" if item.folder else item.path
    parts = unicodedata.normalize("NFC", names).split("/")[:-1]
    return parts if all(parts) else []


def test_each_folder_has_what_lies_in_it_and_below(catalogue: Catalogue) -> None:
    items, tree = catalogue.page(count=99), catalogue.folders()
    assert len(items) == len(PLACES)
    expected = {tuple(place(item)[: depth + 1]) for item in items for depth in range(len(place(item)))}
    found = {tuple(from_stored(each.path).split("/")): each for some in tree.values() for each in some}
    assert found.keys() == expected
    for parts, folder in found.items():
        inside = [item.id for item in items if tuple(place(item)[: len(parts)]) == parts]
        assert folder.images == len(inside) > 0
        assert folder.name == parts[-1]
        assert folder.folders == sum(len(each) == len(parts) + 1 for each in found if each[:-1] == parts)
        assert [item.id for item in catalogue.page(Listing(under=folder.path), count=99)] == inside
        assert folder in tree[stored("/".join(parts[:-1]))]


def test_they_stand_by_name(catalogue: Catalogue) -> None:
    top = [each.path for each in catalogue.folders()[""]]
    assert top == ["100%_", "a", "a//e9b", "Birds", CAFE, "cats", "catsup", "scans"]
    assert [each.name for each in catalogue.folders()["scans"]] == ["2023", "2024"]


def test_a_page_begins_behind_a_folder_that_may_be_gone() -> None:
    folders = [Folder(name, 1, 0) for name in ("a", "B", "c")]
    assert after(folders, "a") == folders[1:]
    assert after(folders, "bb") == folders[2:]
    assert after(folders, "c") == []


@pytest.mark.parametrize(
    "under", ["cat", "Cats", "cats/one.png", "held-out", "sent", "%", "scans//20", "/", "x" * 4000]
)
def test_what_is_no_folder_has_no_images(catalogue: Catalogue, under: str) -> None:
    assert catalogue.page(Listing(under=under), count=99) == []


def test_a_deep_path_is_no_deep_expression() -> None:
    assert str(lies_below("/".join("x" * 2000))).count("folder IN") <= 128


def test_what_lies_in_the_trash_lies_in_no_folder(catalogue: Catalogue) -> None:
    before = {each.path: each.images for each in catalogue.folders()["scans"]}
    (six,) = catalogue.page(Listing(under="scans/2023"), count=9)
    catalogue.throw([six.id])
    after = {each.path: each.images for each in catalogue.folders()["scans"]}
    assert before == {"scans/2023": 1, "scans/2024": 2}
    assert after == {"scans/2024": 2}
