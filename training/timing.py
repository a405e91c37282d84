"""How long pre-training takes: the paper's tables 1 and 5 (networks) and 4 (one layer, rules of others).

Every figure is defined where it is computed: `durations`, `converged`, `time_networks`, `time_layers`.
"""

import csv
import dataclasses
import itertools
import logging
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from index.locking import locked
from training import data, plots, tables
from training.cells import Cell, Cells
from training.config import Config, ConfigError
from training.data import DataError, Loaded
from training.device import set_up_process
from training.export import describe
from training.finetune import nesterov
from training.grid import alone, work_folder
from training.hah import COST_WEIGHTS, HaHConv2d, HebbianAntiHebbian
from training.hebbian import HebbianConv2d, Pretraining
from training.nets.backbones import BACKBONES, Linear, convolve
from training.protocol import derived_seed
from training.readout import ridge_accuracy
from training.rules import HAVE_TEMPERATURE
from training.run import STAGES, Learner, Run, learn, load, positions_of
from training.significance import mean_and_deviation
from training.tables import Key, Row, TableError

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


def with_fast(methods: Iterable[str]) -> list[str]:
    """`methods` and, for each two-phase original among them, the fast one that learns the same."""
    methods = list(methods)
    return list(dict.fromkeys([*methods, *(FAST.get(method, method) for method in methods)]))


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

    @property
    def first(self) -> Config:
        """The configuration that says what is the same for all methods: data set, backbone, precision."""
        return self.configs[self.methods[0]]


def make(table: int, request: Request) -> str:
    """Compute and write `table<N>-<dataset>.csv`, `.md` and `.png` in `out`; returns the Markdown."""
    check_methods(table, request.methods)
    if request.seeds < 1:
        raise TableError(f"seeds {request.seeds}: at least 1 is needed")
    dataset = str(request.first.dataset)
    paper = tables.paper(table, dataset)
    set_up_process(request.first.precision)
    loaded = load(request.first)
    configs = {name: dataclasses.replace(config, labels="100%") for name, config in request.configs.items()}
    request = dataclasses.replace(request, configs=configs)
    compute = time_layers if table == 4 else time_networks
    rows = list(compute(request, loaded, paper))
    path = request.out / f"table{table}-{dataset}"
    tables.write_csv(path.with_suffix(".csv"), rows)
    text = markdown(rows)
    tables.replace_file(path.with_suffix(".md"), text.encode())
    of = "one epoch of pre-training" if table != 4 else "one epoch of one layer, 3→96, 5×5"
    plots.durations(path.with_suffix(".png"), *bars(rows), what=of)
    return text


def bars(rows: Iterable[Row]) -> tuple[dict[str, float], dict[str, float]]:
    """Epoch durations, ours and the paper's, by method."""
    shown = {row.method.removesuffix(" (this work)"): row for row in rows if row.metric == "epoch_duration"}
    ours = {name: row.mean for name, row in shown.items() if row.mean is not None}
    return ours, {name: row.paper for name, row in shown.items() if row.paper is not None}


def markdown(rows: Sequence[Row]) -> str:
    """The table without what is only the paper's, and what its figures are."""
    text = tables.markdown([row for row in rows if row.mean is not None])
    return (
        f"{text}\nEpoch durations: median ± standard deviation over rounds (their number in brackets), each "
        "extrapolated from its share of the timed batches; not measured over a whole epoch. SWTA and HPCA "
        "are the two-phase originals; what they learn is that of SWTA-FH and HPCA-FH, and taken from there.\n"
    )


# --- Durations ---------------------------------------------------------------------------------------


Go = Callable[[], object]


