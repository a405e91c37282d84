"""Images are deleted and come back; changes are undone."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from service.client import Client, Refused
from service.command.parsing import Adding
from service.command.saying import SHOWN, SOME_LEFT_OUT, Failed, name_all, progress, say, show
from service.schemas.images import Changed
from service.schemas.trash import Batch

LISTED = 1000  # changes, all that are kept
KINDS = ("added", "changed", "trashed", "restored")


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
    with client.one_change():
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
    """Undo the latest change, or another one, or list what can be undone. Those that one command made by many
    requests are one."""
    latest = client.changes(limit=1).changes
    one = not (options.list or options.batch or any(each.together for each in latest))
    found = pieces(latest if one else client.changes(limit=LISTED).changes)
    if options.list:
        if options.json:
            show([each.model_dump() for changes in found.values() for each in changes])
        for name, changes in [] if options.json else found.items():
            undoable = sum(each.undoable for each in changes)
            say(f"{name}  {_when(changes)}  {_what(changes)}  ({undoable:,} can be undone)")
        return 0
    if not (options.batch or found):
        raise Failed("nothing was changed that can be undone")
    name = options.batch or next(iter(found))
    changes = found.get(name, [])
    if not changes:  # one of several, or one that the service will say it does not know
        return changed(options, client.undo(name), "undone")
    with client.one_change():  # so that the same command takes it back
        done = [client.undo(each.batch) for each in progress(changes, len(changes), "change")]
    left = {each.id: each for one in done for each in one.left}
    together = Changed(changed=sum(one.changed for one in done), left=list(left.values()))
    return changed(options, together, f"undone ({_what(changes)}, {_when(changes)})")


def pieces(changes: Sequence[Batch]) -> dict[str, list[Batch]]:
    """Changes by what they are undone by, the latest first."""
    found = dict[str, list[Batch]]()
    for each in changes:
        found.setdefault(each.together or each.batch, []).append(each)
    return found


def _what(changes: Sequence[Batch]) -> str:
    counts = sum((Counter[str](each.counts) for each in changes), Counter[str]())
    return ", ".join(f"{counts[name]:,} {name}" for name in KINDS if counts[name])


def _when(changes: Sequence[Batch]) -> str:
    """Its end."""
    return datetime.fromtimestamp(changes[0].time).isoformat(" ", "seconds")


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
