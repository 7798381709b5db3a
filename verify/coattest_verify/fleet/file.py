"""FLEET.toml: where the documents of a fleet are, and what each must show. Every field has a grammar."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, TypeAlias, TypeVar

from coattest.errors import Rejected, UsageError
from coattest.files import read_whole
from coattest.strictjson import Fields
from coattest.text import parse_toml
from coattest_verify.attestation.limits import SKEW_MAX_MS, USER_DATA_MAX
from coattest_verify.fleet.grammar import PATH, ROLE, duration_of, releases_of, texts_of
from coattest_verify.fleet.keys import WatchedAudit, WatchedPolicy, audit_from, policy_from
from coattest_verify.quorum.members.file import NAME

FORMAT: Final = "coattest-fleet/v1"
MAX_FLEET_FILE: Final = 4 * 1024 * 1024
"""Bytes: 16,384 hosts of 253 characters."""

MAX_SOURCES: Final = 64
"""Sources, and as many key policies and audits."""

MAX_ENCLAVES: Final = 16_384
"""Enclaves of all sources together: as many as a folder has files at most."""

NONCE_DEFAULT: Final = 20
"""Bytes of a nonce: what nitriding takes, no more and no less (attestation.go, nonceLen)."""

_NAMED_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9a-fA-F:.]{2,45}\])(?::[0-9]{1,5})?"
_HOST = re.compile(_NAMED_HOST)
_URL = re.compile(
    rf"https?://(?:{_NAMED_HOST}|\{{host\}}(?::[0-9]{{1,5}})?)/(?:[!$-z|~]|\{{nonce\}}){{0,1000}}"
)
_ID = re.compile(r"i-[0-9a-f]{8,17}(?:-enc[0-9a-f]{8,32})?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_STACK = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]{1,12}){1,3}-[0-9]")
_USER_DATA = re.compile(r"null|(?:[0-9a-f]{2})+")


@dataclass(frozen=True, slots=True)
class InFiles:
    """Documents that somebody puts into a file, or into the files of a folder."""

    kind: ClassVar = "file"
    path: Path


@dataclass(frozen=True, slots=True)
class OverHttp:
    """Documents that enclaves answer with: ``{nonce}`` in ``url`` is hex, ``{host}`` each of ``hosts``."""

    kind: ClassVar = "http"
    url: str
    hosts: tuple[str, ...]
    nonce_bytes: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class InBucket:
    """Documents that the instances of an Auto Scaling group put into S3: ``stack`` is the group's name."""

    kind: ClassVar = "s3-live"
    bucket: str
    stack: str
    region: str


Reach: TypeAlias = InFiles | OverHttp | InBucket


@dataclass(frozen=True, slots=True)
class FleetSource:
    """One group of enclaves. ``count`` is how many must answer; ``ids`` which instances or modules, if told.

    Those of an Auto Scaling group are told at each look. ``user_data`` is None where any is accepted, and
    empty where it must be null. Times are milliseconds.
    """

    name: str
    reach: Reach
    releases: tuple[str, ...]
    count: int
    ids: tuple[str, ...]
    max_age_ms: int
    skew_ms: int
    boot_ms: int
    role_arn: str
    user_data: bytes | None


Part = TypeVar("Part", FleetSource, WatchedPolicy, WatchedAudit)


@dataclass(frozen=True, slots=True)
class FleetFile:
    """What a FLEET.toml has: at least one of all that can be watched."""

    sources: tuple[FleetSource, ...]
    policies: tuple[WatchedPolicy, ...]
    audits: tuple[WatchedAudit, ...]

    @property
    def releases(self) -> list[str]:
        """Every release that is named, in order."""
        parts: tuple[FleetSource | WatchedPolicy | WatchedAudit, ...]
        parts = (*self.sources, *self.policies, *self.audits)
        return sorted({name for part in parts for name in part.releases})


