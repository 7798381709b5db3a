"""Condition operators.

Source: IAM User Guide, "IAM JSON policy elements: Condition operators" and "Single-valued vs. multivalued
context keys". A key without values in the request counts as absent ("null data set").
"""

from __future__ import annotations

import datetime
import ipaddress
import operator
import re
from collections.abc import Callable, Sequence
from decimal import Decimal

from coattest_verify.keypolicy.iam import match
from coattest_verify.keypolicy.iam.actions import ATTESTATION, KMS
from coattest_verify.keypolicy.iam.model import Condition, PolicyError, Quantifier
from coattest_verify.keypolicy.iam.reading import Reading, Ternary, every, some, ternary

Parts = Sequence[str | match.Wild]
Test = Callable[[Parts, str], Ternary]

WITH_VARIABLES = ("String", "Arn")
"""Operators whose values may hold policy variables ("Where you can use policy variables")."""

REGISTER = 96
"""Hex digits of a register: SHA-384 ("Cryptographic attestation", platform configuration registers)."""

_HEX = re.compile(r"[0-9a-f]*")
_TYPED = {
    "Numeric": "Numeric",
    "Date": "Date",
    "Bool": "Bool",
    "Binary": "Binary",
    "IpAddress": "IPAddress",
}
"""Operators that want a key of their own type; the String and Arn ones are used with any."""

_EPOCH = ("aws:epochtime", "Numeric")
"""It "works with date operators or numeric operators"; the other times work with date operators only."""


def text_of(parts: Parts) -> str:
    """The text of a pattern without wildcards."""
    return "".join(part if isinstance(part, str) else part.value for part in parts)


def _bool(policy: Parts, request: str) -> Ternary:
    return ternary(match.same_but_case(text_of(policy), request))


MAX_DIGITS = 40
"""Digits of a policy's number on either side of the point. A request's has room for what lies between two."""

_NUMBER = re.compile(r"[+-]?([0-9]{1,80})(?:\.([0-9]{1,80}))?")
"""A number as the policy grammar has it; Python's own reader takes underscores, "nan" and other digits."""

_DATE = re.compile(
    r"(?P<year>[0-9]{4})(?:-(?P<month>[0-9]{2})(?:-(?P<day>[0-9]{2})"
    r"(?:T(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?P<fraction>\.[0-9]{1,9})?)?"
    r"(?P<zone>Z|[+-][0-9]{2}:[0-9]{2}))?)?)?"
)
"""W3C's profile of ISO 8601 ("Date condition operators"): a year, month or day, or a time with its zone."""


