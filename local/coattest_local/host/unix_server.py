"""A thread that answers connections at a Unix socket: the NSM, its signer and the heartbeat use it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path


class UnixServer:
    """Answers at ``path`` from the moment it is made until ``close``.

    ``answer`` gets each connection, with a time-out of ``seconds``; when it returns or raises OSError the
    connection is closed. At most ``connections`` are answered at once; with one, in the order of arrival.
    """

    def __init__(
        self,
        path: Path,
        answer: Callable[[socket.socket], None],
        *,
        seconds: float,
        connections: int = 1,
    ) -> None:
        self._path = path
        self._answer = answer
        self._seconds = seconds
        self._slots = threading.BoundedSemaphore(connections)
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._closed = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(max(connections, 8))
        self._thread = threading.Thread(target=self._accept, name=path.name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering, end open connections and remove the socket."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._guard:
            self._closed = True
            for connection in self._open:
                _end(connection)
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
                if self._closed:
                    _end(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(self._seconds)
                self._answer(connection)
        finally:
            with self._guard:
                self._open.discard(connection)
            self._slots.release()


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
