"""The parent's half of the boot handshake: init writes 0xB7 to vsock port 9000 and reads it back.

nitro-cli answers it on Nitro ("Enclave boot heartbeat"); here the answer is given on the Unix socket at which
vhost-device-vsock delivers a guest's connection to (CID 2, port 9000).
"""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from coattest_local.host.unix_server import UnixServer

HEARTBEAT_PORT = 9000
HEARTBEAT = b"\xb7"
READ_SECONDS = 10.0


class Heartbeat:
    """Answers on ``path``; ``beat`` is set, and ``seconds`` since the start known, once init has called."""

    def __init__(self, path: Path) -> None:
        self.beat = threading.Event()
        self.seconds: float | None = None
        self._started = time.monotonic()
        self.close = UnixServer(path, self._answer, seconds=READ_SECONDS).close

    def _answer(self, connection: socket.socket) -> None:
        if connection.recv(1) == HEARTBEAT:
            connection.sendall(HEARTBEAT)
            if not self.beat.is_set():
                self.seconds = time.monotonic() - self._started
                self.beat.set()
