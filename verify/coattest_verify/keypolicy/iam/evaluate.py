"""One policy, one request: does a statement allow, does one deny.

Sources: IAM User Guide, "Policy evaluation logic" (an explicit deny wins, the default is deny), "AWS JSON
policy elements: Principal" (roles and their sessions, accounts), "NotPrincipal"; KMS Developer Guide,
"Default key policy" (a statement for the account enables IAM policies, it does not allow by itself).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from coattest_verify.keypolicy.iam import conditions, match
from coattest_verify.keypolicy.iam.model import Policy, PolicyStatement, PrincipalPattern


class Effect(enum.Enum):
    """What a policy says of a request."""

    ALLOW = "allow"
    EXPLICIT_DENY = "explicit-deny"
    IMPLICIT_DENY = "implicit-deny"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of a request.

    ``arn`` is the caller's own ARN (for a role's session ``arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION``),
    ``role_arn`` the role behind a session, ``unique_id`` the AIDA.. or AROA.. id where it is known. ``kind``
    is that of a Principal element; for other kinds than ``AWS`` the ``arn`` is the element's value, such as
    a service's name.
    """

    arn: str
    account: str
    role_arn: str | None = None
    unique_id: str | None = None
    partition: str = "aws"
    kind: str = "AWS"

    @property
    def root_arn(self) -> str:
        """The ARN that names the caller's account."""
        return f"arn:{self.partition}:iam::{self.account}:root"

    @property
    def is_root(self) -> bool:
        """Whether the caller is the account's root user."""
        return self.arn == self.root_arn

    @property
    def principal_arn(self) -> str:
        """The value of aws:PrincipalArn: a session's role, not the session."""
        return self.role_arn or self.arn

    @property
    def identities(self) -> frozenset[str]:
        """Every name by which a policy can mean exactly this caller, the account left out."""
        return frozenset(name for name in (self.arn, self.role_arn, self.unique_id) if name)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``context`` maps condition keys (any case) to values; a key without values is absent."""

    principal: Principal
    action: str
    resource: str
    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def lowered(self) -> dict[str, tuple[str, ...]]:
        """The context with its keys in lower case. Keys are not case-sensitive ("Condition keys")."""
        merged: dict[str, tuple[str, ...]] = {}
        for key, values in self.context.items():
            merged[key.lower()] = merged.get(key.lower(), ()) + tuple(values)
        return merged


@dataclass(frozen=True, slots=True)
class Assessment:
    """What one policy says, and which statements (by index) say it.

    ``allowed_by`` names the caller or everyone; ``delegated_by`` names the caller's account only, which lets
    that account's own policies decide; ``denied_by`` wins over both.
    """

    allowed_by: tuple[int, ...]
    delegated_by: tuple[int, ...]
    denied_by: tuple[int, ...]

    @property
    def effect(self) -> Effect:
        """Deny wins. A statement that names the caller or everyone allows; one for the account does not."""
        if self.denied_by:
            return Effect.EXPLICIT_DENY
        return Effect.ALLOW if self.allowed_by else Effect.IMPLICIT_DENY


def evaluate(policy: Policy, request: Request) -> Effect:
    """What the policy alone says of the request. A statement for the account alone does not allow."""
    return assess(policy, request).effect


def assess(policy: Policy, request: Request) -> Assessment:
    """What the policy says of the request, statement by statement."""
    context = request.lowered()
    allowed, delegated, denied = [], [], []
    for index, statement in enumerate(policy.statements):
        if not applies(statement, request, context, policy.variables):
            continue
        if not statement.allow:
            denied.append(index)
        elif names_caller(statement, request.principal):
            allowed.append(index)
        else:
            delegated.append(index)
    return Assessment(tuple(allowed), tuple(delegated), tuple(denied))


def applies(
    statement: PolicyStatement, request: Request, context: Mapping[str, tuple[str, ...]], variables: bool
) -> bool:
    """Whether principal, action, resource and every condition of the statement match the request."""
    return (
        principal_matches(statement, request.principal)
        and action_matches(statement, request.action)
        and _resource_matches(statement, request.resource, context, variables)
        and all(conditions.holds(condition, context, variables) for condition in statement.conditions)
    )


def names_caller(statement: PolicyStatement, principal: Principal) -> bool:
    """Whether a statement that applies names the caller or everyone, not only the caller's account."""
    if statement.principals is None or statement.not_principal or principal.is_root:
        return True
    return any(pattern.is_anyone or pattern.value in principal.identities for pattern in statement.principals)


def principal_matches(statement: PolicyStatement, principal: Principal) -> bool:
    """Whether the Principal or NotPrincipal element covers a caller, by name or by account."""
    if statement.principals is None:
        return True
    if statement.not_principal:
        # "AWS JSON policy elements: NotPrincipal": to leave a caller out, its account, its role and its
        # session must all be listed; if one of them is missing, the statement still applies.
        listed = {pattern.value for pattern in statement.principals if pattern.kind == principal.kind}
        if principal.kind != "AWS":
            return principal.arn not in listed
        required = {principal.root_arn, principal.arn, principal.role_arn or principal.arn}
        return "*" not in listed and not required <= listed
    return any(_names(pattern, principal) for pattern in statement.principals)


def _names(pattern: PrincipalPattern, principal: Principal) -> bool:
    if pattern.is_anyone:
        return True
    if pattern.kind != principal.kind:
        return False
    return pattern.value in principal.identities or pattern.value == principal.root_arn


def action_matches(statement: PolicyStatement, action: str) -> bool:
    """Whether the Action or NotAction element covers an action."""
    listed = any(match.action(pattern, action) for pattern in statement.actions)
    return listed is not statement.not_action


def _resource_matches(
    statement: PolicyStatement, resource: str, context: Mapping[str, tuple[str, ...]], variables: bool
) -> bool:
    patterns = [match.substitute(pattern, context, variables) for pattern in statement.resources]
    listed = any(pattern is not None and match.arn(pattern, resource) for pattern in patterns)
    return listed is not statement.not_resource
