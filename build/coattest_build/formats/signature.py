"""The signature section: AWS's encoding, a strict parser, and the check behind PCR8.

The section is CBOR as serde writes AWS's structs (``aws-nitro-enclaves-image-format``, ``src/defs/mod.rs``
and ``src/utils/eif_signer.rs``): ``[{"signing_certificate": PEM, "signature": COSE_Sign1}]`` with both values
as *arrays of integers*; the COSE_Sign1 is untagged, its payload ``{"register_index": 0, "register_value":
PCR0}`` encoded likewise. Nothing else is accepted, so that two readers cannot see two certificates.

No certificate authority is involved: PCR8 is the certificate's digest; whoever pins PCR8 chose the signer.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from coattest.errors import FoundFalse
from coattest_build.formats.eif import ImageError
from coattest_build.formats.measure import extend

MAX_CERTIFICATE = 16384
"""Bytes of the certificate's PEM; a P-384 certificate has about 800."""
_UINT, _BYTES, _TEXT, _ARRAY, _MAP = 0, 2, 3, 4, 5
_NEGATIVE = 1


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


@dataclass(frozen=True, slots=True)
class ImageSignature:
    """A parsed signature section. Parsed is not verified: see check."""

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


@dataclass(frozen=True, slots=True)
class SignatureFailure:
    """One reason why a signature does not hold; ``code`` is stable."""

    code: str
    detail: str


class SigningError(FoundFalse):
    """Certificate, key and image do not go together."""

    default_code = "signature-mismatch"


# ---------------------------------------------------------------------- reading and checking


def parse(section: bytes) -> ImageSignature:
    """Parse a signature section's data. Raises ImageError unless it is exactly what AWS's writer makes."""
    outer = _Reader(section)
    outer.expect(_ARRAY, 1)
    outer.expect(_MAP, 2)
    outer.expect_text("signing_certificate")
    pem = outer.byte_array(MAX_CERTIFICATE)
    outer.expect_text("signature")
    envelope = outer.byte_array(1024)
    outer.finish()

    cose = _Reader(envelope)
    cose.expect(_ARRAY, 4)
    protected = cose.byte_string()
    cose.expect(_MAP, 0)
    payload = cose.byte_string()
    raw = cose.byte_string()
    cose.finish()

    header = _Reader(protected)
    header.expect(_MAP, 1)
    header.expect(_UINT, 1)
    algorithm = -1 - header.head(_NEGATIVE)
    header.finish()

    info = _Reader(payload)
    info.expect(_MAP, 2)
    info.expect_text("register_index")
    info.expect(_UINT, 0)
    info.expect_text("register_value")
    value = info.byte_array(48)
    info.finish()
    if len(value) != 48:
        raise _malformed(f"a register of {len(value)} bytes")
    return ImageSignature(_single_certificate(pem), algorithm, value, payload, protected, raw)


def check(signature: ImageSignature, pcr0: bytes, now: datetime) -> tuple[SignatureFailure, ...]:
    """Check a signature against the image's own PCR0; return every reason against it, none when it holds.

    ``now`` is aware; the certificate must be in date at that time.
    """
    failures = list(_check_certificate(signature.certificate, now))
    if signature.register_value != pcr0:
        failures.append(
            SignatureFailure("signature-pcr0", "it signs another PCR0: " + signature.register_value.hex())
        )
    try:
        algorithm = algorithm_of(signature.certificate)
    except SigningError as error:
        return (*failures, SignatureFailure(error.code, error.what))
    if signature.algorithm != algorithm.cose:
        failures.append(
            SignatureFailure(
                "signature-algorithm",
                f"COSE algorithm {signature.algorithm} with a key for {algorithm.name} ({algorithm.cose})",
            )
        )
    elif not _verifies(signature, algorithm):
        failures.append(SignatureFailure("signature-invalid", "it was not made by the certificate's key"))
    return tuple(failures)


def _check_certificate(certificate: x509.Certificate, now: datetime) -> list[SignatureFailure]:
    failures = []
    if now < certificate.not_valid_before_utc:
        failures.append(
            SignatureFailure(
                "certificate-not-yet-valid",
                f"the certificate is valid from {certificate.not_valid_before_utc}",
            )
        )
    if now > certificate.not_valid_after_utc:
        failures.append(
            SignatureFailure(
                "certificate-expired", f"the certificate expired at {certificate.not_valid_after_utc}"
            )
        )
    return failures


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
    """The algorithm that goes with the certificate's key: the key decides, never the signature.

    Raises SigningError for a key that is not on P-256, P-384 or P-521 (RFC 9053, section 2.1).
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(f"the certificate's key is not usable: {error}", code="certificate-key") from None
    for algorithm in ALGORITHMS:
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, algorithm.curve):
            return algorithm
    raise SigningError("the certificate's key is not on P-256, P-384 or P-521", code="certificate-key")


def _single_certificate(pem: bytes) -> x509.Certificate:
    """The one certificate in ``pem``; anything around it would leave the choice to the reader."""
    with warnings.catch_warnings():
        # The library warns of odd serial numbers and names; AWS's tools and the hypervisor take them.
        warnings.simplefilter("ignore")
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            # Parsed on first use by the library: whoever uses them later should not meet an error.
            _ = certificate.subject, certificate.issuer
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except (ValueError, x509.InvalidVersion) as error:
            raise _malformed(f"its certificate does not parse: {error}") from None
    if certificate.public_bytes(Encoding.PEM) not in (pem, pem + b"\n"):
        raise _malformed("it carries more than one plain PEM certificate")
    return certificate


# ---------------------------------------------------------------------- signing

Sign = Callable[[bytes], bytes]
"""Signs bytes with the hash that goes with its key; returns the DER form of an ECDSA signature."""


def load_certificate(pem: bytes, *, where: str | None = None) -> x509.Certificate:
    """The one certificate of a PEM file. Raises SigningError when there is none, or more than one."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise SigningError(
            f"not a PEM certificate: {error}", where=where, code="certificate-malformed"
        ) from None
    if len(certificates) != 1:
        raise SigningError(
            f"{len(certificates)} certificates; give one", where=where, code="certificate-malformed"
        )
    return certificates[0]


