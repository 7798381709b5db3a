"""The Recipient of a request: an attestation document, verified as KMS does, and the answer encrypted to it.

Sources: KMS API Reference, "RecipientInfo" (one algorithm; 1 to 262144 bytes); KMS Developer Guide,
"Condition keys for Nitro Enclaves" (which values the condition keys have); AWS Nitro Enclaves SDK for C,
"RecipientRequest" (an RSA public key as DER SubjectPublicKeyInfo in the document).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from coattest.errors import CoattestError
from coattest_local.aws.http import ServiceError
from coattest_local.aws.kms import cms
from coattest_verify.attestation import (
    Document,
    Expectation,
    MaxAge,
    Root,
    UnsafeAllowDebug,
    UnsafeAnyMeasurement,
    verify_document,
)

MAX_AGE_MS = 5 * 60 * 1000
"""Older documents are refused. AWS publishes no number: five minutes, SigV4's tolerance, is an assumption
(docs/emulation.md).
"""

MAX_DOCUMENT = 262144
ALGORITHM = "RSAES_OAEP_SHA_256"
RSA_SIZES = (2048, 3072, 4096)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A verified recipient."""

    document: Document
    public_key: bytes

    def context(self) -> dict[str, tuple[str, ...]]:
        """The condition keys of the document: every register in lower-case hex, PCR0 also as ImageSha384."""
        pcrs = {index: (value.hex(),) for index, value in self.document.pcrs.items()}
        keys: dict[str, tuple[str, ...]] = {
            f"kms:RecipientAttestation:PCR{index}": value for index, value in pcrs.items()
        }
        if 0 in pcrs:
            keys["kms:RecipientAttestation:ImageSha384"] = pcrs[0]
        return keys

    def encrypt(self, plaintext: bytes) -> bytes:
        """CiphertextForRecipient."""
        return cms.envelop(plaintext, self.public_key)


def read_recipient(parameters: Mapping[str, Any], *, now: datetime, root: Root) -> Recipient | None:
    """The verified Recipient of a request, or None when it has none.

    Raises ServiceError (ValidationException).
    """
    raw = parameters.get("Recipient")
    if raw is None:
        return None
    if not isinstance(raw, dict) or raw.get("KeyEncryptionAlgorithm") != ALGORITHM:
        raise ServiceError("ValidationException", f"Recipient.KeyEncryptionAlgorithm must be {ALGORITHM}")
    try:
        document = base64.b64decode(raw.get("AttestationDocument", ""), validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ServiceError("ValidationException", "Recipient.AttestationDocument is not base64") from error
    if not 1 <= len(document) <= MAX_DOCUMENT:
        raise ServiceError("ValidationException", "Recipient.AttestationDocument has 1 to 262144 bytes")
    verified = _verified(document, now, root)
    return Recipient(verified, _public_key(verified))


def _verified(document: bytes, now: datetime, root: Root) -> Document:
    # Measurements and debug mode are for the key policy to judge, as on AWS.
    expectations: list[Expectation] = [MaxAge(MAX_AGE_MS), UnsafeAnyMeasurement(), UnsafeAllowDebug()]
    try:
        verdict = verify_document(document, expectations, now=now, root=root)
        if verdict.ok:
            return verdict.document
        reasons = ", ".join(finding.code for finding in verdict.findings)
    except CoattestError as error:
        reasons = error.code
    raise ServiceError("ValidationException", f"The attestation document is not valid: {reasons}")


def _public_key(document: Document) -> bytes:
    try:
        key = serialization.load_der_public_key(document.public_key or b"")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ServiceError(
            "ValidationException", "The attestation document has no usable public key"
        ) from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in RSA_SIZES:
        raise ServiceError(
            "ValidationException", "The attestation document's public key is not RSA 2048, 3072 or 4096"
        )
    return document.public_key or b""
