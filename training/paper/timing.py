"""How long pre-training takes: the paper's tables 1 and 5 (networks) and 4 (one layer, rules of others).

Every figure is defined where it is computed: `durations`, `converged`, `network_rows`, `layer_rows`. What was
measured is kept, as rows below results: `Durations`, `Trajectories`, and the cells of layers' readouts.
"""

import csv
import dataclasses
import itertools
import logging
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from index.locking import locked
from training.config import Config, ConfigError
from training.data import DataError
from training.device import describe, set_up_process
from training.finetune import nesterov
from training.hah import COST_WEIGHTS, HaHConv2d, HebbianAntiHebbian
from training.hebbian import HebbianConv2d, Pretraining
from training.nets.backbones import BACKBONES, Linear, convolve
from training.paper import plots, tables
from training.paper.cells import Cell, Cells, refuse_others
from training.paper.grid import QUICK_IMAGES, Countdown, alone, smaller, work_folder
from training.paper.readout import ridge_accuracy
from training.paper.significance import mean_and_deviation
from training.paper.tables import Key, Row, TableError
from training.pixels import Loaded, batches, load
from training.protocol import derived_seed
from training.rules import HAVE_TEMPERATURE
from training.run import STAGES, Learner, Run, learn, positions_of

log = logging.getLogger("hebbsearch")


NETWORKS = {"vae": "VAE", "swta": "SWTA", "swta_fh": "SWTA-FH", "hpca": "HPCA", "hpca_fh": "HPCA-FH"}
LAYERS = {
    "hebbgrad": "HebbGrad-WTA",
    "hah": "HaH",
    "krotov": "Pytorch-Hebbian Krotov",
    "softhebb": "SoftHebb",
    "swta": "SWTA",
    "hpca": "HPCA",
    "swta_fh": "SWTA-FH (this work)",
    "hpca_fh": "HPCA-FH (this work)",
}
FAST = {"swta": "swta_fh", "hpca": "hpca_fh"}  # what learns the same as the two-phase original
READOUT_IMAGES = 5000  # at most, to learn from and to measure on
CLOSE = 0.005  # to the best accuracy: converged


class Table(NamedTuple):
    """Of which network, by data set, and of which methods, under the paper's names."""

    backbones: dict[str, str]
    names: dict[str, str]


TABLES = {
    1: Table(
        {"cifar10": "conv6", "cifar100": "conv6", "tinyimagenet": "conv6", "imagenet": "conv10"}, NETWORKS
    ),
    4: Table({"cifar10": "conv6"}, LAYERS),
    5: Table(
        {"imagenet": "vgg11"}, {name: NETWORKS[name] for name in ("swta", "swta_fh", "hpca", "hpca_fh")}
    ),
}


class Sampling(NamedTuple):
    """How durations are measured: rounds, and batches a round of a method and of a two-phase original."""

    rounds: int
    batches: int
    two_phase_batches: int


SAMPLING = {"cpu": Sampling(7, 20, 1), "cuda": Sampling(7, 200, 10)}  # an original takes seconds a batch
QUICK_SAMPLING = Sampling(2, 2, 1)
Images = Callable[[], Loaded]  # read when they are first needed: not where everything is known


def learns_as(method: str) -> str:
    """The method that learns the same in the shortest time."""
    return FAST.get(method, method)


def with_fast(methods: Iterable[str]) -> list[str]:
    """`methods` and, for each two-phase original among them, the fast one that learns the same."""
    methods = list(methods)
    return list(dict.fromkeys([*methods, *map(learns_as, methods)]))


def check_methods(table: int, methods: Iterable[str]) -> None:
    """Raise TableError for a method that the table cannot hold."""
    allowed = NETWORKS if table in (1, 5) else LAYERS
    for method in methods:
        if method not in allowed:
            raise TableError(f"table {table} has no method {method!r}; use some of {', '.join(allowed)}")


