"""The server: frames in, frames out; every failure of a request is one typed error frame and no result.

The order is the rule: manifest, seals and digests are checked before anything is decrypted; all bids are
decrypted or there is no result; nothing that depends on an amount leaves but the result. Each part is checked
when it has come, so that a wrong one ends the request there.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from array import array

from cryptography.hazmat.primitives.asymmetric import rsa

from coattest_enclave import auction, columns, entropy, messages, opening, wire
from coattest_enclave.clock import Clock
from coattest_enclave.errors import EnclaveError, MessageError, TooLarge
from coattest_enclave.kms import RSA_BITS, Kms
from coattest_enclave.nsm import Nsm
from coattest_enclave.trust import Trust

CONNECTIONS_MAX = 8
"""Connections served at a time; more wait in the backlog."""

IDLE_TIMEOUT = 60.0
"""Seconds without a byte from the parent after which a connection is closed."""

DRAIN_TIMEOUT = 5.0
"""Seconds in which the parent can read an error before the connection is closed under it."""

ACCEPT_PAUSE = 0.1
"""Seconds until the next attempt when accepting failed."""


class Server:
    """Answers on listening sockets until the process ends."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._nsm = Nsm(trust.nsm[0])
        self._proxies = list(trust.proxy)
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        # One auction at a time: memory is bounded by one upload, and the rest waits for it.
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
                    with self._opening:
                        result, receipt = self._open(stream, frame)
                    if len(result) > wire.CHUNK_MAX:
                        # Too long for one frame: it goes ahead in data frames, and the last one names it.
                        for piece in wire.chunks(number, "result", result):
                            wire.write_frame(stream, piece)
                        result = b""
                    answer = wire.Frame(number, "result", {"result": result, "receipt": receipt})
                case _:
                    raise MessageError("not a request")
            wire.write_frame(stream, answer)
        except EnclaveError as error:
            wire.write_frame(
                stream, wire.Frame(number, "error", {"code": error.code, "detail": error.detail})
            )
            return False
        except OSError:
            return False
        except Exception:
            # Whatever this is, its text could hold anything: it is not repeated.
            wire.write_frame(
                stream, wire.Frame(number, "error", {"code": "internal", "detail": "internal error"})
            )
            return False
        return True

    def _alive(self, frame: wire.Frame) -> bytes:
        match frame.body:
            case {"nonce": bytes(nonce), **rest} if (
                not rest and messages.NONCE_MIN <= len(nonce) <= messages.NONCE_MAX
            ):
                return self._nsm.attest(user_data=messages.alive_user_data(), nonce=nonce)
        raise MessageError("alive takes a nonce of 16 to 64 bytes")

    def _open(self, stream: socket.socket, frame: wire.Frame) -> tuple[bytes, bytes]:
        request = opening.parse_open(frame.body)

        def stage(text: str) -> None:
            wire.write_frame(stream, wire.Frame(frame.request, "progress", {"stage": text}))

        encoded = _receive_part(stream, frame.request, "manifest", request.manifest_size)
        manifest, seal = opening.check(request, encoded, self._trust.partition)
        del encoded
        files = receive_bids(stream, frame.request, request, seal)
        stage("manifest, seals and digests are right")
        clock = Clock.read(self._nsm, set_system=not self._nsm.is_simulated)
        entropy.check(self._trust.entropy)
        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        kms = Kms(self._trust, self._proxies, self._nsm, request.credentials, clock.now, key)
        bids: dict[str, array[int] | None] = {}
        try:
            for buyer in manifest.buyers:
                stage(f"decrypting {buyer.name}")
                bids[buyer.name] = opening.decrypt_bid(kms.decrypt, manifest, buyer, files.pop(buyer.name))
            stage("deciding")
            decided = auction.result(manifest, seal.digest, bids)
        finally:
            for amounts in bids.values():
                if amounts is not None:
                    columns.wipe(amounts)
        bids.clear()
        result = decided.encode()
        receipt = self._nsm.attest(user_data=messages.receipt_user_data(result), nonce=seal.digest)
        return result, receipt


def receive_bids(
    stream: socket.socket, number: int, request: opening.Opening, seal: messages.Seal
) -> dict[str, bytes]:
    """Every buyer's bid file, the one that was sealed; raises BadBidDigest and what ends a stream.

    Nothing is decrypted before this returns.
    """
    files = {}
    for (name, size), (_, digest) in zip(request.bids, seal.bids, strict=True):
        files[name] = _receive_part(stream, number, f"bid:{name}", size)
        opening.check_bid(files[name], digest)
    return files


def _receive_part(stream: socket.socket, request: int, part: str, size: int) -> bytes:
    pieces, received = [], 0
    while True:
        frame = wire.read_frame(stream)
        if frame is None or frame.request != request or frame.type != "data":
            raise MessageError("not the data frame that comes next")
        match frame.body:
            case {"part": str(name), "chunk": bytes(chunk), "last": bool(last), **rest} if (
                not rest and name == part
            ):
                received += len(chunk)
            case _:
                raise MessageError("not the data frame that comes next")
        if len(chunk) > wire.CHUNK_MAX or received > size:
            raise TooLarge("more data than announced")
        if last != (received == size) or not (chunk or last):
            raise MessageError("data frames do not add up")
        pieces.append(chunk)
        if last:
            return b"".join(pieces)


def _drain(stream: socket.socket) -> None:
    """Let the parent read the last frame: closing with unread bytes would reset the connection under it."""
    stream.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + DRAIN_TIMEOUT
    stream.settimeout(DRAIN_TIMEOUT)
    while time.monotonic() < deadline and stream.recv(wire.CHUNK_MAX):
        pass
