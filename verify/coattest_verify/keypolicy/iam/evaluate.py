"""One policy, one request: does a statement allow, does one deny, and what do AWS's documents leave open.

Sources: IAM User Guide, "Policy evaluation logic" (an explicit deny wins, the default is deny), "AWS JSON
policy elements: Principal" (roles and their sessions, accounts), "NotPrincipal"; KMS Developer Guide,
"Default key policy" (a statement for the account enables IAM policies, it does not allow by itself).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from coattest.errors import require_kind
from coattest_verify.keypolicy.iam import conditions, match
from coattest_verify.keypolicy.iam.model import Policy, PolicyStatement, PrincipalPattern
from coattest_verify.keypolicy.iam.reading import Doubt, Reading, Ternary, every, some, ternary


class Effect(enum.Enum):
    """What a policy says of a request; OPEN where AWS's documents leave it open."""

    ALLOW = "allow"
    EXPLICIT_DENY = "explicit-deny"
    IMPLICIT_DENY = "implicit-deny"
    OPEN = "open"

    def __bool__(self) -> bool:
        return self is Effect.ALLOW


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of a request.

    ``arn`` is the caller's own ARN (for a role's session ``arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION``),
    ``role_arn`` the role behind a session, ``unique_id`` the AIDA.. or AROA.. id where it is known.
    ``user_arn`` is the user who made a federated session (GetFederationToken), whose own ARN is
    ``arn:aws:sts::ACCOUNT:federated-user/NAME``. ``kind`` is that of a Principal element; for other kinds
    than ``AWS`` the ``arn`` is the element's value, such as a service's name.
    """

    arn: str
    account: str
    role_arn: str | None = None
    unique_id: str | None = None
    partition: str = "aws"
    kind: str = "AWS"
    user_arn: str | None = None

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
        names = (self.arn, self.role_arn, self.user_arn, self.unique_id)
        return frozenset(name for name in names if name)


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
            merged[match.ascii_lower(key)] = merged.get(match.ascii_lower(key), ()) + tuple(values)
        return merged


def attested_context(registers: Mapping[int, str], pairs: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The condition keys of a request under an encryption context with these ``pairs``, with a document that
    has these registers (hex by index), or without one when there are none.
    """
    measured = {f"PCR{index}": value for index, value in registers.items()}
    measured |= {"ImageSha384": registers[0]} if 0 in registers else {}
    return {
        **{f"kms:RecipientAttestation:{name}": (value,) for name, value in measured.items()},
        **{f"kms:EncryptionContext:{key}": (value,) for key, value in pairs.items()},
        "kms:EncryptionContextKeys": tuple(pairs),
    }


@dataclass(frozen=True, slots=True)
class Assessment:
    """What one policy says, and which statements (by index) say it.

    ``allowed_by`` names the caller or everyone; ``delegated_by`` names the caller's account only, which lets
    that account's own policies decide; ``denied_by`` wins over both. ``perhaps_granted_by`` (allowed or
    delegated) and ``perhaps_denied_by`` are the statements of which AWS's documents do not say whether they
    apply, and ``doubts`` says why.
    """

    allowed_by: tuple[int, ...] = ()
    delegated_by: tuple[int, ...] = ()
    denied_by: tuple[int, ...] = ()
    perhaps_granted_by: tuple[int, ...] = ()
    perhaps_denied_by: tuple[int, ...] = ()
    doubts: tuple[Doubt, ...] = ()

    @property
    def effect(self) -> Effect:
        """Deny wins. A statement that names the caller or everyone allows; one for the account does not."""
        if self.denied_by:
            return Effect.EXPLICIT_DENY
        granted = self.allowed_by or self.delegated_by or self.perhaps_granted_by
        if granted and (self.perhaps_denied_by or (self.perhaps_granted_by and not self.allowed_by)):
            return Effect.OPEN
        return Effect.ALLOW if self.allowed_by else Effect.IMPLICIT_DENY

    @property
    def granted(self) -> Ternary:
        """Whether the policy allows or delegates it."""
        if self.denied_by:
            return Ternary.NO
        if not (self.allowed_by or self.delegated_by):
            return Ternary.OPEN if self.perhaps_granted_by else Ternary.NO
        return Ternary.OPEN if self.perhaps_denied_by else Ternary.YES


