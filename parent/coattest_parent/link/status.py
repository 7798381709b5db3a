"""A service's state over HTTP on this machine: ``/healthz``, ``/readyz`` and ``/metrics``.

Loopback or a Unix socket only: there is no authentication, and nothing in it is secret from users of the
machine. A connection gets one answer and is closed. No client can starve the others: one thread serves all
connections, a client that sends no request within TIMEOUT is dropped, and so is the oldest of
CONNECTIONS_MAX when another one comes. So thousands of connections cost a bounded number of file descriptors
and no thread, and the courier's work goes on beside them.
"""

from __future__ import annotations

import asyncio
import http
import re
from collections.abc import Callable
from dataclasses import dataclass

from coattest.errors import UsageError
from coattest_parent.link.channels import Unix, is_loopback, parse_address, parse_number
from coattest_parent.link.loop import LoopServer
from coattest_parent.link.telemetry import CONTENT_TYPE, Metrics, Telemetry

CONNECTIONS_MAX = 256
"""Connections at a time: many times what the loop accepts at once, so that a client that asks right away is
answered before it is the oldest.
"""

TIMEOUT = 5.0
"""Seconds for a request to arrive, and for its answer to be taken."""

HEAD_MAX = 8192
"""Bytes of a request's head (RFC 9112, 3: at least 8000 for the request line)."""

TEXT = "text/plain; charset=utf-8"

_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,1024}) HTTP/1\.[01]\Z")


@dataclass(frozen=True, slots=True)
class State:
    """What the endpoints report: whether the service works and could open an auction now, and its metrics."""

    healthy: Callable[[], bool]
    ready: Callable[[], bool]
    metrics: Metrics

    def answer(self, head: bytes) -> bytes:
        """The answer to a request's head, which ends in an empty line."""
        request = _REQUEST.match(head.partition(b"\r\n")[0])
        if request is None:
            return _answer(400, "bad request\n")
        if request[1] not in (b"GET", b"HEAD"):
            return _answer(405, "only GET\n")
        match request[2]:
            case b"/healthz":
                whole = _yes_or_no(self.healthy())
            case b"/readyz":
                whole = _yes_or_no(self.ready())
            case b"/metrics":
                whole = _answer(200, self.metrics.render(), CONTENT_TYPE)
            case _:
                whole = _answer(404, "not found\n")
        return whole if request[1] == b"GET" else whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def parse_status_address(text: str) -> Unix | tuple[str, int]:
    """``unix:PATH``, or a loopback host and a port as in ``127.0.0.1:9464``; raises UsageError."""
    if text.startswith("unix:"):
        address = parse_address(text)
        assert isinstance(address, Unix)
        return address
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    number = parse_number(port, 65535)
    if not is_loopback(host) or number is None:
        raise UsageError(
            "not a status address",
            where=text[:200],
            hint="use 127.0.0.1:PORT or unix:PATH",
            code="bad-address",
        )
    return host, number


class StatusServer(LoopServer):
    """Answers as long as the block runs; ``port`` says which one the system gave for port 0."""

    def __init__(
        self, address: Unix | tuple[str, int], state: State, telemetry: Telemetry | None = None
    ) -> None:
        super().__init__(
            address,
            self._connection,
            name="status",
            head_max=HEAD_MAX,
            most=CONNECTIONS_MAX,
            telemetry=telemetry,
        )
        self._state = state

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
        writer.write(self._state.answer(head))
        await asyncio.wait_for(writer.drain(), TIMEOUT)


def _answer(code: int, text: str, kind: str = TEXT) -> bytes:
    content = text.encode()
    head = f"HTTP/1.1 {code} {http.HTTPStatus(code).phrase}\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode("ascii") + content


def _yes_or_no(value: bool) -> bytes:
    return _answer(200, "yes\n") if value else _answer(503, "no\n")
