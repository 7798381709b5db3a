"""The KMS endpoint: authorises an operation on its key, and answers it or hands it on to moto.

Cryptographic operations are answered by ``operations``; management is moto's, once it is authorised. An
operation that is in neither table is refused: nothing reaches moto that was not authorised here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from coattest_local.aws.accounts import SignedCaller, missing_principal
from coattest_local.aws.http import Forward, HttpRequest, HttpResponse, ServiceError, json_answer
from coattest_local.aws.kms import keys
from coattest_local.aws.kms.call import Call
from coattest_local.aws.kms.keys import Key
from coattest_local.aws.kms.operations import OPERATIONS
from coattest_local.aws.trail import Trail
from coattest_verify.attestation import Root
from coattest_verify.keypolicy.iam import PolicyError, parse_policy
from coattest_verify.keypolicy.iam.parse import MAX_DOCUMENT_BYTES

ON_KEY = {
    "CancelKeyDeletion": False,
    "CreateGrant": True,
    "DescribeKey": True,
    "DisableKey": False,
    "DisableKeyRotation": False,
    "EnableKey": False,
    "EnableKeyRotation": False,
    "GetKeyPolicy": False,
    "GetKeyRotationStatus": True,
    "ListGrants": True,
    "ListKeyPolicies": False,
    "ListResourceTags": False,
    "PutKeyPolicy": False,
    "ReplicateKey": False,
    "RevokeGrant": True,
    "ScheduleKeyDeletion": False,
    "TagResource": False,
    "UntagResource": False,
    "UpdateKeyDescription": False,
}
"""Management operations on a key that moto answers, and whether a principal of another account may call them
(KMS Developer Guide, "AWS KMS permissions", column "Cross-account use").
"""

_POLICY_CHARACTERS = re.compile(r"[\t\n\r -\u00ff]+")
"""The characters of a key policy (API Reference, "PutKeyPolicy", Policy, Pattern)."""

WITHOUT_KEY = ("ListAliases", "ListKeys")
ALIASES = ("CreateAlias", "DeleteAlias", "UpdateAlias")


class KmsService:
    """Answers authenticated KMS requests."""

    def __init__(self, root: Root, *, forward: Forward, trail: Trail) -> None:
        self._root = root
        self._forward = forward
        self._trail = trail

    def handle(self, request: HttpRequest, caller: SignedCaller) -> HttpResponse:
        """The answer. Raises ServiceError."""
        if request.method != "POST" or request.path != "/" or request.query:
            # moto takes an Action of the query before X-Amz-Target: what was authorised must be what runs.
            raise ServiceError("UnknownOperationException", "KMS is POST / and nothing else", 404)
        name = request.headers.get("x-amz-target", "").removeprefix("TrentService.")
        call = Call(self._root, name, caller, _parameters(request))
        try:
            answer = self._dispatch(call, request)
        except ServiceError as error:
            self._trail.record(call, error)
            raise
        self._trail.record(call)
        return answer

    def _dispatch(self, call: Call, request: HttpRequest) -> HttpResponse:
        name = call.name
        if name in OPERATIONS:
            return json_answer(OPERATIONS[name](call))
        if name == "CreateKey":
            return self._create_key(call, request)
        if name in ALIASES:
            return self._alias(call, request)
        if name in WITHOUT_KEY:
            call.account_wide(f"kms:{name}")
            return self._forward("kms", request, call.caller.principal.account)
        if name in ON_KEY:
            return self._on_key(call, request)
        raise ServiceError("UnknownOperationException", f"{name} is not emulated", 400)

    def _on_key(self, call: Call, request: HttpRequest) -> HttpResponse:
        name = call.name
        key = keys.find(call.parameters.get("KeyId"), call.caller)
        call.touched.append(key)
        if key.owner != call.caller.principal.account and not ON_KEY[name]:
            raise keys.not_here(call.caller, key.arn)
        call.authorize(key, f"kms:{name}", _grant_keys(call.parameters) if name == "CreateGrant" else {})
        if name == "PutKeyPolicy":
            self._check_policy(call, key, call.parameters.get("Policy"))
        if name == "ReplicateKey" and not key.state.multi_region:
            raise ServiceError(
                "UnsupportedOperationException", f"{key.arn} is not a multi-Region primary key."
            )
        parameters = {"PolicyName": "default", **call.parameters, "KeyId": key.state.id}
        return self._forward("kms", _with_body(request, parameters), key.owner)

    def _create_key(self, call: Call, request: HttpRequest) -> HttpResponse:
        call.account_wide("kms:CreateKey")
        if call.parameters.get("Tags"):
            call.account_wide("kms:TagResource")
        policy = call.parameters.get("Policy")
        if policy is not None:
            self._check_policy(call, None, policy)
        # Defaults of the API Reference that moto leaves out.
        parameters = {"KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT", **call.parameters}
        spec = call.parameters.get("CustomerMasterKeySpec", parameters["KeySpec"])
        if spec != "SYMMETRIC_DEFAULT":
            raise ServiceError("UnsupportedOperationException", f"a key of spec {spec} is not emulated")
        answer = self._forward("kms", _with_body(request, parameters), call.caller.principal.account)
        if answer.status == 200:
            made = json.loads(answer.body)["KeyMetadata"]["Arn"]
            call.touched.append(keys.find(made, call.caller))
        return answer

    def _alias(self, call: Call, request: HttpRequest) -> HttpResponse:
        alias = call.parameters.get("AliasName")
        if not isinstance(alias, str) or not alias.startswith("alias/"):
            raise ServiceError("ValidationException", "AliasName begins with alias/")
        owner = call.caller.principal.account
        wanted = alias if call.name == "DeleteAlias" else call.parameters.get("TargetKeyId")
        key = keys.find(wanted, call.caller)
        call.touched.append(key)
        if key.owner != owner:
            raise keys.not_here(call.caller, key.arn)
        # "Controlling access to aliases": on the alias by an IAM policy, and on the key by its policy.
        call.decide(f"kms:{call.name}", f"arn:aws:kms:{call.caller.arrival.region}:{owner}:{alias}", {})
        call.authorize(key, f"kms:{call.name}", {})
        return self._forward("kms", request, owner)

    def _check_policy(self, call: Call, key: Key | None, text: Any) -> None:
        """Check a new key policy as KMS does ("PutKeyPolicy"): size, characters, grammar, principals that
        exist, the lock-out safety check. A statement without Resource or Action is taken, and has no effect.
        """
        if not isinstance(text, str) or not _POLICY_CHARACTERS.fullmatch(text):
            raise ServiceError("ValidationException", "Value at 'policy' failed to satisfy constraint")
        if len(text.encode()) > MAX_DOCUMENT_BYTES:
            raise ServiceError("LimitExceededException", "The key policy exceeds the length constraint.")
        try:
            policy = parse_policy(text)
        except PolicyError as error:
            raise ServiceError("MalformedPolicyDocumentException", str(error)) from error
        if missing_principal(policy) is not None:
            raise ServiceError(
                "MalformedPolicyDocumentException",
                "Policy contains a statement with one or more invalid principals.",
            )
        if call.parameters.get("BypassPolicyLockoutSafetyCheck"):
            return
        probe = key or _future_key(call)
        try:
            call.authorize(probe, "kms:PutKeyPolicy", {}, policy=policy)
        except ServiceError as error:
            raise ServiceError(
                "MalformedPolicyDocumentException",
                "The new key policy will not allow you to update the key policy in the future.",
            ) from error


def _future_key(call: Call) -> Key:
    """A key before it is created, with the state that conditions ask for."""
    parameters, account = call.parameters, call.caller.principal.account
    state = SimpleNamespace(
        key_spec=parameters.get("KeySpec") or "SYMMETRIC_DEFAULT",
        key_usage=parameters.get("KeyUsage") or "ENCRYPT_DECRYPT",
        origin=parameters.get("Origin") or "AWS_KMS",
        multi_region=bool(parameters.get("MultiRegion")),
        aliases=(),
    )
    region = call.caller.arrival.region
    arn = f"arn:aws:kms:{region}:{account}:key/00000000-0000-0000-0000-000000000000"
    return Key(arn, account, region, state)


def _grant_keys(parameters: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    found = {
        "kms:GranteePrincipal": (str(parameters.get("GranteePrincipal")),),
        "kms:GrantOperations": tuple(parameters.get("Operations") or ()),
        "kms:GrantIsForAWSResource": ("false",),
        "kms:GrantConstraintType": tuple(parameters.get("Constraints") or ()),
    }
    if parameters.get("RetiringPrincipal"):
        found["kms:RetiringPrincipal"] = (str(parameters["RetiringPrincipal"]),)
    return found


def _parameters(request: HttpRequest) -> dict[str, Any]:
    try:
        parameters = json.loads(request.body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ServiceError("SerializationException", "the body is not JSON") from error
    if not isinstance(parameters, dict):
        raise ServiceError("SerializationException", "the body is not a JSON object")
    return parameters


def _with_body(request: HttpRequest, parameters: Mapping[str, Any]) -> HttpRequest:
    body = json.dumps(parameters).encode()
    headers = {**request.headers, "content-length": str(len(body))}
    return HttpRequest(request.method, request.path, request.query, headers, body, request.source)
