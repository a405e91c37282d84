"""How long pre-training takes: the paper's tables 1 and 5 (networks) and 4 (one layer, rules of others).

Every figure is defined where it is computed: `durations`, `converged`, `network_rows`, `layer_rows`. What was
measured is kept, as rows below results: `Durations`, `Trajectories`, and the cells of layers' readouts.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from training.config import Config
from training.device import describe, set_up_process
from training.learning.by_rule import Learner
from training.paper import plots, tables
from training.paper.cells import Cell, Cells
from training.paper.convergence import Images, Trajectories, converge, converged
from training.paper.durations import Durations, learns_as, prepared
from training.paper.one_layer import layer, layer_readout
from training.paper.significance import mean_and_deviation
from training.paper.tables import Key, Row, TableError
from training.paper.work import QUICK_IMAGES, Countdown, smaller
from training.pixels import Loaded, load
from training.run import Run

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
    time_epochs(request, request.durations(), configs, images, Run.pretraining)


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
    time_epochs(request, request.durations(layers=True), unwhitened(configs), images, layer)


def time_epochs(
    request: Request,
    store: Durations,
    configs: Mapping[str, Config],
    images: Images,
    learner: Callable[[Run], Learner],
) -> None:
    """What the durations miss, of one run."""
    with store.claimed(["durations"]):
        if names := store.missing(request.methods):
            runs = prepared({name: configs[name] for name in names}, images())
            store.measure({name: (run, learner(run)) for name, run in runs.items()}, configs, request.quick)


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
