"""A test double of the NSM on a Unix socket: its documents are unsigned and prove nothing, unless it is
told to sign them as the simulator's hypervisor does.

Framing as the software host's: u32 big-endian length and CBOR, both ways. It remembers what it was asked.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cbor2

from coattest_local.host.ca import IssuedChain, issue_chain
from coattest_local.host.nsm import boot_pcrs, document_payload, sign_document
from coattest_local.host.unix_server import UnixServer

PCR0 = bytes(range(48))
MODULE = "i-0c0a77e57c0a77e57-enc0123456789abcdef"


def make_document(
    *,
    user_data: bytes | None,
    nonce: bytes | None,
    public_key: bytes | None,
    timestamp: Any = None,
    pcr0: Any = PCR0,
) -> bytes:
    """An unsigned document of the shape AWS's have, with the indefinite-length map they have since 2025."""
    fields = {
        "module_id": "i-test-enc-test",
        "digest": "SHA384",
        "timestamp": int(time.time() * 1000) if timestamp is None else timestamp,
        "pcrs": {0: pcr0},
        "certificate": b"none",
        "cabundle": [b"none"],
        "public_key": public_key,
        "user_data": user_data,
        "nonce": nonce,
    }
    pairs = b"".join(cbor2.dumps(name) + cbor2.dumps(value) for name, value in fields.items())
    return cbor2.dumps([bytes.fromhex("a1013822"), {}, b"\xbf" + pairs + b"\xff", bytes(96)])


@functools.cache
def _chain() -> IssuedChain:
    return issue_chain(MODULE, datetime.now(timezone.utc))


def signed_document(
    *, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None = None, timestamp: int
) -> bytes:
    """A document of the image PCR0 that verifies under the simulator's root; ``timestamp`` in ms."""
    pcrs = boot_pcrs({0: PCR0, 1: PCR0, 2: PCR0}, pcr3=bytes(48), pcr4=bytes(48))
    payload = document_payload(
        module_id=MODULE,
        timestamp=timestamp,
        pcrs=pcrs,
        chain=_chain(),
        fields={"user_data": user_data, "nonce": nonce, "public_key": public_key},
    )
    return sign_document(payload, _chain().key)


def fields_of(document: bytes) -> dict[str, Any]:
    """The payload map of a document."""
    payload: dict[str, Any] = cbor2.loads(cbor2.loads(document)[2])
    return payload


class FakeNsm:
    """Answers on ``path``; a context manager. ``timestamp`` (ms) replaces the time, ``broken`` the answer."""

    def __init__(self, path: Path, *, signs: bool = False) -> None:
        self._signs = signs
        self.timestamp: Any = None
        self.broken: bytes | None = None
        self.asked: list[dict[str, Any]] = []
        self._server = UnixServer(path, self._serve, seconds=60, connections=16)

    def __enter__(self) -> FakeNsm:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _serve(self, stream: socket.socket) -> None:
        with contextlib.suppress(struct.error):
            (size,) = struct.unpack(">I", stream.recv(4, socket.MSG_WAITALL))
            answer = self._answer(stream.recv(size, socket.MSG_WAITALL))
            stream.sendall(struct.pack(">I", len(answer)) + answer)

    def _answer(self, request: bytes) -> bytes:
        fields = cbor2.loads(request)["Attestation"]
        self.asked.append(fields)
        if self.broken is not None:
            return self.broken
        when = int(time.time() * 1000) if self.timestamp is None else self.timestamp
        make = signed_document if self._signs and isinstance(when, int) and when >= 0 else make_document
        return cbor2.dumps({"Attestation": {"document": make(**fields, timestamp=when)}})
