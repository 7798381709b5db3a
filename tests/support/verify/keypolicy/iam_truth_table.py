"""The semantics of conditions, principals and combinations as rows, each with the AWS page that says so.

Pages are named by their last path element under docs.aws.amazon.com: IAM/latest/UserGuide unless ``kms:``
(KMS Developer Guide) is in front. "assumed" marks what AWS does not document; docs/emulation.md lists those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OPERATORS = "reference_policies_elements_condition_operators"
NUMERIC, DATE = f"{OPERATORS}#Conditions_Numeric", f"{OPERATORS}#Conditions_Date"
ADDRESS, ARN = f"{OPERATORS}#Conditions_IPAddress", f"{OPERATORS}#Conditions_ARN"
MULTI = "reference_policies_condition-single-vs-multi-valued-context-keys"
MULTI_VALUES = "reference_policies_condition-logic-multiple-context-keys-or-values"
KEYS = "reference_policies_elements_condition"
MULTI_EXAMPLES = "reference_policies_condition_examples-multi-valued-context-keys"
ENCLAVES = "kms:conditions-nitro-enclaves"
REQUIRE = '"Multivalued context keys require a condition set operator"'
EMPTY = '"a null dataset, such as an empty string"'
HEX = '"The PCR value must be a lower-case hexadecimal string of up to 96 bytes"'
INVALID = '"If AWS cannot resolve a variable this might cause the entire statement to be invalid"'
LISTED, PCR, ARN_KEY = "kms:EncryptionContextKeys", "kms:RecipientAttestation:PCR1", "aws:PrincipalArn"
VARIABLES = "reference_policies_variables"


@dataclass(frozen=True)
class Row:
    """A condition block, the request's context, whether it holds, and where that is written.

    ``holds`` is None where AWS's pages leave it open.
    """

    condition: dict[str, Any]
    context: dict[str, tuple[str, ...]]
    holds: bool | None
    source: str
    version: str = field(default="2012-10-17")


def _c(operator: str, value: Any, key: str = "k") -> dict[str, Any]:
    return {operator: {key: value}}


ABSENT: dict[str, tuple[str, ...]] = {}


def k(*values: str) -> dict[str, tuple[str, ...]]:
    """A context in which ``k`` has these values."""
    return {"k": values}


CONDITIONS = [
    # Strings: exact, case, wildcards.
    Row(_c("StringEquals", "a"), k("a"), True, f"{OPERATORS}#Conditions_String"),
    Row(_c("StringEquals", "a"), k("A"), False, f"{OPERATORS}#Conditions_String"),
    Row(_c("StringEquals", "a*"), k("ab"), False, f"{OPERATORS}#Conditions_String"),
    Row(_c("StringEqualsIgnoreCase", "aB"), k("Ab"), True, f"{OPERATORS}#Conditions_String"),
    Row(_c("StringNotEquals", "a"), k("b"), True, f"{OPERATORS}#Conditions_String"),
    Row(_c("StringNotEquals", "a"), k("a"), False, f"{OPERATORS}#Conditions_String"),
    Row(_c("StringNotEqualsIgnoreCase", "a"), k("A"), False, f"{OPERATORS}#Conditions_String"),
    Row(_c("StringLike", "a*c"), k("abbc"), True, f"{OPERATORS}#Conditions_String-wildcard"),
    Row(_c("StringLike", "a*c"), k("ac"), True, f"{OPERATORS}#Conditions_String-wildcard"),
    Row(_c("StringLike", "a?c"), k("ac"), False, f"{OPERATORS}#Conditions_String-wildcard"),
    Row(_c("StringLike", "a?c"), k("abc"), True, f"{OPERATORS}#Conditions_String-wildcard"),
    Row(_c("StringLike", "A*"), k("ab"), False, f"{OPERATORS}#Conditions_String-wildcard"),
    Row(_c("StringLike", "*"), k("anything"), True, f"{OPERATORS}#Conditions_String-wildcard"),
    Row(_c("StringNotLike", "a*"), k("b"), True, f"{OPERATORS}#Conditions_String-wildcard"),
    Row(_c("StringLike", "a.c"), k("abc"), False, f"{OPERATORS}#Conditions_String-wildcard"),
    # An absent key: false, and true for negated operators.
    Row(_c("StringEquals", "a"), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("StringLike", "*"), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("StringNotEquals", "a"), ABSENT, True, f"{OPERATORS} (Important: key not present)"),
    Row(_c("StringNotEqualsIgnoreCase", "a"), ABSENT, True, f"{OPERATORS} (Important: key not present)"),
    Row(_c("StringNotLike", "*"), ABSENT, True, f"{OPERATORS} (Important: key not present)"),
    Row(_c("ArnNotLike", "arn:aws:s3:::b"), ABSENT, True, f"{OPERATORS} (Important: key not present)"),
    Row(_c("NumericEquals", "1"), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("Bool", "true"), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("Bool", "false"), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    # IfExists: true when the key is absent, otherwise as without.
    Row(_c("StringEqualsIfExists", "a"), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("StringEqualsIfExists", "a"), k("b"), False, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("StringEqualsIfExists", "a"), k("a"), True, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("StringNotEqualsIfExists", "a"), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("StringNotEqualsIfExists", "a"), k("a"), False, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("BoolIfExists", "true"), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    # Null: "true" wants the key absent.
    Row(_c("Null", "true"), ABSENT, True, f"{OPERATORS}#Conditions_Null"),
    Row(_c("Null", "true"), k("a"), False, f"{OPERATORS}#Conditions_Null"),
    Row(_c("Null", "false"), ABSENT, False, f"{OPERATORS}#Conditions_Null"),
    Row(_c("Null", "false"), k("a"), True, f"{OPERATORS}#Conditions_Null"),
    Row(_c("Null", True), ABSENT, True, f"{OPERATORS}#Conditions_Null"),
    # Several values: OR; for negated operators NOR.
    Row(_c("StringEquals", ["a", "b"]), k("b"), True, MULTI_VALUES),
    Row(_c("StringEquals", ["a", "b"]), k("c"), False, MULTI_VALUES),
    Row(_c("StringNotEquals", ["a", "b"]), k("c"), True, MULTI_VALUES),
    Row(_c("StringNotEquals", ["a", "b"]), k("b"), False, MULTI_VALUES),
    Row(_c("StringNotLike", ["a*", "b*"]), k("bb"), False, MULTI_VALUES),
    # Several keys and several operators: AND.
    Row({"StringEquals": {"k": "a", "l": "b"}}, {"k": ("a",), "l": ("b",)}, True, MULTI_VALUES),
    Row({"StringEquals": {"k": "a", "l": "b"}}, {"k": ("a",), "l": ("c",)}, False, MULTI_VALUES),
    Row({"StringEquals": {"k": "a"}, "Null": {"l": "true"}}, k("a"), True, MULTI_VALUES),
    Row({"StringEquals": {"k": "a"}, "Null": {"k": "true"}}, k("a"), False, MULTI_VALUES),
    Row({}, ABSENT, True, KEYS),
    # Key names are not case-sensitive.
    Row(
        _c("StringEquals", "a", "aws:PrincipalArn"), {"AWS:principalarn": ("a",)}, True, f"{KEYS} (key names)"
    ),
    # ForAllValues: every value of the request matches; true when there is none.
    Row(_c("ForAllValues:StringEquals", ["a", "b"]), k("a", "b"), True, f"{MULTI}#ForAllValues"),
    Row(_c("ForAllValues:StringEquals", ["a", "b"]), k("a", "c"), False, f"{MULTI}#ForAllValues"),
    Row(_c("ForAllValues:StringEquals", ["a", "b"]), k("a"), True, f"{MULTI}#ForAllValues"),
    Row(_c("ForAllValues:StringEquals", ["a"]), ABSENT, True, f"{MULTI}#ForAllValues"),
    Row(_c("ForAllValues:StringEquals", ["a"]), k(), True, f"{MULTI}#ForAllValues (null data set)"),
    Row(_c("ForAllValues:StringNotEquals", ["a"]), k("b", "c"), True, f"{MULTI}#ForAllValues"),
    Row(_c("ForAllValues:StringNotEquals", ["a"]), k("a", "c"), False, f"{MULTI}#ForAllValues"),
    Row(_c("ForAllValues:StringLike", ["a*"]), k("ab", "ac"), True, f"{MULTI}#ForAllValues"),
    # ForAnyValue: at least one value of the request matches; false when there is none.
    Row(_c("ForAnyValue:StringEquals", ["a", "b"]), k("c", "b"), True, f"{MULTI}#ForAnyValue"),
    Row(_c("ForAnyValue:StringEquals", ["a", "b"]), k("c"), False, f"{MULTI}#ForAnyValue"),
    Row(_c("ForAnyValue:StringEquals", ["a"]), ABSENT, False, f"{MULTI}#ForAnyValue"),
    Row(_c("ForAnyValue:StringNotEquals", ["a"]), k("a", "b"), True, f"{MULTI}#ForAnyValue"),
    Row(_c("ForAnyValue:StringNotEquals", ["a"]), k("a"), False, f"{MULTI}#ForAnyValue"),
    Row(_c("ForAnyValue:StringNotEquals", ["a"]), ABSENT, False, f"{MULTI}#ForAnyValue"),
    # Set operator with IfExists: true when absent.
    Row(_c("ForAnyValue:StringEqualsIfExists", ["a"]), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("ForAllValues:StringEqualsIfExists", ["a"]), k("b"), False, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("ForAllValues:StringEqualsIfExists", ["a"]), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("ForAnyValue:StringNotEqualsIfExists", ["a"]), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("ForAllValues:StringNotEquals", ["a"]), ABSENT, True, f"{MULTI}#ForAllValues"),
    Row(_c("ForAllValues:StringNotLike", ["a*"]), ABSENT, True, f"{MULTI}#ForAllValues"),
    Row(_c("ForAnyValue:StringNotLike", ["a*"]), ABSENT, False, f"{MULTI}#ForAnyValue"),
    Row(_c("ForAllValues:Bool", ["true"]), ABSENT, True, f"{MULTI}#ForAllValues"),
    Row(_c("ForAnyValue:Bool", ["true"]), ABSENT, False, f"{MULTI}#ForAnyValue"),
    Row(_c("ForAllValues:ArnLike", ["arn:aws:s3:::b"]), ABSENT, True, f"{MULTI}#ForAllValues"),
    Row(_c("ForAnyValue:ArnLike", ["arn:aws:s3:::b"]), k("arn:aws:s3:::a"), False, f"{MULTI}#ForAnyValue"),
    Row(
        {"ForAllValues:StringEquals": {"k": "a"}, "Null": {"k": "false"}},
        ABSENT,
        False,
        f"{MULTI}#ForAllValues (with Null, against an absent key)",
    ),
    # IfExists of each kind of operator; NotEquals is true without it too.
    Row(_c("BoolIfExists", "true"), k("false"), False, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("NumericLessThanIfExists", "5"), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("NumericLessThanIfExists", "5"), k("6"), False, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("DateLessThanIfExists", "2026-01-02"), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("IpAddressIfExists", "203.0.113.0/24"), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("IpAddressIfExists", "203.0.113.0/24"), k("192.0.2.1"), False, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("ArnLikeIfExists", "arn:aws:s3:::b"), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    Row(_c("StringLikeIfExists", "a*"), k("b"), False, f"{OPERATORS}#Conditions_IfExists"),
    # The other operators on an absent key.
    Row(_c("StringEqualsIgnoreCase", "a"), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("NumericNotEquals", "1"), ABSENT, True, f"{OPERATORS} (Important: key not present)"),
    Row(_c("NumericLessThan", "1"), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("DateLessThan", "2026-01-02"), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("DateNotEquals", "2026-01-02"), ABSENT, True, f"{OPERATORS} (Important: key not present)"),
    Row(_c("IpAddress", "0.0.0.0/0"), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("NotIpAddress", "0.0.0.0/0"), ABSENT, True, f"{OPERATORS} (Important: key not present)"),
    Row(_c("ArnLike", "arn:aws:s3:::*"), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("ArnNotEquals", "arn:aws:s3:::b"), ABSENT, True, f"{OPERATORS} (Important: key not present)"),
    Row(_c("BinaryEquals", "YQ=="), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("BinaryEquals", "YQ=="), k("YQ=="), True, f"{OPERATORS}#Conditions_Binary"),
    # A key with several values under an operator without set operator.
    Row(_c("StringEquals", "a"), k("a", "b"), None, f"{MULTI}: {REQUIRE}"),
    Row(_c("StringNotEquals", "a"), k("a", "b"), None, f"{MULTI}: {REQUIRE}"),
    Row(_c("StringEquals", "a", LISTED), {LISTED: ("a",)}, None, f"{MULTI}: {REQUIRE}"),
    Row(_c("StringNotLike", "a", LISTED), {LISTED: ("b",)}, None, f"{MULTI}: {REQUIRE}"),
    Row(_c("StringEquals", "a", LISTED), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("StringEqualsIfExists", "a", LISTED), ABSENT, True, f"{OPERATORS}#Conditions_IfExists"),
    # A value that is empty: "a null dataset, such as an empty string".
    Row(_c("Null", "true"), k(""), None, f"{MULTI_EXAMPLES}: {EMPTY}"),
    Row(_c("StringEquals", "a"), k(""), False, f"{MULTI_EXAMPLES}: {EMPTY}; false both ways"),
    Row(_c("StringEquals", ""), k(""), None, f"{MULTI_EXAMPLES}: {EMPTY}"),
    Row(
        _c("ForAllValues:StringEquals", "a", LISTED), {LISTED: ("", "a")}, None, f"{MULTI_EXAMPLES}: {EMPTY}"
    ),
    # Registers.
    Row(_c("StringEquals", "a" * 96, PCR), {PCR: ("a" * 96,)}, True, f"{ENCLAVES}: {HEX}"),
    Row(_c("StringEquals", "A" * 96, PCR), {PCR: ("a" * 96,)}, None, f"{ENCLAVES}: {HEX}"),
    Row(_c("StringEqualsIgnoreCase", "A" * 96, PCR), {PCR: ("a" * 96,)}, True, f"{ENCLAVES}: {HEX}"),
    Row(_c("StringEquals", "0x" + "a" * 96, PCR), {PCR: ("a" * 96,)}, None, f"{ENCLAVES}: an example has 0x"),
    Row(_c("StringNotEquals", "a" * 95, PCR), {PCR: ("a" * 96,)}, None, f"{ENCLAVES}: {HEX}"),
    Row(_c("StringEquals", "0xa", PCR), ABSENT, False, f"{OPERATORS} (Important: key not present)"),
    Row(_c("StringLike", "a*", PCR), {PCR: ("a" * 96,)}, True, f"{OPERATORS}#Conditions_String-wildcard"),
    Row(_c("StringLike", "0x*", PCR), {PCR: ("a" * 96,)}, None, f"{ENCLAVES}: an example has 0x"),
    # Letters whose other case is not ASCII, and operators of another type than the key.
    Row(_c("StringEqualsIgnoreCase", "k"), k("\u212a"), None, f"{OPERATORS}: no word on it"),
    Row(
        _c("StringEqualsIgnoreCase", "\u00fc"),
        k("\u00dc"),
        None,
        f"{OPERATORS}: no word on it",
    ),
    Row(_c("StringEqualsIgnoreCase", "a"), k("\u00e9"), False, f"{OPERATORS}#Conditions_String"),
    Row(_c("StringEquals", "\u00fc"), k("\u00fc"), True, f"{OPERATORS}#Conditions_String: exact matching"),
    Row(_c("NumericEquals", "1", PCR), {PCR: ("a" * 96,)}, None, f"{OPERATORS}: the key is a String"),
    Row(_c("NotIpAddress", "0.0.0.0/0", ARN_KEY), {ARN_KEY: ("x",)}, None, f"{OPERATORS}: the key is an ARN"),
    # An ARN of fewer than six parts: "Incomplete ARNs" are described for Resource alone.
    Row(_c("ArnLike", "arn:aws:iam"), k("arn:aws:iam::1:role/a"), None, ARN),
    Row(_c("ArnLike", "*"), k("arn:aws:iam::1:role/a"), None, ARN),
    Row(_c("ArnLike", "arn:aws:s3"), k("arn:aws:iam::1:role/a"), False, ARN),
    # Numbers, dates, addresses, booleans, ARNs.
    Row(_c("NumericLessThan", "10"), k("9"), True, f"{OPERATORS}#Conditions_Numeric"),
    Row(_c("NumericLessThan", 10), k("10"), False, f"{OPERATORS}#Conditions_Numeric"),
    Row(_c("NumericGreaterThanEquals", "10"), k("10"), True, f"{OPERATORS}#Conditions_Numeric"),
    Row(_c("NumericNotEquals", "1"), k("2"), True, f"{OPERATORS}#Conditions_Numeric"),
    Row(
        _c("DateLessThan", "2026-01-02T00:00:00Z"),
        k("2026-01-01T23:59:59Z"),
        True,
        f"{OPERATORS}#Conditions_Date",
    ),
    Row(
        _c("DateLessThan", "2026-01-02T00:00:00Z"),
        k("2026-01-02T00:00:00Z"),
        False,
        f"{OPERATORS}#Conditions_Date",
    ),
    Row(_c("DateGreaterThan", "0"), k("2026-01-02T00:00:00Z"), True, f"{OPERATORS}#Conditions_Date (epoch)"),
    Row(
        _c("DateLessThan", "2026-01-02T02:00:00+02:00"),
        k("2026-01-01T23:59:59Z"),
        True,
        f"{OPERATORS}#Conditions_Date",
    ),
    Row(_c("Bool", "true"), k("true"), True, f"{OPERATORS}#Conditions_Boolean"),
    Row(_c("Bool", True), k("false"), False, f"{OPERATORS}#Conditions_Boolean"),
    Row(_c("IpAddress", "203.0.113.0/24"), k("203.0.113.9"), True, f"{OPERATORS}#Conditions_IPAddress"),
    Row(_c("IpAddress", "203.0.113.0/24"), k("203.0.114.9"), False, f"{OPERATORS}#Conditions_IPAddress"),
    Row(_c("NotIpAddress", "203.0.113.0/24"), k("203.0.114.9"), True, f"{OPERATORS}#Conditions_IPAddress"),
    Row(_c("IpAddress", "2001:db8::/32"), k("2001:db8::1"), True, f"{OPERATORS}#Conditions_IPAddress"),
    Row(
        _c("ArnEquals", "arn:aws:iam::1:role/a*"),
        k("arn:aws:iam::1:role/ab"),
        True,
        f"{OPERATORS}#Conditions_ARN",
    ),
    Row(
        _c("ArnLike", "arn:aws:iam::*:role/a"),
        k("arn:aws:iam::1:role/a"),
        True,
        f"{OPERATORS}#Conditions_ARN",
    ),
    Row(
        _c("ArnLike", "arn:aws:*:role/a"),
        k("arn:aws:iam::1:role/a"),
        None,
        f"{OPERATORS}#Conditions_ARN (each of six parts; this has four)",
    ),
    Row(
        _c("ArnNotLike", "arn:aws:iam::*:role/a"),
        k("arn:aws:iam::1:role/b"),
        True,
        f"{OPERATORS}#Conditions_ARN",
    ),
    Row(_c("NumericEquals", "1"), k("1.0"), True, f"{OPERATORS}#Conditions_Numeric"),
    Row(_c("NumericLessThanEquals", "-1"), k("-1.5"), True, f"{OPERATORS}#Conditions_Numeric"),
    Row(
        _c("NumericGreaterThan", "9007199254740992"),
        k("9007199254740993"),
        True,
        f"{OPERATORS}#Conditions_Numeric",
    ),
    Row(_c("NumericEquals", "1"), k("one"), False, f"{OPERATORS}#Conditions_Numeric"),
    Row(
        _c("DateEquals", "2026-01-02"), k("2026-01-02T00:00:00Z"), True, f"{OPERATORS}#Conditions_Date (W3C)"
    ),
    Row(
        _c("DateGreaterThanEquals", "2026"),
        k("2026-01-01T00:00Z"),
        True,
        f"{OPERATORS}#Conditions_Date (W3C)",
    ),
    Row(
        _c("DateLessThanEquals", "2026-01"),
        k("2026-01-01T00:00:00.5Z"),
        False,
        f"{OPERATORS}#Conditions_Date",
    ),
    Row(
        _c("DateNotEquals", "2026-01-02"),
        k("2026-01-02T01:00:00+01:00"),
        False,
        f"{OPERATORS}#Conditions_Date",
    ),
    Row(
        _c("DateEquals", "1767312000"),
        k("2026-01-02T00:00:00Z"),
        True,
        f"{OPERATORS}#Conditions_Date (epoch)",
    ),
    Row(_c("DateLessThan", "2026-01-02"), k("yesterday"), False, f"{OPERATORS}#Conditions_Date"),
    Row(_c("Bool", "false"), k("false"), True, f"{OPERATORS}#Conditions_Boolean"),
    Row(_c("Bool", ["true", "false"]), k("false"), True, MULTI_VALUES),
    Row(_c("Null", ["true", "false"]), k("a"), True, MULTI_VALUES),
    Row(
        _c("IpAddress", "203.0.113.9"),
        k("203.0.113.9"),
        True,
        f"{OPERATORS}#Conditions_IPAddress (one address)",
    ),
    Row(
        _c("ArnLike", "arn:aws:iam::1:role/?"),
        k("arn:aws:iam::1:role/a"),
        True,
        f"{OPERATORS}#Conditions_ARN",
    ),
    Row(
        _c("ArnLike", "arn:aws:iam::1:role/A"),
        k("arn:aws:iam::1:role/a"),
        False,
        f"{OPERATORS}#Conditions_ARN",
    ),
    Row(_c("ArnLike", "arn:aws:iam::1:role/a"), k("role/a"), False, f"{OPERATORS}#Conditions_ARN"),
    # Policy variables: version 2012-10-17 only, defaults, literals, and wildcards that stay characters.
    Row(_c("StringEquals", "${aws:username}"), {"k": ("eve",), "aws:username": ("eve",)}, True, VARIABLES),
    Row(_c("StringEquals", "${aws:username}"), {"k": ("eve",), "aws:username": ("bob",)}, False, VARIABLES),
    Row(_c("StringEquals", "${aws:username}"), k("eve"), False, f"{VARIABLES} (no value)"),
    Row(_c("StringEquals", "${aws:username, 'eve'}"), k("eve"), True, f"{VARIABLES} (default values)"),
    Row(
        _c("StringEquals", "${aws:username, 'eve'}"),
        {"k": ("eve",), "aws:username": ("bob",)},
        False,
        f"{VARIABLES} (default values)",
    ),
    Row(_c("StringNotEquals", "${aws:username}"), k("eve"), None, f"{VARIABLES}: {INVALID}"),
    Row(_c("ArnNotLike", "${aws:PrincipalArn}"), k("eve"), None, f"{VARIABLES}: {INVALID}"),
    Row(_c("StringNotEquals", "${aws:username, 'bob'}"), k("eve"), True, f"{VARIABLES} (default values)"),
    Row(
        _c("StringLike", "x${AWS:UserName}*"),
        {"k": ("xevey",), "aws:username": ("eve",)},
        True,
        f"{VARIABLES}: key names are not case-sensitive",
    ),
    Row(_c("StringLike", "${?}"), k("a"), False, f"{VARIABLES} (special characters)"),
    Row(_c("StringLike", "${*}"), k("ab"), False, f"{VARIABLES} (special characters)"),
    Row(_c("StringLike", "${*}"), k("*"), True, f"{VARIABLES} (special characters)"),
    Row(_c("StringLike", "a${$}b"), k("a$b"), True, f"{VARIABLES} (special characters)"),
    Row(
        _c("StringLike", "${aws:username}"),
        {"k": ("ab",), "aws:username": ("a*",)},
        False,
        "assumed: a value is no pattern",
    ),
    Row(
        _c("StringEquals", "${aws:username}"),
        {"k": ("eve",), "aws:username": ("eve",)},
        False,
        f"{VARIABLES} (version)",
        version="2008-10-17",
    ),
]
