"""Three questions about a key policy, each answered: proved, refuted by a request, or unknown.

(a) plaintext: does any request get the plaintext of existing ciphertext without a document with a decided
tuple? (b) power: does anybody but the administrators hand out power over the key?
(c) encryption: does anybody but the encrypters make data keys or encrypt?

A request that refutes is asked of the evaluator before it is reported. If the evaluator does not agree, the
answer is "unknown": an abstraction was too coarse, or the two differ, and neither is a proof.
"""

from __future__ import annotations

import enum
import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import Effect, Policy, PolicyStatement, Principal, Request, assess
from coattest_verify.keypolicy.iam.conditions import instant, number
from coattest_verify.keypolicy.iam.evaluate import action_matches, principal_matches
from coattest_verify.keypolicy.prove.callers import Caller, callers
from coattest_verify.keypolicy.prove.identity import ACCOUNT, PARTITION, anonymous, known, role_with_any_path
from coattest_verify.keypolicy.prove.symbolic import (
    ATTESTATION,
    Slot,
    Space,
    Unsupported,
    constant,
    statement_formula,
)

ASSUMPTIONS = (
    "there are no grants on the key",
    "Origin is AWS_KMS: no copy of the key material exists outside KMS",
    "the key is in one Region",
    "KMS evaluates policies as AWS documents it, and verifies attestation documents",
    "every other account's and the own account's IAM policies allow everything",
)
"""The assumptions of every proof. No policy shows them; ``verify policy check`` looks at the first three."""

PLAINTEXT = ("kms:Decrypt", "kms:ReEncryptFrom", "kms:DeriveSharedSecret")
POWER = ("kms:CreateGrant", "kms:PutKeyPolicy", "kms:ReplicateKey")
ENCRYPTION = (
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:GenerateDataKeyWithoutPlaintext",
)
ATTESTED = ("kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey", "kms:GenerateDataKeyPair")
"""The operations whose requests can carry a document (KMS Developer Guide, "Condition keys for Nitro
Enclaves")."""

DEADLINE = 10.0
"""Seconds for all goals together."""

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_KEY_ARN = "arn:aws:kms:us-east-1:{account}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
_ESCAPE = re.compile(r"\\u\{([0-9a-f]+)\}")


class Status(enum.Enum):
    """The answer to one goal."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ProofQuestion:
    """The decided tuples (PCR0, PCR1, PCR2 in lower-case hex) and who is meant to do what."""

    tuples: tuple[tuple[str, str, str], ...]
    administrators: tuple[str, ...] = ()
    encrypters: tuple[str, ...] = ()
    key_arn: str | None = None


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A request that should not be allowed and is. ``allowed_by`` are the statements' Sids, or their
    numbers.
    """

    caller: str
    arn: str
    action: str
    resource: str
    context: Mapping[str, tuple[str, ...]] = field(hash=False)
    allowed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GoalResult:
    """The prover's result for one goal."""

    goal: str
    status: Status
    counterexample: Counterexample | None = None
    reason: str | None = None


def prove(policy: Policy, question: ProofQuestion, *, deadline: float = DEADLINE) -> tuple[GoalResult, ...]:
    """Answer the three goals for a policy, in at most ``deadline`` seconds altogether."""
    until = time.monotonic() + deadline
    named = (*question.administrators, *question.encrypters)
    everybody = callers(policy, named)
    administrators, encrypters = frozenset(question.administrators), frozenset(question.encrypters)
    return (
        _goal("plaintext", policy, question, everybody, PLAINTEXT, frozenset(), until),
        _goal("power", policy, question, everybody, POWER, administrators, until),
        _goal("encryption", policy, question, everybody, ENCRYPTION, encrypters, until),
    )


