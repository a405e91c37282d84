"""What can be asked of the service: each request described once, by a function that makes a `Call`.

Reading a file that is to be sent is all that it does; the clients send. It loads neither torch nor FAISS.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from pydantic import BaseModel

from index.conventions import Denominator, Ties
from index.names import shown
from index.sorting import Sort
from index.sources import Source
from service.schemas.about import DuplicatePage, Stats
from service.schemas.admin import Health, Readiness, Reloaded, SnapshotMade
from service.schemas.evaluation import CodeReport, Confusion, Curve, Evaluation, QueryPage
from service.schemas.images import AddedImages, Changed, FolderPage, Image, Page
from service.schemas.jobs import Job, JobList
from service.schemas.labels import Doubts, Predictions, Suggestions
from service.schemas.search import BatchAnswer, CodeSearchAnswer, SearchAnswer, Space
from service.schemas.trash import Batches, TrashPage

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

ImageSource = bytes | str | PathLike[str]  # the bytes of an image file, or its path
NamedSource = tuple[str, ImageSource]  # with another name than the file's own


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: what httpx is to send, and what the body of the answer means."""

    method: str
    path: str
    parse: Callable[[bytes], T]
    options: Mapping[str, Any] = field(default_factory=dict)


class How(TypedDict, total=False):
    """How to search."""

    k: int | None
    max_distance: int | None
    label: Sequence[str]


class HowWithImage(How, total=False):
    """How to search with an image."""

    by: Space


class Which(TypedDict, total=False):
    """Which images are listed."""

    split: Literal["database", "query"]
    label: Sequence[str]
    unlabelled: bool
    trashed: bool
    folder: str | None
    under: str | None
    sha256: str | None
    name: str | None
    predicted: Sequence[str]
    min_confidence: float | None
    sort: Sort
    descending: bool


class Measure(TypedDict, total=False):
    """Which mean average precision."""

    k: int | None
    ties: Ties
    denominator: Denominator


def search(image: ImageSource, **how: Unpack[HowWithImage]) -> Call[SearchAnswer]:
    """The indexed images nearest to an image."""
    options = {"content": _bytes(image), "params": _given(**how)}
    return Call("POST", "/search", _model(SearchAnswer), options)


def search_batch(images: Sequence[ImageSource], **how: Unpack[HowWithImage]) -> Call[BatchAnswer]:
    """The indexed images nearest to each of many images; what cannot be read has its own error."""
    files = [("image", _named(each)) for each in images]
    return Call("POST", "/search/batch", _model(BatchAnswer), {"files": files, "params": _given(**how)})


def search_codes(codes: Sequence[str], encoder_id: str, **how: Unpack[How]) -> Call[CodeSearchAnswer]:
    """The indexed images nearest to codes in hexadecimal that the encoder made elsewhere."""
    how["label"] = list(how.get("label", ()))  # JSON knows no other sequence
    body = {"codes": list(codes), "encoder_id": encoder_id, **_given(**how)}
    return Call("POST", "/search/codes", _model(CodeSearchAnswer), {"json": body})


def similar(item_id: int, **how: Unpack[HowWithImage]) -> Call[SearchAnswer]:
    """The indexed images nearest to one of them, without itself."""
    return Call("GET", f"/images/{item_id}/similar", _model(SearchAnswer), {"params": _given(**how)})


def page(
    *, after: int | None = None, offset: int | None = None, limit: int | None = None, **which: Unpack[Which]
) -> Call[Page]:
    """One page of the list of images; `after`: the `next` of the page before; `offset`: so many are skipped,
    in any order, and all are counted."""
    params = _given(after=after, offset=offset, limit=limit, **which)
    return Call("GET", "/images", _model(Page), {"params": params})


def folders(
    *, under: str | None = None, after: str | None = None, limit: int | None = None
) -> Call[FolderPage]:
    """One page of the folders that images lie in, at the top or `under` one; `after`: the `next` of the page
    before."""
    return Call(
        "GET", "/folders", _model(FolderPage), {"params": _given(under=under, after=after, limit=limit)}
    )


def image(item_id: int, *, trashed: bool = False) -> Call[Image]:
    """What is known of an image."""
    return Call("GET", f"/images/{item_id}", _model(Image), {"params": _given(trashed=trashed or None)})


def thumbnail(item_id: int) -> Call[bytes]:
    """A small WebP of an image."""
    return Call("GET", f"/images/{item_id}/thumbnail", bytes)


def preview(item_id: int) -> Call[bytes]:
    """A WebP of an image, large enough to look at."""
    return Call("GET", f"/images/{item_id}/preview", bytes)


def original(item_id: int) -> Call[bytes]:
    """The file of an image, as it came."""
    return Call("GET", f"/images/{item_id}/original", bytes)


