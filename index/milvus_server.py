"""How a Milvus is reached, and its errors in words.

The client, pymilvus, is an extra: it is loaded when a collection is opened, and not before.
"""

import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from index.engine import EngineAway, EngineError

T = TypeVar("T")

SCHEMES = ("milvus+http", "milvus+https")
SHAPE = "milvus+http://host:19530/name"
PORTS = {"milvus+http": 19530, "milvus+https": 443}
NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,254}")
FLAT, CELLS = "BIN_FLAT", "BIN_IVF_FLAT"
DEFAULTS = {"nlist": 1024, "nprobe": 32}
CONNECT = 3  # seconds in which a server answers, or is away
ANSWER = 30  # seconds for one question; pymilvus takes only whole ones for the end of its own trials
RETRY = 1.0  # seconds after which one that was away is looked for again
UNREACHABLE = "start it, or look at the network: once it answers, all goes on by itself"
# What Milvus says no to, by its code (pkg/util/merr of 2.3 to 2.6), and the way out. Other codes are of
# nodes that start, stop or are looked for: the same may succeed later.
REFUSED = {
    100: "somebody dropped it; hebbsearch sync --anew fills it again",
    1100: "",  # a parameter
    1400: "look at user and password of the URL",
    1401: "grant it to the user of the URL",
    1700: "",  # a field
}
UNLOADED = 101
LOADS = "Milvus loads it once it has started; where somebody released it, start again"
NOBODY = (1, 2)  # the service is not ready or unavailable; pymilvus's own, where it met nobody
UNKNOWN = 65535
PASSING = ("not ready", "not available", "unavailable", "delegator", "timeout", "deadline", "node", "channel")


def is_milvus(name: str) -> bool:
    """Whether it is the address of a collection of Milvus."""
    return name.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


@dataclass(frozen=True)
class Address:
    """One collection of a server."""

    host: str
    port: int
    secure: bool
    token: str  # user:password, or what stands for both
    collection: str
    index: str
    nlist: int
    nprobe: int

    @property
    def shown(self) -> str:
        """As messages name it: without its secret."""
        return f"milvus+{self.uri}/{self.collection}"

    @property
    def uri(self) -> str:
        """Of the server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"

    @classmethod
    def of(cls, url: str) -> "Address":
        """EngineError, which does not repeat a password."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise EngineError(f"the engine's address is no URL of Milvus; wanted such as {SHAPE}")
        name = parts.path.removeprefix("/")
        place = f"{parts.scheme}://{parts.hostname}:{port or PORTS[parts.scheme]}/{name}"
        if not NAME.fullmatch(name):
            raise EngineError(
                f"{place}: its collection is {name!r}; wanted letters, digits and _, as in {SHAPE}"
            )
        index, numbers = _index_of(parts, place)
        token = ":".join(unquote(each) for each in (parts.username, parts.password) if each)
        secure = parts.scheme.endswith("s")
        port = port or PORTS[parts.scheme]
        return cls(parts.hostname, port, secure, token, name, index, numbers["nlist"], numbers["nprobe"])


def _index_of(parts: SplitResult, place: str) -> tuple[str, dict[str, int]]:
    """Kind and numbers of the index."""
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    index = query.pop("index", FLAT)
    known = DEFAULTS if index == CELLS else {}
    if index not in (FLAT, CELLS) or set(query) - set(known):
        raise EngineError(
            f"{place}: takes index={FLAT}, or index={CELLS} with nlist and nprobe; "
            f"found index={index} with {', '.join(sorted(query)) or 'nothing'}"
        )
    numbers = {**DEFAULTS, **{key: int(value) if value.isdecimal() else 0 for key, value in query.items()}}
    if not 1 <= numbers["nprobe"] <= numbers["nlist"] <= 65536:
        raise EngineError(f"{place}: wanted whole numbers, 1 <= nprobe <= nlist <= 65536")
    return index, numbers


