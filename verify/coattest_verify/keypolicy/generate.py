"""A buyer's KMS key policy, generated from decisions: only the decided enclaves decrypt. Pure.

Each rule has its reason:

* One Allow per release, with all of its registers. Values of one key are alternatives, so two releases in one
  statement would also admit a mixture of both (KMS Developer Guide, "Condition keys for Nitro Enclaves"; IAM
  User Guide, "Conditions with multiple context keys or values").
* PCR3 of the parent's role is required too: with PCR0 to PCR2 alone the image could run in anybody's account
  (Nitro Enclaves User Guide, "Where to get an enclave's measurements"). With several roles there is one Allow
  for each, since values of one key are alternatives. What PCR3 is for a role with a path is not documented,
  so such a role needs its measured value.
* Denies for every principal. A Deny wins over every Allow, over grants, and over what an administrator's
  other statements say; it is lifted only by a logged PutKeyPolicy. The Denies name the images of *all*
  releases: a Deny for each release would deny every release during a rotation.
* Encrypters make their data keys themselves and have Encrypt alone, under the same encryption context as the
  enclave's Decrypt: what it may not open cannot be made either. GenerateDataKey would hand out plaintext
  without a document, which scanners report as a way past the attestation.
* The encryption context can name the image too: the value of one of its keys is the release's PCR0. A program
  that takes that value from its own attestation document cannot open what was made for a later release.
* ReEncrypt, CreateGrant and ReplicateKey are denied always: each takes ciphertext, or power over it, past the
  conditions (ReEncrypt has no attestation keys at all).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from coattest.errors import FoundFalse, UsageError, require_aware, require_kind
from coattest_build.formats.measure import pcr3
from coattest_build.formats.registers import EMPTY_PCR2
from coattest_verify.keypolicy.iam.parse import MAX_DOCUMENT_BYTES
from coattest_verify.quorum.decision import Decision
from coattest_verify.quorum.statements.claim import SHA384

ATTESTATION = "kms:RecipientAttestation"

DECISION_TAG = "coattest:decision"
"""The tag that says which decision a key's policy was made from."""

ENCLAVE_TAG = ("coattest:enclave-key", "true")
"""A tag by which scanners know an enclave's key: they look for the word in tags and descriptions."""

ADMINISTRATION = (
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:DisableKeyRotation",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
)
"""What administrators may do: no cryptographic operation; PutKeyPolicy alone hands out power."""

ENCRYPTION = ("kms:Encrypt",)
NEVER = ("kms:CreateGrant", "kms:DeriveSharedSecret", "kms:ReEncrypt*", "kms:ReplicateKey")


_ACCOUNT = re.compile(r"[0-9]{12}")
_PARTITION = re.compile(r"aws(?:-[a-z]+)*")
_NAME = r"[A-Za-z0-9+=,.@_/-]+"


def _bad_principal(what: str, *, where: str | None = None, hint: str | None = None) -> UsageError:
    """The error for a principal that a key policy must not name, or not in this place."""
    return UsageError(what, where=where, hint=hint, code="bad-principal")