@dataclasses.dataclass(frozen=True)
class Request:
    """What a table is to be made of."""

    methods: Sequence[str]
    configs: Mapping[str, Config]  # one for each of `with_fast(methods)`
    seeds: int
    out: Path  # for the table, and what it was made from
    work: Path  # for checkpoints
    quick: bool = False  # few images and rounds, in files of their own

    @property
    def first(self) -> Config:
        """The configuration that says what is the same for all methods: data set, backbone, precision."""
        return self.configs[self.methods[0]]

    @property
    def suffix(self) -> str:
        """What the names of files end in."""
        return "-quick" if self.quick else ""

    def durations(self, layers: bool = False) -> "Durations":
        """What was measured of the same table."""
        return Durations(self.out, self.name("layer" if layers else self.first.backbone))

    def trajectories(self) -> "Trajectories":
        """How the networks converged."""
        return Trajectories(self.out, self.name(self.first.backbone))

    def readouts(self) -> Cells:
        """What the single layers are worth."""
        return Cells(self.out, self.name("layer"))

    def name(self, of: str) -> str:
        """Of files below `out`."""
        return f"{self.first.dataset}-{of}{self.suffix}"


def make(table: int, request: Request) -> str:
    """Compute what is missing and write `table<N>-<dataset>.csv`, `.md` and `.png` in `out`, of all that is
    known, also of methods that were asked for at other times; returns the Markdown."""
    check_methods(table, request.methods)
    if request.seeds < 1:
        raise TableError(f"seeds {request.seeds}: at least 1 is needed")
    paper = {} if request.quick else tables.paper(table, str(request.first.dataset))
    configs = {name: dataclasses.replace(config, labels="100%") for name, config in request.configs.items()}
    request = dataclasses.replace(request, configs=configs)
    of_layers = table == 4
    (check_layers if of_layers else check_networks)(request)
    try:
        (time_layers if of_layers else time_networks)(request, cache(partial(read_images, request)))
    finally:  # whatever ended it, what is known is shown
        rows = list((layer_rows if of_layers else network_rows)(request, paper))
        text = markdown(rows, request.durations(of_layers).newest()) if rows else ""
        if rows:
            path = request.out / f"table{table}-{request.first.dataset}{request.suffix}"
            tables.write_csv(path.with_suffix(".csv"), rows)
            tables.replace_file(path.with_suffix(".md"), text.encode())
            of = "one epoch of one layer, 3→96, 5×5" if of_layers else "one epoch of pre-training"
            plots.durations(path.with_suffix(".png"), *bars(rows), what=of)
    return text


def read_images(request: Request) -> Loaded:
    """The images, for a process made ready."""
    set_up_process(request.first.precision)
    loaded = load(request.first)
    return smaller(loaded, QUICK_IMAGES) if request.quick else loaded


def bars(rows: Iterable[Row]) -> tuple[dict[str, float], dict[str, float]]:
    """Epoch durations, ours and the paper's, by method."""
    shown = {row.method.removesuffix(" (this work)"): row for row in rows if row.metric == "epoch_duration"}
    ours = {name: row.mean for name, row in shown.items() if row.mean is not None}
    return ours, {name: row.paper for name, row in shown.items() if row.paper is not None}


def markdown(rows: Sequence[Row], measured: Mapping[str, Cell]) -> str:
    """The table without what is only the paper's, what its figures are, and which were measured together."""
    text = tables.markdown([row for row in rows if row.mean is not None])
    return (
        f"{text}\nEpoch durations: median ± standard deviation over rounds (their number in brackets), each "
        "extrapolated from its share of the timed batches; not measured over a whole epoch. SWTA and HPCA "
        "are the two-phase originals; what they learn is that of SWTA-FH and HPCA-FH, and taken from there."
        f"\n\n{measured_together(measured)}"
    )


