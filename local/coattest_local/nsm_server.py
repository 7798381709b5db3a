"""Serves a simulated NSM on a Unix socket: u32 big-endian length and CBOR, in both directions.

The software host's stand-in for the ioctl of /dev/nsm, for the ``local`` profile's ``unix:`` transport.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from coattest_local.nsm import REQUEST_MAX, Nsm

CONNECTIONS_MAX = 16
IDLE_SECONDS = 300.0


class NsmServer:
    """Answers on ``path`` from the moment it is made until ``close``."""

    def __init__(self, path: Path, nsm: Nsm, *, clock: Callable[[], datetime] | None = None) -> None:
        self._nsm = nsm
        self._clock = clock or (lambda: datetime.now(timezone.utc))
        self._path = path
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(CONNECTIONS_MAX)
        self._thread = threading.Thread(target=self._accept, name="nsm", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering, end open connections and remove the socket."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._guard:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            self._slots.acquire()
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with self._guard:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="nsm-client", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(IDLE_SECONDS)
                while (request := _read(connection)) is not None:
                    response = self._nsm.respond(request, now=self._clock())
                    connection.sendall(struct.pack(">I", len(response)) + response)
        finally:
            with self._guard:
                self._open.discard(connection)
            self._slots.release()


def _read(connection: socket.socket) -> bytes | None:
    """One request, or None at the end of the stream and when the length is beyond what the device takes."""
    header = _exactly(connection, 4)
    if header is None:
        return None
    (length,) = struct.unpack(">I", header)
    # One byte more than the device's buffer reaches the module, which answers InputTooLarge.
    return _exactly(connection, length) if length <= REQUEST_MAX + 1 else None


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            return None
        data += chunk
    return bytes(data)
