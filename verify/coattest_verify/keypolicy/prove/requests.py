"""Requests of a class of callers: what bounds them, which are real, and one of them in full.

What bounds every request may only leave out what cannot be: a proof rests on it. What makes a request real
(``real``) may leave out more: it only keeps counterexamples to requests that AWS could receive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import KMS, Policy, Principal, Request
from coattest_verify.keypolicy.iam.actions import ATTESTATION, CONTEXT
from coattest_verify.keypolicy.prove import texts
from coattest_verify.keypolicy.prove.callers import Caller
from coattest_verify.keypolicy.prove.identity import ACCOUNT, PARTITION, anonymous, known, role_with_any_path
from coattest_verify.keypolicy.prove.symbolic import Slot, Space
from coattest_verify.keypolicy.prove.texts import constant, text_of

RESOURCE = "resource"
EXAMPLE_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
"""The key id of the examples in AWS's documentation."""

_WORD = z3.Plus(z3.Union(z3.Range("a", "z"), z3.Range("0", "9"), z3.Re("-")))

ASSUMED = {
    "kms:keyspec": "SYMMETRIC_DEFAULT",
    "kms:keyusage": "ENCRYPT_DECRYPT",
    "kms:keyorigin": "AWS_KMS",
    "kms:multiregion": "false",
    "kms:encryptionalgorithm": "SYMMETRIC_DEFAULT",
}
"""What the assumptions of a proof say of the key, as condition keys."""

_OF_SERVICES = ("aws:principalservicename", "aws:principalservicenameslist")


def resource_symbol(key_arn: str | None) -> Any:
    """The key that a request is about: the one given, or any."""
    return z3.String(RESOURCE) if key_arn is None else constant(key_arn)


def bound(
    space: Space, caller: Caller, action: str, everybody: Sequence[Caller], key_arn: str | None
) -> list[Any]:
    """What every request of this caller for this action has."""
    found: list[Any] = []
    for key in ("aws:principalarn", "aws:principalaccount", "kms:calleraccount"):
        slot = space.slots(key)[0]
        if caller.principal.kind != "AWS":
            # Services, and anonymous callers: IAM User Guide, "aws:PrincipalArn", lists users, roles, root.
            found += [z3.Not(slot.present)] if key == "aws:principalarn" else []
            continue
        found.append(slot.present)
    if caller.free_path:
        (arn,) = space.slots("aws:principalarn")
        found.append(z3.InRe(arn.value, role_with_any_path(caller, everybody)))
    if not caller.named and caller.principal.kind == "AWS":
        found += anonymous(space, caller, everybody)
    if not KMS.documented(f"{ATTESTATION}pcr0", action):
        found += [z3.Not(slot.present) for slot in _registers(space)]
    if key_arn is None:
        shape = [":kms:", _WORD, ":", ACCOUNT, ":key/", _WORD]
        parts = [z3.Re(part) if isinstance(part, str) else part for part in ["arn:", PARTITION, *shape]]
        found.append(z3.InRe(z3.String(RESOURCE), z3.Concat(*parts)))
    return found


def _registers(space: Space) -> list[Slot]:
    return [
        slot for key, slots in list(space.keys().items()) if key.startswith(ATTESTATION) for slot in slots
    ]


def real(space: Space, caller: Caller, action: str) -> list[Any]:
    """What a request that AWS could receive has beside: only keys that AWS documents for the action, none
    empty, and keys that go together.
    """
    found: list[Any] = []
    for key, slots in list(space.keys().items()):
        if not KMS.documented(key, action) or not _suits(key, caller):
            found += [z3.Not(slot.present) for slot in slots]
            continue
        for slot in slots:
            found.append(z3.Implies(slot.present, z3.Not(space.one_of(slot.value, [""]))))
            if KMS.find(key) and KMS.find(key)[1].endswith("Bool"):  # type: ignore[index]
                found.append(space.one_of(slot.value, ["true", "false"]))
        if key in ASSUMED:
            found += [slots[0].present, space.one_of(slots[0].value, [ASSUMED[key]])]
        if key.startswith(CONTEXT):
            found += [z3.Not(slot.present) for slot in slots[1:]]
            if space.mentions("kms:encryptioncontextkeys"):
                found.append(slots[0].present == space.lists(key))
    return found + _document(space)


def _suits(key: str, caller: Caller) -> bool:
    """Whether this kind of caller has a key about callers ("Global condition context keys")."""
    service = caller.principal.kind != "AWS"
    if key in _OF_SERVICES:
        return service
    return not (key == "aws:username" and (service or caller.principal.role_arn is not None))


