"""A server of frames: light requests beside each other, a heavy one at a time, ``alive`` for every payload.

What a payload says is which types of frames start a request, and what answers them; connections, time-outs,
limits and error frames are here. A request that fails gets one error frame and no answer.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal

from coattest_enclave.payload import transport
from coattest_enclave.payload.nsm import Nsm
from coattest_enclave.payload.turns import Turns
from coattest_enclave.protocol import alive, wire
from coattest_enclave.protocol.errors import EnclaveError, MessageError

CONNECTIONS_MAX = 8
"""Connections kept at a time. One more ends the one that was silent for longest, but never a heavy one."""

BACKLOG = 128
"""Connections that the kernel keeps until they are accepted, as while a heavy request has ``Turns.alone``."""

IDLE_TIMEOUT = 60.0
"""Seconds without a byte from the parent until a connection is closed."""

DRAIN_TIMEOUT = 5.0
"""Seconds in which the parent can read an error before the connection is closed."""

ACCEPT_PAUSE = 0.1
"""Seconds to wait after accepting has failed."""

Light = Callable[[wire.Frame], wire.Frame]
"""Gives the answer to a request of one frame. Raises EnclaveError, whose code and detail the parent reads."""

Heavy = Callable[[socket.socket, wire.Frame, Turns], None]
"""Reads what follows a request's first frame and writes the answer; within ``Turns.alone`` nobody else is
served. Raises EnclaveError, and OSError when the stream breaks.
"""


class Server:
    """Answers on listening sockets until the process ends. The handlers are named by type of frame."""

    def __init__(
        self, nsm: Nsm, *, light: Mapping[str, Light] | None = None, heavy: Mapping[str, Heavy] | None = None
    ) -> None:
        self._nsm = nsm
        self._light, self._heavy = {"alive": self._alive, **(light or {})}, heavy or {}
        self._types = wire.TYPES | set(self._light) | set(self._heavy)
        self._turns = Turns()
        self._change = threading.Condition()
        # Every connection, from the longest silent on. Who is taken out of it has to end.
        self._streams: dict[socket.socket, None] = {}
        # One heavy request at a time, so that memory is bounded by one upload.
        self._busy: socket.socket | None = None

    def serve(self, listener: socket.socket) -> None:
        """Accept connections, each in a thread of its own."""
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:  # out of descriptors, or a peer gone already; the enclave stays up
                time.sleep(ACCEPT_PAUSE)
                continue
            with self._turns.served(stream), self._change:
                if len(self._streams) >= CONNECTIONS_MAX:
                    silent = next(other for other in self._streams if other is not self._busy)
                    del self._streams[silent]
                    transport.cut(silent)
                    self._change.notify_all()
                self._streams[stream] = None
            threading.Thread(target=self._connection, args=(stream,), daemon=True).start()

    def _connection(self, stream: socket.socket) -> None:
        try:
            with stream, contextlib.suppress(OSError):
                stream.settimeout(IDLE_TIMEOUT)
                # Nothing is taken from the socket before it is this connection's turn.
                while stream.recv(1, socket.MSG_PEEK) and self._request(stream):
                    pass
                with self._turns.served(stream):
                    _drain(stream)
        finally:
            with self._change:
                self._streams.pop(stream, None)

    def _request(self, stream: socket.socket) -> bool:
        """Answer one request; False when the connection is over, because it ended or the request failed."""
        number = 0
        with self._turns.served(stream):
            try:
                frame = wire.read_frame(stream, self._types)
                if frame is None:
                    return False
                number = frame.request
                if frame.type in self._light:
                    wire.write_frame(stream, self._light[frame.type](frame))
                elif frame.type not in self._heavy:
                    raise MessageError("this frame does not start a request")
            except Exception as error:
                return _refuse(stream, number, error)
        with self._change:
            if stream in self._streams:
                self._streams[stream] = self._streams.pop(stream)
        return frame.type in self._light or self._answer(stream, frame)

    def _answer(self, stream: socket.socket, frame: wire.Frame) -> bool:
        with self._change:
            self._change.wait_for(lambda: self._busy is None or stream not in self._streams)
            if stream not in self._streams:
                return False
            self._busy = stream
        try:
            self._heavy[frame.type](stream, frame, self._turns)
        except Exception as error:
            return _refuse(stream, frame.request, error)
        finally:
            with self._change:
                self._busy = None
                self._change.notify_all()
        return True

    def _alive(self, frame: wire.Frame) -> wire.Frame:
        match frame.body:
            case {"nonce": bytes(nonce), **rest} if (
                not rest and alive.NONCE_MIN <= len(nonce) <= alive.NONCE_MAX
            ):
                document = self._nsm.attest(user_data=alive.alive_user_data(), nonce=nonce)
                return wire.Frame(frame.request, "document", {"document": document})
        raise MessageError("alive takes a nonce of 16 to 64 bytes")


def _refuse(stream: socket.socket, number: int, error: Exception) -> Literal[False]:
    if not isinstance(error, OSError):
        # The text of an unforeseen error could hold anything, so it is not repeated.
        told = error if isinstance(error, EnclaveError) else EnclaveError("internal error")
        with contextlib.suppress(OSError):
            wire.write_frame(stream, wire.Frame(number, "error", {"code": told.code, "detail": told.detail}))
    return False


def _drain(stream: socket.socket) -> None:
    """Let the parent read the last frame: closing with unread bytes would reset the connection."""
    stream.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + DRAIN_TIMEOUT
    stream.settimeout(DRAIN_TIMEOUT)
    while time.monotonic() < deadline and stream.recv(wire.CHUNK_MAX):
        pass
