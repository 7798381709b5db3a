"""The signature section: AWS's encoding, a strict parser, and the check behind PCR8.

The section is CBOR as serde writes AWS's structs (``aws-nitro-enclaves-image-format``, ``src/defs/mod.rs``
and ``src/utils/eif_signer.rs``): ``[{"signing_certificate": PEM, "signature": COSE_Sign1}]`` with both values
as *arrays of integers*; the COSE_Sign1 is untagged, its payload ``{"register_index": 0, "register_value":
PCR0}`` is encoded in the same way. Nothing else is accepted, so that two readers cannot see two certificates.

No certificate authority is involved: PCR8 is the certificate's digest; whoever pins PCR8 chose the signer.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from coattest.errors import FoundFalse, UsageError
from coattest.findings import Finding
from coattest_build.formats.eif import ImageError
from coattest_build.formats.registers import extend

MAX_CERTIFICATE = 16384
"""Bytes of the certificate's PEM; a P-384 certificate has about 800."""
MAX_FOUND_CERTIFICATE = 1 << 18
"""Bytes of somebody else's PEM: a chain, with the text that ``openssl x509 -text`` puts before each."""
_UINT, _NEGATIVE, _BYTES, _ARRAY = 0, 1, 2, 4
_ARRAY_OF_ONE, _ARRAY_OF_FOUR, _MAP_OF_ONE, _MAP_OF_TWO = b"\x81", b"\x84", b"\xa1", b"\xa2"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
WHERE = "signature"
"""Where a finding about the signature is."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A COSE algorithm (RFC 9053, table 1) and the one curve AWS's COSE library uses it with."""

    name: str
    cose: int
    curve: type[ec.EllipticCurve]
    hash: hashes.HashAlgorithm
    coordinate: int


ALGORITHMS = (
    Algorithm("ES384", -35, ec.SECP384R1, hashes.SHA384(), 48),
    Algorithm("ES256", -7, ec.SECP256R1, hashes.SHA256(), 32),
    Algorithm("ES512", -36, ec.SECP521R1, hashes.SHA512(), 66),
)
CURVES = "RFC 9053, section 2.1"
"""The rule that pairs each ECDSA algorithm with the hash and the curve of the signing key."""