def add(
    images: ImageSource | NamedSource | Sequence[ImageSource | NamedSource],
    *,
    label: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    folder: str | None = None,
) -> Call[AddedImages]:
    """Add one image or many, with one label and metadata for all. With the name of a folder the images' names
    are their paths in it."""
    many = (
        images if isinstance(images, Sequence) and not isinstance(images, (bytes, str, tuple)) else [images]
    )
    files = [("image", _named(each)) for each in many]
    data = _given(
        label=label, folder=folder, metadata=None if metadata is None else json.dumps(dict(metadata))
    )
    return Call("POST", "/images", _model(AddedImages), {"files": files, "data": data})


def change(
    item_id: int,
    *,
    label: str | None = None,
    unlabel: bool = False,
    metadata: Mapping[str, Any] | None = None,
    source: Source | None = None,
    sha256: str | None = None,
    was: str | None = None,
) -> Call[Image]:
    """Give an image another label, or none, or other metadata; what is left out stays as it is. `source`: how
    the label came; `sha256` as in `remove`; `was`: only if that is its label, or, empty, if it has none."""
    other = None if metadata is None else dict(metadata)
    body: dict[str, Any] = _given(label=label, source=source, metadata=other)
    body |= {"label": None} if unlabel else {}
    sent = {"json": body, "params": _given(sha256=sha256, was=was)}
    return Call("PATCH", f"/images/{item_id}", _model(Image), sent)


def relabel(
    ids: Sequence[int], label: str | None, *, source: Source | None = None, was: str | None = None
) -> Call[Changed]:
    """Give at most 10,000 images one label, or none, in one step; `source` and `was` as in `change`. Those
    that cannot have it are named."""
    body = {"ids": list(ids), "label": label, **_given(source=source, was=was)}
    return Call("PATCH", "/images", _model(Changed), {"json": body})


def remove(item_id: int, *, forever: bool = False, sha256: str | None = None) -> Call[None]:
    """Put an image into the trash, or `forever` remove it; with `sha256` only if that is its file's: ids may
    change with the artifact."""
    params = _given(forever=forever or None, sha256=sha256)
    return Call("DELETE", f"/images/{item_id}", lambda _: None, {"params": params})


def throw(ids: Sequence[int]) -> Call[Changed]:
    """Put many images into the trash, at once."""
    return Call("POST", "/trash", _model(Changed), {"json": {"ids": list(ids)}})


def trash(*, offset: int | None = None, limit: int | None = None) -> Call[TrashPage]:
    """What was deleted and can come back, the latest first."""
    return Call("GET", "/trash", _model(TrashPage), {"params": _given(offset=offset, limit=limit)})


def restore(ids: Sequence[int]) -> Call[Changed]:
    """Bring images back that lie in the trash."""
    return Call("POST", "/trash/restore", _model(Changed), {"json": {"ids": list(ids)}})


def empty_trash(ids: Sequence[int] | None = None) -> Call[Changed]:
    """Remove what lies in the trash, or only these images of it, at least one, for good."""
    if ids is not None and not ids:
        raise ValueError("an empty list of images; name some, or leave it out to remove all")
    return Call("DELETE", "/trash", _model(Changed), {"params": {"id": list(ids or ())}})


def changes(*, limit: int | None = None) -> Call[Batches]:
    """What was changed and can be undone, the latest first."""
    return Call("GET", "/changes", _model(Batches), {"params": _given(limit=limit)})


def undo(batch: str) -> Call[Changed]:
    """Undo a change, by the name that `changes` gives it."""
    return Call("POST", f"/changes/{quote(batch, safe='')}/undo", _model(Changed))


def evaluate(**measure: Unpack[Measure]) -> Call[Evaluation]:
    """Mean average precision of the held-out queries."""
    return Call("GET", "/eval/map", _model(Evaluation), {"params": _given(**measure)})


def curve() -> Call[Curve]:
    """What each Hamming distance is worth."""
    return Call("GET", "/eval/curve", _model(Curve))


def queries(
    *,
    order: Literal["worst", "best"] = "worst",
    after: str | None = None,
    limit: int | None = None,
    **measure: Unpack[Measure],
) -> Call[QueryPage]:
    """One page of the held-out queries by their score; `after`: the `next` of the page before."""
    params = _given(order=order, after=after, limit=limit, **measure)
    return Call("GET", "/eval/queries", _model(QueryPage), {"params": params})


def confusion() -> Call[Confusion]:
    """The class of the nearest image, by the class of the query."""
    return Call("GET", "/eval/confusion", _model(Confusion))


def codes() -> Call[CodeReport]:
    """The state of the codes of all indexed images."""
    return Call("GET", "/eval/codes", _model(CodeReport))