def number(text: str) -> Decimal:
    """The number of a Numeric operator, exactly. Raises ValueError.

    Decimals are compared exactly. What is computed with them is rounded to 28 digits, unless a context says
    otherwise (``ranges``).
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError("not a number")
    return Decimal(text)


def instant(text: str) -> Decimal:
    """Seconds since the epoch of an ISO 8601 time or of epoch seconds. Four digits are a year.

    Raises ValueError and OverflowError.
    """
    match = _DATE.fullmatch(text)
    if match is None:
        return number(text)
    parts = [int(match[name] or 1) for name in ("year", "month", "day")]
    times = [int(match[name] or 0) for name in ("hour", "minute", "second")]
    moment = datetime.datetime(*parts, *times, tzinfo=_zone(match["zone"]))  # type: ignore[misc,arg-type]
    whole = (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(
        seconds=1
    )
    return Decimal(whole) + Decimal(match["fraction"] or 0)


def _zone(text: str | None) -> datetime.timezone:
    if text is None or text == "Z":
        return datetime.timezone.utc
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    return datetime.timezone(datetime.timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _ordered(read: Callable[[str], Decimal], compare: Callable[[Decimal, Decimal], bool]) -> Test:
    def test(policy: Parts, request: str) -> Ternary:
        try:
            return ternary(compare(read(request), read(text_of(policy))))
        except (ValueError, OverflowError):
            return Ternary.NO

    return test


def _ip(policy: Parts, request: str) -> Ternary:
    try:
        network = ipaddress.ip_network(text_of(policy), strict=False)
        return ternary(ipaddress.ip_address(request) in network)
    except ValueError:
        return Ternary.NO


def _equals(policy: Parts, request: str) -> Ternary:
    return ternary(text_of(policy) == request)


def _equals_ignore_case(policy: Parts, request: str) -> Ternary:
    text = text_of(policy)
    if match.same_but_case(text, request):
        return Ternary.YES
    return Ternary.OPEN if match.perhaps_same_but_case(text, request) else Ternary.NO


def _like(policy: Parts, request: str) -> Ternary:
    return ternary(match.glob(policy, request))


def _arn(policy: Parts, request: str) -> Ternary:
    """ "Each of the six colon-delimited components of the ARN is checked separately" (ARN operators)."""
    if len(match.segments(policy)) == 6:
        return ternary(match.by_segments(policy, request))
    # Incomplete ARNs, and * alone, are described for Resource only.
    return Ternary.OPEN if match.by_segments(policy, request) or match.glob(policy, request) else Ternary.NO


_TESTS: dict[str, tuple[Test, bool]] = {
    "StringEquals": (_equals, False),
    "StringNotEquals": (_equals, True),
    "StringEqualsIgnoreCase": (_equals_ignore_case, False),
    "StringNotEqualsIgnoreCase": (_equals_ignore_case, True),
    "StringLike": (_like, False),
    "StringNotLike": (_like, True),
    "NumericEquals": (_ordered(number, operator.eq), False),
    "NumericNotEquals": (_ordered(number, operator.eq), True),
    "NumericLessThan": (_ordered(number, operator.lt), False),
    "NumericLessThanEquals": (_ordered(number, operator.le), False),
    "NumericGreaterThan": (_ordered(number, operator.gt), False),
    "NumericGreaterThanEquals": (_ordered(number, operator.ge), False),
    "DateEquals": (_ordered(instant, operator.eq), False),
    "DateNotEquals": (_ordered(instant, operator.eq), True),
    "DateLessThan": (_ordered(instant, operator.lt), False),
    "DateLessThanEquals": (_ordered(instant, operator.le), False),
    "DateGreaterThan": (_ordered(instant, operator.gt), False),
    "DateGreaterThanEquals": (_ordered(instant, operator.ge), False),
    "Bool": (_bool, False),
    "BinaryEquals": (_equals, False),
    "IpAddress": (_ip, False),
    "NotIpAddress": (_ip, True),
    "ArnEquals": (_arn, False),
    "ArnLike": (_arn, False),
    "ArnNotEquals": (_arn, True),
    "ArnNotLike": (_arn, True),
}
"""Positive test behind each operator, and whether the operator negates it."""

BASE_OPERATORS = frozenset({*_TESTS, "Null"})


def negated(name: str) -> bool:
    """Whether a base operator is a negated one (true when the key is absent)."""
    return name != "Null" and _TESTS[name][1]


def check_value(name: str, value: str, where: str) -> None:
    """Raise PolicyError when a policy value is not of the operator's type."""
    try:
        if name.startswith(("Numeric", "Date")):
            (number if name.startswith("Numeric") else instant)(value)
            found = _NUMBER.fullmatch(value)
            if found and any(len(digits or "") > MAX_DIGITS for digits in found.groups()):
                raise ValueError("too many digits")
        elif name in ("Null", "Bool") and match.ascii_lower(value) not in ("true", "false"):
            raise ValueError("true or false")
        elif name.endswith("IpAddress"):
            ipaddress.ip_network(value, strict=False)
    except (ValueError, OverflowError) as error:
        raise PolicyError(f"{value!r} does not suit {name}", where=where) from error


def without_wildcards(name: str) -> bool:
    """Whether * and ? are plain characters in an operator's values."""
    return not name.startswith("Arn") and not name.endswith("Like")


def holds(condition: Condition, reading: Reading) -> Ternary:
    """Whether the condition is true for the request that is read."""
    found = reading.context.get(match.ascii_lower(condition.key), ())
    answer = _holds(condition, found, reading)
    filled = tuple(value for value in found if value)
    if filled == found or answer is _holds(condition, filled, reading):
        return answer
    return reading.open(
        told(condition),
        "AWS's pages differ on whether a key with an empty value is there",
        "leave the empty value out",
    )


