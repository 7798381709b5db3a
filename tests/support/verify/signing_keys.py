"""Keys, self-signed certificates and signing functions, as ``eif sign`` takes them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coattest_build.formats import signature

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
PCR0 = bytes(range(48))
Key = ec.EllipticCurvePrivateKey


def certify(key: Any, *, start: datetime = NOW - timedelta(days=1), days: int = 365) -> x509.Certificate:
    """A certificate of a key by the key itself, valid from ``start`` on; in date at NOW by default."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .sign(key, hashes.SHA384())
    )


def pem(certificate: x509.Certificate) -> bytes:
    """The certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def signer(key: Key, digest: hashes.HashAlgorithm | None = None) -> signature.Sign:
    """A signing function on a key."""
    return lambda data: key.sign(data, ec.ECDSA(digest or hashes.SHA384()))