def make_section(certificate: x509.Certificate, pcr0: bytes, sign: Sign, now: datetime) -> bytes:
    """A signature section's data for an image with this PCR0.

    Raises SigningError when the certificate is out of date, or when what ``sign`` returns does not verify
    with the certificate's key.
    """
    algorithm = algorithm_of(certificate)
    protected = _head(_MAP, 1) + _head(_UINT, 1) + _head(_NEGATIVE, -1 - algorithm.cose)
    payload = (
        _head(_MAP, 2)
        + _text("register_index")
        + _head(_UINT, 0)
        + _text("register_value")
        + _byte_array(pcr0)
    )
    try:
        r, s = decode_dss_signature(sign(_signed_bytes(protected, payload)))
        raw = r.to_bytes(algorithm.coordinate, "big") + s.to_bytes(algorithm.coordinate, "big")
    except (ValueError, OverflowError):
        raise SigningError("the signer returned no ECDSA signature of the certificate's curve") from None
    envelope = _head(_ARRAY, 4) + _byte_string(protected) + _head(_MAP, 0)
    envelope += _byte_string(payload) + _byte_string(raw)
    section = (
        _head(_ARRAY, 1)
        + _head(_MAP, 2)
        + (_text("signing_certificate") + _byte_array(certificate.public_bytes(Encoding.PEM)))
        + (_text("signature") + _byte_array(envelope))
    )
    failures = check(parse(section), pcr0, now)
    if failures:
        raise SigningError("; ".join(failure.detail for failure in failures), code=failures[0].code)
    return section


def _signed_bytes(protected: bytes, payload: bytes) -> bytes:
    """``Sig_structure`` of RFC 9052, section 4.4."""
    return (
        _head(_ARRAY, 4)
        + _text("Signature1")
        + _byte_string(protected)
        + _byte_string(b"")
        + _byte_string(payload)
    )


# ---------------------------------------------------------------------- the little CBOR there is


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    for code, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * width:
            return bytes([major << 5 | code]) + value.to_bytes(width, "big")
    raise ValueError(value)


def _text(value: str) -> bytes:
    return _head(_TEXT, len(value)) + value.encode("ascii")


def _byte_string(value: bytes) -> bytes:
    return _head(_BYTES, len(value)) + value


def _byte_array(value: bytes) -> bytes:
    return _head(_ARRAY, len(value)) + b"".join(_head(_UINT, byte) for byte in value)


class _Reader:
    """Reads items that are known beforehand; every integer must be in its shortest form."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        piece = self._data[self._position : self._position + size]
        if len(piece) < size:
            raise _malformed("it ends too early")
        self._position += size
        return piece

    def head(self, major: int) -> int:
        initial = self.take(1)[0]
        value = initial & 31
        if initial >> 5 != major or value > 27:
            raise _malformed(f"unexpected CBOR item {initial:#04x} at {self._position - 1}")
        if value >= 24:
            value = int.from_bytes(self.take(1 << (value - 24)), "big")
        if self._data[self._position - len(_head(major, value)) : self._position] != _head(major, value):
            raise _malformed(f"a CBOR integer that is not in its shortest form before {self._position}")
        return value

    def expect(self, major: int, value: int) -> None:
        if (found := self.head(major)) != value:
            raise _malformed(f"{found} where {value} belongs")

    def expect_text(self, value: str) -> None:
        self.expect(_TEXT, len(value))
        if self.take(len(value)) != value.encode("ascii"):
            raise _malformed(f"no {value} where it belongs")

    def byte_string(self) -> bytes:
        return self.take(self.head(_BYTES))

    def byte_array(self, limit: int) -> bytes:
        length = self.head(_ARRAY)
        if length > limit:
            raise _malformed(f"an array of {length} where {limit} is the most")
        values = [self.head(_UINT) for _ in range(length)]
        if any(value > 255 for value in values):
            raise _malformed("an integer that is not a byte")
        return bytes(values)

    def finish(self) -> None:
        if self._position != len(self._data):
            raise _malformed("something follows it")


def _malformed(what: str) -> ImageError:
    return ImageError(f"the signature section is not AWS's encoding: {what}", code="eif-signature")
