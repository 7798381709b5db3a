"""What FLEET.toml says of buyers' keys: the policy that each must have, and the trail of its use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coattest.errors import Rejected
from coattest.strictjson import Fields
from coattest_verify.fleet.grammar import PATH, ROLE, duration_of, releases_of, texts_of
from coattest_verify.quorum.members.file import NAME

MAX_PRINCIPALS: Final = 64
"""Principals, or pairs of a context, of one key: a key policy has 32 KB."""

_KEY = re.compile(r"arn:aws[a-z-]{0,16}:kms:[a-z0-9-]{1,32}:[0-9]{12}:key/[0-9A-Za-z-]{1,64}")
_PRINCIPAL = re.compile(
    r"arn:aws[a-z-]{0,16}:iam::[0-9]{12}:(?:root|(?:role|user)/[A-Za-z0-9+=,.@/_-]{1,512})"
)
_PAIR = re.compile(r"[!-<>-~]{1,128}=[ -~]{1,1024}")
_REGISTER = re.compile(r"[0-9]{1,2}=[0-9a-f]{96}")
_ALIAS = re.compile(r"alias/[A-Za-z0-9/_-]{1,250}")
_ACCOUNT = re.compile(r"[0-9]{12}")


@dataclass(frozen=True, slots=True)
class WatchedPolicy:
    """A buyer's key, or a file with its policy (``key`` is empty then), and what the policy is made from."""

    name: str
    key: str
    file: Path | None
    account: str
    member: str
    releases: tuple[str, ...]
    parent_roles: tuple[str, ...]
    administrators: tuple[str, ...]
    encrypters: tuple[str, ...]
    break_glass: str | None
    seal_key: Path | None
    context: tuple[str, ...]
    registers: tuple[str, ...]
    aliases: tuple[str, ...]
    boot_ms: int

    @property
    def place(self) -> str:
        """Where the policy is."""
        return self.key or str(self.file)


@dataclass(frozen=True, slots=True)
class WatchedAudit:
    """The trail of a buyer's key: its logs (``s3://..``, or a path), and what each Decrypt must be.

    The digests must show that the logs are complete for ``window_ms`` up to ``max_age_ms`` ago.
    """

    name: str
    key: str
    logs: str
    public_keys: Path | None
    member: str | None
    releases: tuple[str, ...]
    parent_roles: tuple[str, ...]
    context: tuple[str, ...]
    window_ms: int
    max_age_ms: int
    every_ms: int
    boot_ms: int


def policy_from(fields: Fields, base: Path) -> WatchedPolicy:
    """A ``[[policy]]``. Raises Rejected."""
    key = fields.optional("key", fields.text, _KEY) or ""
    file = _path(fields, "file", base)
    if bool(key) == bool(file):
        raise Rejected(f"{fields.at('key')}: either it or file says which policy")
    account = key.split(":")[4] if key else fields.text("account", _ACCOUNT)
    found = WatchedPolicy(
        fields.text("name", NAME),
        key,
        file,
        account,
        fields.text("member", NAME),
        releases_of(fields),
        texts_of(fields, "parent-roles", ROLE, MAX_PRINCIPALS),
        texts_of(fields, "administrators", _PRINCIPAL, MAX_PRINCIPALS),
        texts_of(fields, "encrypters", _PRINCIPAL, MAX_PRINCIPALS),
        fields.optional("break-glass", fields.text, _PRINCIPAL),
        _path(fields, "seal-key", base),
        texts_of(fields, "context", _PAIR, MAX_PRINCIPALS),
        texts_of(fields, "registers", _REGISTER, MAX_PRINCIPALS),
        texts_of(fields, "aliases", _ALIAS, MAX_PRINCIPALS) if key else (),
        duration_of(fields, "boot", "10m"),
    )
    fields.done()
    return found


def audit_from(fields: Fields, base: Path) -> WatchedAudit:
    """An ``[[audit]]``. Raises Rejected."""
    logs = fields.text("logs", PATH)
    found = WatchedAudit(
        fields.text("name", NAME),
        fields.text("key", _KEY),
        logs if logs.startswith("s3://") else str(base / logs),
        _path(fields, "public-keys", base),
        fields.optional("member", fields.text, NAME),
        releases_of(fields),
        texts_of(fields, "parent-roles", ROLE, MAX_PRINCIPALS),
        texts_of(fields, "context", _PAIR, MAX_PRINCIPALS),
        duration_of(fields, "window", "24h"),
        duration_of(fields, "max-age", "3h"),
        duration_of(fields, "every", "1h"),
        duration_of(fields, "boot", "10m"),
    )
    fields.done()
    if not found.parent_roles:
        raise Rejected(f"{fields.at('parent-roles')}: missing")
    if not found.window_ms:
        raise Rejected(f"{fields.at('window')}: no time at all")
    return found


def _path(fields: Fields, name: str, base: Path) -> Path | None:
    given = fields.optional(name, fields.text, PATH)
    return base / given if given else None