def measured_together(measured: Mapping[str, Cell]) -> str:
    """Markdown: a line for each run, the methods whose batches took turns in it."""
    runs: dict[tuple[float, str], list[str]] = {}
    for method, cell in measured.items():
        names = runs.setdefault((cell.figures["run"], cell.machine), [])
        names.append(NETWORKS.get(method) or LAYERS[method])
    lines = [
        f"- run {run:.0f}, {machine}: {', '.join(names)}\n" for (run, machine), names in sorted(runs.items())
    ]
    return "Durations compare within a run, in which the methods took turns:\n\n" + "".join(lines)


# --- Durations ---------------------------------------------------------------------------------------


Go = Callable[[], object]


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


# --- Epochs to convergence ---------------------------------------------------------------------------


def converged(accuracies: Sequence[float]) -> int:
    """The first epoch, counted from 1, whose accuracy is within half a point of the best of all epochs."""
    best = max(accuracies)
    return next(n for n, accuracy in enumerate(accuracies, 1) if accuracy >= best - CLOSE - 1e-9)


def trajectory(run: Run) -> list[float]:
    """Pre-train as Run.learn_features does; the readout's accuracy after each epoch (see `readout`).

    With a folder for checkpoints an interrupted run goes on after its last epoch.
    """
    if run.config.epochs < 1:
        raise ConfigError(f"epochs {run.config.epochs}: at least 1 is needed to see it converge")
    if not len(run.split.validation):
        raise DataError(f"{run.images.where}: no labelled images to validate on; add some")
    saved = run.restore()
    if saved is None:
        run.fit_preprocessing()
    torch.manual_seed(derived_seed(run.config.seed, 1))
    learner = run.pretraining()
    if saved is not None:
        learner.load_state_dict(saved["training"])
    accuracies = run.validation.setdefault(STAGES[0], [])  # the checkpoint keeps it
    positions = positions_of(run, learner)
    for epoch, groups in run.epochs(STAGES[0], run.config.epochs, positions, saved, learner.state_dict):
        learn(run, learner, epoch, groups)
        run.take_over(learner)
        accuracies.append(readout(run))
    return accuracies


def readout(run: Run, count: int = READOUT_IMAGES) -> float:
    """Accuracy of a ridge regression (see readout.py) from the flattened convolutional features of
    at most `count` labelled pre-training images, on at most `count` validation images; both are drawn by
    the seed, the same after each epoch. Test images take no part."""
    run.model.network.eval()
    return linear_accuracy(run, run.features, sample(run.split.training, count, run.config.seed), count)


def linear_accuracy(
    run: Run,
    features: Callable[[Iterable[Tensor]], Iterator[tuple[Tensor, Tensor]]],
    training: NDArray[np.int64],
    count: int | None,
) -> float:
    """Ridge regression from `features` of the images at `training`, on at most `count` validation images."""
    found: list[Tensor] = []
    validation = run.split.validation
    for positions in (training, validation if count is None else sample(validation, count, run.config.seed)):
        found.append(torch.cat([values.float() for _, values in features(run.groups(positions))]))
        found.append(run.labels[torch.from_numpy(positions).to(run.home)].to(run.device))
    return ridge_accuracy(*found)


