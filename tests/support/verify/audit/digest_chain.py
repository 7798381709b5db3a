"""CloudTrail's digest files as it makes them, below a key of the tests' own."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime, timedelta, timezone

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from coattest_verify.audit.digests import DigestFile, public_keys

SIGNER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PKCS1 = SIGNER.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
LOGS = {f"logs/{hour}.json.gz": json.dumps({"Records": [], "hour": hour}).encode() for hour in range(3)}
START = datetime(2026, 11, 23, 10, tzinfo=timezone.utc)


def chain(region: str = "eu-central-1") -> list[DigestFile]:
    """Three hourly digests of a Region, signed and linked as CloudTrail does it."""
    made: list[DigestFile] = []
    for hour in range(3):
        previous = made[-1] if made else None
        log = f"logs/{hour}.json.gz"
        name = f"222233334444_CloudTrail-Digest_{region}_trail_eu-central-1_20261123T{hour + 11}0000Z.json.gz"
        path = f"CloudTrail-Digest/{region}/{name}"
        end = (START + timedelta(hours=hour + 1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        content = json.dumps(
            {
                "digestStartTime": (START + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "digestEndTime": end,
                "digestS3Bucket": "trail",
                "digestS3Object": path,
                "digestPublicKeyFingerprint": "f1",
                "previousDigestSignature": previous.signature if previous else None,
                "previousDigestHashValue": hashlib.sha256(previous.content).hexdigest() if previous else None,
                "logFiles": [
                    {"s3Bucket": "trail", "s3Object": log, "hashValue": hashlib.sha256(LOGS[log]).hexdigest()}
                ],
            }
        ).encode()
        signed = "\n".join(
            [
                end,
                f"trail/{path}",
                hashlib.sha256(content).hexdigest(),
                previous.signature if previous else "null",
            ]
        )
        signature = SIGNER.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()).hex()
        made.append(DigestFile(content, signature, path))
    return made


KEYS = public_keys({"PublicKeyList": [{"Fingerprint": "f1", "Value": base64.b64encode(PKCS1).decode()}]})
