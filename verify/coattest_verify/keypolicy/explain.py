"""Who may do what under a policy, with which enclave, as the evaluator answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coattest_verify.keypolicy.iam import Effect, Policy, Principal, Request, assess

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
        for enclave, registers in {"no document": {}, **enclaves}.items():
            image = {image_key: registers.get(0, first)} if image_key else {}
            context = {**encryption_context, **image}
            for operation in OPERATIONS if not registers else ("kms:Decrypt",):
                lines.append(_ask(policy, who, arn, enclave, registers, operation, context, key_arn))
    return tuple(lines)


def _ask(  # noqa: PLR0917
    policy: Policy,
    who: str,
    arn: str,
    enclave: str,
    registers: Mapping[int, str],
    operation: str,
    encryption_context: Mapping[str, str],
    key_arn: str,
) -> Line:
    context: dict[str, tuple[str, ...]] = {
        f"kms:RecipientAttestation:PCR{index}": (value,) for index, value in registers.items()
    }
    if 0 in registers:
        context["kms:RecipientAttestation:ImageSha384"] = (registers[0],)
    context |= {f"kms:EncryptionContext:{key}": (value,) for key, value in encryption_context.items()}
    context["kms:EncryptionContextKeys"] = tuple(encryption_context)
    found = assess(policy, Request(Principal(arn, arn.split(":")[4]), operation, key_arn, context))
    surely: Sequence[int] = found.denied_by or found.allowed_by
    deciding = (
        surely if found.effect is not Effect.OPEN else found.perhaps_denied_by or found.perhaps_granted_by
    )
    return Line(
        who,
        enclave,
        operation,
        None if found.effect is Effect.OPEN else found.effect is Effect.ALLOW,
        tuple(policy.statements[index].sid for index in deciding),
    )
