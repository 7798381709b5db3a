"""KMS keys: finding them across accounts, and their condition keys. moto holds the keys."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moto.kms.models import kms_backends

from coattest_local.aws.accounts import SignedCaller, known_accounts
from coattest_local.aws.http import ServiceError
from coattest_verify.keypolicy.iam import Policy, parse_policy

_KEY_ARN = re.compile(
    r"arn:aws:kms:([a-z0-9-]+):(\d{12}):(key/(?:mrk-)?[0-9a-f-]{32,40}|alias/[A-Za-z0-9/_-]+)"
)
_KEY_ID = re.compile(r"(?:mrk-)?[0-9a-f-]{32,40}")

MAX_CONTEXT = 8192
"""Bytes of an encryption context's keys and values together (KMS Developer Guide, "Encryption context")."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the account that owns it. ``state`` is moto's own object."""

    arn: str
    owner: str
    region: str
    state: Any
    alias: str | None = None

    @property
    def policy(self) -> Policy:
        """The key policy, parsed. It was valid when it was put."""
        return parsed(self.state.policy)


@functools.lru_cache(maxsize=256)
def parsed(text: str) -> Policy:
    """A key policy, parsed once."""
    return parse_policy(text)


def find(key_id: Any, caller: SignedCaller) -> Key:
    """The key that an id, ARN, alias or alias ARN names. Raises ServiceError (NotFoundException)."""
    if not isinstance(key_id, str) or not 1 <= len(key_id) <= 2048:
        raise ServiceError("ValidationException", "KeyId is a string of 1 to 2048 characters")
    owner, name, region = caller.principal.account, key_id, caller.arrival.region
    match = _KEY_ARN.fullmatch(key_id)
    if match:
        if match[1] != region:
            raise ServiceError("NotFoundException", f"Invalid arn {match[1]}")
        owner, name = match[2], match[3]
    elif key_id.startswith("arn:"):
        raise ServiceError("NotFoundException", f"Invalid arn {key_id}")
    identifier = name.removeprefix("key/")
    alias = name if name.startswith("alias/") else None
    state = None
    if owner in known_accounts():
        backend = kms_backends[owner][region]
        if alias:
            state = next((key for key in list(backend.keys.values()) if alias in key.aliases), None)
        elif _KEY_ID.fullmatch(identifier):
            state = backend.keys.get(identifier)
    if state is None:
        what = f"Alias {alias}" if alias else f"Key 'arn:aws:kms:{region}:{owner}:key/{identifier}'"
        if owner != caller.principal.account:
            raise not_here(caller, key_id)
        raise ServiceError("NotFoundException", f"{what} does not exist")
    return Key(state.arn, owner, region, state, alias)


def not_here(caller: SignedCaller, key_id: str) -> ServiceError:
    """The error for another account's key: the same whether it is missing or closed to the caller."""
    return ServiceError(
        "AccessDeniedException",
        f"User: {caller.principal.arn} is not authorized to access {key_id} because the resource does not "
        "exist in this Region, no resource-based policies allow access, or a resource-based policy "
        "explicitly denies access",
    )


def usable(key: Key) -> None:
    """Raise what KMS raises when a key's state forbids cryptographic operations ("Key states of AWS KMS
    keys").
    """
    if key.state.origin != "AWS_KMS":
        raise ServiceError("KMSInvalidStateException", f"{key.arn} is pending import.")
    if key.state.key_state == "Disabled":
        raise ServiceError("DisabledException", f"{key.arn} is disabled.")
    if key.state.key_state != "Enabled":
        raise ServiceError("KMSInvalidStateException", f"{key.arn} is pending deletion.")


def requested_context(parameters: Mapping[str, Any], name: str = "EncryptionContext") -> dict[str, str]:
    """The encryption context of a request. Raises ServiceError (ValidationException)."""
    raw = parameters.get(name) or {}
    if not isinstance(raw, dict) or not all(isinstance(value, str) and key for key, value in raw.items()):
        raise ServiceError("ValidationException", f"{name} maps strings to strings")
    if sum(len(key.encode()) + len(value.encode()) for key, value in raw.items()) > MAX_CONTEXT:
        raise ServiceError("ValidationException", f"{name} is longer than {MAX_CONTEXT} bytes")
    if len({key.lower() for key in raw}) != len(raw):
        # AWS allows it and warns of it ("do not use multiple encryption context pairs that differ only by
        # case"); what a policy condition sees then is not documented, so it is refused here.
        raise ServiceError("ValidationException", f"{name} has keys that differ only in case: not emulated")
    return dict(raw)


def context_keys(context: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The condition keys of an encryption context ("kms:EncryptionContext:context-key", "..ContextKeys")."""
    keys = {f"kms:EncryptionContext:{key}": (value,) for key, value in context.items()}
    return {**keys, "kms:EncryptionContextKeys": tuple(context)}


def key_keys(key: Key, caller: SignedCaller) -> dict[str, tuple[str, ...]]:
    """The condition keys that describe the key, and kms:CallerAccount ("AWS KMS condition keys")."""
    return {
        "kms:CallerAccount": (caller.principal.account,),
        "kms:KeySpec": (key.state.key_spec,),
        "kms:KeyUsage": (key.state.key_usage,),
        "kms:KeyOrigin": (key.state.origin,),
        "kms:MultiRegion": ("true" if key.state.multi_region else "false",),
        "kms:ResourceAliases": tuple(key.state.aliases),
        "kms:RequestAlias": (key.alias,) if key.alias else (),
    }
