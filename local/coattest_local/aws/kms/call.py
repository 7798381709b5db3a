"""A request to KMS on its way through the service: authorisation, and what the trail records.

Authorisation is the key policy, the caller's policies and grants (KMS Developer Guide, "Determining access to
AWS KMS keys").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coattest_local.aws.accounts import SignedCaller
from coattest_local.aws.http import ServiceError
from coattest_local.aws.kms import keys
from coattest_local.aws.kms.keys import Key
from coattest_local.aws.kms.recipient import Recipient, read_recipient
from coattest_verify.attestation import Root
from coattest_verify.keypolicy.iam import Policy


@dataclass(slots=True)
class Call:
    """One request: its caller and parameters, the authorisation of keys, and its entry in the trail.

    Documents have to chain to ``root``.
    """

    root: Root
    name: str
    caller: SignedCaller
    parameters: Mapping[str, Any]
    touched: list[Key] = field(default_factory=list)
    verified: Recipient | None = None

    def recipient(self) -> Recipient | None:
        """The verified Recipient, if the request has one; the trail shows it. Raises ServiceError."""
        self.verified = read_recipient(self.parameters, now=self.caller.arrival.now, root=self.root)
        return self.verified

    def key(self, key_id: Any, action: str, context: Mapping[str, str], recipient: Recipient | None) -> Key:
        """Find a key, authorise the action on it, note it for the trail. Raises ServiceError."""
        key = keys.find(key_id, self.caller)
        self.touched.append(key)
        extra: dict[str, tuple[str, ...]] = {"kms:EncryptionAlgorithm": ("SYMMETRIC_DEFAULT",)}
        self.authorize(
            key, action, {**extra, **keys.context_keys(context), **_recipient_keys(recipient)}, context
        )
        return key

    def account_wide(self, action: str, recipient: Recipient | None = None) -> None:
        """Authorise an action on no key in particular by the caller's own policies."""
        self.decide(action, "*", _recipient_keys(recipient))

    def authorize(
        self,
        key: Key,
        action: str,
        extra: Mapping[str, tuple[str, ...]],
        context: Mapping[str, str] | None = None,
        policy: Policy | None = None,
    ) -> None:
        """Authorise an action on a key; ``policy`` stands in for the key's own (the lock-out check)."""
        granted = policy is None and _granted(key, self.caller, action, context or {})
        self.decide(
            action,
            key.arn,
            {**keys.key_keys(key, self.caller), **extra},
            owner=key.owner,
            policy=policy or key.policy,
            granted=granted,
        )

    def decide(
        self,
        action: str,
        resource: str,
        extra: Mapping[str, tuple[str, ...]],
        *,
        owner: str | None = None,
        policy: Policy | None = None,
        granted: bool = False,
    ) -> None:
        """Authorise, or raise ServiceError (AccessDeniedException) that says which side did not allow it."""
        required = policy is not None
        answer = self.caller.may(
            action, resource, extra, owner=owner, policy=policy, required=required, granted=granted
        )
        if not answer.allowed:
            raise ServiceError(
                "AccessDeniedException",
                f"User: {self.caller.principal.arn} is not authorized to perform: {action} "
                f"on resource: {resource} {answer.reason}",
            )


def _recipient_keys(recipient: Recipient | None) -> dict[str, tuple[str, ...]]:
    return recipient.context() if recipient else {}


def _granted(key: Key, caller: SignedCaller, action: str, context: Mapping[str, str]) -> bool:
    """Whether a grant on the key allows this operation ("Grants in AWS KMS"; constraints:
    "GrantConstraints").
    """
    principal = caller.principal
    names = principal.identities | {principal.root_arn}
    for grant in list(key.state.grants.values()):
        granted = {f"kms:{name}" for name in grant.operations or ()}
        constraints = grant.constraints or {}
        equals, subset = (
            constraints.get("EncryptionContextEquals"),
            constraints.get("EncryptionContextSubset"),
        )
        if grant.grantee_principal not in names or action not in granted:
            continue
        if equals is not None and dict(equals) != dict(context):
            continue
        if subset is not None and any(context.get(name) != value for name, value in subset.items()):
            continue
        return True
    return False
