"""One certificate of an attestation chain: what its place in the chain demands of it.

cryptography parses; a second reading of the outer DER (RFC 5280 section 4.1) checks what a parser may
leave to its caller: both algorithm identifiers byte for byte, the key's identifier byte for byte, names as
bytes, nothing after the end. Nothing here trusts a certificate: chain.py verifies signatures downwards
from the pinned root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coattest_verify.attestation.failures import BadCertificate, Failure

ECDSA_SHA384: Final = bytes.fromhex("300a06082a8648ce3d040303")
"""AlgorithmIdentifier ecdsa-with-SHA384 without parameters. RFC 5758 section 3.2."""

P384_KEY: Final = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
"""How a SubjectPublicKeyInfo begins that holds an uncompressed point of secp384r1 by name. RFC 5480 section
2.
"""

_P384_KEY_SIZE: Final = 120
_UNDERSTOOD: Final = frozenset(
    (x509.BasicConstraints.oid, x509.KeyUsage.oid),
)
_VERSION_3: Final = bytes.fromhex("a003020102")
_SEQUENCE: Final = 0x30
_LONG_FORM: Final = 0x80
# The smallest length that needs each number of length bytes; a certificate of 1024 bytes needs no third one.
_LENGTH_WIDTHS: Final = {1: 0x80, 2: 0x100}


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that is well-formed for its place: key and dates are ready, nothing about its issuer is
    said.

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
    """A certificate is not what its place demands; ``failures`` has every problem."""

    def __init__(self, failures: list[Failure]) -> None:
        super().__init__(str(failures))
        self.failures = failures


def read_certificate(der: bytes, field: str, *, authority: bool) -> Certificate:
    """The certificate in ``der``, checked for its place: a CA's (``authority``) or the leaf's.

    ``field`` is what failures call it. Raises CertificateRefused with every problem.
    """
    try:
        names, algorithms, key_info = _outline(der)
        parsed = x509.load_der_x509_certificate(der)
        key = parsed.public_key()
        extensions = list(parsed.extensions)
        certificate = (parsed.not_valid_before_utc, parsed.not_valid_after_utc, parsed.tbs_certificate_bytes)
        signature = parsed.signature
    except Exception as error:  # hostile bytes in a foreign parser: its errors are no closed set
        found = f"{type(error).__name__}: {error}"
        raise CertificateRefused([BadCertificate(field, "a certificate in DER", f"{found:.200}")]) from None
    failures = [
        *_algorithm_failures(field, algorithms, key_info),
        *_extension_failures(field, extensions, authority=authority),
    ]
    if failures:
        raise CertificateRefused(failures)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # its SubjectPublicKeyInfo said so
    not_before, not_after, signed = certificate
    limit = next(e.value.path_length for e in extensions if isinstance(e.value, x509.BasicConstraints))
    return Certificate(field, key, not_before, not_after, limit, names[1], names[0], signed, signature)


def _algorithm_failures(field: str, algorithms: list[bytes], key_info: bytes) -> Iterator[Failure]:
    """P-384 with SHA-384, said the same way inside and outside of the signed part."""
    for place, algorithm in zip(("signature", "signatureAlgorithm"), algorithms, strict=True):
        if algorithm != ECDSA_SHA384:
            yield BadCertificate(f"{field}.{place}", "ecdsa-with-SHA384", f"{algorithm.hex():.80}")
    if not key_info.startswith(P384_KEY) or len(key_info) != _P384_KEY_SIZE:
        yield BadCertificate(f"{field}.subjectPublicKeyInfo", "a P-384 key", f"{key_info.hex():.60}")


def _extension_failures(
    field: str, extensions: list[x509.Extension[x509.ExtensionType]], *, authority: bool
) -> Iterator[Failure]:
    """Basic constraints and key usage as the place demands; no critical extension that is not understood."""
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            yield BadCertificate(
                f"{field}.extensions",
                "no other critical extension than basicConstraints and keyUsage",
                extension.oid.dotted_string,
            )
    found = {extension.oid: extension for extension in extensions}
    constraints, usage = found.get(x509.BasicConstraints.oid), found.get(x509.KeyUsage.oid)
    yield from _constraints_failures(f"{field}.basicConstraints", constraints, authority=authority)
    yield from _usage_failures(f"{field}.keyUsage", usage, authority=authority)


def _constraints_failures(
    field: str, extension: x509.Extension[x509.ExtensionType] | None, *, authority: bool
) -> Iterator[Failure]:
    """RFC 5280 section 4.2.1.9: critical with cA in a CA's certificate; the leaf says that it is none."""
    if extension is None or not isinstance(extension.value, x509.BasicConstraints):
        yield BadCertificate(field, "the extension", "none")
    elif extension.value.ca != authority:
        yield BadCertificate(field, f"CA:{str(authority).upper()}", f"CA:{str(not authority).upper()}")
    elif authority and not extension.critical:
        yield BadCertificate(field, "critical", "not critical")


