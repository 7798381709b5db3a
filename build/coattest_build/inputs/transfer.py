"""Opens what a mirror has, which may be hostile: time, pace, headers and redirects have limits.

Only http, https and file. A redirect stays with http and https, never leaves https, and does not lead from
the network into this machine or its neighbourhood, where a mirror could not reach by itself.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import socket
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote, unquote, urljoin, urlsplit

from coattest.errors import UsageError
from coattest.files import open_plain

CHUNK = 1024 * 1024
WAIT_SECONDS = 60.0
"""To connect; and of waiting, in which at least LEAST bytes of an answer arrive."""
LEAST = 16 * 1024
"""Bytes: 300 a second. With less a file of 100 MB would take four days."""
TRANSFER_SECONDS = 3600.0
"""One attempt at one file, in all; the next continues it."""
MAX_HEADERS = 256 * 1024
"""Bytes of all headers of an answer, with those of answers that only announce it (1xx)."""
MAX_REDIRECTS = 5
MAX_ADDRESS = 2048
"""Characters of where a redirect leads."""
MAX_TRIED = 8
"""Addresses of one host that are tried."""

SCHEMES = ("http", "https")


@dataclass(slots=True)
class Pace:
    """How long an answer may still take. ``most`` are the bytes that it may have in all."""

    seconds: float
    most: int
    clock: Callable[[], float] = time.monotonic
    headers: bool = True
    """Whether they are still to come."""
    _ends: float = field(init=False)
    _began: float = field(init=False, default=0.0)
    _waited: float = field(init=False, default=0.0)
    _recent: int = field(init=False, default=0)
    _all: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._ends = self.clock() + self.seconds

    def wait(self) -> float:
        """Begin to wait; returns for how many seconds. Raises TimeoutError when the time is used up."""
        self._began = self.clock()
        left = self._ends - self._began
        if left <= 0:
            raise TimeoutError(f"took more than {self.seconds:g} seconds")
        slow = WAIT_SECONDS - self._waited
        if slow <= 0:
            raise TimeoutError(f"brought less than {LEAST} bytes in {WAIT_SECONDS:g} seconds")
        return min(left, slow)

    def arrived(self, count: int) -> None:
        """So many bytes ended the waiting. Raises HTTPException when they are too many."""
        self._waited += self.clock() - self._began
        self._recent += count
        self._all += count
        if self.headers and self._all > MAX_HEADERS:
            raise http.client.HTTPException(f"headers of more than {MAX_HEADERS} bytes")
        if self._all > self.most + MAX_HEADERS:
            raise http.client.HTTPException(f"an answer of more than {self.most} bytes")
        if self._recent >= LEAST:
            self._waited, self._recent = 0.0, 0


class _Timed(io.RawIOBase):
    """What arrives at a socket, at a pace."""

    def __init__(self, connected: socket.socket, pace: Pace) -> None:
        self._socket, self._pace = connected, pace
        self._raw = connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._socket.settimeout(self._pace.wait())
        count: int | None = self._raw.readinto(buffer)
        self._pace.arrived(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, connected: socket.socket, *arguments: Any, pace: Pace, **options: Any) -> None:
        super().__init__(connected, *arguments, **options)
        self._pace = pace
        self.fp.close()
        self.fp = io.BufferedReader(_Timed(connected, pace))

    def begin(self) -> None:
        self._pace.headers = True
        super().begin()
        self._pace.headers = False


def place(address: str) -> str:
    """``public``, ``private``, ``link-local`` or ``loopback``: from where an IP address can be reached.

    An address of IPv4 inside one of IPv6 (RFC 4291, 2.5.5.2; RFC 6052; RFC 3056) counts as itself.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return place(str(inner))
    if found.is_loopback or found.is_unspecified:  # Linux connects 0.0.0.0 to itself
        return "loopback"
    if found.is_link_local:
        return "link-local"
    return "public" if found.is_global and not found.is_multicast else "private"


def may_lead(first: str, then: str) -> bool:
    """Whether a mirror at one ``place`` may redirect to another."""
    return then in ("public", first) or (first, then) == ("loopback", "private")


@dataclass(slots=True)
class Origin:
    """The place of the server that a user named; None until it was reached."""

    place: str | None = None


class _Route:
    """Where the answers to one request come from, redirects included."""

    def __init__(self, pace: Pace, origin: Origin) -> None:
        self.pace, self.origin = pace, origin

    def allow(self, where: str) -> None:
        """Raise OSError for a place that a redirect may not lead to; the first one is the user's choice."""
        first = self.origin.place
        if first is not None and not may_lead(first, where):
            raise OSError(f"a redirect from a {first} to a {where} address is not followed")

    def connect(self, address: tuple[str, int], *_: Any, proxied: bool) -> socket.socket:
        """A connected socket; the proxy's is the user's choice too. Raises OSError."""
        failure: OSError = OSError("has no address")
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        for family, kind, protocol, _name, at in found[:MAX_TRIED]:
            where = place(str(at[0]))
            if not proxied:
                self.allow(where)
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(self.pace.wait())
                made.connect(at)
                self.pace.arrived(0)
            except OSError as error:
                made.close()
                failure = error
                self.pace.arrived(0)
            else:
                if not proxied and self.origin.place is None:
                    self.origin.place = where
                return made
        raise failure


