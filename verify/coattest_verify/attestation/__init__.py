"""Verification of AWS Nitro Enclaves attestation documents: strict, fast, and with every finding.

>>> verdict = verify_document(document, [ExpectPcrs({0: pcr0, 1: pcr1, 2: pcr2}), ExpectNonce(nonce)],
now=now)
>>> verdict.document.user_data # raises NotVerified, with every finding, unless all checks passed

Needs the standard library, cryptography, and coattest.errors. See docs/attestation.md for the table
of checks.
"""

from __future__ import annotations

from coattest.findings import Finding
from coattest_verify.attestation.chain import ChainCache
from coattest_verify.attestation.document import Document
from coattest_verify.attestation.expectations import (
    ExpectAnyPcrs,
    Expectation,
    ExpectDocument,
    ExpectModule,
    ExpectNonce,
    ExpectPcrs,
    ExpectPublicKey,
    ExpectUserData,
    MaxAge,
    UnsafeAllowDebug,
    UnsafeAnyMeasurement,
    UnsafeExpectDebug,
)
from coattest_verify.attestation.root import AWS_NITRO, Root
from coattest_verify.attestation.rules import (
    Malformed,
    NotVerified,
)
from coattest_verify.attestation.verdict import Verdict
from coattest_verify.attestation.verify import parse_unverified, verify_document, verify_many

__all__ = [
    "AWS_NITRO",
    "ChainCache",
    "Document",
    "ExpectAnyPcrs",
    "ExpectDocument",
    "ExpectModule",
    "ExpectNonce",
    "ExpectPcrs",
    "ExpectPublicKey",
    "ExpectUserData",
    "Expectation",
    "Finding",
    "Malformed",
    "MaxAge",
    "NotVerified",
    "Root",
    "UnsafeAllowDebug",
    "UnsafeAnyMeasurement",
    "UnsafeExpectDebug",
    "Verdict",
    "parse_unverified",
    "verify_document",
    "verify_many",
]
