"""What the service has is searched, listed, counted and measured."""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

from index.sorting import Sort
from service.client import Client
from service.command.parsing import Adding
from service.command.saying import Failed, name_all, named, say, show
from service.schemas.about import DuplicatePage
from service.schemas.evaluation import Evaluation
from service.schemas.images import FolderPage
from service.schemas.search import Space

Page = TypeVar("Page", DuplicatePage, FolderPage)

FOLDERS = 1000  # that are asked for at a time


def add_to(command: Adding) -> None:
    """The subcommands and their options."""
    one = command("search", search)
    one.add_argument("image", type=Path)
    one.add_argument("-k", type=int, default=10, help="at most so many results (10)")
    one.add_argument("--max-distance", type=int, metavar="BITS")
    one.add_argument("--label", action="append", default=[], help="only images with it; repeatable")
    by = "content: what shows the like; picture: the same picture, or a part of it"
    one.add_argument("--by", choices=get_args(Space), default="content", help=f"{by} (content)")

    one = command("eval", evaluate)
    one.add_argument("-k", type=int, help="cut-off (the whole ranking)")
    one.add_argument("--ties", choices=("expected", "order"), default="expected")
    one.add_argument("--denominator", choices=("min", "retrieved"), default="min")

    _add_listing(command("list", list_images))
    one = command("folders", folders)
    one.add_argument("under", nargs="?", help="the folder whose folders are named (those at the top)")
    one = command("labels", labels)
    one.add_argument("--predicted", action="store_true", help="predicted labels too")
    one.add_argument("--trashed", action="store_true", help="labels of what lies in the trash too")
    one = command("copies", copies)
    one.add_argument("--radius", type=int, metavar="BITS", help="in which two pictures may differ (31)")
    command("stats", stats)


def _add_listing(listing: argparse.ArgumentParser) -> None:
    """The options of `list`: which images, and in which order."""
    listing.add_argument("--label", action="append", default=[])
    listing.add_argument("--unlabelled", action="store_true")
    listing.add_argument("--folder", help="only images that were sent from it")
    listing.add_argument("--under", metavar="FOLDER", help="only images that lie in it or below")
    listing.add_argument("--name", help="only images that have this in their path")
    predicted = "only images without a label for which it is predicted; repeatable"
    listing.add_argument("--predicted", action="append", default=[], metavar="LABEL", help=predicted)
    listing.add_argument(
        "--min-confidence", type=float, metavar="SHARE", help="how sure that is, from 0 to 1"
    )
    listing.add_argument("--sort", choices=get_args(Sort), default="id", help="(id)")
    listing.add_argument("--descending", action="store_true", help="in the opposite order")


def search(options: argparse.Namespace, client: Client) -> int:
    """Find what is near an image."""
    try:
        answer = client.search(
            options.image,
            k=options.k,
            max_distance=options.max_distance,
            label=options.label,
            by=options.by,
        )
    except OSError as error:
        raise Failed(f"{options.image}: {error.strerror or error}") from None
    if options.json:
        show(answer.model_dump())
    else:
        for result in answer.results:
            say(f"{result.distance:4d}  {named(result)}")
        if answer.predicted is not None:
            sure = f"{100 * (answer.confidence or 0):.0f} %"
            say(f"predicted label: {answer.predicted}, {sure}", file=sys.stderr)
        if answer.plain:
            say("this picture has too little detail to be told from others", file=sys.stderr)
    return 0


def evaluate(options: argparse.Namespace, client: Client) -> int:
    """Say how good the answers are."""
    evaluation = client.evaluate(k=options.k, ties=options.ties, denominator=options.denominator)
    if options.json:
        show(evaluation.model_dump())
    else:
        say(f"mAP {evaluation.map:.4f} ({_doubt(evaluation)})")
        say(evaluation.definition.text)
        for each in evaluation.per_class:
            say(f"  {each.label}: {'–' if each.aps is None else f'{each.aps:.4f}'}, {each.items:,} images")
    return 0


def _doubt(evaluation: Evaluation) -> str:
    """What the mAP is to be read beside."""
    drawn = f"{evaluation.chance:.4f} at random"
    if (interval := evaluation.interval) is None:
        return drawn
    return f"{interval.low:.4f} to {interval.high:.4f} as the queries are drawn, {drawn}"


def list_images(options: argparse.Namespace, client: Client) -> int:
    """Name what is indexed."""
    found = client.images(
        label=options.label,
        unlabelled=options.unlabelled,
        folder=options.folder,
        under=options.under,
        name=options.name,
        predicted=options.predicted,
        min_confidence=options.min_confidence,
        sort=options.sort,
        descending=options.descending,
    )
    return name_all(options, found)


def folders(options: argparse.Namespace, client: Client) -> int:
    """Name the folders that images lie in, with how many do, and a slash where there are more in it."""
    pages = _pages(partial(client.folders, under=options.under, limit=FOLDERS))
    found = [each for page in pages for each in page.folders]
    if options.json:
        show([each.model_dump() for each in found])
        return 0
    for each in found:
        say(f"{each.images:8d}  {each.path}{'/' if each.folders else ''}")
    return 0


def _pages(ask: Callable[..., Page]) -> Iterator[Page]:
    """Each page of a list, of which every one but the last says what to ask for next."""
    after = None
    while True:
        page = ask(after=after)
        yield page
        after = page.next
        if after is None:
            return


def labels(options: argparse.Namespace, client: Client) -> int:
    """Write all labels as CSV, which build, add and label take back."""
    content = client.labels(predicted=options.predicted, trashed=options.trashed)
    if options.json:
        show(list(csv.DictReader(content.decode().splitlines(keepends=True))))
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    return 0


def copies(options: argparse.Namespace, client: Client) -> int:
    """Name groups of images that are the same picture; the best of each comes first."""
    ask = partial(client.duplicates, by="picture", radius=options.radius, limit=100, members=1000)
    pages = list(_pages(ask))
    groups, page = [group for page in pages for group in page.found], pages[-1]
    if options.json:
        show([group.model_dump() for group in groups])
        return 0
    for group in groups:
        rest = [each.id for each in group.images if each.id != group.best]
        say(f"{group.best}  {' '.join(map(str, rest))}{' …' if group.size > len(group.images) else ''}")
    plain = f"; {page.plain:,} have too little detail to be compared" if page.plain else ""
    count = "1 group" if page.groups == 1 else f"{page.groups:,} groups"
    say(f"{count} of {page.images:,} images{plain}", file=sys.stderr)
    return 0


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