def duplicates(
    *,
    by: Space = "content",
    radius: int | None = None,
    after: str | None = None,
    limit: int | None = None,
    members: int | None = None,
) -> Call[DuplicatePage]:
    """One page of the groups of images whose codes, or, by picture, whose hashes lie near each other;
    `after`: the `next` of the page before, `members`: at most so many images of each group."""
    params = _given(by=by, radius=radius, after=after, limit=limit, members=members)
    return Call("GET", "/duplicates", _model(DuplicatePage), {"params": params})


def predictions(*, min_confidence: float | None = None) -> Call[Predictions]:
    """Which labels are predicted at least so surely, of how many images."""
    params = _given(min_confidence=min_confidence)
    return Call("GET", "/labels/predictions", _model(Predictions), {"params": params})


def suggestions(*, limit: int | None = None) -> Call[Suggestions]:
    """Images whose labels would teach most, the most telling first."""
    return Call("GET", "/labels/suggestions", _model(Suggestions), {"params": _given(limit=limit)})


def doubtful(*, limit: int | None = None) -> Call[Doubts]:
    """The most doubtful labels, the worst first."""
    return Call("GET", "/labels/doubtful", _model(Doubts), {"params": _given(limit=limit)})


def export(*, format: Literal["npz", "parquet"] = "npz", trashed: bool = False) -> Call[bytes]:
    """The index as one file, the whole of it in memory."""
    return Call("GET", "/export", bytes, {"params": {"format": format, "trashed": trashed}})


def learn() -> Call[Job]:
    """Begin to learn from all labels that there are now."""
    return Call("POST", "/labels/learn", _model(Job))


def jobs() -> Call[JobList]:
    """What is being learned, and what was."""
    return Call("GET", "/jobs", _model(JobList))


def job(job_id: int) -> Call[Job]:
    """How far a job is, or what came of it."""
    return Call("GET", f"/jobs/{job_id}", _model(Job))


def end_job(job_id: int) -> Call[None]:
    """Cancel a job, or let go what it made."""
    return Call("DELETE", f"/jobs/{job_id}", lambda _: None)


def labels(*, predicted: bool = False, trashed: bool = False) -> Call[bytes]:
    """All labels as a CSV file, the whole of it in memory; with predicted ones, and with those of what lies
    in the trash, if these are asked for."""
    return Call("GET", "/labels.csv", bytes, {"params": {"predicted": predicted, "trashed": trashed}})


def metrics() -> Call[str]:
    """What the service counts of itself, in Prometheus' text format."""
    return Call("GET", "/metrics", bytes.decode)


def stats() -> Call[Stats]:
    """What there is: images, classes, bytes, versions."""
    return Call("GET", "/stats", _model(Stats))


def reload(artifact: str | None = None, *, force: bool = False, as_it_is: bool = False) -> Call[Reloaded]:
    """Serve the artifact of this name from now on."""
    body = {"artifact": artifact, "force": force, "as_it_is": as_it_is}
    return Call("POST", "/admin/reload", _model(Reloaded), {"json": body, "timeout": None})


def rollback() -> Call[Reloaded]:
    """Serve the artifact before again."""
    return Call("POST", "/admin/rollback", _model(Reloaded), {"timeout": None})


def snapshot(name: str) -> Call[SnapshotMade]:
    """Copy the artifact that is served into a new folder of this name."""
    return Call("POST", "/admin/snapshot", _model(SnapshotMade), {"json": {"name": name}, "timeout": None})


def live() -> Call[Health]:
    """Whether the process answers."""
    return Call("GET", "/health/live", _model(Health))


def ready() -> Call[Readiness]:
    """Whether queries are answered, and how many images are indexed."""
    return Call("GET", "/health/ready", _model(Readiness))


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not None or empty."""
    return {
        name: value for name, value in values.items() if value is not None and value != () and value != []
    }


def _bytes(image: ImageSource) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _named(image: ImageSource | NamedSource) -> tuple[str, bytes]:
    if isinstance(image, tuple):
        name, source = image
        return _sendable(name), _bytes(source)
    return ("image" if isinstance(image, bytes) else _sendable(Path(image).name)), _bytes(image)


def _sendable(name: str) -> str:
    """A file's name as a form carries it whole: where that would alter it, as an encoded word (RFC 2047)."""
    if name.isprintable() and not name.startswith("=?") and not {'"', "%", "\\"} & set(name):
        return name
    content = name.encode(errors="surrogateescape")
    charset = "utf-8" if shown(name) == name else "unknown-8bit"  # RFC 1428
    return f"=?{charset}?B?{base64.b64encode(content).decode()}?="


def _model(model: type[Model]) -> Callable[[bytes], Model]:
    return model.model_validate_json
