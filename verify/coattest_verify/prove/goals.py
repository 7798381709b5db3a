"""Three questions to a key policy, each answered: proved, refuted by a request, or unknown.

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
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.iam import Effect, Policy, Principal, Request, Statement, assess
from coattest_verify.iam.evaluate import action_matches, principal_matches
from coattest_verify.prove.callers import NOBODY, Caller, callers
from coattest_verify.prove.symbolic import ATTESTATION, Slot, Space, Unsupported, statement

#: What every proof rests on. None of it is visible in a policy; ``verify policy --check`` looks at the first
#: three.
ASSUMPTIONS = (
    "there are no grants on the key",
    "Origin is AWS_KMS: no copy of the key material exists outside KMS",
    "the key is in one Region",
    "KMS evaluates policies as AWS documents it, and verifies attestation documents",
    "every other account's and the own account's IAM policies allow everything",
)

PLAINTEXT = ("kms:Decrypt", "kms:ReEncryptFrom", "kms:DeriveSharedSecret")
POWER = ("kms:CreateGrant", "kms:PutKeyPolicy", "kms:ReplicateKey")
ENCRYPTION = (
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:GenerateDataKeyWithoutPlaintext",
)
#: The operations whose requests can carry a document (KMS Developer Guide, "Condition keys for Nitro
#: Enclaves").
ATTESTED = ("kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey", "kms:GenerateDataKeyPair")

#: Seconds for all goals together.
DEADLINE = 10.0
_KEY_ARN = "arn:aws:kms:us-east-1:{account}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ACCOUNT = z3.Loop(z3.Range("0", "9"), 12, 12)
PARTITION = z3.Concat(z3.Re("aws"), z3.Star(z3.Union(z3.Range("a", "z"), z3.Re("-"))))
_ESCAPE = re.compile(r"\\u\{([0-9a-f]+)\}")


class Status(enum.Enum):
    """The answer to a goal."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: the decided tuples (PCR0, PCR1, PCR2 in lower-case hex) and who is meant to do what."""

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
class Finding:
    """The answer to one goal."""

    goal: str
    status: Status
    counterexample: Counterexample | None = None
    reason: str | None = None


def prove(policy: Policy, question: Question, *, deadline: float = DEADLINE) -> tuple[Finding, ...]:
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
    question: Question,
    everybody: Sequence[Caller],
    actions: Sequence[str],
    excepted: frozenset[str],
    until: float,
) -> Finding:
    doubt: str | None = None
    for caller, action in itertools.product(everybody, actions):
        if caller.named and caller.principal.identities & excepted:
            continue
        try:
            answer = _ask(policy, question, caller, action, everybody=everybody, until=until)
        except Unsupported as error:
            doubt = doubt or str(error)
            continue
        if isinstance(answer, Counterexample):
            return Finding(name, Status.REFUTED, answer)
        doubt = doubt or answer
    return Finding(name, Status.UNKNOWN if doubt else Status.PROVED, reason=doubt)


def _ask(
    policy: Policy,
    question: Question,
    caller: Caller,
    action: str,
    *,
    everybody: Sequence[Caller],
    until: float,
) -> Counterexample | str | None:
    """None: no such request. A counterexample: confirmed. Text: why it is not known."""
    mine = [item for item in policy.statements if _may_apply(item, caller, action)]
    if not any(item.allow for item in mine):
        return None
    space = Space(policy)
    resource = z3.String("resource") if question.key_arn is None else z3.StringVal(question.key_arn)
    solver = z3.SolverFor("QF_S")
    solver.set("timeout", max(1, int((until - time.monotonic()) * 1000)))
    allows = [statement(space, item, resource, policy.variables) for item in mine if item.allow]
    denies = [statement(space, item, resource, policy.variables) for item in mine if not item.allow]
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
    found = _confirmed(policy, question, caller, action, space, solver.model())
    return found or "the evaluator does not confirm the solver's request"


def _may_apply(found: Statement, caller: Caller, action: str) -> bool:
    return action_matches(found, action) and principal_matches(found, caller.principal)


def _request(
    space: Space, caller: Caller, action: str, question: Question, everybody: Sequence[Caller]
) -> list[Any]:
    """What a request by this caller cannot vary."""
    bound: list[Any] = []
    known = _known(caller)
    for key in ("aws:principalarn", "aws:principalaccount", "kms:calleraccount"):
        (slot,) = space.slots(key)
        if caller.principal.kind != "AWS":
            continue
        bound.append(slot.present)
        if key in known:
            bound.append(slot.value == z3.StringVal(known[key]))
    if not caller.named and caller.principal.kind == "AWS":
        bound += _anonymous(space, caller, everybody)
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