def told(condition: Condition) -> str:
    """A condition in the words of the policy."""
    values = ", ".join(condition.values)
    return f"{condition.name} {condition.key} = {values if len(values) <= 120 else values[:117] + '...'}"


def _holds(condition: Condition, found: Sequence[str], reading: Reading) -> Ternary:
    if condition.operator == "Null":
        return ternary(
            ("true" if not found else "false") in {match.ascii_lower(value) for value in condition.values}
        )
    if not found:
        return ternary(true_when_absent(condition))
    plain = condition.quantifier is Quantifier.NONE
    if plain and (len(found) > 1 or KMS.multivalued(condition.key)):
        return reading.open(
            told(condition),
            "AWS does not say what this operator does with a key of several values",
            f"write ForAllValues:{condition.operator} or ForAnyValue:{condition.operator}",
        )
    if mistyped(condition):
        return reading.open(
            told(condition),
            f"the key is no {condition.operator} one, and AWS does not say what then happens",
            "use an operator of the key's type",
        )

    def matches(value: str) -> Ternary:
        answer = some(_matches(condition, pattern, value, reading) for pattern in condition.values)
        return answer.opposite() if negated(condition.operator) else answer

    combine = some if condition.quantifier is Quantifier.ANY else every
    return combine([matches(value) for value in found])


def mistyped(condition: Condition) -> bool:
    """Whether the operator is for another type than the key has in AWS's list."""
    wanted = next((kind for stem, kind in _TYPED.items() if stem in condition.operator), None)
    found = KMS.find(condition.key)
    if wanted is None or found is None or (match.ascii_lower(condition.key), wanted) == _EPOCH:
        return False
    return found[1].removeprefix("ArrayOf") != wanted


def odd_register(condition: Condition, parts: Sequence[match.Part]) -> bool:
    """Whether a value for a register is none that AWS describes.

    KMS Developer Guide, "Condition keys for Nitro Enclaves": "The PCR value must be a lower-case hexadecimal
    string of up to 96 bytes"; an example there begins with 0x.
    """
    if not match.ascii_lower(condition.key).startswith(ATTESTATION):
        return False
    texts = [part for part in parts if isinstance(part, str)]
    if condition.operator.endswith("IgnoreCase"):
        texts = [match.ascii_lower(text) for text in texts]
    whole = len(texts) == len(parts)
    return not all(map(_HEX.fullmatch, texts)) or (whole and sum(map(len, texts)) != REGISTER)


def _matches(condition: Condition, pattern: str, value: str, reading: Reading) -> Ternary:
    name = condition.operator
    enabled = reading.variables and name.startswith(WITH_VARIABLES)
    parts = match.parts_of(pattern, enabled, not without_wildcards(name))
    resolved = match.resolve(parts, reading.context)
    if resolved is None:
        if not negated(name):
            return Ternary.NO
        return reading.open(
            told(condition),
            'AWS says that a variable without a value "might cause the entire statement to be invalid"',
            "give the variable a default, or require its key with Null",
        )
    if odd_register(condition, parts):
        return reading.open(
            told(condition),
            "AWS describes registers as lower-case hex, and has an example with 0x",
            "write the 96 lower-case hex digits",
        )
    answer = compare_value(condition, resolved, value)
    if answer is Ternary.OPEN:
        reading.open(
            told(condition),
            "AWS does not say how this is compared",
            "write a full ARN" if name.startswith("Arn") else "use a case-sensitive operator",
        )
    return answer


def compare_value(condition: Condition, parts: Parts, value: str) -> Ternary:
    """Whether a value matches one of the condition's values by the operator's positive test."""
    return _TESTS[condition.operator][0](parts, value)


def true_when_absent(condition: Condition) -> bool:
    """Whether a condition, other than Null, is true when the request has no value of its key."""
    if condition.if_exists or condition.quantifier is Quantifier.ALL:
        return True
    return negated(condition.operator) and condition.quantifier is Quantifier.NONE
