"""From images to a searchable artifact: pre-train, fine-tune, hash, index, measure.

python training/build_index.py --backbone vgg11 --rule swta_fh
"""

import os
import signal

# Ctrl-C while libraries load for seconds ends it without a traceback; `run_or_fail` has it end with a word.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Threads that wait spin for some microseconds, then sleep: asleep at once they take a third longer, and
# spinning as long as is usual they slow each other down many times over where there is other work too.
# OpenMP reads this once, when the imports below load it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import argparse
import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shlex import quote

from index.artifact import MANIFEST, Artifact
from index.near_copies import LEAVE_OUT
from training.command_line import (
    RELEARNING,
    RESUME,
    OneLineParser,
    OutputError,
    beside,
    hebbsearch,
    run_or_fail,
)
from training.config import (
    ABOUT,
    DATASETS,
    PRECISIONS,
    UNRULED,
    Config,
    ConfigError,
    check,
    configure,
    from_json,
    parse_setting,
    settings_help,
)
from training.device import choose_device, choose_precision, round_products, set_up_process
from training.export import export
from training.learning.together import (
    ALONE,
    Alone,
    WorkerLost,
    check_together,
    meet,
    missing,
    started_again,
)
from training.nets.backbones import BACKBONES
from training.nets.pretrained import NONE, PRETRAINED
from training.rules import RULES
from training.run import Run

FEW_QUERIES = 100  # where scores spread by 0.3, the mean of as many is known within 0.06


def build(config: Config, target: Path, work: Path, workers: Alone = ALONE) -> Artifact:
    """Train as `config` says, working in the folder `work`, and publish the artifact at `target`. Workers
    help with the training."""
    (work / "config.json").write_text(json.dumps(dataclasses.asdict(anywhere(config)), indent=2))
    run = Run(config, work, workers=workers)
    method = run.train()
    round_products("fp32")  # codes are to be those that the service computes
    built = export(run, method, work / "artifact", target)
    shutil.rmtree(work)
    return built


def assist(config: Config, work: Path | None, workers: Alone) -> None:
    """Train with those who build, and write nothing. A run that goes on lies in the folder `work`."""
    try:
        with missing("the first process says how to go on"):
            Run(config, work, workers=workers).train()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the first process says how to go on") from None


def anywhere(config: Config) -> Config:
    """The same configuration for whoever goes on in another folder."""
    data, labels = config.data, config.labels_file()
    weights = config.weights if config.weights in (NONE, PRETRAINED) else os.path.abspath(config.weights)
    return dataclasses.replace(
        config,
        weights=weights,
        data=None if data is None else os.path.abspath(data),
        labels=config.labels if labels is None else os.path.abspath(labels),
    )


def going_on(work: Path) -> str:
    """The command that goes on with the run in this folder."""
    return f"{hebbsearch()} build --resume {quote(str(work))}"


