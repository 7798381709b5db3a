"""Every rule that a document can break: its code, and the public source that asks for it.

``RULE.finding(where, expected, found)`` is what a verdict carries for one that is broken. The code is
stable: it is what ``--json`` shows and what a program should look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coattest.codes import require
from coattest.errors import FoundFalse, UsageError
from coattest.findings import Finding

PROCESS: Final = "AWS Nitro Enclaves Attestation Process"
RFC_CBOR: Final = "RFC 8949"
RFC_COSE: Final = "RFC 9052"
RFC_X509: Final = "RFC 5280"
CALLER: Final = "the caller's expectation"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: the code of its findings (``coattest.codes``), and its public source."""

    code: str
    source: str

    def __post_init__(self) -> None:
        require(self.code)

    def finding(self, where: str, expected: str, found: str) -> Finding:
        """The finding that the rule is broken: ``where`` is the field; the values are text, bytes in hex."""
        detail = f"expected {expected}, found {found}"
        return Finding(self.code, where, detail, expected, found, self.source)


MALFORMED_CBOR: Final = Rule(
    "malformed-cbor",
    f"{RFC_CBOR}; strict subset: minimal heads, no tags, no duplicate keys, nothing after the end",
)
"""The bytes are not the CBOR a document is made of."""

TOO_LARGE: Final = Rule("too-large", f"{PROCESS} section 3.1: payload of 1 to 16384 bytes")
"""More bytes than any document can have."""

BAD_ENVELOPE: Final = Rule("envelope", f"{PROCESS} section 3.1; {RFC_COSE} section 4.2")
"""Not a COSE_Sign1 of the one shape that attestation documents have."""

BAD_ALGORITHM: Final = Rule("algorithm", f"{PROCESS} section 3.1: protected header {{1: -35}} (ES384)")
"""The protected header is not exactly {1: -35}: the algorithm is never taken from the document."""

BAD_FIELD: Final = Rule("field", f"{PROCESS} sections 2.2 and 3.2.2")
"""A field is missing, of the wrong type, or out of bounds."""

UNKNOWN_FIELD: Final = Rule("unknown-field", f"{PROCESS} section 3.2.2.1; strict mode")
"""A field that the specification does not name (a notice unless strict)."""

LOOSE_FIELD: Final = Rule("loose-field", f"{PROCESS} section 3.2.2.2; strict mode")
"""A field that is read, though it is not as the specification has it (a notice unless strict)."""

NITRO_TPM: Final = Rule(
    "nitro-tpm", "EC2 User Guide, NitroTPM attestation documents: nitrotpm_pcrs, module_id with -tpm"
)
"""A NitroTPM attestation: same root, same chain, but of an EC2 instance and not of an enclave."""

BAD_CERTIFICATE: Final = Rule(
    "certificate", f"{PROCESS} section 3.2.3; {RFC_X509} sections 4.1, 4.2 and 6.1; P-384 with SHA-384 only"
)
"""A certificate does not parse, or its key, algorithm or extensions do not fit its place in the chain."""

OUT_OF_DATE: Final = Rule("certificate-dates", f"{PROCESS} section 3.2.3.1: every certificate, the root too")
"""A certificate of the chain is not in date at the time of verification."""

UNTRUSTED_ROOT: Final = Rule(
    "root", f"{PROCESS} section 3.2.3: the root is the verifier's own; pinned by SHA-256 of its DER"
)
"""The chain does not begin at the pinned root."""

BROKEN_CHAIN: Final = Rule("chain", f"{PROCESS} section 3.2.3; {RFC_X509} section 6.1.3")
"""A certificate was not issued by the one before it."""

BAD_SIGNATURE: Final = Rule("signature", f"{RFC_COSE} section 4.4; RFC 9053 section 2.1 (ES384)")
"""The COSE signature does not verify with the key of the document's own certificate."""

DEBUG_MODE: Final = Rule(
    "debug-mode", "Nitro Enclaves User Guide, attestation: PCR0, PCR1 and PCR2 of a debug enclave are zeros"
)
"""The enclave runs in debug mode, or the document cannot show that it does not."""

NOT_DEBUG_MODE: Final = Rule("not-debug-mode", CALLER)
"""The enclave does not run in debug mode, and the caller expects it to."""

FUTURE_TIMESTAMP: Final = Rule("future-timestamp", f"{PROCESS} section 2.2: timestamp is UTC in milliseconds")
"""The document was made after the time of verification."""

TIMESTAMP_OUTSIDE_LEAF: Final = Rule(
    "timestamp-outside-certificate",
    "every known document is made within its certificate's life; seconds read as milliseconds are not",
)
"""The document was made when its own certificate was not valid."""

TOO_OLD: Final = Rule("too-old", CALLER)
"""The document is older than the caller allows."""

NOT_IN_ARCHIVE: Final = Rule("index", CALLER)
"""A file is in an archive's index and not in the archive, or the other way round."""

WRONG_DOCUMENT: Final = Rule("document-digest", CALLER)
"""The bytes are not those of the document that the caller named."""

WRONG_MEASUREMENT: Final = Rule("measurement", CALLER)
"""A register does not have the expected value, or is absent."""

WRONG_NONCE: Final = Rule("nonce", CALLER)
"""The nonce is not the expected one."""

WRONG_USER_DATA: Final = Rule("user-data", CALLER)
"""user_data is not the expected one."""

WRONG_PUBLIC_KEY: Final = Rule("public-key", CALLER)
"""public_key is not the expected one."""

WRONG_MODULE: Final = Rule("module-id", CALLER)
"""module_id is not the expected one."""


class Malformed(FoundFalse):
    """What parse_unverified raises: the data is not a valid attestation document. ``findings`` says why."""

    default_code = "malformed-document"

    def __init__(self, *findings: Finding) -> None:
        super().__init__(
            "; ".join(map(str, findings)),
            where="attestation document",
            hint="it is not an attestation document of a Nitro enclave, or was changed on its way",
            findings=findings,
        )


class NotVerified(FoundFalse):
    """Raised when the document of a verdict that did not pass is asked for. ``findings`` says why."""

    default_code = "not-verified"

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(map(str, findings)), where="attestation document", findings=findings)


def bad_expectation(what: str, *, where: str | None = None, hint: str | None = None) -> UsageError:
    """The error for an expectation, a time or another argument that makes no sense."""
    return UsageError(what, where=where, hint=hint, code="bad-expectation")
