"""Requests of a class of callers: what bounds them, which are real, and one of them in full.

What bounds every request may only leave out what cannot be: a proof rests on it. What makes a request real
(``real``) may leave out more: it only keeps counterexamples to requests that AWS could receive.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import KMS, Policy, Principal, Request
from coattest_verify.keypolicy.iam.actions import ATTESTATION, CONTEXT, CONTEXT_KEYS
from coattest_verify.keypolicy.iam.callers import Caller
from coattest_verify.keypolicy.iam.match import ascii_lower
from coattest_verify.keypolicy.iam.names import KEY_ARN
from coattest_verify.keypolicy.prove import texts
from coattest_verify.keypolicy.prove.identity import ACCOUNT, PARTITION, anonymous, known, role_with_any_path
from coattest_verify.keypolicy.prove.present import EPOCH_NOW, OWNER, REGION, TYPE, always
from coattest_verify.keypolicy.prove.ranges import NEITHER
from coattest_verify.keypolicy.prove.space import TWICE, Slot, Space
from coattest_verify.keypolicy.prove.texts import constant, model_text, sequence

RESOURCE = "resource"
LIKELY = 3
"""Keys named in the policy that are tried before any other."""

EXAMPLE_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
"""The key id of the examples in AWS's documentation."""

_WORD = z3.Plus(z3.Union(z3.Range("a", "z"), z3.Range("0", "9"), z3.Re("-")))

_LETTERS = z3.Plus(z3.Range("a", "z"))
_HEX = z3.Union(z3.Range("0", "9"), z3.Range("a", "f"))
_TWO_LETTERS = z3.Loop(z3.Range("a", "z"), 2, 2)
_REGION = sequence([_TWO_LETTERS, z3.Plus(sequence(["-", _LETTERS])), "-", z3.Range("1", "9")])
_FOUR = sequence(["-", z3.Loop(_HEX, 4, 4)])
_KEY_ID = sequence([z3.Loop(_HEX, 8, 8), _FOUR, _FOUR, _FOUR, "-", z3.Loop(_HEX, 12, 12)])

_DIGIT = z3.Range("0", "9")
_DAY = ("20", _DIGIT, _DIGIT, "-0", z3.Range("1", "9"), "-1", _DIGIT)
_TIME = sequence([*_DAY, "T1", *(_DIGIT, ":", z3.Range("0", "5")) * 2, _DIGIT, "Z"])
"""Some times as a request's context may have them; only counterexamples are bound to them."""

ASSUMED = {
    "kms:keyspec": "SYMMETRIC_DEFAULT",
    "kms:keyusage": "ENCRYPT_DECRYPT",
    "kms:keyorigin": "AWS_KMS",
    "kms:multiregion": "false",
    "kms:encryptionalgorithm": "SYMMETRIC_DEFAULT",
}
"""What the assumptions of a proof say of the key, as condition keys."""

_ASCII = z3.Range(" ", "~")
READABLE = z3.Star(z3.Union(_ASCII, z3.Range("\u00c0", "\ud7ff")))
"""Text of a request: no control characters."""

TAG_VALUE = z3.Star(
    z3.Union(
        *(z3.Range(*pair) for pair in ("09", "AZ", "az", "\u00c0\u00d6", "\u00d8\u00f6", "\u00f8\u024f")),
        *(z3.Range(*pair) for pair in ("\u0391\u03a1", "\u03a3\u03c9", "\u0400\u045f", "\u3041\u3096")),
        *(z3.Range(*pair) for pair in ("\u30a1\u30fa", "\u4e00\u9fa5", "\uac00\ud7a3")),
        *map(z3.Re, " _.:/=+-@"),
    )
)
"""Letters, digits, spaces and _.:/=+-@ (IAM User Guide, "Tags for AWS Identity and Access Management
resources", tag naming); of the letters outside ASCII some.
"""

_PARTITION = re.compile(r"arn:(aws(?:-[a-z]+)*):")

CALLER_KEYS = ("aws:principalarn", "aws:principalaccount", "kms:calleraccount")
"""What is modelled of a caller."""

_OF_SERVICES = ("aws:principalservicename", "aws:principalservicenameslist")

KINDS_KEYS = (*CALLER_KEYS, *_OF_SERVICES, "aws:username", TYPE)
"""All keys of which ``bound`` says something that depends on the caller."""


def resource_symbol(policy: Policy, key_arn: str | None) -> Any:
    """The key that a request is about: the one given, or any. An example where no statement looks at it."""
    if key_arn is None and any(text != "*" for item in policy.statements for text in item.resources):
        return z3.String(RESOURCE)
    return constant(key_arn or example_key(policy))


def likely_keys(policy: Policy) -> list[str]:
    """The keys that a policy names, a few of them, and an example."""
    named = [text for item in policy.statements for text in item.resources if KEY_ARN.fullmatch(text)]
    return [*dict.fromkeys(named[:LIKELY]), example_key(policy)]


def named_keys(policy: Policy) -> list[str]:
    """The entries of Resource and NotResource that do not cover every key."""
    found = (text for item in policy.statements if item.has_effect for text in item.resources)
    return [text for text in dict.fromkeys(found) if text != "*"]


