"""Keys and signatures of the vectors, none of them random: a second run writes the same files."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest_enclave.protocol import canonical, cose

RELEASE = bytes(range(32))
IMAGE = bytes(range(48))
"""PCR0 of the image that opens the vectors' auctions."""


def private_key(number: int) -> ec.EllipticCurvePrivateKey:
    """The vectors' private keys are the scalars 1, 2, ..: nobody could mistake them for keys in use."""
    return ec.derive_private_key(number, ec.SECP384R1())


def spki(number: int) -> bytes:
    """SPKI DER of the public key to that private key."""
    return private_key(number).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign1(payload: bytes, number: int, kid: bytes) -> bytes:
    """COSE_Sign1 with a deterministic signature."""
    to_sign = canonical.dumps(["Signature1", cose.ES384, b"", payload])
    r, s = decode_dss_signature(
        private_key(number).sign(to_sign, ec.ECDSA(SHA384(), deterministic_signing=True))
    )
    signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    return b"\xd2" + canonical.dumps([cose.ES384, {4: kid}, payload, signature])
