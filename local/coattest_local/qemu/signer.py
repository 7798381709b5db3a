"""Signs the documents of QEMU's NSM below the simulator's root, for a QEMU of ``local/qemu-compiler``.

QEMU decides what a document says; this only adds certificates and a signature. Like the software host's, they
prove nothing outside this machine.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import cbor2

from coattest.errors import CoattestError, FoundFalse
from coattest.shell import utc_now
from coattest_local.host.ca import IssuedChain, current_chain
from coattest_local.host.nsm import document_payload, sign_document
from coattest_local.host.unix_server import UnixServer
from coattest_local.qemu.boot import DOCUMENT_MAX, open_document

READ_SECONDS = 10.0
SIGNER_VARIABLE = "COATTEST_NSM_SIGNER"
"""The variable that names the signer's socket to the QEMU of ``local/qemu-compiler``."""


class DocumentSigner:
    """Answers on ``path`` until ``close``; one chain per enclave, renewed in time."""

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._chain: IssuedChain | None = None
        # One after another: QEMU has one NSM, and waits for it.
        self.close = UnixServer(path, self._answer, seconds=READ_SECONDS).close

    def sign(self, document: bytes, *, now: datetime) -> bytes:
        """The same document, signed. Raises FoundFalse (wrong-document)."""
        payload, _ = open_document(document)
        module_id = payload.get("module_id")
        if not isinstance(module_id, str) or not isinstance(payload.get("pcrs"), dict):
            raise FoundFalse("the document lacks its module id or registers", code="wrong-document")
        self._chain = current_chain(self._chain, module_id, now)
        fields: dict[str, Any] = {name: payload.get(name) for name in ("public_key", "user_data", "nonce")}
        signed = document_payload(
            module_id=module_id,
            timestamp=int(payload["timestamp"]),
            pcrs=payload["pcrs"],
            chain=self._chain,
            fields=fields,
        )
        return sign_document(signed, self._chain.key)

    def _answer(self, connection: socket.socket) -> None:
        # QEMU sees a closed connection and answers its guest InternalError.
        with contextlib.suppress(CoattestError, KeyError, ValueError, struct.error, cbor2.CBORError):
            with connection.makefile("rb") as stream:
                (length,) = struct.unpack(">I", stream.read(4))
                document = stream.read(min(length, DOCUMENT_MAX))
            signed = self.sign(document, now=self._clock())
            connection.sendall(struct.pack(">I", len(signed)) + signed)
