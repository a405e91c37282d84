"""Who teaches, who is asked with and who is ranked."""

from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Catalogue
from index.items import File, NewItem, Picture
from training.learning.division import Division, hold_out


@pytest.mark.parametrize(("near_copies", "ranked"), [("keep", [3, 4]), ("leave_out", [3])])
def test_what_nearly_is_held_out_teaches_and_is_ranked_as_the_build_chose(
    tmp_path: Path, near_copies: str, ranked: list[int]
) -> None:
    code, hashes = np.zeros(1, np.uint8), [bytes([7] * 32), bytes([7] * 32), bytes([9] * 32), bytes([7] * 32)]
    with Catalogue.create(tmp_path / "c", encoder_id="00ff", bits=8, classes=["cat"]) as catalogue:
        for number, hash_ in enumerate(hashes):
            split, given = ("query", None) if number == 0 else ("database", code)
            catalogue.add([NewItem(str(number), 0, split, 8, 8, b"", given, picture=Picture(hash_, 90))])
        catalogue.hold_out([2])
        division = Division.of(catalogue, np.array([2]), near_copies)
    assert division.labelled.ids.tolist() == [3, 4]
    assert division.ranked.ids.tolist() == ranked


def test_what_was_accepted_in_a_group_teaches_and_is_not_ranked(tmp_path: Path) -> None:
    code = np.zeros(1, np.uint8)
    with Catalogue.create(tmp_path / "c", encoder_id="00ff", bits=8, classes=["cat"]) as catalogue:
        catalogue.add([NewItem(str(number), -1, "database", 8, 8, b"", code) for number in range(3)])
        catalogue.label_all({1: ("cat", "given"), 2: ("cat", "group"), 3: ("cat", "accepted")})
        division = Division.of(catalogue, np.empty(0, np.int64), "keep")
    assert division.labelled.ids.tolist() == [1, 2, 3]
    assert division.ranked.ids.tolist() == [1, 3]


def test_a_class_keeps_something_to_learn_from(tmp_path: Path) -> None:
    """Files are held out whose first four bytes are a multiple of ten."""
    numbers = {"a": [10, 11], "b": [30, 20, 20], "c": [40], "d": [50], -1: [60]}
    names = [name for name, files in numbers.items() for _ in files]
    files = [File(number.to_bytes(4) + bytes(28)) for files in numbers.values() for number in files]
    with Catalogue.create(tmp_path / "c", encoder_id="00ff", bits=8, classes=[]) as catalogue:
        catalogue.note("built", str(catalogue.revision))
        catalogue.add(
            [
                NewItem(str(row), name, "database", 8, 8, b"", np.zeros(1, np.uint8), file=file)
                for row, (name, file) in enumerate(zip(names, files, strict=True))
            ]
        )
        # Of b both equal files teach; d has one that was accepted in a group, which is never held out.
        catalogue.label_all({8: ("d", "group")})
        held = hold_out(catalogue).tolist()
        assert held == [1, 3, 7]
        assert [item.id for item in catalogue.page(count=10) if item.held_out] == held
        catalogue.change(2, label="b")  # what taught class a: now its held-out image must
        taught = frozenset(catalogue.get(id_).sha256 or "" for id_ in (2, 4, 6, 8))
        assert hold_out(catalogue, taught).tolist() == [3, 7]
