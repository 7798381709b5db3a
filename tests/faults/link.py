"""A line between parent and enclave that cuts, garbles or slows what goes over it, once, or counts frames."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from coattest_local.host.unix_server import UnixServer

LIFE_SECONDS = 600.0


class Frames:
    """Where frames begin in one direction of a stream that comes in pieces of any length."""

    def __init__(self) -> None:
        self._head, self._left = b"", 0

    def cut(self, data: bytes) -> Iterator[tuple[bool, bytes]]:
        """``data`` in pieces of at most one frame: whether a frame begins with it, and the piece."""
        while data:
            begins = not self._head and not self._left
            if self._left:
                size = min(self._left, len(data))
                self._left -= size
            else:
                size = min(4 - len(self._head), len(data))
                self._head += data[:size]
                if len(self._head) == 4:
                    (self._left,), self._head = struct.unpack(">I", self._head), b""
            yield begins, data[:size]
            data = data[size:]


class Link:
    """Listens on ``near`` and forwards to ``far``; a context manager. ``fault`` is one of schedule.LINK.

    ``step`` is called before each frame goes on, either way; what it does to the parties is done by then.
    """

    def __init__(self, near: Path, far: Path, step: Callable[[], object] | None = None) -> None:
        self.fault, self.offset, self.seed = "", 0, 0
        self._step = step
        self._far = far
        self._once = threading.Lock()
        # More at once than a flood opens: what is behind it is what has to bear that.
        self._server = UnixServer(near, self._forward, seconds=LIFE_SECONDS, connections=256)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _forward(self, near: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as far:
            far.connect(str(self._far))
            with self._once:
                fault, self.fault = self.fault, ""
            down = threading.Thread(target=self._pump, args=(far, near, "down", fault), daemon=True)
            down.start()
            self._pump(near, far, "up", fault)
            down.join()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str, fault: str) -> None:
        kind, _, direction = fault.partition("-")
        here = direction == way
        moved, frames = 0, Frames()
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
                if self._step is None:
                    sink.sendall(data)
                    continue
                for begins, piece in frames.cut(data):
                    if begins:
                        self._step()
                    sink.sendall(piece)
        for stream, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                stream.shutdown(how)
        if here and kind == "cut":
            for stream in (source, sink):
                with contextlib.suppress(OSError):
                    stream.shutdown(socket.SHUT_RDWR)
