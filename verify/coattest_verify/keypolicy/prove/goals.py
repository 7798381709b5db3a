"""Four questions about a key policy, each answered: proved, refuted, or unknown.

(a) plaintext: does any request get the plaintext of existing ciphertext without a document with a decided
tuple? (b) power: does anybody but the administrators hand out or change power over the key?
(c) encryption: does anybody but the encrypters make ciphertext? (d) decryption: can each decided enclave
decrypt at all?

A request that refutes is asked of the evaluator before it is reported. If the evaluator does not agree, or
AWS's documents leave open what happens, the answer is "unknown".
"""

from __future__ import annotations

import enum
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import KMS, Policy, assess
from coattest_verify.keypolicy.iam.actions import (
    ATTESTATION,
    CHANGES_POWER,
    MAKES_CIPHERTEXT,
    PUBLISHES,
    READS_PLAINTEXT,
    TAGS,
)
from coattest_verify.keypolicy.iam.callers import callers
from coattest_verify.keypolicy.iam.match import ascii_lower
from coattest_verify.keypolicy.prove.present import looks_at, made_at
from coattest_verify.keypolicy.prove.requests import named_keys, of_an_assumed_key, unnamed_keys
from coattest_verify.keypolicy.prove.search import Granted, Search
from coattest_verify.keypolicy.prove.space import Space

ASSUMPTIONS = (
    "there are no grants on the key, and who may make one makes none: it allows past the Allows",
    "Origin is AWS_KMS: no copy of the key material exists outside KMS",
    "the key is in one Region",
    "the key is symmetric (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT)",
    "KMS evaluates policies as AWS documents it, and verifies attestation documents",
    f"KMS has the actions and condition keys of AWS's list of {KMS.date}",
    "every other account's and the own account's IAM policies allow everything",
    "the policy stays: an administrator can put another one, which CloudTrail logs",
)
"""Of every proof. No policy shows them; ``verify policy check`` looks at those about the key."""

GOALS = ("plaintext", "power", "encryption", "decryption")
DECRYPT = "kms:Decrypt"
_TAGS_OF_THE_KEY = "aws:resourcetag/"


class Status(enum.Enum):
    """The answer to one goal."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ProofQuestion:
    """The decided tuples (PCR0, PCR1, PCR2 in lower-case hex) and who is meant to do what.

    ``now`` is when the decided enclaves must be able to decrypt; without it, at some time.
    """

    tuples: tuple[tuple[str, str, str], ...]
    administrators: tuple[str, ...] = ()
    encrypters: tuple[str, ...] = ()
    key_arn: str | None = None
    now: datetime | None = None


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
    """The prover's result for one goal. ``reason`` says why it is unknown, or refuted without a request."""

    goal: str
    status: Status
    counterexample: Counterexample | None = None
    reason: str | None = None

    def __bool__(self) -> bool:
        return self.status is Status.PROVED


def answers(policy: Policy, question: ProofQuestion, *, until: float) -> Iterator[GoalResult]:
    """Each goal's answer as it is found, until a moment of ``time.monotonic``; then "unknown"."""
    everybody = callers(policy, (*question.administrators, *question.encrypters))
    search = Search(policy, everybody, question.key_arn, until)
    administrators, encrypters = frozenset(question.administrators), frozenset(question.encrypters)
    power = CHANGES_POWER | (TAGS if looks_at(policy, _TAGS_OF_THE_KEY) else frozenset())

    def decided(space: Space) -> list[Any]:
        return [z3.Not(z3.Or(*(_tuple(space, item) for item in question.tuples)))]

    begun = time.monotonic()

    def share(part: float) -> Search:
        # So that one hard goal leaves time for the others.
        return replace(search, until=begun + (until - begun) * part)

    strange = tuple(_strange_actions(policy))
    yield _goal("plaintext", share(0.5), READS_PLAINTEXT, frozenset(), strange, decided)
    yield _goal("power", share(0.7), power, administrators, strange)
    yield _goal("encryption", share(0.85), MAKES_CIPHERTEXT, encrypters, strange, asymmetric=True)
    yield _decryption(share(1.0), question)