def _document(space: Space) -> list[Any]:
    """A document has the registers of the image or none; the others only with them."""
    measured = [f"{ATTESTATION}pcr{index}" for index in range(3)]
    first = space.slots(measured[0])[0].present
    return [
        (slot.present == first) if key in measured else z3.Implies(slot.present, first)
        for key, slots in list(space.keys().items())
        if key.startswith(f"{ATTESTATION}pcr")
        for slot in slots
    ]


def wishes(space: Space, caller: Caller, policy: Policy, key_arn: str | None) -> list[Any]:
    """What makes a counterexample easy to read, most wanted first; each is tried, none is needed."""
    account = _first_account(policy)
    found: list[Any] = []
    values = [(key, slot) for key, slots in list(space.keys().items()) for slot in slots]
    free = [(key, slot) for key, slot in values if key not in known(caller)]
    if key_arn is None:
        region = next((region for region in _REGIONS if f":{region}:" in _text(policy)), _REGIONS[0])
        example = f"arn:aws:kms:{region}:{account}:key/{EXAMPLE_ID}"
        found.append(z3.String(RESOURCE) == example)
        found.append(z3.SuffixOf(EXAMPLE_ID, z3.String(RESOURCE)))
    if not caller.named and caller.principal.kind == "AWS":
        arn = space.slots("aws:principalarn")[0].value
        kind = "role" if caller.principal.role_arn else "user"
        for owner in (caller.principal.account if not caller.outside else "999988887777",):
            found.append(arn == f"arn:aws:iam::{owner}:{kind}/Somebody")
    found.append(z3.And(*(z3.InRe(slot.value, texts.PRINTABLE) for _, slot in free)))
    for key, slot in free:
        if key.startswith(("aws:principala", "kms:calleraccount")):
            continue
        found.append(z3.Not(slot.present))
        if key.startswith(ATTESTATION):
            found.append(slot.value == "d" * 96)
        else:
            found.append(slot.value == "example")
            found.append(z3.InRe(slot.value, texts.PRINTABLE))
    return found


_REGIONS = ("us-east-1", "eu-central-1", "eu-west-1", "us-east-2", "us-west-2")


def _text(policy: Policy) -> str:
    return " ".join(resource for item in policy.statements for resource in item.resources)


def _first_account(policy: Policy) -> str:
    named = (
        match[1]
        for item in policy.statements
        for principal in item.principals or ()
        for match in [re.search(r"::([0-9]{12}):", principal.value)]
        if match
    )
    return next(named, "111122223333")


def in_full(  # noqa: PLR0917
    space: Space, caller: Caller, action: str, policy: Policy, key_arn: str | None, model: Any
) -> Request:
    """The request of a model, with condition keys in AWS's case."""
    context = {key: _values(slots, model) for key, slots in space.keys().items()}
    resource = key_arn or text_of(model, z3.String(RESOURCE))
    if not resource.startswith("arn:"):
        resource = f"arn:aws:kms:{_REGIONS[0]}:{_first_account(policy)}:key/{EXAMPLE_ID}"
    written = {
        condition.key.lower(): condition.key for item in policy.statements for condition in item.conditions
    }
    spelled: dict[str, tuple[str, ...]] = {}
    for key, values in context.items():
        if not values:
            continue
        spelled[KMS.spelled(written.get(key, key))] = values
        if key == f"{ATTESTATION}pcr0":
            spelled.update({KMS.spelled(f"{ATTESTATION}{name}"): values for name in ("imagesha384", "pcr0")})
    return Request(_principal(caller, context), action, resource, spelled)


def _principal(caller: Caller, context: Mapping[str, tuple[str, ...]]) -> Principal:
    """The caller with the name that the solver gave it."""
    arn = (context.get("aws:principalarn") or ("",))[0]
    if caller.principal.kind != "AWS" or not arn or (caller.named and not caller.free_path):
        return caller.principal
    _, partition, _, _, account, name = arn.split(":", 5)
    if caller.principal.role_arn is None:
        return replace(caller.principal, arn=arn, account=account, partition=partition)
    if caller.free_path:
        return replace(caller.principal, role_arn=arn)
    nobody = caller.principal.arn.rsplit("/", 1)[-1]
    session = f"arn:{partition}:sts::{account}:assumed-role/{name.rsplit('/', 1)[-1]}/{nobody}"
    return replace(caller.principal, arn=session, account=account, role_arn=arn, partition=partition)


def _values(slots: Sequence[Slot], model: Any) -> tuple[str, ...]:
    return tuple(
        text_of(model, slot.value)
        for slot in slots
        if z3.is_true(model.eval(slot.present, model_completion=True))
    )
