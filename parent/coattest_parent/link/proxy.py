"""The byte proxy through which an enclave reaches KMS, or the names of its measured list, and nothing else.

The enclave asks ``CONNECT host:443 HTTP/1.1`` (RFC 9110, 9.3.6); the proxy answers 200 and moves bytes both
ways. TLS ends inside the enclave, so the proxy sees ciphertext only. Its one decision is the allow-list: the
name that the enclave asks for must be a key of it, byte for byte, and the value says where the connection
goes. A name is never resolved unless it is allowed.

The proxy is trusted with availability only: the enclave checks KMS's certificate itself.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from types import TracebackType

from coattest_parent.link.channels import Address
from coattest_parent.link.loop import LoopServer, close
from coattest_parent.link.telemetry import Telemetry

HEAD_MAX = 4096
"""Bytes of a CONNECT request's head; the enclave sends under 200."""

HEAD_TIMEOUT = 10.0
"""Seconds within which the head must arrive."""

CONNECT_TIMEOUT = 10.0
"""Seconds to reach the target."""

IDLE_TIMEOUT = 120.0
"""Seconds with no byte in either direction after which a tunnel is closed."""

TUNNELS_MAX = 256
"""Tunnels open at a time; an opening needs one. Further ones are answered 503."""

TUNNELS_OF_ONE = 128
"""Of them, those of one peer: an enclave, all of this machine over vsock, or a process on a Unix socket. So
nothing on the parent takes the enclave's.
"""

CHUNK = 64 * 1024
"""Bytes moved at a time."""

_REQUEST = re.compile(rb"CONNECT ([A-Za-z0-9.-]{1,253}):([0-9]{1,5}) HTTP/1\.[01]\Z")

Target = tuple[str, int]


def kms_allow_list(regions: frozenset[str], template: str, target: Target | None) -> dict[str, Target]:
    """Allow-list for the KMS hosts of ``regions``: ``{"host:443": (host, port)}``.

    ``template`` contains ``{region}``, as in the enclave's measured trust file. ``target`` sends all of them
    to one place (the local endpoint); None sends each to itself on port 443.
    """
    hosts = [template.format(region=region) for region in sorted(regions)]
    return {f"{host}:443": target or (host, 443) for host in hosts}


class ConnectProxy(LoopServer):
    """A CONNECT proxy in a thread of its own; a context manager that listens on entry and stops on exit."""

    def __init__(
        self, address: Address, allow: Mapping[str, Target], telemetry: Telemetry | None = None
    ) -> None:
        super().__init__(address, self._connection, name="kms-proxy", head_max=HEAD_MAX, telemetry=telemetry)
        self.allow = dict(allow)
        self.refused: list[str] = []
        self.tunnels_opened = 0
        self._open: Counter[int] = Counter()

    def __enter__(self) -> ConnectProxy:
        super().__enter__()
        self._telemetry.event("proxy-started", address=str(self.address))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._telemetry.event("proxy-stopped", address=str(self.address), tunnels=self.tunnels_opened)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _peer(writer.get_extra_info("socket"))
        self._count(peer, 1)
        try:
            if self._open.total() > TUNNELS_MAX or self._open[peer] > TUNNELS_OF_ONE:
                await _answer(writer, "503 Too Many Tunnels")
            else:
                await self._tunnel(reader, writer)
        finally:
            self._count(peer, -1)

    def _count(self, peer: int, change: int) -> None:
        self._open[peer] += change
        self._open += Counter()  # forgets who has none
        self._telemetry.metrics.set("coattest_proxy_tunnels_open", self._open.total())

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_TIMEOUT)
        request = _REQUEST.match(head.partition(b"\r\n")[0])
        if not request:
            await _answer(writer, "400 Bad Request")
            return
        name = f"{request[1].decode('ascii')}:{int(request[2])}"
        target = self.allow.get(name)
        if target is None:
            self.refused.append(name)
            self._telemetry.metrics.add("coattest_proxy_refused_total")
            del self.refused[:-100]
            await _answer(writer, "403 Forbidden")
            return
        try:
            upstream = await asyncio.wait_for(asyncio.open_connection(*target), CONNECT_TIMEOUT)
        except (OSError, asyncio.TimeoutError):
            await _answer(writer, "502 Bad Gateway")
            return
        try:
            self.tunnels_opened += 1
            self._telemetry.metrics.add("coattest_proxy_tunnels_total")
            await _answer(writer, "200 Connection established")
            await splice((reader, writer), upstream)
        finally:
            await close(upstream[1])


def _peer(stream: socket.socket) -> int:
    """Who is at the other end: the CID over vsock, the process on a Unix socket."""
    if stream.family == socket.AF_UNIX:
        credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])
    return int(stream.getpeername()[0])


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def splice(one: Stream, other: Stream) -> None:
    """Move bytes both ways until both directions have ended, or nothing moved for IDLE_TIMEOUT."""
    loop = asyncio.get_running_loop()
    last = [loop.time()]

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            last[0] = loop.time()
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    tasks = {
        asyncio.ensure_future(pump(one[0], other[1])),
        asyncio.ensure_future(pump(other[0], one[1])),
    }
    try:
        pending: set[asyncio.Future[None]] = set(tasks)
        while pending and loop.time() < last[0] + IDLE_TIMEOUT:
            done, pending = await asyncio.wait(
                pending, timeout=last[0] + IDLE_TIMEOUT - loop.time(), return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(writer: asyncio.StreamWriter, status: str) -> None:
    writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode("ascii"))
    await asyncio.wait_for(writer.drain(), HEAD_TIMEOUT)
