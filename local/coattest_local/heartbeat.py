"""The parent's half of the boot handshake: init writes 0xB7 to vsock port 9000 and reads it back.

nitro-cli answers it on Nitro ("Enclave boot heartbeat"); here the answer is given on the Unix socket at which
vhost-device-vsock delivers a guest's connection to (CID 2, port 9000).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

HEARTBEAT_PORT = 9000
HEARTBEAT = b"\xb7"
READ_SECONDS = 10.0


class Heartbeat:
    """Answers on ``path``; ``beat`` is set, and ``seconds`` since the start known, once init has called."""

    def __init__(self, path: Path) -> None:
        self.beat = threading.Event()
        self.seconds: float | None = None
        self._started = time.monotonic()
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and remove the socket."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(READ_SECONDS)
                if connection.recv(1) == HEARTBEAT:
                    connection.sendall(HEARTBEAT)
                    if not self.beat.is_set():
                        self.seconds = time.monotonic() - self._started
                        self.beat.set()