def _usage_failures(
    field: str, extension: x509.Extension[x509.ExtensionType] | None, *, authority: bool
) -> Iterator[Failure]:
    """RFC 5280 section 4.2.1.3: a CA signs certificates (critical); the leaf signs documents and no
    certificates.

    The leaf's key usage is not critical in any real document, so that is not asked for.
    """
    if extension is None or not isinstance(extension.value, x509.KeyUsage):
        yield BadCertificate(field, "the extension", "none")
        return
    usage = extension.value
    if authority and not extension.critical:
        yield BadCertificate(field, "critical", "not critical")
    if usage.key_cert_sign != authority:
        wanted = "keyCertSign" if authority else "no keyCertSign"
        yield BadCertificate(field, wanted, "keyCertSign" if usage.key_cert_sign else "no keyCertSign")
    if not authority and not usage.digital_signature:
        yield BadCertificate(field, "digitalSignature", "no digitalSignature")


def _outline(der: bytes) -> tuple[tuple[bytes, bytes], list[bytes], bytes]:
    """(issuer, subject), [inner, outer algorithm] and SubjectPublicKeyInfo, as bytes; ValueError for other
    shapes.

    RFC 5280 section 4.1: Certificate = SEQUENCE { tbs, algorithm, signature }, and TBSCertificate =
    SEQUENCE { [0] version, serial, signature, issuer, validity, subject, subjectPublicKeyInfo, .. }.
    """
    parts = _elements(_content(der))
    if len(parts) != 3:
        raise ValueError("a certificate is a sequence of 3")
    fields = _elements(_content(parts[0]))
    if len(fields) < 8 or fields[0] != _VERSION_3:
        raise ValueError("not a version 3 certificate")
    return (fields[3], fields[5]), [fields[2], parts[1]], fields[6]


def _content(der: bytes) -> bytes:
    """The content of the one SEQUENCE that ``der`` is."""
    start, end = _head(der, 0)
    if der[0] != _SEQUENCE or end != len(der):
        raise ValueError("not one sequence")
    return der[start:]


def _elements(der: bytes) -> list[bytes]:
    """The elements that ``der`` is a row of, heads included, with nothing left over."""
    elements = []
    offset = 0
    while offset < len(der):
        _, end = _head(der, offset)
        elements.append(der[offset:end])
        offset = end
    return elements


def _head(der: bytes, offset: int) -> tuple[int, int]:
    """Where the content of the element at ``offset`` begins and ends; ValueError when that is not DER.

    Lengths are definite, minimal and within the bytes. Tags have one byte: X.509 has no others here.
    """
    start = offset + 2
    if start > len(der):
        raise ValueError("truncated")
    length = der[offset + 1]
    if length >= _LONG_FORM:
        width = length & 0x7F
        length = int.from_bytes(der[start : start + width], "big")
        start += width
        if width not in _LENGTH_WIDTHS or length < _LENGTH_WIDTHS[width]:
            raise ValueError("a length that is not DER")
    if start + length > len(der):
        raise ValueError("an element beyond its end")
    return start, start + length