def _goal(  # noqa: PLR0917
    name: str,
    policy: Policy,
    question: ProofQuestion,
    everybody: Sequence[Caller],
    actions: Sequence[str],
    excepted: frozenset[str],
    until: float,
) -> GoalResult:
    doubt: str | None = None
    for caller, action in itertools.product(everybody, actions):
        if caller.principal.identities & excepted:
            continue
        try:
            answer = _ask(policy, question, caller, action, everybody=everybody, until=until)
        except Unsupported as error:
            doubt = doubt or str(error)
            continue
        if isinstance(answer, Counterexample):
            return GoalResult(name, Status.REFUTED, answer)
        doubt = doubt or answer
    return GoalResult(name, Status.UNKNOWN if doubt else Status.PROVED, reason=doubt)


def _ask(
    policy: Policy,
    question: ProofQuestion,
    caller: Caller,
    action: str,
    *,
    everybody: Sequence[Caller],
    until: float,
) -> Counterexample | str | None:
    """None for no such request, a confirmed counterexample, or a text that says why the answer is unknown."""
    mine = [item for item in policy.statements if _may_apply(item, caller, action)]
    if not any(item.allow for item in mine):
        return None
    if time.monotonic() >= until:
        return "timed out"
    space = Space(policy)
    resource = z3.String("resource") if question.key_arn is None else z3.StringVal(question.key_arn)
    solver = z3.SolverFor("QF_S")
    # Half of what is left, so that one hard case leaves time for the others.
    solver.set("timeout", max(1, int((until - time.monotonic()) * 500)))
    allows = [statement_formula(space, item, resource, policy.variables) for item in mine if item.allow]
    denies = [statement_formula(space, item, resource, policy.variables) for item in mine if not item.allow]
    solver.add(z3.Or(*allows), *(z3.Not(item) for item in denies))
    solver.add(*_request(space, caller, action, question, everybody))
    if action in PLAINTEXT:
        solver.add(z3.Not(_decided(space, question)))
    solver.add(*space.constraints())
    result = solver.check()
    if result == z3.unsat:
        return None
    if result == z3.unknown:
        return f"the solver gave up: {solver.reason_unknown()}"
    found = _confirmed(policy, question, caller, action, space=space, model=solver.model(), until=until)
    return found or "the evaluator does not confirm the request that the solver found"


def _may_apply(found: PolicyStatement, caller: Caller, action: str) -> bool:
    return action_matches(found, action) and principal_matches(found, caller.principal)


def _request(
    space: Space, caller: Caller, action: str, question: ProofQuestion, everybody: Sequence[Caller]
) -> list[Any]:
    """The parts of a request that this caller fixes."""
    bound: list[Any] = []
    fixed = known(caller)
    for key in ("aws:principalarn", "aws:principalaccount", "kms:calleraccount"):
        (slot,) = space.slots(key)
        if caller.principal.kind != "AWS":
            # Services, and anonymous callers: IAM User Guide, "aws:PrincipalArn", lists users, roles, root.
            bound += [z3.Not(slot.present)] if key == "aws:principalarn" else []
            continue
        bound.append(slot.present)
        if key in fixed:
            bound.append(slot.value == constant(fixed[key]))
    if caller.free_path:
        (arn,) = space.slots("aws:principalarn")
        bound.append(z3.InRe(arn.value, role_with_any_path(caller, everybody)))
    if not caller.named and caller.principal.kind == "AWS":
        bound += anonymous(space, caller, everybody)
    if action not in ATTESTED:
        bound += [
            z3.Not(slot.present)
            for key, slots in list(space.keys().items())
            if key.startswith(ATTESTATION)
            for slot in slots
        ]
    if question.key_arn is None:
        word = z3.Plus(z3.Union(z3.Range("a", "z"), z3.Range("0", "9"), z3.Re("-")))
        shape = z3.Concat(
            z3.Re("arn:"), PARTITION, z3.Re(":kms:"), word, z3.Re(":"), ACCOUNT, z3.Re(":key/"), word
        )
        bound.append(z3.InRe(z3.String("resource"), shape))
    return bound


