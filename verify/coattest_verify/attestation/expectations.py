"""What a caller expects of a document besides being genuine: one type per expectation.

Nothing is expected by default, and expectations that would let any enclave pass are an error: without
measurements (or UnsafeAnyMeasurement, which says so in its name) there is no verification.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias, get_args

from coattest.errors import UsageError, require_kind
from coattest.findings import Finding
from coattest_verify.attestation.document import IMAGE_PCRS, Document
from coattest_verify.attestation.limits import (
    PCR_COUNT_MAX,
    PCR_SIZE_SHA384,
    SHA256_SIZE,
    SKEW_MAX_MS,
)
from coattest_verify.attestation.rules import (
    DEBUG_MODE,
    FUTURE_TIMESTAMP,
    NOT_DEBUG_MODE,
    TOO_OLD,
    WRONG_DOCUMENT,
    WRONG_MEASUREMENT,
    WRONG_MODULE,
    WRONG_NONCE,
    WRONG_PUBLIC_KEY,
    WRONG_USER_DATA,
    Rule,
    bad_expectation,
)

ZERO: Final = bytes(PCR_SIZE_SHA384)
# Each of these sets of registers pins the code: the whole image; both of its parts; the key that signed it.
_PINS: Final = (frozenset((0,)), frozenset((1, 2)), frozenset((8,)))


@dataclass(frozen=True, slots=True)
class ExpectPcrs:
    """Registers (index to 48 bytes) that must be there with exactly these values.

    Raises UsageError for no registers, for indices outside 0 to 31, for values of another size, and
    for zeros in PCR0, 1, 2 or 8: debug enclaves and unsigned images have those, so they pin nothing.
    """

    pcrs: Mapping[int, bytes]

    def __post_init__(self) -> None:
        require_kind(self.pcrs, Mapping, "ExpectPcrs", hint="index to 48 bytes")
        if not self.pcrs:
            raise bad_expectation(
                "no registers are expected", where="ExpectPcrs", hint="give PCR0, PCR1 and PCR2"
            )
        for index, value in self.pcrs.items():
            if type(index) is not int or not 0 <= index < PCR_COUNT_MAX:
                raise bad_expectation(f"no register has index {index!r}", where="ExpectPcrs")
            if not isinstance(value, bytes) or len(value) != PCR_SIZE_SHA384:
                raise bad_expectation(
                    "the value is not 48 bytes",
                    where=f"ExpectPcrs PCR{index}",
                    hint="bytes.fromhex(..)" if isinstance(value, str) else None,
                )
            if value == ZERO and index in (*IMAGE_PCRS, 8):
                raise bad_expectation(
                    "a register of zeros pins nothing",
                    where=f"ExpectPcrs PCR{index}",
                    hint="zeros are what a debug enclave reports; take the measurements from a decision",
                )
        object.__setattr__(self, "pcrs", MappingProxyType(dict(self.pcrs)))

    def findings(self, document: Document) -> list[Finding]:
        """One finding for every register that differs or is absent."""
        return [
            WRONG_MEASUREMENT.finding(f"PCR{index}", expected.hex(), _shown(found, "absent"))
            for index, expected in self.pcrs.items()
            if not _same(found := document.pcrs.get(index), expected)
        ]


@dataclass(frozen=True, slots=True)
class ExpectAnyPcrs:
    """All registers of one of several sets: of each release that a verifier accepts, for instance.

    Registers are never mixed between sets. Raises UsageError for no sets.
    """

    sets: Sequence[ExpectPcrs]

    def __post_init__(self) -> None:
        require_kind(self.sets, Sequence, "ExpectAnyPcrs", hint="a list of ExpectPcrs")
        if not self.sets or not all(isinstance(each, ExpectPcrs) for each in self.sets):
            raise bad_expectation("no sets of registers are expected", where="ExpectAnyPcrs")
        object.__setattr__(self, "sets", tuple(self.sets))

    def findings(self, document: Document) -> list[Finding]:
        """Nothing when one set matches, else the findings of the set that is nearest."""
        return min([each.findings(document) for each in self.sets], key=len)


class _ExpectField:
    """A field of the document, named ``FIELD`` here too, byte for byte; None: it must be null."""

    __slots__ = ()
    FIELD: ClassVar[str]
    RULE: ClassVar[Rule]

    def __post_init__(self) -> None:
        value = getattr(self, self.FIELD)
        if value is not None and not isinstance(value, bytes):
            what = f"bytes or None, not {type(value).__name__}"
            raise bad_expectation(what, where=type(self).__name__)

    def findings(self, document: Document) -> Iterator[Finding]:
        """One finding when the field differs."""
        expected, found = getattr(self, self.FIELD), getattr(document, self.FIELD)
        if not _same(found, expected):
            yield self.RULE.finding(self.FIELD, _shown(expected), _shown(found))


@dataclass(frozen=True, slots=True)
class ExpectNonce(_ExpectField):
    """The nonce, byte for byte; None: the document must have none."""

    FIELD, RULE = "nonce", WRONG_NONCE
    nonce: bytes | None


@dataclass(frozen=True, slots=True)
class ExpectUserData(_ExpectField):
    """user_data, byte for byte; None: the document must have none."""

    FIELD, RULE = "user_data", WRONG_USER_DATA
    user_data: bytes | None


@dataclass(frozen=True, slots=True)
class ExpectPublicKey(_ExpectField):
    """public_key, byte for byte; None: it must be null (an empty one is not)."""

    FIELD, RULE = "public_key", WRONG_PUBLIC_KEY
    public_key: bytes | None

    def __post_init__(self) -> None:
        _ExpectField.__post_init__(self)
        if self.public_key == b"":
            raise bad_expectation(
                "an empty key cannot be expected", where="ExpectPublicKey", hint="None expects null"
            )


@dataclass(frozen=True, slots=True)
class ExpectModule:
    """module_id, exactly: the instance and the enclave on it."""

    module_id: str

    def __post_init__(self) -> None:
        if not isinstance(self.module_id, str) or not self.module_id:
            raise bad_expectation("module_id must be text, not empty", where="ExpectModule")

    def findings(self, document: Document) -> Iterator[Finding]:
        """One finding when module_id differs."""
        if document.module_id != self.module_id:
            yield WRONG_MODULE.finding("module_id", repr(self.module_id), f"{document.module_id!r:.200}")


@dataclass(frozen=True, slots=True)
class ExpectDocument:
    """The document itself, by the SHA-256 of its bytes: for archives, whose index names every document.

    It pins the measurements that these bytes have, whatever they are; it judges none.
    """

    sha256: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.sha256, bytes) or len(self.sha256) != SHA256_SIZE:
            raise bad_expectation(f"the digest is not {SHA256_SIZE} bytes", where="ExpectDocument")

    def findings(self, document: bytes) -> Iterator[Finding]:
        """One finding when the bytes differ."""
        found = hashlib.sha256(document).digest()
        if found != self.sha256:
            yield WRONG_DOCUMENT.finding("document", f"SHA-256 {self.sha256.hex()}", f"SHA-256 {found.hex()}")


@dataclass(frozen=True, slots=True)
class MaxAge:
    """The document is at most ``max_age_ms`` milliseconds old; None: as old as its certificates allow.

    ``skew_ms`` (0 unless given, at most 5 minutes) tolerates an enclave's clock that is ahead of the
    verifier's: a timestamp in the future fails otherwise, with or without MaxAge.
    """

    max_age_ms: int | None
    skew_ms: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        age = self.max_age_ms
        if age is not None and (type(age) is not int or age < 0):
            raise bad_expectation("the age must be an integer of milliseconds, not negative", where="MaxAge")
        if type(self.skew_ms) is not int or not 0 <= self.skew_ms <= SKEW_MAX_MS:
            raise bad_expectation(f"the skew must be 0 to {SKEW_MAX_MS} milliseconds", where="MaxAge")


@dataclass(frozen=True, slots=True)
class UnsafeAnyMeasurement:
    """Any image is accepted: the document proves that *some* enclave ran, not which code.

    For tools that compare measurements themselves (KMS does, by key policy), and for looking at documents.
    """


@dataclass(frozen=True, slots=True)
class UnsafeAllowDebug:
    """Debug enclaves are accepted: their memory and console are open to the parent instance."""


@dataclass(frozen=True, slots=True)
class UnsafeExpectDebug:
    """A debug enclave only: for archives whose index says that a document is from one."""

    def findings(self, document: Document) -> Iterator[Finding]:
        """One finding for every register of the image that is not zeros."""
        for index in IMAGE_PCRS:
            value = document.pcrs.get(index)
            if value != ZERO:
                yield NOT_DEBUG_MODE.finding(
                    f"PCR{index}", "zeros, as in debug mode", _shown(value, "absent")
                )


_Exact: TypeAlias = (
    ExpectPcrs
    | ExpectAnyPcrs
    | ExpectNonce
    | ExpectUserData
    | ExpectPublicKey
    | ExpectModule
    | UnsafeExpectDebug
)
Expectation: TypeAlias = _Exact | ExpectDocument | MaxAge | UnsafeAnyMeasurement | UnsafeAllowDebug
_OTHERS: Final = (ExpectDocument, MaxAge, UnsafeAnyMeasurement, UnsafeAllowDebug)
_KINDS: Final[tuple[Any, ...]] = get_args(Expectation)


@dataclass(frozen=True, slots=True)
class Demands:
    """The expectations of one verification, checked: they pin some code, unless the caller said otherwise."""

    exact: tuple[_Exact, ...]
    documents: tuple[ExpectDocument, ...]
    max_age_ms: int | None
    skew_ms: int
    allow_debug: bool

    @classmethod
    def of(cls, expectations: Sequence[Expectation]) -> Demands:
        """The expectations, sorted by kind.

        Raises UsageError: ``empty-expectations`` when no code is pinned (PCR0, or PCR1 and PCR2, or PCR8, or
        the whole document) and UnsafeAnyMeasurement is not among them; ``bad-expectation`` for anything else
        than an expectation.
        """
        if isinstance(expectations, _KINDS):
            raise bad_expectation("is one expectation", where="expectations", hint="give a list of them")
        require_kind(expectations, Iterable, "expectations", hint="a list of expectations")
        expectations = tuple(expectations)
        for each in expectations:
            if not isinstance(each, _KINDS):
                raise bad_expectation(f"{each!r:.80} is not an expectation")
        documents = tuple(each for each in expectations if isinstance(each, ExpectDocument))
        ages = [each for each in expectations if isinstance(each, MaxAge)]
        pcrs = {index for each in expectations if isinstance(each, ExpectPcrs) for index in each.pcrs}
        choices = [each.sets for each in expectations if isinstance(each, ExpectAnyPcrs)]
        pinned = documents or pins_code(pcrs)
        pinned = pinned or any(all(pins_code(each.pcrs) for each in sets) for sets in choices)
        if not pinned and not any(isinstance(each, UnsafeAnyMeasurement) for each in expectations):
            raise UsageError(
                "no measurements are expected, so that any enclave would pass",
                hint="expect PCR0, PCR1 and PCR2 of a decided release",
                code="empty-expectations",
            )
        return cls(
            tuple(each for each in expectations if not isinstance(each, _OTHERS)),
            documents,
            min((age.max_age_ms for age in ages if age.max_age_ms is not None), default=None),
            min((age.skew_ms for age in ages), default=0),
            any(isinstance(each, (UnsafeAllowDebug, UnsafeExpectDebug)) for each in expectations),
        )

    def findings(self, document: Document, now_ms: int) -> list[Finding]:
        """Every expectation that a document does not meet at ``now_ms`` (UTC, milliseconds)."""
        findings = [] if self.allow_debug else _debug_findings(document)
        for expectation in self.exact:
            findings += expectation.findings(document)
        age_ms = now_ms - document.timestamp_ms
        if age_ms < -self.skew_ms:
            latest = f"at most {self.skew_ms} ms ahead of the verifier's clock ({now_ms} ms)"
            ahead = f"{-age_ms} ms ahead ({document.timestamp_ms} ms)"
            findings.append(FUTURE_TIMESTAMP.finding("timestamp", latest, ahead))
        elif self.max_age_ms is not None and age_ms > self.max_age_ms:
            oldest = f"at most {self.max_age_ms} ms old"
            findings.append(TOO_OLD.finding("timestamp", oldest, f"{age_ms} ms old"))
        return findings


def pins_code(registers: Collection[int]) -> bool:
    """Whether the values of these registers pin the code: PCR0, or PCR1 and PCR2, or PCR8."""
    return any(needed.issubset(registers) for needed in _PINS)


def _debug_findings(document: Document) -> list[Finding]:
    """A finding unless PCR0, PCR1 and PCR2 are all there and none of them is zeros.

    Debug mode zeroes all three. Which registers a document leaves out is not the verifier's choice, so one
    that leaves out any of them may come from a debug enclave. (PCR3 and PCR4 are set in debug mode too, so
    "all registers are zero" is the wrong question.)
    """
    expected = "PCR0, PCR1 and PCR2 present and not zeros"
    return [
        DEBUG_MODE.finding(f"PCR{index}", expected, "absent" if value is None else "zeros")
        for index in IMAGE_PCRS
        if (value := document.pcrs.get(index)) is None or not any(value)
    ]


def _same(found: bytes | None, expected: bytes | None) -> bool:
    """Equal, or both None. In constant time: a nonce may be a secret of the caller's until it comes back."""
    if found is None or expected is None:
        return found is expected
    return hmac.compare_digest(found, expected)


def _shown(value: bytes | None, absent: str = "null") -> str:
    return absent if value is None else value.hex() or "0 bytes"
