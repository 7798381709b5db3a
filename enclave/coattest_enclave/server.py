"""The server: frames in, frames out; every failure of a request is one typed error frame and no result.

The order is the rule: manifest, seals and digests are checked before anything is decrypted; all bids are
decrypted or there is no result; nothing that depends on an amount leaves but the result.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from coattest_enclave import auction, cose, entropy, messages, wire
from coattest_enclave.canonical import SIZE_MAX
from coattest_enclave.clock import Clock
from coattest_enclave.errors import (
    BadBid,
    BadBidDigest,
    BadManifest,
    BadSeal,
    EnclaveError,
    MessageError,
    TooLarge,
)
from coattest_enclave.kms import RSA_BITS, Kms
from coattest_enclave.nsm import Nsm
from coattest_enclave.sigv4 import Credentials
from coattest_enclave.trust import Trust

CONNECTIONS_MAX = 8
"""Connections served at a time; more wait in the backlog."""

IDLE_TIMEOUT = 60.0
"""Seconds without a byte from the parent after which a connection is closed."""

DRAIN_TIMEOUT = 5.0
"""Seconds in which the parent can read an error before the connection is closed under it."""

ACCEPT_PAUSE = 0.1
"""Seconds until the next attempt when accepting failed."""

UPLOAD_MAX = 256 * 1024 * 1024
"""Bytes of manifest and bids in one request: 1,000,000 lots by 10 buyers are about 100 MB."""

CREDENTIAL_MAX = 8192
"""Characters of a credential; session tokens have no documented limit, seen are up to about 2000."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An open request with everything that belongs to it, unchecked."""

    manifest: bytes
    bids: tuple[tuple[str, bytes], ...]
    seals: tuple[bytes, ...]
    credentials: Credentials


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
        upload = receive(stream, frame)

        def stage(text: str) -> None:
            wire.write_frame(stream, wire.Frame(frame.request, "progress", {"stage": text}))

        stage("checking manifest, seals and digests")
        manifest, seal = check(upload, self._trust.partition)
        clock = Clock.read(self._nsm, set_system=not self._nsm.is_simulated)
        entropy.check(self._trust.entropy)
        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        kms = Kms(self._trust, self._proxies, self._nsm, upload.credentials, clock.now, key)
        bids: dict[str, Sequence[int] | None] = {}
        for buyer, (_, bid_file) in zip(manifest.buyers, upload.bids, strict=True):
            stage(f"decrypting {buyer.name}")
            bids[buyer.name] = decrypt_bid(kms, manifest, buyer, bid_file)
        stage("deciding")
        result = auction.result(manifest, seal.digest, bids).encode()
        receipt = self._nsm.attest(user_data=messages.receipt_user_data(result), nonce=seal.digest)
        return result, receipt


def receive(stream: socket.socket, frame: wire.Frame) -> Upload:
    """Everything that an open frame announces; raises MessageError, TooLarge."""
    size, bids, seals, credentials = _announced(frame.body)
    parts = [("manifest", size), *((f"bid:{name}", length) for name, length in bids)]
    if size > SIZE_MAX or sum(length for _, length in parts) > UPLOAD_MAX:
        raise TooLarge(f"manifest and bids are over {UPLOAD_MAX} bytes")
    contents = [_receive_part(stream, frame.request, part, length) for part, length in parts]
    named = tuple((name, content) for (name, _), content in zip(bids, contents[1:], strict=True))
    return Upload(contents[0], named, seals, credentials)


def check(upload: Upload, partition: str) -> tuple[messages.Manifest, messages.Seal]:
    """Manifest and seal of an upload whose bids are exactly the sealed ones.

    Raises BadManifest, BadSeal or BadBidDigest. Nothing is decrypted before this returns.
    """
    with _failing(BadManifest):
        manifest = messages.Manifest.decode(upload.manifest)
    if any(messages.parse_key_arn(buyer.kms).partition != partition for buyer in manifest.buyers):
        raise BadManifest("a key is in a partition that this image does not trust")
    with _failing(BadSeal):
        seal = messages.check_seals(manifest, upload.seals)
    if seal.bids != tuple((name, messages.bid_digest(content)) for name, content in upload.bids):
        raise BadBidDigest("the bid files are not those that were sealed")
    return manifest, seal


