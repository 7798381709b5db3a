"""What a reader of a policy should know beside the answers. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from coattest_verify.keypolicy.iam import KMS, Policy


def policy_notes(policy: Policy) -> tuple[str, ...]:
    """Statements without effect, and condition keys that no request to KMS has."""
    return tuple(dict.fromkeys(_notes(policy)))


def _notes(policy: Policy) -> Iterator[str]:
    for index, statement in enumerate(policy.statements):
        name = f"statement {statement.sid or index + 1}"
        if not statement.has_effect:
            missing = "Resource" if statement.actions else "Action"
            yield f"{name} has no {missing}: KMS takes it, and it has no effect"
        for key in (each.key for each in statement.conditions if KMS.never_sent(each.key)):
            yield f"{name}: {key} is not a condition key of KMS (AWS's list of {KMS.date}): no request has it"
