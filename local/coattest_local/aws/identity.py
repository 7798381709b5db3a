"""STS and IAM: trust policies are evaluated, the rest is the caller's own policies; moto keeps the state.

Sources: STS API Reference, "AssumeRole"; IAM User Guide, "Cross-account policy evaluation logic". In the
same account the trust policy is enough when it names the caller; where it names the account, the caller's
own policies decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from coattest_local.aws.accounts import SignedCaller, missing_principal, role_by_arn
from coattest_local.aws.http import Forward, HttpRequest, HttpResponse, ServiceError
from coattest_verify.keypolicy.iam import Policy, PolicyError, PolicyKind, parse_policy

IAM_VERBS = (
    "Add",
    "Attach",
    "Create",
    "Delete",
    "Detach",
    "Get",
    "List",
    "Put",
    "Remove",
    "Tag",
    "Untag",
    "Update",
)
"""Verbs of the IAM actions that are handed on to moto once they are allowed."""

MAX_SESSION_NAME = 64


def answer_sts(forward: Forward, request: HttpRequest, caller: SignedCaller) -> HttpResponse:
    """AssumeRole and GetCallerIdentity; the rest is not emulated. Raises ServiceError."""
    form = _form(request)
    action = form.get("Action", "")
    # GetCallerIdentity: "No permissions are required to perform this operation."
    if action == "AssumeRole":
        _authorize_assume(form, caller)
    elif action != "GetCallerIdentity":
        raise ServiceError("InvalidAction", f"sts:{action} is not emulated")
    return forward("sts", request, caller.principal.account)


def _authorize_assume(form: Mapping[str, str], caller: SignedCaller) -> None:
    arn = form.get("RoleArn", "")
    name = form.get("RoleSessionName", "")
    if not 2 <= len(name) <= MAX_SESSION_NAME:
        raise ServiceError("ValidationError", f"RoleSessionName has 2 to {MAX_SESSION_NAME} characters")
    if any(field.startswith("PolicyArns") for field in form):
        raise ServiceError("InvalidAction", "PolicyArns is not emulated")
    if "Policy" in form:
        _valid(form["Policy"], "MalformedPolicyDocument")
    role = role_by_arn(arn)
    denied = ServiceError(
        "AccessDenied",
        f"User: {caller.principal.arn} is not authorized to perform: sts:AssumeRole on resource: {arn}",
        403,
    )
    if role is None:
        raise denied
    context = {
        "sts:RoleSessionName": (name,),
        "sts:ExternalId": (form["ExternalId"],) if "ExternalId" in form else (),
    }
    trust = _valid(role.assume_role_policy_document, "AccessDenied", PolicyKind.TRUST)
    owner = role.account_id
    if not caller.may("sts:AssumeRole", arn, context, owner=owner, policy=trust, required=True).allowed:
        raise denied


def answer_iam(forward: Forward, request: HttpRequest, caller: SignedCaller) -> HttpResponse:
    """IAM for the caller's own account. Raises ServiceError."""
    form = _form(request)
    action = form.get("Action", "")
    if not action.startswith(IAM_VERBS):
        raise ServiceError("InvalidAction", f"iam:{action} is not emulated")
    account = caller.principal.account
    answer = caller.may(f"iam:{action}", _resource(form, account))
    if not answer.allowed:
        raise ServiceError(
            "AccessDenied",
            f"User: {caller.principal.arn} is not authorized to perform: iam:{action} {answer.reason}",
            403,
        )
    if "AssumeRolePolicyDocument" in form or (action == "UpdateAssumeRolePolicy"):
        _check_trust(form.get("AssumeRolePolicyDocument", form.get("PolicyDocument", "")))
    elif "PolicyDocument" in form:
        _valid(form["PolicyDocument"], "MalformedPolicyDocument")
    return forward("iam", request, account)


def _check_trust(document: str) -> None:
    missing = missing_principal(_valid(document, "MalformedPolicyDocument", PolicyKind.TRUST))
    if missing is not None:
        raise ServiceError("MalformedPolicyDocument", f"Invalid principal in policy: {missing}")


def _valid(document: str, code: str, kind: PolicyKind = PolicyKind.OTHER) -> Policy:
    try:
        return parse_policy(document, kind=kind)
    except PolicyError as error:
        raise ServiceError(code, str(error)) from error


def _resource(form: Mapping[str, str], account: str) -> str:
    for field, kind in (("RoleName", "role"), ("UserName", "user"), ("GroupName", "group")):
        if field in form:
            return f"arn:aws:iam::{account}:{kind}{form.get('Path', '/')}{form[field]}"
    return form.get("PolicyArn", "*")


def _form(request: HttpRequest) -> dict[str, str]:
    try:
        pairs = parse_qsl(request.body.decode(), keep_blank_values=True) + parse_qsl(request.query)
    except UnicodeDecodeError as error:
        raise ServiceError("MalformedInput", "the body is not text") from error
    form = dict(pairs)
    if len(form) != len(pairs):
        raise ServiceError("MalformedInput", "a parameter is given twice")
    return form
