"""The signed payload: which fields there are, of which types, within which bounds.

Every finding is collected. Deviations from the specification that real documents have, and fields that AWS
may add one day, are *notices*: tolerated, reported, and findings in strict mode.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple, cast

from coattest.findings import Finding
from coattest_verify.attestation.document import Document
from coattest_verify.attestation.encoding import cbor
from coattest_verify.attestation.limits import (
    BUNDLE_MAX,
    CERTIFICATE_MAX,
    PCR_COUNT_MAX,
    PCR_SIZE_SHA384,
    PCR_SIZES,
    PUBLIC_KEY_MAX,
    TIMESTAMP_MAX_MS,
    UNKNOWN_SHOWN_MAX,
    USER_DATA_MAX,
)
from coattest_verify.attestation.rules import (
    BAD_FIELD,
    LOOSE_FIELD,
    MALFORMED_CBOR,
    NITRO_TPM,
    UNKNOWN_FIELD,
    Malformed,
)

MANDATORY: Final = ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
OPTIONAL: Final = {"public_key": PUBLIC_KEY_MAX, "user_data": USER_DATA_MAX, "nonce": USER_DATA_MAX}
_KNOWN: Final = frozenset((*MANDATORY, *OPTIONAL))
_INDICES: Final = frozenset(range(PCR_COUNT_MAX))
_TPM_FIELD: Final = "nitrotpm_pcrs"
_TPM_MODULE: Final = "-tpm"


class Payload(NamedTuple):
    """A payload that has every field in bounds, and what was tolerated in it."""

    document: Document
    notices: tuple[Finding, ...]


def read_payload(payload: bytes) -> Payload:
    """The document in a payload; raises Malformed with every finding. Nothing is verified."""
    try:
        fields = cbor.decode_cbor(payload)
    except cbor.CborError as error:
        where = f"payload at byte {error.offset}"
        raise Malformed(MALFORMED_CBOR.finding(where, error.expected, error.found)) from None
    if not isinstance(fields, dict):
        raise Malformed(BAD_FIELD.finding("payload", "a map", _kind(fields)))
    reader = _Reader(fields)
    document = reader.document()
    if document is None:
        raise Malformed(*reader.findings)
    return Payload(document, tuple(reader.notices))


class _Reader:
    """Collects findings and notices over the fields of one payload."""

    def __init__(self, fields: dict[int | str, cbor.Value]) -> None:
        self.fields = fields
        self.findings: list[Finding] = []
        self.notices: list[Finding] = []

    def document(self) -> Document | None:
        """The document, or None when there are findings."""
        fields = self.fields
        module_id = fields.get("module_id")
        if _TPM_FIELD in fields or (isinstance(module_id, str) and _TPM_MODULE in module_id):
            found = _TPM_FIELD if _TPM_FIELD in fields else f"module_id {module_id!r:.80}"
            self.findings.append(NITRO_TPM.finding("payload", "a document of a Nitro enclave", found))
            return None  # another type of document: its other fields are not judged by an enclave's rules
        if not isinstance(module_id, str) or not module_id:
            self._bad("module_id", "text that is not empty")
        if fields.get("digest") != "SHA384":
            self._bad("digest", '"SHA384"')
        timestamp = fields.get("timestamp")
        # Not isinstance: a bool is an int to Python.
        if type(timestamp) is not int or not 0 < timestamp <= TIMESTAMP_MAX_MS:
            self._bad("timestamp", f"milliseconds, 1 to {TIMESTAMP_MAX_MS}")
        pcrs = self._pcrs(fields.get("pcrs"))
        certificate = fields.get("certificate")
        if not isinstance(certificate, bytes) or not 1 <= len(certificate) <= CERTIFICATE_MAX:
            self._bad("certificate", f"1 to {CERTIFICATE_MAX} bytes")
        cabundle = self._bundle(fields.get("cabundle"))
        optional = [self._optional(name, limit) for name, limit in OPTIONAL.items()]
        if not fields.keys() <= _KNOWN:
            self._unknown()
        if self.findings:
            return None
        # The checks above, which mypy cannot follow through the list of findings.
        assert isinstance(module_id, str)
        assert isinstance(timestamp, int)
        assert isinstance(certificate, bytes)
        return Document(module_id, timestamp, MappingProxyType(pcrs), certificate, cabundle, *optional)

    def _pcrs(self, value: cbor.Value) -> dict[int, bytes]:
        if not isinstance(value, dict) or not 1 <= len(value) <= PCR_COUNT_MAX:
            self._bad("pcrs", f"a map of 1 to {PCR_COUNT_MAX} registers")
            return {}
        for index, register in value.items():
            if type(register) is bytes and len(register) == PCR_SIZE_SHA384 and index in _INDICES:
                continue
            if index not in _INDICES:
                self._bad("pcrs", f"indices from 0 to {PCR_COUNT_MAX - 1}", f"{index!r:.40}")
            elif not isinstance(register, bytes) or len(register) not in PCR_SIZES:
                self._bad(f"pcrs[{index}]", "32, 48 or 64 bytes", _kind(register))
            else:
                self._loose(f"pcrs[{index}]", "48 bytes, as digest says", _kind(register))
        return cast("dict[int, bytes]", value)

    def _bundle(self, value: cbor.Value) -> tuple[bytes, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= BUNDLE_MAX:
            self._bad("cabundle", f"an array of 1 to {BUNDLE_MAX} certificates")
            return ()
        for position, certificate in enumerate(value):
            if not isinstance(certificate, bytes) or not 1 <= len(certificate) <= CERTIFICATE_MAX:
                self._bad(f"cabundle[{position}]", f"1 to {CERTIFICATE_MAX} bytes", _kind(certificate))
        return tuple(cast("list[bytes]", value))

    def _optional(self, name: str, limit: int) -> bytes | None:
        value = self.fields.get(name)
        if value is None:
            if name not in self.fields:
                self._loose(name, "null when it is not set", "no such field")
            return None
        if not isinstance(value, bytes) or len(value) > limit:
            self._bad(name, f"null or at most {limit} bytes")
            return None
        if not value and name == "public_key":
            # One real document (nitrite, 2021-10-28) has an empty public_key. ExpectPublicKey(None) refuses
            # it because it is not null, ExpectPublicKey(key) because it is not that key.
            self._loose(name, "null or at least 1 byte", "0 bytes")
        return value

    def _unknown(self) -> None:
        unknown = sorted(self.fields.keys() - _KNOWN, key=str)
        for name in unknown[:UNKNOWN_SHOWN_MAX]:
            self.notices.append(
                UNKNOWN_FIELD.finding(f"{name!r:.80}", "no field of that name", _kind(self.fields[name]))
            )
        if (more := len(unknown) - UNKNOWN_SHOWN_MAX) > 0:
            self.notices.append(UNKNOWN_FIELD.finding("payload", "no other fields", f"{more} more of them"))

    def _bad(self, name: str, expected: str, found: str | None = None) -> None:
        if found is None:
            found = _kind(self.fields[name]) if name in self.fields else "no such field"
        self.findings.append(BAD_FIELD.finding(name, expected, found))

    def _loose(self, name: str, expected: str, found: str) -> None:
        self.notices.append(LOOSE_FIELD.finding(name, expected, found))


def _kind(value: cbor.Value) -> str:
    """A value for people, short whatever it is."""
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, dict):
        return f"a map of {len(value)}"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    return f"{value!r:.80}"