def unnamed_keys(policy: Policy) -> list[str]:
    """Keys that a policy does not name, in Regions and accounts of those that it names; an example first."""
    written = named_keys(policy)
    ids = (f"{index:08x}{EXAMPLE_ID[8:]}" for index in itertools.count())
    unnamed = next(name for name in ids if not any(name in text for text in written))
    usual = (_REGIONS[0], _first_account(policy))
    places: list[tuple[str, str]] = [usual]
    for parts in (text.split(":") for text in written):
        if len(parts) == 6:
            region, account = (
                other if re.search(r"[*?$]", part) else part
                for part, other in zip(parts[3:5], usual, strict=True)
            )
            places.append((region, account))
    keys = (f"arn:aws:kms:{region}:{account}:key/{unnamed}" for region, account in dict.fromkeys(places))
    return [key for key in keys if KEY_ARN.fullmatch(key)][: LIKELY + 1]


def example_key(policy: Policy) -> str:
    """A key of the first account that the policy names."""
    return f"arn:aws:kms:{_REGIONS[0]}:{_first_account(policy)}:key/{EXAMPLE_ID}"


def bound(space: Space, caller: Caller, action: str, everybody: Sequence[Caller], resource: Any) -> list[Any]:
    """What every request of this caller for this action has."""
    found: list[Any] = []
    for key in CALLER_KEYS:
        slot = space.slots(key)[0]
        if caller.principal.kind != "AWS":
            continue  # whether they have an ARN AWS does not say (``identity.known``)
        found.append(z3.Not(slot.empty))
        # KMS's list has kms:CallerAccount for all actions but what replicas do among themselves.
        found += [slot.present] if KMS.documented(key, action) else []
    if caller.free_path:
        (arn,) = space.slots("aws:principalarn")
        found.append(z3.InRe(arn.value, role_with_any_path(caller, everybody)))
    if not caller.named and caller.principal.kind == "AWS":
        found += anonymous(space, caller, everybody)
    if not KMS.documented(f"{ATTESTATION}pcr0", action):
        found += [z3.Not(slot.present) for slot in _registers(space)]
    found += always(space, caller)
    for key, slots in list(space.keys().items()):
        if not _suits(key, caller):
            found += [z3.Not(slot.present) for slot in slots]
    if not z3.is_string_value(resource):
        found.append(z3.InRe(resource, _key_arn(space.policy, _WORD, _WORD)))
    return found


def _partitions(policy: Policy) -> list[str]:
    """The partitions that a key with this policy can be in; empty for any.

    One of those whose principals the policy lets in, since KMS refuses principals that do not exist ("invalid
    principals"); and those of the keys of an Allow. What a Deny names says nothing about where the key is,
    nor does an account's number.
    """
    allows = [item for item in policy.statements if item.allow]
    principals = [pattern.value for item in allows for pattern in item.principals or () if not pattern.short]
    if not any(map(_PARTITION.match, principals)):
        return []
    written = [*principals, *(text for item in allows if not item.not_resource for text in item.resources)]
    return sorted({match[1] for match in map(_PARTITION.match, written) if match})


def _key_arn(policy: Policy, region: Any, key_id: Any) -> Any:
    partitions = z3.Union([z3.Re(name) for name in _partitions(policy)] or [PARTITION])
    return sequence(["arn:", partitions, ":kms:", region, ":", ACCOUNT, ":key/", key_id])


def _registers(space: Space) -> list[Slot]:
    return [
        slot for key, slots in list(space.keys().items()) if key.startswith(ATTESTATION) for slot in slots
    ]


def real(space: Space, caller: Caller, action: str, resource: Any) -> list[Any]:
    """What a request that AWS could receive has beside: only keys that AWS documents for the action, none
    empty, and keys that go together.
    """
    found: list[Any] = []
    for key, slots in list(space.keys().items()):
        if not KMS.documented(key, action):
            found += [z3.Not(slot.present) for slot in slots]
            continue
        for slot in slots:
            found.append(z3.Not(slot.empty))
            found.append(z3.Implies(slot.present, z3.Not(space.one_of(slot.value, [""]))))
            if not key.startswith((ATTESTATION, *CALLER_KEYS)):
                found.append(z3.InRe(slot.value, _shape(space, key)))
            spelled = KMS.find(key)
            if spelled and space.choices(key):
                found.append(z3.Implies(slot.present, slot.value != NEITHER))
            if spelled and spelled[1].endswith("Bool"):
                found.append(space.one_of(slot.value, ["true", "false"]))
        if key.startswith(TWICE):
            found += [z3.Not(slot.present) for slot in slots[1:]]
        if key.startswith(CONTEXT) and space.mentions(CONTEXT_KEYS):
            found.append(slots[0].present == space.lists(key))
    if not z3.is_string_value(resource):
        found.append(z3.InRe(resource, _key_arn(space.policy, _REGION, _KEY_ID)))
    if caller.principal.kind != "AWS":
        found.append(z3.Not(space.slots("aws:principalarn")[0].present))
    return [*found, *_one_account(space), *of_an_assumed_key(space), *_document(space)]


