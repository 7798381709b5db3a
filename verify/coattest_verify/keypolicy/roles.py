"""Who is meant to do what, read from a policy of ours, which is first made again and compared. Pure.

A policy can claim any decision in its Id, and name anybody "Administer". Ours is only the one that
``generate`` makes of decisions which the caller recomputed, with the names and conditions that stand in it.
Whether the names are the right ones no policy can say: they are shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from coattest.errors import CoattestError
from coattest_verify.keypolicy.compare import policy_differences
from coattest_verify.keypolicy.generate import (
    ContextRules,
    PolicyOptions,
    generate_policy,
    policy_id,
    policy_text,
)
from coattest_verify.keypolicy.iam import Condition, Policy, PolicyStatement, parse_policy
from coattest_verify.quorum.decision import Decision

_INDEX = re.compile(r"[0-9]{1,2}", re.ASCII)
_CONTEXT = "kms:EncryptionContext:"
_UNTIL = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Roles:
    """Who is meant to do what."""

    administrators: tuple[str, ...]
    encrypters: tuple[str, ...]


def roles_of(policy: Policy, decisions: Sequence[Decision], *, now: datetime) -> Roles | None:
    """The roles that a policy of ours names, or None for one that these decisions do not make."""
    if not decisions or policy.id != policy_id(decisions):
        return None
    administrators, encrypters = _named(policy, "Administer"), _named(policy, "Encrypt")
    break_glass = _named(policy, "BreakGlass")
    if not administrators or len(break_glass) > 1:
        return None
    for options in _options(policy, *break_glass):
        try:
            made = generate_policy(
                decisions,
                account=administrators[0].split(":")[4],
                parent_roles=_principals(_decrypts(policy)),
                administrators=administrators,
                encrypters=encrypters,
                now=now,
                context=_context_rules(policy),
                partition=administrators[0].split(":")[1],
                simulator=True,
                options=options,
            )
        except (CoattestError, IndexError):
            continue
        if not policy_differences(parse_policy(policy_text(made)), policy):
            return Roles((*administrators, *break_glass), encrypters)
    return None


def _named(policy: Policy, sid: str) -> tuple[str, ...]:
    return _principals(item for item in policy.statements if item.allow and item.sid == sid)


def _principals(statements: Iterable[PolicyStatement]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(pattern.value for item in statements for pattern in item.principals or ()))


def _decrypts(policy: Policy) -> list[PolicyStatement]:
    return [item for item in policy.statements if item.allow and item.sid.startswith("Decrypt")]


def _conditions(policy: Policy, name: str) -> Iterator[Condition]:
    """The conditions with an operator of this name in the Allows of Decrypt."""
    return (each for item in _decrypts(policy) for each in item.conditions if each.name == name)


def _values(policy: Policy, name: str, prefix: str) -> dict[str, str]:
    """The first value of each key that begins so, by the rest of its name, in the Allows of Decrypt."""
    return {
        condition.key[len(prefix) :]: condition.values[0]
        for condition in _conditions(policy, name)
        if condition.key.startswith(prefix)
    }


def _context_rules(policy: Policy) -> ContextRules:
    """The encryption context that the policy may have been made for; a key whose value is each statement's
    own image holds the image.
    """
    named = _values(policy, "StringEquals", _CONTEXT)
    image = next(
        (key for key in sorted(named) if all(_is_image(item, key) for item in _decrypts(policy))), None
    )
    pairs = {key: value for key, value in named.items() if key != image}
    keys = next((condition.values for condition in _conditions(policy, "ForAllValues:StringEquals")), ())
    return ContextRules(pairs, tuple(key for key in keys if key not in named), image)


def _is_image(statement: PolicyStatement, key: str) -> bool:
    values = {condition.key: condition.values for condition in statement.conditions}
    return values.get(f"{_CONTEXT}{key}") == values.get("kms:RecipientAttestation:ImageSha384")


def _options(policy: Policy, break_glass: str | None = None) -> Iterator[PolicyOptions]:
    """The options that the policy may have been made with: PCR3 by the roles, or given, or left out."""
    found = _values(policy, "StringEqualsIgnoreCase", "kms:RecipientAttestation:PCR")
    registers = {int(index): value for index, value in found.items() if _INDEX.fullmatch(index)}
    further = {index: value for index, value in registers.items() if index > 2}
    ends = _values(policy, "DateLessThan", "aws:CurrentTime")
    try:
        until = datetime.strptime(ends[""], _UNTIL).replace(tzinfo=timezone.utc) if ends else None
    except ValueError:
        return
    derived = {index: value for index, value in further.items() if index != 3}
    for bind_role, wanted in ((True, derived), (True, further), (False, derived)):
        yield PolicyOptions(
            registers=wanted,
            bind_role=bind_role,
            break_glass=break_glass,
            until=until,
            delegate_to_account=any(item.sid == "DelegateToAccount" for item in policy.statements),
        )
