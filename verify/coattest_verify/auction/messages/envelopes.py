"""What buyers write in COSE: their seals and bid files. The enclave only reads them (``protocol.cose``)."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384

from coattest_enclave.protocol import canonical, cose
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.fields import byte_string


def sign1(payload: bytes, key: ec.EllipticCurvePrivateKey, kid: bytes) -> bytes:
    """A tagged COSE_Sign1 (ES384) over ``payload``, ``kid`` unprotected; ``key`` is P-384.

    Raises MessageError for a key of another curve.
    """
    if not isinstance(key.curve, ec.SECP384R1):
        raise MessageError("not a P-384 key")
    r, s = decode_dss_signature(key.sign(cose.sig_structure(payload), ec.ECDSA(SHA384())))
    signature = r.to_bytes(cose.COORDINATE, "big") + s.to_bytes(cose.COORDINATE, "big")
    return bytes([cose.TAG_SIGN1]) + canonical.dumps([cose.ES384, {4: kid}, payload, signature])


def encrypt0(
    plaintext: bytes, data_key: bytes, *, wrapped_key: bytes, external_aad: bytes, iv: bytes | None = None
) -> bytes:
    """A tagged COSE_Encrypt0 (A256GCM) that carries ``wrapped_key``; ``iv`` is for test vectors only.

    Raises MessageError for a data key, wrapped key or iv of another size.
    """
    if len(data_key) != cose.KEY_SIZE:
        raise MessageError("the data key is not 32 bytes")
    nonce = os.urandom(cose.IV_SIZE) if iv is None else byte_string(iv, cose.IV_SIZE, cose.IV_SIZE, "iv")
    ciphertext = AESGCM(data_key).encrypt(nonce, plaintext, cose.enc_structure(external_aad))
    header = {
        5: nonce,
        cose.WRAPPED_KEY: byte_string(wrapped_key, 1, cose.WRAPPED_KEY_MAX, "wrapped key"),
        cose.COMMITMENT: cose.commitment_of(data_key),
    }
    return bytes([cose.TAG_ENCRYPT0]) + canonical.dumps([cose.A256GCM, header, ciphertext])
