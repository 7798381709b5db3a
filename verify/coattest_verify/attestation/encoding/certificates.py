"""One certificate of an attestation chain: what its place in the chain requires.

cryptography parses, and reads dates and keys; der.py reads once more what is compared as bytes. Both must
accept. Nothing here trusts a certificate: chain.py verifies signatures downwards from the pinned root.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from coattest.findings import Finding
from coattest_verify.attestation.encoding.der import Extension, Outline, outline, read_extensions
from coattest_verify.attestation.rules import BAD_CERTIFICATE

ECDSA_SHA384: Final = bytes.fromhex("300a06082a8648ce3d040303")
"""AlgorithmIdentifier ecdsa-with-SHA384 without parameters. RFC 5758 section 3.2."""

P384_KEY: Final = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
"""The start of a SubjectPublicKeyInfo with an uncompressed point of secp384r1: length, algorithm, curve.
Source: RFC 5480 section 2.
"""

# RFC 5280 sections 4.2.1.9 and 4.2.1.3: id-ce 19 and 15.
_CONSTRAINTS: Final = bytes.fromhex("551d13")
_USAGE: Final = bytes.fromhex("551d0f")
_NO_AUTHORITY: Final = bytes.fromhex("3000")
_AUTHORITY: Final = bytes.fromhex("30030101ff")
_LIMITED_AUTHORITY: Final = bytes.fromhex("30060101ff0201")  # and one byte, the path length
_PATH_LENGTH_MAX: Final = 127  # one byte of a DER integer that is not negative
# The first byte of KeyUsage's bits, RFC 5280 section 4.2.1.3.
_DIGITAL_SIGNATURE: Final = 0x80
_KEY_CERT_SIGN: Final = 0x04


class Certificate(NamedTuple):
    """A certificate that is well-formed for its place. Whether its issuer signed it is not checked yet.

    ``path_length`` is None where a CA's certificate sets no limit. ``signed`` is the TBSCertificate that
    ``signature`` (DER of r and s) is over; ``subject`` and ``issuer`` are the names' DER.
    """

    field: str
    key: ec.EllipticCurvePublicKey
    not_before: datetime
    not_after: datetime
    path_length: int | None
    subject: bytes
    issuer: bytes
    signed: bytes
    signature: bytes


class CertificateRefused(Exception):
    """A certificate does not fit its place; ``findings`` says why."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(str(findings))
        self.findings = findings


