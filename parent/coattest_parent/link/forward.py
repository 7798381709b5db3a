"""A TCP port of the parent that leads to a vsock port of the enclave: bytes both ways, nothing looked at.

The enclave's measured list says which of its ports lead anywhere (``coattest.network``); TLS ends inside.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from coattest.errors import CoattestError, UsageError
from coattest_parent.link.channels import Address, connect_to, parse_address, parse_number
from coattest_parent.link.loop import LoopServer, close
from coattest_parent.link.proxy import CHUNK, CONNECT_TIMEOUT, TUNNELS_OF_ONE, splice
from coattest_parent.link.telemetry import Telemetry

TCP_MAX = 65_535


def parse_forward(text: str) -> tuple[tuple[str, int], Address]:
    """``ADDRESS:PORT=ENCLAVE``: an IP address and a port to listen on, and where an enclave listens.

    Raises UsageError (``bad-address``).
    """
    place, _, enclave = text.partition("=")
    host, _, digits = place.rpartition(":")
    port = parse_number(digits, TCP_MAX)
    try:
        host = str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        port = None
    if port is None:
        raise UsageError(
            "not an address to listen on and an enclave's",
            where=text[:200],
            hint="such as 0.0.0.0:443=vsock:16:5005",
            code="bad-address",
        )
    return (host, port), parse_address(enclave)


class PortForwarder(LoopServer):
    """Carries each TCP connection to the enclave; a context manager that listens on entry, stops on exit."""

    def __init__(self, place: tuple[str, int], enclave: Address, telemetry: Telemetry | None = None) -> None:
        super().__init__(place, self._connection, name="forward", head_max=CHUNK, telemetry=telemetry)
        self.enclave = enclave
        self._open = 0

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= TUNNELS_OF_ONE:
            return  # The caller sees a closed connection, as from a server that is full.
        self._open += 1
        try:
            await self._carry(reader, writer)
        finally:
            self._open -= 1

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = await asyncio.to_thread(self._connected)
        inside = await asyncio.open_connection(sock=connection, limit=CHUNK)
        try:
            await splice((reader, writer), inside)
        finally:
            await close(inside[1])

    def _connected(self) -> socket.socket:
        try:
            connection = connect_to(self.enclave, CONNECT_TIMEOUT)
        except CoattestError as error:  # the loop knows only the system's
            raise ConnectionError(str(error)) from error
        connection.setblocking(False)
        return connection
