"""The parent's end of a conversation with an enclave: live documents, and opening an auction.

The parent trusts nothing that an enclave says here until its documents verify.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from coattest.codes import CODES
from coattest.errors import EnvironmentFailure, FoundFalse
from coattest_enclave.protocol import wire
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.link.aws import SessionCredentials
from coattest_parent.link.channels import Address, ChannelFailure, connect_to

CONNECT_TIMEOUT = 10.0
"""Seconds to reach an enclave."""

REPLY_TIMEOUT = 300.0
"""Seconds between two frames from the enclave: one KMS call with its retries, or the decision on 2**20
lots.
"""

OPEN_TIMEOUT = 3600.0
"""Seconds for one opening in all, so that an enclave that trickles its answer cannot hold us for ever."""

ALIVE_TIMEOUT = 30.0
"""Seconds for a live document in all."""

NONCE_SIZE = 32
"""Bytes of a nonce of ours."""

RESULT_MAX = 64 * 1024 * 1024
"""Bytes of a result; one of 1,000,000 lots is about 28 MB."""

Progress = Callable[[str, int], None]
"""Called with a stage or part, and how many bytes of it were just sent (0 for a stage)."""


class EnclaveRefused(FoundFalse):
    """The enclave checked its input and found it wrong, or KMS refused to decrypt a bid."""

    default_code = "refused"


class EnclaveFailed(EnvironmentFailure):
    """The enclave could not finish: there is no result, and another try may give one."""

    default_code = "enclave-failed"


REFUSALS = frozenset(
    {
        "bad-bid",
        "bad-bid-digest",
        "bad-frame",
        "bad-manifest",
        "bad-seal",
        "kms-denied",
        "too-large",
        "wrong-image",
    }
)
"""Error codes that another try with the same input cannot change."""


@dataclass(frozen=True, slots=True)
class BidUpload:
    """One buyer's bid file to send: its size in bytes, and its content in pieces of any length."""

    buyer: str
    size: int
    content: Iterable[bytes]


