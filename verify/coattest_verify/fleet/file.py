"""FLEET.toml: where the documents of a fleet are, and what each must show. Every field has a grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, TypeAlias

from coattest.errors import Rejected, UsageError
from coattest.files import read_whole
from coattest.strictjson import Fields
from coattest.text import parse_toml
from coattest_verify.attestation.limits import SKEW_MAX_MS, USER_DATA_MAX
from coattest_verify.quorum.members.file import NAME
from coattest_verify.quorum.statements.claim import RELEASE

FORMAT: Final = "coattest-fleet/v1"
MAX_FLEET_FILE: Final = 4 * 1024 * 1024
"""Bytes: 16,384 hosts of 253 characters."""

MAX_SOURCES: Final = 64
MAX_ENCLAVES: Final = 16_384
"""Enclaves of all sources together: as many as a folder has files at most."""

MAX_EXPECTED_RELEASES: Final = 16
"""Releases that one source may run at a time; during an upgrade there are two."""

MAX_DURATION_MS: Final = 30 * 24 * 3600 * 1000
NONCE_DEFAULT: Final = 20
"""Bytes of a nonce: what nitriding takes, no more and no less (attestation.go, nonceLen)."""

_DURATION = re.compile(r"(0|[1-9][0-9]{0,6})(s|m|h|)")
_UNITS: Final = {"": 1000, "s": 1000, "m": 60_000, "h": 3_600_000}
_NAMED_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9a-fA-F:.]{2,45}\])(?::[0-9]{1,5})?"
_HOST = re.compile(_NAMED_HOST)
_URL = re.compile(
    rf"https?://(?:{_NAMED_HOST}|\{{host\}}(?::[0-9]{{1,5}})?)/(?:[!$-z|~]|\{{nonce\}}){{0,1000}}"
)
_PATH = re.compile(r"[^\x00-\x1f\x7f]{1,1000}")
_ROLE = re.compile(r"arn:aws[a-z-]{0,16}:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_-]{1,64}")
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


def load_fleet(path: Path) -> tuple[FleetSource, ...]:
    """The sources of a FLEET.toml. Raises UsageError (``malformed``), and OSError."""
    try:
        fields = Fields(parse_toml(read_whole(path, MAX_FLEET_FILE), max_size=MAX_FLEET_FILE), "")
        fields.exactly("format", FORMAT)
        items = fields.items("source", low=1, high=MAX_SOURCES)
        sources = tuple(
            _source(Fields(item, f"source[{index}]"), path.parent) for index, item in enumerate(items)
        )
        fields.done()
        if len({source.name for source in sources}) != len(sources):
            raise Rejected("source: two have the same name")
        if sum(source.count for source in sources) > MAX_ENCLAVES:
            raise Rejected(f"more than {MAX_ENCLAVES} enclaves")
    except Rejected as error:
        raise UsageError(
            error.what, where=str(path), hint="docs/fleet.md has every field", code="malformed"
        ) from None
    return sources


def duration_ms(text: str) -> int:
    """Milliseconds of ``90``, ``90s``, ``2m`` or ``1h``. Raises Rejected."""
    found = _DURATION.fullmatch(text)
    if found is None or int(found[1]) * _UNITS[found[2]] > MAX_DURATION_MS:
        raise Rejected(f"{ascii(text)[:40]} is not a time such as 90s, 2m or 1h, of 30 days at most")
    return int(found[1]) * _UNITS[found[2]]


def _source(fields: Fields, base: Path) -> FleetSource:
    kind = fields.choice("kind", (InFiles.kind, OverHttp.kind, InBucket.kind))
    reach: Reach
    ids: tuple[str, ...] = ()
    least = 0
    if kind == InFiles.kind:
        reach = InFiles(base / fields.text("path", _PATH))
    elif kind == OverHttp.kind:
        reach = _over_http(fields)
        least = len(reach.hosts)
    else:
        reach = InBucket(
            fields.text("bucket", _BUCKET), fields.text("stack", _STACK), fields.text("region", _REGION)
        )
        least = 1
    if kind != InBucket.kind:
        ids = _texts(fields, "ids", _ID, MAX_ENCLAVES)
    if kind != OverHttp.kind:
        given = fields.optional("count", lambda name: fields.integer(name, 1, MAX_ENCLAVES))
        least = given or least or len(ids)
    if not least:
        raise Rejected(f"{fields.at('count')}: how many there must be is not said, by count or ids")
    skew = _duration(fields, "clock-skew", "60s")
    if skew > SKEW_MAX_MS:
        raise Rejected(f"{fields.at('clock-skew')}: more than {SKEW_MAX_MS // 1000} seconds")
    role = fields.optional("role-arn", lambda name: fields.text(name, _ROLE)) or ""
    if kind == InBucket.kind and not role:
        raise Rejected(f"{fields.at('role-arn')}: missing, and documents in a bucket prove themselves by it")
    user_data: str | None = None
    if kind != InBucket.kind:
        user_data = fields.optional(
            "user-data", lambda name: fields.text(name, _USER_DATA, limit=2 * USER_DATA_MAX)
        )
    source = FleetSource(
        fields.text("name", NAME),
        reach,
        _texts(fields, "releases", RELEASE, MAX_EXPECTED_RELEASES),
        least,
        ids,
        _duration(fields, "max-age", "3m"),
        skew,
        _duration(fields, "boot", "10m"),
        role,
        None if user_data is None else b"" if user_data == "null" else bytes.fromhex(user_data),
    )
    fields.done()
    if not source.releases:
        raise Rejected(f"{fields.at('releases')}: missing")
    return source


def _over_http(fields: Fields) -> OverHttp:
    url = fields.text("url", _URL, limit=2048)
    hosts = _texts(fields, "hosts", _HOST, MAX_ENCLAVES)
    if url.count("{nonce}") != 1:
        raise Rejected(f"{fields.at('url')}: {{nonce}} is not there exactly once")
    if ("{host}" in url) != bool(hosts):
        raise Rejected(f"{fields.at('hosts')}: goes with {{host}} in url, and {{host}} with hosts")
    if "{host}:" in url and any(re.search(r":[0-9]+$", host) for host in hosts):
        raise Rejected(f"{fields.at('hosts')}: a port is in url already")
    return OverHttp(
        url,
        hosts or (re.split("[/]+", url)[1],),
        fields.optional("nonce-bytes", lambda name: fields.integer(name, 16, 64)) or NONCE_DEFAULT,
        _duration(fields, "timeout", "10s"),
    )


def _texts(fields: Fields, name: str, pattern: re.Pattern[str], high: int) -> tuple[str, ...]:
    """The texts of an optional array, each once."""
    values = fields.optional(name, lambda name: fields.items(name, low=1, high=high)) or []
    for value in values:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise Rejected(f"{fields.at(name)}: {ascii(value)[:80]} does not have the form {pattern.pattern}")
    if len(set(values)) != len(values):
        raise Rejected(f"{fields.at(name)}: one is there twice")
    return tuple(values)


def _duration(fields: Fields, name: str, default: str) -> int:
    text = fields.optional(name, lambda name: fields.text(name, limit=16)) or default
    try:
        return duration_ms(text)
    except Rejected as error:
        raise Rejected(f"{fields.at(name)}: {error.what}") from None
