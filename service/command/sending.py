"""A folder is sent to the service."""

import argparse
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path, PurePosixPath

from index.labels import LabelError, known_as, label_of, labels_in
from index.names import normal, shown
from index.walking import walk
from service import folder as folders
from service.client import Client, Refused, ServiceError
from service.command.parsing import Adding
from service.command.saying import SHOWN, SOME_LEFT_OUT, Failed, progress, say, show

COUNTED = ("added", "exists", "restored", "changed")  # what becomes of the files of a folder


def add_to(command: Adding) -> None:
    """The subcommand and its options."""
    one = command("add", add)
    one.add_argument("folder", type=Path)
    one.add_argument("--name", help="what the service calls the folder (its own name)")
    label = one.add_mutually_exclusive_group()
    label.add_argument("--label", help="of all images")
    label.add_argument("--labels", type=Path, metavar="FILE.csv", help="lines path,label")
    label.add_argument("--label-folders", action="store_true", help="the first folder of each path")
    one.add_argument("--remove-gone", action="store_true", help="remove images that the folder has no more")


def add(options: argparse.Namespace, client: Client) -> int:
    """Send a folder, or what is new of it. By many requests, which are undone as one change."""
    with client.one_change():
        return _add(options, client)


def _add(options: argparse.Namespace, client: Client) -> int:
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
    try:
        for sent in progress(folders.send(client, name, plan.send), len(plan.send)):
            if sent.reason is not None:
                refused[sent.source.path] = sent.reason
            if sent.status != "refused":
                other = sent.status != "exists" and bool(sent.source.instead_of)
                count["changed" if other else sent.status] += 1
    except Refused:  # as the same command would be again
        raise
    except ServiceError:
        there = f"{sum(count.values()):,} or more of {len(plan.send):,} files are there"
        say(f"{name}: {there}; the same command goes on with the others", file=sys.stderr)
        raise
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
        gives = options.label or options.labels or options.label_folders
        theirs = " (those without a label got theirs)" if gives and count["exists"] else ""
        say(
            f"{name}: {count['added']:,} added, {count['changed']:,} changed, {relabelled:,} relabelled, "
            f"{plan.unchanged:,} unchanged, {count['exists']:,} there already under another name{theirs}, "
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
