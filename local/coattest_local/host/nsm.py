"""A simulated Nitro Secure Module: requests and responses as /dev/nsm takes and gives them.

Request and response types, field names and error codes are those of AWS's nsm-api (its ``api`` module): unit
variants are CBOR text, the others a map of one entry. Documents are encoded as the hypervisor has encoded
them since 2025: an untagged COSE_Sign1 whose payload is an indefinite-length map in a fixed key order, and a
signature of 96 bytes. Only the chain differs: it ends at the simulator's published root (``host.ca``).
"""

from __future__ import annotations

import hashlib
import io
import secrets
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from coattest_local.host.ca import IssuedChain, current_chain

# drivers/misc/nsm.c: the buffers of /dev/nsm.
REQUEST_MAX = 0x1000
RESPONSE_MAX = 0x3000
# The same in AWS's NSM and in QEMU's.
PCR_COUNT = 32
BOOT_PCRS = 16
PCR_SIZE = 48
RANDOM_SIZE = 256
# Of real documents the longest user_data that we saw has 746 bytes; the field has at most 1024.
FIELD_MAX = 1024
VERSION = (1, 0, 0)

PROTECTED_ES384 = bytes.fromhex("a1013822")  # {1: -35}, RFC 9053 section 2.1
MEASURED_BY_IMAGE = (0, 1, 2, 8)


class _Refused(Exception):
    """A request that is answered with an error code."""


def boot_pcrs(
    image: Mapping[int, bytes], *, pcr3: bytes, pcr4: bytes, debug: bool = False
) -> dict[int, bytes]:
    """The 16 registers that are locked at boot: those of the image (0, 1, 2, 8 if signed), 3, 4, and zeros.

    A debug enclave has zeros where the image is measured, and keeps PCR3 and PCR4 (Nitro Enclaves user guide,
    "Cryptographic attestation").
    """
    registers = dict.fromkeys(range(BOOT_PCRS), bytes(PCR_SIZE))
    if not debug:
        registers.update({index: image[index] for index in MEASURED_BY_IMAGE if index in image})
    registers.update({3: pcr3, 4: pcr4})
    return registers


