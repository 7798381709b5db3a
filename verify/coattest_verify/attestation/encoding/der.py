"""The parts of a certificate that are compared as bytes, and its extensions, in strict DER.

cryptography parses every certificate too (certificates.py). This reads what that library leaves to its
caller, or returns as objects where exact bytes are needed: both algorithm identifiers, the key's
identifier, the names, the signed part, which extensions are critical. Bytes in, values out; only
ValueError and IndexError escape.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_VERSION_3: Final = bytes.fromhex("a003020102")
_OCTETS, _OID, _SEQUENCE, _EXTENSIONS = 0x04, 0x06, 0x30, 0xA3
_TRUE: Final = bytes.fromhex("0101ff")
_LONG_FORM: Final = 0x80
# The smallest length that needs each number of length bytes; a certificate of 1024 bytes needs no third one.
_LENGTH_WIDTHS: Final = {1: 0x80, 2: 0x100}

Element = tuple[int, int, int]
"""Where an element begins, where its content begins, and where it ends."""


class Extension(NamedTuple):
    """One extension: whether it is critical, and the content of its OCTET STRING."""

    critical: bool
    value: bytes


class Outline(NamedTuple):
    """Parts of a certificate, heads included; ``extensions`` is the sequence that read_extensions reads."""

    signed: bytes
    inner_algorithm: bytes
    outer_algorithm: bytes
    issuer: bytes
    subject: bytes
    key_info: bytes
    extensions: bytes


def outline(der: bytes) -> Outline:
    """The parts of a certificate in DER. Raises ValueError for any other layout.

    RFC 5280 section 4.1: Certificate = SEQUENCE { tbs, algorithm, signature }, and TBSCertificate =
    SEQUENCE { [0] version, serial, signature, issuer, validity, subject, subjectPublicKeyInfo, [3]
    extensions }. The unique identifiers that version 2 allowed between the last two are not.
    """
    ((_, start, end),) = elements(der, 0, len(der))
    (tbs, fields, tbs_end), (outer, _, outer_end), _ = elements(der, start, end)
    version, _, inner, issuer, _, subject, key, (tag, wrapped, wrapped_end) = elements(der, fields, tbs_end)
    if der[0] != _SEQUENCE or der[tbs] != _SEQUENCE:
        raise ValueError("not a sequence that begins with a sequence")
    if der[fields : version[2]] != _VERSION_3 or der[tag] != _EXTENSIONS:
        raise ValueError("not a version 3 certificate with extensions at its end")
    return Outline(
        der[tbs:tbs_end],
        der[inner[0] : inner[2]],
        der[outer:outer_end],
        der[issuer[0] : issuer[2]],
        der[subject[0] : subject[2]],
        der[key[0] : key[2]],
        der[wrapped:wrapped_end],
    )


def read_extensions(der: bytes) -> dict[bytes, Extension]:
    """Extensions by the content of their OIDs. Raises ValueError and IndexError for any other layout.

    RFC 5280 section 4.1: SEQUENCE OF SEQUENCE { OID, critical BOOLEAN DEFAULT FALSE, OCTET STRING }; each
    once.
    """
    ((_, start, end),) = elements(der, 0, len(der))
    if der[0] != _SEQUENCE:
        raise ValueError("the extensions are not one sequence")
    found: dict[bytes, Extension] = {}
    for outer, content, stop in elements(der, start, end):
        (name, name_content, name_end), *flag, (value, value_content, value_end) = elements(
            der, content, stop
        )
        # DER has one true, and false is the default, which is left out.
        if [der[first:last] for first, _, last in flag] not in ([], [_TRUE]):
            raise ValueError("an extension's critical flag is not DER")
        oid = der[name_content:name_end]
        if (der[outer], der[name], der[value]) != (_SEQUENCE, _OID, _OCTETS) or oid in found:
            raise ValueError("a malformed extension, or one that appears twice")
        found[oid] = Extension(bool(flag), der[value_content:value_end])
    return found


def elements(der: bytes, start: int, end: int) -> list[Element]:
    """The elements that fill ``der`` from ``start`` to ``end``, none beyond it.

    Raises ValueError or IndexError when that is not DER: lengths are definite, minimal and within the bytes.
    Tags have one byte: the parts of a certificate that are looked at have no others.
    """
    found = []
    while start < end:
        content = start + 2
        length = der[start + 1]
        if length >= _LONG_FORM:
            width = length & 0x7F
            length = int.from_bytes(der[content : content + width], "big")
            content += width
            if width not in _LENGTH_WIDTHS or length < _LENGTH_WIDTHS[width]:
                raise ValueError("a length that is not DER")
        found.append((start, content, start := content + length))
    if start != end:
        raise ValueError("an element runs past the end")
    return found
