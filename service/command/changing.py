"""Images are deleted and come back; changes are undone."""

import argparse
import sys
from datetime import datetime

from service.client import Client, Refused
from service.command.parsing import Adding
from service.command.saying import SHOWN, SOME_LEFT_OUT, Failed, name_all, say, show
from service.schemas.images import Changed
from service.schemas.trash import Batch


def add_to(command: Adding) -> None:
    """The subcommands and their options."""
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


def remove(options: argparse.Namespace, client: Client) -> int:
    """Put images into the trash by their ids, or remove them for good."""
    removed, left = list[int](), dict[int, str]()
    for item_id in dict.fromkeys(options.id):
        try:
            client.remove(item_id, forever=options.forever)
            removed.append(item_id)
        except Refused as refused:
            if refused.status != 404:
                raise
            left[item_id] = refused.detail
    where = "removed for good" if options.forever else "deleted; hebbsearch trash shows what can come back"
    show({"removed": removed, "left": left}) if options.json else say(f"{len(removed):,} {where}")
    for reason in [] if options.json else left.values():
        say(f"left: {reason}", file=sys.stderr)
    return SOME_LEFT_OUT if left else 0


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
            say(f"{each.batch}  {_when(each)}  {_what(each)}  ({each.undoable:,} can be undone)")
        return 0
    if options.batch:
        return changed(options, client.undo(options.batch), "undone")
    latest = client.changes(limit=1).changes
    if not latest:
        raise Failed("nothing was changed that can be undone")
    return changed(options, client.undo(latest[0].batch), f"undone ({_what(latest[0])}, {_when(latest[0])})")


def _what(change: Batch) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in change.counts.items())


def _when(change: Batch) -> str:
    return datetime.fromtimestamp(change.time).isoformat(" ", "seconds")


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
