"""The command `hebbsearch`: build an index, serve it, and ask a service that runs.

All but `build`, `serve`, `verify` and `reencode` speak HTTP with it. Exit codes: 0 well, 1 refused
or failed, 2 wrong usage, 3 some files were left out.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, TextIO, TypeVar, get_args

from tqdm import tqdm

from index.labels import LabelError, known_as, label_of, labels_in
from index.names import normal, on_a_line, shown, take_any_letter
from index.sorting import Sort
from index.walking import DataError, walk
from service import folder as folders
from service.client import URL, Client, ServiceError
from service.schemas.images import Changed, Image
from service.schemas.jobs import Learned
from service.schemas.search import Result
from service.settings import PREFIX, Settings

T = TypeVar("T")

SOME_LEFT_OUT, CUT_OFF = 3, 141  # the latter is what a shell says of a program that SIGPIPE ended
COUNTED = ("added", "exists", "restored", "changed")  # what becomes of the files of a folder
POLL = 0.5  # seconds between two looks at a job
SHOWN = 20  # files left out that are named, without --json
SECRET = ("read_keys", "write_keys", "admin_keys")  # in the environment only: others can read a command line


class Failed(Exception):
    """One line that says what and the way out."""


# --- without a service -----------------------------------------------------------------------------


TRAINING = {"build": "training.build_index", "label": "training.label"}


def train(module: str, arguments: list[str]) -> NoReturn:
    """In place of this process, so that Ctrl-C reaches it and its checkpoint is written. With -P no module is
    taken from the folder in which it is started, as `-m` would."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


