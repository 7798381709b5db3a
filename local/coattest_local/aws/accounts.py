"""Accounts, users, roles and sessions: moto's IAM and STS state read as principals and policies.

moto is used as the store. It checks neither signatures nor policies here: that is done before it is asked.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from coattest_local.aws.http import ServiceError
from coattest_verify.keypolicy.iam import (
    Authorization,
    Policy,
    PolicyError,
    PolicyKind,
    Principal,
    Request,
    authorize,
    parse_policy,
)

PARTITION = "aws"

ADMIN_POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}
"""What the admin user of each account may do: everything that its account may."""

_ACCOUNT_OF_ARN = re.compile(r"arn:aws:(?:iam|sts)::(\d{12}):(.+)")


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a request goes to and comes from, and when it came."""

    region: str
    source: str
    now: datetime


@dataclass(frozen=True, slots=True)
class SignedCaller:
    """The authenticated caller of one request, with the policies of its own side."""

    principal: Principal
    access_key: str
    kind: str
    name: str
    identity_policies: tuple[Policy, ...]
    session_policies: tuple[Policy, ...]
    arrival: Arrival

    @property
    def user_id(self) -> str:
        """The unique id, of a session with its name."""
        session = "" if self.kind == "IAMUser" else f":{self.name}"
        return f"{self.principal.unique_id or ''}{session}"

    def may(
        self,
        action: str,
        resource: str,
        context: Mapping[str, tuple[str, ...]] | None = None,
        *,
        owner: str | None = None,
        policy: Policy | None = None,
        required: bool = False,
        granted: bool = False,
    ) -> Authorization:
        """Whether the caller may do it to a resource with ``policy`` of the account ``owner``, its own unless
        told otherwise; see ``authorize``.
        """
        return authorize(
            Request(self.principal, action, resource, {**self._context(), **(context or {})}),
            owner=owner or self.principal.account,
            resource_policy=policy,
            identity_policies=self.identity_policies,
            session_policies=self.session_policies,
            resource_policy_required=required,
            granted=granted,
        )

    def _context(self) -> dict[str, tuple[str, ...]]:
        """The global condition keys of a request ("AWS global condition context keys")."""
        principal, arrival = self.principal, self.arrival
        keys: dict[str, tuple[str, ...]] = {
            "aws:PrincipalArn": (principal.principal_arn,),
            "aws:PrincipalAccount": (principal.account,),
            "aws:PrincipalType": ("User" if self.kind == "IAMUser" else "AssumedRole",),
            "aws:PrincipalIsAWSService": ("false",),
            "aws:userid": (self.user_id,),
            "aws:SecureTransport": ("true",),
            "aws:SourceIp": (arrival.source,),
            "aws:CurrentTime": (arrival.now.strftime("%Y-%m-%dT%H:%M:%SZ"),),
            "aws:EpochTime": (str(int(arrival.now.timestamp())),),
            "aws:RequestedRegion": (arrival.region,),
        }
        if self.kind == "IAMUser":
            keys["aws:username"] = (self.name,)
        return keys


@dataclass(frozen=True, slots=True)
class Credential:
    """An access key as the service knows it."""

    access_key: str
    secret: str
    token: str | None
    expires: datetime | None
    account: str
    user: str | None
    session: Any


def bootstrap(account: str) -> dict[str, str]:
    """Create an account's ``admin`` user with an access key; returns account, access_key and secret_key."""
    backend = iam_backends[account][PARTITION]
    backend.create_user(region_name=PARTITION, user_name="admin")
    backend.put_user_policy("admin", "administrator", json.dumps(ADMIN_POLICY))
    key = backend.create_access_key(user_name="admin")
    key.secret_access_key = secrets.token_urlsafe(30)
    return {"account": account, "access_key": key.access_key_id, "secret_key": key.secret_access_key}


