"""Strict parser of policy documents.

Grammar: IAM User Guide, "Grammar of the IAM JSON policy language". Everything that is not in the grammar is
an error, duplicate keys included: a policy that two readers could read differently is not evaluated at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from coattest.jsontext import RepeatedName, unique_names
from coattest_verify.keypolicy.iam.conditions import BASE_OPERATORS, check_value
from coattest_verify.keypolicy.iam.match import ESCAPES, VARIABLE
from coattest_verify.keypolicy.iam.model import (
    Condition,
    Policy,
    PolicyError,
    PolicyStatement,
    PrincipalPattern,
    Quantifier,
)

MAX_DOCUMENT_BYTES = 32 * 1024
"""KMS key policies are at most 32 KB (KMS Developer Guide, "Quotas": key policy document size)."""

MAX_DEPTH = 10
"""JSON nesting in a policy is at most statement, condition, operator, value list; anything deeper is
hostile."""

VERSIONS = ("2008-10-17", "2012-10-17")
_ACCOUNT = re.compile(r"[0-9]{12}")
_ACTION = re.compile(r"[A-Za-z0-9-]+:[A-Za-z0-9*?]+|\*")
_UNIQUE_ID = re.compile(r"A[A-Z0-9]{15,127}")
_PRINCIPAL_KINDS = ("AWS", "Service", "Federated", "CanonicalUser")


def parse_policy(document: str | bytes | Mapping[str, Any], *, max_bytes: int = MAX_DOCUMENT_BYTES) -> Policy:
    """Return the parsed policy.

    Raises PolicyError for anything outside the grammar; ``code`` is ``unknown-operator`` for a condition
    operator that is not known here, ``malformed-policy`` otherwise.
    """
    if isinstance(document, (str, bytes)):
        document = _load(document, max_bytes)
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
        version, identifier, tuple(_statement(item, index) for index, item in enumerate(statements))
    )
    _readable(policy)
    return policy


def _readable(policy: Policy) -> None:
    """Refuse the characters of ``match.escape``, and in a policy with variables any other ``${``."""
    for index, statement in enumerate(policy.statements):
        where = f"Statement[{index}]"
        values = (value for condition in statement.conditions for value in condition.values)
        for text in (*statement.resources, *values):
            if ESCAPES & set(text):
                raise PolicyError(
                    f"{text!r} has private-use characters", where=statement.sid or "a statement"
                )
            if policy.variables and "${" in VARIABLE.sub("", text):
                raise PolicyError(f"{text!r}: not a policy variable", where=where)


def _load(text: str | bytes, max_bytes: int) -> Any:
    if len(text.encode() if isinstance(text, str) else text) > max_bytes:
        raise PolicyError(f"the policy is longer than {max_bytes} bytes")
    try:
        value = json.loads(text, object_pairs_hook=unique_names)
    except RepeatedName as error:
        raise PolicyError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the policy is not JSON: {error}") from error
    if _depth(value) > MAX_DEPTH:
        raise PolicyError("the policy is nested too deeply")
    return value


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _only(mapping: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(mapping) - known)
    if unknown:
        raise PolicyError(f"unknown element {unknown[0]}", where=where)


def _statement(raw: Any, index: int) -> PolicyStatement:
    where = f"Statement[{index}]"
    if not isinstance(raw, Mapping):
        raise PolicyError("a statement is a JSON object", where=where)
    _only(
        raw,
        {
            "Sid",
            "Effect",
            "Principal",
            "NotPrincipal",
            "Action",
            "NotAction",
            "Resource",
            "NotResource",
            "Condition",
        },
        where,
    )
    for name in ("Principal", "Action", "Resource"):
        if name in raw and f"Not{name}" in raw:
            raise PolicyError(f"{name} and Not{name} exclude each other", where=where)
    if raw.get("Effect") not in ("Allow", "Deny"):
        raise PolicyError("Effect is Allow or Deny", where=where)
    sid = raw.get("Sid", "")
    if not isinstance(sid, str):
        raise PolicyError("Sid is a string", where=where)
    actions = _strings(_either(raw, "Action", where), f"{where}.Action")
    for action in actions:
        if not _ACTION.fullmatch(action):
            raise PolicyError(f"{action!r} is not an action", where=f"{where}.Action")
    principal = raw.get("Principal", raw.get("NotPrincipal"))
    return PolicyStatement(
        sid=sid,
        allow=raw["Effect"] == "Allow",
        principals=None if principal is None else _principals(principal, f"{where}.Principal"),
        not_principal="NotPrincipal" in raw,
        actions=actions,
        not_action="NotAction" in raw,
        resources=_resources(raw, where),
        not_resource="NotResource" in raw,
        conditions=_conditions(raw.get("Condition", {}), f"{where}.Condition"),
    )


def _either(raw: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in raw and f"Not{name}" not in raw:
        raise PolicyError(f"a statement has {name} or Not{name}", where=where)
    return raw.get(name, raw.get(f"Not{name}"))


def _resources(raw: Mapping[str, Any], where: str) -> tuple[str, ...]:
    # A role's trust policy has no Resource: it is about the role it is attached to.
    if "Resource" not in raw and "NotResource" not in raw and ("Principal" in raw or "NotPrincipal" in raw):
        return ("*",)
    resources = _strings(_either(raw, "Resource", where), f"{where}.Resource")
    for resource in resources:
        if resource != "*" and not resource.startswith(("arn:", "*")):
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
    _only(value, set(_PRINCIPAL_KINDS), where)
    return tuple(
        _principal(kind, item, where)
        for kind, items in value.items()
        for item in _strings(items, f"{where}.{kind}")
    )


def _principal(kind: str, value: str, where: str) -> PrincipalPattern:
    if kind != "AWS":
        return PrincipalPattern(kind, value)
    if _ACCOUNT.fullmatch(value):
        # IAM User Guide, "AWS account principals": the account id is a short form of the root ARN.
        return PrincipalPattern(kind, f"arn:aws:iam::{value}:root")
    if value != "*" and ("*" in value or "?" in value):
        # IAM User Guide, "Principal": a wildcard cannot match part of a name or ARN.
        raise PolicyError(f"{value!r}: no wildcard inside a principal", where=where)
    if value != "*" and not value.startswith("arn:") and not _UNIQUE_ID.fullmatch(value):
        raise PolicyError(f"{value!r} is not a principal", where=where)
    return PrincipalPattern(kind, value)


def _conditions(raw: Any, where: str) -> tuple[Condition, ...]:
    if not isinstance(raw, Mapping):
        raise PolicyError("Condition is a JSON object", where=where)
    found = []
    for name, keys in raw.items():
        if not isinstance(keys, Mapping) or not keys:
            raise PolicyError("a condition operator maps keys to values", where=f"{where}.{name}")
        quantifier, operator, if_exists = _operator(name, where)
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
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        return value
    raise PolicyError("a condition value is a string, number or boolean", where=where)