@dataclass(frozen=True, slots=True)
class ContextRules:
    """Which encryption context every Decrypt and Encrypt must have, exactly: no key more and none less.

    ``pairs`` are keys with their one value, ``any_value`` keys that must be there, and ``image_key`` the key
    whose value must be the release's PCR0 in lower-case hex. Without any of them every context will do.
    """

    pairs: Mapping[str, str] = field(default_factory=dict)
    any_value: Collection[str] = ()
    image_key: str | None = None

    def conditions(self, images: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The conditions of a statement for these images (PCR0).

        The key part of kms:EncryptionContext:KEY is not case-sensitive; kms:EncryptionContextKeys is
        ("kms:Encryption Context:context-key"). ForAllValues holds for an empty set too: that each key is
        there is what StringEquals and Null say. Raises UsageError for a policy variable.
        """
        words = (text for pair in self.pairs.items() for text in pair)
        if variable := next((text for text in words if "${" in text), None):
            raise UsageError(f"{variable!r} would be a policy variable", where="--context")
        equal: dict[str, Any] = dict(self.pairs)
        if self.image_key:
            equal[self.image_key] = _one_or_more(images)
        names = sorted({*equal, *self.any_value})
        if not names:
            return {}
        conditions: dict[str, dict[str, Any]] = {
            "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": _one_or_more(names)}
        }
        if equal:
            conditions["StringEquals"] = {
                f"kms:EncryptionContext:{key}": value for key, value in sorted(equal.items())
            }
        if self.any_value:
            conditions["Null"] = {f"kms:EncryptionContext:{key}": "false" for key in sorted(self.any_value)}
        return conditions


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """The optional parts of a policy.

    ``registers`` are further registers that every release must have (4: the instance, 8: the image's signer),
    in hex; with 3 among them, or without ``bind_role``, PCR3 is not derived from the parent's role.
    ``break_glass`` names one more administrator, kept apart for emergencies.
    ``until`` ends the permission to decrypt by itself. ``delegate_to_account`` lets the account's own IAM
    policies administer the key: a risk, since whoever writes those policies is then an administrator.
    """

    registers: Mapping[int, str] = field(default_factory=dict)
    bind_role: bool = True
    break_glass: str | None = None
    until: datetime | None = None
    delegate_to_account: bool = False


def generate_policy(
    decisions: Decision | Sequence[Decision],
    *,
    account: str,
    parent_roles: Sequence[str],
    administrators: Sequence[str],
    encrypters: Sequence[str],
    now: datetime,
    context: ContextRules | None = None,
    partition: str = "aws",
    simulator: bool = False,
    options: PolicyOptions | None = None,
) -> dict[str, Any]:
    """The key policy for one or more decided releases, as a JSON-ready dict.

    ``simulator`` allows decisions of the ``local`` profile, whose enclaves anyone can imitate: only for a
    KMS on loopback. ``context`` is what every Decrypt and Encrypt must have. Raises FoundFalse for
    decisions that no policy is made from (expired, local, zero or empty registers, the same PCR0 twice),
    UsageError for arguments that make no sense (``bad-principal`` for principals that cannot be named).
    """
    require_kind(decisions, (Decision, Sequence), "decisions")
    releases = [decisions] if isinstance(decisions, Decision) else list(decisions)
    for release in releases:
        require_kind(release, Decision, "decisions")
    for name, principals in (
        ("parent_roles", parent_roles),
        ("administrators", administrators),
        ("encrypters", encrypters),
    ):
        require_kind(principals, (list, tuple), name, hint="ARNs")
    require_aware(now)
    wanted = options or PolicyOptions()
    _check_releases(releases, now=now, simulator=simulator)
    _check_registers(wanted.registers)
    if wanted.until is not None and wanted.until <= now:
        raise UsageError(
            f"{wanted.until:%Y-%m-%dT%H:%M:%SZ} has passed: nobody could decrypt", where="--until"
        )
    decided = sorted(set(wanted.registers) & {0, 1, 2})
    if decided:
        raise UsageError(f"PCR{decided[0]} comes from the decision", hint="further registers are 3 to 31")
    _check_names(
        account=account,
        partition=partition,
        parent_roles=parent_roles,
        administrators=administrators,
        encrypters=encrypters,
        options=wanted,
    )
    images = sorted({release.pcrs[0] for release in releases})
    rules = context or ContextRules()
    statements: list[dict[str, Any]] = [
        _decrypt(release, roles, rules.conditions([release.pcrs[0]]), bound, suffix)
        for release in sorted(releases, key=lambda item: item.pcrs[0])
        for roles, bound, suffix in _bindings(parent_roles, wanted)
    ]
    statements += [
        _allow("Encrypt", encrypters, ENCRYPTION, rules.conditions(images)),
        _allow("Administer", administrators, ADMINISTRATION),
        *([_allow("BreakGlass", [wanted.break_glass], ADMINISTRATION)] if wanted.break_glass else []),
        *(
            [_allow("DelegateToAccount", [f"arn:{partition}:iam::{account}:root"], ADMINISTRATION)]
            if wanted.delegate_to_account
            else []
        ),
        _deny("DenyUnattested", ("kms:Decrypt",), {"Null": {f"{ATTESTATION}:ImageSha384": "true"}}),
        _deny(
            "DenyOtherImages",
            ("kms:Decrypt",),
            {"StringNotEqualsIgnoreCase": {f"{ATTESTATION}:ImageSha384": _one_or_more(images)}},
        ),
        _deny("DenyAlways", NEVER),
    ]
    policy = {"Version": "2012-10-17", "Id": policy_id(releases), "Statement": statements}
    size = len(policy_text(policy).encode())
    if size > MAX_DOCUMENT_BYTES:
        raise UsageError(
            f"the policy has {size} bytes, the limit of KMS is {MAX_DOCUMENT_BYTES}",
            hint="retire old releases or name fewer principals",
        )
    return policy


def policy_id(decisions: Sequence[Decision]) -> str:
    """The Id of the policy: ``coattest`` and the release digests in hex, in a fixed order."""
    return "-".join(["coattest", *sorted(release.release_digest.hex() for release in decisions)])


def decision_tag(policy_id: str) -> str:
    """The value of the tag DECISION_TAG: the policy's Id, or its SHA-256 where a tag (256 characters) cannot
    hold it.
    """
    return policy_id if len(policy_id) <= 256 else f"sha256:{hashlib.sha256(policy_id.encode()).hexdigest()}"


def policy_text(policy: Mapping[str, Any]) -> str:
    """The policy as text: one form for one policy. Statement order and list order are the generator's."""
    return json.dumps(policy, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _bindings(
    parent_roles: Sequence[str], options: PolicyOptions
) -> list[tuple[Sequence[str], PolicyOptions, str]]:
    """The roles of each Allow, the registers that it requires, and the end of its Sid.

    Raises UsageError for a role with a path.
    """
    if not options.bind_role or 3 in options.registers:
        return [(parent_roles, options, "")]
    found: list[tuple[Sequence[str], PolicyOptions, str]] = []
    several = len(set(parent_roles)) > 1
    for role in sorted(set(parent_roles)):
        if role.split(":", 5)[5].count("/") > 1:
            raise _bad_principal(
                "AWS does not say what PCR3 is for a role with a path",
                where=role,
                hint="take a role without one, or --register 3=HEX as measured, or --no-pcr3",
            )
        bound = replace(options, registers={**options.registers, 3: pcr3(role)})
        found.append(([role], bound, f"Role{bound.registers[3][:16]}" if several else ""))
    return found


def _decrypt(
    release: Decision,
    parent_roles: Sequence[str],
    context: Mapping[str, Any],
    options: PolicyOptions,
    suffix: str,
) -> dict[str, Any]:
    registers = {
        f"{ATTESTATION}:ImageSha384": release.pcrs[0],
        f"{ATTESTATION}:PCR1": release.pcrs[1],
        f"{ATTESTATION}:PCR2": release.pcrs[2],
        **{f"{ATTESTATION}:PCR{index}": value for index, value in sorted(options.registers.items())},
    }
    conditions: dict[str, dict[str, Any]] = {"StringEqualsIgnoreCase": registers, **context}
    if options.until:
        moment = options.until.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions["DateLessThan"] = {"aws:CurrentTime": moment}
    return _allow(f"Decrypt{release.pcrs[0][:16]}{suffix}", parent_roles, ("kms:Decrypt",), conditions)


def policy_statement(  # noqa: PLR0917
    sid: str,
    effect: str,
    principals: str | Sequence[str],
    actions: str | Sequence[str],
    resource: Any = "*",
    condition: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A statement about principals of AWS in a policy that is attached to a resource."""
    statement = {
        "Sid": sid,
        "Effect": effect,
        "Principal": {"AWS": principals},
        "Action": actions,
        "Resource": resource,
    }
    return statement | ({"Condition": dict(condition)} if condition else {})


def _allow(
    sid: str, principals: Sequence[str], actions: Sequence[str], condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    who, what = _one_or_more(sorted(set(principals))), _one_or_more(sorted(actions))
    return policy_statement(sid, "Allow", who, what, condition=condition)


def _deny(sid: str, actions: Sequence[str], condition: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return policy_statement(sid, "Deny", "*", _one_or_more(sorted(actions)), condition=condition)


def _one_or_more(values: Sequence[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)


def _check_releases(releases: Sequence[Decision], *, now: datetime, simulator: bool) -> None:
    if not releases:
        raise UsageError("a policy needs at least one decided release")
    for release in releases:
        if release.profile != "aws" and not simulator:
            local = "the decision is for the local profile, whose documents anyone can make"
            other = f"the decision is for the profile {release.profile}, and KMS is for enclaves of aws"
            raise FoundFalse(
                local if release.profile == "local" else other,
                where=release.release,
                hint="for a KMS on loopback, say --simulator",
                code="local-decision",
            )
        if now >= release.expires:
            raise FoundFalse(
                f"the decision expired at {release.expires:%Y-%m-%dT%H:%M:%SZ}",
                where=release.release,
                hint="rebuild, sign and decide again",
                code="decision-expired",
            )
        if set(release.pcrs) != {0, 1, 2}:
            raise FoundFalse(
                "a decision needs PCR0, PCR1 and PCR2", where=release.release, code="missing-pcr"
            )
        check_tuple(release.pcrs, release.release)
    images = [release.pcrs[0] for release in releases]
    if len(set(images)) != len(images):
        raise FoundFalse(
            "two releases have the same PCR0",
            hint="one statement per release: give each release once",
            code="mixed-tuples",
        )


def check_tuple(pcrs: Mapping[int, str], where: str) -> None:
    """Refuse registers that pin nothing: zero ones, and those of an image without an application ramdisk.

    Raises FoundFalse.
    """
    _check_registers(pcrs)
    if pcrs[2] == EMPTY_PCR2 or pcrs[0] == pcrs[1]:
        raise FoundFalse(
            "PCR2 is that of an image without an application ramdisk: it pins nothing",
            where=where,
            code="empty-pcr2",
        )


def _check_registers(registers: Mapping[int, str]) -> None:
    for index, value in registers.items():
        if not 0 <= index <= 31 or not SHA384.fullmatch(value):
            raise FoundFalse(f"PCR{index} is not 96 lower-case hex digits", code="bad-pcr")
        if not int(value, 16):
            raise FoundFalse(
                f"PCR{index} is zero: that is what an unmeasured or debug enclave has", code="zero-pcr"
            )


def _check_names(
    *,
    account: str,
    partition: str,
    parent_roles: Sequence[str],
    administrators: Sequence[str],
    encrypters: Sequence[str],
    options: PolicyOptions,
) -> None:
    if not _ACCOUNT.fullmatch(account):
        raise UsageError(f"{account!r} is not a 12-digit account", where="--account")
    if not _PARTITION.fullmatch(partition):
        raise UsageError(f"{partition!r} is not a partition", where="--partition")
    emergency = [options.break_glass] if options.break_glass else []
    for kind, arns in (
        ("--parent-role", parent_roles),
        ("--administrator", administrators),
        ("--encrypter", encrypters),
    ):
        if not arns:
            raise UsageError("name at least one", where=kind)
    for arn in parent_roles:
        _check_arn(arn, rf"arn:{partition}:iam::[0-9]{{12}}:role/{_NAME}", "--parent-role")
    for arn in (*administrators, *encrypters, *emergency):
        _check_arn(
            arn, rf"arn:{partition}:iam::{account}:(?:role|user)/{_NAME}", "--administrator or --encrypter"
        )
    both = sorted({*administrators, *emergency} & set(parent_roles))
    if both:
        raise _bad_principal(
            f"{both[0]} is the parent's role and an administrator",
            hint="the service must not manage a buyer's key",
        )
    if options.break_glass in administrators:
        raise _bad_principal(
            "the break-glass principal is one of the administrators already", where=options.break_glass
        )


def _check_arn(arn: str, pattern: str, where: str) -> None:
    # No "*", no account root, no session, no unique id: each is either everybody or somebody who is not
    # named.
    if not re.fullmatch(pattern, arn):
        raise _bad_principal(
            f"{arn!r} is not a role (or user) that can be named here",
            where=where,
            hint="the ARN of an IAM role or user; administrators and encrypters in the key's own account",
        )