def serve(options: argparse.Namespace) -> int:
    """Serve an artifact over HTTP until it is stopped."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # threads that wait sleep soon
    if options.artifact_folder:
        os.environ[PREFIX + "ARTIFACT"] = str(options.artifact_folder)
    for name in Settings.model_fields:
        if (value := getattr(options, f"setting_{name}", None)) is not None:
            os.environ[PREFIX + name.upper()] = value
    import uvicorn

    config = uvicorn.Config(
        "service.app:create_app",
        factory=True,
        http="service.web.wire:Wire",
        host=options.host,
        port=options.port,
        log_level="info",
        timeout_graceful_shutdown=options.timeout_graceful_shutdown,
    )
    # Of its own a server listens at :: for IPv6 alone; a socket takes both, unless the system says otherwise.
    sockets = [config.bind_socket()] if options.host == "::" else None
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    return 0 if server.started else 3  # uvicorn has said why


def verify(options: argparse.Namespace) -> int:
    """Name all that is wrong with an artifact; nothing may be changing it."""
    from index.artifact import ArtifactError
    from index.verify import faults, sweep

    try:
        swept = [str(path) for path in sweep(options.artifact)] if options.sweep else []
    except ArtifactError as error:
        raise Failed(str(error)) from None
    found = [str(fault) for fault in faults(options.artifact)]
    if options.json:
        show({"artifact": str(options.artifact), "faults": found, "swept": swept})
    else:
        for line in [*(f"removed {path}" for path in swept), *found]:
            say(line)
        if not found:
            say(f"{options.artifact}: no fault")
    return 1 if found else 0


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


# --- with a service --------------------------------------------------------------------------------


def add(options: argparse.Namespace, client: Client) -> int:
    """Send a folder, or what is new of it."""
    root = options.folder.resolve()
    if not root.is_dir():
        raise Failed(f"{options.folder}: is no folder")
    name = normal(shown(options.name or root.name))
    walked = walk(root, without=options.labels)
    label_of, strays = labels_of_paths(options, client, root, walked.files)
    known = list(client.images(folder=name))
    plan = folders.compare(root, walked, known, label_of)
    if options.remove_gone and known and not (plan.send or plan.relabel or plan.unchanged):
        raise Failed(f"{options.folder}: holds none of the images of {name!r}; nothing was removed")
    refused, count = plan.refused | plan.kept | strays, dict.fromkeys(COUNTED, 0)
    for sent in progress(folders.send(client, name, plan.send), len(plan.send)):
        if sent.reason is not None:
            refused[sent.source.path] = sent.reason
        if sent.status != "refused":
            other = sent.status != "exists" and bool(sent.source.instead_of)
            count["changed" if other else sent.status] += 1
    relabelled = sum(1 for _ in progress(folders.relabel(client, plan.relabel), len(plan.relabel)))
    removed = 0
    if options.remove_gone and plan.refused and plan.gone:
        say("nothing is removed: what is missing may be a file that could not be read", file=sys.stderr)
    elif options.remove_gone:
        removed = sum(1 for _ in progress(folders.remove(client, plan.gone), len(plan.gone)))
    gone = [image.path for image in plan.gone][removed:]
    if options.json:
        counted = {**count, "relabelled": relabelled, "unchanged": plan.unchanged, "removed": removed}
        show({"folder": name, **counted, "gone": gone, "refused": refused})
    else:
        say(
            f"{name}: {count['added']:,} added, {count['changed']:,} changed, {relabelled:,} relabelled, "
            f"{plan.unchanged:,} unchanged, {count['exists']:,} there already under another name, "
            f"{count['restored']:,} back from the trash, {removed:,} removed"
        )
        if gone:
            say(f"{len(gone):,} are gone from the folder and still indexed; --remove-gone removes them")
        for path, reason in list(refused.items())[:SHOWN]:
            say(f"left out: {path}: {reason}", file=sys.stderr)
        if len(refused) > SHOWN:
            say(f"left out: {len(refused) - SHOWN:,} more; --json names all", file=sys.stderr)
    return SOME_LEFT_OUT if refused else 0


def labels_of_paths(
    options: argparse.Namespace, client: Client, root: Path, files: list[Path]
) -> tuple[Callable[[str], str | None], dict[str, str]]:
    """The label of a path in the folder; and what is wrong with paths that have a label and are not there."""
    there = cache(lambda: [each.label for each in client.stats().classes])
    taken = partial(accept, there)
    if options.labels is not None:
        given = labels_in(options.labels, root, files, taken)
        fault = f"{options.labels} has a label for it, and there is no such file"
        strays = dict.fromkeys([*given.strays, *given.elsewhere], fault)
        return lambda path: given.labels.get(Path(path)), strays
    if options.label_folders:
        return lambda path: (taken(shown(PurePosixPath(path).parts[0])) or None) if "/" in path else None, {}
    label = None if options.label is None else taken(options.label)
    if label == "":
        raise Failed("--label is empty; give a label, or leave it out")
    return lambda _: label, {}


def accept(there: Callable[[], list[str]], text: str) -> str:
    """The label that a text gives. LabelError, unless it is `there` since before there was a rule."""
    try:
        return label_of(text)
    except LabelError:
        label = known_as(text, there())
        if label is None:
            raise
        return label


def search(options: argparse.Namespace, client: Client) -> int:
    """Find what is near an image."""
    try:
        answer = client.search(
            options.image, k=options.k, max_distance=options.max_distance, label=options.label
        )
    except OSError as error:
        raise Failed(f"{options.image}: {error.strerror or error}") from None
    if options.json:
        show(answer.model_dump())
    else:
        for result in answer.results:
            say(f"{result.distance:4d}  {named(result)}")
    return 0


def evaluate(options: argparse.Namespace, client: Client) -> int:
    """Say how good the answers are."""
    evaluation = client.evaluate(k=options.k, ties=options.ties, denominator=options.denominator)
    if options.json:
        show(evaluation.model_dump())
    else:
        say(f"mAP {evaluation.map:.4f}")
        say(evaluation.definition.text)
        for each in evaluation.per_class:
            say(f"  {each.label}: {'–' if each.aps is None else f'{each.aps:.4f}'}, {each.items:,} images")
    return 0


def list_images(options: argparse.Namespace, client: Client) -> int:
    """Name what is indexed."""
    found = client.images(
        label=options.label,
        unlabelled=options.unlabelled,
        folder=options.folder,
        name=options.name,
        predicted=options.predicted,
        min_confidence=options.min_confidence,
        sort=options.sort,
        descending=options.descending,
    )
    return name_all(options, found)


def name_all(options: argparse.Namespace, images: Iterable[Image]) -> int:
    """A line for each image, or all as JSON."""
    if options.json:
        show([image.model_dump() for image in images])
    else:
        for image in images:
            say(named(image))
    return 0


def named(image: Result | Image) -> str:
    """Id, label and place of an image, in columns."""
    where = image.path or "–" if image.folder is None else f"{image.folder}/{image.path}"
    return f"{image.id:8d}  {'–' if image.label is None else image.label}  {where}"


def labels(options: argparse.Namespace, client: Client) -> int:
    """Write all labels as CSV, which build, add and label take back."""
    content = client.labels(predicted=options.predicted)
    if options.json:
        show(list(csv.DictReader(content.decode().splitlines(keepends=True))))
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    return 0


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


def remove(options: argparse.Namespace, client: Client) -> int:
    """Put images into the trash by their ids, or remove them for good."""
    for item_id in options.id:
        client.remove(item_id, forever=options.forever)
    where = "removed for good" if options.forever else "deleted; hebbsearch trash shows what can come back"
    show({"removed": options.id}) if options.json else say(f"{len(options.id):,} {where}")
    return 0


def trash(options: argparse.Namespace, client: Client) -> int:
    """Show what was deleted, bring it back, or remove it for good."""
    if options.restore or options.empty:
        done = client.restore(options.restore) if options.restore else client.empty_trash()
        return changed(options, done, "restored" if options.restore else "removed for good")
    return name_all(options, client.images(trashed=True))


def undo(options: argparse.Namespace, client: Client) -> int:
    """Undo the latest change, or another one, or list what can be undone."""
    if options.list:
        found = client.changes(limit=1000).changes
        if options.json:
            show([each.model_dump() for each in found])
        for each in [] if options.json else found:
            what = ", ".join(f"{count:,} {name}" for name, count in each.counts.items())
            when = datetime.fromtimestamp(each.time).isoformat(" ", "seconds")
            say(f"{each.batch}  {when}  {what}  ({each.undoable:,} can be undone)")
        return 0
    latest = [options.batch] if options.batch else [each.batch for each in client.changes(limit=1).changes]
    if not latest:
        raise Failed("nothing was changed that can be undone")
    return changed(options, client.undo(*latest), "undone")


def changed(options: argparse.Namespace, done: Changed, what: str) -> int:
    """Say what became of many images."""
    if options.json:
        show(done.model_dump())
    else:
        say(f"{done.changed:,} {what}")
        for each in done.left[:SHOWN]:
            say(f"left: image {each.id}: {each.reason}", file=sys.stderr)
        if len(done.left) > SHOWN:
            say(f"left: {len(done.left) - SHOWN:,} more; --json names all", file=sys.stderr)
    return SOME_LEFT_OUT if done.left else 0


def stats(options: argparse.Namespace, client: Client) -> int:
    """Count what there is."""
    answer = client.stats().model_dump()
    if options.json:
        show(answer)
    else:
        for name, value in answer.items():
            if not isinstance(value, (list, dict)):
                say(f"{name}: {value}")
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


# --- the command line ------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Of every subcommand but those of TRAINING, which have parsers of their own."""
    made = argparse.ArgumentParser(prog="hebbsearch", description="Image search that measures itself.")
    made.add_argument("--version", action="version", version=f"hebbsearch {version('hebbsearch')}")
    subcommands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subcommands.add_parser("build", help="learn from images and index them: see hebbsearch build --help")
    subcommands.add_parser("label", help="learn again from labels that grew: see hebbsearch label --help")

    def command(name: str, run: Callable[..., int], *, remote: bool = True) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").strip().splitlines()[0]
        one = subcommands.add_parser(name, help=text[:1].lower() + text[1:].rstrip("."), description=text)
        one.set_defaults(run=run, remote=remote)
        if remote:
            url = os.environ.get(PREFIX + "URL", URL)
            one.add_argument("--url", default=url, help=f"of the service ({PREFIX}URL; {URL})")
            one.epilog = f"A key is taken from {PREFIX}KEY."
        if run is not serve:
            one.add_argument("--json", action="store_true", help="one JSON document, for scripts")
        return one

    _add_settings(command("serve", serve, remote=False))

    one = command("add", add)
    one.add_argument("folder", type=Path)
    one.add_argument("--name", help="what the service calls the folder (its own name)")
    label = one.add_mutually_exclusive_group()
    label.add_argument("--label", help="of all images")
    label.add_argument("--labels", type=Path, metavar="FILE.csv", help="lines path,label")
    label.add_argument("--label-folders", action="store_true", help="the first folder of each path")
    one.add_argument("--remove-gone", action="store_true", help="remove images that the folder has no more")

    one = command("search", search)
    one.add_argument("image", type=Path)
    one.add_argument("-k", type=int, default=10, help="at most so many results (10)")
    one.add_argument("--max-distance", type=int, metavar="BITS")
    one.add_argument("--label", action="append", default=[], help="only images with it; repeatable")

    one = command("eval", evaluate)
    one.add_argument("-k", type=int, help="cut-off (the whole ranking)")
    one.add_argument("--ties", choices=("expected", "order"), default="expected")
    one.add_argument("--denominator", choices=("min", "retrieved"), default="min")

    _add_listing(command("list", list_images))
    _add_labelling(command)

    _add_deleting(command)
    command("stats", stats)

    _add_administration(command)
    _add_offline(command)
    return made


