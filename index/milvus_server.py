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
ANSWER = 10  # seconds for one question; pymilvus takes only whole ones for the end of its own trials
RETRY = 1.0  # seconds after which one that was away is looked for again
FRESH = 0.25  # seconds after an answer within which the next question goes without a knock
UNREACHABLE = "start it, or look at the network: once it answers, all goes on by itself"
# What Milvus says no to, by its code (pkg/util/merr of 2.3 to 2.6), and the way out. Other codes are of
# nodes that start, stop or are looked for: the same may succeed later.
REFUSED = {
    100: "somebody dropped it; hebbsearch sync --anew fills it again",
    101: "somebody released it; start again, which loads it",
    1100: "",  # a parameter
    1400: "look at user and password of the URL",
    1401: "grant it to the user of the URL",
    1700: "",  # a field
}
UNKNOWN = 65535
PASSING = ("not ready", "not available", "unavailable", "delegator", "timeout", "deadline", "node", "channel")


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
    often than each RETRY; the others are told so at once. A client that met a fault is replaced: its own
    trials to come back are minutes apart.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client: Any = None
        self._connecting = threading.Lock()
        self._fault: str | None = None
        self._until = 0.0  # when one looks for it again
        self._heard = 0.0  # when it last answered

    def ask(self, question: Callable[[Any], T]) -> T:
        """What a client answers. EngineAway, EngineError."""
        client = self._connected()
        try:
            answer = question(client)
        except _errors() as error:
            explained = self._explained(error, client)
            if isinstance(explained, EngineAway):
                self._lose(client, str(explained))
            raise explained from None  # what it was made of may tell a secret
        self._heard = time.monotonic()
        return answer

    def close(self) -> None:
        """Hang up. Who asks later finds it again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Any:
        client = self._client
        if client is not None and time.monotonic() - self._heard < FRESH:
            return client
        if self._fault is None:
            with self._connecting:
                return self._knock()
        if time.monotonic() < self._until or not self._connecting.acquire(blocking=False):
            raise EngineAway(self._fault)
        try:
            return self._knock()
        finally:
            self._connecting.release()

    def _knock(self) -> Any:
        """The client, once its server has been found to listen."""
        if self._fault is not None and time.monotonic() < self._until:  # of who knocked before
            raise EngineAway(self._fault)
        client = self._client
        try:
            with socket.create_connection((self.address.host, self.address.port), CONNECT) as knock:
                # Closed at once, so that none of many wait for their end.
                knock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if client is None:
                client = self._client = _client(self.address)
        except OSError as error:
            said = error.strerror or str(error)
            self._lose(client, f"{self.address.shown}: does not answer ({said}); {UNREACHABLE}")
            raise EngineAway(self._fault) from None
        except _errors() as error:
            explained = self._explained(error, client)
            if isinstance(explained, EngineAway):
                self._lose(client, str(explained))
            raise explained from None
        self._fault = None
        return client

    def _lose(self, client: Any, fault: str) -> None:
        """Let those who wait for it know too: their questions end as it is closed."""
        self._fault, self._until = fault, time.monotonic() + RETRY
        if client is not None and client is self._client:
            self.close()

    def _explained(self, error: BaseException, client: Any) -> EngineError:
        code, said = _told(error)
        if self.address.token:
            for secret in (self.address.token, self.address.token.partition(":")[2]):
                said = said.replace(secret, "…") if secret else said
        if client is not None and client is not self._client:  # closed meanwhile, as another met a fault
            return EngineAway(self._fault or f"{self.address.shown}: {said}; {UNREACHABLE}")
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return EngineError(f"{self.address.shown}: {said}; {REFUSED[1400]}")
        if code == UNKNOWN and not any(each in said for each in PASSING):
            return EngineError(f"{self.address.shown}: {said}")
        if isinstance(code, int) and code in REFUSED:
            way_out = REFUSED[code]
            return EngineError(f"{self.address.shown}: {said}{'; ' if way_out else ''}{way_out}")
        return EngineAway(f"{self.address.shown}: {said}; {UNREACHABLE}")


def _client(address: Address) -> Any:
    """A connection of its own: newer clients share one between all who ask the same server."""
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise EngineError(
            f"{address.shown}: needs the package pymilvus ({error}); pip install 'hebbsearch[milvus]'"
        ) from None
    _silence()
    return MilvusClient(uri=address.uri, token=address.token, timeout=CONNECT, dedicated=True)


def _silence() -> None:
    """It writes each error, with what it was asked, before it raises it: who asked says so once."""
    logger = logging.getLogger("pymilvus")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _errors() -> tuple[type[BaseException], ...]:
    """What the client raises; it is loaded where there is one."""
    import grpc
    from pymilvus.exceptions import MilvusException

    return MilvusException, grpc.RpcError, grpc.FutureTimeoutError, grpc.FutureCancelledError


def _told(error: BaseException) -> tuple[int | str, str]:
    """Milvus's own code, or the name of gRPC's, and one line of what was said."""
    code: Any = getattr(error, "code", None)
    code = code() if callable(code) else code  # of gRPC, also where pymilvus 2.3 forgets to call it
    said = getattr(error, "message", None) or getattr(error, "details", str)
    said = said() if callable(said) else said
    line = " ".join(str(said or type(error).__name__).split())
    return (int(code) if isinstance(code, int) else getattr(code, "name", str(code))), line[:500]
