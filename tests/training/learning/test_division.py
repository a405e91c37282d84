"""Who teaches, who is asked with and who is ranked."""

from pathlib import Path

import numpy as np
import pytest

from index.catalogue import Catalogue
from index.items import NewItem, Picture
from training.learning.division import Division


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