def report(built: Artifact) -> Iterator[str]:
    """What the command says at its end."""
    about, metrics = built.manifest.data, built.manifest.metrics
    for skipped in about["skipped"][:5]:
        yield f"skipped {skipped['path']}: {skipped['reason']}"
    if len(about["skipped"]) > 5:
        yield f"skipped {len(about['skipped']) - 5} more, all listed in {built.path / MANIFEST}"
    yield (
        f"{built.path}: {about['database']} images indexed, "
        f"codes of {built.manifest.bits} bits ({about['codes']})"
    )
    if copies := metrics.get("copies_of_queries"):
        yield f"{copies} copies of queries left out of the measurements"
    if near := metrics.get("near_copies"):
        yield f"{near} near-copies of queries " + (
            "left out of the measurements"
            if built.manifest.config["near_copies"] == LEAVE_OUT
            else "count in the measurements; --set near_copies=leave_out leaves them out"
        )
    if "map" in metrics:
        yield (
            f"mAP {metrics['map']:.4f} (full ranking; @100: {metrics['map_at_100']:.4f}), "
            f"top-1 {metrics['top1']:.4f}; {about['queries']} held-out queries; "
            f"learned from {about['training_labels']} labels, {about['validation_labels']} more to validate"
        )
        if about["queries"] < FEW_QUERIES:
            yield "so few queries may be far off: hebbsearch eval says between what"
    elif about["queries"]:
        yield "no mAP: nobody looked at the labels that are learned from, as they were accepted in groups"
    elif about["labelled"]:
        yield "no mAP: no image with a label is held out to ask with"
    else:
        yield "no mAP: without labels nothing can be measured"
    yield f"serve it with: {hebbsearch()} serve {quote(str(built.path))}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    settings = "\n".join(f"  {name:22}{what}" for name, what in settings_help().items())
    command = OneLineParser(
        prog="hebbsearch build",
        description="Learn features from images, turn the images into binary codes, and index them.",
        epilog=f"names for --set (the values of a run are in its manifest):\n{settings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = partial(command.add_argument, default=argparse.SUPPRESS)
    add("folder", nargs="?", metavar="FOLDER", help="your images, as --data")
    networks = f"{', '.join(BACKBONES)}, or timm/NAME, which others trained"
    add("--backbone", metavar="NAME", help=f"network: {networks} (default: conv6; your images: soft3)")
    add(
        "--weights",
        metavar="pretrained|none|FILE",
        help="of timm/NAME: timm's own, random ones, or a .safetensors or .pth file (default: pretrained)",
    )
    add(
        "--rule",
        choices=[*RULES, *UNRULED],
        help="learning rule of the pre-training (default: hpca_fh; your images: softhebb)",
    )
    add(
        "--recipe",
        choices=ABOUT["recipe"].choices,
        help="how features become codes: as in the paper, or by neighbours and few labels (default: best "
        "for your images, unless a backbone, a rule or a value of the fine-tuning is named; else paper)",
    )
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
    add(
        "--precision",
        choices=PRECISIONS,
        help="of the training (default: auto, bf16 where the device is faster in it, else fp32)",
    )
    add("--out", metavar="DIR", help="the new artifact's folder (default: artifacts/run-001, -002 …)")
    add("--resume", metavar="DIR", help="go on with an interrupted run (its folder ends in .partial)")
    add("--set", metavar="NAME=VALUE", action="append", help="any other value of a run, see below")
    return command


def new_folder(out: str | None) -> tuple[Path, Path]:
    """Claim a target and its working folder. Raises OutputError if a named one exists."""
    if out is None:
        claims = (_claim(Path("artifacts", f"run-{number:03d}")) for number in range(1, 10_000))
        return next(filter(None, claims))
    target = Path(out)
    if target.exists():
        raise OutputError(f"{target} exists; name another folder with --out, or remove it")
    refuse_relearning(beside(target))
    claimed = _claim(target)
    if claimed is None:
        raise OutputError(
            f"{beside(target)} is an unfinished run; go on with --resume {beside(target)}, or remove it"
        )
    return claimed


def _claim(target: Path) -> tuple[Path, Path] | None:
    work = beside(target)
    try:
        if target.exists():
            return None
        work.mkdir(parents=True)
    except FileExistsError:
        return None
    return target, work


def refuse_relearning(work: Path) -> None:
    """OutputError where an unfinished run of another command is in the folder."""
    if (work / RELEARNING).exists():
        raise OutputError(
            f"{work} is an unfinished run of hebbsearch label --full; give that command again, or remove it"
        )


def resumed(folder: Path) -> tuple[Config, Path]:
    """Configuration and target of the interrupted run in `folder`. Raises OutputError."""
    refuse_relearning(folder)
    try:
        values = json.loads((folder / "config.json").read_text())
        config = from_json(values)
    except OSError as error:
        raise OutputError(f"{folder}: no interrupted run to go on with ({error.strerror})") from error
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise OutputError(f"{folder / 'config.json'}: not the settings of a run ({reason})") from error
    if folder.suffix != ".partial":
        raise OutputError(f"{folder}: no interrupted run to go on with; the names of those end in .partial")
    target = folder.with_suffix("")
    if target.exists():
        raise OutputError(f"{target} exists already; rename it, or remove {folder}")
    return config, target


def run_command(arguments: list[str] | None = None) -> None:
    """Parse, build, report. Raises the errors that `main` turns into one line."""
    flags = vars(parser().parse_args(arguments))
    out, resume = flags.pop("out", None), flags.pop("resume", None)
    settings = dict(parse_setting(text) for text in flags.pop("set", []))
    if resume is None and started_again() and out is not None and beside(Path(out)).exists():
        resume, out, flags, settings = str(beside(Path(out))), None, {}, {}
    if (folder := flags.pop("folder", None)) is not None:
        if "data" in flags:
            raise ConfigError(f"{folder} and --data {flags['data']} are both folders of images; name one")
        flags["data"] = folder
    if resume is not None:
        changeable = {name for name, about in ABOUT.items() if about.changeable}
        if flags or out is not None or not set(settings) <= changeable:
            raise ConfigError(
                "--resume goes without other flags, since the run knows its own; "
                f"only --set {', '.join(sorted(changeable))} may change"
            )
        work = Path(resume)
        if work.name in {"", ".."}:  # that folder itself, which cannot be removed by such a name
            work = Path(os.path.abspath(work))
        config, target = resumed(work)
        config = dataclasses.replace(config, **settings)
        check(config)
    else:
        config = configure(flags | settings)
    check_together(config)
    device = choose_device(config.device)
    set_up_process(choose_precision(config.precision, device))
    workers = meet(device)
    if workers.rank:
        return assist(config, None if resume is None else work, workers)
    if resume is None:
        target, work = new_folder(out)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        with missing(f"go on with: {going_on(work)}"):
            built = build(config, target, work, workers)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; go on with: {going_on(work)}") from None
    except ArithmeticError as error:
        raise ArithmeticError(
            f"{error}; {going_on(work)} --set NAME=VALUE begins the stage of that learning rate anew, from "
            "the checkpoint before it"
        ) from error
    except Exception:
        if resume is None and not any(work.glob("checkpoint.*")):
            shutil.rmtree(work, ignore_errors=True)  # nothing was learned yet
        raise
    for line in report(built):
        print(line)


def main() -> None:
    """The command: errors of the user's making end in one line and exit code 2."""
    run_or_fail(run_command, "hebbsearch build", "stopped before it began", RESUME, WorkerLost)


if __name__ == "__main__":
    main()