@dataclass(frozen=True, slots=True)
class ImageSignature:
    """A parsed signature section. Parsed is not verified: see check_signature."""

    certificate: x509.Certificate
    algorithm: int
    register_value: bytes
    payload: bytes
    protected: bytes
    signature: bytes

    @property
    def certificate_der(self) -> bytes:
        """The signing certificate in DER: what PCR8 measures."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pcr8(self) -> str:
        """PCR8 of an image with this signature, in hex."""
        return extend(hashlib.sha384(self.certificate_der).digest())


# ---------------------------------------------------------------------- reading and checking


def parse_signature(section: bytes) -> ImageSignature:
    """Parse a signature section's data. Raises ImageError unless it is exactly what AWS's writer makes."""
    return _parse(section, _single_certificate, MAX_CERTIFICATE)


def parse_found_signature(section: bytes) -> tuple[ImageSignature, tuple[str, ...]]:
    """A signature section as people make them, and in what its certificate is not as coattest writes it.

    Their PEM has CRLF, a preamble, bag attributes, blank lines or a chain; AWS's tools take the first
    certificate of it, and so PCR8 is that one's. Raises ImageError for everything else.
    """
    notes: list[str] = []

    def first(pem: bytes) -> x509.Certificate:
        certificate, said = _first_certificate(pem)
        notes.extend(said)
        return certificate

    return _parse(section, first, MAX_FOUND_CERTIFICATE), tuple(notes)


def _parse(section: bytes, certificate_of: Callable[[bytes], x509.Certificate], limit: int) -> ImageSignature:
    outer = _Reader(section)
    outer.expect(_ARRAY_OF_ONE + _MAP_OF_TWO + cbor2.dumps("signing_certificate"))
    pem = outer.byte_array(limit)
    outer.expect(cbor2.dumps("signature"))
    envelope = outer.byte_array(1024)
    outer.finish()

    cose = _Reader(envelope)
    cose.expect(_ARRAY_OF_FOUR)
    protected = cose.byte_string()
    cose.expect(cbor2.dumps({}))
    payload = cose.byte_string()
    raw = cose.byte_string()
    cose.finish()

    header = _Reader(protected)
    header.expect(_MAP_OF_ONE + cbor2.dumps(1))
    algorithm = -1 - header.head(_NEGATIVE)
    header.finish()

    info = _Reader(payload)
    info.expect(_MAP_OF_TWO + cbor2.dumps("register_index") + cbor2.dumps(0) + cbor2.dumps("register_value"))
    value = info.byte_array(48)
    info.finish()
    if len(value) != 48:
        raise _malformed(f"the register value has {len(value)} bytes, not 48")
    return ImageSignature(certificate_of(pem), algorithm, value, payload, protected, raw)


def check_signature(signature: ImageSignature, pcr0: bytes, now: datetime) -> tuple[Finding, ...]:
    """Check a signature against the image's own PCR0; return everything that is wrong, nothing when it holds.

    ``now`` is aware; the certificate must be in date at that time.
    """
    findings = list(_check_dates(signature.certificate, now))
    if signature.register_value != pcr0:
        findings.append(
            Finding(
                "signature-pcr0",
                WHERE,
                "it was made for an image with a different PCR0",
                pcr0.hex(),
                signature.register_value.hex(),
            )
        )
    try:
        algorithm = algorithm_of(signature.certificate)
    except FoundFalse as error:
        return (*findings, Finding(error.code, WHERE, error.what, rule=CURVES))
    if signature.algorithm != algorithm.cose:
        findings.append(
            Finding(
                "signature-algorithm",
                WHERE,
                f"the COSE algorithm does not match the certificate's {algorithm.name} key",
                str(algorithm.cose),
                str(signature.algorithm),
                CURVES,
            )
        )
    elif not _verifies(signature, algorithm):
        findings.append(
            Finding(
                "signature-invalid",
                WHERE,
                "the signature was not made by the certificate's key",
                rule="RFC 9052, section 4.4",
            )
        )
    return tuple(findings)


def _check_dates(certificate: x509.Certificate, now: datetime) -> Iterator[Finding]:
    starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < starts:
        yield Finding("certificate-not-yet-valid", WHERE, f"the certificate is valid from {starts}")
    if now > ends:
        yield Finding("certificate-expired", WHERE, f"the certificate expired at {ends}")


def _verifies(signature: ImageSignature, algorithm: Algorithm) -> bool:
    raw = signature.signature
    if len(raw) != 2 * algorithm.coordinate:
        return False
    key = signature.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = (
        int.from_bytes(part, "big") for part in (raw[: algorithm.coordinate], raw[algorithm.coordinate :])
    )
    try:
        key.verify(
            encode_dss_signature(r, s),
            _signed_bytes(signature.protected, signature.payload),
            ec.ECDSA(algorithm.hash),
        )
    except InvalidSignature:
        return False
    return True


def algorithm_of(certificate: x509.Certificate) -> Algorithm:
    """The algorithm for the certificate's key: the key decides, never the signature.

    Raises FoundFalse for a key that is not on P-256, P-384 or P-521 (RFC 9053, section 2.1).
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FoundFalse(f"the certificate's key is not usable: {error}", code="certificate-key") from None
    for algorithm in ALGORITHMS:
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, algorithm.curve):
            return algorithm
    raise FoundFalse("the certificate's key is not on P-256, P-384 or P-521", code="certificate-key")


def _single_certificate(pem: bytes) -> x509.Certificate:
    """The one certificate in ``pem``. With anything around it, two readers could choose differently."""
    certificate = _loaded(pem)
    if certificate.public_bytes(Encoding.PEM) not in (pem, pem + b"\n"):
        raise _malformed("it carries more than one PEM certificate")
    return certificate


def _first_certificate(pem: bytes) -> tuple[x509.Certificate, list[str]]:
    """The first certificate in ``pem``, and what is around it."""
    blocks = _PEM.findall(pem)
    if not blocks:
        raise _malformed("its certificate does not parse: there is no PEM block")
    certificate = _loaded(blocks[0].replace(b"\r\n", b"\n") + b"\n")
    notes = []
    if b"\r\n" in pem:
        notes.append("its PEM has CRLF line ends")
    around = _PEM.sub(b"", pem)
    if b"Bag Attributes" in around:
        notes.append("its PEM has bag attributes")
    elif around.strip():
        notes.append("its PEM has text around the certificate")
    elif around.strip(b"\r\n") != around and around not in (b"\n", b"\r\n"):
        notes.append("its PEM has blank lines around the certificate")
    if len(blocks) > 1:
        notes.append(f"its PEM has {len(blocks)} certificates; PCR8 is the first one's")
    return certificate, notes


