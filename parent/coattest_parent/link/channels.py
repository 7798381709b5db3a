"""Address strings and the sockets behind them: how the parent reaches an enclave, and is reached by it.

====================  ==================================================================================
``vsock:CID:PORT``    AF_VSOCK; ``any`` for the CID when listening (an enclave's CID comes from nitro-cli)
``unix:PATH``         a Unix stream socket: the software host
``hybrid:PATH:PORT``  a Unix socket that speaks Firecracker's hybrid vsock: connect, ``CONNECT PORT``, ``OK``
====================  ==================================================================================
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from coattest.errors import EnvironmentFailure, UsageError

ENCLAVE_PORT = 5005
"""The vsock port on which the enclave program listens (its measured trust file says so)."""

PROXY_PORT = 8000
"""The vsock port on the parent at which the enclave expects the byte proxy to KMS."""

BACKLOG_PAUSE = 0.02
"""Seconds until the next attempt at a Unix socket whose backlog is full (connect(2), EAGAIN)."""

LISTENER_PAUSE = 0.5
"""Seconds between two attempts to reach an enclave that does not listen yet."""

UNIX_PATH_MAX = 107
"""Bytes that fit sockaddr_un's sun_path before its closing zero (unix(7))."""

HYBRID_REPLY_MAX = 64
"""Bytes of the ``OK PORT`` line (Firecracker docs/vsock.md): 3 for OK and the space, a port, a newline."""

PORT_MAX = 2**32 - 2
"""Largest vsock port; 2**32 - 1 is VMADDR_PORT_ANY (vsock(7))."""

CID_MAX = 2**32 - 2
"""Largest CID; 2**32 - 1 is VMADDR_CID_ANY (vsock(7))."""

DIGITS_MAX = 20
"""Digits of a number that is parsed; int() refuses thousands of them with an error of its own."""


class ChannelFailure(EnvironmentFailure):
    """The other end of a channel is not there, or did not answer in time."""

    default_code = "unreachable"


@dataclass(frozen=True, slots=True)
class Vsock:
    """An AF_VSOCK address; ``cid`` None means any (for listening only)."""

    cid: int | None
    port: int

    def __str__(self) -> str:
        return f"vsock:{'any' if self.cid is None else self.cid}:{self.port}"


@dataclass(frozen=True, slots=True)
class Unix:
    """A Unix stream socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class Hybrid:
    """A guest's vsock port behind a Unix socket (vhost-device-vsock, Firecracker)."""

    path: Path
    port: int

    def __str__(self) -> str:
        return f"hybrid:{self.path}:{self.port}"


Address = Vsock | Unix | Hybrid


def parse_address(text: str) -> Address:
    """The address that ``text`` names; raises UsageError (bad-address) for anything else."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Unix(Path(rest))
    head, _, tail = rest.rpartition(":")
    port, cid = parse_number(tail, PORT_MAX), parse_number(head, CID_MAX)
    if head and port is not None:
        if kind == "hybrid":
            return Hybrid(Path(head), port)
        if kind == "vsock" and (head == "any" or cid is not None):
            return Vsock(cid, port)
    raise UsageError(
        "not an address",
        where=text[:200],
        hint="use vsock:CID:PORT, unix:PATH or hybrid:PATH:PORT",
        code="bad-address",
    )


def parse_number(text: str, most: int) -> int | None:
    """The number in decimal digits, if it is at most ``most``; None for any other text."""
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS_MAX:
        return None
    return number if (number := int(text)) <= most else None


def proxy_address_for(enclave: Address) -> Address:
    """Where an enclave at ``enclave`` looks for the parent's proxy, in address form for listening."""
    if isinstance(enclave, Vsock):
        return Vsock(None, PROXY_PORT)
    if isinstance(enclave, Hybrid):
        return Unix(enclave.path.with_name(f"{enclave.path.name}_{PROXY_PORT}"))
    return Unix(enclave.path.with_name(f"out_{PROXY_PORT}.sock"))


