"""What the service learns, and which artifact it serves; artifacts that nobody serves."""

import argparse
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from service.client import Client
from service.command.parsing import CATALOGUE_HELP, Adding, catalogue_url
from service.command.saying import Failed, progress, say, show
from service.schemas.jobs import Learned
from service.settings import PREFIX

POLL = 0.5  # seconds between two looks at a job


def add_to(command: Adding) -> None:
    """The subcommands and their options."""
    one = command("learn", learn)
    one.add_argument("--take", action="store_true", help="serve it then, unless it answers worse")
    one = command("jobs", jobs)
    one.add_argument(
        "--end", type=int, action="append", default=[], metavar="ID", help="cancel it, or delete what it made"
    )

    one = command("reload", reload)
    one.add_argument(
        "artifact",
        nargs="?",
        help="name of a folder beside the one served (what HEBBSEARCH_ARTIFACT leads to now)",
    )
    one.add_argument("--force", action="store_true", help="even if it answers worse")
    one.add_argument("--as-it-is", action="store_true", help="without what was done since: a copy comes back")
    command("rollback", rollback)
    command("snapshot", snapshot).add_argument("name", help="of a new folder beside the one served")

    one = command("verify", verify, remote=False)
    one.add_argument("artifact", type=Path)
    one.add_argument("--sweep", action="store_true", help="remove what a crash left and nobody needs")
    command("upgrade", upgrade, remote=False).add_argument("artifact", type=Path)
    one = command("move", move, remote=False)
    one.add_argument("artifact", type=Path)
    one.add_argument("--catalogue", metavar="URL", help=CATALOGUE_HELP)
    one = command("sync", sync, remote=False)
    one.add_argument("artifact", type=Path)
    one.add_argument("--engine", metavar="URL", help=f"of what ranks its codes ({PREFIX}ENGINE)")
    one.add_argument("--catalogue", metavar="URL", help=CATALOGUE_HELP)
    one.add_argument("--anew", action="store_true", help="forget first what is there")
    one = command("reencode", reencode, remote=False)
    one.add_argument("artifact", type=Path)
    one.add_argument("--encoder-of", type=Path, required=True, metavar="ARTIFACT")
    one.add_argument("--out", type=Path, required=True, metavar="ARTIFACT", help="a new folder")


def learn(options: argparse.Namespace, client: Client) -> int:
    """Have the service learn from all labels that there are now, and wait for it."""
    job, step = client.learn(), ""
    while job.status == "running":
        if job.step not in ("", step) and not options.json:
            say(step := job.step, file=sys.stderr)
        time.sleep(POLL)
        job = client.job(job.id)
    if job.result is None:
        raise Failed(f"job {job.id}: {job.error or 'it was cancelled'}")
    if options.json:
        show(job.model_dump())
    else:
        say(f"{job.target}: learned from {job.result.learned_from:,} labels")
        if (only := job.result.only_class) is not None:
            say(f"all of these are {only!r}: no label is predicted until there is a second one")
        say(compared(job.result))
    if options.take:
        return replaced(options, client.reload(job.target).model_dump())
    if not options.json:
        say(f"hebbsearch reload {job.target} serves it; hebbsearch jobs --end {job.id} deletes it")
    return 0


def compared(learned: Learned) -> str:
    """How good the answers were and are."""
    before, after = learned.before, learned.after
    if before is None or after is None:
        return f"{learned.held_out:,} labels are held out: too few to judge by"
    return (
        f"by {after.images:,} labels that nothing learned from: mAP {before.map:.3f} before, "
        f"{after.map:.3f} now, top-1 {before.top1:.3f} before, {after.top1:.3f} now"
    )


def jobs(options: argparse.Namespace, client: Client) -> int:
    """Say what is being learned, and what was."""
    for number in options.end:
        client.end_job(number)
    found = client.jobs()
    if options.json:
        show(found.model_dump()["jobs"])
    else:
        for job in found.jobs:
            use = ", in use" if job.in_use else ""
            say(f"{job.id:5d}  {job.status:9}  {job.target}{use}  {job.error or job.step}")
    return 0


def reload(options: argparse.Namespace, client: Client) -> int:
    """Serve another artifact."""
    told = client.reload(options.artifact, force=options.force, as_it_is=options.as_it_is)
    return replaced(options, told.model_dump())


def rollback(options: argparse.Namespace, client: Client) -> int:
    """Serve the artifact before again."""
    return replaced(options, client.rollback().model_dump())


def replaced(options: argparse.Namespace, told: dict[str, Any]) -> int:
    if options.json:
        show(told)
        return 0
    carried, compared = told["carried_over"], told["compared"]
    say(f"{told['after']} takes the place of {told['before']}")
    say(", ".join(f"{count:,} {what}" for what, count in carried.items()))
    if compared:
        before, after = compared["map_before"], compared["map_after"]
        say(f"mAP {before:.4f} before, {after:.4f} now, on {compared['queries']:,} images that both hold out")
    return 0


