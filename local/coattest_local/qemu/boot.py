"""The result of a measured boot: the registers of QEMU's NSM beside those that we computed."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cbor2

from coattest.errors import FoundFalse
from coattest_build.formats.measure import ImageMeasurements, pcr3, pcr4
from coattest_local.host.enclave import registers
from coattest_verify.auction import messages

REGISTERS = (0, 1, 2, 3, 4, 8)
ZERO = bytes(48).hex()
DOCUMENT_MAX = 16384
PARTS_OF_COSE_SIGN1 = 4


@dataclass(frozen=True, slots=True)
class Register:
    """One platform configuration register, in hex: what we computed, what the machine's NSM says."""

    index: int
    ours: str
    machine: str

    @property
    def equal(self) -> bool:
        """Whether both implementations agree."""
        return self.ours == self.machine


@dataclass(frozen=True, slots=True)
class BootReport:
    """A boot's registers, and whether the NSM signed them (QEMU as it is shipped does not)."""

    registers: tuple[Register, ...]
    signed: bool

    @property
    def equal(self) -> bool:
        """Whether all registers are equal."""
        return all(register.equal for register in self.registers)

    def to_json(self) -> dict[str, Any]:
        """The object that ``boot --json`` prints."""
        return {
            "equal": self.equal,
            "signed": self.signed,
            "registers": [
                {"register": f"PCR{r.index}", "ours": r.ours, "machine": r.machine, "equal": r.equal}
                for r in self.registers
            ],
        }


def expected(measurements: ImageMeasurements, *, role_arn: str, instance_id: str) -> dict[int, str]:
    """The registers that an enclave of this image has under this parent; PCR8 is zero when it is unsigned."""
    return {8: ZERO, **registers(measurements), 3: pcr3(role_arn), 4: pcr4(instance_id)}


def compare_registers(document: bytes, *, nonce: bytes, ours: Mapping[int, str]) -> BootReport:
    """Set the registers of a liveness document beside ``ours`` (hex by index).

    The document's signature is not checked: it came from a machine that we started. Raises FoundFalse
    (wrong-document) unless it is a liveness document with ``nonce``.
    """
    payload, signature = open_document(document)
    if payload.get("nonce") != nonce:
        raise _wrong("it does not carry our nonce")
    if payload.get("user_data") != messages.alive_user_data() or payload.get("public_key") is not None:
        raise _wrong("it is not a liveness document")
    pcrs = payload.get("pcrs")
    if not isinstance(pcrs, dict) or not all(isinstance(pcrs.get(index), bytes) for index in REGISTERS):
        raise _wrong("it lacks registers")
    compared = tuple(Register(index, ours[index], pcrs[index].hex()) for index in REGISTERS)
    return BootReport(compared, signed=any(signature))


def open_document(document: bytes) -> tuple[dict[str, Any], bytes]:
    """Payload and signature of an untagged COSE_Sign1, signed or not.

    Raises FoundFalse (wrong-document).
    """
    try:
        if len(document) > DOCUMENT_MAX:
            raise ValueError("it is too large")
        parts = _decode(document)
        if not isinstance(parts, list) or len(parts) != PARTS_OF_COSE_SIGN1:
            raise ValueError("it is not a COSE_Sign1")
        payload, signature = _decode(parts[2]), parts[3]
        if not isinstance(payload, dict) or not isinstance(signature, bytes):
            raise ValueError("it is not a COSE_Sign1")
    except Exception as error:  # a decoder may fail in any way on what a guest sends
        raise _wrong(str(error)) from error
    return payload, signature


def _wrong(what: str) -> FoundFalse:
    return FoundFalse(f"the guest's document is wrong: {what}", code="wrong-document")


def _decode(data: bytes) -> Any:
    stream = io.BytesIO(data)
    value = cbor2.load(stream)
    if stream.read(1):
        raise ValueError("it has trailing bytes")
    return value
