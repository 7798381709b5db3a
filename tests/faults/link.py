"""A line between parent and enclave that cuts, garbles or slows what goes over it, once."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from pathlib import Path


class Link:
    """Listens on ``near`` and forwards to ``far``; a context manager. ``fault`` is one of schedule.LINK."""

    def __init__(self, near: Path, far: Path) -> None:
        self.fault, self.offset, self.seed = "", 0, 0
        self._far = far
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(near))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Link:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                far.connect(str(self._far))
            except OSError:
                near.close()
                far.close()
                continue
            fault, self.fault = self.fault, ""
            for source, sink, way in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._pump, args=(source, sink, way, fault), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str, fault: str) -> None:
        kind, _, direction = fault.partition("-")
        here = direction == way
        moved = 0
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if kind == "slow":
                    time.sleep(0.02)
                if here and moved <= self.offset < moved + len(data):
                    place = self.offset - moved
                    if kind == "cut":
                        sink.sendall(data[:place])
                        break
                    if kind == "garbage":
                        data = data[:place] + random.Random(self.seed).randbytes(64) + data[place:]
                    if kind == "flip":
                        data = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
                moved += len(data)
                sink.sendall(data)
        for stream, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                stream.shutdown(how)
        if here and kind == "cut":
            for stream in (source, sink):
                with contextlib.suppress(OSError):
                    stream.shutdown(socket.SHUT_RDWR)
