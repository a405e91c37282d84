"""From images to a searchable artifact: pre-train, fine-tune, hash, index, evaluate.

python training/build_index.py --backbone vgg11 --rule swta_fh
"""

import argparse
import dataclasses
import datetime
import errno
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from index.evaluation import mean_average_precision
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from index import artifact
from index.catalogue import UNLABELLED, Catalogue, NewItem
from index.codes import Codes
from training import data, protocol
from training.config import DATASETS, Config, ConfigError, configure, parse_setting
from training.data import DataError, ImageSet
from training.finetune import Classifier, Supervised, accuracy, head_without_labels
from training.hebbian import HebbianConv2d, NotFinite, Pretraining, plain_weights
from training.nets.backbones import BACKBONES, Network, feature_count
from training.nets.encoder import Description, Encoder, Normalise
from training.nets.head import Head
from training.nets.images import thumbnail
from training.rules import COMPARES_DIRECTIONS, RULES

STAGES = ("pre-training", "fine-tuning", "hashing head")
FEATURES_IN_MEMORY = 2 << 30
ITQ_IMAGES = 4096  # enough to learn a rotation from; more costs time that grows with the cube


class OutputError(ValueError):
    """The place to write to cannot be used; the message says why and what to do."""


class Model(nn.Module):
    """All that a run learns. `classifier` and `head` are None where there are no labels (yet)."""

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        self.normalise = Normalise(whiten=config.whiten)
        network = Network(config.backbone, config.image_size)
        self.classifier = Classifier(network, BACKBONES[config.backbone].hidden, classes, config.dropout)
        self.head = Head(feature_count(config.backbone, config.image_size), config.bits, classes)

    @property
    def network(self) -> Network:
        """The network that is pre-trained."""
        return self.classifier.network