def evaluate(policy: Policy, request: Request) -> Effect:
    """What the policy alone says of the request. A statement for the account alone does not allow."""
    return assess(policy, request).effect


def assess(policy: Policy, request: Request) -> Assessment:
    """What the policy says of the request, statement by statement."""
    require_kind(policy, Policy, "policy", hint="parse_policy(..)")
    require_kind(request, Request, "request")
    require_kind(request.principal, Principal, "request.principal")
    reading = Reading(request.lowered(), policy.variables)
    allowed, delegated, denied = [], [], []
    perhaps_granted: list[int] = []
    perhaps_denied: list[int] = []
    for index, statement in enumerate(policy.statements):
        answer = applies(statement, request, reading)
        if answer is Ternary.NO:
            continue
        if answer is Ternary.OPEN:
            (perhaps_granted if statement.allow else perhaps_denied).append(index)
        elif not statement.allow:
            denied.append(index)
        elif names_caller(statement, request.principal):
            allowed.append(index)
        else:
            delegated.append(index)
    return Assessment(
        tuple(allowed),
        tuple(delegated),
        tuple(denied),
        tuple(perhaps_granted),
        tuple(perhaps_denied),
        tuple(sorted(reading.doubts)) if perhaps_granted or perhaps_denied else (),
    )


def applies(statement: PolicyStatement, request: Request, reading: Reading) -> Ternary:
    """Whether principal, action, resource and every condition of the statement match the request."""
    if not statement.has_effect or not action_matches(statement, request.action):
        return Ternary.NO
    mine = Reading(reading.context, reading.variables)
    answer = every(
        [
            principal_matches(statement, request.principal, mine),
            resource_matches(statement, request.resource, mine),
            *(conditions.holds(condition, mine) for condition in statement.conditions),
        ]
    )
    if answer is Ternary.OPEN:
        reading.doubts |= mine.doubts
    return answer


def names_caller(statement: PolicyStatement, principal: Principal) -> bool:
    """Whether a statement that applies names the caller or everyone, not only the caller's account."""
    if statement.principals is None or statement.not_principal or principal.is_root:
        return True
    return any(pattern.is_anyone or pattern.value in principal.identities for pattern in statement.principals)


_FOR_TRUST = (
    "KMS's guide names accounts, users, roles and services as principals of a key policy, and not this one",
    "name the role or the account",
)


def principal_matches(statement: PolicyStatement, principal: Principal, reading: Reading) -> Ternary:
    """Whether the Principal or NotPrincipal element covers a caller, by name or by account."""
    if statement.principals is None:
        return Ternary.YES
    if statement.not_principal:
        return _not_principal(statement.principals, principal, reading)
    return some(_names(pattern, principal, statement.allow, reading) for pattern in statement.principals)


def _not_principal(
    listed_patterns: tuple[PrincipalPattern, ...], principal: Principal, reading: Reading
) -> Ternary:
    """ "AWS JSON policy elements: NotPrincipal": "you must also specify the account ARN of the not-denied
    principal. Otherwise, the policy might deny access to the entire account"; for a session "include both the
    ARN for a role and the ARN for the account containing that role", while the Knowledge Center's article on
    explicit denies says that "you must list the role session name" of each session too.
    """
    if any(pattern.is_anyone for pattern in listed_patterns):
        return Ternary.NO
    listed = {
        principal.root_arn if _is_account_of(pattern, principal) else pattern.value
        for pattern in listed_patterns
        if pattern.kind == principal.kind
    }
    if principal.kind != "AWS":
        if principal.arn in listed or not listed:
            return ternary(not listed)
        return reading.open(
            f"NotPrincipal {principal.kind} {', '.join(sorted(listed))}",
            'a service has several names ("aws:PrincipalServiceNamesList")',
            'write Principal "*" with a condition on aws:PrincipalServiceNamesList',
        )
    names = {principal.root_arn, *principal.identities}
    whole = {principal.root_arn, principal.arn, *filter(None, [principal.role_arn, principal.user_arn])}
    if whole <= listed:
        return Ternary.NO
    if not names & listed:
        return some(_perhaps_of(pattern, principal, reading) for pattern in listed_patterns).opposite()
    return reading.open(
        f"NotPrincipal without all of {', '.join(sorted(whole))}",
        'AWS says only that such a statement "might" reach a principal whose account, role or session is not '
        "listed",
        'write Principal "*" with ArnNotEquals on aws:PrincipalArn',
    )


