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
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coattest_verify.attestation.failures import BadCertificate, Failure

ECDSA_SHA384: Final = bytes.fromhex("300a06082a8648ce3d040303")
"""AlgorithmIdentifier ecdsa-with-SHA384 without parameters. RFC 5758 section 3.2."""

P384_KEY: Final = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
"""How a SubjectPublicKeyInfo begins that holds an uncompressed point of secp384r1, by name and with its length.
Source: RFC 5480 section 2.
"""

_UNDERSTOOD: Final = frozenset((x509.BasicConstraints.oid, x509.KeyUsage.oid))
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
        outline = _outline(der)
        parsed = x509.load_der_x509_certificate(der)
        key = parsed.public_key()
        extensions = list(parsed.extensions)
        not_before, not_after, signature = (
            parsed.not_valid_before_utc,
            parsed.not_valid_after_utc,
            parsed.signature,
        )
    except Exception as error:  # hostile bytes in a foreign parser: its errors are no closed set
        found = f"{type(error).__name__}: {error}"
        raise CertificateRefused([BadCertificate(field, "a certificate in DER", f"{found:.200}")]) from None
    failures = [
        *_algorithm_failures(field, outline),
        *_extension_failures(field, extensions, authority=authority),
    ]
    if failures:
        raise CertificateRefused(failures)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # its SubjectPublicKeyInfo said so
    limit = next(e.value.path_length for e in extensions if isinstance(e.value, x509.BasicConstraints))
    return Certificate(
        field, key, not_before, not_after, limit, outline.subject, outline.issuer, outline.signed, signature
    )


def _algorithm_failures(field: str, outline: _Outline) -> Iterator[Failure]:
    """P-384 with SHA-384, said the same way inside and outside of the signed part."""
    if outline.inner_algorithm != ECDSA_SHA384:
        found = f"{outline.inner_algorithm.hex():.80}"
        yield BadCertificate(f"{field}.signature", "ecdsa-with-SHA384", found)
    if outline.outer_algorithm != ECDSA_SHA384:
        found = f"{outline.outer_algorithm.hex():.80}"
        yield BadCertificate(f"{field}.signatureAlgorithm", "ecdsa-with-SHA384", found)
    if not outline.key_info.startswith(P384_KEY):
        yield BadCertificate(f"{field}.subjectPublicKeyInfo", "a P-384 key", f"{outline.key_info.hex():.60}")


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


class _Outline(NamedTuple):
    """Parts of a certificate as the bytes that they are."""

    signed: bytes
    inner_algorithm: bytes
    outer_algorithm: bytes
    issuer: bytes
    subject: bytes
    key_info: bytes


def _outline(der: bytes) -> _Outline:
    """The parts of a certificate that are compared as bytes; ValueError when it has another shape.

    RFC 5280 section 4.1: Certificate = SEQUENCE { tbs, algorithm, signature }, and TBSCertificate =
    SEQUENCE { [0] version, serial, signature, issuer, validity, subject, subjectPublicKeyInfo, .. }.
    """
    ((whole, start, end),) = _elements(der, 0, 1)
    if der[whole] != _SEQUENCE or end != len(der):
        raise ValueError("not one sequence")
    (tbs, fields, tbs_end), (outer, _, outer_end), (_, _, last) = _elements(der, start, 3)
    if last != end or der[tbs] != _SEQUENCE:
        raise ValueError("a certificate is a sequence of 3")
    version, _, inner, issuer, _, subject, key = _elements(der, fields, 7)
    if der[fields : version[2]] != _VERSION_3 or key[2] > tbs_end:
        raise ValueError("not a version 3 certificate")
    return _Outline(
        der[tbs:tbs_end],
        der[inner[0] : inner[2]],
        der[outer:outer_end],
        der[issuer[0] : issuer[2]],
        der[subject[0] : subject[2]],
        der[key[0] : key[2]],
    )


def _elements(der: bytes, offset: int, count: int) -> list[tuple[int, int, int]]:
    """Where each of ``count`` elements in a row begins, where its content does, and where it ends.

    ValueError when that is not DER: lengths are definite, minimal and within the bytes. Tags have one byte:
    the parts of a certificate that are looked at have no others.
    """
    elements = []
    size = len(der)
    for _ in range(count):
        content = offset + 2
        if content > size:
            raise ValueError("truncated")
        length = der[offset + 1]
        if length >= _LONG_FORM:
            width = length & 0x7F
            length = int.from_bytes(der[content : content + width], "big")
            content += width
            if width not in _LENGTH_WIDTHS or length < _LENGTH_WIDTHS[width]:
                raise ValueError("a length that is not DER")
        end = content + length
        if end > size:
            raise ValueError("an element beyond its end")
        elements.append((offset, content, end))
        offset = end
    return elements
