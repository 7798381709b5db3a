"""The frozen types of a parsed policy."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from coattest.errors import UsageError


class PolicyError(UsageError):
    """A policy does not parse, or uses something that is not known here. Never read as permission."""

    default_code = "malformed-policy"


class Quantifier(enum.Enum):
    """The set operator in front of a condition operator."""

    NONE = ""
    ANY = "ForAnyValue"
    ALL = "ForAllValues"


@dataclass(frozen=True, slots=True)
class PrincipalPattern:
    """One entry of a ``Principal`` or ``NotPrincipal`` element.

    ``kind`` is ``AWS``, ``Service``, ``Federated`` or ``CanonicalUser``; ``value`` is ``*``, an account as
    ``arn:PARTITION:iam::ACCOUNT:root``, another ARN, a unique id (``AROA..``) or a service name.
    ``short`` where the policy has an account's number alone, which names the account of whatever partition
    the key is in; ``value`` is then its ARN in ``aws``.
    """

    kind: str
    value: str
    short: bool = field(default=False, compare=False)

    @property
    def is_anyone(self) -> bool:
        """Whether this is ``*``: every caller, of any account."""
        return self.kind == "AWS" and self.value == "*"

    @property
    def is_account(self) -> bool:
        """Whether this names an account as a whole."""
        return self.kind == "AWS" and self.value.endswith(":root") and ":iam::" in self.value


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator, one key, its values. All conditions of a statement must hold."""

    quantifier: Quantifier
    operator: str
    if_exists: bool
    key: str
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """The operator as it is written in a policy, such as ``ForAllValues:StringEqualsIfExists``."""
        prefix = f"{self.quantifier.value}:" if self.quantifier is not Quantifier.NONE else ""
        return f"{prefix}{self.operator}{'IfExists' if self.if_exists else ''}"


@dataclass(frozen=True, slots=True)
class PolicyStatement:
    """One statement. ``principals`` is None in a policy that is attached to an identity; ``actions`` or
    ``resources`` is empty where the element is missing.
    """

    sid: str
    allow: bool
    principals: tuple[PrincipalPattern, ...] | None
    not_principal: bool
    actions: tuple[str, ...]
    not_action: bool
    resources: tuple[str, ...]
    not_resource: bool
    conditions: tuple[Condition, ...]

    @property
    def has_effect(self) -> bool:
        """Whether it says anything. KMS API Reference, "PutKeyPolicy", Policy: "If either of the required
        Resource or Action elements are missing from a key policy statement, the policy statement has no
        effect."
        """
        return bool(self.actions and self.resources)


class PolicyKind(enum.Enum):
    """What a policy is attached to: that decides which elements a statement must have."""

    KEY = "key"
    TRUST = "trust"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy document. ``variables`` tells whether ``${..}`` is substituted (Version 2012-10-17)."""

    version: str
    id: str | None
    statements: tuple[PolicyStatement, ...]

    @property
    def variables(self) -> bool:
        """Whether policy variables are substituted. IAM User Guide, "Policy elements: Version"."""
        return self.version == "2012-10-17"
