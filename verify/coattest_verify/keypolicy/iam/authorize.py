"""A request against all policies that apply: the resource's and the caller's.

Sources: IAM User Guide, "Policy evaluation logic", "Cross-account policy evaluation logic" and "Session
policies"; KMS Developer Guide, "Key policies in AWS KMS" (no principal has any permission unless the key
policy gives it; IAM policies count only where the key policy lets the account use them) and "Allowing users
in other accounts to use a KMS key" (both sides must allow).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coattest_verify.keypolicy.iam.evaluate import Assessment, Request, assess
from coattest_verify.keypolicy.iam.model import Policy


@dataclass(frozen=True, slots=True)
class Authorization:
    """The answer, and in one line why: the words AWS uses in its messages."""

    allowed: bool
    reason: str

    def __bool__(self) -> bool:
        return self.allowed


def authorize(
    request: Request,
    *,
    owner: str,
    resource_policy: Policy | None,
    identity_policies: Sequence[Policy] = (),
    session_policies: Sequence[Policy] = (),
    resource_policy_required: bool = True,
    granted: bool = False,
) -> Authorization:
    """Decide a request for a resource of account ``owner``.

    ``resource_policy_required`` is True for KMS keys and role trust policies, where the caller's own
    policies are not enough in the same account; False for S3, where either side is. ``granted`` says that a
    KMS grant allows it, which counts like a statement of the key policy that names the caller: a Deny
    still wins.
    """
    resource_side = assess(resource_policy, request) if resource_policy else Assessment()
    named = bool(resource_side.allowed_by) or granted
    identity_side = [assess(policy, request) for policy in identity_policies]
    session_side = [assess(policy, request) for policy in session_policies]
    identity_allows = request.principal.is_root or any(item.allowed_by for item in identity_side)
    sides = {
        "a resource-based": [resource_side],
        "an identity-based": identity_side,
        "a session": session_side,
    }
    refused = _refused(request, sides)
    if refused:
        return Authorization(False, refused)
    if owner != request.principal.account:
        return _across(request, named or bool(resource_side.delegated_by), identity_allows)
    if named:
        return Authorization(True, "allowed by a resource-based policy")
    if identity_allows and (resource_side.delegated_by or not resource_policy_required):
        return Authorization(True, "allowed by an identity-based policy")
    identity_missing = not identity_allows and (resource_side.delegated_by or not resource_policy_required)
    side = "identity-based" if identity_missing else "resource-based"
    return Authorization(False, f"because no {side} policy allows the {request.action} action")


def _refused(request: Request, sides: Mapping[str, Sequence[Assessment]]) -> str | None:
    for name, assessments in sides.items():
        if any(item.denied_by for item in assessments):
            return f"with an explicit deny in {name} policy"
        for item in assessments:
            if item.perhaps_denied_by:
                return f"because AWS leaves open whether {name} policy denies it ({item.doubts[0]})"
    if not all(item.allowed_by for item in sides["a session"]):
        return f"because no session policy allows the {request.action} action"
    return None


def _across(request: Request, resource_allows: bool, identity_allows: bool) -> Authorization:
    if not resource_allows:
        return Authorization(False, f"because no resource-based policy allows the {request.action} action")
    if not identity_allows:
        return Authorization(False, f"because no identity-based policy allows the {request.action} action")
    return Authorization(True, "allowed by a resource-based and an identity-based policy")