class Run:
    """One training run: its data, its model, its place on disk, and the stages one after the other."""

    def __init__(self, config: Config, work: Path) -> None:
        self.config, self.work = config, work
        self.device = torch.device(choose_device(config.device))
        found = load_images(config)
        fraction = config.fraction() if found.classes else 0.0
        self.images, self.pixels, self.skipped = data.read(found, config.image_size)
        self.split = protocol.split(self.images, fraction, config.seed)
        self.labels = torch.from_numpy(self.images.labels)
        self.checkpoint = work / "checkpoint.pt"
        self.seconds: dict[str, float] = {}
        self.history: dict[str, list[float]] = {}
        torch.manual_seed(protocol.derived_seed(config.seed))
        classes = len(self.images.classes) if len(self.split.training) else 0
        self.model = Model(config, classes).to(self.device)

    # --- the stages ---

    def train(self) -> str:
        """Run what is not done yet; returns how the codes were learned."""
        saved = self.restore()
        if saved is None:
            self.fit_preprocessing()
        if self.config.rule == "none":
            xavier(self.model.network)
        elif saved is None or saved["stage"] == STAGES[0]:
            self.pretrain(saved)
            saved = None
        if not len(self.split.training):
            return self.hash_without_labels()
        if saved is None or saved["stage"] == STAGES[1]:
            self.finetune(saved)
            saved = None
        self.train_head(saved)
        return "supervised tanh head"

    def fit_preprocessing(self) -> None:
        """Mean, deviation and, if asked for, whitening of the pre-training images."""
        positions = self.split.pretraining
        self.model.normalise.fit(self.pixels[at] for at in data.batches(positions, 512))
        if self.config.whiten:
            several = self.progress("whitening", data.batches(positions, 512), -(-len(positions) // 512))
            self.model.normalise.fit_whitening(
                (self.pixels[at] for at in several), smoothing=self.config.smoothing
            )

    def pretrain(self, saved: dict[str, Any] | None) -> None:
        """Hebbian learning from unlabelled images, then the plain network with what was learned."""
        config = self.config
        hyper = {"temperature": config.temperature} if config.rule in COMPARES_DIRECTIONS else {}
        layer = partial(HebbianConv2d, rule=config.rule, hyper=hyper)
        torch.manual_seed(protocol.derived_seed(config.seed, 1))
        network = Network(config.backbone, config.image_size, layer).to(self.device)
        if saved is not None:
            network.load_state_dict(saved["training"])
        learning = Pretraining(network, lr=config.hebbian_lr, adaptive=config.hebbian_adaptive)
        for epoch in self.epochs(STAGES[0], config.epochs, saved, network.state_dict):
            learning.epoch(self.inputs(at) for at in self.shuffled(STAGES[0], epoch, self.split.pretraining))
        self.model.network.load_state_dict(plain_weights(network))

    def finetune(self, saved: dict[str, Any] | None) -> None:
        """The whole network, end to end, on the labelled images."""
        config, model = self.config, self.model.classifier
        learning = self.supervised(model, config.finetune_lr, config.weight_decay, config.finetune_epochs)
        self.supervise(STAGES[1], learning, self.inputs, saved)

    def train_head(self, saved: dict[str, Any] | None) -> None:
        """The hashing head on the network's features, which stay as they are."""
        config, model = self.config, self.model.head
        self.model.network.eval()
        learning = self.supervised(model, config.head_lr, config.head_weight_decay, config.head_epochs)
        self.supervise(STAGES[2], learning, self.remembered_features(), saved)

    def supervised(self, model: nn.Module, lr: float, weight_decay: float, epochs: int) -> Supervised:
        """Supervised learning of `model` as the configuration has it."""
        return Supervised(
            model, lr=lr, momentum=self.config.momentum, weight_decay=weight_decay, epochs=epochs
        )

    def supervise(
        self,
        stage: str,
        learning: Supervised,
        inputs: Callable[[Tensor], Tensor],
        saved: dict[str, Any] | None,
    ) -> None:
        """Learn from `inputs(positions)` of the labelled images, keeping the best validation epoch."""
        training, validation = self.split.training, self.split.validation
        if saved is not None:
            learning.load_state_dict(saved["training"])

        def labelled(groups: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
            return ((inputs(at), self.labels[at].to(self.device)) for at in groups)

        for epoch in self.epochs(stage, learning.epochs, saved, learning.state_dict):
            learning.epoch(epoch, labelled(self.shuffled(stage, epoch, training)))
            if len(validation):
                score = accuracy(learning.model, labelled(data.batches(validation, 256)))
                learning.consider(score)
                self.history.setdefault(stage, []).append(score)
        learning.finish()

    def hash_without_labels(self) -> str:
        """A head from the features of (a sample of) the database."""
        self.model.network.eval()
        rng = np.random.default_rng(self.config.seed)
        count = min(ITQ_IMAGES, len(self.split.database))
        sample = np.sort(rng.choice(self.split.database, count, replace=False))
        features = torch.cat([self.features(at) for at in data.batches(sample, 256)])
        head, method = head_without_labels(features.cpu().numpy(), self.config.bits, self.config.seed)
        self.model.head = head.to(self.device)
        return method

    # --- their parts ---

    def inputs(self, positions: Tensor) -> Tensor:
        """Normalised images (b, 3, S, S) on the device."""
        with torch.no_grad():
            x: Tensor = self.model.normalise(self.pixels[positions].to(self.device))
            return x

    def features(self, positions: Tensor) -> Tensor:
        """Flattened convolutional features (b, F) on the device."""
        with torch.no_grad():
            maps: Tensor = self.model.network.features(self.inputs(positions))
            return maps.flatten(1)

    def remembered_features(self) -> Callable[[Tensor], Tensor]:
        """`features` of the labelled images, computed once if they fit into memory."""
        labelled = np.concatenate([self.split.training, self.split.validation])
        if 4 * len(labelled) * self.model.head.hash.in_features > FEATURES_IN_MEMORY:
            return self.features
        known = torch.cat([self.features(at) for at in data.batches(labelled, 256)])
        row_of = torch.zeros(len(self.images), dtype=torch.int64)
        row_of[torch.from_numpy(labelled)] = torch.arange(len(labelled))
        return lambda at: known[row_of[at].to(known.device)]

    def shuffled(self, stage: str, epoch: int, positions: NDArray[np.int64]) -> Iterator[Tensor]:
        """This epoch's batches, in an order that seed, stage and epoch decide; seeds torch likewise."""
        seed = protocol.derived_seed(self.config.seed, 2 + STAGES.index(stage), epoch)
        torch.manual_seed(seed)
        count = -(-len(positions) // self.config.batch_size)
        groups = data.batches(positions, self.config.batch_size, seed)
        return self.progress(f"{stage} {epoch + 1}", groups, count)

    def progress(self, what: str, steps: Iterator[Tensor], count: int) -> Iterator[Tensor]:
        """`steps` with a bar on standard error if they take longer than two seconds."""
        return iter(tqdm(steps, what, count, delay=2, leave=False, unit="batch"))

    def epochs(self, stage: str, count: int, saved: dict[str, Any] | None, state: Any) -> Iterator[int]:
        """The epochs still to do, with a checkpoint before the first and after each."""
        first = 0 if saved is None else saved["epoch"]
        start = time.monotonic() - self.seconds.get(stage, 0.0)
        if saved is None:
            self.save(stage, 0, state())
        for epoch in range(first, count):
            yield epoch
            self.seconds[stage] = time.monotonic() - start
            self.save(stage, epoch + 1, state())

    def save(self, stage: str, epoch: int, training: dict[str, Any]) -> None:
        """Write the checkpoint; the old one stays until the new one is complete."""
        temporary = self.checkpoint.with_suffix(".tmp")
        state = {"stage": stage, "epoch": epoch, "model": self.model.state_dict(), "training": training}
        torch.save(state | {"seconds": self.seconds, "history": self.history}, temporary)
        os.replace(temporary, self.checkpoint)

    def restore(self) -> dict[str, Any] | None:
        """Read the checkpoint, if there is one, into the model; returns the rest of it."""
        if not self.checkpoint.exists():
            return None
        saved: dict[str, Any] = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.seconds, self.history = saved["seconds"], saved["history"]
        return saved

    # --- the artifact ---

    def encoder(self) -> Encoder:
        """The encoder with what was learned, on the run's device."""
        description = Description(
            backbone=self.config.backbone,
            image_size=self.config.image_size,
            whiten=self.config.whiten,
            bits=self.config.bits,
            classes=0 if self.model.head.classifier is None else self.model.head.classifier.out_features,
        )
        encoder = Encoder(description)
        encoder.normalise.load_state_dict(self.model.normalise.state_dict())
        encoder.features.load_state_dict(self.model.network.features.state_dict())
        encoder.head.load_state_dict(self.model.head.state_dict())
        for name, tensor in encoder.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise NotFinite(f"{name} is not finite after training with rule {self.config.rule}")
        return encoder.eval().to(self.device)

    def codes(self, encoder: Encoder, positions: NDArray[np.int64]) -> Codes:
        """Codes of the images at `positions` (n, bits / 8)."""
        groups = self.progress("encoding", data.batches(positions, 256), -(-len(positions) // 256))
        return np.concatenate([encoder.encode(self.pixels[at].to(self.device)) for at in groups])

    def measure(self, database: Codes, queries: Codes) -> dict[str, float]:
        """What the held-out queries say."""
        labels = self.images.labels
        ranked = labels[self.split.database] != UNLABELLED
        asked = labels[self.split.queries] != UNLABELLED
        arrays = (
            queries[asked],
            labels[self.split.queries][asked],
            database[ranked],
            labels[self.split.database][ranked],
        )
        batches = (
            (self.inputs(at), self.labels[at].to(self.device))
            for at in data.batches(self.split.queries[asked], 256)
        )
        self.model.eval()
        return {
            "map": mean_average_precision(*arrays),
            "map_at_100": mean_average_precision(*arrays, k=100),
            "map_at_100_retrieved": mean_average_precision(*arrays, k=100, denominator="retrieved"),
            "top1": accuracy(self.model.classifier, batches),
        }

    def write(self, method: str, target: Path) -> artifact.Artifact:
        """Encode, measure and publish the artifact."""
        staging = self.work / "artifact"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        encoder = self.encoder()
        encoder.save(staging / artifact.ENCODER)
        identity = artifact.encoder_id(staging / artifact.ENCODER)
        split = self.split
        codes = self.codes(encoder, split.database)
        catalogue = Catalogue.create(
            staging / artifact.CATALOGUE,
            encoder_id=identity,
            bits=self.config.bits,
            classes=self.images.classes if len(split.training) else (),
        )
        metrics: dict[str, Any] = {"seconds": {stage: round(s, 1) for stage, s in self.seconds.items()}}
        with catalogue:
            catalogue.add(self.items(split.database, "database", codes))
            if len(split.queries):
                query_codes = self.codes(encoder, split.queries)
                ids = catalogue.add(self.items(split.queries, "query", None))
                labels = self.images.labels[split.queries]
                queries = artifact.Queries(query_codes, labels, np.array(ids, np.int64))
                artifact.save_queries(staging / artifact.QUERIES, queries)
                metrics |= self.measure(codes, query_codes)
                metrics["validation"] = self.history
        return artifact.publish(staging, target, self.manifest(encoder, identity, method, metrics))

    def items(self, positions: NDArray[np.int64], split: Any, codes: Codes | None) -> Iterator[NewItem]:
        """Catalogue rows of the images at `positions`."""
        labelled = bool(len(self.split.training))

        def row(number: int) -> NewItem:
            position = int(positions[number])
            image = self.images.open(position)
            return NewItem(
                path=self.images.paths[position],
                label=int(self.images.labels[position]) if labelled else UNLABELLED,
                split=split,
                width=image.width,
                height=image.height,
                thumbnail=thumbnail(image),
                code=None if codes is None else codes[number],
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            rows = pool.map(row, range(len(positions)))
            yield from tqdm(rows, "thumbnails", len(positions), delay=2, leave=False, unit="image")

    def manifest(
        self, encoder: Encoder, identity: str, method: str, metrics: dict[str, Any]
    ) -> artifact.Manifest:
        """What is worth knowing of this run."""
        split, labels = self.split, self.images.labels
        unlabelled = labels[split.database] == UNLABELLED if len(split.training) else split.database >= 0
        return artifact.Manifest(
            format=artifact.FORMAT,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            encoder_id=identity,
            bits=self.config.bits,
            classes=self.images.classes if len(split.training) else (),
            config=dataclasses.asdict(self.config),
            preprocessing=encoder.preprocessing(),
            versions=versions() | {"device": describe(self.device)},
            data={
                "name": self.images.name,
                "root": None if self.images.root is None else str(self.images.root),
                "database": len(split.database),
                "labelled": int((~unlabelled).sum()),
                "unlabelled": int(unlabelled.sum()),
                "queries": len(split.queries),
                "skipped": self.skipped,
                "labels": self.config.labels if len(split.training) else "none",
                "training_labels": len(split.training),
                "validation_labels": len(split.validation),
                "codes": method,
            },
            metrics=metrics,
            files={},
        )


def load_images(config: Config) -> ImageSet:
    """The images that the configuration names. Raises DataError."""
    labels = config.labels_file()
    if config.dataset in data.NAMED:
        if labels is not None:
            raise DataError(
                f"{labels}: --dataset {config.dataset} has its own labels; use --labels 1% to 100%"
            )
        if config.data is None:
            raise DataError(f"--dataset {config.dataset} needs --data DIR, where its files lie or shall lie")
        return data.NAMED[config.dataset](Path(config.data))
    if config.data is not None:
        return data.folder(Path(config.data), labels)
    if labels is not None:
        raise DataError(f"{labels}: a file of labels needs --data DIR, the folder of the images it names")
    return data.digits()


def xavier(network: Network) -> None:
    """Glorot and Bengio's initialisation of every convolution: the network that learned nothing."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)


def choose_device(name: str) -> str:
    """`auto` is a GPU if torch sees one. Raises ConfigError for a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name}: not usable here ({str(error).splitlines()[0]})") from None
    return name


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Of everything that the numbers depend on."""
    packages = ("torch", "torchvision", "faiss-cpu", "numpy", "pillow", "hebbsearch")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


# --- the command -----------------------------------------------------------------------------------


def build(config: Config, target: Path, work: Path) -> artifact.Artifact:
    """Train as `config` says, working in the folder `work`, and publish the artifact at `target`."""
    (work / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2))
    run = Run(config, work)
    method = run.train()
    built = run.write(method, target)
    shutil.rmtree(work)
    return built


def report(built: artifact.Artifact) -> Iterator[str]:
    """What the command says at its end."""
    about, metrics = built.manifest.data, built.manifest.metrics
    for skipped in about["skipped"][:5]:
        yield f"skipped {skipped['path']}: {skipped['reason']}"
    if len(about["skipped"]) > 5:
        yield f"skipped {len(about['skipped']) - 5} more, all listed in {built.path / artifact.MANIFEST}"
    yield (
        f"{built.path}: {about['database']} images indexed, "
        f"codes of {built.manifest.bits} bits ({about['codes']})"
    )
    if "map" in metrics:
        yield (
            f"mAP {metrics['map']:.4f} (full ranking; @100: {metrics['map_at_100']:.4f}), "
            f"top-1 {metrics['top1']:.4f}; {about['queries']} held-out queries; "
            f"learned from {about['training_labels']} labels, {about['validation_labels']} more to validate"
        )
    else:
        yield "no mAP: there are no labels to measure with"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = (field.name for field in dataclasses.fields(Config))
    command = OneLineParser(
        prog="build_index",
        description="Learn features from images, turn the images into binary codes, and index them.",
        epilog=f"--set reaches every value of a run: {', '.join(names)}",
    )
    add = partial(command.add_argument, default=argparse.SUPPRESS)
    add("--backbone", choices=list(BACKBONES), help="network (default: conv6)")
    add("--rule", choices=[*RULES, "none"], help="learning rule of the pre-training (default: hpca_fh)")
    add("--dataset", choices=DATASETS, help="a named data set (default: digits, which needs no download)")
    add("--data", metavar="DIR", help="your images, or where the named data set lies or shall lie")
    add(
        "--labels",
        metavar="N%|FILE.csv|none",
        help="labels to learn from: 1%% to 100%% of the training part, a file with lines path,label, or none "
        "(default: 100%%)",
    )
    add("--epochs", type=int, metavar="N", help="of pre-training (default: as the data set needs)")
    add("--finetune-epochs", type=int, metavar="N", help="of fine-tuning and of the head (likewise)")
    add("--image-size", type=int, metavar="PX", help="network input (default: the backbone's; digits: 32)")
    add("--seed", type=int, metavar="N", help="of everything random (default: 0)")
    add("--device", metavar="NAME", help="auto, cpu, cuda … (default: auto, a GPU if there is one)")
    add("--out", metavar="DIR", help="the new artifact's folder (default: artifacts/run-001, -002 …)")
    add("--resume", metavar="DIR", help="go on with an interrupted run (its folder ends in .partial)")
    add("--set", metavar="NAME=VALUE", action="append", help="any other value of a run, see below")
    return command


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows all flags)\n")


def new_folder(out: str | None) -> tuple[Path, Path]:
    """Claim a target and its working folder. Raises OutputError if a named one exists."""
    if out is None:
        numbers = iter(range(1, 10_000))
        return next(
            claimed for number in numbers if (claimed := _claim(Path("artifacts", f"run-{number:03d}")))
        )
    target = Path(out)
    if target.exists():
        raise OutputError(f"{target} exists; name another folder with --out, or remove it")
    claimed = _claim(target)
    if claimed is None:
        raise OutputError(
            f"{_work(target)} is an unfinished run; go on with --resume {_work(target)}, or remove it"
        )
    return claimed


def _claim(target: Path) -> tuple[Path, Path] | None:
    work = _work(target)
    try:
        if target.exists():
            return None
        work.mkdir(parents=True)
    except FileExistsError:
        return None
    return target, work


def _work(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def resumed(folder: Path) -> tuple[Config, Path]:
    """Configuration and target of the interrupted run in `folder`. Raises OutputError."""
    try:
        values = json.loads((folder / "config.json").read_text())
        if folder.suffix != ".partial":
            raise ValueError("its name does not end in .partial")
        return Config(**values), folder.with_suffix("")
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{folder}: no interrupted run to go on with ({error})") from error


def run_command(arguments: list[str] | None = None) -> None:
    """Parse, build, report. Raises the errors that `main` turns into one line."""
    flags = vars(parser().parse_args(arguments))
    out, resume = flags.pop("out", None), flags.pop("resume", None)
    settings = dict(parse_setting(text) for text in flags.pop("set", []))
    if resume is not None:
        if flags or settings or out is not None:
            raise ConfigError("--resume goes alone: the interrupted run knows its own settings")
        work = Path(resume)
        config, target = resumed(work)
    else:
        config = configure(flags | settings)
        choose_device(config.device)
        target, work = new_folder(out)
    # Sharp softmaxes produce denormal numbers, which are many times slower; before any thread starts.
    torch.set_flush_denormal(True)
    try:
        built = build(config, target, work)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; go on with: python training/build_index.py --resume {work}"
        ) from None
    except (DataError, ConfigError):
        if resume is None:
            shutil.rmtree(work)  # nothing was learned yet
        raise
    for line in report(built):
        print(line)


def main() -> None:
    """The command: errors of the user's making end in one line and exit code 2."""
    try:
        run_command()
    except KeyboardInterrupt as stop:
        sys.exit(f"build_index: {stop}" if str(stop) else 130)
    except (ConfigError, DataError, OutputError, ArithmeticError, artifact.ArtifactError) as error:
        fail(str(error))
    except OSError as error:
        fail(explain(error))


def explain(error: OSError) -> str:
    """One line for what the operating system refused."""
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk ({error.filename or 'while writing'}); free some and use --resume"
    return str(error)


def fail(message: str) -> NoReturn:
    """End with one line and exit code 2."""
    print(f"build_index: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
