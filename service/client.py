"""A typed client of the service, in two forms: `Client` waits, `AsyncClient` is awaited.

    with Client("http://127.0.0.1:8000") as client:
        for result in client.search("cat.png", k=5).results:
            print(result.id, result.label, result.distance)

What can be asked stands in calls.py; the clients only send. They load neither torch nor FAISS.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any, Generic, ParamSpec, Self, TypedDict, TypeVar, Unpack, get_args, overload

import httpx
from pydantic import ValidationError

from index.names import shown
from service import calls
from service.calls import Call, Which
from service.schemas.images import Image, Page
from service.schemas.problem import Problem
from service.schemas.trash import BATCH

P = ParamSpec("P")
T = TypeVar("T")

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

    _http: httpx.Client | httpx.AsyncClient

    @contextmanager
    def one_change(self) -> Iterator[str]:
        """All that is changed within can be undone as a whole: the names of these changes begin with this
        one. For one piece of work at a time."""
        self._http.headers[BATCH] = name = secrets.token_hex(8)
        try:
            yield name
        finally:
            del self._http.headers[BATCH]

    search = Route(calls.search)
    search_batch = Route(calls.search_batch)
    search_codes = Route(calls.search_codes)
    similar = Route(calls.similar)
    page = Route(calls.page)
    folders = Route(calls.folders)
    image = Route(calls.image)
    thumbnail = Route(calls.thumbnail)
    preview = Route(calls.preview)
    original = Route(calls.original)
    add = Route(calls.add)
    change = Route(calls.change)
    relabel = Route(calls.relabel)
    remove = Route(calls.remove)
    throw = Route(calls.throw)
    trash = Route(calls.trash)
    restore = Route(calls.restore)
    empty_trash = Route(calls.empty_trash)
    changes = Route(calls.changes)
    undo = Route(calls.undo)
    evaluate = Route(calls.evaluate)
    curve = Route(calls.curve)
    queries = Route(calls.queries)
    confusion = Route(calls.confusion)
    codes = Route(calls.codes)
    duplicates = Route(calls.duplicates)
    predictions = Route(calls.predictions)
    suggestions = Route(calls.suggestions)
    doubtful = Route(calls.doubtful)
    learn = Route(calls.learn)
    jobs = Route(calls.jobs)
    job = Route(calls.job)
    end_job = Route(calls.end_job)
    labels = Route(calls.labels)
    export = Route(calls.export)
    metrics = Route(calls.metrics)
    stats = Route(calls.stats)
    reload = Route(calls.reload)
    rollback = Route(calls.rollback)
    snapshot = Route(calls.snapshot)
    live = Route(calls.live)
    ready = Route(calls.ready)


class Client(Routes):
    """The service at `url`; may be used by many threads at a time. `key`: of HEBBSEARCH_READ_KEYS and so on;
    `timeout`: seconds that the server may be silent. Its methods raise Refused and Unreachable."""

    def __init__(self, url: str = URL, key: str | None = None, timeout: float = TIMEOUT) -> None:
        self.url = url
        with _explained(url):
            self._http: httpx.Client = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout)

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
            self._http: httpx.AsyncClient = httpx.AsyncClient(
                base_url=url, headers=_headers(key), timeout=timeout
            )

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


def _headers(key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if not key.isascii() or not key.isprintable():
        raise ServiceError("the key has characters that no header can carry; it is not one of the service's")
    return {"Authorization": f"Bearer {key}"}


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
