"""What nearly is a held-out query; compared with a loop over all pairs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index import near_copies
from index.catalogue import Catalogue
from index.codes import Codes
from index.items import File, Picture
from index.near_copies import lie_within, near_copies_of_queries
from tests.index.catalogues import CLASSES, new_item, new_query


def flipped(code: Codes, count: int) -> Codes:
    """With so many of its first bits changed."""
    return np.packbits(np.unpackbits(code) ^ (np.arange(8 * len(code)) < count))


def drawn(seed: int) -> Codes:
    return np.random.default_rng(seed).integers(0, 256, 32, np.uint8)


def as_they_are(hashes: Codes) -> Codes:
    return hashes


@pytest.mark.parametrize("cells", [1, 7, 2**20])
@pytest.mark.parametrize("asked", [1, 3, 4096])
def test_lie_within_equals_a_loop(cells: int, asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_copies, "CELLS", cells)
    monkeypatch.setattr(near_copies, "ASKED", asked)
    random = np.random.default_rng(0)
    codes, others = (random.integers(0, 256, (n, 2), np.uint8) for n in (40, 9))
    for radius in (0, 3, 5, 16):
        slow = [
            min(bin(int.from_bytes((a ^ b).tobytes())).count("1") for b in others) <= radius for a in codes
        ]
        assert lie_within(codes, others, radius).tolist() == slow


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_of_none_there_are_none(n: int, m: int) -> None:
    assert lie_within(np.zeros((n, 4), np.uint8), np.zeros((m, 4), np.uint8), 3).tolist() == [False] * n


@pytest.fixture
def catalogue(path: Path) -> Iterator[Catalogue]:
    """Two held-out queries, 1 and 2, the second one plain; nothing else."""
    with Catalogue.create(path, encoder_id="00ff", bits=32, classes=CLASSES) as catalogue:
        catalogue.add([new_query(1, picture=Picture(drawn(1).tobytes(), 50), file=File(b"1" * 32))])
        catalogue.add([new_query(2, picture=Picture(drawn(2).tobytes(), 49))])
        yield catalogue


def added(catalogue: Catalogue, code: Codes | None, quality: int = 50, **changes: object) -> int:
    picture = None if code is None else Picture(code.tobytes(), quality)
    (id_,) = catalogue.add([new_item(5, picture=picture, **changes)])
    return id_


def found(catalogue: Catalogue) -> list[int]:
    return near_copies_of_queries(catalogue, as_they_are, within=31, plain=50).tolist()


def test_near_copies_of_queries(catalogue: Catalogue) -> None:
    near = added(catalogue, flipped(drawn(1), 31))
    added(catalogue, flipped(drawn(1), 32))  # too far away
    added(catalogue, drawn(1), 49)  # plain
    added(catalogue, drawn(2))  # the query is plain
    added(catalogue, drawn(1), file=File(b"1" * 32))  # a copy byte for byte
    added(catalogue, None)  # of an earlier version
    unlabelled = added(catalogue, drawn(1), label=-1)
    assert found(catalogue) == [near, unlabelled]
    catalogue.throw([near])
    assert found(catalogue) == [unlabelled]


def test_what_was_held_out_later_is_asked_with_too(catalogue: Catalogue) -> None:
    held, near = added(catalogue, drawn(3)), added(catalogue, flipped(drawn(3), 9))
    again = added(catalogue, flipped(drawn(1), 2))
    assert found(catalogue) == [again]
    catalogue.hold_out([held, again])
    assert found(catalogue) == [near]


def test_queries_are_compared_turned(catalogue: Catalogue) -> None:
    def turned(hashes: Codes) -> Codes:
        return np.concatenate([hashes, ~hashes])

    near = added(catalogue, flipped(~drawn(1), 20))
    assert found(catalogue) == []
    assert near_copies_of_queries(catalogue, turned, within=31, plain=50).tolist() == [near]