def is_local(address: Address) -> bool:
    """Whether the address cannot leave this machine: Unix sockets only (vsock may be real hardware)."""
    return not isinstance(address, Vsock)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine; decided from its text, never by a resolver."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def endpoint_host_port(url: str) -> tuple[str, int]:
    """Host and port of an ``https://`` endpoint; raises UsageError (bad-endpoint) for anything else."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme == "https" and parts.hostname:
            return parts.hostname, parts.port or 443
    raise UsageError("not an https endpoint", where=url[:200], code="bad-endpoint")


def connect_to(address: Address, timeout: float) -> socket.socket:
    """A connected stream socket whose ``timeout`` (seconds) is set; raises ChannelFailure."""
    try:
        if isinstance(address, Vsock):
            return _connect_vsock(address, timeout)
        return _connect_unix(address.path, timeout, address if isinstance(address, Hybrid) else None)
    except OSError as error:
        raise ChannelFailure(
            f"cannot connect: {error.strerror or error}", where=str(address), hint="is the enclave running?"
        ) from error


def await_listener(address: Address, seconds: float) -> None:
    """Return once the enclave accepts a connection (nitro-cli returns before that, at the heartbeat).

    Raises ChannelFailure when it does not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            connect_to(address, max(seconds, 1.0)).close()
        except ChannelFailure:
            if time.monotonic() > deadline:
                raise
            time.sleep(LISTENER_PAUSE)
        else:
            return


def listen_on(address: Address | tuple[str, int], backlog: int = 128) -> socket.socket:
    """A listening stream socket, on TCP for a host and port; a stale Unix socket file is replaced, a live one
    is refused.
    """
    try:
        if isinstance(address, tuple):
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            return socket.create_server(address, family=family, backlog=backlog)
        if isinstance(address, Vsock):
            server = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            server.bind((socket.VMADDR_CID_ANY if address.cid is None else address.cid, address.port))
            server.listen(backlog)
            return server
        if isinstance(address, Hybrid):
            raise UsageError("cannot listen on a guest's port", where=str(address), code="bad-address")
        return _listen_unix(address, backlog)
    except OSError as error:
        raise ChannelFailure(f"cannot listen: {error.strerror or error}", where=str(address)) from error


@contextlib.contextmanager
def _stream(family: int) -> Iterator[socket.socket]:
    """A new stream socket, which is closed when the block fails."""
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        yield made
    except BaseException:
        made.close()
        raise


def _connect_vsock(address: Vsock, timeout: float) -> socket.socket:
    if address.cid is None:
        raise UsageError("a CID is needed to connect", where=str(address), code="bad-address")
    with _stream(socket.AF_VSOCK) as connection:
        connection.settimeout(timeout)
        connection.connect((address.cid, address.port))
    return connection


def _connect_unix(path: Path, timeout: float, hybrid: Hybrid | None = None) -> socket.socket:
    with _stream(socket.AF_UNIX) as connection, _short(path) as name:
        connection.settimeout(timeout)
        deadline = time.monotonic() + timeout
        while True:
            try:
                connection.connect(name)
                break
            except BlockingIOError:  # the backlog is full, which a Unix socket does not wait for itself
                if time.monotonic() >= deadline:
                    raise
                time.sleep(BACKLOG_PAUSE)
        if hybrid:
            _hybrid_handshake(connection, hybrid)
    return connection


def _listen_unix(address: Unix, backlog: int) -> socket.socket:
    address.path.parent.mkdir(parents=True, exist_ok=True)
    with _stream(socket.AF_UNIX) as server:
        if address.path.is_socket():
            if _answers(address.path):
                raise ChannelFailure(
                    "another process listens here", where=str(address), code="address-in-use"
                )
            address.path.unlink(missing_ok=True)
        with _short(address.path) as name:
            server.bind(name)
        server.listen(backlog)
    return server


def _answers(path: Path) -> bool:
    """Whether a process listens at a socket file; raises OSError when that cannot be told."""
    try:
        _connect_unix(path, 1.0).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except BlockingIOError:  # its backlog is full, so there is somebody
        return True
    return True


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits sockaddr_un: itself, or through /proc/self/fd when it is too long."""
    if len(os.fsencode(path)) <= UNIX_PATH_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _hybrid_handshake(connection: socket.socket, address: Hybrid) -> None:
    connection.sendall(f"CONNECT {address.port}\n".encode("ascii"))
    reply = b""
    while not reply.endswith(b"\n"):
        # One byte at a time: what follows the line already belongs to the guest.
        byte = connection.recv(1)
        reply += byte
        if not byte or len(reply) > HYBRID_REPLY_MAX:
            raise ChannelFailure(
                "the guest does not listen on that port", where=str(address), hint="is the enclave running?"
            )
    if not reply.startswith(b"OK "):
        raise ChannelFailure("not a hybrid vsock socket", where=str(address))