def find_credential(access_key: str) -> Credential | None:
    """The credential of an access key id in any account; None when there is none or it is not active."""
    for account, partitions in list(iam_backends.items()):
        backend = partitions[PARTITION]
        key = backend.access_keys.get(access_key)
        if key is None:
            continue
        session = sts_backends[account][PARTITION].get_assumed_role_from_access_key(access_key)
        if session is not None:
            expires = session.expiration.replace(tzinfo=timezone.utc)
            return Credential(
                access_key, session.secret_access_key, session.session_token, expires, account, None, session
            )
        if key.user_name is None or key.status != "Active":
            return None
        return Credential(access_key, key.secret_access_key, None, None, account, key.user_name, None)
    return None


def caller_of(credential: Credential, arrival: Arrival) -> SignedCaller:
    """The principal behind a credential, its policies and how it came here.

    Raises ServiceError when a policy cannot be read.
    """
    backend = iam_backends[credential.account][PARTITION]
    if credential.user is not None:
        user = backend.get_user(credential.user)
        principal = Principal(user.arn, credential.account, unique_id=user.id)
        documents = [*user.policies.values(), *_attached(user)]
        for group in backend.get_groups_for_user(user.name):
            documents += [*_inline(group), *_attached(group)]
        policies = _parsed(documents)
        return SignedCaller(principal, credential.access_key, "IAMUser", user.name, policies, (), arrival)
    session = credential.session
    role = role_by_arn(session.role_arn)
    if role is None:
        raise ServiceError("AccessDeniedException", "the role of this session was deleted")
    principal = Principal(session.arn, credential.account, role_arn=role.arn, unique_id=role.id)
    return SignedCaller(
        principal,
        credential.access_key,
        "AssumedRole",
        session.session_name,
        _parsed([*role.policies.values(), *_attached(role)]),
        _parsed([session.policy] if session.policy else []),
        arrival,
    )


def _attached(holder: Any) -> list[str]:
    return [policy.document for policy in holder.managed_policies.values()]


def _inline(group: Any) -> list[str]:
    policies = group.policies
    return [item if isinstance(item, str) else item["policy_document"] for item in policies.values()]


def _parsed(documents: list[Any]) -> tuple[Policy, ...]:
    try:
        return tuple(parse_policy(document, kind=PolicyKind.OTHER) for document in documents)
    except PolicyError as error:
        # A policy that cannot be read might hold a Deny: nothing is authorised on a guess.
        raise ServiceError(
            "AccessDeniedException", f"an identity policy cannot be evaluated: {error}", 400
        ) from error


def role_by_arn(arn: str) -> Any | None:
    """moto's role object, or None."""
    match = _ACCOUNT_OF_ARN.fullmatch(arn)
    if match is None or match[1] not in known_accounts():
        return None
    return next((role for role in iam_backends[match[1]][PARTITION].get_roles() if role.arn == arn), None)


def known_accounts() -> set[str]:
    """The accounts that exist here.

    moto makes one up for every number it is asked about; those without a user do not count.
    """
    return {account for account, partitions in list(iam_backends.items()) if partitions[PARTITION].users}


def principal_exists(value: str) -> bool:
    """Whether the principal of a policy names something that exists, as AWS checks when a policy is put."""
    match = _ACCOUNT_OF_ARN.fullmatch(value)
    if match is None:
        return value == "*" or any(value == unique for unique in _unique_ids())
    account, name = match.groups()
    if account not in known_accounts():
        return False
    backend = iam_backends[account][PARTITION]
    if name == "root":
        return True
    if name.startswith("assumed-role/"):
        return any(role.name == name.split("/")[1] for role in backend.get_roles())
    return any(item.arn == value for item in [*backend.get_roles(), *backend.users.values()])


def missing_principal(policy: Policy) -> str | None:
    """The first principal of a policy that does not exist; None when all do."""
    named = (each for statement in policy.statements for each in statement.principals or ())
    return next(
        (each.value for each in named if each.kind == "AWS" and not principal_exists(each.value)), None
    )


def _unique_ids() -> Iterator[str]:
    for account in known_accounts():
        backend = iam_backends[account][PARTITION]
        for item in [*backend.get_roles(), *backend.users.values()]:
            yield item.id