def _add_deleting(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommands that delete and bring back."""
    one = command("remove", remove)
    one.add_argument("id", type=int, nargs="+")
    one.add_argument("--forever", action="store_true", help="for good, also what is in the trash")
    one = command("trash", trash)
    what = one.add_mutually_exclusive_group()
    what.add_argument("--restore", type=int, nargs="+", metavar="ID", help="bring these images back")
    what.add_argument("--empty", action="store_true", help="remove all of it for good")
    one = command("undo", undo)
    one.add_argument("batch", nargs="?", help="the name of a change (the latest)")
    one.add_argument("--list", action="store_true", help="show what can be undone")


def _add_listing(listing: argparse.ArgumentParser) -> None:
    """The options of `list`: which images, and in which order."""
    listing.add_argument("--label", action="append", default=[])
    listing.add_argument("--unlabelled", action="store_true")
    listing.add_argument("--folder", help="only images that were sent from it")
    listing.add_argument("--name", help="only images that have this in their path")
    predicted = "only images without a label for which it is predicted; repeatable"
    listing.add_argument("--predicted", action="append", default=[], metavar="LABEL", help=predicted)
    listing.add_argument(
        "--min-confidence", type=float, metavar="SHARE", help="how sure that is, from 0 to 1"
    )
    listing.add_argument("--sort", choices=get_args(Sort), default="id", help="(id)")
    listing.add_argument("--descending", action="store_true", help="in the opposite order")


def _add_labelling(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommands about labels and what they teach."""
    one = command("labels", labels)
    one.add_argument("--predicted", action="store_true", help="predicted labels too")

    one = command("learn", learn)
    one.add_argument("--take", action="store_true", help="serve it then, unless it answers worse")
    one = command("jobs", jobs)
    one.add_argument(
        "--end", type=int, action="append", default=[], metavar="ID", help="cancel it, or delete what it made"
    )


def _add_administration(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommands about the artifact that is served."""
    one = command("reload", reload)
    one.add_argument("artifact", nargs="?", help="name of a folder beside the one served")
    one.add_argument("--force", action="store_true", help="even if it answers worse")
    one.add_argument("--as-it-is", action="store_true", help="without what was done since: a copy comes back")
    command("rollback", rollback)
    command("snapshot", snapshot).add_argument("name", help="of a new folder beside the one served")


def _add_offline(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The subcommands for an artifact that nobody serves."""
    one = command("verify", verify, remote=False)
    one.add_argument("artifact", type=Path)
    one.add_argument("--sweep", action="store_true", help="remove what a crash left and nobody needs")

    one = command("reencode", reencode, remote=False)
    one.add_argument("artifact", type=Path)
    one.add_argument("--encoder-of", type=Path, required=True, metavar="ARTIFACT")
    one.add_argument("--out", type=Path, required=True, metavar="ARTIFACT", help="a new folder")


def _add_settings(serving: argparse.ArgumentParser) -> None:
    """The options of `serve`: most of them are the settings."""
    serving.add_argument(
        "artifact_folder", nargs="?", type=Path, metavar="ARTIFACT", help=f"{PREFIX}ARTIFACT"
    )
    serving.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in, :: by IPv6 too (127.0.0.1)"
    )
    serving.add_argument("--port", type=int, default=8000, help="(8000)")
    serving.add_argument(
        "--timeout-graceful-shutdown",
        type=int,
        metavar="SECONDS",
        help="for requests under way when it is stopped (no limit)",
    )
    for name, setting in Settings.model_fields.items():
        if name != "artifact" and name not in SECRET:
            flag, default = f"--{name.replace('_', '-')}", str(setting.get_default(call_default_factory=True))
            told = f"{setting.description} ({PREFIX}{name.upper()}; {default.lower() or 'none'})"
            serving.add_argument(flag, dest=f"setting_{name}", metavar="VALUE", help=told.replace("%", "%%"))
    serving.epilog = f"Only from the environment: {', '.join(PREFIX + name.upper() for name in SECRET)}."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    take_any_letter()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in TRAINING:
        train(TRAINING[arguments[0]], arguments[1:])
    options = parser().parse_args(arguments)
    try:
        code = run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read it has gone, as `| head` does
        nowhere = os.open(os.devnull, os.O_WRONLY)  # for what Python still writes at its end
        os.dup2(nowhere, sys.stdout.fileno())
        return CUT_OFF
    except (ServiceError, Failed, DataError) as error:
        say(f"hebbsearch: {error}", file=sys.stderr)
    except OSError as error:
        say(f"hebbsearch: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        say("hebbsearch: stopped", file=sys.stderr)
        return 130
    return 1


def run(options: argparse.Namespace) -> int:
    """The command that was chosen; its exit code."""
    if not options.remote:
        return int(options.run(options))
    with closing(Client(options.url, os.environ.get(PREFIX + "KEY"))) as client:
        return int(options.run(options, client))


def show(value: Any) -> None:
    """As JSON, and what is no Unicode, as a file's name may hold, as �."""
    text = shown(json.dumps(value, ensure_ascii=False))
    # Escapes say the same, where the terminal does not know each letter.
    print(text if (sys.stdout.encoding or "utf-8").lower() == "utf-8" else json.dumps(json.loads(text)))


def say(text: str, file: TextIO | None = None) -> None:
    """A line for people; whatever is in it, a name too, stays within it."""
    print(on_a_line(text), file=file)


def progress(each: Iterable[T], total: int) -> Iterator[T]:
    """With a bar on a terminal."""
    yield from tqdm(each, total=total, unit="image", disable=None if total else True, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
