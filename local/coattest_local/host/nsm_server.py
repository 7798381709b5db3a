"""Serves a simulated NSM on a Unix socket: u32 big-endian length and CBOR, in both directions.

The software host's stand-in for the ioctl of /dev/nsm, for the ``local`` profile's ``unix:`` transport.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from coattest.shell import utc_now
from coattest_local.host.nsm import REQUEST_MAX, SimulatedNsm
from coattest_local.host.unix_server import UnixServer

CONNECTIONS_MAX = 16
IDLE_SECONDS = 300.0


class NsmServer:
    """Answers on ``path`` from the moment it is made until ``close``."""

    def __init__(self, path: Path, nsm: SimulatedNsm, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._nsm = nsm
        self._clock = clock
        self.close = UnixServer(path, self._answer, seconds=IDLE_SECONDS, connections=CONNECTIONS_MAX).close

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while len(header := stream.read(4)) == 4:
                (length,) = struct.unpack(">I", header)
                # One byte more than the device's buffer reaches the module, which answers InputTooLarge.
                if length > REQUEST_MAX + 1 or len(request := stream.read(length)) < length:
                    return
                response = self._nsm.respond(request, now=self._clock())
                connection.sendall(struct.pack(">I", len(response)) + response)