class _Handler(urllib.request.AbstractHTTPHandler):
    """http and https over such connections."""

    def __init__(self, route: _Route) -> None:
        super().__init__()
        self._route = route

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(http.client.HTTPConnection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(http.client.HTTPSConnection, request)

    def _open(self, kind: Any, request: urllib.request.Request) -> http.client.HTTPResponse:
        proxied = request.host != urlsplit(request.full_url).netloc

        def connection(host: str, **options: Any) -> Any:
            made = kind(host, **options)
            made._create_connection = partial(self._route.connect, proxied=proxied)
            made.response_class = partial(_Response, pace=self._route.pace)
            return made

        return self.do_open(cast("Any", connection), request)


class _Redirects(urllib.request.BaseHandler):
    """Follows a few; the library's own reads the whole body of each, and follows to ftp."""

    def __init__(self, route: _Route) -> None:
        self._route, self._left = route, MAX_REDIRECTS

    def http_error_302(
        self, request: urllib.request.Request, body: IO[bytes], _code: int, _message: str, headers: Message
    ) -> Any:
        body.close()
        self._left -= 1
        if self._left < 0:
            raise OSError(f"more than {MAX_REDIRECTS} redirects")
        target = _target(request.full_url, headers.get("Location") or "")
        host = urlsplit(target).hostname or ""
        if self._route.origin.place is None:  # behind a proxy, which looks names up itself
            self._route.origin.place = named_place(urlsplit(request.full_url).hostname or "")
        self._route.allow(named_place(host))
        headers_again = dict(request.headers)
        if urlsplit(target)[:2] != urlsplit(request.full_url)[:2]:  # a token is for the server it is of
            headers_again.pop("Authorization", None)
        return self.parent.open(
            urllib.request.Request(target, headers=headers_again),  # noqa: S310 - checked
            timeout=request.timeout,
        )

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def named_place(host: str) -> str:
    """The place that a host's name itself says; a name that has to be looked up counts as public."""
    if host == "localhost" or host.endswith((".localhost", "localhost.")):
        return "loopback"
    try:
        return place(host)
    except ValueError:
        return "public"


def _target(address: str, location: str) -> str:
    """Where a redirect leads. Raises OSError."""
    refusal = OSError("a redirect to no http or https address is not followed")
    try:
        target = quote(urljoin(address, location), safe=string.punctuation)
        parts = urlsplit(target)
        allowed = parts.hostname and "@" not in parts.netloc and (parts.port or 1) > 0
    except ValueError:
        raise refusal from None
    if not allowed or len(target) > MAX_ADDRESS or parts.scheme not in SCHEMES:
        raise refusal
    if parts.scheme == "http" and urlsplit(address).scheme == "https":
        raise OSError("a redirect from https to http is not followed")
    return target


@contextlib.contextmanager
def open_address(
    address: str,
    headers: Mapping[str, str] | None = None,
    *,
    most: int,
    seconds: float = TRANSFER_SECONDS,
    redirects: bool = True,
    origin: Origin | None = None,
) -> Iterator[IO[bytes]]:
    """What an http, https or file address has, of which at most about ``most`` bytes are to be read.

    Without ``redirects`` an answer that leads elsewhere is an error, as every other status but 2xx is.
    ``origin`` is shared by the requests to one server, and to where it leads: what is no redirect, such as a
    server of tokens, is then held to the rules of one.

    Raises OSError, which urllib's errors are too, and HTTPException; reading does as well, when all together
    takes longer than ``seconds``, or stands still. A file is opened as any that somebody else wrote: a mirror
    in a folder may have pipes and links.
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        raise urllib.error.URLError("not an address") from None
    if parts.scheme == "file":
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open_plain(Path(unquote(parts.path))))
            except (UsageError, OSError, ValueError) as error:
                raise urllib.error.URLError(error.what if isinstance(error, UsageError) else error) from None
            yield file
        return
    if parts.scheme not in SCHEMES:
        raise urllib.error.URLError("not an http, https or file address")
    route = _Route(Pace(seconds, 2 * most), origin or Origin())
    opener = urllib.request.OpenerDirector()
    for handler in (
        *(urllib.request.ProxyHandler(), _Handler(route), *([_Redirects(route)] if redirects else [])),
        *(urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()),
    ):
        opener.add_handler(handler)
    with _opened(opener, address, {"User-Agent": "coattest", **(headers or {})}) as response:
        yield response


def _opened(opener: urllib.request.OpenerDirector, address: str, headers: dict[str, str]) -> IO[bytes]:
    try:
        request = urllib.request.Request(address, headers=headers)  # noqa: S310 - the scheme was checked
        response: IO[bytes] = opener.open(request, timeout=WAIT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()  # its body may have no end
        raise
    except (ValueError, OverflowError) as error:  # names and ports that are none
        raise urllib.error.URLError(f"not an address that can be asked: {type(error).__name__}") from None
    return response


def read_response(response: IO[bytes], limit: int, *, seconds: float = TRANSFER_SECONDS) -> bytes:
    """At most ``limit`` bytes of an answer. Raises as ``response_blocks``."""
    return b"".join(response_blocks(response, limit, seconds=seconds))


def response_blocks(response: IO[bytes], limit: int, *, seconds: float = TRANSFER_SECONDS) -> Iterator[bytes]:
    """At most ``limit`` bytes of an answer, as they arrive.

    Raises OSError when that takes too long or ends early, and HTTPException.
    """
    ends, left = time.monotonic() + seconds, limit
    while left and (piece := read_some(response, min(left, CHUNK))):
        left -= len(piece)
        if time.monotonic() > ends:
            raise TimeoutError(f"took more than {seconds:g} seconds")
        yield piece
    if left and getattr(response, "length", None):  # http.client: what of Content-Length is to come
        raise ConnectionError("the answer was cut short")


def read_some(response: IO[bytes], count: int) -> bytes:
    """What has arrived, at most ``count`` bytes; ``read`` would wait for all of them.

    Raises OSError and HTTPException.
    """
    if not isinstance(response, http.client.HTTPResponse):
        return response.read(count)
    try:
        return response.read1(count)
    except ValueError as error:
        raise http.client.HTTPException(f"not an answer: {error}") from None
