"""Strict parser of policy documents.

Grammar: IAM User Guide, "Grammar of the IAM JSON policy language". Everything that is not in the grammar is
an error, duplicate keys included: a policy that two readers could read differently is not evaluated at all.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coattest.jsontext import RepeatedName, unique_names
from coattest_verify.keypolicy.iam.actions import ATTESTATION
from coattest_verify.keypolicy.iam.conditions import BASE_OPERATORS, check_value
from coattest_verify.keypolicy.iam.match import BadVariable, ascii_lower, parts_of
from coattest_verify.keypolicy.iam.model import (
    Condition,
    Policy,
    PolicyError,
    PolicyKind,
    PolicyStatement,
    PrincipalPattern,
    Quantifier,
)
from coattest_verify.keypolicy.iam.names import (
    PRINCIPAL_KINDS,
    principal,
    refuse_placeholder,
    refuse_placeholder_arn,
)

MAX_DOCUMENT_BYTES = 32 * 1024
"""KMS key policies are at most 32 KB (KMS Developer Guide, "Quotas": key policy document size)."""

VERSIONS = ("2008-10-17", "2012-10-17")
_ACTION = re.compile(r"[A-Za-z0-9-]+:[A-Za-z0-9*?]+|\*")
_ELEMENTS = {"Sid", "Effect", "Condition"} | {
    f"{no}{name}" for no in ("", "Not") for name in ("Principal", "Action", "Resource")
}
_ACCOUNT_KEYS = ("aws:principalaccount", "aws:sourceaccount", "kms:calleraccount")
_ARN_KEYS = ("aws:principalarn", "aws:sourcearn")


def parse_policy(
    document: str | bytes | Mapping[str, Any],
    *,
    kind: PolicyKind = PolicyKind.KEY,
) -> Policy:
    """Return the parsed policy.

    Raises PolicyError for anything outside the grammar; ``code`` is ``unknown-operator`` for a condition
    operator that is not known here, ``placeholder`` for a word that somebody was meant to replace,
    ``malformed-policy`` otherwise.
    """
    if isinstance(document, (str, bytes)):
        document = _load(document)
    if not isinstance(document, Mapping):
        raise PolicyError("a policy is a JSON object")
    _only(document, {"Version", "Id", "Statement"}, "policy")
    version = document.get("Version", "2008-10-17")
    if version not in VERSIONS:
        raise PolicyError("the Version of a policy is 2012-10-17 or 2008-10-17", where="Version")
    identifier = document.get("Id")
    if identifier is not None and not isinstance(identifier, str):
        raise PolicyError("Id is a string", where="Id")
    raw = document.get("Statement")
    statements = [raw] if isinstance(raw, Mapping) else raw
    if not isinstance(statements, (list, tuple)) or not statements:
        raise PolicyError("a policy has at least one statement", where="Statement")
    policy = Policy(
        version, identifier, tuple(_statement(item, index, kind) for index, item in enumerate(statements))
    )
    _readable(policy)
    return policy


@dataclass(frozen=True, slots=True)
class _Fraction:
    """A number of a document with a point or an exponent, as it is written: a float would round it."""

    text: str


def _readable(policy: Policy) -> None:
    """Refuse what is no text, placeholders, and in a policy with variables any other ``${``."""
    for index, statement in enumerate(policy.statements):
        where = f"Statement[{index}]"
        for text in (statement.sid, *statement.actions, *(p.value for p in statement.principals or ())):
            _unicode(text, where)
        for resource in statement.resources:
            refuse_placeholder_arn(resource, f"{where}.Resource")
            _check_text(resource, f"{where}.Resource", policy.variables)
        for condition in statement.conditions:
            place = f"{where}.Condition.{condition.name}.{condition.key}"
            _unicode(condition.key, where)
            key = ascii_lower(condition.key)
            for value in condition.values:
                if key in _ARN_KEYS:
                    refuse_placeholder_arn(value, place)
                else:
                    refuse_placeholder(value, place, anywhere=key.startswith((ATTESTATION, *_ACCOUNT_KEYS)))
                _check_text(value, place, policy.variables)


def _check_text(text: str, where: str, variables: bool) -> None:
    _unicode(text, where)
    try:
        parts_of(text, variables)
    except BadVariable as error:
        raise PolicyError(f"{text!r}: not a policy variable", where=where) from error


def _unicode(text: str, where: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PolicyError(f"{text!r} is not Unicode text", where=where)


def _load(text: str | bytes) -> Any:
    if len(text.encode(errors="surrogatepass") if isinstance(text, str) else text) > MAX_DOCUMENT_BYTES:
        raise PolicyError(f"the policy is longer than {MAX_DOCUMENT_BYTES} bytes")
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=unique_names, parse_float=_Fraction)
    except RepeatedName as error:
        raise PolicyError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the policy is not JSON: {error}") from error


def _only(mapping: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(mapping) - known)
    if unknown:
        raise PolicyError(f"unknown element {unknown[0]}", where=where)


def _statement(raw: Any, index: int, kind: PolicyKind) -> PolicyStatement:
    where = f"Statement[{index}]"
    if not isinstance(raw, Mapping):
        raise PolicyError("a statement is a JSON object", where=where)
    _only(raw, _ELEMENTS, where)
    for name in ("Principal", "Action", "Resource"):
        if name in raw and f"Not{name}" in raw:
            raise PolicyError(f"{name} and Not{name} exclude each other", where=where)
    if raw.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError("Effect is Allow or Deny", where=where)
    sid = raw.get("Sid", "")
    if not isinstance(sid, str):
        raise PolicyError("Sid is a string", where=where)
    actions = _listed_in(raw, "Action", where, required=kind is not PolicyKind.KEY)
    for action in actions:
        if not _ACTION.fullmatch(action):
            raise PolicyError(f"{action!r} is not an action", where=f"{where}.Action")
    named = raw.get("Principal", raw.get("NotPrincipal"))
    if named is None and kind is not PolicyKind.OTHER:
        # KMS API Reference, "PutKeyPolicy": "Each statement in the key policy must contain one or more
        # principals."
        raise PolicyError("a statement has Principal or NotPrincipal", where=where)
    return PolicyStatement(
        sid=sid,
        allow=raw["Effect"] == "Allow",
        principals=None if named is None else _principals(named, f"{where}.Principal"),
        not_principal="NotPrincipal" in raw,
        actions=actions,
        not_action="NotAction" in raw,
        resources=_resources(raw, where, kind),
        not_resource="NotResource" in raw,
        conditions=_conditions(raw.get("Condition", {}), f"{where}.Condition"),
    )


def _listed_in(raw: Mapping[str, Any], name: str, where: str, *, required: bool) -> tuple[str, ...]:
    """An element or its negation. A key policy may lack it: KMS takes it, and ignores the statement."""
    if name not in raw and f"Not{name}" not in raw:
        if required:
            raise PolicyError(f"a statement has {name} or Not{name}", where=where)
        return ()
    return _strings(raw.get(name, raw.get(f"Not{name}")), f"{where}.{name}")


def _resources(raw: Mapping[str, Any], where: str, kind: PolicyKind) -> tuple[str, ...]:
    if kind is PolicyKind.TRUST:
        # A role's trust policy has no Resource: it is about the role it is attached to.
        if "Resource" in raw or "NotResource" in raw:
            raise PolicyError("a trust policy has no Resource", where=where)
        return ("*",)
    resources = _listed_in(raw, "Resource", where, required=kind is PolicyKind.OTHER)
    for resource in resources:
        if resource != "*" and not resource.startswith(("arn:", "*")):
            refuse_placeholder(resource, f"{where}.Resource")
            raise PolicyError(f"{resource!r} is not an ARN", where=f"{where}.Resource")
    return resources


def _strings(value: Any, where: str) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if (
        not isinstance(values, (list, tuple))
        or not values
        or not all(isinstance(item, str) for item in values)
    ):
        raise PolicyError("expected a string or a list of strings", where=where)
    return tuple(values)


def _principals(value: Any, where: str) -> tuple[PrincipalPattern, ...]:
    if value == "*":
        return (PrincipalPattern("AWS", "*"),)
    if not isinstance(value, Mapping) or not value:
        raise PolicyError('a principal is "*" or a JSON object', where=where)
    _only(value, set(PRINCIPAL_KINDS), where)
    return tuple(
        principal(kind, item, where)
        for kind, items in value.items()
        for item in _strings(items, f"{where}.{kind}")
    )


def _conditions(raw: Any, where: str) -> tuple[Condition, ...]:
    if not isinstance(raw, Mapping):
        raise PolicyError("Condition is a JSON object", where=where)
    found = []
    for name, keys in raw.items():
        if not isinstance(keys, Mapping) or not keys:
            raise PolicyError("a condition operator maps keys to values", where=f"{where}.{name}")
        quantifier, operator, if_exists = _operator(name, where)
        if len({ascii_lower(key) for key in keys}) != len(keys):
            # IAM User Guide, "Access Analyzer policy check reference": "Duplicate keys with different case".
            raise PolicyError("condition keys that differ in case only", where=f"{where}.{name}")
        for key, values in keys.items():
            listed = tuple(_scalar(value, f"{where}.{name}.{key}") for value in _listed(values))
            if not listed:
                raise PolicyError("a condition has at least one value", where=f"{where}.{name}.{key}")
            for value in listed:
                check_value(operator, value, f"{where}.{name}.{key}")
            found.append(Condition(quantifier, operator, if_exists, key, listed))
    return tuple(found)


def _operator(name: str, where: str) -> tuple[Quantifier, str, bool]:
    quantifier, rest = Quantifier.NONE, name
    for candidate in (Quantifier.ANY, Quantifier.ALL):
        if name.startswith(f"{candidate.value}:"):
            quantifier, rest = candidate, name[len(candidate.value) + 1 :]
    if_exists = rest.endswith("IfExists")
    base = rest[: -len("IfExists")] if if_exists else rest
    if base not in BASE_OPERATORS or (base == "Null" and (if_exists or quantifier is not Quantifier.NONE)):
        raise PolicyError(f"unknown condition operator {name}", where=where, code="unknown-operator")
    return quantifier, base, if_exists


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple)) else [values]


def _scalar(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Fraction) or (isinstance(value, float) and math.isfinite(value)):
        text = value.text if isinstance(value, _Fraction) else str(value)
        if "e" in text.lower():
            # Which text AWS makes of it, and compares, is not documented.
            raise PolicyError(f"{text} has an exponent", where=where, hint="write its digits, as a string")
        return text
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return value
    raise PolicyError("a condition value is a string, number or boolean", where=where)
