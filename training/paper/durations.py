"""How long an epoch of pre-training takes: batches timed by turns, extrapolated to an epoch."""

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from training.config import Config
from training.device import describe
from training.learning.by_rule import Learner
from training.paper.cells import Cell, Cells
from training.paper.significance import mean_and_deviation
from training.paper.work import Countdown
from training.pixels import Loaded, batches
from training.protocol import derived_seed
from training.run import Run, learn, positions_of

log = logging.getLogger("hebbsearch")

FAST = {"swta": "swta_fh", "hpca": "hpca_fh"}  # what learns the same as the two-phase original
Go = Callable[[], object]


class Sampling(NamedTuple):
    """How durations are measured: rounds, and batches a round of a method and of a two-phase original."""

    rounds: int
    batches: int
    two_phase_batches: int


SAMPLING = {"cpu": Sampling(7, 20, 1), "cuda": Sampling(7, 200, 10)}  # an original takes seconds a batch
QUICK_SAMPLING = Sampling(2, 2, 1)


def learns_as(method: str) -> str:
    """The method that learns the same in the shortest time."""
    return FAST.get(method, method)


def with_fast(methods: Iterable[str]) -> list[str]:
    """`methods` and, for each two-phase original among them, the fast one that learns the same."""
    methods = list(methods)
    return list(dict.fromkeys([*methods, *map(learns_as, methods)]))


def interleaved(
    cases: Mapping[str, Callable[[], Go]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each case in each round, after one that does not count; the order turns from round to
    round. Calling a case prepares a go, which is then timed."""
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    countdown = Countdown("rounds")
    for number in range(-1, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            go = cases[name]()
            start = clock()
            go()
            taken = clock() - start
            if number >= 0:
                seconds[name].append(taken)
        log.info("timed: %s", countdown.one_done(rounds - 1 - number))
    return seconds


def durations(
    learners: Mapping[str, tuple[Run, Learner]], sampling: Sampling | None = None
) -> dict[str, dict[str, float]]:
    """Of each method `epoch_duration`, its `deviation`, and of how many `rounds` and `timed_batches` it is.

    `epoch_duration` in seconds: the time of a round's batches, divided by their number and multiplied by
    that of an epoch; the median over the rounds, and their sample standard deviation. `timed_batches`:
    how many were timed, all rounds together. A batch takes all that it does in a run: pixels, normalisation
    and what belongs to it, learning. Each round begins anew with other images, so that images decoded on
    demand are waited for at its beginning, and ends with the check for divergence that ends an epoch: what
    is extrapolated is a little too long rather than too short.
    """
    goes: dict[str, Callable[[], Go]] = {}
    counts: dict[str, int] = {}
    device = next(iter(learners.values()))[0].device.type
    rate = sampling or SAMPLING.get(device, SAMPLING["cpu"])
    for method, (run, learner) in learners.items():
        wanted = rate.two_phase_batches if method in FAST else rate.batches
        counts[method] = min(wanted, batches_each(run, learner))
        goes[method] = partial(some_batches, run, learner, counts[method], itertools.count())
        log.info("timing %s: %d rounds of %d batches", method, rate.rounds, counts[method])
    found = {}
    for method, seconds in interleaved(goes, rate.rounds).items():
        whole = batches_each(*learners[method]) / counts[method]
        _, deviation = mean_and_deviation([whole * each for each in seconds])
        found[method] = {
            "epoch_duration": whole * statistics.median(seconds),
            "deviation": deviation,
            "rounds": len(seconds),
            "timed_batches": counts[method] * len(seconds),
        }
    return found


def some_batches(run: Run, learner: Learner, count: int, rounds: Iterator[int]) -> Go:
    """The next go: `count` batches of one more epoch's beginning, computed to the end."""
    seed = derived_seed(run.config.seed, 2, next(rounds))
    shuffled = batches(positions_of(run, learner), run.config.batch_size, seed, run.home)
    groups = list(itertools.islice(shuffled, count))

    def go() -> None:
        learn(run, learner, 0, groups)
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)

    return go


def batches_each(run: Run, learner: Learner) -> int:
    """Batches of an epoch."""
    return -(-len(positions_of(run, learner)) // run.config.batch_size)


class Durations(Cells):
    """What `durations` gave, `folder`/durations/`name`.csv: a row for each method of a run, in which all took
    turns. Rows are added and never replaced; a method's last one counts."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder, name)
        self.path = folder / "durations" / f"{name}.csv"

    def identity(self, cell: Cell) -> tuple[Any, ...]:
        """A method is measured once in a run."""
        return *cell.key, cell.figures["run"]

    def newest(self) -> dict[str, Cell]:
        """The row of each method that counts."""
        return {cell.method: cell for cell in self.read()}

    def missing(self, methods: Iterable[str]) -> list[str]:
        """What has to be measured, in one run, so that `methods` are known: those that are not, and for a
        two-phase original its fast form too, as the two are compared, unless both are of one run."""
        run = {method: cell.figures["run"] for method, cell in self.newest().items()}
        return with_fast(
            method
            for method in with_fast(methods)
            if method not in run or run[method] != run.get(learns_as(method))
        )

    def measure(
        self, learners: Mapping[str, tuple[Run, Learner]], configs: Mapping[str, Config], quick: bool
    ) -> None:
        """One more run, of `learners`."""
        counts = {name: {"database": len(run.split.pretraining)} for name, (run, _) in learners.items()}
        for each in counts.values():  # with others it would be another epoch
            self.check_images(each)
        number = 1 + max((int(cell.figures["run"]) for cell in self.read()), default=0)
        for method, figures in durations(learners, QUICK_SAMPLING if quick else None).items():
            run, _ = learners[method]
            name, machine = self.remember(configs[method]), describe(run.device)
            row = {"run": number} | figures | counts[method]
            self.add(Cell(method, "", run.config.seed, name, machine, row))


def prepared(configs: Mapping[str, Config], loaded: Loaded) -> dict[str, Run]:
    """A run for each configuration; preprocessing is fitted once for all to whom it is the same."""
    runs = {method: Run(config, None, loaded) for method, config in configs.items()}
    fitted: dict[tuple[bool, float], Run] = {}
    for run in runs.values():
        same = run.config.whiten, run.config.smoothing
        if same in fitted:
            run.model.normalise.load_state_dict(fitted[same].model.normalise.state_dict())
        else:
            run.fit_preprocessing()
            fitted[same] = run
    return runs
