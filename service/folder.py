"""A folder of images and what the service has of it: what to send, what was changed, what is gone."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any

from pydantic import TypeAdapter, ValidationError

from index.labels import LabelError, normal_form
from index.names import normal, shown
from index.walking import Walk, sha256_of
from service.client import Client, Refused
from service.schemas.images import Image, ImagePath

AT_ONCE = 2  # requests: the service decodes one while it writes the other
TOGETHER, TOGETHER_BYTES = 32, 50_000_000  # images of a request; halved where the service takes less
LARGEST = 200_000_000  # bytes of a file that is read at all
RETRIES = 100  # times that a full service is asked again, each after the seconds that it names
PATH: TypeAdapter[str] = TypeAdapter(ImagePath)


@dataclass(frozen=True)
class Source:
    """A file to be sent."""

    path: str  # in the folder, with slashes
    file: Path
    size: int
    label: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    instead_of: tuple[Image, ...] = ()  # what lay at the path before


@dataclass(frozen=True)
class Relabel:
    """An image whose file is as it was, and whose label is another now."""

    image: Image
    label: str


@dataclass
class Plan:
    """What makes the service have the folder as it is."""

    send: list[Source] = field(default_factory=list)
    relabel: list[Relabel] = field(default_factory=list)
    unchanged: int = 0
    gone: list[Image] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # reasons by path
    kept: dict[str, str] = field(default_factory=dict)  # why a file's label is not given, by path


@dataclass(frozen=True)
class Sent:
    """What became of a file: added, or there already, or refused. The reason says why it was refused, or that
    it is there with another label."""

    source: Source
    status: str
    reason: str | None = None


def compare(
    folder: Path, walked: Walk, known: Sequence[Image], label_of: Callable[[str], str | None]
) -> Plan:
    """What to do so that the images that are `known` of the folder become the files that were `walked`.

    An image is known by its bytes, wherever in the folder they lie. What lies at the path of an image and has
    other bytes takes its place and, unless it has a label of its own, its label and metadata. A file that has
    a label gives it to the image of its bytes; of several the one at the image's path does, and what others
    say is named. Files are read only where anything is known. What cannot be read is refused, and nothing
    behind it counts as gone.
    """
    plan, named = Plan(), dict[str, Path]()
    plan.refused.update((place.as_posix(), reason) for place, reason in walked.unreadable.items())
    for file in walked.files:
        path = file.as_posix()
        try:
            PATH.validate_python(shown(path))
            named[path] = folder / file
        except ValidationError as error:
            plan.refused[path] = error.errors()[0]["msg"]
    images = {image.sha256: image for image in known}
    seen = defaultdict[str | None, dict[str, str]](dict)  # labels by path that files of the same bytes give
    for path, file in named.items():
        try:
            status = file.stat()
            size = status.st_size
            if not S_ISREG(status.st_mode):  # a pipe or a device would never end
                raise OSError(0, "not a regular file")
            if size > LARGEST:
                raise OSError(0, f"it has more than {LARGEST:,} bytes")
            sha256 = sha256_of(file) if known else None
        except OSError as error:
            plan.refused[path] = error.strerror or str(error)
            continue
        try:
            label = label_of(path)
        except LabelError as error:
            plan.kept[path], label = str(error), None
        if known and sha256 in images:
            seen[sha256] |= {} if label is None else {path: label}
            plan.unchanged += 1
        elif path not in plan.kept:
            plan.send.append(Source(path, file, size, label))
    for image in known:
        if given := seen.get(image.sha256):
            _relabel(plan, image, given)
    plan.unchanged -= len(plan.relabel)
    lost = [image for image in known if image.sha256 not in seen]
    places = _places(plan.send, lost)
    plan.send = [_in_place_of(source, places[source.path]) for source in plan.send]
    replaced = {image.id for source in plan.send for image in source.instead_of}
    unknown = {_name(path) for path in plan.refused}
    plan.gone = [each for each in lost if each.id not in replaced and not _is_behind(each.path, unknown)]
    return plan


def _relabel(plan: Plan, image: Image, given: Mapping[str, str]) -> None:
    """By the labels that the files of its bytes give, by path."""
    path = next((each for each in given if _name(each) == _name(image.path)), next(iter(given)))
    label = given[path]
    if image.label is None or normal_form(image.label) != normal_form(label):
        plan.relabel.append(Relabel(image, label))
    for other, its in given.items():
        if normal_form(its) != normal_form(label):
            plan.kept[other] = f"it is the same image as {path}, whose label is {label!r}, not {its!r}"


def _name(path: str) -> str:
    """What a path here and one of the service are compared by."""
    return normal(shown(path))


def _places(sources: Sequence[Source], lost: Sequence[Image]) -> Mapping[str, list[Image]]:
    """The images whose place each source takes, by its path: of names that are written in the same way, else
    of those that read alike, as many do that are no UTF-8, each source its own."""
    alike = defaultdict[str, list[Source]](list)
    for source in sources:
        alike[_name(source.path)].append(source)
    places: dict[str, list[Image]] = {source.path: [] for source in sources}
    for image in lost:
        if candidates := alike.get(_name(image.path)):
            same = [source for source in candidates if source.path == image.path]
            chosen = min(same or candidates, key=lambda source: len(places[source.path]))
            places[chosen.path].append(image)
    return places


def _is_behind(path: str, places: Collection[str]) -> bool:
    """Whether a path is one of the places or lies below one."""
    place = PurePosixPath(_name(path))
    return any(each.as_posix() in places for each in (place, *place.parents))


def _in_place_of(source: Source, images: Sequence[Image]) -> Source:
    if not images:
        return source
    label = images[-1].label if source.label is None else source.label
    return replace(source, label=label, metadata=images[-1].metadata, instead_of=tuple(images))


# --- sending ---------------------------------------------------------------------------------------


def send(client: Client, folder: str, sources: Sequence[Source]) -> Iterator[Sent]:
    """Send the files, some in each request; what became of each, in no order. Raises ServiceError.

    What takes the place of an image is there before that one is removed: a run that ends between leaves both,
    and the next one sees it.
    """
    batches = iter(list(_batches(sources)))
    under_way: set[Future[list[Sent]]] = set()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        while True:
            for batch in batches:
                under_way.add(pool.submit(_send, client, folder, batch))
                if len(under_way) == AT_ONCE:
                    break
            if not under_way:
                return
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for each in done:
                yield from each.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """Of one label and metadata each."""
    batch: list[Source] = []
    for source in sources:
        alike = batch and (batch[0].label, batch[0].metadata) == (source.label, source.metadata)
        size = sum(each.size for each in batch) + source.size
        if batch and (not alike or len(batch) == TOGETHER or size > TOGETHER_BYTES):
            yield batch
            batch = []
        batch.append(source)
    if batch:
        yield batch


def _send(client: Client, folder: str, batch: list[Source]) -> list[Sent]:
    """In one request, or in halves where that is too much or all of it is refused."""
    try:
        added = _patiently(
            lambda: client.add(
                [(each.path, each.file) for each in batch],
                label=batch[0].label,
                metadata=batch[0].metadata,
                folder=folder,
            )
        )
    except OSError as error:  # a file went, or may not be read
        if len(batch) == 1:
            return [Sent(batch[0], "refused", error.strerror or str(error))]
    except Refused as refused:
        if refused.status not in (400, 413, 415, 422):
            raise
        if len(batch) == 1:
            return [Sent(batch[0], "refused", refused.detail.removeprefix(f"{shown(batch[0].path)}: "))]
    else:
        sent = [
            Sent(source, each.status, each.error) for source, each in zip(batch, added.images, strict=True)
        ]
        for each in sent:
            for image in each.source.instead_of if each.status != "refused" else ():
                _of(client, image, client.remove)
        return sent
    half = len(batch) // 2
    return _send(client, folder, batch[:half]) + _send(client, folder, batch[half:])


def remove(client: Client, images: Sequence[Image]) -> Iterator[Image]:
    """Remove the images; each when it is gone."""
    for image in images:
        _of(client, image, client.remove)
        yield image


def relabel(client: Client, images: Sequence[Relabel]) -> Iterator[Relabel]:
    """Give the images their labels; each when it is done."""
    for each in images:
        _of(client, each.image, partial(client.change, label=each.label))
        yield each


def _of(client: Client, image: Image, change: Callable[..., Any]) -> None:
    """Change an image under whatever id it has by now: in an artifact that came meanwhile it may have
    another, and its own may be that of another image. One that is gone stays so."""
    id_: int | None = image.id
    for last in (False, False, True):
        if id_ is None:
            return
        try:
            _patiently(partial(change, id_, sha256=image.sha256))
            return
        except Refused as refused:
            if last or refused.status not in (404, 409):
                raise
        listed = _patiently(partial(_listed, client, image))
        id_ = next((each.id for each in listed if each.path == image.path), None)


def _listed(client: Client, image: Image) -> list[Image]:
    """What the service has of the same bytes in the same folder."""
    return list(client.images(folder=image.folder, sha256=image.sha256))


def _patiently(ask: Callable[[], Any]) -> Any:
    """Again while the service is full."""
    for _ in range(RETRIES):
        try:
            return ask()
        except Refused as refused:
            if refused.status != 503:
                raise
            time.sleep(refused.retry_after or 1.0)
    return ask()
