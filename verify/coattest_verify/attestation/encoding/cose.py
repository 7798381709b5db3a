"""The COSE_Sign1 envelope of an attestation document: one shape, read byte by byte.

``[tag 18] 84 44 a1013822 a0 <payload> 5860 <signature>``. The protected header is compared, never obeyed.
The heads of the envelope are not signed, so they must be definite and minimal: one signed document has two
spellings, with the tag and without it, and no third.
"""

from __future__ import annotations

from typing import Final, NamedTuple, NoReturn

from coattest.findings import Finding
from coattest_verify.attestation.encoding import cbor
from coattest_verify.attestation.limits import DOCUMENT_MAX, PAYLOAD_MAX, SIGNATURE_SIZE
from coattest_verify.attestation.rules import (
    BAD_ALGORITHM,
    BAD_ENVELOPE,
    MALFORMED_CBOR,
    TOO_LARGE,
    Malformed,
)

PROTECTED: Final = bytes.fromhex("a1013822")
"""{1: -35}: ES384, ECDSA with SHA-384. RFC 9053 section 2.1."""

_TAGGED: Final = 0xD2  # tag 18, COSE_Sign1
_ARRAY_OF_4: Final = 0x84
_EMPTY_MAP: Final = 0xA0
_BYTE_STRING: Final = 2
# RFC 9052 section 4.4: Sig_structure = ["Signature1", body_protected, external_aad = h'', payload].
_SIGNED_HEAD: Final = b"\x84\x6aSignature1" + bytes([0x40 + len(PROTECTED)]) + PROTECTED + b"\x40"
_USUAL_HEAD: Final = bytes([_ARRAY_OF_4, 0x40 + len(PROTECTED)]) + PROTECTED + bytes([_EMPTY_MAP])


class CoseSign1(NamedTuple):
    """The parts of a COSE_Sign1: the payload, the bytes that were signed (Sig_structure), r || s."""

    payload: bytes
    signed: bytes
    signature: bytes


def open_envelope(document: bytes) -> CoseSign1:
    """The envelope's parts; raises Malformed for anything else. Nothing is verified."""
    if len(document) > DOCUMENT_MAX:
        _refuse(TOO_LARGE.finding("document", f"at most {DOCUMENT_MAX} bytes", f"{len(document)}"))
    try:
        return _open(document, 1 if document[:1] == bytes([_TAGGED]) else 0)
    except cbor.CborError as error:
        _refuse(MALFORMED_CBOR.finding(f"document at byte {error.offset}", error.expected, error.found))


def _open(document: bytes, offset: int) -> CoseSign1:
    if document[offset : offset + len(_USUAL_HEAD)] != _USUAL_HEAD:
        _explain(document, offset)
    offset += len(_USUAL_HEAD)
    size, start = cbor.read_head(document, offset, _BYTE_STRING, "the payload, a byte string")
    payload_end = start + size
    payload = document[start:payload_end]
    if not 1 <= size <= PAYLOAD_MAX:
        _refuse(BAD_ENVELOPE.finding("payload", f"1 to {PAYLOAD_MAX} bytes", f"{size}"))
    if len(payload) < size:
        _cut(document, f"{size} bytes of payload, then the signature", len(payload))
    size, begin = cbor.read_head(document, payload_end, _BYTE_STRING, "the signature, a byte string")
    if size != SIGNATURE_SIZE:
        _refuse(BAD_ENVELOPE.finding("signature", f"{SIGNATURE_SIZE} bytes", f"{size}"))
    signature = document[begin:]
    if len(signature) < SIGNATURE_SIZE:
        _cut(document, f"{SIGNATURE_SIZE} bytes of signature", len(signature))
    if len(signature) > SIGNATURE_SIZE:
        end, more = begin + SIGNATURE_SIZE, len(signature) - SIGNATURE_SIZE
        _refuse(MALFORMED_CBOR.finding(f"document at byte {end}", "the end", f"{more} more bytes"))
    # The payload's own head is part of what was signed: reuse its bytes, they are minimal.
    return CoseSign1(payload, _SIGNED_HEAD + document[offset:payload_end], signature)


def _explain(document: bytes, offset: int) -> NoReturn:
    """Raise Malformed with the part of the head that is not as expected, or with where it is cut off."""
    if _USUAL_HEAD.startswith(document[offset:]):
        where = f"document at byte {len(document)}"
        _refuse(BAD_ENVELOPE.finding(where, "the rest of the envelope", "the end: it is cut off"))
    if document[offset : offset + 1] != bytes([_ARRAY_OF_4]):
        found = document[offset : offset + 2].hex()
        _refuse(BAD_ENVELOPE.finding("document", "an array of 4, untagged or with tag 18", f"bytes {found}"))
    size, start = cbor.read_head(document, offset + 1, _BYTE_STRING, "the protected header, a byte string")
    protected = document[start : start + size]
    if protected != PROTECTED:
        _refuse(BAD_ALGORITHM.finding("protected", f"{PROTECTED.hex()} ({{1: -35}})", _header(protected)))
    unprotected = document[start + size : start + size + 1]
    _refuse(BAD_ENVELOPE.finding("unprotected", "an empty map (a0)", f"byte {unprotected.hex()}"))


def _cut(document: bytes, expected: str, there: int) -> NoReturn:
    """Raise Malformed for a document that ends before a part does."""
    found = f"the end after {there} of them: it is cut off"
    _refuse(MALFORMED_CBOR.finding(f"document at byte {len(document)}", expected, found))


def _header(protected: bytes) -> str:
    """A protected header for people: at most 32 of its bytes, and what they say when that can be read."""
    shown = protected[:32].hex() or "no bytes"
    try:
        return f"{shown} ({cbor.decode_cbor(protected[:32])!r})"
    except cbor.CborError:
        return shown


def _refuse(finding: Finding) -> NoReturn:
    raise Malformed(finding)
