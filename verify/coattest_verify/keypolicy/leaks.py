"""What a key's live policy would let past the decided enclave, for one encryption context. Pure.

It asks the evaluator for the callers that the policy names, and for somebody whom it does not name. That is
a look before something is encrypted, not a proof: ``prove`` has that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from coattest.findings import Finding
from coattest_build.formats.measure import pcr3
from coattest_verify.keypolicy.iam import Policy, Principal, Request, assess
from coattest_verify.keypolicy.iam.reading import Ternary

CODE = "key-policy"

_OTHER_IMAGE = {0: "11" * 48, 1: "22" * 48, 2: "33" * 48}


def policy_leaks(
    policy: Policy,
    key_arn: str,
    *,
    pcrs: Mapping[int, str],
    context: Mapping[str, str],
    foreign: Mapping[str, Mapping[str, str]],
) -> tuple[Finding, ...]:
    """A finding for each way past the enclave with ``pcrs`` (0 to 2, hex) that the policy leaves, surely or
    perhaps, for a ciphertext under ``context``; ``foreign`` are contexts, by what they are, under which even
    that enclave must get nothing.
    """
    found = []
    for caller in _callers(policy, key_arn):
        tries = [
            ("kms:Decrypt", "without an attestation document", {}, context),
            ("kms:Decrypt", "from another image", _OTHER_IMAGE, context),
            *(("kms:Decrypt", f"under {name}", pcrs, other) for name, other in foreign.items()),
            ("kms:ReEncryptFrom", "by re-encryption", {}, context),
            ("kms:CreateGrant", "by a grant", {}, context),
        ]
        for action, how, registers, under in tries:
            request = _request(caller, action, key_arn, registers, under)
            if assess(policy, request).granted is not Ternary.NO:
                found.append(Finding(CODE, f"key {key_arn}", f"{caller.arn} may get a plaintext {how}"))
    return tuple(found)


def _callers(policy: Policy, key_arn: str) -> Iterator[Principal]:
    """Everybody whom an Allow names, somebody of each account that it names, and a stranger."""
    partition, account = key_arn.split(":")[1], key_arn.split(":")[4]
    arns = {f"arn:{partition}:iam::{account}:user/anyone-else", f"arn:{partition}:iam::000000000000:user/x"}
    for statement in policy.statements:
        for principal in statement.principals or ():
            if not statement.allow or principal.kind != "AWS" or not principal.value.startswith("arn:"):
                continue
            value = principal.value
            arns.add(f"{value.removesuffix(':root')}:user/anyone-else" if principal.is_account else value)
    for arn in sorted(arns):
        yield Principal(arn, arn.split(":")[4], partition=partition)


def _request(
    caller: Principal, action: str, key_arn: str, registers: Mapping[int, str], context: Mapping[str, str]
) -> Request:
    keys: dict[str, Sequence[str]] = {}
    if registers:
        attested = {**registers, 3: pcr3(caller.arn)} if ":role/" in caller.arn else registers
        keys |= {f"kms:RecipientAttestation:PCR{index}": (value,) for index, value in attested.items()}
        keys["kms:RecipientAttestation:ImageSha384"] = (registers[0],)
    keys |= {f"kms:EncryptionContext:{key}": (value,) for key, value in context.items()}
    keys["kms:EncryptionContextKeys"] = tuple(context)
    return Request(caller, action, key_arn, {key: tuple(value) for key, value in keys.items()})
