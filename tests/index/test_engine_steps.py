"""Engines beside a dictionary, step by step: whatever was added, changed and removed in whichever order, each
answer is that of a sort. Codes of few values make most distances ties."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from index.engine import Engine
from index.hamming import FaissEngine
from index.items import UNLABELLED, Changes, CodeTable
from tests import milvus
from tests.index.test_engine import all_cells
from tests.remote_engine import RemoteEngine

WIDTH = 2
STORED = [bytes([a, b]) for a in (0, 1, 3, 129) for b in (0, 7)]
# Steps are drawn as bytes, which hypothesis does ten times as fast as dictionaries and sets.
CODE = st.integers(0, len(STORED) - 1).map(STORED.__getitem__)
LABEL = st.integers(UNLABELLED, 2)
FILTER = st.integers(0, 16).map(
    lambda mask: None if mask == 16 else [i - 1 for i in range(4) if mask >> i & 1]
)
IDS = st.binary(max_size=6).map(lambda drawn: {1 + each % 40 for each in drawn})
Items = dict[int, tuple[int, bytes]]


def as_items(drawn: bytes) -> Items:
    """Label and code by id."""
    return {
        1 + a % 40: (b % 4 - 1, STORED[b // 4 % 8]) for a, b in zip(drawn[::2], drawn[1::2], strict=False)
    }


def bits(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


def as_codes(codes: Collection[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(codes), np.uint8).reshape(-1, WIDTH)


class Steps(RuleBasedStateMachine):
    """An engine, and what it should hold: label and code by id."""

    def __init__(self, make: Callable[[int], Engine]) -> None:
        super().__init__()
        self.engine = make(8 * WIDTH)
        self.held: Items = {}
        self.applied = self.change({}, [])

    def change(self, items: Items, removed: Collection[int]) -> Changes:
        """Let both be at the next revision."""
        table = CodeTable(
            np.array([*items], np.int64),
            np.array([label for label, _ in items.values()], np.int64),
            as_codes([code for _, code in items.values()]),
        )
        changes = Changes(self.engine.revision + 1, table, np.array(sorted(removed), np.int64), ("a", "b"))
        self.engine.apply(changes)
        self.held = {id_: each for id_, each in self.held.items() if id_ not in removed} | items
        return changes

    def expected(self, code: bytes, labels: Collection[int] | None) -> list[tuple[int, int]]:
        """All (distance, id) of those with one of the labels, sorted."""
        allowed = (each for each in self.held.items() if labels is None or each[1][0] in labels)
        return sorted((bits(code, stored), id_) for id_, (_, stored) in allowed)

    @rule(items=st.binary(max_size=16).map(as_items), removed=IDS)
    def add_and_remove(self, items: Items, removed: Collection[int]) -> None:
        self.applied = self.change(items, removed)

    @rule(code=CODE, label=LABEL)
    def add_behind_all(self, code: bytes, label: int) -> None:
        self.change({max(self.held, default=0) + 1: (label, code)}, [])

    @rule(which=st.integers(0, 99), label=LABEL)
    def relabel(self, which: int, label: int) -> None:
        if self.held:
            id_ = sorted(self.held)[which % len(self.held)]
            self.change({id_: (label, self.held[id_][1])}, [])

    @rule(which=IDS)
    def delete(self, which: set[int]) -> None:
        if self.held:
            ids = sorted(self.held)
            self.change({}, {ids[each % len(ids)] for each in which})

    @rule()
    def apply_again(self) -> None:
        self.engine.apply(self.applied)

    @rule(codes=st.binary(max_size=3), k=st.integers(1, 12), labels=FILTER)
    def search(self, codes: bytes, k: int, labels: list[int] | None) -> None:
        asked = [STORED[each % 8] for each in codes]
        distances, ids = self.engine.search(as_codes(asked), k, labels=labels, at_least=self.engine.revision)
        for row, code in enumerate(asked):
            found = list(zip(distances[row].tolist(), ids[row].tolist(), strict=True))
            assert found == self.expected(code, labels)[:k]

    @rule(code=CODE, radius=st.integers(0, 20), labels=FILTER)
    def search_within(self, code: bytes, radius: int, labels: list[int] | None) -> None:
        asked: dict[str, Any] = {"labels": labels, "at_least": self.engine.revision}
        ((distances, ids),) = self.engine.range_search(as_codes([code]), radius, **asked)
        within = [each for each in self.expected(code, labels) if each[0] <= radius]
        assert list(zip(distances.tolist(), ids.tolist(), strict=True)) == within
        counts = self.engine.count(as_codes([code]), np.array([radius]), **asked)
        assert counts.tolist() == [len(within)]

    @rule()
    def look(self) -> None:
        snapshot = self.engine.snapshot
        assert snapshot.ids.tolist() == sorted(self.held)
        assert snapshot.labels.tolist() == [self.held[id_][0] for id_ in sorted(self.held)]
        assert len(self.engine) == len(snapshot) == len(self.held)
        assert [snapshot.has(id_, [0]) for id_ in range(42)] == [
            id_ in self.held and self.held[id_][0] == 0 for id_ in range(42)
        ]


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (FaissEngine, 10_000),
        (all_cells, 500),
        (RemoteEngine, 500),
        pytest.param("postgresql_engines", 300, marks=pytest.mark.process),
        pytest.param("in_milvus", 300, marks=milvus.CLUSTER),
        pytest.param("postgresql_engines", 10_000, marks=[pytest.mark.process, pytest.mark.slow]),
        pytest.param("in_milvus", 10_000, marks=[*milvus.CLUSTER, pytest.mark.slow]),
    ],
)
def test_each_step_agrees_with_a_dictionary(
    make: Callable[[int], Engine] | str,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    made: Callable[[int], Engine] = request.getfixturevalue(make) if isinstance(make, str) else make
    monkeypatch.setattr("index.snapshot.LARGEST", 6)
    monkeypatch.setattr("index.ivf.WORTH", 1)
    monkeypatch.setattr("index.hamming.SHARED", 30)
    monkeypatch.setattr("index.hamming.CORES", 2)
    each = 100
    run_state_machine_as_test(
        lambda: Steps(made),
        settings=settings(
            max_examples=steps // each,
            stateful_step_count=each,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
