"""What a reader of a policy should know beside the answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from coattest_verify.keypolicy.iam import KMS, Policy, PolicyStatement

_OURS = re.compile(r"coattest(?:-[0-9a-f]{64})+")
"""The Id of a policy that ``verify policy make`` made: the decisions' digests."""

_ADMINISTER = ("Administer", "BreakGlass")
_ENCRYPT = ("Encrypt",)


@dataclass(frozen=True, slots=True)
class Roles:
    """Who is meant to do what."""

    administrators: tuple[str, ...]
    encrypters: tuple[str, ...]


def roles_of(policy: Policy) -> Roles | None:
    """The roles that a policy of ours names in its own statements, or None for another policy.

    The policy says so itself: who relies on it must look at the names.
    """
    if policy.id is None or not _OURS.fullmatch(policy.id):
        return None
    return Roles(_named(policy, _ADMINISTER), _named(policy, _ENCRYPT))


def _named(policy: Policy, sids: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(
            principal.value
            for statement in policy.statements
            if statement.sid in sids and statement.allow and not statement.not_principal
            for principal in statement.principals or ()
            if principal.kind == "AWS" and not principal.is_anyone and not principal.is_account
        )
    )


def policy_notes(policy: Policy) -> tuple[str, ...]:
    """Statements without effect, and condition keys that no request to KMS has."""
    return tuple(dict.fromkeys(_notes(policy)))


def _notes(policy: Policy) -> Iterator[str]:
    for index, statement in enumerate(policy.statements):
        name = f"statement {statement.sid or index + 1}"
        if not statement.has_effect:
            missing = "Resource" if statement.actions else "Action"
            yield f"{name} has no {missing}: KMS takes it, and it has no effect"
        for key in _never_sent(statement):
            yield f"{name}: {key} is no condition key of KMS (AWS's list of {KMS.date}): no request has it"


def _never_sent(statement: PolicyStatement) -> list[str]:
    return [condition.key for condition in statement.conditions if KMS.never_sent(condition.key)]
