"""``quorum.toml``: who the members are, how many must agree, and what their statements must show.

The file is data from people who may be attackers until its chain of signatures leads to a pinned root
(``coattest_verify.quorum.members.chain``). Its identity is the SHA-256 of its bytes.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import tomli_w

from coattest.errors import CoattestError, Rejected, UsageError
from coattest.findings import Finding
from coattest.strictjson import Fields
from coattest.text import parse_toml
from coattest_verify.signatures.keys import BadKey, PublicKey, Signer

MEMBERS_FILE = "quorum.toml"
FORMAT = "coattest-quorum/v1"
MEMBERS_TYPE = "application/vnd.coattest.quorum+toml"
"""DSSE payload type of a signature on ``quorum.toml``."""

MAX_MEMBERS_FILE = 1024 * 1024
"""Bytes of ``quorum.toml``; 1,024 members with four keys each have 800 kB."""

MAX_MEMBERS = 1024
MAX_LOG = 1_000_000
"""Entries of a log."""

MAX_KEYS = 4
MAX_GROUPS = 16
MAX_DIVERSITY = 8
"""Different routes or hosts that a members file can ask for."""

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
"""A member or a group; also part of file names."""

ROUND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_SHA256 = re.compile(r"[0-9a-f]{64}")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")

DEFAULT_MAX_AGE_DAYS = 90


@dataclass(frozen=True, slots=True)
class Member:
    """One party that counts once, however many keys it has."""

    name: str
    keys: tuple[PublicKey, ...]


@dataclass(frozen=True, slots=True)
class MemberGroup:
    """``threshold`` of ``parts`` must agree; each part is a member or an earlier group."""

    name: str
    parts: tuple[str, ...]
    threshold: int


@dataclass(frozen=True, slots=True)
class RestartPoint:
    """Where the log goes on after it was lost or forked: how many entries it has, and the tree's root (hex).

    Whoever signs the version that names it says that this is the log so far, whatever another one was.
    """

    size: int
    root: str


@dataclass(frozen=True, slots=True)
class MembersFile:
    """A parsed ``quorum.toml``. ``raw`` are its bytes; everything else follows from them."""

    version: int
    previous: str | None
    expires: datetime
    round: str
    threshold: int
    dissent: str
    members: tuple[Member, ...]
    groups: tuple[MemberGroup, ...] = ()
    max_age_days: int = DEFAULT_MAX_AGE_DAYS
    require_compiled_kernel: bool = True
    routes: int = 1
    """How many different build routes the agreeing members must show."""
    hosts: int = 0
    """How many different hosts the agreeing members must state."""
    commitments: int = 0
    """How many agreeing members must have committed to their result before any result was known."""
    revoke_threshold: int = 1
    """How many members must sign a revocation before a release counts as revoked."""
    reviews: int = 0
    """How many members must have signed a review of the source."""
    change: int = 0
    """How many members must sign the next version; 0 for the default, see ``changing``."""
    restart: RestartPoint | None = None
    """From where the log goes on with this version, under a key of its own; None where it just goes on."""
    raw: bytes = field(default=b"", repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, lower-case hex; version 1's is the root that verifiers pin."""
        return _digest(self.raw)

    @property
    def max_age(self) -> timedelta:
        """How old a statement may be."""
        return timedelta(days=self.max_age_days)

    @property
    def changing(self) -> int:
        """How many members it takes to sign the next version: more than half of them.

        Two sets of so many always have a member in common, so two versions of one number need somebody who
        signed both. By default it is the threshold, or more than half where the threshold is less.
        """
        return self.change or max(self.threshold, len(self.members) // 2 + 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Every member, in the file's order."""
        return tuple(member.name for member in self.members)

    def member(self, name: str) -> Member | None:
        """The member of a name, or None."""
        return next((member for member in self.members if member.name == name), None)

    def owner(self, key: PublicKey) -> str | None:
        """The member whose key this is, or None."""
        return next((member.name for member in self.members if key in member.keys), None)

    def unmet(self, agreeing: Collection[str]) -> tuple[Finding, ...]:
        """Each threshold that the members in ``agreeing`` do not reach; empty when they reach all.

        Monotonic: more members never lack more.
        """
        return self._unmet(agreeing, self.threshold)

    def unmet_change(self, signed: Collection[str]) -> tuple[Finding, ...]:
        """What the members in ``signed`` lack to make another version; monotonic as ``unmet``."""
        return self._unmet(signed, self.changing)

    def _unmet(self, agreeing: Collection[str], wanted: int) -> tuple[Finding, ...]:
        present = set(agreeing) & set(self.names)
        lacks = []
        if len(present) < wanted:
            lacks.append(too_few("too-few-members", len(present), wanted, "members agree"))
        for group in self.groups:
            count = len(present & set(group.parts))
            if count >= group.threshold:
                present.add(group.name)
        within = {part for group in self.groups for part in group.parts}
        for group in self.groups:
            if group.name not in present and group.name not in within:
                count = len(present & set(group.parts))
                lacks.append(too_few("group-unmet", count, group.threshold, f"of group {group.name} agree"))
        return tuple(lacks)

    @classmethod
    def decode(cls, data: bytes) -> MembersFile:
        """Parse ``quorum.toml``; signatures are not checked. Raises Rejected with a ``members-..`` code."""
        try:
            return _read(data)
        except (Rejected, BadKey) as error:
            raise refused_members(error) from None

    @classmethod
    def make(cls, **values: Any) -> MembersFile:
        """A members file from its values, rendered and parsed again: it is valid and has its bytes."""
        return cls.decode(_render(cls(**values)))

    def successor(self, **changes: Any) -> MembersFile:
        """The next version with some values changed; it names this one's digest. The log just goes on."""
        values = {"restart": None, **changes}
        following = replace(
            self, version=self.version + 1, previous=f"sha256:{self.sha256}", raw=b"", **values
        )
        return MembersFile.decode(_render(following))


_CODES = {
    "absent": "members-absent",
    "bad-key": "members-bad-key",
    "malformed": "members-malformed",
    "not-a-file": "members-not-a-file",
    "too-deep": "members-too-deep",
    "too-large": "members-too-large",
    "unknown-field": "members-unknown-field",
}
"""General codes, and their counterparts for the members file, without which nothing is decided."""


def refused_members(error: CoattestError) -> Rejected:
    """The error for a members file whose bytes were rejected, with a ``members-..`` code."""
    return Rejected(error.what, where=MEMBERS_FILE, code=_CODES.get(error.code, error.code))


def own_key(member: str, members: MembersFile, signer: Signer) -> PublicKey:
    """The signer's public key. Raises UsageError unless it is one of the member's in ``members``."""
    key = signer.public
    party = members.member(member)
    if party is None:
        raise UsageError(
            f"{member} is not a member in {MEMBERS_FILE}",
            hint=f"one of {', '.join(members.names)}",
            code="not-a-member",
        )
    if key not in party.keys:
        raise UsageError(
            f"this is not a key of {member} in {MEMBERS_FILE}",
            hint=f"it belongs to {members.owner(key) or 'nobody there'}",
            code="wrong-key",
        )
    return key


@functools.lru_cache(maxsize=64)
def _digest(raw: bytes) -> str:
    """Asked for with every statement."""
    return hashlib.sha256(raw).hexdigest()


def too_few(code: str, count: int, wanted: int, what: str) -> Finding:
    """How a number falls short of what the members file asks for."""
    return Finding(code, MEMBERS_FILE, f"{count} of {wanted} {what}", expected=str(wanted), found=str(count))


def utc(moment: datetime) -> str:
    """RFC 3339 in UTC with seconds, the one form of a time in coattest's files."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_utc(text: str) -> datetime:
    """The time in that form. Raises Rejected for any other form, and for times that do not exist."""
    try:
        if TIME.fullmatch(text):
            year, month, day, hour, minute, second = map(int, re.split("[^0-9]", text[:-1]))
            return datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError:
        pass
    raise Rejected("not a time such as 2026-11-23T12:00:00Z")


def _read(data: bytes) -> MembersFile:
    fields = Fields(parse_toml(data, max_size=MAX_MEMBERS_FILE), "")
    fields.exactly("format", FORMAT)
    version = fields.integer("version", 1)
    members = _members(fields)
    file = MembersFile(
        version=version,
        previous=fields.optional("previous", fields.text, DIGEST),
        expires=_time(fields, "expires"),
        round=fields.text("round", ROUND),
        threshold=fields.integer("threshold", 1, len(members)),
        dissent=fields.choice("dissent", ("block", "report")),
        members=members,
        groups=_groups(fields, [member.name for member in members]),
        max_age_days=fields.integer("max_age_days", 1, 3650),
        require_compiled_kernel=fields.boolean("require_compiled_kernel"),
        routes=fields.optional("routes", fields.integer, 1, MAX_DIVERSITY) or 1,
        hosts=fields.optional("hosts", fields.integer, 0, MAX_DIVERSITY) or 0,
        commitments=fields.optional("commitments", fields.integer, 0, len(members)) or 0,
        revoke_threshold=fields.optional("revoke_threshold", fields.integer, 1, len(members)) or 1,
        reviews=fields.optional("reviews", fields.integer, 0, len(members)) or 0,
        change=fields.optional("change", fields.integer, 1, len(members)) or 0,
        restart=_restart(fields.fields("restart")) if fields.has("restart") else None,
        raw=data,
    )
    fields.done()
    if (file.previous is None) != (version == 1):
        raise Rejected("previous: version 1 has none, every later version names one")
    if file.restart is not None and version == 1:
        raise Rejected("restart: before version 1 there was no log")
    if 2 * file.changing <= len(members):
        raise Rejected(
            f"change: {file.change} of {len(members)} members are not more than half: two versions could be"
            " signed by members of whom nobody signed both",
            code="members-change-too-low",
        )
    return file


def _restart(part: Fields) -> RestartPoint:
    return RestartPoint(part.integer("size", 1, MAX_LOG), part.text("root", _SHA256))


def _members(fields: Fields) -> tuple[Member, ...]:
    found: list[Member] = []
    owner: dict[PublicKey, str] = {}
    for entry in fields.each("members", low=1, high=MAX_MEMBERS):
        name = entry.text("name", NAME)
        keys = []
        for text in entry.items("keys", low=1, high=MAX_KEYS):
            if not isinstance(text, str):
                raise Rejected(f"{entry.at('keys')}: not strings")
            key = PublicKey.from_text(text)
            if key in owner:
                # One person's key under two names would be one person's vote counted twice.
                raise Rejected(f"members {owner[key]} and {name} have the same key", code="members-same-key")
            owner[key] = name
            keys.append(key)
        if any(member.name == name for member in found):
            raise Rejected(f"member {name} is named twice")
        found.append(Member(name, tuple(keys)))
    return tuple(found)


def _groups(fields: Fields, members: list[str]) -> tuple[MemberGroup, ...]:
    known = list(members)
    within = {name: {name} for name in members}
    found = []
    for entry in fields.optional("groups", fields.each, high=MAX_GROUPS) or ():
        name = entry.text("name", NAME)
        parts = entry.items("members", low=1, high=MAX_MEMBERS)
        unknown = [part for part in parts if not isinstance(part, str) or part not in known]
        if unknown or len(set(parts)) != len(parts):
            raise Rejected(f"{entry.at('members')}: not distinct members or groups named before")
        if name in known:
            raise Rejected(f"{entry.at('name')}: {name} is already taken")
        found.append(MemberGroup(name, tuple(parts), entry.integer("threshold", 1, len(parts))))
        known.append(name)
        within[name] = {member for part in parts for member in within[part]}
        if len(within[name]) != sum(len(within[part]) for part in parts):
            # Reached in two ways, one member's vote would count as two of the group's.
            raise Rejected(
                f"{entry.at('members')}: a member is in {name} twice", code="members-counted-twice"
            )
    return tuple(found)


def _time(fields: Fields, name: str) -> datetime:
    value = fields.anything(name)
    if not isinstance(value, datetime) or value.utcoffset() != timedelta(0) or value.microsecond:
        raise Rejected(f"{name}: not a time in UTC with whole seconds, such as 2030-01-31T00:00:00Z")
    return value.astimezone(timezone.utc)


_ALWAYS = ("expires", "round", "threshold", "dissent", "max_age_days", "require_compiled_kernel")
_DEFAULTS = {"routes": 1, "hosts": 0, "commitments": 0, "revoke_threshold": 1, "reviews": 0, "change": 0}
"""Values that every members file has, and the defaults of those that are left out."""


def _render(file: MembersFile) -> bytes:
    values: dict[str, Any] = {"format": FORMAT, "version": file.version}
    if file.previous is not None:
        values["previous"] = file.previous
    values |= {name: getattr(file, name) for name in _ALWAYS}
    values |= {
        name: value for name, default in _DEFAULTS.items() if (value := getattr(file, name)) != default
    }
    if file.restart is not None:
        values["restart"] = asdict(file.restart)
    values["members"] = [
        {"name": member.name, "keys": [key.text for key in member.keys]} for member in file.members
    ]
    if file.groups:
        values["groups"] = [
            {"name": group.name, "members": list(group.parts), "threshold": group.threshold}
            for group in file.groups
        ]
    return tomli_w.dumps(values).encode()