def _loaded(pem: bytes) -> x509.Certificate:
    with warnings.catch_warnings():
        # The library warns of odd serial numbers and names; AWS's tools and the hypervisor accept them.
        warnings.simplefilter("ignore")
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            # The library parses these on first use; use them here, so that later uses cannot fail.
            _ = certificate.subject, certificate.issuer
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except (ValueError, x509.InvalidVersion):
            # The library's own words have a link and Rust's names for errors.
            raise _malformed("its certificate does not parse") from None
    return certificate


# ---------------------------------------------------------------------- signing

Sign = Callable[[bytes], bytes]
"""Signs bytes with the hash that goes with its key; returns the DER form of an ECDSA signature."""


def load_certificate(pem: bytes, *, where: str | None = None) -> x509.Certificate:
    """The one certificate of a PEM file. Raises UsageError when there is none, or more than one."""
    code, hint = "certificate-malformed", "a file with one block -----BEGIN CERTIFICATE-----"
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion):
        raise UsageError("not a PEM certificate", where=where, hint=hint, code=code) from None
    if len(certificates) != 1:
        raise UsageError(f"{len(certificates)} certificates; give one", where=where, hint=hint, code=code)
    return certificates[0]


def make_section(certificate: x509.Certificate, pcr0: bytes, sign: Sign, now: datetime) -> bytes:
    """A signature section's data for an image with this PCR0.

    Raises FoundFalse when the certificate is out of date, or when what ``sign`` returns does not verify with
    the certificate's key.
    """
    algorithm = algorithm_of(certificate)
    protected = cbor2.dumps({1: algorithm.cose})
    payload = cbor2.dumps({"register_index": 0, "register_value": list(pcr0)})
    try:
        r, s = decode_dss_signature(sign(_signed_bytes(protected, payload)))
        raw = r.to_bytes(algorithm.coordinate, "big") + s.to_bytes(algorithm.coordinate, "big")
    except (ValueError, OverflowError):
        raise FoundFalse(
            "the signer did not return an ECDSA signature on the certificate's curve",
            code="signature-mismatch",
        ) from None
    envelope = cbor2.dumps([protected, {}, payload, raw])
    pem = certificate.public_bytes(Encoding.PEM)
    section = cbor2.dumps([{"signing_certificate": list(pem), "signature": list(envelope)}])
    findings = check_signature(parse_signature(section), pcr0, now)
    if findings:
        told = "; ".join(finding.detail for finding in findings)
        raise FoundFalse(told, code=findings[0].code, findings=findings)
    return section


def _signed_bytes(protected: bytes, payload: bytes) -> bytes:
    """``Sig_structure`` of RFC 9052, section 4.4."""
    return cbor2.dumps(["Signature1", protected, b"", payload])


# ---------------------------------------------------------------------- the CBOR of this section


class _Reader:
    """Reads the items that the format expects; every integer must be in its shortest form."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        piece = self._data[self._position : self._position + size]
        if len(piece) < size:
            raise _malformed("it ends early")
        self._position += size
        return piece

    def head(self, major: int) -> int:
        initial = self.take(1)[0]
        value = initial & 31
        if initial >> 5 != major or value > 27:
            raise _malformed(f"unexpected CBOR item {initial:#04x} at {self._position - 1}")
        if value >= 24:
            size = 1 << (value - 24)
            value = int.from_bytes(self.take(size), "big")
            if value < (24 if size == 1 else 1 << (4 * size)):
                raise _malformed(f"a CBOR integer that is not in its shortest form before {self._position}")
        return value

    def expect(self, items: bytes) -> None:
        if (found := self.take(len(items))) != items:
            raise _malformed(f"found {found.hex()}, expected {items.hex()}")

    def byte_string(self) -> bytes:
        return self.take(self.head(_BYTES))

    def byte_array(self, limit: int) -> bytes:
        length = self.head(_ARRAY)
        if length > limit:
            raise _malformed(f"an array of {length} items; at most {limit} are allowed")
        values = [self.head(_UINT) for _ in range(length)]
        if any(value > 255 for value in values):
            raise _malformed("an array item is not a byte")
        return bytes(values)

    def finish(self) -> None:
        if self._position != len(self._data):
            raise _malformed("there is data after it")


def _malformed(what: str) -> ImageError:
    return ImageError(f"the signature section is not AWS's encoding: {what}", code="eif-signature")
