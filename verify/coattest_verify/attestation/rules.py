"""Every rule that a document can break: its code, and the public source that asks for it.

What each code means is in ``coattest.codes``.
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
TOO_LARGE: Final = Rule("too-large", f"{PROCESS} section 3.1: payload of 1 to 16384 bytes")
BAD_ENVELOPE: Final = Rule("envelope", f"{PROCESS} section 3.1; {RFC_COSE} section 4.2")
BAD_ALGORITHM: Final = Rule("algorithm", f"{PROCESS} section 3.1: protected header {{1: -35}} (ES384)")
BAD_FIELD: Final = Rule("field", f"{PROCESS} sections 2.2 and 3.2.2")
UNKNOWN_FIELD: Final = Rule("unknown-field", f"{PROCESS} section 3.2.2.1; strict mode")
LOOSE_FIELD: Final = Rule("loose-field", f"{PROCESS} section 3.2.2.2; strict mode")
NITRO_TPM: Final = Rule(
    "nitro-tpm", "EC2 User Guide, NitroTPM attestation documents: nitrotpm_pcrs, module_id with -tpm"
)
BAD_CERTIFICATE: Final = Rule(
    "certificate", f"{PROCESS} section 3.2.3; {RFC_X509} sections 4.1, 4.2 and 6.1; P-384 with SHA-384 only"
)
OUT_OF_DATE: Final = Rule("certificate-dates", f"{PROCESS} section 3.2.3.1: every certificate, the root too")
UNTRUSTED_ROOT: Final = Rule(
    "root", f"{PROCESS} section 3.2.3: the root is the verifier's own; pinned by SHA-256 of its DER"
)
BROKEN_CHAIN: Final = Rule("chain", f"{PROCESS} section 3.2.3; {RFC_X509} section 6.1.3")
BAD_SIGNATURE: Final = Rule("signature", f"{RFC_COSE} section 4.4; RFC 9053 section 2.1 (ES384)")
DEBUG_MODE: Final = Rule(
    "debug-mode", "Nitro Enclaves User Guide, attestation: PCR0, PCR1 and PCR2 of a debug enclave are zeros"
)
NOT_DEBUG_MODE: Final = Rule("not-debug-mode", CALLER)
FUTURE_TIMESTAMP: Final = Rule("future-timestamp", f"{PROCESS} section 2.2: timestamp is UTC in milliseconds")
TIMESTAMP_OUTSIDE_LEAF: Final = Rule(
    "timestamp-outside-certificate",
    "every known document is made within its certificate's life; seconds read as milliseconds are not",
)
TOO_OLD: Final = Rule("too-old", CALLER)
NOT_IN_ARCHIVE: Final = Rule("index", CALLER)
WRONG_DOCUMENT: Final = Rule("document-digest", CALLER)
WRONG_MEASUREMENT: Final = Rule("measurement", CALLER)
WRONG_NONCE: Final = Rule("nonce", CALLER)
WRONG_USER_DATA: Final = Rule("user-data", CALLER)
WRONG_PUBLIC_KEY: Final = Rule("public-key", CALLER)
WRONG_MODULE: Final = Rule("module-id", CALLER)


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