def _one_account(space: Space) -> list[Any]:
    """The two keys of a caller's account say the same, a service's too."""
    both = [space.slots(key)[0] for key in CALLER_KEYS[1:]]
    return [z3.Implies(z3.And(*(slot.present for slot in both)), both[0].value == both[1].value)]


def _shape(space: Space, key: str) -> Any:
    """The expression of a key's values as AWS could send them."""
    spelled = KMS.find(key)
    if spelled and spelled[1] == "Date" and not space.choices(key):
        return z3.Union(_TIME, z3.Plus(z3.Range("0", "9"))) if key == EPOCH_NOW else _TIME
    return {REGION: _REGION, OWNER: ACCOUNT}.get(key, TAG_VALUE if "tag/" in key else READABLE)


def of_an_assumed_key(space: Space) -> list[Any]:
    """That a request is about a key as the assumptions have it."""
    found: list[Any] = []
    for key, value in ASSUMED.items():
        if space.mentions(key):
            slot = space.slots(key)[0]
            found += [slot.present, z3.Not(slot.empty), space.one_of(slot.value, [value])]
    return found


def _suits(key: str, caller: Caller) -> bool:
    """Whether this kind of caller has a key about callers ("Global condition context keys")."""
    service = caller.principal.kind != "AWS"
    if key in _OF_SERVICES:
        return service
    return key != "aws:username" or (caller.principal.kind == "AWS" and _is_user(caller.principal))


def _is_user(principal: Principal) -> bool:
    """Whether a caller can be a user itself ("Where you can use policy variables", principal key values)."""
    session = principal.role_arn or principal.user_arn or ":federated-user/" in principal.arn
    return not (session or principal.is_root)


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


def wishes(space: Space, caller: Caller, resource: Any) -> list[Any]:
    """What makes a counterexample easy to read, most wanted first; each is tried, none is needed."""
    found: list[Any] = []
    values = [(key, slot) for key, slots in list(space.keys().items()) for slot in slots]
    free = [(key, slot) for key, slot in values if key not in known(caller)]
    if not z3.is_string_value(resource):
        account = example_key(space.policy).split(":")[4]
        examples = [f"arn:aws:kms:{region}:{account}:key/{EXAMPLE_ID}" for region in _REGIONS]
        found += [resource == example for example in examples]
    if not caller.named and caller.principal.kind == "AWS":
        arn = space.slots("aws:principalarn")[0].value
        kind = "iam::{}:role" if caller.principal.role_arn else "iam::{}:user"
        kind = "sts::{}:federated-user" if caller.principal.user_arn else kind
        owner = "999988887777" if caller.outside else caller.principal.account
        found.append(arn == f"arn:aws:{kind.format(owner)}/Somebody")
    found.append(z3.And(*(z3.InRe(slot.value, texts.PRINTABLE) for _, slot in free)))
    for key, slot in free:
        if key.startswith(CALLER_KEYS):
            continue
        found.append(z3.Not(slot.present))
        if key.startswith(ATTESTATION):
            found.append(slot.value == "d" * 96)
        elif key == CONTEXT_KEYS:
            found += [slot.value == constant(name) for name in _context_names(space.policy)]
        else:
            found.append(slot.value == "example")
            found.append(z3.InRe(slot.value, texts.PRINTABLE))
    return found


def _context_names(policy: Policy) -> list[str]:
    """The names of encryption contexts as the policy writes them."""
    return [
        condition.key[len(CONTEXT) :]
        for item in policy.statements
        for condition in item.conditions
        if ascii_lower(condition.key).startswith(CONTEXT)
    ]


_REGIONS = ("us-east-1", "eu-central-1", "eu-west-1", "us-east-2", "us-west-2")


def _first_account(policy: Policy) -> str:
    named = (
        match[1]
        for item in policy.statements
        for principal in item.principals or ()
        for match in [re.search(r"::([0-9]{12}):", principal.value)]
        if match
    )
    return next(named, "111122223333")


def in_full(space: Space, caller: Caller, action: str, resource: Any, model: Any) -> Request:
    """The request of a model, with condition keys in AWS's case."""
    context = {key: _values(slots, model) for key, slots in space.keys().items()}
    written = {
        ascii_lower(condition.key): condition.key
        for item in space.policy.statements
        for condition in item.conditions
    }
    spelled: dict[str, tuple[str, ...]] = {}
    for key, values in context.items():
        if not values:
            continue
        spelled[KMS.spelled(written.get(key, key))] = values
        if key == f"{ATTESTATION}pcr0":
            spelled.update({KMS.spelled(f"{ATTESTATION}{name}"): values for name in ("imagesha384", "pcr0")})
    return Request(_principal(caller, context), action, model_text(model, resource), spelled)


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
        "" if z3.is_true(model.eval(slot.empty, model_completion=True)) else model_text(model, slot.value)
        for slot in slots
        if z3.is_true(model.eval(slot.present, model_completion=True))
    )