class EnclaveClient:
    """One connection to an enclave; a context manager."""

    def __init__(self, address: Address, timeout: float = REPLY_TIMEOUT) -> None:
        self.address = address
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._request = 0
        self._limit: threading.Timer | None = None
        self._late = False

    def __enter__(self) -> EnclaveClient:
        self._socket = connect_to(self.address, CONNECT_TIMEOUT)
        self._socket.settimeout(self._timeout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._limit:
            self._limit.cancel()
        if self._socket:
            self._socket.close()

    def _end_after(self, seconds: float) -> None:
        """End the conversation after ``seconds``, whatever arrives until then."""
        if self._limit:
            self._limit.cancel()
        self._limit = threading.Timer(seconds, self._end)
        self._limit.daemon = True
        self._limit.start()

    def _end(self) -> None:
        self._late = True
        if self._socket:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def alive(self, nonce: bytes) -> bytes:
        """A live document over ``nonce`` (16 to 64 bytes), unverified.

        Raises ChannelFailure, EnclaveRefused or EnclaveFailed.
        """
        self._request += 1
        with self._faults():
            self._end_after(min(self._timeout, ALIVE_TIMEOUT))
            self._send("alive", {"nonce": nonce})
            return _bytes(self._reply("document", None), "document")

    def open(
        self,
        manifest: bytes,
        parts: Sequence[BidUpload],
        seals: Sequence[bytes],
        credentials: SessionCredentials,
        progress: Progress | None = None,
    ) -> tuple[bytes, bytes]:
        """Result bytes and receipt for an auction, unverified; ``parts`` are in the manifest's order of
        buyers.

        Raises EnclaveRefused or EnclaveFailed with the enclave's own code; then there is no result.
        """
        self._request += 1
        with self._faults():
            self._end_after(OPEN_TIMEOUT)
            self._send(
                "open",
                {
                    "manifest_size": len(manifest),
                    "bids": [[part.buyer, part.size] for part in parts],
                    "seals": list(seals),
                    "credentials": {
                        "access_key": credentials.access_key,
                        "secret_key": credentials.secret_key,
                        "session_token": credentials.session_token,
                    },
                },
            )
            self._stream("manifest", len(manifest), [manifest], progress)
            for part in parts:
                self._stream(f"bid:{part.buyer}", part.size, part.content, progress)
            streamed = bytearray()
            body = self._reply("result", progress, streamed=streamed)
        # A result that fits a frame comes in it; a longer one came before, in data frames.
        return bytes(streamed) or _bytes(body, "result"), _bytes(body, "receipt")

    def _stream(self, name: str, size: int, content: Iterable[bytes], progress: Progress | None) -> None:
        sent = 0
        for chunk in _pieces(content, size, name):
            sent += len(chunk)
            self._raise_if_answered()
            self._send("data", {"part": name, "chunk": chunk, "last": sent == size})
            if progress:
                progress(name, len(chunk))

    def _raise_if_answered(self) -> None:
        """An enclave that refuses may say so before everything is sent: read its answer then."""
        assert self._socket
        if select.select([self._socket], [], [], 0)[0]:
            self._reply("", None, once=True)

    def _send(self, kind: str, body: dict[str, Any]) -> None:
        assert self._socket
        try:
            wire.write_frame(self._socket, wire.Frame(self._request, kind, body))
        except (BrokenPipeError, ConnectionResetError):
            # The enclave hung up; its error is usually waiting to be read.
            self._reply("", None)
            raise

    def _reply(
        self,
        wanted: str,
        progress: Progress | None,
        *,
        once: bool = False,
        streamed: bytearray | None = None,
    ) -> dict[str, Any]:
        assert self._socket
        while True:
            frame = wire.read_frame(self._socket)
            if frame is None:
                raise EnclaveFailed("the enclave closed the connection unanswered", where=str(self.address))
            if frame.type == "error":
                _raise(frame.body)
            if frame.request != self._request:
                raise EnclaveFailed("the answer belongs to another request", where=str(self.address))
            if frame.type == "progress":
                if progress:
                    progress(str(frame.body.get("stage", ""))[:100], 0)
                if once:
                    return {}
            elif frame.type == "data" and streamed is not None and frame.body.get("part") == "result":
                streamed += _bytes(frame.body, "chunk")
                if len(streamed) > RESULT_MAX:
                    raise EnclaveFailed(f"a result of over {RESULT_MAX} bytes", where=str(self.address))
            elif frame.type == wanted:
                return frame.body
            else:
                raise EnclaveFailed(f"an unexpected {frame.type!r} frame", where=str(self.address))

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        where = str(self.address)
        try:
            yield
        except (EnclaveFailed, MessageError, OSError) as error:
            if self._late or isinstance(error, TimeoutError):
                raise ChannelFailure("no answer in time", where=where, code="timeout") from error
            if isinstance(error, EnclaveFailed):
                raise
            if isinstance(error, MessageError):
                raise EnclaveFailed(f"not a frame: {error}", where=where, code="bad-frame") from error
            raise ChannelFailure(f"connection lost: {error.strerror or error}", where=where) from error


def live_document(
    address: Address, nonce: bytes | None = None, timeout: float = REPLY_TIMEOUT
) -> tuple[bytes, bytes]:
    """A nonce, new unless one is given, and the live document of an enclave over it, unverified; raises as
    ``EnclaveClient.alive``.
    """
    asked = secrets.token_bytes(NONCE_SIZE) if nonce is None else nonce
    with EnclaveClient(address, timeout) as client:
        return asked, client.alive(asked)


def _pieces(content: Iterable[bytes], size: int, name: str) -> Iterator[bytes]:
    """``content`` cut to at most CHUNK_MAX bytes, exactly ``size`` in all; one empty piece for an empty
    file.
    """
    total = 0
    if size == 0:
        yield b""
    for piece in content:
        total += len(piece)
        if total > size:
            break
        for start in range(0, len(piece), wire.CHUNK_MAX):
            yield piece[start : start + wire.CHUNK_MAX]
    if total != size:
        raise EnvironmentFailure(
            f"{total} bytes came instead of {size}", where=name, hint="try again", code="size-changed"
        )


def _raise(body: dict[str, Any]) -> None:
    code, detail = str(body.get("code", "internal"))[:40], str(body.get("detail", ""))[:300]
    kind = EnclaveRefused if code in REFUSALS else EnclaveFailed
    what = f"the enclave gave no result: {code}: {detail}"
    raise kind(what, code=code) if code in CODES else kind(what, service_code=code)


def _bytes(body: dict[str, Any], name: str) -> bytes:
    value = body.get(name)
    if not isinstance(value, bytes):
        raise EnclaveFailed(f"the answer has no {name}")
    return value
