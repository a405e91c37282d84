"""Who may do what: whoever has a key, or, where there are none, whoever sits at this machine."""

import hmac
from collections.abc import Callable, Coroutine, Mapping
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.exceptions import HTTPException

from service.schemas.problem import problems
from service.settings import Settings, split
from service.web.asking import shared
from service.web.limits import ADDRESS_TOO_LONG

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Access(IntEnum):
    """Each includes those before it."""

    NONE = 0
    READ = 1
    WRITE = 2
    ADMIN = 3


FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
BEARER = HTTPBearer(
    auto_error=False, description="A key of HEBBSEARCH_READ_KEYS, _WRITE_KEYS or _ADMIN_KEYS."
)
NO_KEY = "a key is needed; send it as the header 'Authorization: Bearer KEY'"
UNKNOWN_KEY = "this key is not known here; ask whoever runs the service for one"
KEY_TOO_WEAK = "this key does not allow that; ask whoever runs the service for a {} key"
UNKNOWN_HOST = "this service is not asked for as {}; HEBBSEARCH_HOSTS names what it may be asked for as"
NO_KEYS_SET = (
    "no key is set, so that only programs and pages of this machine may change anything; "
    "set HEBBSEARCH_WRITE_KEYS to let others"
)


def keys(settings: Settings) -> list[tuple[bytes, Access]]:
    """Every key with what it allows."""
    levels = {
        Access.READ: settings.read_keys,
        Access.WRITE: settings.write_keys,
        Access.ADMIN: settings.admin_keys,
    }
    return [(key.encode(), level) for level, text in levels.items() for key in split(text.get_secret_value())]


def allowed_by(key: str, known: list[tuple[bytes, Access]]) -> Access:
    """What a key allows. Each known one is compared, in a time that does not depend on where they differ."""
    given = key.encode(errors="surrogateescape")
    return max((level for each, level in known if hmac.compare_digest(each, given)), default=Access.NONE)


def from_this_machine(request: Request) -> bool:
    """Whether a program of this machine asks, or a page that this service gave to a browser on it.

    A foreign page in such a browser asks from this machine too: it is known by its origin, and one whose
    name was made to point here (DNS rebinding) by the host that it asks for.
    """
    origin = request.headers.get("origin")
    try:
        from_page = origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")
    except ValueError:  # brackets that do not close
        return False
    near = request.client is not None and is_loopback(request.client.host)
    return near and not _for_somebody(request) and is_loopback(asked_host(request)) and not from_page


def _for_somebody(request: Request) -> bool:
    """Whether a proxy asks, or somebody who says so."""
    return any(name in request.headers for name in FORWARDED)


def asked_host(request: Request) -> str:
    """The name by which the service is asked for, without port; empty for one that cannot be read."""
    try:
        return _plain(urlsplit(f"//{request.headers.get('host', '')}").hostname or "")
    except ValueError:
        return ""


def _plain(name: str) -> str:
    """Without the dot of the root, with which a name means the same (RFC 1034, 3.1)."""
    return name.lower().removesuffix(".")


def _refuse_strange_host(request: Request, settings: Settings) -> None:
    """Where no key is needed, a page whose name was made to point here (DNS rebinding) could read, from a
    browser on this machine: it is known by the name that it asks for. It may call itself a proxy."""
    host, allowed = asked_host(request), [_plain(name) for name in split(settings.hosts)]
    if allowed:
        known = host in allowed
    else:
        near, own = _asks_itself(request), reached_address(request)
        far = not near and not _for_somebody(request)
        known = far or is_loopback(host) or (near and own is not None and _address(host) == own)
    if not known:
        raise HTTPException(403, UNKNOWN_HOST.format(repr(host[:80])))


def _asks_itself(request: Request) -> bool:
    """Whether this machine asks: by its loopback, or by the very address that it reaches, as a machine does
    that asks for an address of its own."""
    if request.client is None:
        return False
    address = _address(request.client.host)
    return address is not None and (address.is_loopback or address == reached_address(request))


def reached_address(request: Request) -> IPv4Address | IPv6Address | None:
    """The address of this machine to which the connection came; None where it is not known, as on a socket of
    the file system."""
    host, _ = request.scope.get("server") or ("", None)
    return _address(host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's loopback."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """What an address is, however it is written: without zone, and of IPv4 that a socket of IPv6 names so
    (RFC 4291, 2.5.5.2). None for a name."""
    try:
        address = ip_address(host.partition("%")[0] if ":" in host else host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def guarded_router(
    level: Access, responses: Mapping[int | str, dict[str, Any]] = MappingProxyType({}), **more: Any
) -> APIRouter:
    """A router whose routes let those in who may do what `level` says: 401 without a key, 403 with one that
    does not suffice. The rest is APIRouter's."""

    class Guarded(APIRoute):
        """Asks for the key first: FastAPI reads and parses a body before it calls dependencies."""

        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                check(request, level)
                return await handle(request)

            return guarded

    # As a dependency the scheme is only described in /openapi.json.
    told = problems({ADDRESS_TOO_LONG.status: ADDRESS_TOO_LONG.detail}) | dict(responses)
    return APIRouter(route_class=Guarded, dependencies=[Security(BEARER)], responses=told, **more)


def reading_router() -> APIRouter:
    """A router whose routes are for everyone who may read."""
    return guarded_router(Access.READ, responses=problems({401: NO_KEY, 403: KEY_TOO_WEAK.format("read")}))


def check(request: Request, level: Access) -> None:
    """Raise HTTPException, 401 or 403, where whoever asks may not do what `level` says."""
    settings = shared(request).settings
    if settings.hosts or not split(settings.read_keys.get_secret_value()):
        _refuse_strange_host(request, settings)
    if level == Access.READ and not split(settings.read_keys.get_secret_value()):
        return
    known = keys(settings)
    if not known:
        if not from_this_machine(request):
            raise HTTPException(403, NO_KEYS_SET)
        return
    scheme, key = get_authorization_scheme_param(request.headers.get("authorization"))
    if scheme.lower() != "bearer" or not key:
        raise HTTPException(401, NO_KEY, {"WWW-Authenticate": "Bearer"})
    allowed = allowed_by(key, known)
    if allowed == Access.NONE:
        raise HTTPException(401, UNKNOWN_KEY, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
    if allowed < level:
        raise HTTPException(403, KEY_TOO_WEAK.format(level.name.lower()))


def may_have_originals(request: Request) -> bool:
    """Whether whoever asks gets images as they came, with all that their files say of themselves."""
    level = {"readers": Access.READ, "writers": Access.WRITE}.get(shared(request).settings.originals_to)
    return level is not None and may(request, level)


def may(request: Request, level: Access) -> bool:
    """Whether whoever asks may do what `level` says."""
    try:
        check(request, level)
    except HTTPException:
        return False
    return True
