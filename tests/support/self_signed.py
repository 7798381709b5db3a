"""Self-signed certificates, as ``eif sign`` takes them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID


def self_signed(key: Any, start: datetime, days: int = 365) -> x509.Certificate:
    """A certificate of a key by the key itself, valid from ``start`` on."""
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
