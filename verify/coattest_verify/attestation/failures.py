"""Every way in which a document can fail, one small type each.

A failure says which field it is about, what was expected, what was found, and which rule asks for it. A
verdict carries all of them. ``code`` is stable: it is what ``--json`` shows and what a program should look
at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from coattest.errors import CoattestError, FoundFalse, UsageError

PROCESS: Final = "AWS Nitro Enclaves Attestation Process"
RFC_CBOR: Final = "RFC 8949"
RFC_COSE: Final = "RFC 9052"
RFC_X509: Final = "RFC 5280"
CALLER: Final = "the caller's expectation"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed check: the field, what was expected and found (as text, values in hex), and the rule's
    source.
    """

    code: ClassVar[str] = "failure"
    rule: ClassVar[str] = ""

    field: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, found {self.found} [{self.code}; {self.rule}]"

    def to_json(self) -> dict[str, str]:
        """The failure as one flat object: code, field, expected, found, rule."""
        return {
            "code": self.code,
            "field": self.field,
            "expected": self.expected,
            "found": self.found,
            "rule": self.rule,
        }


class MalformedCbor(Failure):
    """The bytes are not the CBOR a document is made of."""

    __slots__ = ()
    code = "malformed-cbor"
    rule = f"{RFC_CBOR}; strict subset: minimal heads, no tags, no duplicate keys, nothing after the end"


class DocumentTooLarge(Failure):
    """More bytes than any document can have."""

    __slots__ = ()
    code = "too-large"
    rule = f"{PROCESS} section 3.1: payload of 1 to 16384 bytes"


class BadEnvelope(Failure):
    """Not a COSE_Sign1 of the one shape that attestation documents have."""

    __slots__ = ()
    code = "envelope"
    rule = f"{PROCESS} section 3.1; {RFC_COSE} section 4.2"


class BadAlgorithm(Failure):
    """The protected header is not exactly {1: -35}: the algorithm is never taken from the document."""

    __slots__ = ()
    code = "algorithm"
    rule = f"{PROCESS} section 3.1: protected header {{1: -35}} (ES384)"


class BadField(Failure):
    """A field is missing, of the wrong type, or out of bounds."""

    __slots__ = ()
    code = "field"
    rule = f"{PROCESS} sections 2.2 and 3.2.2"


class UnknownField(Failure):
    """A field that the specification does not name (a failure in strict mode only)."""

    __slots__ = ()
    code = "unknown-field"
    rule = f"{PROCESS} section 3.2.2.1; strict mode"


class LooseField(Failure):
    """A field that is read but is not as the specification has it (a failure in strict mode only)."""

    __slots__ = ()
    code = "loose-field"
    rule = f"{PROCESS} section 3.2.2.2; strict mode"


class NitroTpmDocument(Failure):
    """A NitroTPM attestation: same root, same chain, but of an EC2 instance and not of an enclave."""

    __slots__ = ()
    code = "nitro-tpm"
    rule = "EC2 User Guide, NitroTPM attestation documents: nitrotpm_pcrs, module_id with -tpm"


class BadCertificate(Failure):
    """A certificate does not parse, or its keys, algorithms or extensions are not those of its place in the
    chain.
    """

    __slots__ = ()
    code = "certificate"
    rule = f"{PROCESS} section 3.2.3; {RFC_X509} sections 4.1, 4.2 and 6.1; P-384 with SHA-384 only"


class CertificateOutOfDate(Failure):
    """A certificate of the chain is not in date at the time of verification."""

    __slots__ = ()
    code = "certificate-dates"
    rule = f"{PROCESS} section 3.2.3.1: every certificate, the root too"


class UntrustedRoot(Failure):
    """The chain does not begin at the pinned root."""

    __slots__ = ()
    code = "root"
    rule = f"{PROCESS} section 3.2.3: the root is the verifier's own; pinned by SHA-256 of its DER"


class BrokenChain(Failure):
    """A certificate was not issued by the one before it."""

    __slots__ = ()
    code = "chain"
    rule = f"{PROCESS} section 3.2.3; {RFC_X509} section 6.1.3"


class BadSignature(Failure):
    """The COSE signature does not verify with the key of the document's own certificate."""

    __slots__ = ()
    code = "signature"
    rule = f"{RFC_COSE} section 4.4; RFC 9053 section 2.1 (ES384)"


class DebugDocument(Failure):
    """The enclave runs in debug mode, or the document cannot show that it does not."""

    __slots__ = ()
    code = "debug-mode"
    rule = "Nitro Enclaves User Guide, attestation: PCR0, PCR1 and PCR2 of a debug enclave are zeros"


class NotDebugDocument(Failure):
    """The enclave does not run in debug mode, and the caller says that it does."""

    __slots__ = ()
    code = "not-debug-mode"
    rule = CALLER


class FutureTimestamp(Failure):
    """The document was made after the time of verification."""

    __slots__ = ()
    code = "future-timestamp"
    rule = f"{PROCESS} section 2.2: timestamp is UTC in milliseconds"


class TimestampOutsideLeaf(Failure):
    """The document was made when its own certificate was not valid."""

    __slots__ = ()
    code = "timestamp-outside-certificate"
    rule = "every known document is made within its certificate's life; seconds read as milliseconds are not"


class TooOld(Failure):
    """The document is older than the caller allows."""

    __slots__ = ()
    code = "too-old"
    rule = CALLER


class NotInArchive(Failure):
    """A file that an archive's index names and the archive has not, or the reverse."""

    __slots__ = ()
    code = "index"
    rule = CALLER


class WrongDocument(Failure):
    """Not the document, byte for byte, that the caller named."""

    __slots__ = ()
    code = "document-digest"
    rule = CALLER


class WrongMeasurement(Failure):
    """A register does not have the expected value, or is absent."""

    __slots__ = ()
    code = "measurement"
    rule = CALLER


class WrongNonce(Failure):
    """The nonce is not the expected one."""

    __slots__ = ()
    code = "nonce"
    rule = CALLER


class WrongUserData(Failure):
    """user_data is not the expected one."""

    __slots__ = ()
    code = "user-data"
    rule = CALLER


class WrongPublicKey(Failure):
    """public_key is not the expected one."""

    __slots__ = ()
    code = "public-key"
    rule = CALLER


class WrongModule(Failure):
    """module_id is not the expected one."""

    __slots__ = ()
    code = "module-id"
    rule = CALLER


class Malformed(FoundFalse):
    """What parse_unverified raises: the bytes have not the shape of a document. ``failures`` says in which
    ways.
    """

    default_code = "malformed-document"

    def __init__(self, failures: tuple[Failure, ...]) -> None:
        super().__init__(
            "; ".join(map(str, failures)),
            where="attestation document",
            hint="it is not an attestation document of a Nitro enclave, or was changed on its way",
        )
        self.failures = failures


class NotVerified(FoundFalse):
    """Raised when the document of a verdict is asked for that has failures. ``failures`` carries them."""

    default_code = "not-verified"

    def __init__(self, failures: tuple[Failure, ...]) -> None:
        super().__init__("; ".join(map(str, failures)), where="attestation document")
        self.failures = failures


class EmptyPolicy(UsageError):
    """The expectations would let any enclave pass."""

    default_code = "empty-policy"


class BadExpectation(UsageError):
    """An expectation, a time or another argument makes no sense."""

    default_code = "bad-expectation"


AttestationError = CoattestError
"""What this package raises, all of it: the root of the errors above."""