def read_certificate(der: bytes, field: str, *, authority: bool) -> Certificate:
    """The certificate in ``der``, checked for its place: a CA's (``authority``) or the leaf's.

    ``field`` is what findings call it. Raises CertificateRefused with every finding.
    """
    try:
        parts = outline(der)
        limit, misfits = _judged_extensions(parts.extensions, field, authority)
        parsed = x509.load_der_x509_certificate(der)
        not_before, not_after = parsed.not_valid_before_utc, parsed.not_valid_after_utc
        signature = parsed.signature
        findings = [*_algorithm_findings(field, parts), *misfits]
        key = None if findings else load_der_public_key(parts.key_info)
    except Exception as error:  # hostile bytes: the parser may raise anything
        found = f"{type(error).__name__}: {error}"
        raise CertificateRefused(
            [BAD_CERTIFICATE.finding(field, "a certificate in DER", f"{found:.200}")]
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateRefused(findings)
    return Certificate(
        field, key, not_before, not_after, limit, parts.subject, parts.issuer, parts.signed, signature
    )


@functools.lru_cache(maxsize=64)
def _judged_extensions(der: bytes, field: str, authority: bool, /) -> tuple[int | None, tuple[Finding, ...]]:
    """The path length, and what is wrong with the extensions. Most certificates of a place have the same."""
    extensions = read_extensions(der)
    return _path_length(extensions), tuple(_extension_findings(field, extensions, authority=authority))


def _path_length(extensions: dict[bytes, Extension]) -> int | None:
    """The path length of basicConstraints, None without one; ValueError when they are not DER.

    RFC 5280 section 4.2.1.9: SEQUENCE { cA BOOLEAN DEFAULT FALSE, pathLenConstraint INTEGER OPTIONAL }.
    """
    constraints = extensions.get(_CONSTRAINTS)
    if constraints is None or constraints.value in (_NO_AUTHORITY, _AUTHORITY):
        return None
    head, limit = constraints.value[:-1], constraints.value[-1]
    if head != _LIMITED_AUTHORITY or limit > _PATH_LENGTH_MAX:
        raise ValueError("malformed basicConstraints")
    return limit


def _algorithm_findings(field: str, parts: Outline) -> Iterator[Finding]:
    """P-384 with SHA-384, named alike inside and outside the signed part."""
    if parts.inner_algorithm != ECDSA_SHA384:
        yield BAD_CERTIFICATE.finding(
            f"{field}.signature", "ecdsa-with-SHA384", f"{parts.inner_algorithm.hex():.80}"
        )
    if parts.outer_algorithm != ECDSA_SHA384:
        found = f"{parts.outer_algorithm.hex():.80}"
        yield BAD_CERTIFICATE.finding(f"{field}.signatureAlgorithm", "ecdsa-with-SHA384", found)
    if not parts.key_info.startswith(P384_KEY):
        yield BAD_CERTIFICATE.finding(
            f"{field}.subjectPublicKeyInfo", "a P-384 key", f"{parts.key_info.hex():.60}"
        )


def _extension_findings(
    field: str, extensions: dict[bytes, Extension], *, authority: bool
) -> Iterator[Finding]:
    """Basic constraints and key usage as the place demands; no critical extension that is not understood."""
    for oid, extension in extensions.items():
        if extension.critical and oid not in (_CONSTRAINTS, _USAGE):
            expected = "no other critical extension than basicConstraints and keyUsage"
            yield BAD_CERTIFICATE.finding(f"{field}.extensions", expected, f"OID {oid.hex():.60}")
    constraints, usage = extensions.get(_CONSTRAINTS), extensions.get(_USAGE)
    yield from _constraints_findings(f"{field}.basicConstraints", constraints, authority=authority)
    yield from _usage_findings(f"{field}.keyUsage", usage, authority=authority)


def _constraints_findings(field: str, extension: Extension | None, *, authority: bool) -> Iterator[Finding]:
    """RFC 5280 section 4.2.1.9: critical with cA in a CA's certificate; the leaf is not a CA."""
    if extension is None:
        yield BAD_CERTIFICATE.finding(field, "the extension", "none")
    elif (extension.value != _NO_AUTHORITY) != authority:
        yield BAD_CERTIFICATE.finding(
            field, f"CA:{str(authority).upper()}", f"CA:{str(not authority).upper()}"
        )
    elif authority and not extension.critical:
        yield BAD_CERTIFICATE.finding(field, "critical", "not critical")


def _usage_findings(field: str, extension: Extension | None, *, authority: bool) -> Iterator[Finding]:
    """RFC 5280 section 4.2.1.3: a CA signs certificates (critical); the leaf signs documents, no
    certificates.

    The leaf's key usage is not critical in any real document, so that is not asked for.
    """
    if extension is None:
        yield BAD_CERTIFICATE.finding(field, "the extension", "none")
        return
    bits = _usage_bits(extension.value)
    if authority and not extension.critical:
        yield BAD_CERTIFICATE.finding(field, "critical", "not critical")
    if bool(bits & _KEY_CERT_SIGN) != authority:
        wanted, found = "keyCertSign", "no keyCertSign"
        yield BAD_CERTIFICATE.finding(field, wanted if authority else found, found if authority else wanted)
    if not authority and not bits & _DIGITAL_SIGNATURE:
        yield BAD_CERTIFICATE.finding(field, "digitalSignature", "no digitalSignature")


def _usage_bits(value: bytes) -> int:
    """The first eight bits of a KeyUsage; ValueError unless it is a BIT STRING of one or two bytes in DER.

    X.690 section 11.2: unused bits are zero, and a named bit list ends with a bit that is set. So the last
    byte's lowest bit that is set is the one after the unused ones, which are at most 7.
    """
    size = len(value) - 2
    if size not in (2, 3) or value[0] != 0x03 or value[1] != size:
        raise ValueError("malformed keyUsage")
    if value[-1] & -value[-1] != 1 << value[2]:
        raise ValueError("the last bits of keyUsage are not DER")
    return value[3]