def _goal(  # noqa: PLR0917
    name: str,
    search: Search,
    actions: Iterable[str],
    excepted: frozenset[str],
    strange: Sequence[str],
    extra: Any = None,
    *,
    asymmetric: bool = False,
) -> GoalResult:
    doubts = list(strange)
    others = [caller for caller in search.everybody if not caller.principal.identities & excepted]
    for caller, action in itertools.product(others, sorted(actions)):
        answer = search.ask(caller, f"kms:{action}", extra)
        if isinstance(answer, Granted):
            return GoalResult(name, Status.REFUTED, _counterexample(search.policy, answer))
        doubts += [answer] if answer else []
    unclassified = KMS.unclassified() | (PUBLISHES if asymmetric else frozenset())
    for caller, action in itertools.product(others, sorted(unclassified)):
        answer = search.ask(caller, f"kms:{action}")
        if answer:
            doubts.append(_unclassified(action, caller.label))
            break
    return GoalResult(name, Status.UNKNOWN if doubts else Status.PROVED, reason=doubts[0] if doubts else None)


def _unclassified(action: str, who: str) -> str:
    if action in PUBLISHES:
        return (
            f"kms:{action} for {who}: were the key asymmetric, everybody with its public half would encrypt "
            "outside KMS; leave the action out, a symmetric key has no use for it"
        )
    return f"kms:{action} for {who}: a new action of AWS, whose class is not known here; leave it out"


def _strange_actions(policy: Policy) -> Iterator[str]:
    """Actions of KMS in an Allow that AWS's list does not have."""
    for statement in policy.statements:
        if not statement.allow or statement.not_action or not statement.has_effect:
            continue
        for pattern in statement.actions:
            if ascii_lower(pattern).startswith("kms:") and not KMS.matching(pattern):
                yield (
                    f"Action {pattern}: no action in AWS's list of {KMS.date}; "
                    "write the name of one that is, or leave it out"
                )


def _tuple(space: Space, item: tuple[str, str, str]) -> Any:
    registers = [space.slots(f"{ATTESTATION}pcr{index}")[0] for index in range(3)]
    return z3.And(
        *(
            z3.And(slot.present, space.one_of(slot.value, [value]))
            for slot, value in zip(registers, item, strict=True)
        )
    )


def _counterexample(policy: Policy, found: Granted) -> Counterexample:
    request = found.request
    assessment = assess(policy, request)
    names = tuple(
        policy.statements[index].sid or f"statement {index + 1}"
        for index in assessment.allowed_by or assessment.delegated_by
    )
    arn, context = request.principal.arn, dict(request.context)
    return Counterexample(found.caller.label, arn, request.action, request.resource, context, names)


def _decryption(search: Search, question: ProofQuestion) -> GoalResult:
    """Whether each decided enclave can decrypt: some caller gets it, with every register as decided.

    The policy is on one key, which has to do for all of them. Without its ARN it is none that is named.
    """
    named = named_keys(search.policy) if question.key_arn is None else []
    for key in unnamed_keys(search.policy) if named else ():
        found = _each_decrypts(replace(search, key_arn=key), question)
        if found.status is Status.PROVED:
            return found
    found = _each_decrypts(search, question)
    if not named or found.status is not Status.PROVED:
        return found
    reason = f"it depends on which key the policy is on: it names {', '.join(named[:3])}; say it with --key"
    return GoalResult("decryption", Status.UNKNOWN, reason=reason)


def _each_decrypts(search: Search, question: ProofQuestion) -> GoalResult:
    if not question.tuples:
        return GoalResult("decryption", Status.UNKNOWN, reason="no decided enclave was given")
    doubt: str | None = None
    for item in question.tuples:

        def extra(space: Space, item: tuple[str, str, str] = item) -> list[Any]:
            return [_tuple(space, item), *of_an_assumed_key(space), *made_at(space, question.now)]

        found = _somebody(search, extra)
        if found is None:
            reason = f"no caller can decrypt from the enclave with PCR0 {item[0]}"
            return GoalResult("decryption", Status.REFUTED, reason=reason)
        if isinstance(found, str):
            doubt = doubt or found
    return GoalResult("decryption", Status.UNKNOWN if doubt else Status.PROVED, reason=doubt)


def _somebody(search: Search, extra: Any) -> Granted | str | None:
    doubt: str | None = None
    for caller in search.everybody:
        if caller.principal.kind == "AWS":
            answer = search.ask(caller, DECRYPT, extra)
            if isinstance(answer, Granted):
                return answer
            doubt = doubt or answer
    return doubt
