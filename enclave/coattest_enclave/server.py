"""The server: frames in, frames out. A request that fails gets one error frame and no result."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from coattest_enclave.nsm import Nsm
from coattest_enclave.protocol import alive, wire
from coattest_enclave.protocol.errors import EnclaveError, MessageError
from coattest_enclave.trust import Trust

CONNECTIONS_MAX = 8
"""Connections served at a time; others wait in the backlog."""

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
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        # One auction at a time, so that memory is bounded by one upload.
        self._opening = threading.Lock()

    def serve(self, listener: socket.socket) -> None:
        """Accept connections, each in a thread of its own."""
        while True:
            self._slots.acquire()
            try:
                stream, _ = listener.accept()
            except OSError:  # out of descriptors, or a peer gone already; the enclave stays up
                self._slots.release()
                time.sleep(ACCEPT_PAUSE)
                continue
            threading.Thread(target=self._connection, args=(stream,), daemon=True).start()

    def _connection(self, stream: socket.socket) -> None:
        try:
            with stream, contextlib.suppress(OSError):
                stream.settimeout(IDLE_TIMEOUT)
                while self._request(stream):
                    pass
                _drain(stream)
        finally:
            self._slots.release()

    def _request(self, stream: socket.socket) -> bool:
        """Answer one request; False when the connection is over, because it ended or the request failed."""
        number = 0
        try:
            frame = wire.read_frame(stream)
            if frame is None:
                return False
            number = frame.request
            match frame.type:
                case "alive":
                    answer = wire.Frame(number, "document", {"document": self._alive(frame)})
                case "open":
                    # Only an open needs HTTP, TLS and RSA. Loading them with the first one halves the time
                    # until the enclave can answer ``alive`` (docs/benchmarks.md).
                    from coattest_enclave.session import open_auction  # noqa: PLC0415

                    with self._opening:
                        result, receipt = open_auction(stream, frame, self._trust, self._nsm, self._proxies)
                    if len(result) > wire.CHUNK_MAX:
                        # Too long for one frame: it goes ahead in data frames.
                        for piece in wire.chunks(number, "result", result):
                            wire.write_frame(stream, piece)
                        result = b""
                    answer = wire.Frame(number, "result", {"result": result, "receipt": receipt})
                case _:
                    raise MessageError("this frame does not start a request")
            wire.write_frame(stream, answer)
        except OSError:
            return False
        except Exception as error:
            # The text of an unforeseen error could hold anything, so it is not repeated.
            told = error if isinstance(error, EnclaveError) else EnclaveError("internal error")
            wire.write_frame(stream, wire.Frame(number, "error", {"code": told.code, "detail": told.detail}))
            return False
        return True

    def _alive(self, frame: wire.Frame) -> bytes:
        match frame.body:
            case {"nonce": bytes(nonce), **rest} if (
                not rest and alive.NONCE_MIN <= len(nonce) <= alive.NONCE_MAX
            ):
                return self._nsm.attest(user_data=alive.alive_user_data(), nonce=nonce)
        raise MessageError("alive takes a nonce of 16 to 64 bytes")


def _drain(stream: socket.socket) -> None:
    """Let the parent read the last frame: closing with unread bytes would reset the connection."""
    stream.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + DRAIN_TIMEOUT
    stream.settimeout(DRAIN_TIMEOUT)
    while time.monotonic() < deadline and stream.recv(wire.CHUNK_MAX):
        pass