def _names(pattern: PrincipalPattern, principal: Principal, allow: bool, reading: Reading) -> Ternary:
    if pattern.is_anyone:
        return Ternary.YES
    if pattern.kind != principal.kind:
        return _perhaps_of(pattern, principal, reading)
    if principal.user_arn and pattern.value in (principal.user_arn, principal.unique_id) and not allow:
        # "Session policies": permissions for the user's ARN are added before the session is created. Of what
        # is denied to that ARN the page says nothing.
        return reading.open(
            f"Principal {pattern.value}",
            "AWS does not say whether a Deny for a user reaches the sessions of GetFederationToken",
            "deny the account, or everybody",
        )
    return ternary(pattern.value in principal.identities or _is_account_of(pattern, principal))


def _is_account_of(pattern: PrincipalPattern, principal: Principal) -> bool:
    """Whether an entry names the caller's account; by its number alone in any partition."""
    if principal.kind != "AWS" or pattern.kind != "AWS":
        return False
    number = pattern.value.split(":")[4] if pattern.short else None
    return pattern.value == principal.root_arn or number == principal.account


def _perhaps_of(pattern: PrincipalPattern, principal: Principal, reading: Reading) -> Ternary:
    """Whether an entry of another kind can mean a caller of AWS: a role's session by whose identity provider
    it was made, an account by its canonical user id.
    """
    made = principal.role_arn is not None or pattern.kind == "CanonicalUser"
    if principal.kind == "AWS" and made and pattern.kind in ("Federated", "CanonicalUser"):
        return reading.open(f"Principal {pattern.kind} {pattern.value}", *_FOR_TRUST)
    return Ternary.NO


def action_matches(statement: PolicyStatement, action: str) -> bool:
    """Whether the Action or NotAction element covers an action."""
    listed = any(match.action(pattern, action) for pattern in statement.actions)
    return listed is not statement.not_action


def resource_matches(statement: PolicyStatement, resource: str, reading: Reading) -> Ternary:
    """Whether the Resource or NotResource element covers a resource."""
    listed = some([one_resource(statement, text, resource, reading) for text in statement.resources])
    return listed.opposite() if statement.not_resource else listed


def one_resource(statement: PolicyStatement, text: str, resource: str, reading: Reading) -> Ternary:
    """Whether a resource is the one that an entry of the statement's element names."""
    element = f"{'NotResource' if statement.not_resource else 'Resource'} {text}"
    parts = match.resolve(match.parts_of(text, reading.variables), reading.context)
    if parts is None:
        if not statement.not_resource:
            return Ternary.NO
        return reading.open(
            element,
            'AWS says that a variable without a value "might cause the entire statement to be invalid"',
            "give the variable a default",
        )
    full = match.completed(parts)
    crosses = match.crosses_at_ends(parts, resource) or match.crosses_at_ends(full, resource)
    # "If the * wildcard is the last character of a resource ARN segment, it can expand to match beyond the
    # colon boundaries."
    if text == "*" or match.by_segments(full, resource) or (crosses and permits_by_matching(statement)):
        return Ternary.YES
    if crosses or match.glob(parts, resource) or match.glob(full, resource):
        return reading.open(
            element,
            'AWS says only that a * at the end of a part of an ARN "can" match beyond the colons',
            'write "*", or an ARN with all six parts',
        )
    return Ternary.NO


def permits_by_matching(statement: PolicyStatement) -> bool:
    """Whether more is permitted when a resource is listed: an Allow's Resource, a Deny's NotResource."""
    return statement.allow is not statement.not_resource