def _decided(space: Space, question: ProofQuestion) -> Any:
    registers = [space.slots(f"{ATTESTATION}pcr{index}")[0] for index in range(3)]
    return z3.Or(
        *(
            z3.And(
                *(
                    z3.And(slot.present, space.member(slot.value, z3.Re(value)))
                    for slot, value in zip(registers, item, strict=True)
                )
            )
            for item in question.tuples
        )
    )


def _confirmed(
    policy: Policy,
    question: ProofQuestion,
    caller: Caller,
    action: str,
    *,
    space: Space,
    model: Any,
    until: float,
) -> Counterexample | None:
    base = {key: _values(slots, model) for key, slots in space.keys().items()}
    resource = question.key_arn or _string(model, z3.String("resource")) or _KEY_ARN.format(account="0" * 12)
    for context in _concrete(base, space):
        if time.monotonic() >= until:
            break
        principal = _principal(caller, context)
        request = Request(principal, action, resource, _spelled(context))
        found = assess(policy, request)
        if found.effect is Effect.EXPLICIT_DENY or not (found.allowed_by or found.delegated_by):
            continue
        if action in PLAINTEXT and _is_decided(context, question):
            continue
        by = found.allowed_by or found.delegated_by
        names = tuple(policy.statements[index].sid or f"statement {index + 1}" for index in by)
        return Counterexample(caller.label, principal.arn, action, resource, _spelled(context), names)
    return None


def _is_decided(context: Mapping[str, tuple[str, ...]], question: ProofQuestion) -> bool:
    found = tuple(context.get(f"{ATTESTATION}pcr{index}", ("",))[:1] for index in range(3))
    return any(found == tuple((value,) for value in item) for item in question.tuples)


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
        _string(model, slot.value)
        for slot in slots
        if z3.is_true(model.eval(slot.present, model_completion=True))
    )


def _string(model: Any, symbol: Any) -> str:
    text = model.eval(symbol, model_completion=True).as_string()
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def _spelled(context: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The context as the evaluator takes it: PCR0 under both of its names, absent keys left out."""
    found = {key: values for key, values in context.items() if values}
    if f"{ATTESTATION}pcr0" in found:
        found[f"{ATTESTATION}imagesha384"] = found[f"{ATTESTATION}pcr0"]
    return found


def _concrete(base: Mapping[str, tuple[str, ...]], space: Space) -> list[dict[str, tuple[str, ...]]]:
    """Contexts that give the abstracted keys values around the constants they are compared with."""
    choices: dict[str, set[str]] = {}
    for _, condition in space.abstractions:
        for value in condition.values:
            choices.setdefault(condition.key.lower(), set()).update(_around(condition.operator, value))
    keys = sorted(key for key in choices if key in base)
    picks = itertools.islice(itertools.product(*(sorted(choices[key]) for key in keys)), 4096)
    made = []
    for pick in picks:
        changed = {key: (value,) if base[key] else () for key, value in zip(keys, pick, strict=True)}
        made.append({**base, **changed})
    return made


def _around(operator: str, value: str) -> set[str]:
    if operator.startswith("Numeric"):
        return {format(number(value) + step, "f") for step in (-1, 0, 1)}
    if operator.startswith("Date"):
        return {_moment(instant(value) + step) for step in (-1, 0, 1)}
    if operator.endswith("IpAddress"):
        return {value.split("/", maxsplit=1)[0], "192.0.2.1", "2001:db8::1"}
    return {value, "x"}


def _moment(seconds: Decimal) -> str:
    """A time for people where a calendar has one, else epoch seconds (with a fraction: four digits are a
    year).
    """
    try:
        return (
            (EPOCH + timedelta(seconds=float(seconds))).isoformat(timespec="seconds").replace("+00:00", "Z")
        )
    except OverflowError:
        return f"{seconds:.1f}"