def _known(caller: Caller) -> dict[str, str]:
    principal = caller.principal
    if caller.outside:
        return {}
    known = {"aws:principalaccount": principal.account, "kms:calleraccount": principal.account}
    return {**known, "aws:principalarn": principal.principal_arn} if caller.named else known


def _anonymous(space: Space, caller: Caller, everybody: Sequence[Caller]) -> list[Any]:
    """The ARN of a caller that is not named: of its account and kind, none of those named, and otherwise
    free.
    """
    (arn,) = space.slots("aws:principalarn")
    (account,) = space.slots("aws:principalaccount")
    (caller_account,) = space.slots("kms:calleraccount")
    principal = caller.principal
    name = z3.Plus(z3.Range("!", "~"))
    kind = f":{'role' if principal.role_arn else 'user'}/"
    named = [other.principal.principal_arn for other in everybody if other.named]
    free = z3.Complement(z3.Union(*(z3.Re(text) for text in (*named, "", "-"))))
    bound: list[Any] = []
    if not caller.outside:
        stem = f"arn:{principal.partition}:iam::{principal.account}{kind}"
        return [z3.InRe(arn.value, z3.Intersect(free, z3.Concat(z3.Re(stem), name)))]
    taken = sorted({other.principal.account for other in everybody if not other.outside})
    unknown = z3.Intersect(ACCOUNT, z3.Complement(z3.Union(*(z3.Re(text) for text in (*taken, "", "-")))))
    bound += [z3.InRe(account.value, unknown), caller_account.value == account.value]
    if space.mentions("aws:principalaccount") or space.mentions("kms:calleraccount"):
        # Only a policy that looks at both can tell whether they belong together.
        partition, rest = z3.String("caller#partition"), z3.String("caller#name")
        parts = [
            z3.StringVal("arn:"),
            partition,
            z3.StringVal(":iam::"),
            account.value,
            z3.StringVal(kind),
            rest,
        ]
        return [*bound, arn.value == z3.Concat(*parts), z3.InRe(partition, PARTITION), z3.InRe(rest, name)]
    parts = [z3.Re("arn:"), PARTITION, z3.Re(":iam::"), unknown, z3.Re(kind), name]
    return [*bound, z3.InRe(arn.value, z3.Intersect(free, z3.Concat(*parts)))]


def _decided(space: Space, question: Question) -> Any:
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


def _confirmed(  # noqa: PLR0917
    policy: Policy, question: Question, caller: Caller, action: str, space: Space, model: Any
) -> Counterexample | None:
    base = {key: _values(slots, model) for key, slots in space.keys().items()}
    resource = question.key_arn or _string(model, z3.String("resource")) or _KEY_ARN.format(account="0" * 12)
    for context in _concrete(base, space):
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


def _is_decided(context: Mapping[str, tuple[str, ...]], question: Question) -> bool:
    found = tuple(context.get(f"{ATTESTATION}pcr{index}", ("",))[:1] for index in range(3))
    return any(found == tuple((value,) for value in item) for item in question.tuples)


def _principal(caller: Caller, context: Mapping[str, tuple[str, ...]]) -> Principal:
    """The caller with the name that the solver gave it."""
    arn = (context.get("aws:principalarn") or ("",))[0]
    if caller.named or not arn:
        return caller.principal
    _, partition, _, _, account, name = arn.split(":", 5)
    if caller.principal.role_arn is None:
        return Principal(arn, account, partition=partition)
    session = f"arn:{partition}:sts::{account}:assumed-role/{name.rsplit('/', 1)[-1]}/{NOBODY}"
    return Principal(session, account, role_arn=arn, partition=partition)


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
        return {str(float(value) + step) for step in (-1, 0, 1)}
    if operator.startswith("Date"):
        try:
            moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            moment = datetime.fromtimestamp(float(value), timezone.utc)
        return {(moment + timedelta(seconds=step)).isoformat() for step in (-1, 0, 1)}
    if operator.endswith("IpAddress"):
        return {value.split("/", maxsplit=1)[0], "192.0.2.1", "2001:db8::1"}
    return {value, "x"}