class SimulatedNsm:
    """The module of one enclave. ``respond`` is pure but for its registers, randomness and signatures."""

    def __init__(self, *, module_id: str, pcrs: Mapping[int, bytes]) -> None:
        self.module_id = module_id
        self._pcrs = {index: pcrs.get(index, bytes(PCR_SIZE)) for index in range(PCR_COUNT)}
        self._locked = set(range(BOOT_PCRS))
        self._chain: IssuedChain | None = None
        self._lock = threading.Lock()

    def respond(self, request: bytes, *, now: datetime) -> bytes:
        """The response to one request, both CBOR. A wrong one is answered ``{"Error": code}``."""
        try:
            name, arguments = _parse(request)
            with self._lock:
                answer = self._answer(name, arguments, now)
        except _Refused as refusal:
            answer = {"Error": str(refusal)}
        encoded = cbor2.dumps(answer)
        return encoded if len(encoded) <= RESPONSE_MAX else cbor2.dumps({"Error": "BufferTooSmall"})

    def _answer(self, name: str, arguments: Mapping[str, Any] | None, now: datetime) -> Any:
        unit = {"DescribeNSM": self._describe, "GetRandom": _random}
        struct = {
            "DescribePCR": self._describe_pcr,
            "ExtendPCR": self._extend,
            "LockPCR": self._lock_one,
            "LockPCRs": self._lock_range,
        }
        if arguments is None and name in unit:
            return {name: unit[name]()}
        if arguments is not None and name == "Attestation":
            return {name: {"document": self._document(arguments, now)}}
        if arguments is not None and name in struct:
            fields = struct[name](arguments)
            return name if fields is None else {name: fields}
        raise _Refused("InvalidOperation")

    def _describe(self) -> dict[str, Any]:
        major, minor, patch = VERSION
        return {
            "version_major": major,
            "version_minor": minor,
            "version_patch": patch,
            "module_id": self.module_id,
            "max_pcrs": PCR_COUNT,
            "locked_pcrs": sorted(self._locked),
            "digest": "SHA384",
        }

    def _describe_pcr(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        index = _register(arguments)
        return {"lock": index in self._locked, "data": self._pcrs[index]}

    def _extend(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        index, data = _register(arguments), arguments.get("data")
        if not isinstance(data, bytes):
            raise _Refused("InvalidArgument")
        if index in self._locked:
            raise _Refused("ReadOnlyIndex")
        self._pcrs[index] = hashlib.sha384(self._pcrs[index] + data).digest()
        return {"data": self._pcrs[index]}

    def _lock_one(self, arguments: Mapping[str, Any]) -> None:
        index = _register(arguments)
        if index in self._locked:
            raise _Refused("ReadOnlyIndex")
        self._locked.add(index)

    def _lock_range(self, arguments: Mapping[str, Any]) -> None:
        self._locked.update(range(_small(arguments.get("range"), PCR_COUNT)))

    def _document(self, arguments: Mapping[str, Any], now: datetime) -> bytes:
        fields = {name: _field(arguments.get(name)) for name in ("public_key", "user_data", "nonce")}
        self._chain = current_chain(self._chain, self.module_id, now)
        payload = document_payload(
            module_id=self.module_id,
            timestamp=int(now.timestamp() * 1000),
            pcrs={index: self._pcrs[index] for index in sorted(self._locked)},
            chain=self._chain,
            fields=fields,
        )
        return sign_document(payload, self._chain.key)


def document_payload(
    *,
    module_id: str,
    timestamp: int,
    pcrs: Mapping[int, bytes],
    chain: IssuedChain,
    fields: Mapping[str, bytes | None],
) -> bytes:
    """The payload of an attestation document (``timestamp`` in ms), encoded as modern AWS documents are."""
    entries: list[tuple[str, Any]] = [
        ("module_id", module_id),
        ("digest", "SHA384"),
        ("timestamp", timestamp),
        ("pcrs", dict(pcrs)),
        ("certificate", chain.certificate),
        ("cabundle", list(chain.bundle)),
        *((name, fields[name]) for name in ("public_key", "user_data", "nonce")),
    ]
    return b"\xbf" + b"".join(cbor2.dumps(key) + cbor2.dumps(value) for key, value in entries) + b"\xff"


def sign_document(payload: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """An untagged COSE_Sign1 over ``payload`` with ES384 (RFC 9052, section 4.4): r||s in 96 bytes."""
    to_be_signed = cbor2.dumps(["Signature1", PROTECTED_ES384, b"", payload])
    r, s = decode_dss_signature(key.sign(to_be_signed, ec.ECDSA(hashes.SHA384())))
    signature = r.to_bytes(PCR_SIZE, "big") + s.to_bytes(PCR_SIZE, "big")
    return cbor2.dumps([PROTECTED_ES384, {}, payload, signature])


def _parse(request: bytes) -> tuple[str, Mapping[str, Any] | None]:
    """The variant's name and its fields (None for a unit variant)."""
    if len(request) > REQUEST_MAX:
        raise _Refused("InputTooLarge")
    stream = io.BytesIO(request)
    try:
        value = cbor2.load(stream)
    except Exception as error:  # a decoder may fail in any way on hostile bytes
        raise _Refused("InvalidOperation") from error
    if stream.read(1):
        raise _Refused("InvalidOperation")
    if isinstance(value, str):
        return value, None
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, arguments),) = value.items()
        if isinstance(name, str) and isinstance(arguments, Mapping):
            return name, arguments
    raise _Refused("InvalidOperation")


def _random() -> dict[str, Any]:
    return {"random": secrets.token_bytes(RANDOM_SIZE)}


def _small(value: object, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Refused("InvalidArgument")
    if not 0 <= value <= limit:
        raise _Refused("InvalidIndex")
    return value


def _register(arguments: Mapping[str, Any]) -> int:
    return _small(arguments.get("index"), PCR_COUNT - 1)


def _field(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, bytes):
        raise _Refused("InvalidArgument")
    if len(value) > FIELD_MAX:
        raise _Refused("InputTooLarge")
    return value