def load_fleet(path: Path) -> FleetFile:
    """What a FLEET.toml says. Raises UsageError (``malformed``), and OSError."""
    try:
        fields = Fields(parse_toml(read_whole(path, MAX_FLEET_FILE), max_size=MAX_FLEET_FILE), "")
        fields.exactly("format", FORMAT)
        found = FleetFile(
            _parts(fields, "source", _source, path.parent),
            _parts(fields, "policy", policy_from, path.parent),
            _parts(fields, "audit", audit_from, path.parent),
        )
        fields.done()
        if not (found.sources or found.policies or found.audits):
            raise Rejected("source: missing, and neither a policy nor an audit is there")
        if sum(source.count for source in found.sources) > MAX_ENCLAVES:
            raise Rejected(f"more than {MAX_ENCLAVES} enclaves")
    except Rejected as error:
        raise UsageError(
            error.what, where=str(path), hint="docs/fleet.md has every field", code="malformed"
        ) from None
    return found


def _parts(fields: Fields, name: str, read: Callable[[Fields, Path], Part], base: Path) -> tuple[Part, ...]:
    """The tables of one kind, whose names differ. Raises Rejected."""
    items = fields.optional(name, fields.items, low=1, high=MAX_SOURCES) or []
    parts = tuple(read(Fields(item, f"{name}[{index}]"), base) for index, item in enumerate(items))
    if len({part.name for part in parts}) != len(parts):
        raise Rejected(f"{name}: two have the same name")
    return parts


def _source(fields: Fields, base: Path) -> FleetSource:
    kind = fields.choice("kind", (InFiles.kind, OverHttp.kind, InBucket.kind))
    reach: Reach
    ids: tuple[str, ...] = ()
    least = 0
    if kind == InFiles.kind:
        reach = InFiles(base / fields.text("path", PATH))
    elif kind == OverHttp.kind:
        reach = _over_http(fields)
        least = len(reach.hosts)
    else:
        reach = InBucket(
            fields.text("bucket", _BUCKET), fields.text("stack", _STACK), fields.text("region", _REGION)
        )
        least = 1
    if kind != InBucket.kind:
        ids = texts_of(fields, "ids", _ID, MAX_ENCLAVES)
    if kind != OverHttp.kind:
        given = fields.optional("count", fields.integer, 1, MAX_ENCLAVES)
        least = given or least or len(ids)
    if not least:
        raise Rejected(f"{fields.at('count')}: how many there must be is not said, by count or ids")
    skew = duration_of(fields, "clock-skew", "60s")
    if skew > SKEW_MAX_MS:
        raise Rejected(f"{fields.at('clock-skew')}: more than {SKEW_MAX_MS // 1000} seconds")
    role = fields.optional("role-arn", fields.text, ROLE) or ""
    if kind == InBucket.kind and not role:
        raise Rejected(f"{fields.at('role-arn')}: missing, and documents in a bucket prove themselves by it")
    user_data: str | None = None
    if kind != InBucket.kind:
        user_data = fields.optional("user-data", fields.text, _USER_DATA, limit=2 * USER_DATA_MAX)
    source = FleetSource(
        fields.text("name", NAME),
        reach,
        releases_of(fields),
        least,
        ids,
        duration_of(fields, "max-age", "3m"),
        skew,
        duration_of(fields, "boot", "10m"),
        role,
        None if user_data is None else b"" if user_data == "null" else bytes.fromhex(user_data),
    )
    fields.done()
    return source


def _over_http(fields: Fields) -> OverHttp:
    url = fields.text("url", _URL, limit=2048)
    hosts = texts_of(fields, "hosts", _HOST, MAX_ENCLAVES)
    if url.count("{nonce}") != 1:
        raise Rejected(f"{fields.at('url')}: {{nonce}} is not there exactly once")
    if ("{host}" in url) != bool(hosts):
        raise Rejected(f"{fields.at('hosts')}: goes with {{host}} in url, and {{host}} with hosts")
    if "{host}:" in url and any(re.search(r":[0-9]+$", host) for host in hosts):
        raise Rejected(f"{fields.at('hosts')}: a port is in url already")
    return OverHttp(
        url,
        hosts or (re.split("[/]+", url)[1],),
        fields.optional("nonce-bytes", fields.integer, 16, 64) or NONCE_DEFAULT,
        duration_of(fields, "timeout", "10s"),
    )
