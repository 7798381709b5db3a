"""Who may do what under a policy, with which enclave, as the evaluator answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coattest_verify.keypolicy.iam import Assessment, Effect, Policy, Principal, Request, assess
from coattest_verify.keypolicy.iam.evaluate import attested_context

OPERATIONS = (
    "kms:Decrypt",
    "kms:ReEncryptFrom",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:CreateGrant",
    "kms:ReplicateKey",
    "kms:PutKeyPolicy",
    "kms:ScheduleKeyDeletion",
)
"""Operations worth a column, in the order of a reader's questions."""


@dataclass(frozen=True, slots=True)
class Line:
    """One question and its answer: ``allowed`` is what the policy says, None where AWS's documents leave it
    open; ``by`` are the statements that say it.
    """

    who: str
    enclave: str
    operation: str
    allowed: bool | None
    by: tuple[str, ...]


def explain_policy(
    policy: Policy,
    *,
    principals: Mapping[str, str],
    enclaves: Mapping[str, Mapping[int, str]],
    encryption_context: Mapping[str, str],
    key_arn: str,
    image_key: str | None = None,
) -> tuple[Line, ...]:
    """One line for each principal (name to ARN), enclave (name to PCRs; none for a request without a
    document) and operation. ``encryption_context`` is the one that the requests have; under ``image_key`` it
    has the enclave's PCR0 too, or that of the first enclave for a request without a document.
    """
    lines = []
    first = next((registers[0] for registers in enclaves.values() if 0 in registers), "")
    for who, arn in principals.items():
        caller = Principal(arn, arn.split(":")[4])
        for enclave, registers in {"no document": {}, **enclaves}.items():
            image = {image_key: registers.get(0, first)} if image_key else {}
            context = attested_context(registers, {**encryption_context, **image})
            for operation in OPERATIONS if not registers else ("kms:Decrypt",):
                found = assess(policy, Request(caller, operation, key_arn, context))
                lines.append(Line(who, enclave, operation, *_answer(policy, found)))
    return tuple(lines)


def _answer(policy: Policy, found: Assessment) -> tuple[bool | None, tuple[str, ...]]:
    """Whether it is allowed, and the Sids of the statements that say so."""
    allowed: bool | None = found.effect is Effect.ALLOW
    deciding = found.denied_by or found.allowed_by
    if found.effect is Effect.OPEN:
        allowed, deciding = None, found.perhaps_denied_by or found.perhaps_granted_by
    return allowed, tuple(policy.statements[index].sid for index in deciding)
