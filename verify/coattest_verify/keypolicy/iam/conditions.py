"""Condition operators.

Source: IAM User Guide, "IAM JSON policy elements: Condition operators" and "Multivalued context keys".
A key without values in the request counts as absent ("null data set").
"""

from __future__ import annotations

import datetime
import ipaddress
import operator
import re
from collections.abc import Callable
from decimal import Decimal

from coattest_verify.keypolicy.iam import match
from coattest_verify.keypolicy.iam.model import Condition, PolicyError, Quantifier

Test = Callable[[str, str], bool]

_WITH_VARIABLES = ("String", "Arn")
"""Operators whose values may hold policy variables ("Where you can use policy variables")."""


def _bool(policy: str, request: str) -> bool:
    return policy.lower() == request.lower()


_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{1,40})?")
"""A number as the policy grammar has it; Python's own reader takes underscores, "nan" and other digits."""

_DATE = re.compile(
    r"(?P<year>[0-9]{4})(?:-(?P<month>[0-9]{2})(?:-(?P<day>[0-9]{2})"
    r"(?:T(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?P<fraction>\.[0-9]{1,9})?)?"
    r"(?P<zone>Z|[+-][0-9]{2}:[0-9]{2}))?)?)?"
)
"""W3C's profile of ISO 8601 ("Date condition operators"): a year, month or day, or a time with its zone."""


def number(text: str) -> Decimal:
    """The number of a Numeric operator. Raises ValueError."""
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
    if text in (None, "Z"):
        return datetime.timezone.utc
    assert text is not None
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    return datetime.timezone(datetime.timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _ordered(read: Callable[[str], Decimal], compare: Callable[[Decimal, Decimal], bool]) -> Test:
    def test(policy: str, request: str) -> bool:
        try:
            return compare(read(request), read(policy))
        except (ValueError, OverflowError):
            return False

    return test


def _ip(policy: str, request: str) -> bool:
    try:
        return ipaddress.ip_address(request) in ipaddress.ip_network(policy, strict=False)
    except ValueError:
        return False


def _equals(policy: str, request: str) -> bool:
    return match.plain(policy) == request


def _equals_ignore_case(policy: str, request: str) -> bool:
    return match.plain(policy).lower() == request.lower()


_TESTS: dict[str, tuple[Test, bool]] = {
    "StringEquals": (_equals, False),
    "StringNotEquals": (_equals, True),
    "StringEqualsIgnoreCase": (_equals_ignore_case, False),
    "StringNotEqualsIgnoreCase": (_equals_ignore_case, True),
    "StringLike": (match.glob, False),
    "StringNotLike": (match.glob, True),
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
    "ArnEquals": (match.arn, False),
    "ArnLike": (match.arn, False),
    "ArnNotEquals": (match.arn, True),
    "ArnNotLike": (match.arn, True),
}
"""Positive test behind each operator, and whether the operator negates it."""

BASE_OPERATORS = frozenset({*_TESTS, "Null"})


def negated(name: str) -> bool:
    """Whether a base operator is a negated one (true when the key is absent)."""
    return name != "Null" and _TESTS[name][1]


def check_value(name: str, value: str, where: str) -> None:
    """Raise PolicyError when a policy value is not of the operator's type."""
    try:
        if name.startswith("Numeric"):
            number(value)
        elif name.startswith("Date"):
            instant(value)
        elif name in ("Null", "Bool") and value.lower() not in ("true", "false"):
            raise ValueError("true or false")
        elif name.endswith("IpAddress"):
            ipaddress.ip_network(value, strict=False)
    except (ValueError, OverflowError) as error:
        raise PolicyError(f"{value!r} does not suit {name}", where=where) from error


def holds(condition: Condition, context: match.Context, variables: bool) -> bool:
    """Whether the condition is true for a request context (keys in lower case)."""
    found = context.get(condition.key.lower(), ())
    if condition.operator == "Null":
        return ("true" if not found else "false") in {value.lower() for value in condition.values}
    test, negate = _TESTS[condition.operator]
    if not found:
        return _absent(condition, negate)
    patterns = [_pattern(value, condition.operator, context, variables) for value in condition.values]

    def matches(value: str) -> bool:
        return any(pattern is not None and test(pattern, value) for pattern in patterns)

    if condition.quantifier is Quantifier.ALL:
        return all(matches(value) is not negate for value in found)
    if condition.quantifier is Quantifier.ANY:
        return any(matches(value) is not negate for value in found)
    # Without a set operator a key is expected to have one value. With more, AWS documents nothing;
    # here one match counts as a match, and a negated operator is the exact opposite of the positive one.
    return any(matches(value) for value in found) is not negate


def _absent(condition: Condition, negate: bool) -> bool:
    if condition.if_exists:
        return True
    if condition.quantifier is Quantifier.ALL:
        return True
    if condition.quantifier is Quantifier.ANY:
        return False
    return negate


def _pattern(value: str, name: str, context: match.Context, variables: bool) -> str | None:
    return match.substitute(value, context, variables and name.startswith(_WITH_VARIABLES))
