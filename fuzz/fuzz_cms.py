"""Coverage-guided fuzzing of the parser of CiphertextForRecipient: one error type, and no second reading.

    python fuzz/fuzz_cms.py [--seconds 300] [CORPUS]

Whatever the parser accepts, asn1crypto (strict) must read to the same parts. Decryption with a key that the
envelope may or may not be for raises MessageError and nothing else. Needs atheris and asn1crypto.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("enclave", "local", "tests")]

import atheris

with atheris.instrument_imports(include=["coattest_enclave"]):
    from coattest_enclave.payload import cms
    from coattest_enclave.protocol.errors import MessageError

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from libfuzzer import fuzz

from support.enclave.fake_kms import make_envelope
from support.verify.cms_oracle import by_asn1crypto

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
VECTORS = sorted((ROOT.parent / "shared" / "vectors" / "kms").glob("*.ber"))


def one(data: bytes) -> None:
    """One input: any exception but the documented one, and any other reading of it, is a finding."""
    try:
        envelope = cms.parse_enveloped(data)
    except MessageError:
        return
    if envelope != by_asn1crypto(data):
        raise AssertionError("asn1crypto reads it otherwise")
    with contextlib.suppress(MessageError):
        cms.decrypt(data, KEY)


def main() -> None:
    """Seeds: an envelope in each shape, and KMS's own where they are there."""
    seeds = {
        f"{name}-{size}": make_envelope(bytes(size), KEY.public_key(), SPKI, primitive=name == "primitive")
        for name in ("primitive", "chunked")
        for size in (32, 2048)
    }
    seeds |= {path.stem: path.read_bytes() for path in VECTORS}
    fuzz(one, seeds, __doc__.splitlines()[0])


if __name__ == "__main__":
    main()
