"""Client of the Nitro Secure Module: attestation documents, and the time they carry.

``/dev/nsm`` takes one ioctl with two iovecs (Linux, drivers/misc/nsm.c). The software host's Unix socket
takes the same requests, with a 4-byte big-endian length in each direction. The NSM's answers are trusted as
the PCRs are: only the hypervisor could forge them.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import Any

import cbor2

from coattest_enclave.payload import transport
from coattest_enclave.payload.trust import NSM_DEVICE
from coattest_enclave.protocol.errors import EnclaveError
from coattest_enclave.protocol.wire import read_exactly

NSM_IOCTL = 0xC0200A00
"""_IOWR(0x0A, 0, struct nsm_raw), 32 bytes (Linux, include/uapi/linux/nsm.h)."""

REQUEST_MAX, RESPONSE_MAX = 0x1000, 0x3000
"""NSM_REQUEST_MAX_SIZE and NSM_RESPONSE_MAX_SIZE (the same header)."""

PCR_SIZE = 48
"""Bytes of a register, a SHA-384 (Nitro Enclaves User Guide, "Cryptographic attestation")."""

TIMEOUT = 30.0
"""Seconds for the software host to answer."""


@dataclass(frozen=True, slots=True)
class Nsm:
    """The NSM at ``address``, ``/dev/nsm`` or ``unix:PATH``; it is opened for each request."""

    address: str

    @property
    def is_simulated(self) -> bool:
        """Whether this is the software host's NSM."""
        return self.address != NSM_DEVICE

    def attest(
        self, *, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None = None
    ) -> bytes:
        """A new attestation document (COSE_Sign1 bytes) with these fields; raises EnclaveError."""
        fields = {"user_data": user_data, "nonce": nonce, "public_key": public_key}
        match self._ask(cbor2.dumps({"Attestation": fields})):
            case {"Attestation": {"document": bytes(document)}} if document:
                return document
        raise EnclaveError("the NSM gave no document")

    def _ask(self, request: bytes) -> Any:
        try:
            return cbor2.loads(_socket(self.address, request) if self.is_simulated else _device(request))
        except Exception as error:  # whatever the device or the decoder raises, the request has failed
            raise EnclaveError("the NSM gave no valid answer") from error


def document_time(document: bytes) -> int:
    """The timestamp of an attestation document in Unix milliseconds; raises EnclaveError."""
    timestamp = _payload(document).get("timestamp")
    if type(timestamp) is not int:
        raise EnclaveError("the NSM's document has no timestamp")
    return timestamp


def own_image(document: bytes, profile: str) -> bytes:
    """PCR0 (48 bytes) in an attestation document; raises EnclaveError.

    Under the ``aws`` profile a PCR0 of zeros, a debug enclave's, is refused (``wrong-image``).
    """
    registers = _payload(document).get("pcrs")
    image = registers.get(0) if isinstance(registers, dict) else None
    if not isinstance(image, bytes) or len(image) != PCR_SIZE:
        raise EnclaveError("the NSM's document has no PCR0")
    if profile == "aws" and not any(image):
        raise EnclaveError("PCR0 is zero: this is a debug enclave", "wrong-image")
    return image


def _payload(document: bytes) -> dict[str, Any]:
    """The fields of a document of this enclave's own NSM, so its signature is not checked here."""
    try:
        outer = cbor2.loads(document)
        parts = outer.value if isinstance(outer, cbor2.CBORTag) else outer
        fields = cbor2.loads(parts[2])
    except Exception as error:  # cbor2 and the lookups raise several types
        raise EnclaveError("the NSM's document does not parse") from error
    if not isinstance(fields, dict):
        raise EnclaveError("the NSM's document does not parse")
    return fields


def _socket(address: str, request: bytes) -> bytes:
    with transport.connect(address, TIMEOUT) as stream:
        stream.sendall(struct.pack(">I", len(request)) + request)
        (size,) = struct.unpack(">I", read_exactly(stream, 4))
        if size > RESPONSE_MAX:
            raise ValueError("response too large")
        return read_exactly(stream, size)


def _device(request: bytes) -> bytes:
    """One request to the device: struct nsm_raw {iovec request; iovec response}, lengths updated in place."""
    if len(request) > REQUEST_MAX:
        raise ValueError("request too large")
    sent = ctypes.create_string_buffer(request, len(request))
    got = ctypes.create_string_buffer(RESPONSE_MAX)
    vectors = (ctypes.addressof(sent), len(request), ctypes.addressof(got), RESPONSE_MAX)
    raw = bytearray(struct.pack("QQQQ", *vectors))
    device = os.open(NSM_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, NSM_IOCTL, raw, True)
    finally:
        os.close(device)
    size = struct.unpack("QQQQ", raw)[3]
    return got.raw[: min(size, RESPONSE_MAX)]
