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

from coattest_verify.iam import match
from coattest_verify.iam.model import Condition, PolicyError, Quantifier

Test = Callable[[str, str], bool]

#: Operators whose values may hold policy variables ("Where you can use policy variables").
_WITH_VARIABLES = ("String", "Arn")


def _bool(policy: str, request: str) -> bool:
    return policy.lower() == request.lower()


def _number(text: str) -> float:
    return float(text)


def _instant(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time or of epoch seconds."""
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        return float(text)
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp()


def _ordered(read: Callable[[str], float], compare: Callable[[float, float], bool]) -> Test:
    def test(policy: str, request: str) -> bool:
        try:
            return compare(read(request), read(policy))
        except ValueError:
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


#: Positive test behind each operator, and whether the operator negates it.
_TESTS: dict[str, tuple[Test, bool]] = {
    "StringEquals": (_equals, False),
    "StringNotEquals": (_equals, True),
    "StringEqualsIgnoreCase": (_equals_ignore_case, False),
    "StringNotEqualsIgnoreCase": (_equals_ignore_case, True),
    "StringLike": (match.glob, False),
    "StringNotLike": (match.glob, True),
    "NumericEquals": (_ordered(_number, operator.eq), False),
    "NumericNotEquals": (_ordered(_number, operator.eq), True),
    "NumericLessThan": (_ordered(_number, operator.lt), False),
    "NumericLessThanEquals": (_ordered(_number, operator.le), False),
    "NumericGreaterThan": (_ordered(_number, operator.gt), False),
    "NumericGreaterThanEquals": (_ordered(_number, operator.ge), False),
    "DateEquals": (_ordered(_instant, operator.eq), False),
    "DateNotEquals": (_ordered(_instant, operator.eq), True),
    "DateLessThan": (_ordered(_instant, operator.lt), False),
    "DateLessThanEquals": (_ordered(_instant, operator.le), False),
    "DateGreaterThan": (_ordered(_instant, operator.gt), False),
    "DateGreaterThanEquals": (_ordered(_instant, operator.ge), False),
    "Bool": (_bool, False),
    "BinaryEquals": (_equals, False),
    "IpAddress": (_ip, False),
    "NotIpAddress": (_ip, True),
    "ArnEquals": (match.arn, False),
    "ArnLike": (match.arn, False),
    "ArnNotEquals": (match.arn, True),
    "ArnNotLike": (match.arn, True),
}

BASE_OPERATORS = frozenset({*_TESTS, "Null"})


def negated(name: str) -> bool:
    """Whether a base operator is a negated one (true when the key is absent)."""
    return name != "Null" and _TESTS[name][1]


def check_value(name: str, value: str, where: str) -> None:
    """Raise PolicyError when a policy value is not of the operator's type."""
    try:
        if name.startswith("Numeric"):
            _number(value)
        elif name.startswith("Date"):
            _instant(value)
        elif name in ("Null", "Bool") and value.lower() not in ("true", "false"):
            raise ValueError("true or false")
        elif name.endswith("IpAddress"):
            ipaddress.ip_network(value, strict=False)
    except ValueError as error:
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