def sample(positions: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` of the positions, in order."""
    if len(positions) <= count:
        return positions
    return np.sort(np.random.default_rng(seed).choice(positions, count, replace=False))


class Trajectory(NamedTuple):
    """The readout's accuracy after each epoch of a run."""

    config: str
    machine: str
    database: int  # images of an epoch
    accuracies: list[float]


class Trajectories:
    """How runs converged, `convergence/<name>.csv`: a line an epoch."""

    COLUMNS = ("method", "seed", "epoch", "readout_accuracy", "config", "machine", "database")

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / "convergence" / f"{name}.csv"
        self.cells = Cells(folder, f"{name}-convergence")  # keeps configurations, and others away

    def read(self) -> dict[tuple[str, int], Trajectory]:
        """By method and seed. TableError for a file that holds something else."""
        found: dict[tuple[str, int], Trajectory] = {}
        if not self.path.exists():
            return found
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != self.COLUMNS:
                raise TableError(f"{self.path}: the columns should be {','.join(self.COLUMNS)}")
            try:
                for method, seed, epoch, accuracy, config, machine, database in reader:
                    new = Trajectory(config, machine, int(database), [])
                    known = found.setdefault((method, int(seed)), new)
                    if int(epoch) != len(known.accuracies) + 1:
                        raise ValueError(f"epoch {epoch} where {len(known.accuracies) + 1} should be")
                    known.accuracies.append(float(accuracy))
            except ValueError as error:
                raise TableError(f"{self.path}, line {reader.line_num}: {error}; mend or remove it") from None
        return found

    def of(self, method: str) -> list[Trajectory]:
        """Those of a method, of all seeds."""
        return [each for (name, _), each in self.read().items() if name == method]

    def add(self, method: str, seed: int, trajectory: Trajectory) -> None:
        """Write a finished run beside the others; the file is replaced as a whole."""
        with locked(self.path.with_suffix(".lock"), wait=True):
            found = self.read() | {(method, seed): trajectory}
            text = StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(self.COLUMNS)
            for (name, number), (*about, values) in found.items():
                writer.writerows((name, number, n, f"{v:.6g}", *about) for n, v in enumerate(values, 1))
            tables.replace_file(self.path, text.getvalue().encode())

    def check_images(self, database: int) -> None:
        """Raise TableError for other images than those of the runs, as far as their number tells."""
        refuse_others(self.path, "database", (each.database for each in self.read().values()), database)

    def check(self, method: str, config: Config) -> None:
        """Raise TableError if runs of `method` were configured otherwise: their mean would mean nothing."""
        for name in {each.config for each in self.of(method)}:
            if differing := self.cells.differences(name, config):
                raise TableError(
                    f"{self.path}: its epochs of {method} have configuration {name}, this run other values "
                    f"({differing}); name another folder with --out"
                )


def converge(
    configs: Mapping[str, Config], seeds: int, finished: Trajectories, images: Images, work: Path
) -> None:
    """Trajectories of each method for seeds 0 … `seeds` − 1; finished ones are not run again."""
    countdown = Countdown("runs")
    with finished.cells.claimed(configs):
        known = finished.read()
        missing = [(seed, name) for seed in range(seeds) for name in configs if (name, seed) not in known]
        for number, (seed, method) in enumerate(missing, 1):
            config = configs[method]
            folder = work_folder(config, images(), work) / f"{seed}-epochs"
            with alone(folder):
                run = Run(dataclasses.replace(config, seed=seed), folder, images())
                database = len(run.split.pretraining)
                finished.check_images(database)
                accuracies = trajectory(run)
                name, machine = finished.cells.remember(config), describe(run.device)
                finished.add(method, seed, Trajectory(name, machine, database, accuracies))
                shutil.rmtree(folder)
            left = countdown.one_done(len(missing) - number)
            log.info("%s, seed %d: converged in epoch %d; %s", method, seed, converged(accuracies), left)


# --- The tables --------------------------------------------------------------------------------------


def check_networks(request: Request) -> None:
    """Raise TableError for results of other configurations."""
    request.durations().check(request.configs)
    for method in map(learns_as, request.methods):
        request.trajectories().check(method, request.configs[method])


def time_networks(request: Request, images: Images) -> None:
    """What tables 1 and 5 miss: trajectories, each method's, then durations, of one run."""
    configs = request.configs
    learning = {name: configs[name] for name in map(learns_as, request.methods)}
    converge(learning, request.seeds, request.trajectories(), images, request.work)
    store = request.durations()
    with store.claimed(["durations"]):
        if names := store.missing(request.methods):
            runs = prepared({name: configs[name] for name in names}, images())
            store.measure(
                {name: (run, run.pretraining()) for name, run in runs.items()}, configs, request.quick
            )


def network_rows(request: Request, paper: Mapping[Key, float]) -> Iterator[Row]:
    """Tables 1 and 5, as far as known: `epoch_duration` and `timed_batches` (see `durations`; the column
    seeds holds the number of rounds), `epochs` to convergence (see `converged` and `readout`; mean and
    deviation over the seeds) and `total_duration`, epochs × epoch duration, whose spread is in its factors.

    A two-phase original has the epochs, and their configuration, of the fast one, which learns the same.
    """
    measured, learned = request.durations().newest(), request.trajectories()
    for method, name in NETWORKS.items():
        row = partial(_row, name, paper=paper)
        if method in measured:
            yield from duration_rows(row, measured[method])
        if (runs := learned.of(learns_as(method))) and (method in measured or learned.of(method)):
            mean, deviation = mean_and_deviation([float(converged(run.accuracies)) for run in runs])
            machine = ", ".join(dict.fromkeys(run.machine for run in runs))
            yield row("epochs", mean, deviation, len(runs), config=runs[0].config, machine=machine)
            if method in measured:
                cell = measured[method]
                total = mean * cell.figures["epoch_duration"]
                yield row("total_duration", total, None, len(runs), config=cell.config, machine=cell.machine)


def check_layers(request: Request) -> None:
    """Raise TableError for results of other configurations."""
    request.durations(layers=True).check(unwhitened(request.configs))
    request.readouts().check({name: request.configs[name] for name in map(learns_as, request.methods)})


def unwhitened(configs: Mapping[str, Config]) -> dict[str, Config]:
    """As layers are timed: the same images for all."""
    return {name: dataclasses.replace(config, whiten=False) for name, config in configs.items()}


def time_layers(request: Request, images: Images) -> None:
    """What table 4 misses: readouts, each method's, then durations, of one run."""
    configs, cells = request.configs, request.readouts()
    learning = list(dict.fromkeys(map(learns_as, request.methods)))
    with cells.claimed(learning):
        known = {cell.key for cell in cells.read()}
        missing = [
            [name for name in learning if (name, "", seed) not in known] for seed in range(request.seeds)
        ]
        left, countdown = sum(map(len, missing)), Countdown("layers")
        for seed, names in enumerate(missing):
            seeded = {name: dataclasses.replace(configs[name], seed=seed) for name in names}
            for name, run in prepared(seeded, images()).items() if names else ():
                database = {"database": len(run.split.pretraining)}
                cells.check_images(database)
                found = layer_readout(run)
                identifier, machine = cells.remember(run.config), describe(run.device)
                cells.add(Cell(name, "", seed, identifier, machine, {"readout_validation": found} | database))
                left -= 1
                shown = f"{name}, seed {seed}: {found:.4f} of the validation images"
                log.info("%s; %s", shown, countdown.one_done(left))
    store = request.durations(layers=True)
    with store.claimed(["durations"]):
        if names := store.missing(request.methods):
            same = unwhitened({name: configs[name] for name in names})
            runs = prepared(same, images())
            store.measure({name: (run, layer(run)) for name, run in runs.items()}, same, request.quick)


def layer_rows(request: Request, paper: Mapping[Key, float]) -> Iterator[Row]:
    """Table 4, as far as known: one layer, conv6's first, 3 → 96, 5 × 5; `epoch_duration` and `timed_batches`
    (see `durations`) from the same normalised, never whitened images for all, and `readout_validation` (see
    `layer_readout`; mean and deviation over the seeds). `top1` is the paper's alone: of whole models, each of
    its own paper. A two-phase original has the readout of the fast one, which learns the same.
    """
    measured, cells = request.durations(layers=True).newest(), request.readouts().read()
    for method, name in LAYERS.items():
        row = partial(_row, name, paper=paper)
        if method in measured:
            yield from duration_rows(row, measured[method])
        ours = [cell for cell in cells if cell.method == learns_as(method)]
        if not ours or not (method in measured or learns_as(method) == method):
            continue
        mean, deviation = mean_and_deviation([100 * cell.figures["readout_validation"] for cell in ours])
        machine = ", ".join(dict.fromkeys(cell.machine for cell in ours))
        config = ours[0].config
        yield row("readout_validation", mean, deviation, len(ours), config=config, machine=machine)
        if Key(name, "", "top1") in paper:
            yield row("top1", None, None, 0, config="", machine="")


def duration_rows(row: Callable[..., Row], cell: Cell) -> Iterator[Row]:
    """What was measured of a method."""
    figures, by = cell.figures, {"config": cell.config, "machine": cell.machine}
    rounds = int(figures["rounds"])
    yield row("epoch_duration", figures["epoch_duration"], figures["deviation"], rounds, **by)
    yield row("timed_batches", figures["timed_batches"], None, rounds, **by)


def _row(
    method: str,
    metric: str,
    mean: float | None,
    std: float | None,
    seeds: int,
    *,
    paper: Mapping[Key, float],
    config: str,
    machine: str,
) -> Row:
    printed = paper.get(Key(method, "", metric))
    return Row(method, "", metric, mean, std, seeds, printed, None, "", config, machine)


# --- One layer ---------------------------------------------------------------------------------------


def layer(run: Run) -> Pretraining | HebbianAntiHebbian:
    """What learns conv6's first layer alone as the run's configuration has it."""
    config, plan = run.config, BACKBONES["conv6"].convolutions[0]
    torch.manual_seed(derived_seed(config.seed, 1))
    if config.rule == "hah":
        return HaHLayer(plan.channels, plan.kernel, len(run.classes), config, run.device)
    hyper = {"temperature": config.temperature} if config.rule in HAVE_TEMPERATURE else {}
    only = HebbianConv2d(3, plan.channels, plan.kernel, rule=config.rule, hyper=hyper)
    network = nn.Sequential(only).to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Pretraining(network, lr=config.hebbian_lr, adaptive=config.hebbian_adaptive)


class Quadrants(nn.Module):
    """The mean over each quarter of the map (Coates, Ng, Lee, AISTATS 2011): (B, Q, H, W) -> (B, 4Q)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, H, W) -> (B, 4Q)."""
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


class HaHLayer(HebbianAntiHebbian):
    """HebbianAntiHebbian of a single layer, with its cost, below a linear classifier of its quadrants."""

    def __init__(self, filters: int, kernel: int, classes: int, config: Config, device: torch.device) -> None:
        only = HaHConv2d(3, filters, kernel)
        self.layers = {"0": only}
        self.cost_weights = COST_WEIGHTS
        model = nn.Sequential(only, Quadrants(), Linear(4 * filters, classes))
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.lr, self.epochs, self.schedule = config.hah_lr, config.epochs, config.schedule
        self.optimizer = nesterov(self.model, config.hah_lr, config.momentum)

    def weights(self) -> dict[str, Tensor]:
        """The state of a plain convolution, alone in a Sequential."""
        return {"0.weight": self.layers["0"].filters().detach()}


def layer_readout(run: Run) -> float:
    """What one epoch taught a layer: ReLU of its projections, the mean over each of the four quadrants, and
    ridge regression from all labels of the training images; accuracy on the validation images.

    Images are whitened where the rule's configuration says so. Test images take no part.
    """
    if not len(run.split.validation):
        raise DataError(f"{run.images.where}: no labelled images to validate on; add some")
    learner, pool = layer(run), Quadrants()
    seed = derived_seed(run.config.seed, 2, 0)
    torch.manual_seed(seed)
    positions = positions_of(run, learner)
    learn(run, learner, 0, batches(positions, run.config.batch_size, seed, run.home))
    filters = learner.weights()["0.weight"]

    def features(groups: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for at, images in run.inputs(groups):
            with torch.no_grad():
                yield at, pool(convolve(images, filters.to(images.dtype)).relu())

    return linear_accuracy(run, features, run.split.training, None)
