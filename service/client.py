"""A typed client of the service, in two forms: `Client` waits, `AsyncClient` is awaited.

    with Client("http://127.0.0.1:8000") as client:
        for result in client.search("cat.png", k=5).results:
            print(result.id, result.label, result.distance)

Each request is described once, by a function that makes a `Call`: what to send, and how to read the answer.
The clients only send. They load neither torch nor FAISS.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, ParamSpec, Self, TypedDict, TypeVar, Unpack, get_args, overload
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from index.conventions import Denominator, Ties
from index.names import shown
from index.sorting import Sort
from index.sources import Source
from service.schemas.about import DuplicatePage, Stats
from service.schemas.admin import Health, Readiness, Reloaded, SnapshotMade
from service.schemas.evaluation import CodeReport, Confusion, Curve, Evaluation, QueryPage
from service.schemas.images import AddedImages, Changed, Image, Page
from service.schemas.jobs import Job, JobList
from service.schemas.labels import Doubts, Predictions, Suggestions
from service.schemas.problem import Problem
from service.schemas.search import BatchAnswer, CodeSearchAnswer, SearchAnswer
from service.schemas.trash import Batches, TrashPage

P = ParamSpec("P")
T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

ImageSource = bytes | str | PathLike[str]  # the bytes of an image file, or its path
NamedSource = tuple[str, ImageSource]  # with another name than the file's own

URL = "http://127.0.0.1:8000"
TIMEOUT = 120.0  # seconds that the server may be silent; the first evaluation of a large index takes a while


class ServiceError(Exception):
    """The service did not do what was asked; the message says why, in one line."""


class Refused(ServiceError):
    """It answered with a problem: its `status`, its `detail`, and where it says when to come again
    `retry_after`, in seconds."""

    def __init__(self, status: int, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class Unreachable(ServiceError):
    """Nothing answered at its address, or not in time."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: what httpx is to send, and what the body of the answer means."""

    method: str
    path: str
    parse: Callable[[bytes], T]
    options: Mapping[str, Any] = field(default_factory=dict)


# --- what can be asked -----------------------------------------------------------------------------


class How(TypedDict, total=False):
    """How to search."""

    k: int | None
    max_distance: int | None
    label: Sequence[str]


class Which(TypedDict, total=False):
    """Which images are listed."""

    split: Literal["database", "query"]
    label: Sequence[str]
    unlabelled: bool
    trashed: bool
    folder: str | None
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


def _search(image: ImageSource, **how: Unpack[How]) -> Call[SearchAnswer]:
    """The indexed images nearest to an image."""
    options = {"content": _bytes(image), "params": _given(**how)}
    return Call("POST", "/search", _model(SearchAnswer), options)


def _search_batch(images: Sequence[ImageSource], **how: Unpack[How]) -> Call[BatchAnswer]:
    """The indexed images nearest to each of many images; what cannot be read has its own error."""
    files = [("image", _named(each)) for each in images]
    return Call("POST", "/search/batch", _model(BatchAnswer), {"files": files, "params": _given(**how)})


def _search_codes(codes: Sequence[str], encoder_id: str, **how: Unpack[How]) -> Call[CodeSearchAnswer]:
    """The indexed images nearest to codes in hexadecimal that the encoder made elsewhere."""
    how["label"] = list(how.get("label", ()))  # JSON knows no other sequence
    body = {"codes": list(codes), "encoder_id": encoder_id, **_given(**how)}
    return Call("POST", "/search/codes", _model(CodeSearchAnswer), {"json": body})


def _similar(item_id: int, **how: Unpack[How]) -> Call[SearchAnswer]:
    """The indexed images nearest to one of them, without itself."""
    return Call("GET", f"/images/{item_id}/similar", _model(SearchAnswer), {"params": _given(**how)})


def _page(
    *, after: int | None = None, offset: int | None = None, limit: int | None = None, **which: Unpack[Which]
) -> Call[Page]:
    """One page of the list of images; `after`: the `next` of the page before; `offset`: so many are skipped,
    in any order, and all are counted."""
    params = _given(after=after, offset=offset, limit=limit, **which)
    return Call("GET", "/images", _model(Page), {"params": params})


def _image(item_id: int, *, trashed: bool = False) -> Call[Image]:
    """What is known of an image."""
    return Call("GET", f"/images/{item_id}", _model(Image), {"params": _given(trashed=trashed or None)})