def snapshot(options: argparse.Namespace, client: Client) -> int:
    """Copy the artifact that is served."""
    made = client.snapshot(options.name)
    show(made.model_dump()) if options.json else say(f"{made.name}: {made.items:,} images")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Name all that is wrong with an artifact; nothing may be changing it."""
    from index.artifact import ArtifactError
    from index.verify import faults, sweep

    try:
        url = catalogue_url()
        swept = [str(path) for path in sweep(options.artifact, url)] if options.sweep else []
    except ArtifactError as error:
        raise Failed(str(error)) from None
    found = [str(fault) for fault in faults(options.artifact, url)]
    if options.json:
        show({"artifact": str(options.artifact), "faults": found, "swept": swept})
    else:
        for line in [*(f"removed {path}" for path in swept), *found]:
            say(line)
        if not found:
            say(f"{options.artifact}: no fault")
    return 1 if found else 0


def upgrade(options: argparse.Namespace) -> int:
    """Make what an artifact of an earlier version lacks; a service may go on with it."""
    from index.artifact import ArtifactError
    from index.database import CatalogueError
    from service.core.artifacts.upgrading import upgrade as make

    try:
        files, thumbnails, labels = make(options.artifact, url=catalogue_url(), progress=progress)
    except (ArtifactError, CatalogueError) as error:
        raise Failed(str(error)) from None
    if options.json:
        show(
            {
                "artifact": str(options.artifact),
                "of_files": files,
                "of_thumbnails": thumbnails,
                "labels": labels,
            }
        )
        return 0
    gone = f", of {thumbnails:,} by the thumbnail, as the file is gone" if thumbnails else ""
    if files + thumbnails:
        say(f"{options.artifact}: copies of {files + thumbnails:,} more pictures can be found{gone}")
    if labels:
        say(f"{options.artifact}: images can be listed by how doubtful their labels are, {labels:,} have one")
    if not files + thumbnails + labels:
        say(f"{options.artifact}: lacks nothing")
    return 0


def move(options: argparse.Namespace) -> int:
    """Bring the catalogue of an artifact into PostgreSQL."""
    from index.artifact import ArtifactError, open_artifact
    from index.catalogue import move as move_into
    from index.database import CatalogueError
    from index.postgres_catalogue import SHAPE, is_url, without_password

    if (url := options.catalogue or catalogue_url()) is None or not is_url(url):
        raise Failed(f"where to? name it by --catalogue {SHAPE}")
    try:
        place = without_password(url)
        with open_artifact(options.artifact).open_catalogue() as catalogue:
            counts = move_into(catalogue, url)
    except (ArtifactError, CatalogueError) as error:
        raise Failed(str(error)) from None
    if options.json:
        show({"artifact": str(options.artifact), "catalogue": place, "rows": counts})
        return 0
    say(f"{options.artifact}: {counts['items']:,} images lie in {place} now, compared row by row")
    say(
        f"serve it with {PREFIX}CATALOGUE, which names that place; its file catalogue.sqlite is not "
        "read any more, and stays until you delete it"
    )
    return 0


def sync(options: argparse.Namespace) -> int:
    """Bring what ranks an artifact's codes elsewhere up to date; a service may go on with it."""
    from index.artifact import ArtifactError, open_artifact
    from index.database import CatalogueError
    from index.engine import EngineError
    from index.engines import BESIDE_CATALOGUE, FLAT, IVF, fill, ranked, ranker_at, shown

    name, url = (
        options.engine or os.environ.get(f"{PREFIX}ENGINE") or FLAT,
        options.catalogue or catalogue_url(),
    )
    if name == BESIDE_CATALOGUE:
        if url is None:
            raise Failed("the catalogue is a file, beside which nothing ranks; name its --catalogue")
        name = url
    if name in (FLAT, IVF):
        raise Failed(f"there is nothing to bring up to date: {name} ranks in the service; name an --engine")
    try:
        place = shown(name)
        artifact = open_artifact(options.artifact, url)
        with (
            artifact.open_catalogue() as catalogue,
            closing(ranker_at(name, bits=catalogue.bits, encoder_id=catalogue.encoder_id)) as ranker,
        ):
            brought = 0
            for number in fill(ranker, catalogue, anew=options.anew):
                brought += number
                say(f"{place}: {brought:,} changes", file=sys.stderr)
            items, revision = ranked(ranker), ranker.revision()
    except (ArtifactError, CatalogueError, EngineError, ValueError) as error:
        raise Failed(str(error)) from None
    if options.json:
        show({"engine": place, "items": items, "revision": revision, "brought": brought})
    else:
        say(f"{place}: {items:,} codes at revision {revision:,}; {brought:,} changes were brought there")
    return 0


def reencode(options: argparse.Namespace) -> int:
    """Move an artifact whose images are there to the encoder of another."""
    from index.artifact import ArtifactError
    from service.core.artifacts.reencode import reencode as move

    try:
        made = move(options.artifact, options.encoder_of, options.out, progress=progress)
    except ArtifactError as error:
        raise Failed(str(error)) from None
    answer = {"artifact": str(made.path), "encoder_id": made.manifest.encoder_id}
    show(answer) if options.json else say(f"{made.path}: encoder {made.manifest.encoder_id}")
    return 0
