"""Every bound of the verifier, with its source.

PROCESS is AWS's "Nitro Enclaves Attestation Process" (aws-nitro-enclaves-nsm-api,
docs/attestation_process.md). Where real documents exceed the text, the bound follows the documents and
says so.
"""

from __future__ import annotations

from typing import Final

PAYLOAD_MAX: Final = 16_384
"""Bytes of the signed payload. PROCESS section 3.1: ``bstr .size (1..16384)``."""

SIGNATURE_SIZE: Final = 96
"""Bytes of a signature, r || s of 48 each. RFC 9053 section 2.1 for a P-384 key."""

DOCUMENT_MAX: Final = PAYLOAD_MAX + SIGNATURE_SIZE + 13
"""Bytes of a document: payload, signature, and at most 13 bytes of COSE around them
(tag 18, array head, protected header, empty map, two byte string heads)."""

CERTIFICATE_MAX: Final = 1024
"""Bytes of one certificate. PROCESS section 2.2: ``cert = bytes .size (1..1024)``."""

BUNDLE_MAX: Final = 8
"""Certificates of cabundle. PROCESS names no maximum; all known documents have 4, and AWS's path
lengths allow no more than 4. The bound keeps the number of signature checks small."""

PCR_COUNT_MAX: Final = 32
"""Registers of a document. PROCESS section 3.2.2.2: 1 to 32 entries, indices 0 to 31."""

PCR_SIZES: Final = (32, 48, 64)
"""Bytes of a register. PROCESS section 2.2: ``pcr = bytes .size (32/48/64)``."""

PCR_SIZE_SHA384: Final = 48
"""Bytes of a SHA-384 register: the only size seen, and the only one that fits digest "SHA384"."""

SHA256_SIZE: Final = 32
"""Bytes of a SHA-256: a document's and a root certificate's. FIPS 180-4."""

PUBLIC_KEY_MAX: Final = 1024
"""Bytes of public_key. PROCESS section 3.2.2.2: 1 to 1024; one real document (2021) has 0."""

USER_DATA_MAX: Final = 1024
"""Bytes of user_data and of nonce. PROCESS section 2.2 says 1024, section 3.2.2.2 says 512; real
documents reach 746, so section 2.2 is the one that holds."""

UNKNOWN_SHOWN_MAX: Final = 16
"""Unknown fields that a verdict names; more are counted. A payload has room for thousands, AWS adds one."""

TIMESTAMP_MAX_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: the last one that can be shown as a date."""

DEPTH_MAX: Final = 8
"""Nested collections. A document needs 2 (payload, pcrs); the rest is for a field AWS may add."""

SKEW_MAX_MS: Final = 300_000
"""The largest clock difference that MaxAge can be told to tolerate: 5 minutes, as AWS does in requests."""