def _thumbnail(item_id: int) -> Call[bytes]:
    """A small WebP of an image."""
    return Call("GET", f"/images/{item_id}/thumbnail", bytes)


def _preview(item_id: int) -> Call[bytes]:
    """A WebP of an image, large enough to look at."""
    return Call("GET", f"/images/{item_id}/preview", bytes)


def _original(item_id: int) -> Call[bytes]:
    """The file of an image, as it came."""
    return Call("GET", f"/images/{item_id}/original", bytes)


def _add(
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


def _change(
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


def _relabel(
    ids: Sequence[int], label: str | None, *, source: Source | None = None, was: str | None = None
) -> Call[Changed]:
    """Give at most 10,000 images one label, or none, in one step; `source` and `was` as in `change`. Those
    that cannot have it are named."""
    body = {"ids": list(ids), "label": label, **_given(source=source, was=was)}
    return Call("PATCH", "/images", _model(Changed), {"json": body})


def _remove(item_id: int, *, forever: bool = False, sha256: str | None = None) -> Call[None]:
    """Put an image into the trash, or `forever` remove it; with `sha256` only if that is its file's: ids may
    change with the artifact."""
    params = _given(forever=forever or None, sha256=sha256)
    return Call("DELETE", f"/images/{item_id}", lambda _: None, {"params": params})


def _throw(ids: Sequence[int]) -> Call[Changed]:
    """Put many images into the trash, at once."""
    return Call("POST", "/trash", _model(Changed), {"json": {"ids": list(ids)}})


def _trash(*, offset: int | None = None, limit: int | None = None) -> Call[TrashPage]:
    """What was deleted and can come back, the latest first."""
    return Call("GET", "/trash", _model(TrashPage), {"params": _given(offset=offset, limit=limit)})


def _restore(ids: Sequence[int]) -> Call[Changed]:
    """Bring images back that lie in the trash."""
    return Call("POST", "/trash/restore", _model(Changed), {"json": {"ids": list(ids)}})


def _empty_trash(ids: Sequence[int] = ()) -> Call[Changed]:
    """Remove what lies in the trash, or only these images of it, for good."""
    return Call("DELETE", "/trash", _model(Changed), {"params": {"id": list(ids)}})


def _changes(*, limit: int | None = None) -> Call[Batches]:
    """What was changed and can be undone, the latest first."""
    return Call("GET", "/changes", _model(Batches), {"params": _given(limit=limit)})


def _undo(batch: str) -> Call[Changed]:
    """Undo a change, by the name that `changes` gives it."""
    return Call("POST", f"/changes/{quote(batch, safe='')}/undo", _model(Changed))


def _evaluate(**measure: Unpack[Measure]) -> Call[Evaluation]:
    """Mean average precision of the held-out queries."""
    return Call("GET", "/eval/map", _model(Evaluation), {"params": _given(**measure)})


def _curve() -> Call[Curve]:
    """What each Hamming distance is worth."""
    return Call("GET", "/eval/curve", _model(Curve))


def _queries(
    *,
    order: Literal["worst", "best"] = "worst",
    after: str | None = None,
    limit: int | None = None,
    **measure: Unpack[Measure],
) -> Call[QueryPage]:
    """One page of the held-out queries by their score; `after`: the `next` of the page before."""
    params = _given(order=order, after=after, limit=limit, **measure)
    return Call("GET", "/eval/queries", _model(QueryPage), {"params": params})


def _confusion() -> Call[Confusion]:
    """The class of the nearest image, by the class of the query."""
    return Call("GET", "/eval/confusion", _model(Confusion))


def _codes() -> Call[CodeReport]:
    """The state of the codes of all indexed images."""
    return Call("GET", "/eval/codes", _model(CodeReport))


def _duplicates(
    *, radius: int = 0, after: str | None = None, limit: int | None = None, members: int | None = None
) -> Call[DuplicatePage]:
    """One page of the groups of images whose codes lie near each other; `after`: the `next` of the page
    before, `members`: at most so many images of each group."""
    params = _given(radius=radius, after=after, limit=limit, members=members)
    return Call("GET", "/duplicates", _model(DuplicatePage), {"params": params})


def _predictions(*, min_confidence: float | None = None) -> Call[Predictions]:
    """Which labels are predicted at least so surely, of how many images."""
    params = _given(min_confidence=min_confidence)
    return Call("GET", "/labels/predictions", _model(Predictions), {"params": params})


def _suggestions(*, limit: int | None = None) -> Call[Suggestions]:
    """Images whose labels would teach most, the most telling first."""
    return Call("GET", "/labels/suggestions", _model(Suggestions), {"params": _given(limit=limit)})


def _doubtful(*, limit: int | None = None) -> Call[Doubts]:
    """The most doubtful labels, the worst first."""
    return Call("GET", "/labels/doubtful", _model(Doubts), {"params": _given(limit=limit)})


def _export(*, format: Literal["npz", "parquet"] = "npz") -> Call[bytes]:
    """The index as one file, the whole of it in memory."""
    return Call("GET", "/export", bytes, {"params": {"format": format}})


def _learn() -> Call[Job]:
    """Begin to learn from all labels that there are now."""
    return Call("POST", "/labels/learn", _model(Job))


def _jobs() -> Call[JobList]:
    """What is being learned, and what was."""
    return Call("GET", "/jobs", _model(JobList))


def _job(job_id: int) -> Call[Job]:
    """How far a job is, or what came of it."""
    return Call("GET", f"/jobs/{job_id}", _model(Job))


def _end_job(job_id: int) -> Call[None]:
    """Cancel a job, or let go what it made."""
    return Call("DELETE", f"/jobs/{job_id}", lambda _: None)


def _labels(*, predicted: bool = False) -> Call[bytes]:
    """All labels as a CSV file, the whole of it in memory; with predicted ones if these are asked for."""
    return Call("GET", "/labels.csv", bytes, {"params": {"predicted": predicted}})


def _metrics() -> Call[str]:
    """What the service counts of itself, in Prometheus' text format."""
    return Call("GET", "/metrics", bytes.decode)


def _stats() -> Call[Stats]:
    """What there is: images, classes, bytes, versions."""
    return Call("GET", "/stats", _model(Stats))


def _reload(artifact: str | None = None, *, force: bool = False, as_it_is: bool = False) -> Call[Reloaded]:
    """Serve the artifact of this name from now on."""
    body = {"artifact": artifact, "force": force, "as_it_is": as_it_is}
    return Call("POST", "/admin/reload", _model(Reloaded), {"json": body, "timeout": None})


def _rollback() -> Call[Reloaded]:
    """Serve the artifact before again."""
    return Call("POST", "/admin/rollback", _model(Reloaded), {"timeout": None})


def _snapshot(name: str) -> Call[SnapshotMade]:
    """Copy the artifact that is served into a new folder of this name."""
    return Call("POST", "/admin/snapshot", _model(SnapshotMade), {"json": {"name": name}, "timeout": None})


def _live() -> Call[Health]:
    """Whether the process answers."""
    return Call("GET", "/health/live", _model(Health))


def _ready() -> Call[Readiness]:
    """Whether queries are answered, and how many images are indexed."""
    return Call("GET", "/health/ready", _model(Readiness))


# --- the clients -----------------------------------------------------------------------------------


class Route(Generic[P, T]):
    """A method of both clients, made of the function that describes its call."""

    def __init__(self, describe: Callable[P, Call[T]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__
        described = signature(describe)
        (answered,) = get_args(described.return_annotation)
        self._signature = described.replace(return_annotation=answered)

    def __set_name__(self, owner: object, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, client: "Client", owner: object = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: object = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: None, owner: object = None) -> Callable[P, Call[T]]: ...
    def __get__(self, client: Any, owner: object = None) -> Callable[..., Any]:
        if client is None:
            return self._describe

        def ask(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.send(partial(self._describe, *args, **kwargs))

        ask.__doc__, ask.__name__ = self.__doc__, self._name
        ask.__signature__ = self._signature  # type: ignore[attr-defined]  # for help() and consoles
        return ask


class Routes:
    """What both clients can ask."""

    search = Route(_search)
    search_batch = Route(_search_batch)
    search_codes = Route(_search_codes)
    similar = Route(_similar)
    page = Route(_page)
    image = Route(_image)
    thumbnail = Route(_thumbnail)
    preview = Route(_preview)
    original = Route(_original)
    add = Route(_add)
    change = Route(_change)
    relabel = Route(_relabel)
    remove = Route(_remove)
    throw = Route(_throw)
    trash = Route(_trash)
    restore = Route(_restore)
    empty_trash = Route(_empty_trash)
    changes = Route(_changes)
    undo = Route(_undo)
    evaluate = Route(_evaluate)
    curve = Route(_curve)
    queries = Route(_queries)
    confusion = Route(_confusion)
    codes = Route(_codes)
    duplicates = Route(_duplicates)
    predictions = Route(_predictions)
    suggestions = Route(_suggestions)
    doubtful = Route(_doubtful)
    learn = Route(_learn)
    jobs = Route(_jobs)
    job = Route(_job)
    end_job = Route(_end_job)
    labels = Route(_labels)
    export = Route(_export)
    metrics = Route(_metrics)
    stats = Route(_stats)
    reload = Route(_reload)
    rollback = Route(_rollback)
    snapshot = Route(_snapshot)
    live = Route(_live)
    ready = Route(_ready)


class Client(Routes):
    """The service at `url`; may be used by many threads at a time. `key`: of HEBBSEARCH_READ_KEYS and so on;
    `timeout`: seconds that the server may be silent. Its methods raise Refused and Unreachable."""

    def __init__(self, url: str = URL, key: str | None = None, timeout: float = TIMEOUT) -> None:
        self.url = url
        with _explained(url):
            self._http = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout)

    def send(self, describe: Callable[[], Call[T]]) -> T:
        """Ask what is described and read the answer."""
        call = describe()
        with _explained(self.url):
            return _answer(call, self._http.request(call.method, call.path, **call.options))

    def images(self, **which: Unpack[Which]) -> Iterator[Image]:
        """All of these images, a page at a time."""
        place = _first_place(which)
        while place is not None:
            page = self.page(**place, limit=PAGE, **which)
            yield from page.images
            place = _next_place(place, page)

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(Routes):
    """The same, for asyncio."""

    def __init__(self, url: str = URL, key: str | None = None, timeout: float = TIMEOUT) -> None:
        self.url = url
        with _explained(url):
            self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout)

    async def send(self, describe: Callable[[], Call[T]]) -> T:
        """Ask what is described and read the answer."""
        call = await asyncio.to_thread(describe)  # which reads the images' files
        with _explained(self.url):
            return _answer(call, await self._http.request(call.method, call.path, **call.options))

    async def images(self, **which: Unpack[Which]) -> AsyncIterator[Image]:
        """All of these images, a page at a time."""
        place = _first_place(which)
        while place is not None:
            page = await self.page(**place, limit=PAGE, **which)
            for image in page.images:
                yield image
            place = _next_place(place, page)

    async def close(self) -> None:
        """End its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


PAGE = 1000  # images that `images` asks for at a time


# --- their parts -----------------------------------------------------------------------------------


class Place(TypedDict, total=False):
    """Where a page begins."""

    after: int
    offset: int


def _first_place(which: Which) -> Place | None:
    """By ascending id nothing is missed or repeated, whatever comes or goes meanwhile."""
    in_order = which.get("sort", "id") == "id" and not which.get("descending")
    return {"after": 0} if in_order else {"offset": 0}


def _next_place(place: Place, page: Page) -> Place | None:
    if "offset" in place:
        return {"offset": place["offset"] + PAGE} if len(page.images) == PAGE else None
    return None if page.next is None else {"after": page.next}


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


def _headers(key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if not key.isascii() or not key.isprintable():
        raise ServiceError("the key has characters that no header can carry; it is not one of the service's")
    return {"Authorization": f"Bearer {key}"}


def _model(model: type[Model]) -> Callable[[bytes], Model]:
    return model.model_validate_json


def _answer(call: Call[T], response: httpx.Response) -> T:
    if response.is_success:
        return call.parse(response.content)
    try:
        detail = Problem.model_validate_json(response.content).detail
    except ValidationError:  # of a proxy, or of something else at that address
        detail = f"{response.request.url} answered {response.status_code} {response.reason_phrase}".strip()
    raise Refused(response.status_code, " ".join(detail.split()), _seconds(response.headers))


def _seconds(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """What httpx and pydantic raise, in one line with the address."""
    try:
        yield
    except httpx.TimeoutException:
        raise Unreachable(f"{url} did not answer in time; is it overloaded?") from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL):
        raise Unreachable(f"{url} is no address of a service; one looks like {URL}") from None
    except UnicodeEncodeError as error:  # of the command line, where names may be any bytes
        text = repr(shown(str(error.object)))[:80]
        raise ServiceError(
            f"{text} is not in UTF-8 and cannot be sent; write or rename it in UTF-8"
        ) from None
    except httpx.HTTPError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unreachable(f"{url} cannot be reached ({reason}); is the service running there?") from None
    except ValidationError:
        raise ServiceError(
            f"{url} answered with something unknown to this client; is it hebbsearch, of this version?"
        ) from None