def decrypt_bid(
    kms: Kms, manifest: messages.Manifest, buyer: messages.Buyer, bid_file: bytes
) -> Sequence[int] | None:
    """A buyer's amounts; None when what decrypted is not a valid bid, which nobody outside can tell.

    Raises BadBid when the file is no bid file or does not authenticate, KmsDenied or KmsFailed when there is
    no key: then there is no result. Otherwise withholding a key would be the same as not bidding.
    """
    with _failing(BadBid, f"{buyer.name}: "):
        wrapped = cose.parse_encrypt0(bid_file).wrapped_key
    try:
        data_key = kms.decrypt(wrapped, buyer.kms, messages.encryption_context(manifest.digest, buyer.name))
    except EnclaveError as error:
        raise type(error)(f"{buyer.name}: {error.detail}") from None
    with _failing(BadBid, f"{buyer.name}: "):
        aad = messages.bid_aad(manifest.digest, buyer.name, buyer.kms)
        plaintext = cose.decrypt0(bid_file, data_key, external_aad=aad)
    try:
        return messages.unpack_bids(plaintext, len(manifest.lots))
    except MessageError:
        return None


def _announced(body: dict[str, Any]) -> tuple[int, list[tuple[str, int]], tuple[bytes, ...], Credentials]:
    match body:
        case {
            "manifest_size": int(size),
            "bids": list(bids),
            "seals": list(seals),
            "credentials": {
                "access_key": str(access),
                "secret_key": str(secret),
                "session_token": str(token),
                **more,
            },
            **rest,
        } if not rest and not more and type(size) is int:
            pass
        case _:
            raise MessageError("not the body of an open frame")
    pairs = []
    for entry in bids:
        match entry:
            case [str(name), int(length)] if type(length) is int:
                pairs.append((name, length))
            case _:
                raise MessageError("a bid is not [name, size]")
    if min([size, *(length for _, length in pairs)]) < 0 or len(pairs) > messages.BUYERS_MAX:
        raise MessageError("a size is negative, or too many bids")
    if not all(isinstance(seal, bytes) for seal in seals):
        raise MessageError("a seal is not a byte string")
    # Printable ASCII only: these end up in HTTP headers.
    if not all(
        len(text) <= CREDENTIAL_MAX and text.isascii() and text.isprintable()
        for text in (access, secret, token)
    ):
        raise MessageError("a credential is not printable ASCII")
    return size, pairs, tuple(seals), Credentials(access, secret, token)


def _receive_part(stream: socket.socket, request: int, part: str, size: int) -> bytes:
    content = bytearray()
    while True:
        frame = wire.read_frame(stream)
        if frame is None or frame.request != request or frame.type != "data":
            raise MessageError("not the data frame that comes next")
        match frame.body:
            case {"part": str(name), "chunk": bytes(chunk), "last": bool(last), **rest} if (
                not rest and name == part
            ):
                content += chunk
            case _:
                raise MessageError("not the data frame that comes next")
        if len(chunk) > wire.CHUNK_MAX or len(content) > size:
            raise TooLarge("more data than announced")
        if last != (len(content) == size) or not (chunk or last):
            raise MessageError("data frames do not add up")
        if last:
            return bytes(content)


@contextlib.contextmanager
def _failing(kind: type[EnclaveError], prefix: str = "") -> Iterator[None]:
    """Turn a MessageError into the failure that it means here."""
    try:
        yield
    except MessageError as error:
        raise kind(prefix + error.detail) from None


def _drain(stream: socket.socket) -> None:
    """Let the parent read the last frame: closing with unread bytes would reset the connection under it."""
    stream.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + DRAIN_TIMEOUT
    stream.settimeout(DRAIN_TIMEOUT)
    while time.monotonic() < deadline and stream.recv(wire.CHUNK_MAX):
        pass
