"""Many images are encoded by many processes, and what they made is brought into an artifact."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.command.parsing import CATALOGUE_HELP, Adding, catalogue_url
from service.command.saying import SHOWN, SOME_LEFT_OUT, Failed, say, show


def add_to(command: Adding) -> None:
    """The subcommands and their options."""
    one = command("encode", encode, remote=False)
    one.add_argument("--data", required=True, metavar="FOLDER", help="or a tar, or an address of fsspec")
    one.add_argument("--encoder", type=Path, required=True, metavar="ARTIFACT", help="or its first two files")
    one.add_argument("--out", type=Path, required=True, metavar="SHARDS", help="a folder that all share")
    one.add_argument("--name", help="what a catalogue calls the folder of the images (its own name)")
    one.add_argument("--no-labels", action="store_true", help="neither of the folders nor in the tars")
    one.add_argument("--part-size", type=int, default=10_000, metavar="IMAGES", help="of a part (10,000)")
    one.epilog = "Of several processes each does its share, as RANK and WORLD_SIZE say; torchrun sets them."
    one = command("load", load, remote=False)
    one.add_argument("shards", type=Path)
    one.add_argument("--artifact", type=Path, required=True, help="of the same encoder")
    one.add_argument("--catalogue", metavar="URL", help=CATALOGUE_HELP)


def encode(options: argparse.Namespace) -> int:
    """Encode many images into shards, alone or as one of many processes; what is there already stays."""
    from index import shards
    from service.core.artifacts.encoding import Worker, prepare

    with in_one_line(options.out):
        worker = Worker.of(os.environ)
        work = prepare(
            options.data,
            options.encoder,
            options.out,
            worker,
            name=options.name,
            labels=not options.no_labels,
            part_size=options.part_size,
        )
        images, noted = 0, list[tuple[str, str]]()
        for done in work.do():
            images += done.counted.images
            if done.counted.noted:
                noted += shards.noted(work.out, done.number)
            speed = f"{done.counted.images / done.seconds:,.0f} a second" if done.seconds else "there before"
            _tell(options, f"part {done.number + 1:,} of {work.plan.parts:,}", done.counted.images, speed)
        ready = sum(shards.path_of(work.out, number).exists() for number in range(work.plan.parts))
    if options.json:
        about = {"shards": str(work.out), "parts": work.plan.parts, "ready": ready, "images": images}
        show(about | {"noted": dict(noted)})
    else:
        mine = "" if worker.world == 1 else f"process {worker.rank} of {worker.world}: "
        say(f"{work.out}: {mine}{images:,} images; {ready:,} of {work.plan.parts:,} parts are there")
        _name(noted)
    # A launcher takes any other code for a failure, and ends those that are still at work.
    return SOME_LEFT_OUT if noted and "WORLD_SIZE" not in os.environ else 0


def load(options: argparse.Namespace) -> int:
    """Bring shards into the catalogue of an artifact; a service may go on with it, and twice is as once."""
    from index import shards
    from service.core.artifacts.loading import prepare

    with in_one_line(options.artifact):
        loading = prepare(options.shards, options.artifact, options.catalogue or catalogue_url())
        arrivals, before, noted = Counter[str](), 0, list[tuple[str, str]]()
        for brought in loading.do():
            if brought.counted.noted:
                noted += shards.noted(options.shards, brought.number)
            if brought.arrivals is None:
                before += 1
                continue
            arrivals += brought.arrivals
            _tell(
                options,
                f"part {brought.number + 1:,} of {loading.plan.parts:,}",
                brought.counted.images,
                f"{brought.arrivals['added']:,} are new",
            )
    missing = loading.plan.parts - len(loading.there)
    told = {name: arrivals[name] for name in ("added", "exists", "restored")}
    if options.json:
        about = {"artifact": str(options.artifact), **told, "parts_before": before, "parts_missing": missing}
        show(about | {"noted": dict(noted)})
    else:
        say(
            f"{options.artifact}: {told['added']:,} added, {told['exists']:,} there already, "
            f"{told['restored']:,} back from the trash; {before:,} parts were loaded before"
        )
        if missing:
            say(f"{missing:,} of {loading.plan.parts:,} parts are not encoded yet; give both commands again")
        _name(noted)
    return SOME_LEFT_OUT if noted or missing else 0


@contextmanager
def in_one_line(place: Path) -> Iterator[None]:
    """Whatever ends the work at this place, as Failed."""
    from index.artifact import ArtifactError
    from index.database import CatalogueError
    from index.shards import ShardError
    from index.space import no_space
    from service.core.pictures.decoding import NoDecoder

    try:
        yield
    except (ArtifactError, CatalogueError, ShardError, NoDecoder) as error:
        raise Failed(str(error)) from None
    except OSError as error:
        where, what = error.filename or place, error.strerror or error
        space = "free space, and " if no_space(error) else ""
        raise Failed(f"{where}: {what}; {space}the same command goes on where it was") from None


def _tell(options: argparse.Namespace, what: str, images: int, more: str) -> None:
    if not options.json:
        say(f"{what}: {images:,} images, {more}", file=sys.stderr)


def _name(noted: Sequence[tuple[str, str]]) -> None:
    """What was left out, or of which the label was."""
    for path, reason in noted[:SHOWN]:
        say(f"left out: {path}: {reason}", file=sys.stderr)
    if len(noted) > SHOWN:
        say(f"left out: {len(noted) - SHOWN:,} more; --json names all", file=sys.stderr)