class Server:
    """What asks it. Many threads may at a time.

    Where it is away, each who looks for it may wait for CONNECT seconds: one does at a time, and no more
    often than each RETRY; the others are told so at once. A question that waits ends as soon as the server
    is missed: pymilvus itself would try again until its time is over. A client that met a fault is replaced:
    its own trials to come back are minutes apart.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._kind, self._errors = _library(address)
        self._client: Any = None
        self._connecting = threading.Lock()
        self._fault: str | None = None
        self._until = 0.0  # when one looks for it again
        self._waiting = set[object]()  # one for each question
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="milvus", daemon=True).start()

    def ask(self, question: Callable[[Any], T]) -> T:
        """What a client answers. EngineAway, EngineError."""
        client = self._connected()
        waiting = object()
        self._waiting.add(waiting)
        try:
            return question(client)
        except self._errors as error:
            raise self._met(error, client) from None  # what it was made of may tell a secret
        finally:
            self._waiting.discard(waiting)

    def close(self) -> None:
        """Hang up, for good."""
        self._closed.set()
        self._hang_up()

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _watch(self) -> None:
        """Miss it while questions wait."""
        while not self._closed.wait(RETRY):
            client = self._client
            if client is not None and self._waiting:
                try:
                    self._knock()
                except OSError as error:
                    self._miss(error, client)

    def _connected(self) -> Any:
        client = self._client
        if client is not None:
            return client
        if self._fault is None:
            with self._connecting:
                return self._connect()
        if time.monotonic() < self._until or not self._connecting.acquire(blocking=False):
            raise EngineAway(self._fault)
        try:
            return self._connect()
        finally:
            self._connecting.release()

    def _connect(self) -> Any:
        if self._client is None:
            if self._fault is not None and time.monotonic() < self._until:  # of who looked before
                raise EngineAway(self._fault)
            try:
                self._knock()
                # One of its own: newer clients share one between all who ask the same server.
                self._client = self._kind(
                    uri=self.address.uri, token=self.address.token, timeout=CONNECT, dedicated=True
                )
            except OSError as error:
                raise self._miss(error, None) from None
            except self._errors as error:
                raise self._met(error, None) from None
            self._fault = None
        return self._client

    def _knock(self) -> None:
        """OSError where nobody listens, sooner than the client would say so."""
        socket.create_connection((self.address.host, self.address.port), CONNECT).close()

    def _miss(self, error: OSError, client: Any) -> EngineAway:
        said = error.strerror or str(error)
        return self._lose(client, f"{self.address.shown}: does not answer ({said}); {UNREACHABLE}")

    def _lose(self, client: Any, fault: str) -> EngineAway:
        """Let those who wait for it know too: their questions end as it is closed."""
        if client is self._client:
            self._fault, self._until = fault, time.monotonic() + RETRY
            self._hang_up()
        return EngineAway(fault)

    def _met(self, error: BaseException, client: Any) -> EngineError:
        """What an error of the client says."""
        if client is not self._client:  # closed meanwhile, as another question met a fault
            return EngineAway(self._fault or f"{self.address.shown}: is closed")
        code, said = _told(error)
        if self.address.token:
            for secret in (self.address.token, self.address.token.partition(":")[2]):
                said = said.replace(secret, "…") if secret else said
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return EngineError(f"{self.address.shown}: {said}; {REFUSED[1400]}")
        if code == UNKNOWN and not any(each in said for each in PASSING):
            return EngineError(f"{self.address.shown}: {said}")
        if isinstance(code, int) and code in REFUSED:
            way_out = REFUSED[code]
            return EngineError(f"{self.address.shown}: {said}{'; ' if way_out else ''}{way_out}")
        away = f"{self.address.shown}: {said}; {LOADS if code == UNLOADED else UNREACHABLE}"
        if code == "DEADLINE_EXCEEDED" or (isinstance(code, int) and code not in NOBODY):
            return EngineAway(away)  # it is there, and others may have their answers
        return self._lose(client, away)


def _library(address: Address) -> tuple[Any, tuple[type[BaseException], ...]]:
    """The client's class, and what it raises. EngineError where it is not installed."""
    try:
        import grpc
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise EngineError(
            f"{address.shown}: needs the package pymilvus ({error}); pip install 'hebbsearch[milvus]'"
        ) from None
    # It writes down each error with what it was asked, before it raises it: who asked tells it once.
    logger = logging.getLogger("pymilvus")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return MilvusClient, (MilvusException, grpc.RpcError, grpc.FutureTimeoutError, grpc.FutureCancelledError)


def _told(error: BaseException) -> tuple[int | str, str]:
    """Milvus's own code, or the name of gRPC's, and one line of what was said."""
    code: Any = getattr(error, "code", None)
    code = code() if callable(code) else code  # of gRPC, also where pymilvus 2.3 forgets to call it
    said = getattr(error, "message", None) or getattr(error, "details", str)
    said = said() if callable(said) else said
    line = " ".join(str(said or type(error).__name__).split()).rpartition("message=")[2]
    return (int(code) if isinstance(code, int) else getattr(code, "name", str(code))), line[:500]
