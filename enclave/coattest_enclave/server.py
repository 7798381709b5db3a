"""The server: frames in, frames out. A request that fails gets one error frame and no result."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal

from coattest_enclave.decision.turns import Turns
from coattest_enclave.payload import transport
from coattest_enclave.payload.nsm import Nsm
from coattest_enclave.payload.trust import Trust
from coattest_enclave.protocol import alive, wire
from coattest_enclave.protocol.errors import EnclaveError, MessageError

CONNECTIONS_MAX = 8
"""Connections kept at a time. One more ends the one that was silent for longest, but never an opening."""

BACKLOG = 128
"""Connections that the kernel keeps until they are accepted, as during a decision."""

IDLE_TIMEOUT = 60.0
"""Seconds without a byte from the parent until a connection is closed."""

DRAIN_TIMEOUT = 5.0
"""Seconds in which the parent can read an error before the connection is closed."""

ACCEPT_PAUSE = 0.1
"""Seconds to wait after accepting has failed."""


class Server:
    """Answers on listening sockets until the process ends."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._nsm = Nsm(trust.nsm[0])
        self._proxies = list(trust.proxy)
        self._turns = Turns()
        self._change = threading.Condition()
        # Every connection, from the longest silent on. Who is taken out of it has to end.
        self._streams: dict[socket.socket, None] = {}
        # One auction at a time, so that memory is bounded by one upload.
        self._opener: socket.socket | None = None

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
                    silent = next(other for other in self._streams if other is not self._opener)
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
                frame = wire.read_frame(stream)
                if frame is None:
                    return False
                number = frame.request
                if frame.type == "alive":
                    document = self._alive(frame)
                    wire.write_frame(stream, wire.Frame(number, "document", {"document": document}))
                elif frame.type != "open":
                    raise MessageError("this frame does not start a request")
            except Exception as error:
                return _refuse(stream, number, error)
        with self._change:
            if stream in self._streams:
                self._streams[stream] = self._streams.pop(stream)
        return frame.type == "alive" or self._open(stream, frame)

    def _open(self, stream: socket.socket, frame: wire.Frame) -> bool:
        # Only an open needs TLS and RSA. Loading them with the first one halves the time until the enclave
        # can answer ``alive`` (docs/benchmarks.md).
        from coattest_enclave.session import open_auction  # noqa: PLC0415

        with self._change:
            self._change.wait_for(lambda: self._opener is None or stream not in self._streams)
            if stream not in self._streams:
                return False
            self._opener = stream
        try:
            open_auction(stream, frame, self._trust, self._proxies, self._turns)
        except Exception as error:
            return _refuse(stream, frame.request, error)
        finally:
            with self._change:
                self._opener = None
                self._change.notify_all()
        return True

    def _alive(self, frame: wire.Frame) -> bytes:
        match frame.body:
            case {"nonce": bytes(nonce), **rest} if (
                not rest and alive.NONCE_MIN <= len(nonce) <= alive.NONCE_MAX
            ):
                return self._nsm.attest(user_data=alive.alive_user_data(), nonce=nonce)
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
