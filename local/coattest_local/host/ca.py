"""The two certificate authorities of the local profile. Neither protects anything: their keys are published.

Each private key is derived from a phrase in this file: there is no key file that somebody could mistake for a
secret, and everybody gets the same certificates:

* the TLS authority, which the ``local`` profile of the enclave trusts for KMS (enclave/profiles/local-ca.pem
  is its certificate, measured into the local image, and a test derives it again);
* the simulator's Nitro root, below which ``issue_chain`` makes chains like those of AWS.

Form and life times of AWS's chain are taken from real documents of 2021 to 2026 (root, regional 20 days,
zonal 6 days, instance 24 hours, leaf 3 hours; path lengths none, 2, 1, 0; P-384 with SHA-384 throughout).
Only the names say SIMULATOR.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TLS_CA_PHRASE = "coattest local TLS authority, 2026. This key is published: it protects nothing."
NITRO_ROOT_PHRASE = "coattest simulated Nitro root, 2026. This key is published: it attests nothing."

NOT_BEFORE = datetime(2025, 1, 1, tzinfo=timezone.utc)
NOT_AFTER = datetime(2049, 12, 31, tzinfo=timezone.utc)

# SEC 2 (version 2.0), section 2.5.1: the order of the base point of secp384r1.
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)

# If somebody trusts the published authority by mistake, it can still vouch for these names only.
LOCAL_NAMES: tuple[x509.GeneralName, ...] = (
    x509.DNSName("coattest.test"),
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")),
    x509.IPAddress(ipaddress.ip_network("::1/128")),
)

SERVER_LIFE = timedelta(days=30)
# For clocks that differ a little: real leaves, too, begin shortly before their first document.
BACKDATED = timedelta(minutes=1)
REGIONAL_LIFE = timedelta(days=20)
ZONAL_LIFE = timedelta(days=6)
INSTANCE_LIFE = timedelta(hours=24)
LEAF_LIFE = timedelta(hours=3)
RENEW_BEFORE = timedelta(hours=1)


@functools.cache
def tls_ca() -> tuple[x509.Certificate, ed25519.Ed25519PrivateKey]:
    """The TLS authority: the same certificate bytes everywhere (Ed25519 signatures have no randomness)."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(TLS_CA_PHRASE.encode()).digest())
    name = _name("coattest local TLS authority: PUBLISHED KEY, protects nothing")
    builder = (
        _builder(name, name, key.public_key(), NOT_BEFORE, NOT_AFTER, serial=1)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.NameConstraints(LOCAL_NAMES, excluded_subtrees=None), critical=True)
    )
    return builder.sign(key, None), key


def tls_ca_pem() -> bytes:
    """The TLS authority's certificate in PEM: the bytes of enclave/profiles/local-ca.pem."""
    return tls_ca()[0].public_bytes(serialization.Encoding.PEM)


def issue_server_certificate(names: Sequence[str]) -> tuple[bytes, bytes]:
    """A server certificate for DNS names (wildcards too) and IP addresses, valid 30 days from now.

    Returns (certificate, key), both PEM; the key is a fresh P-256 key in PKCS#8, unencrypted.
    """
    authority, authority_key = tls_ca()
    moment = datetime.now(timezone.utc)
    key = ec.generate_private_key(ec.SECP256R1())
    starts, ends = max(moment - BACKDATED, NOT_BEFORE), min(moment + SERVER_LIFE, NOT_AFTER)
    certificate = (
        _builder(_name("coattest local server"), authority.subject, key.public_key(), starts, ends)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signatures=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_identifier(authority), critical=False)
        .sign(authority_key, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _private_pem(key)


@functools.cache
def nitro_root() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The simulator's Nitro root: a P-384 certificate with the same bytes everywhere (RFC 6979 signature)."""
    digest = hashlib.sha512(NITRO_ROOT_PHRASE.encode()).digest()
    key = ec.derive_private_key(int.from_bytes(digest, "big") % (P384_ORDER - 1) + 1, ec.SECP384R1())
    name = _name("coattest.nitro-enclaves SIMULATOR root")
    builder = _builder(name, name, key.public_key(), NOT_BEFORE, NOT_AFTER, serial=1)
    return _as_authority(builder, key.public_key(), None).sign(
        key, hashes.SHA384(), ecdsa_deterministic=True
    ), key


@dataclass(frozen=True, slots=True)
class IssuedChain:
    """A chain that signs documents: the leaf's key, its certificate, the bundle from root to issuer (DER)."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    bundle: tuple[bytes, ...]
    not_after: datetime


def issue_chain(module_id: str, now: datetime) -> IssuedChain:
    """A fresh chain for one enclave below the simulator's root, as AWS issues them below its own: each
    certificate but the root is valid from a minute before ``now``.
    """
    root, root_key = nitro_root()
    suffix = "eu-central-1.coattest.nitro-enclaves SIMULATOR"
    instance_id = module_id.rpartition("-enc")[0] or module_id
    certificates, issuer, issuer_key = [root], root, root_key
    for label, life, path_length in (
        (f"{secrets.token_hex(8)}.{suffix}", REGIONAL_LIFE, 2),
        (f"{secrets.token_hex(8)}.zonal.{suffix}", ZONAL_LIFE, 1),
        (f"{instance_id}.{suffix}", INSTANCE_LIFE, 0),
    ):
        key = ec.generate_private_key(ec.SECP384R1())
        public = key.public_key()
        builder = _builder(_name(label), issuer.subject, public, now - BACKDATED, now + life)
        builder = _as_authority(builder, public, path_length)
        builder = builder.add_extension(_authority_identifier(issuer), critical=False)
        issuer = builder.sign(issuer_key, hashes.SHA384())
        certificates.append(issuer)
        issuer_key = key
    key = ec.generate_private_key(ec.SECP384R1())
    # As on Nitro: no key identifiers in the leaf, and its key usage is not critical.
    subject = _name(f"{module_id}.{suffix}")
    leaf = (
        _builder(subject, issuer.subject, key.public_key(), now - BACKDATED, now + LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signatures=True), critical=False)
        .sign(issuer_key, hashes.SHA384())
    )
    der = serialization.Encoding.DER
    bundle = tuple(certificate.public_bytes(der) for certificate in certificates)
    return IssuedChain(key, leaf.public_bytes(der), bundle, leaf.not_valid_after_utc)


def current_chain(chain: IssuedChain | None, module_id: str, now: datetime) -> IssuedChain:
    """The enclave's chain, or a fresh one where there is none or it ends soon."""
    if chain is not None and chain.not_after - now >= RENEW_BEFORE:
        return chain
    return issue_chain(module_id, now)


def _builder(  # noqa: PLR0917 - in the order of a certificate's fields
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
    starts: datetime,
    ends: datetime,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
    )


def _as_authority(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePublicKey, path_length: int | None
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(certificates=True, signatures=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "coattest"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "SIMULATOR"),
            # RFC 5280's ub-common-name is 64 characters; a module id with a region can be longer.
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def _usage(*, certificates: bool = False, signatures: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signatures,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    subject = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
