"""What a key's live policy would let past the decided enclave, for one encryption context. Pure.

It asks the evaluator for each class of callers that the policy can tell apart. What the
request does not settle (a tag, an address, a register beyond those given) is taken to be as it suits the
caller. That is a look before something is encrypted, not a proof: ``prove`` has that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from coattest.findings import Finding
from coattest_build.formats.measure import pcr3
from coattest_verify.keypolicy.iam import Condition, Policy, Principal, Request, assess
from coattest_verify.keypolicy.iam.actions import ATTESTATION, CONTEXT, CONTEXT_KEYS
from coattest_verify.keypolicy.iam.callers import Caller, callers
from coattest_verify.keypolicy.iam.evaluate import attested_context
from coattest_verify.keypolicy.iam.match import ascii_lower
from coattest_verify.keypolicy.iam.reading import Ternary

CODE = "key-policy"

_ARN_OF_THE_CALLER = "aws:principalarn"
_OF_THE_CALLER = (_ARN_OF_THE_CALLER, "aws:principalaccount", "kms:calleraccount")
MAX_PRINCIPALS = 100
"""Principals that a policy may name: their combinations are the callers."""

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
    named = {each for item in policy.statements for each in item.principals or ()}
    if len(named) > MAX_PRINCIPALS:
        detail = f"its policy names {len(named)} principals; over {MAX_PRINCIPALS} are not looked at"
        return (Finding(CODE, f"key {key_arn}", detail),)
    found = []
    partition, account = key_arn.split(":")[1], key_arn.split(":")[4]
    for caller in callers(policy, [f"arn:{partition}:iam::{account}:root"]):
        tries = [
            ("kms:Decrypt", "without an attestation document", {}, context),
            ("kms:Decrypt", "from another image", _OTHER_IMAGE, context),
            *(("kms:Decrypt", f"under {name}", pcrs, other) for name, other in foreign.items()),
            ("kms:ReEncryptFrom", "by re-encryption", {}, context),
            ("kms:CreateGrant", "by a grant", {}, context),
        ]
        for action, how, registers, under in tries:
            request = _request(caller.principal, action, key_arn, registers, under)
            if assess(_loosest(policy, registers, caller), request).granted is not Ternary.NO:
                found.append(Finding(CODE, f"key {key_arn}", f"{caller.label} may get a plaintext {how}"))
    return tuple(found)


def _loosest(policy: Policy, registers: Mapping[int, str], caller: Caller) -> Policy:
    """The policy without what a request with these registers by such a caller leaves open: without such
    conditions of an Allow, and without a Deny that has one.
    """
    statements, left_open = [], _left_open(caller)
    for item in policy.statements:
        open_resource = policy.variables and any("${" in text for text in item.resources)
        settled = [
            each
            for each in item.conditions
            if _settled(each, registers, policy.variables) and ascii_lower(each.key) not in left_open
        ]
        if item.allow:
            everything = {"resources": ("*",), "not_resource": False} if open_resource else {}
            statements.append(replace(item, conditions=tuple(settled), **everything))  # type: ignore[arg-type]
        elif len(settled) == len(item.conditions) and not open_resource:
            statements.append(item)
    return replace(policy, statements=tuple(statements))


def _left_open(caller: Caller) -> Collection[str]:
    """The keys of the caller whose value differs within its class, or which a service may not have."""
    if caller.principal.kind != "AWS" or caller.outside:
        return _OF_THE_CALLER
    return () if caller.named and not caller.free_path else (_ARN_OF_THE_CALLER,)


def _settled(condition: Condition, registers: Mapping[int, str], variables: bool) -> bool:
    """Whether ``_request`` says what a condition looks at; of registers those given, or none at all."""
    key = ascii_lower(condition.key)
    if variables and any("${" in value for value in condition.values):
        return False
    if key.startswith(ATTESTATION):
        index = "0" if key.endswith(":imagesha384") else key.removeprefix(f"{ATTESTATION}pcr")
        return index.isdecimal() and (not registers or int(index) in registers)
    return key == CONTEXT_KEYS or key.startswith(CONTEXT) or key in _OF_THE_CALLER


def _request(
    caller: Principal, action: str, key_arn: str, registers: Mapping[int, str], context: Mapping[str, str]
) -> Request:
    attested = {**registers, 3: pcr3(caller.role_arn)} if registers and caller.role_arn else registers
    keys = {
        "aws:PrincipalArn": (caller.principal_arn,),
        "aws:PrincipalAccount": (caller.account,),
        "kms:CallerAccount": (caller.account,),
        **attested_context(attested, context),
    }
    return Request(caller, action, key_arn, keys)