def interleaved(
    cases: Mapping[str, Callable[[], Go]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each case in each round, after one that does not count; the order turns from round to
    round. Calling a case prepares a go, which is then timed."""
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            go = cases[name]()
            start = clock()
            go()
            taken = clock() - start
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def durations(
    learners: Mapping[str, tuple[Run, Learner]], sampling: Sampling | None = None
) -> Iterator[tuple[str, str, float, float | None, int]]:
    """Method, metric, value, deviation, number of rounds; metrics `epoch_duration` and `timed_batches`.

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
    for method, seconds in interleaved(goes, rate.rounds).items():
        whole = batches_each(*learners[method]) / counts[method]
        _, deviation = mean_and_deviation([whole * each for each in seconds])
        yield method, "epoch_duration", whole * statistics.median(seconds), deviation, len(seconds)
        yield method, "timed_batches", float(counts[method] * len(seconds)), None, len(seconds)


def some_batches(run: Run, learner: Learner, count: int, rounds: Iterator[int]) -> Go:
    """The next go: `count` batches of one more epoch's beginning, computed to the end."""
    seed = derived_seed(run.config.seed, 2, next(rounds))
    shuffled = data.batches(positions_of(run, learner), run.config.batch_size, seed, run.home)
    groups = list(itertools.islice(shuffled, count))

    def go() -> None:
        learn(run, learner, 0, groups)
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)

    return go


def batches_each(run: Run, learner: Learner) -> int:
    """Batches of an epoch."""
    return -(-len(positions_of(run, learner)) // run.config.batch_size)


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
    """Accuracy of a ridge regression (see training/readout.py) from the flattened convolutional features of
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


class Trajectories:
    """Accuracies of the readout after each epoch, `convergence/<name>.csv`: a line an epoch."""

    COLUMNS = ("method", "seed", "epoch", "readout_accuracy", "config")

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / "convergence" / f"{name}.csv"
        self.cells = Cells(folder, f"{name}-convergence")  # keeps configurations, and others away

    def read(self) -> dict[tuple[str, int], tuple[str, list[float]]]:
        """{(method, seed): (configuration, accuracies)}. TableError for a file that holds something else."""
        found: dict[tuple[str, int], tuple[str, list[float]]] = {}
        if not self.path.exists():
            return found
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != self.COLUMNS:
                raise TableError(f"{self.path}: the columns should be {','.join(self.COLUMNS)}")
            try:
                for method, seed, epoch, accuracy, config in reader:
                    _, accuracies = found.setdefault((method, int(seed)), (config, []))
                    if int(epoch) != len(accuracies) + 1:
                        raise ValueError(f"epoch {epoch} where {len(accuracies) + 1} should be")
                    accuracies.append(float(accuracy))
            except ValueError as error:
                raise TableError(f"{self.path}, line {reader.line_num}: {error}; mend or remove it") from None
        return found

    def add(self, method: str, seed: int, config: str, accuracies: Sequence[float]) -> None:
        """Write a finished run beside the others; the file is replaced as a whole."""
        with locked(self.path.with_suffix(".lock"), wait=True):
            found = self.read() | {(method, seed): (config, accuracies)}
            text = StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(self.COLUMNS)
            for (name, number), (made_by, values) in found.items():
                lines = enumerate(values, 1)
                writer.writerows((name, number, epoch, f"{value:.6g}", made_by) for epoch, value in lines)
            tables.replace_file(self.path, text.getvalue().encode())

    def check(self, method: str, config: Config) -> None:
        """Raise TableError if runs of `method` were configured otherwise: their mean would mean nothing."""
        for name in {made_by for (of, _), (made_by, _) in self.read().items() if of == method}:
            if differing := self.cells.differences(name, config):
                raise TableError(
                    f"{self.path}: its epochs of {method} have configuration {name}, this run other values "
                    f"({differing}); name another folder with --out"
                )


def converge(
    configs: Mapping[str, Config], seeds: int, loaded: Loaded, out: Path, work: Path
) -> dict[str, list[int]]:
    """Epochs to convergence of each method for seeds 0 … `seeds` − 1; finished ones are not run again."""
    first = next(iter(configs.values()))
    finished = Trajectories(out, f"{first.dataset}-{first.backbone}")
    for method, config in configs.items():
        finished.check(method, config)
    with finished.cells.claimed(configs):
        for seed, (method, config) in itertools.product(range(seeds), configs.items()):
            if (method, seed) in finished.read():
                continue
            folder = work_folder(config, loaded, work) / f"{seed}-epochs"
            with alone(folder):
                accuracies = trajectory(Run(dataclasses.replace(config, seed=seed), folder, loaded))
                finished.add(method, seed, finished.cells.remember(config), accuracies)
                shutil.rmtree(folder)
            log.info("%s, seed %d: converged in epoch %d", method, seed, converged(accuracies))
    known = finished.read()
    return {method: [converged(known[method, seed][1]) for seed in range(seeds)] for method in configs}


# --- The tables --------------------------------------------------------------------------------------


def time_networks(request: Request, loaded: Loaded, paper: Mapping[Key, float]) -> Iterator[Row]:
    """Tables 1 and 5: `epoch_duration` and `timed_batches` (see `durations`; the column seeds holds the
    number of rounds), `epochs` to convergence (see `converged` and `readout`; mean and deviation over the
    seeds) and `total_duration`, epochs × epoch duration, whose spread is in its factors.

    A two-phase original has the epochs, and their configuration, of the fast one, which learns the same.
    """
    configs = request.configs
    learns = {method: FAST.get(method, method) for method in request.methods}
    epochs = converge(
        {name: configs[name] for name in learns.values()}, request.seeds, loaded, request.out, request.work
    )
    runs = prepared({name: configs[name] for name in request.methods}, loaded)
    cells = Cells(request.out, "")  # for the configurations
    measured = list(durations({name: (run, run.pretraining()) for name, run in runs.items()}))
    for method in request.methods:
        row = partial(_row, NETWORKS[method], paper=paper, machine=describe(runs[method].device))
        own, learned = cells.remember(configs[method]), cells.remember(configs[learns[method]])
        counts = [float(count) for count in epochs[learns[method]]]
        mean, deviation = mean_and_deviation(counts)
        for name, metric, value, spread, rounds in measured:
            if name == method:
                yield row(metric, value, spread, rounds, config=own)
                if metric == "epoch_duration":
                    yield row("epochs", mean, deviation, len(counts), config=learned)
                    yield row("total_duration", mean * value, None, len(counts), config=own)


def time_layers(request: Request, loaded: Loaded, paper: Mapping[Key, float]) -> Iterator[Row]:
    """Table 4: one layer, conv6's first, 3 → 96, 5 × 5; `epoch_duration` and `timed_batches` (see
    `durations`) from the same normalised, never whitened images for all, and `readout_validation` (see
    `layer_readout`; mean and deviation over the seeds). `top1` is the paper's alone: of whole models, each of
    its own paper. A two-phase original has the readout of the fast one, which learns the same.
    """
    configs = request.configs
    learns = {method: FAST.get(method, method) for method in request.methods}
    cells = Cells(request.out, f"{request.first.dataset}-layer")
    cells.check({name: configs[name] for name in learns.values()})
    with cells.claimed(learns.values()):
        for seed in range(request.seeds):
            done = {cell.key for cell in cells.read()}
            left = {n: configs[n] for n in learns.values() if (n, "", seed) not in done}
            seeded = {name: dataclasses.replace(config, seed=seed) for name, config in left.items()}
            for name, run in prepared(seeded, loaded).items():
                figures = {"readout_validation": layer_readout(run)}
                machine = describe(run.device)
                cells.add(Cell(name, "", seed, cells.remember(run.config), machine, figures))
                log.info("%s, seed %d: %.4f of the validation images", name, seed, *figures.values())
    same = {name: dataclasses.replace(configs[name], whiten=False) for name in request.methods}
    runs = prepared(same, loaded)
    measured = list(durations({name: (run, layer(run)) for name, run in runs.items()}))
    known = [cell for cell in cells.read() if cell.seed < request.seeds]
    for method in request.methods:
        row = partial(_row, LAYERS[method], paper=paper)
        for name, metric, value, spread, rounds in measured:
            if name == method:
                machine = describe(runs[method].device)
                config = cells.remember(same[method])
                yield row(metric, value, spread, rounds, config=config, machine=machine)
        ours = [cell for cell in known if cell.method == learns[method]]
        mean, deviation = mean_and_deviation([100 * cell.figures["readout_validation"] for cell in ours])
        machine = ", ".join(dict.fromkeys(cell.machine for cell in ours))
        config = ours[0].config
        yield row("readout_validation", mean, deviation, len(ours), config=config, machine=machine)
        if Key(LAYERS[method], "", "top1") in paper:
            yield row("top1", None, None, 0, config="", machine="")


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
    learn(run, learner, 0, data.batches(positions, run.config.batch_size, seed, run.home))
    filters = learner.weights()["0.weight"]

    def features(groups: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for at, images in run.inputs(groups):
            with torch.no_grad():
                yield at, pool(convolve(images, filters.to(images.dtype)).relu())

    return linear_accuracy(run, features, run.split.training, None)
